"""How Airflow writes an id into a label: lossy, hashed, and not injective (airflow.md 1.2)."""

from __future__ import annotations

import hashlib
import re

MAX_LABEL = 63
_ILLEGAL = re.compile(r"[^a-zA-Z0-9_\-.]")


def safe_label_value(text: str) -> str:
    """The label value that Airflow's `make_safe_label_value` makes of an id.

    Equal results do not mean equal ids: the DAG `private_dag-c80656058` has the label of `_private_dag`.
    Airflow's own regular expression takes quadratic time on long runs of dashes; this one is linear.
    Source: airflow/providers/cncf/kubernetes/pod_generator.py.
    """
    safe = _ILLEGAL.sub("", text).strip("_-.")
    if safe == text and len(safe) <= MAX_LABEL:
        return safe
    digest = hashlib.md5(text.encode("utf-8", "surrogatepass"), usedforsecurity=False).hexdigest()[:9]
    return f"{safe[: MAX_LABEL - len(digest) - 1]}-{digest}"
