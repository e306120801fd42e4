"""The CRDs are made from the validator's tables, and the manifests hold what is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from agent.parse.definitions import definitions
from scripts import dashboards, man
from scripts.manifests import BASE, CHART, PROMETHEUS, ROOT, texts


def schemas(schema: dict[str, Any], path: str = "") -> Iterator[tuple[str, dict[str, Any]]]:
    yield path, schema
    for name, below in schema.get("properties", {}).items():
        yield from schemas(below, f"{path}.{name}")
    if isinstance(schema.get("items"), dict):
        yield from schemas(schema["items"], f"{path}[]")


def test_the_files_are_what_the_tables_make() -> None:
    made = [*(ROOT / BASE / "crds").glob("*.yaml"), *(ROOT / dashboards.FOLDER).glob("*.json")]
    made += [*(ROOT / CHART / "crds").iterdir(), *(ROOT / CHART / "files").iterdir()]
    made += (ROOT / man.FOLDER).iterdir()
    found = [ROOT / "daemonset.yaml", ROOT / PROMETHEUS / "prometheusrule.yaml", *made]
    assert {path.relative_to(ROOT): path.read_text(encoding="utf-8") for path in found} == texts(), "make manifests"


@pytest.mark.parametrize("definition", definitions(), ids=lambda d: d["spec"]["names"]["kind"])
def test_every_field_explains_itself_and_has_a_type(definition: dict[str, Any]) -> None:
    root = definition["spec"]["versions"][0]["schema"]["openAPIV3Schema"]
    for path, schema in schemas(root):
        assert "type" in schema or schema.get("x-kubernetes-int-or-string"), path
        assert schema.get("description") or path in (".apiVersion", ".kind", ".metadata") or path.endswith("[]"), path
