"""A generation of programs into the kernel: pinned, each tail in its array; of kept ones the maps too."""

from __future__ import annotations

import os
import sys
from collections.abc import Mapping
from pathlib import Path

from agent.abi.structs import MAPS
from agent.kernel import lsm, syscall
from agent.kernel.compiled import Compiled, MapDefinition, by_descriptor
from agent.kernel.pins import Pins
from agent.kernel.programs import TAIL_ARRAYS, Program, Tail
from agent.kernel.storage_btf import KEY, VALUE, storage_types
from agent.kernel.syscall import MapType, MapTypes, ProgInfo, ProgType


def install(compiled: Compiled, wanted: list[Program], pins: Pins, generation: int) -> dict[str, ProgInfo]:
    """Without bcc: maps that are pinned are used as they are. Raises OSError and LookupError; ValueError, before
    anything is made, where a map is not as this release has it."""
    for each in compiled.maps:
        spec = MAPS.get(each.name)
        if (
            spec is not None
            and not spec.kernel_only
            and (each.key_size, each.value_size) != (spec.key.size, spec.value.size)
        ):
            raise ValueError(f"map {each.name} is of other sizes")
    maps = {each.name: _map(each, pins) for each in compiled.maps}
    try:
        descriptors = [maps[each.name] for each in compiled.maps]
        programs = {}
        for program in wanted:
            code = by_descriptor(compiled.programs[program.name], descriptors)
            if program.prog_type is ProgType.LSM:
                programs[program] = lsm.load(program.name, code)
            else:
                programs[program] = syscall.load_program(program.prog_type, program.attach_type, code, program.name)
        try:
            return pin_generation(programs, maps, pins.programs(generation))
        finally:
            for fd in programs.values():
                os.close(fd)
    finally:
        for fd in maps.values():
            os.close(fd)


def pin_generation(programs: Mapping[Program, int], maps: Mapping[str, int], target: Path) -> dict[str, ProgInfo]:
    """Descriptors of programs and of their maps, by name, into a folder that is not there yet. Raises OSError."""
    target.mkdir(parents=True)
    for program, fd in programs.items():
        syscall.pin(fd, str(target / program.name))
        if isinstance(program.target, Tail):
            index = program.target.index.to_bytes(4, sys.byteorder)
            syscall.map_update(maps[program.target.array], index, syscall.descriptor(fd))
    for name in TAIL_ARRAYS:
        syscall.pin(maps[name], str(target / name))
    return {program.name: syscall.prog_info(fd) for program, fd in programs.items()}


def _map(wanted: MapDefinition, pins: Pins) -> int:
    """The pinned one, or a new one; what only programs know, like arrays of tails, is each generation's own."""
    path = str(pins.maps / wanted.name)
    if wanted.name not in MAPS:
        return _created(wanted)
    try:
        return syscall.open_pin(path)
    except FileNotFoundError:
        fd = _created(wanted)
        syscall.pin(fd, path)
        return fd


def _created(wanted: MapDefinition) -> int:
    types = None
    if wanted.map_type == MapType.SK_STORAGE:
        types = MapTypes(syscall.btf_load(storage_types(wanted.value_size)), KEY, VALUE)
    try:
        return syscall.map_create(
            wanted.map_type, wanted.key_size, wanted.value_size, wanted.entries, flags=wanted.flags,
            name=wanted.name, types=types,
        )  # fmt: skip
    finally:
        if types is not None:
            os.close(types.fd)
