"""Manifests that people copy from the documents are valid."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from agent.model.policy import Policy
from agent.parse.objects import parse_object

ROOT = Path(__file__).parents[2]
MANIFESTS = [
    (path.name, document)
    for path in (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
    for block in re.findall(r"^```yaml\n(.*?)^```", path.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL)
    for document in yaml.safe_load_all(block)
]


@pytest.mark.parametrize(("path", "document"), MANIFESTS, ids=lambda each: each if isinstance(each, str) else "")
def test_manifests_of_the_documents_are_valid(path: str, document: object) -> None:
    parse_object(document)


def test_the_readme_has_a_policy_of_every_kind_of_rule() -> None:
    found = [made for path, document in MANIFESTS if isinstance(made := parse_object(document), Policy)]
    rules = [rule for policy in found for rule in policy.egress or ()]
    assert any(rule.tls and rule.tls.start_tls for rule in rules)
    assert any(rule.http for rule in rules)
    assert any(each.inside for rule in rules for each in rule.http)
    assert len({rule.name for rule in rules}) == len(rules)
