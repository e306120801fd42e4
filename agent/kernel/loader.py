"""The loader: a short-lived process that compiles bpf/ with bcc, loads and pins it, reports what it did, and exits.

LLVM's memory goes with it. It needs no kernel headers: bpf/include holds the few that bcc asks for. Run as
`python -m agent.kernel.loader` with a request as JSON on standard input; answers one JSON object on standard output.
"""

from __future__ import annotations

import contextlib
import ctypes
import inspect
import json
import os
import struct
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.errors import LoadError
from agent.kernel import lsm, memory_group, syscall
from agent.kernel.compiled import Compiled, MapDefinition, by_place
from agent.kernel.install import install, pin_generation
from agent.kernel.pins import Pins
from agent.kernel.program_cache import ProgramCache, digest_of
from agent.kernel.programs import (
    PROGRAMS,
    PROMOTE_PACKETS,
    WARNINGS,
    Program,
    compiler_macros,
    source_folder,
    source_text,
)
from agent.kernel.syscall import MapType, ProgInfo, ProgType

BCC_FLOOR = "0.25"
_INSTALL = "apt-get install python3-bpfcc"
_PREFIX = "dagwall: "


@dataclass(frozen=True, slots=True)
class Request:
    """What to load: where to pin, as which generation, with which sizes and features."""

    root: str
    generation: int
    features: dict[str, bool]
    entries: dict[str, int] = field(default_factory=dict)
    promote_packets: int = PROMOTE_PACKETS
    cache: str = ""  # folder of compiled programs; "": none is used


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was loaded: instructions by program as the kernel counts them, and as the verifier walked them.

    `charged`: why the memory of new maps is charged to the agent's own group; "": it is not. `cached`: nothing was
    compiled. `cache_problem`: what was wrong with the cache; "": nothing.
    """

    bcc: str
    instructions: dict[str, int]
    verified: dict[str, int]
    charged: str = ""
    cached: bool = False
    cache_problem: str = ""


def load(request: Request, timeout_seconds: float = 600) -> Loaded:
    """Run the loader in a process of its own. Raises LoadError with the output of bcc or the verifier."""
    command = [sys.executable, "-m", "agent.kernel.loader"]
    environment = dict(os.environ, PYTHONPATH=os.pathsep.join([str(Path(__file__).parents[2]), *sys.path]))
    try:
        done = subprocess.run(
            command, input=json.dumps(asdict(request)), capture_output=True, text=True, check=False,
            timeout=timeout_seconds, env=environment,
        )  # fmt: skip
    except subprocess.TimeoutExpired as exc:
        raise LoadError(f"the loader did not end within {timeout_seconds:.0f} s") from exc
    if done.returncode != 0:
        raise LoadError(_reason(done.stderr))
    return Loaded(**json.loads(done.stdout.splitlines()[-1]))


def _reason(said: str, lines: int = 40) -> str:
    """Its own one line, or the end of what clang or the verifier wrote."""
    text = "\n".join(said.strip().splitlines()[-lines:])
    if "\n" not in text and text.startswith(_PREFIX):
        return text.removeprefix(_PREFIX)
    return f"the programs did not load:\n{text}"


def _main() -> None:
    request = Request(**json.load(sys.stdin))
    syscall.raise_memlock()
    charged = memory_group.leave()
    print(json.dumps(asdict(replace(_load_here(request), charged=charged))))


def _load_here(request: Request) -> Loaded:
    folder = source_folder()
    bcc = _bcc(folder)
    pins = Pins(Path(request.root))
    pins.maps.mkdir(parents=True, exist_ok=True)
    macros = compiler_macros(request.entries, request.features, promote_packets=request.promote_packets)
    wanted = [p for p in PROGRAMS if not p.needs or request.features[p.needs]]
    source = source_text(folder)
    kept = _Kept(request.cache, digest_of(source, folder, macros, bcc.__version__))
    infos = kept.install(wanted, pins, request.generation)
    if infos is None:
        flags = [f"-I{folder}", f'-DPIN_MAPS="{pins.maps}"', *macros, *WARNINGS]
        with _quiet_unless_failing():
            module = bcc.BPF(text=source, cflags=flags)
            maps = _maps(bcc.lib, module.module)
            programs = {program: _load_program(module, program) for program in wanted}
            descriptors = {definition.name: fd for fd, definition in maps.items()}
            infos = pin_generation(programs, descriptors, pins.programs(request.generation))
        kept.write(maps, {p.name: module.dump_func(p.name) for p in wanted})
    return Loaded(
        bcc=bcc.__version__,
        instructions={name: info.instructions for name, info in infos.items()},
        verified={name: info.verified for name, info in infos.items()},
        cached=kept.found,
        cache_problem=kept.problem,
    )


class _Kept:
    """The cache as this start uses it: whatever is wrong with it, the programs are compiled."""

    def __init__(self, folder: str, digest: str) -> None:
        self._cache = ProgramCache(Path(folder)) if folder else None
        self._digest, self.found, self.problem = digest, False, ""

    def install(self, wanted: list[Program], pins: Pins, generation: int) -> dict[str, ProgInfo] | None:
        """None: not by these. What they have left is gone again, but for maps, which are what bcc would make."""
        try:
            compiled = self._cache.read(self._digest) if self._cache is not None else None
            if compiled is None:
                return None
            infos = install(compiled, wanted, pins, generation)
        except (OSError, ValueError, LookupError, TypeError, AttributeError, RecursionError, struct.error) as exc:
            pins.remove_generation(generation)
            self.problem = f"{self._digest}: {exc}"
            return None
        self.found = True
        return infos

    def write(self, maps: dict[int, MapDefinition], programs: dict[str, bytes]) -> None:
        """The programs are in force already: what cannot be kept is a problem of the cache alone."""
        try:
            if self._cache is not None:
                self._cache.write(self._digest, _compiled(maps, programs))
        except (OSError, LookupError) as exc:
            self.problem = f"{self.problem}; {exc}" if self.problem else str(exc)


def _bcc(folder: Path) -> Any:
    os.environ["BCC_KERNEL_SOURCE"] = str(folder)
    try:
        import bcc  # noqa: PLC0415  the only import of bcc, in the only process that needs it
    except ImportError as exc:
        raise LoadError(f"bcc is not installed for this Python: {_INSTALL}") from exc
    except OSError as exc:
        raise LoadError(f"bcc's library is missing: {exc}: apt-get install libbpfcc") from exc
    if not hasattr(bcc, "BPF"):
        raise LoadError(f"{bcc.__file__} is not the BPF Compiler Collection: pip uninstall bcc, {_INSTALL}")
    if "attach_type" not in inspect.signature(bcc.BPF.load_func).parameters:
        raise LoadError(
            f"bcc {bcc.__version__} is too old: its load_func() takes no attach_type, without which connect hooks do "
            f"not load; needed is {BCC_FLOOR} or newer: Debian 12's, Ubuntu 24.04's"
        )
    return bcc


def _load_program(module: Any, program: Program) -> int:
    """Its descriptor."""
    try:
        if program.prog_type is ProgType.LSM:  # bcc would load it for the whole machine
            return lsm.load(program.name, module.dump_func(program.name))
        return int(module.load_func(program.name, program.prog_type, attach_type=program.attach_type).fd)
    except Exception as exc:  # bcc raises bare Exception
        raise LoadError(f"{program.name}: {exc}") from exc


def _maps(lib: Any, module: Any) -> dict[int, MapDefinition]:
    """All that were compiled, by descriptor; of a map that was pinned before too, what bpf/maps.c wants."""
    lib.bpf_table_name.restype, lib.bpf_table_name.argtypes = ctypes.c_char_p, [ctypes.c_void_p, ctypes.c_size_t]
    lib.bpf_num_tables.restype, lib.bpf_num_tables.argtypes = ctypes.c_size_t, [ctypes.c_void_p]
    for of in (lib.bpf_table_key_size_id, lib.bpf_table_leaf_size_id):
        of.restype, of.argtypes = ctypes.c_size_t, [ctypes.c_void_p, ctypes.c_size_t]
    found = {}
    for number in range(lib.bpf_num_tables(module)):
        name, kind = lib.bpf_table_name(module, number), lib.bpf_table_type_id(module, number)
        key, value = lib.bpf_table_key_size_id(module, number), lib.bpf_table_leaf_size_id(module, number)
        if kind == MapType.RINGBUF:  # the kernel wants none
            key = value = 0
        entries, flags = lib.bpf_table_max_entries_id(module, number), lib.bpf_table_flags_id(module, number)
        found[lib.bpf_table_fd(module, name)] = MapDefinition(name.decode(), kind, key, value, entries, flags)
    return found


def _compiled(maps: dict[int, MapDefinition], programs: dict[str, bytes]) -> Compiled:
    places = {fd: place for place, fd in enumerate(maps)}
    return Compiled(tuple(maps.values()), {name: by_place(code, places) for name, code in programs.items()})


@contextlib.contextmanager
def _quiet_unless_failing() -> Iterator[None]:
    """clang and the verifier write to descriptor 2 themselves: keep that for the error, drop it otherwise."""
    saved = os.dup(2)
    with tempfile.TemporaryFile() as said:
        os.dup2(said.fileno(), 2)
        try:
            yield
        except BaseException:
            os.dup2(saved, 2)
            said.seek(0)
            sys.stderr.write(said.read().decode(errors="replace"))
            raise
        finally:
            os.dup2(saved, 2)
            os.close(saved)


if __name__ == "__main__":
    try:
        _main()
    except LoadError as error:
        sys.exit(f"{_PREFIX}{error}")
