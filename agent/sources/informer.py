"""One kind of the API in a thread of its own: list, then watch, for ever.

Doubt never opens: between agent and server may be a proxy that answers for it; a server may be starting, or its etcd
may have been restored from a backup. Whatever comes that is not a list or an event of this kind changes nothing but
how long nothing has been heard. What would let go of much at once must come twice.
"""

from __future__ import annotations

import logging
import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

from agent.errors import ApiError, ApiSilentError
from agent.log import event
from agent.sources.reflector import Listing, Page, Reflector, Resource, Step, number_of

WATCH_SECONDS = 290
BACKOFF_SECONDS = (0.2, 20.0)
ABSENT_SECONDS = 30.0
"""Until a kind that the server does not serve is asked for again: a CRD may be installed later."""
QUIET_SECONDS = 90.0
"""Without a list, an event or a bookmark for so long, what is known may be old: bookmarks come within 75 s."""
CONFIRM_SECONDS = 3.0
"""Between an answer that would let go of much, and the same answer, which is then believed."""
NEVER_EMPTY = frozenset({"Namespace", "Service"})
"""Every cluster has `default` and `default/kubernetes`."""


class Api(Protocol):
    """Raises ApiError."""

    def pages(self, resource: Resource) -> Iterator[Page]: ...

    def serves(self, resource: Resource) -> bool: ...

    def watch(self, resource: Resource, version: str, seconds: int) -> Iterator[tuple[str, Mapping[str, Any]]]: ...


@dataclass(slots=True)
class Informer:
    """`answers` is called at each step by this thread. `settled` is the reader's; any thread reads the rest."""

    api: Api
    reflector: Reflector
    answers: Callable[[Informer, Step], None]
    stopping: threading.Event
    settled: bool = False  # listed at least once, or known not to be served
    absent: bool = False  # not served when it was asked last
    failing_since: float = 0.0  # monotonic; 0: the last call succeeded
    heard_at: float = field(default_factory=time.monotonic)
    why: str = ""
    _lacking_since: float = 0.0
    _doubt: tuple[str, float] = ("", 0.0)
    _recheck: bool = False  # what is in force was doubted: a list is due after each watch, until it brings objects

    @property
    def kind(self) -> str:
        return self.reflector.resource.kind

    def stale_seconds(self, now: float) -> float:
        """How old what is known may be; 0 when it is new. A kind that never was there is no loss."""
        if self.absent and not self.reflector.names():
            return 0.0
        since = [self.failing_since] if self.failing_since else []
        if now - self.heard_at > QUIET_SECONDS:
            since.append(self.heard_at)
        return now - min(since) if since else 0.0

    def run(self) -> None:
        """Until `stopping`."""
        wait = Backoff()
        while not self.stopping.is_set():
            try:
                self._once()
            except ApiError as exc:
                self._failed(exc)
                self.stopping.wait(ABSENT_SECONDS if self.absent else wait.next())
            else:
                wait.reset()

    def _once(self) -> None:
        """An answer that trips this agent up is no answer, and must not end it."""
        try:
            self.once()
        except ApiError:
            raise
        except Exception as exc:
            event("api.not_understood", level=logging.ERROR, kind=self.kind, exc=exc)
            plural = self.reflector.resource.plural
            raise ApiError(f"{plural}: the answer cannot be understood: {repr(exc)[:200]}", 0) from exc

    def once(self) -> None:
        """One list, where that is due, and one watch to its end. Raises ApiError.

        After a failure no watch goes on from where it was: an etcd that was restored from a backup soon passes the
        versions that are known here, and a quiet watch would be silent for a minute. What found no room is
        not kept: where there may be some now, it comes with a list.
        """
        if self._recheck or self.failing_since or self.reflector.may_fit():
            self.reflector.version = ""
        if not self.reflector.listed:
            self._list()
        self._watch()

    def _list(self) -> None:
        found = self.reflector.read(self.api.pages(self.reflector.resource))
        doubt = self._doubt_of(found)
        if doubt and not self._is_confirmed(doubt):
            raise ApiError(f"list {self.reflector.resource.plural}: {doubt}; believed if it comes again", 0)
        if doubt:
            event("api.doubt_confirmed", level=logging.ERROR, kind=self.kind, what=doubt)
        self._recheck = bool(doubt) or (self._recheck and not found.known)
        self._doubt = ("", 0.0)
        self.absent, self._lacking_since = False, 0.0
        self.answers(self, self.reflector.take(found))
        self._heard()

    def _doubt_of(self, found: Listing) -> str:
        """What speaks against a list. Raises ApiError where no API server could have given it."""
        if not found.known and self.kind in NEVER_EMPTY:
            raise ApiError(f"list {self.reflector.resource.plural}: empty, which it is in no cluster", 0)
        remembered = any(obj.get("kind") == self.kind for obj in self.reflector.remembered.values())
        had = self.reflector.names() or (remembered and not self.reflector.newest)
        if not found.known and had:
            return "empty, and there were objects"
        if number_of(found.version) < self.reflector.newest:
            return "older than what was read before, as from a restored backup"
        return ""

    def _is_confirmed(self, doubt: str) -> bool:
        now = time.monotonic()
        if self._doubt[0] != doubt:
            self._doubt = (doubt, now)
        return now - self._doubt[1] >= CONFIRM_SECONDS

    def _watch(self) -> None:
        seconds, began, heard = WATCH_SECONDS - random.randint(0, 30), time.monotonic(), False
        for kind, obj in self.api.watch(self.reflector.resource, self.reflector.version, seconds):
            step = self.reflector.event(kind, obj)
            if step.relist:
                raise ApiError(f"watch {self.reflector.resource.plural}: {kind}: a list is due", 410)
            heard = True
            self._heard()
            if step.upserts or step.deletes or self.reflector.problems:
                self.answers(self, step)
        if not heard and time.monotonic() - began < seconds / 2:
            raise ApiError(f"watch {self.reflector.resource.plural}: ended without a word", 0)

    def _heard(self) -> None:
        """The server itself has answered: what is here is what is there."""
        if self.failing_since:
            event("api.answers_again", kind=self.kind, after_seconds=round(time.monotonic() - self.failing_since, 1))
        self.heard_at, self.failing_since, self.why = time.monotonic(), 0.0, ""

    def _failed(self, exc: ApiError) -> None:
        if exc.status == 410 or _is_behind(exc) or isinstance(exc, ApiSilentError):
            self.reflector.version = ""
        if exc.status == 410:
            return
        if exc.status == 404 and self.reflector.resource.optional:
            exc = self._missing(exc)
        if self.absent and not self.reflector.names():
            self.failing_since, self.why = 0.0, ""
            return
        if not self.failing_since:
            self.failing_since = self.heard_at if isinstance(exc, ApiSilentError) else time.monotonic()
            event("api.failed", level=logging.WARNING, kind=self.kind, why=str(exc))
        self.why = str(exc)

    def _missing(self, exc: ApiError) -> ApiError:
        """404: not served only if the server's own documents lack it, twice. What is in force stays."""
        try:
            served = self.api.serves(self.reflector.resource)
        except ApiError as unknown:
            return ApiError(f"{exc}; {unknown}", 0)
        now = time.monotonic()
        if served or not self._lacking_since:
            self._lacking_since = 0.0 if served else now
            return exc
        if now - self._lacking_since < CONFIRM_SECONDS:
            return exc
        step = self.reflector.restore()
        stays = len(self.reflector.names())
        if not self.absent:
            level = logging.ERROR if stays else logging.WARNING
            event("api.not_served", level=level, kind=self.kind, stay_in_force=stays)
        self.absent = True
        self.answers(self, step)
        return ApiError(f"the server does not serve {self.kind}; {stays} of them stay in force", 0)


def _is_behind(exc: ApiError) -> bool:
    """The server is behind the version that was asked for (its cause since Kubernetes 1.18.6)."""
    return "ResourceVersionTooLarge" in exc.why.causes


@dataclass(slots=True)
class Backoff:
    """Doubles from the first to the last of BACKOFF_SECONDS, each wait drawn from the upper half."""

    seconds: float = BACKOFF_SECONDS[0]
    draw: Callable[[float, float], float] = random.uniform

    def next(self) -> float:
        now, self.seconds = self.seconds, min(self.seconds * 2, BACKOFF_SECONDS[1])
        return self.draw(now / 2, now)

    def reset(self) -> None:
        self.seconds = BACKOFF_SECONDS[0]
