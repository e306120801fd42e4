"""The errors that dagwall raises on purpose. Everything else is a defect."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


class DagwallError(Exception):
    """Base of all errors that carry a message for a person."""


class InvalidObject(DagwallError):
    """A Kubernetes object or a setting that breaks its contract.

    Names the object (`kind/namespace/name`), the field (a path such as `spec.egress[0].to[1].cidr`)
    and what is allowed there.
    """

    def __init__(self, obj: str, field: str, problem: str) -> None:
        self.obj, self.field, self.problem = obj, field, problem
        super().__init__(f"{obj}: {field}: {problem}" if field else f"{obj}: {problem}")

    def to_keep(self) -> InvalidObject:
        """The same without its traceback, whose frames hold the whole object and all that was read beside it."""
        return type(self)(self.obj, self.field, self.problem)


class NoRoom(InvalidObject):
    """Nothing is wrong with the object, but what it needs is more than it may have, or than there is (P17)."""


@dataclass(frozen=True, slots=True)
class ApiStatus:
    """What a Status object gives as the reason for a refusal, by the API's own words; empty where none came.

    `kind` (a plural, such as `namespaces`) and `name` are of what the refusal is about. Source: metav1.Status.
    """

    reason: str = ""  # NotFound, Conflict, AlreadyExists, Forbidden, ...
    kind: str = ""
    name: str = ""
    causes: frozenset[str] = frozenset()  # NamespaceTerminating, FieldValueInvalid, ...


class ApiError(DagwallError):
    """The API server, or the way to it, failed. `status` is HTTP's; 0 where none came."""

    def __init__(self, message: str, status: int, why: ApiStatus = ApiStatus()) -> None:
        self.status, self.why = status, why
        super().__init__(message)


class ApiSilentError(ApiError):
    """A watch on which not even a bookmark came for so long that the way to the server must be in doubt."""


class KernelError(DagwallError):
    """The kernel refused something that dagwall cannot do without."""


class LoadError(KernelError):
    """A program did not compile, was refused by the verifier, or does not match the structs of the agent."""


class MapError(KernelError):
    """A BPF map operation failed."""


class CapacityError(DagwallError):
    """A revision does not fit into the kernel's maps; the previous one stays in force."""


class TooMuch(CapacityError):
    """More of `what` than there is, or than leaves others room. `needs`: by the name of whoever causes it, as an
    upper bound; empty: not known. `over`: how many too many, where that was counted, not estimated."""

    def __init__(self, what: str, needs: Mapping[Any, int], limit: int, message: str = "", over: int = 0) -> None:
        self.what, self.needs, self.limit, self.over = what, needs, limit, over
        super().__init__(message or f"up to {sum(needs.values()):,} {what} are needed, {limit:,} fit")


class StateError(DagwallError):
    """The state folder cannot be read, or another agent owns it."""
