"""Compiled programs in a file: whole, of this user, or not at all."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from agent.kernel.compiled import Compiled, MapDefinition, by_descriptor, by_place
from agent.kernel.instructions import EXIT, set_register
from agent.kernel.program_cache import ProgramCache, digest_of

LOADS_MAP = bytes.fromhex("1811000009000000" + "0000000000000000")  # r1 = the map of descriptor 9
LOADS_NUMBER = bytes.fromhex(
    "1801000009000000" + "1811000009000000"
)  # r1 = 0x9_00000009: its second half looks alike
COMPILED = Compiled((MapDefinition("config", 2, 4, 8, 1, 0),), {"one": EXIT, "two": set_register(0, 1) + EXIT})


def test_maps_are_named_by_place_and_numbers_stay() -> None:
    code = LOADS_MAP + LOADS_NUMBER + LOADS_MAP + EXIT
    kept = by_place(code, {9: 0})
    assert kept == LOADS_MAP.replace(b"\x09", b"\0") + LOADS_NUMBER + LOADS_MAP.replace(b"\x09", b"\0") + EXIT
    assert by_descriptor(kept, [9]) == code
    with pytest.raises(LookupError):
        by_place(code, {8: 0})


def test_what_was_written_is_read(tmp_path: Path) -> None:
    cache = ProgramCache(tmp_path / "programs")
    assert cache.read("a") is None
    cache.write("a", COMPILED)
    assert cache.read("a") == COMPILED
    assert cache.read("b") is None


@pytest.mark.parametrize("cut", [0, 1, 64, 70, -1])
def test_a_cut_file_is_refused(cut: int, tmp_path: Path) -> None:
    ProgramCache(tmp_path).write("a", COMPILED)
    (path,) = tmp_path.iterdir()
    path.write_bytes(b"a\n" + path.read_bytes()[2:][:cut])
    with pytest.raises(ValueError, match="checksum"):
        ProgramCache(tmp_path).read("a")


def test_a_file_of_other_programs_is_refused(tmp_path: Path) -> None:
    ProgramCache(tmp_path).write("a", COMPILED)
    (path,) = tmp_path.iterdir()
    path.rename(tmp_path / "b.programs")
    with pytest.raises(ValueError, match="other programs"):
        ProgramCache(tmp_path).read("b")


def test_a_changed_byte_is_refused(tmp_path: Path) -> None:
    ProgramCache(tmp_path).write("a", COMPILED)
    (path,) = tmp_path.iterdir()
    path.write_bytes(path.read_bytes().replace(b"config", b"konfig"))
    with pytest.raises(ValueError, match="checksum"):
        ProgramCache(tmp_path).read("a")


def test_what_is_no_file_or_others_could_write_is_refused(tmp_path: Path) -> None:
    cache = ProgramCache(tmp_path)
    os.mkfifo(tmp_path / "pipe.programs")
    with pytest.raises(ValueError, match="no file"):
        cache.read("pipe")
    (tmp_path / "folder.programs").mkdir()
    with pytest.raises((ValueError, OSError)):
        cache.read("folder")
    cache.write("a", COMPILED)
    (tmp_path / "link.programs").symlink_to(tmp_path / "a.programs")
    with pytest.raises(OSError, match="symbolic links"):
        cache.read("link")
    (tmp_path / "a.programs").chmod(0o666)
    with pytest.raises(ValueError, match="others"):
        cache.read("a")


def test_those_that_were_used_last_stay(tmp_path: Path) -> None:
    cache = ProgramCache(tmp_path)
    for number in range(16):
        cache.write(f"{number:02}", COMPILED)
        os.utime(tmp_path / f"{number:02}.programs", (number, number))
    (tmp_path / "new-left").write_bytes(b"of a writer that died")
    os.utime(tmp_path / "new-left", (1, 1))
    assert cache.read("00") == COMPILED
    cache.write("more", COMPILED)
    left = {path.name.removesuffix(".programs") for path in tmp_path.iterdir()}
    assert left == {"00", "more", *(f"{number:02}" for number in range(2, 16))}


def test_whatever_the_programs_depend_on_makes_another_digest(tmp_path: Path) -> None:
    (tmp_path / "a.h").write_text("#define A 1")
    first = digest_of("source", tmp_path, ["-DB=1", "-DC=2"], "0.26")
    assert digest_of("source", tmp_path, ["-DC=2", "-DB=1"], "0.26") == first
    others = {
        digest_of("sourc", tmp_path, ["-DB=1", "-DC=2"], "0.26"),
        digest_of("source", tmp_path, ["-DB=1"], "0.26"),
        digest_of("source", tmp_path, ["-DB=1", "-DC=2"], "0.27"),
    }
    (tmp_path / "a.h").write_text("#define A 2")
    others.add(digest_of("source", tmp_path, ["-DB=1", "-DC=2"], "0.26"))
    assert len(others | {first}) == 5
