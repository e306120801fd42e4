"""What a client asks for: GetFlowsRequest as values, and which of the flows that are kept it means. Pure."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from typing import Any

from google.protobuf import field_mask_pb2
from google.protobuf.descriptor import Descriptor

from agent.outputs.filtering import BadFilter
from agent.outputs.observer import messages
from agent.outputs.observer.filters import Test, filter_of
from agent.outputs.observer.messages import Object
from agent.outputs.observer.ring import Entry

Document = Callable[[Entry], Object | None]
"""None: it cannot be written."""


@dataclass(frozen=True, slots=True)
class Asked:
    """`number` of 0: all; `since` and `until` in seconds since the epoch, None where they were not given."""

    number: int
    first: bool
    follow: bool
    since: float | None
    until: float | None
    passes: Test
    fields: tuple[str, ...] | None = None  # paths in a Flow; None: all of them

    def in_time(self, time: float) -> bool:
        return (self.since is None or time >= self.since) and (self.until is None or time <= self.until)


def asked(request: bytes) -> Asked:
    """Raises BadMessage and BadFilter, which say what is wrong."""
    found: Any = messages.read("observer.GetFlowsRequest", request)
    paths = tuple(found.field_mask.paths)
    found.ClearField("field_mask")  # of which protojson has another form
    fields = messages.unpacked(found)
    wanted, denied = fields.get("whitelist", []), fields.get("blacklist", [])
    unknown = [text for text in messages.unknown_fields(found) if not text.startswith("GetFlowsRequest ")]
    if unknown:
        raise BadFilter(f"filter {unknown[0]}: dagwall does not know it")
    out = Asked(
        number=int(fields.get("number", 0)),
        first=fields.get("first", False),
        follow=fields.get("follow", False),
        since=_seconds(fields.get("since")),
        until=_seconds(fields.get("until")),
        passes=filter_of(wanted, denied),
        fields=tuple(filter(_is_known, paths)) if paths else None,
    )
    if out.first and out.follow:
        raise BadFilter("first and follow exclude each other")
    return out


def _seconds(text: str | None) -> float | None:
    if text is None:
        return None
    whole, _, fraction = text.removesuffix("Z").partition(".")
    moment = datetime.fromisoformat(whole).replace(tzinfo=timezone.utc).timestamp()
    return moment + (float(f"0.{fraction}") if fraction else 0.0)


def _is_known(path: str) -> bool:
    """The CLI asks for fields that our flows never have: those stay empty."""
    kind: Descriptor | None = messages.POOL.FindMessageTypeByName("flow.Flow")
    for name in path.split("."):
        if kind is None or name not in kind.fields_by_name:
            return False
        kind = kind.fields_by_name[name].message_type
    return True


def masked(document: Object, paths: Sequence[str] | None) -> bytes:
    """The answer with these fields of its flow only, or with all."""
    whole: Any = messages.packed("observer.GetFlowsResponse", document)
    if paths is not None:
        less = messages.packed("flow.Flow", {})
        field_mask_pb2.FieldMask(paths=paths).MergeMessage(whole.flow, less)
        whole.flow.CopyFrom(less)
    return bytes(whole.SerializeToString())


def chosen(entries: Iterable[Entry], wanted: Asked, document: Document, pace: Callable[[], None]) -> Iterator[Object]:
    """Of the flows that are kept those that are meant, oldest first: the first ones, the last ones or all.

    `pace` is called before each flow that is looked at.
    """
    in_time = sorted((entry for entry in entries if wanted.in_time(entry[0].time)), key=lambda entry: entry[0].time)
    newest = bool(wanted.number) and not wanted.first
    left = wanted.number or len(in_time)
    found: list[Object] = []
    for entry in reversed(in_time) if newest else in_time:
        if not left:
            break
        pace()
        line = document(entry)
        if line is None or not wanted.passes(line["flow"]):
            continue
        left -= 1
        if newest:
            found.append(line)
        else:
            yield line
    yield from reversed(found)
