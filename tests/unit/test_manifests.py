"""Manifest files: what is read, and what may not harm the agent."""

from __future__ import annotations

import json
import re

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st

from agent.errors import InvalidObject
from agent.sources.manifests import MAX_FILE_BYTES, decode

BOMB = "a: &a [x,x,x,x,x,x,x,x]\n" + "".join(
    f"{name}: &{name} [{','.join([f'*{last}'] * 8)}]\n" for last, name in zip("abcdefgh", "bcdefghi", strict=True)
)
DEEP = f"a: &a {'[' * 30}{']' * 30}\nb: &b {'[' * 32}*a{']' * 32}\nc: [[*b]]\n"


def bodies(text: str, file: str = "f.yaml") -> list[object]:
    return [document.body for document in decode(text.encode(), file)]


def test_streams_with_lines() -> None:
    documents = decode(b"# comment\na: 1\n---\n---\nb: 2\n--- \n# nothing\n---\nc: 3\n", "f.yaml")
    assert [(d.line, d.index, d.body) for d in documents] == [(2, 1, {"a": 1}), (5, 3, {"b": 2}), (9, 5, {"c": 3})]


def test_lists_are_taken_apart() -> None:
    text = "kind: List\napiVersion: v1\nitems:\n- {kind: Pod, apiVersion: v1}\n- 5\n"
    assert bodies(text) == [{"kind": "Pod", "apiVersion": "v1"}, 5]
    assert bodies("kind: PodList\napiVersion: v1\nitems:\n- {metadata: {}}\n") == [
        {"apiVersion": "v1", "kind": "Pod", "metadata": {}}
    ]
    assert bodies("kind: PodList\nitems: 5\n") == [{"kind": "PodList", "items": 5}]


def test_json() -> None:
    assert bodies('\ufeff{"a": [1, null]}', "f.json") == [{"a": [1, None]}]
    assert bodies(" ", "f.json") == []
    assert bodies('{"a": "\\ud83d\\ude00"}', "f.json") == [{"a": "😀"}]
    assert bodies('{"a": "\\u00e4"}', "f.yaml") == [{"a": "ä"}]


def test_scalars_that_yaml_would_turn_into_something_else() -> None:
    text = "d: 2024-01-01\nt: 2024-01-01T00:00:00Z\nbase60: 1:20\nport: 443\noctal: 0644\nyes: yes\n"
    text += "x: 1.5\nn: ~\nv: 1.2.3\n"
    assert bodies(text) == [
        {
            "d": "2024-01-01",
            "t": "2024-01-01T00:00:00Z",
            "base60": "1:20",
            "port": 443,
            "octal": "0644",
            "yes": True,
            "x": 1.5,
            "n": None,
            "v": "1.2.3",
        }
    ]


def test_quotes_make_text() -> None:
    assert bodies('a: \'1\'\nb: "yes"\nc: !!str 5\nd: |\n  null\ne: {}\nf: []\n"<<": {g: 1}\nh:\n') == [
        {"a": "1", "b": "yes", "c": "5", "d": "null\n", "e": {}, "f": [], "<<": {"g": 1}, "h": None}
    ]


def test_aliases_and_merges_as_kubectl_takes_them() -> None:
    text = """
ports: &ports [{port: 443}]
name: &name db
rule: &rule {to: [{entity: dns}], ports: *ports}
first: *name
*name : 5
second:
  <<: *rule
  ports: []
third: {<<: [*rule, {to: x, name: y}], z: 1}
"""
    rule = {"to": [{"entity": "dns"}], "ports": [{"port": 443}]}
    assert bodies(text) == [
        {
            "ports": [{"port": 443}], "name": "db", "rule": rule, "first": "db", "db": 5,
            "second": {"to": [{"entity": "dns"}], "ports": []},
            "third": {**rule, "name": "y", "z": 1},
        }
    ]  # fmt: skip


def test_numbers_beyond_all_measure_are_text() -> None:
    assert bodies("a: " + "9" * 100_000) == [{"a": "9" * 100_000}]


@pytest.mark.parametrize(
    ("text", "file", "message"),
    [
        ("a: [1\nb: 2", "f.yaml", r"^f\.yaml:2: is no YAML: "),
        ("a: b: c", "f.yaml", r"^f\.yaml:1: is no YAML: mapping values are not allowed"),
        ("a: 1\n---\na: 1\nb: 1\na: 2\n", "f.yaml", r"^f\.yaml:5: key 'a' is there twice"),
        ("? [a]\n: b", "f.yaml", r"^f\.yaml:1: a key must be text"),
        ("a: !!python/object/apply:os.system [id]", "f.yaml", r"^f\.yaml:1: tag .*: tags are not supported"),
        ("a: &x 1\n---\nb: *x", "f.yaml", r"^f\.yaml:3: alias \*x: no such anchor before it"),
        ("a: &x [*x]", "f.yaml", r"^f\.yaml:1: alias \*x: no such anchor before it"),
        ("a: &x [1]\n*x : b", "f.yaml", r"^f\.yaml:2: a key must be text"),
        ("a: 1\n<<: 5\n", "f.yaml", r"<<: must be a mapping"),
        ("<<: {a: 1}\n<<: {b: 1}\n", "f.yaml", r"^f\.yaml:2: key '<<' is there twice"),
        (BOMB, "f.yaml", r"^f\.yaml:7: has more than 1000000 nodes"),
        (DEEP, "f.yaml", r"alias \*b: is nested deeper than 64 levels"),
        (json.dumps({str(i): 0 for i in range(80_000)})[:-1] + ', "0": 1}', "f.json", r"key '0' is there twice"),
        ("[" * 65 + "]" * 65, "f.yaml", r"^f\.yaml:1: is nested deeper than 64 levels"),
        # libyaml 0.2.6 and newer have a limit of their own, which such text meets before ours.
        (
            "[" * 100_000 + "]" * 100_000,
            "f.yaml",
            r"^f\.yaml:1: is (nested deeper|no YAML: exceeded maximum nesting)",
        ),
        ("- " * 100_000 + "x", "f.yaml", r"nested deeper"),
        ("? " * 100_000 + "x", "f.yaml", r"a key must be text"),
        ("{a: " * 100_000, "f.yaml", r"nested deeper"),
        ("- \n" * 1_100_000, "f.yaml", r"has more than 1000000 nodes"),
        ("--- {a: 1}\n" * 10_001, "f.yaml", r"^f\.yaml: has more than 10000 objects"),
        ("a: !!binary aGk=", "f.yaml", r"^f\.yaml:1: tag .*binary.: tags"),
        ("a: !!set {x}", "f.yaml", r"tags are not supported"),
        ("a: \x00", "f.yaml", r"is no YAML"),
        ("x" * (MAX_FILE_BYTES + 1), "f.yaml", r"has more than 8388608 bytes"),
        ('{"a": 1,\n "a": 2}', "f.json", r"^f\.json: key 'a' is there twice"),
        ('{"a": "\\ud800"}', "f.json", r"surrogates not allowed"),
        ('{"a":\n}', "f.json", r"^f\.json:2: is no JSON: Expecting value"),
        ("[" * 1_000_000, "f.json", r"^f\.json: is nested too deep"),
        ("9" * 100_000, "f.json", r"^f\.json: "),
    ],
)
def test_refused(text: str, file: str, message: str) -> None:
    """What would take for ever runs into the time that any test may take."""
    with pytest.raises(InvalidObject) as caught:
        decode(text.encode(), file)
    assert re.search(message, str(caught.value))
    assert len(str(caught.value)) < 500


def test_bytes_that_are_no_text() -> None:
    with pytest.raises(InvalidObject, match="no UTF-8 text: byte 1"):
        decode(b"a\xff", "f.yaml")


@settings(max_examples=300)
@given(
    st.one_of(st.binary(max_size=200), st.text(alphabet="ab:-[]{}?&*!|>'\" \n\t#,%~0", max_size=60).map(str.encode))
)
def test_any_bytes_are_read_or_refused(content: bytes) -> None:
    for file in ("f.yaml", "f.json"):
        try:
            decode(content, file)
        except InvalidObject:
            continue


json_values = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-(10**15), 10**15)
    | st.text(st.characters(codec="ascii", min_codepoint=32)),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("abcd", min_size=1), inner, max_size=3),
    max_leaves=10,
)


@given(json_values)
def test_yaml_and_json_of_one_value_are_one(value: object) -> None:
    obj = {"metadata": value}
    assert bodies(yaml.safe_dump(obj)) == [obj]
    assert bodies(json.dumps(obj), "f.json") == [obj]
