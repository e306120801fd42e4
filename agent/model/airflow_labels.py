"""How Airflow writes an id into a label: lossy, hashed, and not injective (docs/airflow.md 2)."""

from __future__ import annotations

import hashlib
import re
import string
from functools import lru_cache

MAX_LABEL = 63
_LEGAL = frozenset(f"{string.ascii_letters}{string.digits}_-.")
_ILLEGAL = re.compile(r"[^a-zA-Z0-9_\-.]")
_HASH = re.compile(r"-[0-9a-f]{9}")
_HASH_LENGTH = 10


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


def may_be_hashed(label: str) -> bool:
    """Does it end as the labels of ids do that Airflow could not write as they are? Plain ids may end so as well."""
    return _HASH.fullmatch(label[-_HASH_LENGTH:]) is not None


def might_stand_for(label: str, pattern: str) -> bool:
    """Is there perhaps an id with this hashed label that the pattern matches (`*`: any run of characters)?

    What Airflow drops may have stood anywhere, other signs at both ends, and of a long id the rest is not known.
    """
    stem = label[:-_HASH_LENGTH]
    end, is_cut = len(stem), len(stem) >= MAX_LABEL - _HASH_LENGTH
    places, at, every = _places(stem), 1, (2 << end) - 1  # `at`, bit i: the pattern so far may have come to i
    for sign in pattern:
        if sign == "*":
            at = every & -(at & -at)
        elif sign in _LEGAL:
            stays = (1 << end if is_cut or not sign.isalnum() else 0) | (0 if sign.isalnum() else 1)
            at = (at & places.get(sign, 0)) << 1 | (at & stays)
        if not at:
            return False
    return bool(at >> end & 1)


@lru_cache(maxsize=1024)
def _places(stem: str) -> dict[str, int]:
    """Of each sign: bit i, where it stands at i."""
    places: dict[str, int] = {}
    for i, sign in enumerate(stem):
        places[sign] = places.get(sign, 0) | 1 << i
    return places
