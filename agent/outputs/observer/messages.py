"""Protobuf at the edge: bytes to plain objects and back, by the tables of `schema`."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, cast

from google.protobuf import (
    any_pb2,
    descriptor_pb2,
    descriptor_pool,
    field_mask_pb2,
    json_format,
    message,
    message_factory,
    struct_pb2,
    timestamp_pb2,
    wrappers_pb2,
)
from google.protobuf.unknown_fields import UnknownFieldSet

from agent.errors import DagwallError
from agent.outputs.observer.schema import ENUMS, MESSAGES

Object = dict[str, Any]
_FIELD = descriptor_pb2.FieldDescriptorProto
_SCALARS = {
    "string": _FIELD.TYPE_STRING, "bool": _FIELD.TYPE_BOOL, "uint32": _FIELD.TYPE_UINT32, "int32": _FIELD.TYPE_INT32,
    "uint64": _FIELD.TYPE_UINT64, "double": _FIELD.TYPE_DOUBLE,
}  # fmt: skip
_GOOGLE = (timestamp_pb2, wrappers_pb2, any_pb2, struct_pb2, field_mask_pb2)
_FILES = ("flow", "observer", "peer", "grpc.health.v1")


class BadMessage(DagwallError):
    """It cannot be read, or holds a field that has no number here."""


def _pool() -> descriptor_pool.DescriptorPool:
    """Of our own: another part of the process may have Hubble's files in the common one."""
    pool = descriptor_pool.DescriptorPool()
    for module in _GOOGLE:
        pool.AddSerializedFile(module.DESCRIPTOR.serialized_pb)
    for package in _FILES:
        pool.AddSerializedFile(_file(package).SerializeToString())
    return pool


def _file(package: str) -> descriptor_pb2.FileDescriptorProto:
    file = descriptor_pb2.FileDescriptorProto(name=f"dagwall/{package}.proto", package=package, syntax="proto3")
    file.dependency.extend(module.DESCRIPTOR.name for module in _GOOGLE)
    if package == "observer":
        file.dependency.append("dagwall/flow.proto")
    for full, values in ENUMS.items():
        if full.rpartition(".")[0] == package:
            enum = file.enum_type.add(name=full.rpartition(".")[2])
            for number, name in values.items():
                enum.value.add(name=name, number=number)
    for full, rows in MESSAGES.items():
        if full.rpartition(".")[0] == package:
            _add_fields(file.message_type.add(name=full.rpartition(".")[2]), package, rows)
    return file


def _add_fields(into: descriptor_pb2.DescriptorProto, package: str, rows: str) -> None:
    oneofs: list[str] = []
    for row in filter(None, (row.split() for row in rows.split(";"))):
        name, number, kind, *oneof = row
        bare = kind.removeprefix("*")
        field = into.field.add(
            name=name, number=int(number), label=_FIELD.LABEL_OPTIONAL if bare == kind else _FIELD.LABEL_REPEATED
        )
        if bare in _SCALARS:
            field.type = _SCALARS[bare]
        else:
            full = _full_name(bare, package)
            field.type = _FIELD.TYPE_ENUM if full in ENUMS else _FIELD.TYPE_MESSAGE
            field.type_name = f".{full}"
        if oneof:
            if oneof[0] not in oneofs:
                oneofs.append(oneof[0])
                into.oneof_decl.add(name=oneof[0].removeprefix("@"))
            field.oneof_index = oneofs.index(oneof[0])


def _full_name(kind: str, package: str) -> str:
    if "." in kind:
        return kind
    own = f"{package}.{kind}"
    return own if own in MESSAGES or own in ENUMS else f"google.protobuf.{kind}"


POOL = _pool()
_CLASSES = {name: message_factory.GetMessageClass(POOL.FindMessageTypeByName(name)) for name in MESSAGES}


def pack(name: str, value: Mapping[str, Any]) -> bytes:
    """The JSON form of a message, protojson's, as bytes. Raises BadMessage."""
    return packed(name, value).SerializeToString()


def packed(name: str, value: Mapping[str, Any]) -> message.Message:
    made: message.Message = _CLASSES[name]()
    try:
        return json_format.ParseDict(dict(value), made, descriptor_pool=POOL)
    except (json_format.ParseError, ValueError, TypeError) as exc:
        raise BadMessage(f"{name}: {exc}") from exc


def unpack(name: str, data: bytes) -> Object:
    """Fields that are set, by their names in the tables; enums by name. Raises BadMessage."""
    return unpacked(read(name, data))


def read(name: str, data: bytes) -> message.Message:
    found: message.Message = _CLASSES[name]()
    try:
        found.ParseFromString(data)
    except message.DecodeError as exc:
        raise BadMessage(f"{name}: cannot be read: {exc}") from exc
    return found


def unpacked(found: message.Message) -> Object:
    try:
        return json_format.MessageToDict(found, preserving_proto_field_name=True, descriptor_pool=POOL)
    except (json_format.SerializeToJsonError, ValueError, TypeError) as exc:
        raise BadMessage(f"{found.DESCRIPTOR.full_name}: {exc}") from exc


def unknown_fields(found: message.Message) -> list[str]:
    """Numbers of fields that the tables do not have, with what they are in."""
    own = [
        f"{found.DESCRIPTOR.name} field {each.field_number}" for each in cast(Iterable[Any], UnknownFieldSet(found))
    ]
    for field, value in found.ListFields():
        if field.type == field.TYPE_MESSAGE:
            inner = [value] if isinstance(value, message.Message) else value
            own += [text for each in inner for text in unknown_fields(each)]
    return own
