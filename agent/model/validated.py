"""A policy or a binding as the API server has it, and the validator's word on it: what a status is made of."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from agent.model.binding import TaskIdentityBinding
from agent.model.policy import Policy, PolicyRef


@dataclass(frozen=True, slots=True)
class Written:
    """Who wrote an object's content last, as its managedFields say: a client's name (`kubectl-edit`), not a user's,
    and any client may choose it. Empty where nothing is known, as of files."""

    manager: str = ""
    operation: str = ""  # Apply or Update
    time: str = ""  # RFC 3339
    resource_version: str = ""


@dataclass(frozen=True, slots=True)
class ValidatedPolicy:
    """`generation` is the newest; `valid` the newest valid one that is known, 0 for none, and `item`
    what that says (P17); `source` is the object it was read from. `status` is what the server holds.
    """

    ref: PolicyRef
    generation: int
    valid: int
    item: Policy | TaskIdentityBinding | None
    problem: str = ""  # the validator's sentence where `generation` is not valid
    status: Mapping[str, Any] = field(default_factory=dict)
    source: Mapping[str, Any] = field(default_factory=dict)
    written: Written = Written()
