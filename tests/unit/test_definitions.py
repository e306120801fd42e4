"""The agent's validator on the objects that the server's schemas are held against."""

from __future__ import annotations

import pytest

from agent.errors import InvalidObject
from agent.parse.objects import parse_object
from tests.api.policy_objects import CASES, UNKNOWN_FIELDS, Spec, typed


@pytest.mark.parametrize(("kind", "spec", "valid", "_cel"), CASES, ids=str)
def test_the_validator_says_which_are_valid(kind: str, spec: Spec, *, valid: bool, _cel: bool) -> None:
    if valid:
        parse_object(typed(kind, spec))
        return
    with pytest.raises(InvalidObject) as refused:
        parse_object(typed(kind, spec))
    assert "spec" in str(refused.value)


@pytest.mark.parametrize("spec", UNKNOWN_FIELDS, ids=str)
def test_unknown_fields_are_refused_by_name(spec: Spec) -> None:
    with pytest.raises(InvalidObject, match="unknown field"):
        parse_object(typed("TaskNetworkPolicy", spec))
