"""Two tasks, both verdicts: `extract` reaches its database, `leak` is refused an address of the world."""

from __future__ import annotations

import socket

from airflow.decorators import dag, task


@dag(schedule=None, catchup=False)
def simple_etl() -> None:
    @task
    def extract() -> str:
        with socket.create_connection(("airflow-postgresql.airflow.svc", 5432), timeout=30):
            return "connected"

    @task
    def leak() -> str:
        try:
            with socket.create_connection(("203.0.113.66", 80), timeout=30):
                raise RuntimeError("this should have been refused")
        except PermissionError as exc:
            return f"refused: {exc}"

    extract() >> leak()


simple_etl()
