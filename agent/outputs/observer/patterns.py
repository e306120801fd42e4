"""The small languages in Hubble's filters: label selectors, names with stars, DNS patterns. Pure.

Each takes linear time, whatever a client writes: a regular expression may take all the time that there is, and the
interpreter with it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from agent.model.selector import Operator, Requirement, id_matches

Label = tuple[str, str, str]
"""Source, key, value."""

_REQUIREMENT = re.compile(
    r"\s*(?P<key>[^\s=!,()]+)\s*(?:(?P<sign>==?|!=)(?P<value>[^,]*)|(?P<word>in|notin)\s*\((?P<values>[^()]*)\))?\s*"
)
_ATOM = re.compile(r"(?P<one>\\.|\[\^?[^\]\\]+\]|[^\\\[\](){}|*+?^$])(?P<many>[*+?]?)", re.DOTALL)


def label_of(text: str) -> Label:
    """`k8s:dag_id=sales`, `reserved:world`."""
    name, _, value = text.partition("=")
    source, colon, key = name.partition(":")
    return (source, key, value) if colon else ("any", name, value)


@dataclass(frozen=True, slots=True)
class LabelPattern:
    """`k8s:a=b,!c,d in (e,f)`: all must hold; a key without a source is of any."""

    requirements: tuple[tuple[str, Requirement], ...]

    def matches(self, labels: Iterable[Label]) -> bool:
        found = tuple(labels)
        return all(_holds(source, requirement, found) for source, requirement in self.requirements)


def _holds(source: str, wanted: Requirement, labels: tuple[Label, ...]) -> bool:
    same = ({key: value} for of, key, value in labels if key == wanted.key and source in ("any", of))
    if wanted.operator in (Operator.IN, Operator.EXISTS):
        return any(wanted.matches(each) for each in same)
    return all(wanted.matches(each) for each in same)


def label_pattern(text: str) -> LabelPattern:
    """Raises ValueError that says what is allowed."""
    requirements, at = [], 0
    while at < len(text):
        denied = text[at:].lstrip().startswith("!")
        start = at + (text[at:].index("!") + 1 if denied else 0)
        found = _REQUIREMENT.match(text, start)
        if found is None or (found.end() < len(text) and text[found.end()] != ",") or (denied and found["sign"]):
            raise ValueError(f"{text!r}: must be requirements such as k8s:key=value, key!=value, key in (a,b), !key")
        source, colon, key = found["key"].partition(":")
        wanted = _requirement(key if colon else found["key"], found, denied=denied)
        requirements.append((source if colon else "any", wanted))
        at = found.end() + 1
    if not requirements:
        raise ValueError("must not be empty")
    return LabelPattern(tuple(requirements))


def _requirement(key: str, found: re.Match[str], *, denied: bool) -> Requirement:
    if found["sign"]:
        operator = Operator.NOT_IN if found["sign"] == "!=" else Operator.IN
        return Requirement(key, operator, (found["value"].strip(),))
    if found["word"]:
        values = tuple(sorted(value.strip() for value in found["values"].split(",")))
        return Requirement(key, Operator.IN if found["word"] == "in" else Operator.NOT_IN, values)
    return Requirement(key, Operator.DOES_NOT_EXIST if denied else Operator.EXISTS)


def name_pattern(text: str) -> Callable[[str], bool]:
    """A DNS name with stars; a dot at the end and case do not count. Raises ValueError."""
    wanted = text.strip().removesuffix(".").lower()
    if not wanted:
        raise ValueError("must not be empty")
    return lambda name: id_matches(wanted, name.removesuffix(".").lower())


def node_pattern(text: str) -> Callable[[str], bool]:
    """`NODE` or `CLUSTER/NODE`, with stars; an empty side is every one. Raises ValueError."""
    cluster, _, node = text.rpartition("/")
    if not text or "/" in cluster:
        raise ValueError(f"{text!r}: must be NODE or CLUSTER/NODE")

    def matches(name: str) -> bool:
        own_cluster, _, own = name.rpartition("/")
        sides = ((cluster, own_cluster or "default"), (node, own))
        return all(not side or id_matches(side.lower(), value.lower()) for side, value in sides)

    return matches


@dataclass(frozen=True, slots=True)
class TextPattern:
    """A regular expression without groups, alternatives and counts, searched for anywhere in a text."""

    atoms: tuple[tuple[re.Pattern[str], str], ...]  # one sign each, and how often
    begins: bool
    ends: bool

    def found_in(self, text: str) -> bool:
        """Walks all ways at once: no longer than text times pattern."""
        ways = self._skipping({0})
        for sign in text:
            if len(self.atoms) in ways and not self.ends:
                return True
            after = {0} if not self.begins else set()
            for at in ways:
                if at < len(self.atoms) and self.atoms[at][0].fullmatch(sign):
                    after |= {at, at + 1} if self.atoms[at][1] in ("*", "+") else {at + 1}
            ways = self._skipping(after)
        return len(self.atoms) in ways

    def _skipping(self, ways: set[int]) -> set[int]:
        out = set(ways)
        for at, (_, often) in enumerate(self.atoms):
            if at in out and often in ("*", "?"):
                out.add(at + 1)
        return out


def text_pattern(text: str) -> TextPattern:
    """Raises ValueError that says what is allowed."""
    begins, ends = text.startswith("^"), text.endswith("$") and not text.endswith("\\$")
    body = text[1 if begins else 0 : len(text) - 1 if ends else None]
    atoms, at = [], 0
    while at < len(body):
        found = _ATOM.match(body, at)
        if found is None:
            raise ValueError(
                f"{text!r}: groups, alternatives and counts are not read: signs, ., [...], *, +, ?, ^, $ are"
            )
        try:
            atoms.append((re.compile(found["one"], re.DOTALL), found["many"]))
        except re.error as exc:
            raise ValueError(f"{text!r}: {exc}") from exc
        at = found.end()
    return TextPattern(tuple(atoms), begins, ends)
