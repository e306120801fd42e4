"""The table of object kinds, held against what else names kinds: snapshots, manifests, the role, the parsers."""

from __future__ import annotations

from dataclasses import fields
from pathlib import Path

import pytest
import yaml

from agent.errors import InvalidObject
from agent.model.cluster import Cluster
from agent.parse.definitions import definitions
from agent.parse.object_kinds import BY_KIND, BY_VALUE, OBJECT_KINDS, ObjectKind, Watch
from agent.parse.objects import object_name, parse_object

BASE = Path(__file__).parents[2] / "deploy" / "base"
OTHERWISE = {("", "nodes", "get"), ("", "events", "create"), ("", "events", "patch")}
"""Rights of the cluster role that are not about reading a kind or writing its status."""


def test_the_role_has_the_rights_that_the_table_asks_for_and_no_others() -> None:
    (role,) = [
        each for each in yaml.safe_load_all((BASE / "daemonset.yaml").read_text()) if each["kind"] == "ClusterRole"
    ]
    given = {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }
    assert given - OTHERWISE == {right for kind in OBJECT_KINDS for right in kind.rights()}
    assert given >= OTHERWISE


def test_every_map_of_a_snapshot_is_filled_by_a_kind() -> None:
    maps = {each.name for each in fields(Cluster)} - {"revision", "complete", "settings", "left_out"}
    assert {kind.table for kind in OBJECT_KINDS} == maps


def test_a_value_has_one_table_whatever_kind_it_is_read_from() -> None:
    for kind in OBJECT_KINDS:
        assert BY_VALUE[kind.value].table == kind.table


def test_definitions_agree_about_plural_and_scope() -> None:
    found = {each["spec"]["names"]["kind"]: each["spec"] for each in definitions()}
    assert found.keys() == {kind.kind for kind in OBJECT_KINDS if kind.ours}
    for name, spec in found.items():
        assert spec["names"]["plural"] == BY_KIND[name].plural
        assert (spec["scope"] == "Namespaced") is BY_KIND[name].namespaced


@pytest.mark.parametrize("kind", OBJECT_KINDS, ids=lambda kind: kind.kind)
def test_each_version_is_read_and_errors_name_the_object(kind: ObjectKind) -> None:
    for version in kind.versions:
        broken = {
            "apiVersion": version,
            "kind": kind.kind,
            "metadata": {"name": "n", "namespace": "x"},
            "spec": 7,
            "endpoints": 7,
        }
        named = f"{kind.kind}/x/n" if kind.namespaced else f"{kind.kind}/n"
        assert str(object_name(broken)) == named
        if kind.kind in ("Namespace", "ServiceAccount"):  # whose spec says nothing
            assert isinstance(parse_object(broken), kind.value)
            continue
        with pytest.raises(InvalidObject, match=f"^{named}: ") as refused:
            parse_object(broken)
        assert "is no kind that dagwall reads" not in str(refused.value)


def test_an_unknown_kind_is_refused_with_all_that_are_read() -> None:
    with pytest.raises(InvalidObject) as refused:
        parse_object({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}})
    for kind in OBJECT_KINDS:
        assert all(f"{version}/{kind.kind}" in str(refused.value) for version in kind.versions)


def test_nothing_that_is_enforced_waits_for_what_is_for_reports() -> None:
    assert [kind.kind for kind in OBJECT_KINDS if kind.watch is Watch.FOR_REPORTS] == ["ServiceAccount"]
