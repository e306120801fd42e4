"""The kernel half as one thing: load a generation, open its maps, attach it, replace it, take it away."""

from __future__ import annotations

import errno
import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.abi.structs import MAPS
from agent.errors import KernelError, LoadError, MapError
from agent.kernel import loader, syscall
from agent.kernel.loader import Loaded, Request
from agent.kernel.maps import KernelMap
from agent.kernel.migrate import Migration, refuse_newer, schema_map
from agent.kernel.pins import Pins, ensure_bpffs, leave_bpffs
from agent.kernel.probe import Features
from agent.kernel.programs import ATTACH_ORDER, HOOKS, PROMOTE_PACKETS, TAIL_ARRAYS, Program
from agent.kernel.ring import RingBuffer
from agent.kernel.syscall import AttachType
from agent.log import event

_HOOKS = {program.name: program for program in HOOKS}


@dataclass(frozen=True, slots=True)
class Attachment:
    """One program on one root cgroup, as the kernel says."""

    hook: str
    cgroup_id: int
    program_id: int
    ours: bool  # it is this agent's program, not another that somebody has put into our link


class Datapath:
    """Programs and maps of one node. Holds a descriptor of each, so that a lost bpffs costs nothing meanwhile."""

    def __init__(
        self,
        pins: Pins,
        features: Features,
        entries: dict[str, int] | None = None,
        *,
        promote_packets: int = PROMOTE_PACKETS,
    ) -> None:
        self.pins, self.features, self._promote_packets = pins, features, promote_packets
        self._entries = dict(entries or {})
        self.maps: dict[str, KernelMap] = {}
        self.adopted = False
        self.lost: tuple[
            str, ...
        ] = ()  # hooks that the agent before had attached, and that were not there at the start
        self.programs: dict[str, int] = {}  # descriptors of this agent's generation, by name
        self._ids: dict[str, int] = {}  # the kernel's numbers of these programs
        self._lock = -1
        self._tails: list[int] = []
        self._links: dict[tuple[int, str], int] = {}
        self._events: RingBuffer | None = None
        self.sockets = self._schema = -1  # `sockets`: no KernelMap, since a socket's storage is read by its socket
        self._migration: Migration | None = None

    def load(self) -> Loaded:
        """Compile, load and pin a new generation beside the attached one; open all maps. Attaches nothing.

        Raises LoadError; whatever was attached before stays, another release's as well.
        """
        ensure_bpffs(self.pins.root.parent)
        self._lock = self.pins.lock()
        self.lost = self._lost_links()
        refuse_newer(self.pins)
        self._migration = Migration.between(self.pins)
        if self._migration is None:
            return self._load()
        try:
            self._migration.share()
            loaded = self._load()
            self._migration.copy(self.maps)
        except (OSError, LoadError, MapError) as exc:
            self.pins.remove_version()
            raise LoadError(f"{self._migration.old.version} stays in force: {exc}") from exc
        self._pin_schema()
        return loaded

    def _load(self) -> Loaded:
        self.adopted = bool(self.pins.all_links())
        generation = self.pins.next_generation()
        request = Request(
            root=str(self.pins.root), generation=generation, features=self.features.as_dict(),
            entries=self._entries, promote_packets=self._promote_packets,
        )  # fmt: skip
        try:
            loaded = loader.load(request)
        except LoadError:
            self.pins.remove_generation(generation)
            raise
        folder = self.pins.programs(generation)
        self.programs = {name: syscall.open_pin(str(folder / name)) for name in loaded.instructions}
        self._ids = {name: syscall.prog_info(fd).id for name, fd in self.programs.items()}
        self._tails = [syscall.open_pin(str(folder / name)) for name in TAIL_ARRAYS.values()]
        self._open_maps()
        if self._migration is None:
            self._pin_schema()
        return loaded

    @property
    def events(self) -> RingBuffer:
        if self._events is None:
            raise KernelError("the programs are not loaded")
        return self._events

    def attach(self, roots: Iterable[Path]) -> None:
        """Put this generation on every root: new links where there are none, an atomic replacement elsewhere.

        Other programs on these cgroups stay. Older generations are unpinned afterwards, and with them the links of
        roots that are none any more: without its generation an old program would deny all that is off its fast path.
        Raises KernelError.
        """
        try:
            covered = {self._attach_root(root) for root in roots} - {0}
            if covered:
                self._let_go_of_the_past(covered)
        except OSError as exc:
            raise KernelError(f"attach: {exc}") from exc

    def _attach_root(self, root: Path) -> int:
        """Its cgroup id; 0 where it went before its event came."""
        try:
            cgroup_id = root.stat().st_ino
        except FileNotFoundError:
            return 0
        folder = self.pins.links / str(cgroup_id)
        folder.mkdir(parents=True, exist_ok=True)
        for hook in self.hooks():
            self._attach(root, cgroup_id, folder / hook, _HOOKS[hook])
        return cgroup_id

    def _let_go_of_the_past(self, covered: set[int]) -> None:
        """Other generations, releases, and roots, now that this generation is on all roots that there are."""
        for cgroup_id in self.pins.linked_roots() - covered:
            event("root.left", level=logging.WARNING, cgroup_id=cgroup_id, why="it is no root of pods any more")
            self.pins.remove_links(cgroup_id)
            for key in [key for key in self._links if key[0] == cgroup_id]:
                os.close(self._links.pop(key))
        for generation in self.pins.generations()[:-1]:
            self.pins.remove_generation(generation)
        if self._migration is not None:
            self._migration.settle(self.maps)
            self._migration = None
        for other in self.pins.others():  # left by a start that died before this line
            event(
                "pins.counts_lost", level=logging.WARNING, abi=other.abi, why="counted by its programs since the copy"
            )
            other.remove_version()

    def _lost_links(self) -> tuple[str, ...]:
        """Hooks of the last generation that have no link any more, on cgroups that others still have one of."""
        generations = self.pins.generations()
        folder = self.pins.programs(generations[-1]) if generations else None
        wanted = [name for name in _HOOKS if folder is not None and (folder / name).exists()]
        lost = []
        for cgroup_id in sorted(self.pins.linked_roots()):
            there = {name for name in wanted if _holds(self.pins.links / str(cgroup_id) / name)}
            lost += [f"{name} of cgroup {cgroup_id}" for name in wanted if there and name not in there]
        return tuple(lost)

    def hooks(self) -> list[str]:
        """Hooks that this generation has a program for."""
        return [name for name in ATTACH_ORDER if name in self.programs]

    def attached(self) -> list[Attachment]:
        """What the links of this agent are, asked from the kernel: a lost cgroup shows as id 0."""
        out = []
        for (_, hook), fd in self._links.items():
            info = syscall.link_info(fd)
            out.append(Attachment(hook, info.cgroup_id, info.prog_id, ours=info.prog_id == self._ids[hook]))
        return out

    def pins_are_there(self) -> bool:
        """False after somebody unmounted the bpffs or removed pins: enforcement goes on while the agent lives."""
        if not self.pins.is_held_by(self._lock):
            return False
        try:
            generations = self.pins.generations()
            return bool(generations) and all(path.exists() for path in self._held(generations[-1]))
        except OSError:  # they go while they are looked at
            return False

    def pin_again(self) -> None:
        """Pin what this agent holds a descriptor of and is pinned no more, where it was. Raises KernelError."""
        ensure_bpffs(self.pins.root.parent)
        if not self.pins.is_held_by(self._lock):
            fresh = self.pins.lock()
            os.close(self._lock)
            self._lock = fresh
        try:
            for path, fd in self._held(max(self.pins.generations(), default=1)).items():
                if not path.exists():
                    path.parent.mkdir(parents=True, exist_ok=True)
                    syscall.pin(fd, str(path))
        except OSError as exc:
            raise KernelError(f"pin again: {exc}") from exc

    def _held(self, generation: int) -> dict[Path, int]:
        """Descriptors of all that belongs into the pins, by path."""
        folder = self.pins.programs(generation)
        held = {self.pins.maps / name: kernel_map.fd for name, kernel_map in self.maps.items()}
        held |= {self.pins.maps / "events": self.events.map_fd, self.pins.maps / "sockets": self.sockets}
        held[self.pins.schema] = self._schema
        held |= {folder / name: fd for name, fd in self.programs.items()}
        held |= dict(zip((folder / name for name in TAIL_ARRAYS.values()), self._tails, strict=True))
        return held | {self.pins.links / str(cgroup) / hook: fd for (cgroup, hook), fd in self._links.items()}

    def close(self) -> None:
        """Let go of every descriptor. Pins stay, and with them enforcement."""
        if self._events is not None:
            self._events.close()
        for kernel_map in self.maps.values():
            kernel_map.close()
        own = [fd for fd in (self.sockets, self._schema, self._lock) if fd >= 0]
        for fd in (*self.programs.values(), *self._tails, *self._links.values(), *own):
            os.close(fd)
        self.sockets = self._schema = self._lock = -1
        self.maps, self.programs, self._tails, self._links, self._events = {}, {}, [], {}, None

    def _open_maps(self) -> None:
        for name, spec in MAPS.items():
            self.maps[name] = KernelMap(name, syscall.open_pin(str(self.pins.maps / name)), spec)
        self._events = RingBuffer(syscall.open_pin(str(self.pins.maps / "events")))
        self.sockets = syscall.open_pin(str(self.pins.maps / "sockets"))

    def _pin_schema(self) -> None:
        """The maps are whole."""
        if self.pins.schema.exists():
            self._schema = syscall.open_pin(str(self.pins.schema))
            return
        self._schema = schema_map()
        syscall.pin(self._schema, str(self.pins.schema))

    def _attach(self, root: Path, cgroup_id: int, pin: Path, program: Program) -> None:
        fd = self.programs[program.name]
        try:
            link = self._inherited(pin, fd) or (_updated(pin, fd) if pin.exists() else None)
            if link is None:
                link = _created(root, fd, program.attach_type)
                syscall.pin(link, str(pin))
        except OSError as exc:
            raise KernelError(f"attach {program.name} to {root}: {exc.strerror}") from exc
        previous = self._links.get((cgroup_id, program.name))
        if previous is not None:
            os.close(previous)
        self._links[(cgroup_id, program.name)] = link

    def _inherited(self, pin: Path, program: int) -> int | None:
        """A link of an older release, which has this program now and is pinned here."""
        name = pin.relative_to(self.pins.version)
        for old in (other.version / name for other in self.pins.others()):
            link = _updated(old, program) if old.exists() else None
            if link is not None:
                old.rename(pin)
                return link
        return None


def _holds(pin: Path) -> bool:
    """Is there a link, and is it still on its cgroup?"""
    if not pin.exists():
        return False
    link = syscall.open_pin(str(pin))
    try:
        return syscall.link_info(link).cgroup_id != 0
    finally:
        os.close(link)


def _updated(pin: Path, program: int) -> int | None:
    """A pinned link with this program in it. None, and no pin, where somebody has cut the link from its cgroup."""
    link = syscall.open_pin(str(pin))
    try:
        syscall.link_update(link, program)
    except OSError as exc:
        os.close(link)
        if exc.errno != errno.ENOLINK:
            raise
        pin.unlink()
        return None
    return link


def _created(root: Path, program: int, attach_type: AttachType) -> int:
    cgroup = os.open(root, os.O_RDONLY | os.O_DIRECTORY)
    try:
        return syscall.link_create(program, cgroup, attach_type)
    finally:
        os.close(cgroup)


def detach(root: Path) -> int:
    """Take everything off the node that is pinned below `root`: links first, last a bpffs that an agent has mounted.

    Number of links that were there.
    """
    pins = Pins(root)
    links = pins.all_links()
    for link in links:
        _cut(link)
    pins.remove_all()
    leave_bpffs(root.parent)
    return len(links)


def _cut(pin: Path) -> None:
    link = syscall.open_pin(str(pin))
    try:
        syscall.link_detach(link)
    except OSError as exc:
        if exc.errno != errno.ENOLINK:  # cut already
            raise
    finally:
        os.close(link)
    pin.unlink()
