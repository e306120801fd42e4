"""Who a pod claims to be (I1, I2): a Pod manifest in, a model.identity.Claim out.

Everything below `metadata.labels` and `metadata.annotations` is the author's to choose (docs/airflow.md 3); the claim
shows doubt as `ambiguous`, `contradictions` and its attestation; it never takes one of two values silently.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import replace
from functools import lru_cache

from agent.model.airflow_labels import safe_label_value
from agent.model.identity import Claim, Identity, Kind
from agent.parse.fields import Field

MAX_NAME = 253
MAX_LABEL_KEY = MAX_NAME + 64  # prefix, slash, name
MAX_LABEL_VALUE = 63
MAX_ANNOTATIONS_BYTES = 256 * 1024  # apimachinery, TotalAnnotationSizeLimitB
MAX_ID = 250
MAX_CONTRADICTIONS = 16
_LEGAL_ID = re.compile(rf"[\w.-]{{1,{MAX_ID}}}")
_IDS = ("dag_id", "task_id")
_FACTS = ("run_id", "try_number", "map_index")
_MARKERS = {  # the first that a pod carries decides
    "kubernetes_pod_operator": Kind.KUBERNETES_POD_OPERATOR,
    "spark_kubernetes_operator": Kind.SPARK_OPERATOR,
    "kubernetes_executor": Kind.KUBERNETES_EXECUTOR,
}


def parse_claim(pod: Field, *, cluster: str) -> Claim:
    """The claim of a pod at this moment. `pod` is the whole manifest."""
    metadata, spec = pod.child("metadata"), pod.child("spec")
    pairs = parse_labels(metadata.child("labels"))
    labels = dict(pairs)
    annotations = parse_annotations(metadata.child("annotations"))
    kind = _kind(labels, annotations)
    ids, from_labels, stories = _told(kind, labels, annotations)
    identity = Identity(
        cluster=cluster,
        namespace=parse_name(metadata.child("namespace"), default="default"),
        service_account=_service_account(spec),
        dag_id=ids.get("dag_id", ""),
        task_id=ids.get("task_id", ""),
        kind=kind,
        ambiguous=from_labels,
    )
    return Claim(
        identity=identity,
        labels=pairs,
        run_id=ids.get("run_id", ""),
        try_number=ids.get("try_number", ""),
        map_index=ids.get("map_index", ""),
        contradictions=tuple(stories)[:MAX_CONTRADICTIONS],
    )


def keep_first(first: Claim, now: Claim) -> Claim:
    """The claim in force for a uid: the first, with a sentence for everything that `now` would have changed (I2)."""
    changed = [
        f"{name} would have changed from {_shown(was)} to {_shown(is_)} after first sight"
        for name, was, is_ in _differences(first.identity, now.identity)
    ]
    new = tuple(sentence for sentence in changed if sentence not in first.contradictions)
    if not new or len(first.contradictions) >= MAX_CONTRADICTIONS:
        return first
    return replace(first, contradictions=(first.contradictions + new)[:MAX_CONTRADICTIONS])


@lru_cache(maxsize=1 << 14)
def _shared(key: str, value: str) -> tuple[str, str]:
    """One object for a label that many pods have: ten thousand pods are many labels and few different ones."""
    return key, value


def parse_labels(labels: Field) -> tuple[tuple[str, str], ...]:
    """Labels, sorted, within the lengths that Kubernetes allows."""
    pairs = labels.string_map()
    for key, value in pairs:
        if len(key) > MAX_LABEL_KEY:
            raise labels.error(f"key {_shown(key)} has more than {MAX_LABEL_KEY} characters")
        if len(value) > MAX_LABEL_VALUE:
            raise labels.child(key).error(f"has more than {MAX_LABEL_VALUE} characters: {_shown(value)}")
    return tuple(_shared(key, value) for key, value in pairs)


def parse_annotations(annotations: Field) -> dict[str, str]:
    """Annotations, together no longer than Kubernetes allows."""
    pairs = dict(annotations.string_map())
    total = sum(len(key) + len(value) for key, value in pairs.items())
    if total > MAX_ANNOTATIONS_BYTES:
        raise annotations.error(f"together they may have {MAX_ANNOTATIONS_BYTES} bytes, not {total} or more")
    return pairs


def parse_name(name: Field, default: str | None = None) -> str:
    """The name of an object or namespace, checked only as far as dagwall depends on it."""
    value = name.string(default)
    if not 0 < len(value) <= MAX_NAME:
        raise name.error(f"must have 1 to {MAX_NAME} characters, not {len(value)}")
    if not value.isprintable() or "/" in value or " " in value:
        raise name.error(f"{_shown(value)} is no name")
    return value


def _kind(labels: Mapping[str, str], annotations: Mapping[str, str]) -> Kind:
    """Airflow sets its KubernetesPodOperator labels last, so that one cannot be faked by the operator's arguments."""
    for marker, kind in _MARKERS.items():
        if labels.get(marker) == "True":
            return kind
    if all(key in annotations for key in _IDS):
        return Kind.KUBERNETES_EXECUTOR
    if labels.get("tier") == "airflow" and labels.get("component"):
        return Kind.COMPONENT
    return Kind.OTHER


def _told(
    kind: Kind, labels: Mapping[str, str], annotations: Mapping[str, str]
) -> tuple[dict[str, str], bool, list[str]]:
    """Ids and facts; whether an id comes from a label; sentences about what does not fit together."""
    if kind in (Kind.COMPONENT, Kind.OTHER):
        return {}, False, []
    stories = list(_marker_stories(labels)) + list(_text_stories(labels, annotations))
    ids = {key: labels.get(key, "") for key in _IDS + _FACTS}
    if kind is not Kind.KUBERNETES_EXECUTOR:
        return ids, True, stories
    told = {key: annotations[key][:MAX_ID] for key in _FACTS if key in annotations}
    told |= {key: annotations[key] for key in _IDS if _LEGAL_ID.fullmatch(annotations.get(key, ""))}
    return ids | told, not all(key in told for key in _IDS), stories


def _marker_stories(labels: Mapping[str, str]) -> Iterable[str]:
    markers = [marker for marker in _MARKERS if labels.get(marker) == "True"]
    if len(markers) > 1:
        yield f"labels {' and '.join(markers)} exclude one another"
    if markers and labels.get("tier") == "airflow" and labels.get("component", "worker") != "worker":
        yield f"label component {_shown(labels['component'])} on a pod with {markers[0]}"


def _text_stories(labels: Mapping[str, str], annotations: Mapping[str, str]) -> Iterable[str]:
    for key in _IDS + _FACTS:
        text = annotations.get(key)
        if text is None:
            continue
        if key in _IDS and not _LEGAL_ID.fullmatch(text):
            yield f"annotation {key} {_shown(text)} is no id that Airflow allows"
        elif key not in labels:
            yield f"annotation {key} {_shown(text)} has no label beside it"
        elif labels[key] != safe_label_value(text):
            yield f"annotation {key} {_shown(text)} does not make label {_shown(labels[key])}"


def _service_account(spec: Field) -> str:
    name = spec.child("serviceAccountName")
    if not name.value:
        name = spec.child("serviceAccount")  # deprecated alias, which the API server still fills in
    return parse_name(name) if name.value else "default"


def _differences(first: Identity, now: Identity) -> Iterable[tuple[str, str, str]]:
    for name in ("cluster", "namespace", "service_account", "kind", "dag_id", "task_id"):
        was, is_ = getattr(first, name), getattr(now, name)
        if was != is_:
            yield name, getattr(was, "value", was), getattr(is_, "value", is_)


def _shown(text: str) -> str:
    return repr(text if len(text) <= 80 else f"{text[:77]}...")
