"""Dagwall: a network firewall and flight recorder for Apache Airflow tasks, in the Linux kernel."""

__version__ = "0.1.0"
