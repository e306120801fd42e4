"""Filters as names with values, for Hubble's clients and for `dagwall flows`. Pure.

Something passes a filter if it has one of the values of each field that is set; a list of filters if it passes one of
them. A field that the table does not have is refused by name: left out, it would show what was not asked for.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from ipaddress import IPv4Address, IPv6Address, ip_network
from typing import Any, TypeVar

from agent.errors import DagwallError

T = TypeVar("T")
Values = Sequence[Any]
Test = Callable[[T], bool]
Table = Mapping[str, Callable[[Values], Test[T]]]
"""By the field's name: from its values to a test. They raise ValueError that says what is allowed."""
Fields = Mapping[str, Values]
"""One filter: by the field's name."""
MAX_FILTERS, MAX_VALUES, MAX_TEXT, MAX_ALL_TEXT = 64, 256, 1024, 65_536
"""Of one question: filters, values of a field, characters of a value, characters of all. What one flow may cost to be
judged by them is bounded by it."""


class BadFilter(DagwallError):
    """A filter that cannot be judged: it names the field, and what is allowed."""


def filter_of(
    table: Table[T], wanted: Sequence[Mapping[str, Values]], denied: Sequence[Mapping[str, Values]]
) -> Test[T]:
    """What passes one of `wanted`, where there are any, and none of `denied`. Raises BadFilter."""
    if len(wanted) + len(denied) > MAX_FILTERS:
        raise BadFilter(f"at most {MAX_FILTERS} filters are read, not {len(wanted) + len(denied)}")
    if sum(map(_text_of, (*wanted, *denied))) > MAX_ALL_TEXT:
        raise BadFilter(f"at most {MAX_ALL_TEXT:,} characters of all filters together are read")
    allows, denies = [_all_of(table, each) for each in wanted], [_all_of(table, each) for each in denied]
    return lambda it: (not allows or any(test(it) for test in allows)) and not any(test(it) for test in denies)


def _text_of(fields: Fields) -> int:
    return sum(len(value) for values in fields.values() for value in values if isinstance(value, str))


def _all_of(table: Table[T], fields: Fields) -> Test[T]:
    tests = [_test(table, name, values) for name, values in fields.items()]
    return lambda it: all(test(it) for test in tests)


def _test(table: Table[T], name: str, values: Values) -> Test[T]:
    make = table.get(name)
    if make is None:
        raise BadFilter(f"filter {name}: dagwall's flows have no such value")
    if len(values) > MAX_VALUES or any(isinstance(value, str) and len(value) > MAX_TEXT for value in values):
        raise BadFilter(f"filter {name}: at most {MAX_VALUES} values of {MAX_TEXT} characters")
    try:
        return make(values)
    except ValueError as exc:
        raise BadFilter(f"filter {name}: {exc}") from exc


def one_of(values: Values, of: Callable[[T], Hashable]) -> Test[T]:
    wanted = frozenset(values)
    return lambda it: of(it) in wanted


def any_text(
    make: Callable[[str], Callable[[str], bool]], of: Callable[[T], Iterable[str]]
) -> Callable[[Values], Test[T]]:
    """One of the texts fits one of the patterns."""

    def test(values: Values) -> Test[T]:
        patterns = [make(value) for value in values]
        return lambda it: any(pattern(text) for text in of(it) for pattern in patterns)

    return test


def any_address(of: Callable[[T], Iterable[IPv4Address | IPv6Address]]) -> Callable[[Values], Test[T]]:
    """One of the addresses is, or lies in, one of the values."""

    def test(values: Values) -> Test[T]:
        networks = [ip_network(value, strict=False) for value in values]
        return lambda it: any(address in network for address in of(it) for network in networks)

    return test


def any_port(of: Callable[[T], int | None]) -> Callable[[Values], Test[T]]:
    """`of`: None where there are no ports."""

    def test(values: Values) -> Test[T]:
        if not all(value.isascii() and value.isdigit() and int(value) < 1 << 16 for value in values):
            raise ValueError("must be a port number from 0 to 65535")
        return one_of([int(value) for value in values], of)

    return test
