"""`make demo`: a scratch node with real Airflow pods, real servers and real packets, under the real agent."""
