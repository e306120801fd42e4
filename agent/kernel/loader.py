"""The loader: a short-lived process that compiles bpf/ with bcc, loads and pins it, reports what it did, and exits.

LLVM's memory goes with it. It needs no kernel headers: bpf/include holds the few that bcc asks for. Run as
`python -m agent.kernel.loader` with a request as JSON on standard input; answers one JSON object on standard output.
"""

from __future__ import annotations

import contextlib
import inspect
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from agent.errors import LoadError
from agent.kernel import lsm, memory_group, syscall
from agent.kernel.pins import Pins
from agent.kernel.programs import (
    PROGRAMS,
    PROMOTE_PACKETS,
    TAIL_ARRAYS,
    Program,
    Tail,
    compiler_flags,
    source_folder,
    source_text,
)
from agent.kernel.syscall import ProgType

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


@dataclass(frozen=True, slots=True)
class Loaded:
    """What was loaded: instructions by program as the kernel counts them, and as the verifier walked them.

    `charged`: why the memory of new maps is charged to the agent's own group; "": it is not.
    """

    bcc: str
    instructions: dict[str, int]
    verified: dict[str, int]
    charged: str = ""


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
    os.environ["BCC_KERNEL_SOURCE"] = str(folder)
    try:
        import bcc  # noqa: PLC0415  the only import of bcc, in the only process that needs it
    except ImportError as exc:
        raise LoadError(f"bcc is not installed for this Python: {_INSTALL}") from exc
    except OSError as exc:
        raise LoadError(f"bcc's library is missing: {exc}: apt-get install libbpfcc") from exc
    _require(bcc)
    pins = Pins(Path(request.root))
    pins.maps.mkdir(parents=True, exist_ok=True)
    flags = compiler_flags(
        folder, pins.maps, request.entries, request.features, promote_packets=request.promote_packets
    )
    with _quiet_unless_failing():
        module = bcc.BPF(text=source_text(folder), cflags=flags)
        target = pins.programs(request.generation)
        target.mkdir(parents=True)
        wanted = [p for p in PROGRAMS if not p.needs or request.features[p.needs]]
        infos = {p.name: _load_program(module, p, target) for p in wanted}
    for name in TAIL_ARRAYS:
        syscall.pin(module[name].map_fd, str(target / name))
    return Loaded(
        bcc=bcc.__version__,
        instructions={name: info.instructions for name, info in infos.items()},
        verified={name: info.verified for name, info in infos.items()},
    )


def _require(bcc: Any) -> None:
    """LoadError where this bcc cannot load a connect hook, whose attach type the kernel wants to know at load."""
    if not hasattr(bcc, "BPF"):
        raise LoadError(f"{bcc.__file__} is not the BPF Compiler Collection: pip uninstall bcc, {_INSTALL}")
    if "attach_type" not in inspect.signature(bcc.BPF.load_func).parameters:
        raise LoadError(
            f"bcc {bcc.__version__} is too old: its load_func() takes no attach_type, without which connect hooks do "
            f"not load; needed is {BCC_FLOOR} or newer: Debian 12's, Ubuntu 24.04's"
        )


def _load_program(module: Any, program: Program, target: Path) -> syscall.ProgInfo:
    try:
        if program.prog_type is ProgType.LSM:  # bcc would load it for the whole machine
            fd = lsm.load(program.name, module.dump_func(program.name))
        else:
            fd = module.load_func(program.name, program.prog_type, attach_type=program.attach_type).fd
    except Exception as exc:  # bcc raises bare Exception
        raise LoadError(f"{program.name}: {exc}") from exc
    syscall.pin(fd, str(target / program.name))
    if isinstance(program.target, Tail):
        array = module[program.target.array].map_fd
        syscall.map_update(array, program.target.index.to_bytes(4, sys.byteorder), fd.to_bytes(4, sys.byteorder))
    return syscall.prog_info(fd)


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
