"""The kernel half as one thing: load a generation, open its maps, attach it, replace it, take it away."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.abi.structs import MAPS, U32
from agent.errors import KernelError, LoadError, MapError
from agent.kernel import grammar, links, loader, map_hooks, syscall
from agent.kernel.loader import Loaded, Request
from agent.kernel.maps import KernelMap
from agent.kernel.migrate import Migration, refuse_newer, schema_map
from agent.kernel.pins import Pins, ensure_bpffs, leave_bpffs
from agent.kernel.probe import Features
from agent.kernel.programs import HOOKS, PROMOTE_PACKETS, TAIL_ARRAYS, OnCgroup, OnMap, Program
from agent.kernel.ring import RingBuffer
from agent.log import event

_ON_CGROUPS = {hook.name: hook for hook in HOOKS if isinstance(hook.target, OnCgroup)}


@dataclass(frozen=True, slots=True)
class Attachment:
    """One program on one target, as the kernel reports it."""

    hook: str
    cgroup_id: int  # of a root; 0: its link is cut, or the hook is a map's
    program_id: int
    ours: bool  # it is this agent's program, not another that somebody has put into its place
    on_map: str = ""


class Datapath:
    """Programs and maps of one node. Holds a descriptor of each, so that a lost bpffs costs nothing meanwhile."""

    def __init__(
        self,
        pins: Pins,
        features: Features,
        entries: dict[str, int] | None = None,
        *,
        promote_packets: int = PROMOTE_PACKETS,
        cache: Path | None = None,
    ) -> None:
        """`cache`: a folder of compiled programs; None: they are compiled at each start."""
        self.pins, self.features, self._promote_packets = pins, features, promote_packets
        self._cache = cache
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
        self.kernel_only: dict[str, int] = {}  # descriptors of the maps that are no KernelMap, by name
        self._schema = -1
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
            entries=self._entries, promote_packets=self._promote_packets, cache=str(self._cache or ""),
        )  # fmt: skip
        try:
            loaded = loader.load(request)
        except LoadError:
            self.pins.remove_generation(generation)
            raise
        folder = self.pins.programs(generation)
        self.programs = {name: syscall.open_pin(str(folder / name)) for name in loaded.instructions}
        self._ids = {name: syscall.prog_info(fd).id for name, fd in self.programs.items()}
        self._tails = [syscall.open_pin(str(folder / name)) for name in TAIL_ARRAYS]
        self._open_maps()
        self.maps["grammar"].put(U32.pack(value=0), grammar.packed())
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
            self._attach_maps()
            covered = {self._attach_root(root) for root in roots} - {0}
            if covered:
                self._let_go_of_the_past(covered)
        except OSError as exc:
            raise KernelError(f"attach: {exc}") from exc

    def _attach_maps(self) -> None:
        """Hooks of maps come first: no socket is in such a map before a hook of a root has put it there."""
        for name, sockets, hook in self._map_hooks():
            try:
                map_hooks.attach(sockets, self.programs[hook.name], hook.attach_type)
            except OSError as exc:
                raise KernelError(f"attach {hook.name} to map {name}: {exc.strerror}") from exc

    def _map_hooks(self) -> list[tuple[str, int, Program]]:
        """Name and descriptor of the map, and the hook, of those that this generation has a program for."""
        return [
            (hook.target.name, self.kernel_only[hook.target.name], hook)
            for hook in HOOKS
            if isinstance(hook.target, OnMap) and hook.name in self.programs
        ]

    def _attach_root(self, root: Path) -> int:
        """Its cgroup id; 0 where it went before its event came."""
        try:
            cgroup_id = root.stat().st_ino
        except FileNotFoundError:
            return 0
        folder = self.pins.links / str(cgroup_id)
        folder.mkdir(parents=True, exist_ok=True)
        for hook in self.hooks():
            self._attach(root, cgroup_id, folder / hook, _ON_CGROUPS[hook])
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
            self._migration.finish(self.maps)
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
        wanted = [name for name in _ON_CGROUPS if folder is not None and (folder / name).exists()]
        lost = []
        for cgroup_id in sorted(self.pins.linked_roots()):
            there = {name for name in wanted if links.holds(self.pins.links / str(cgroup_id) / name)}
            lost += [f"{name} of cgroup {cgroup_id}" for name in wanted if there and name not in there]
        return tuple(lost)

    def hooks(self) -> list[str]:
        """Hooks of each root that this generation has a program for."""
        return [name for name in _ON_CGROUPS if name in self.programs]

    def map_hooks(self) -> list[str]:
        """Hooks of maps that this generation has a program for."""
        return [hook.name for _, _, hook in self._map_hooks()]

    def attached(self) -> list[Attachment]:
        """What the links of this agent are, asked from the kernel: a lost cgroup shows as id 0."""
        out = []
        for (_, hook), fd in self._links.items():
            info = syscall.link_info(fd)
            out.append(Attachment(hook, info.cgroup_id, info.prog_id, ours=info.prog_id == self._ids[hook]))
        for name, sockets, on_map in self._map_hooks():
            own = self._ids[on_map.name]
            found = map_hooks.attached(sockets, on_map.attach_type)
            there = own if found is None else found
            out.append(Attachment(on_map.name, 0, there, ours=there == own, on_map=name))
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
        held |= {self.pins.maps / name: fd for name, fd in self.kernel_only.items()}
        held[self.pins.schema] = self._schema
        held |= {folder / name: fd for name, fd in self.programs.items()}
        held |= dict(zip((folder / name for name in TAIL_ARRAYS), self._tails, strict=True))
        return held | {self.pins.links / str(cgroup) / hook: fd for (cgroup, hook), fd in self._links.items()}

    def close(self) -> None:
        """Let go of every descriptor. Pins stay, and with them enforcement."""
        if self._events is not None:
            self._events.close()
        for kernel_map in self.maps.values():
            kernel_map.close()
        own = [fd for fd in (self._schema, self._lock) if fd >= 0]
        for fd in (*self.kernel_only.values(), *self.programs.values(), *self._tails, *self._links.values(), *own):
            os.close(fd)
        self._schema = self._lock = -1
        self.maps, self.kernel_only, self.programs, self._tails, self._links, self._events = {}, {}, {}, [], {}, None

    def _open_maps(self) -> None:
        for name, spec in MAPS.items():
            fd = syscall.open_pin(str(self.pins.maps / name))
            if spec.kernel_only:
                self.kernel_only[name] = fd
            else:
                self.maps[name] = KernelMap(name, fd, spec)
        self._events = RingBuffer(os.dup(self.kernel_only["events"]))

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
            link = self._inherited(pin, fd) or (links.updated(pin, fd) if pin.exists() else None)
            if link is None:
                link = links.create(root, fd, program.attach_type)
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
            link = links.updated(old, program) if old.exists() else None
            if link is not None:
                old.rename(pin)
                return link
        return None


def detach(root: Path) -> int:
    """Take everything off the node that is pinned below `root`: links first, last a bpffs that an agent has mounted.

    Number of links and of programs on maps that were there.
    """
    pins = Pins(root)
    there = pins.all_links()
    for link in there:
        links.cut(link)
    on_maps = sum(_off_maps(each) for each in (pins, *pins.others()))
    pins.remove_all()
    leave_bpffs(root.parent)
    return len(there) + on_maps


def _off_maps(pins: Pins) -> int:
    """Take this version's programs off its maps of sockets: a map and its program may hold each other for ever."""
    taken = 0
    for generation in pins.generations():
        for hook in HOOKS:
            program = pins.programs(generation) / hook.name
            if isinstance(hook.target, OnMap) and program.exists():
                with links.opened(pins.maps / hook.target.name) as sockets, links.opened(program) as fd:
                    taken += map_hooks.detach(sockets, fd, hook.attach_type)
    return taken
