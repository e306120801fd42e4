"""Programs from the cache are the ones that bcc loads, and whatever is wrong with the cache, they are compiled."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest

from agent.errors import MapError
from agent.kernel import syscall
from agent.kernel.compiled import Compiled
from agent.kernel.datapath import Datapath, detach
from agent.kernel.instructions import EXIT
from agent.kernel.loader import Loaded
from agent.kernel.pins import Pins
from agent.kernel.probe import features
from lab.node import ScratchNode, cgroup_mount


@contextmanager
def loaded(cache: Path, **entries: int) -> Iterator[tuple[Datapath, Loaded]]:
    with ScratchNode() as node:
        datapath = Datapath(Pins(node.bpffs / "dagwall"), features(cgroup_mount()), entries, cache=cache)
        try:
            yield datapath, datapath.load()
        finally:
            detach(node.bpffs / "dagwall")
            datapath.close()


def maps_of(datapath: Datapath) -> dict[str, bytes]:
    """What the kernel knows of each pinned map, but its number, times and types: its sizes, flags, name and so on."""
    found = {}
    for path in datapath.pins.maps.iterdir():
        fd = syscall.open_pin(str(path))
        raw = syscall._info(fd, 80)
        os.close(fd)
        found[path.name] = raw[:4] + raw[8:40]
    return found


def tags_of(datapath: Datapath) -> dict[str, bytes]:
    """The kernel's digest of each program's instructions, without the numbers of its maps."""
    return {name: syscall._info(fd, 232)[8:16] for name, fd in datapath.programs.items()}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With what one start has left there."""
    folder = tmp_path_factory.mktemp("programs")
    with loaded(folder) as (_, first):
        assert (first.cached, first.cache_problem) == (False, "")
    return folder


def test_programs_and_maps_are_what_bcc_makes(cache: Path, tmp_path: Path) -> None:
    with loaded(tmp_path) as (compiled, first), loaded(cache) as (kept, second):
        assert (first.cached, second.cached, second.cache_problem) == (False, True, "")
        assert second.instructions == first.instructions
        assert tags_of(kept) == tags_of(compiled)
        assert len(tags_of(kept)) == len(first.instructions) > 20
        assert maps_of(kept) == maps_of(compiled)
        assert len(maps_of(kept)) > 20


def test_other_sizes_are_other_programs(cache: Path, tmp_path: Path) -> None:
    (path,) = cache.iterdir()
    (tmp_path / path.name).write_bytes(path.read_bytes())
    for cached in (False, True):
        with loaded(tmp_path, flows=4096) as (datapath, found):
            assert found.cached == cached
            assert int.from_bytes(maps_of(datapath)["flows"][12:16], "little") == 4096


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:1000])


def _pipe(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


def _refused_by_the_verifier(path: Path) -> None:
    """A whole file of a program that returns what it has not set: as if it were another kernel's."""
    digest, _, data = path.read_bytes().partition(b"\n")
    found = Compiled.decode(data)
    path.write_bytes(digest + b"\n" + replace(found, programs=dict.fromkeys(found.programs, EXIT)).encode())


def _without_a_program(path: Path) -> None:
    digest, _, data = path.read_bytes().partition(b"\n")
    found = Compiled.decode(data)
    path.write_bytes(digest + b"\n" + replace(found, programs=dict(list(found.programs.items())[1:])).encode())


@pytest.mark.parametrize("harm", [_cut, _pipe, _refused_by_the_verifier, _without_a_program])
def test_whatever_is_wrong_with_it_the_programs_are_compiled(
    harm: Callable[[Path], None], cache: Path, tmp_path: Path
) -> None:
    (path,) = cache.iterdir()
    copy = tmp_path / path.name
    copy.write_bytes(path.read_bytes())
    copy.chmod(0o600)
    harm(copy)
    with loaded(tmp_path) as (_, first):
        assert not first.cached
        assert path.name.removesuffix(".programs") in first.cache_problem
    with loaded(tmp_path) as (_, second):
        assert (second.cached, second.cache_problem) == (True, "")


def test_a_folder_that_takes_nothing_is_no_reason_to_end(tmp_path: Path) -> None:
    (tmp_path / "programs").write_text("a file where the folder should be")
    with loaded(tmp_path / "programs") as (datapath, found):
        assert (found.cached, len(datapath.programs)) == (False, len(found.instructions))
        assert found.cache_problem


def test_sizes_of_odd_pins_are_not_kept(tmp_path: Path) -> None:
    """A map of another release's sizes has the start refused; a start without it is as good as ever."""
    with ScratchNode() as node:
        pins = Pins(node.bpffs / "dagwall")
        pins.maps.mkdir(parents=True)
        odd = syscall.map_create(syscall.MapType.ARRAY, 4, 80, 1)
        syscall.pin(odd, str(pins.maps / "config"))
        os.close(odd)
        datapath = Datapath(pins, features(cgroup_mount()), cache=tmp_path)
        with pytest.raises(MapError):
            datapath.load()
        detach(pins.root)
        datapath.close()
    with loaded(tmp_path) as (datapath, found):
        assert (found.cached, found.cache_problem) == (True, "")
        assert len(maps_of(datapath)) > 20
