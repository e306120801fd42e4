"""Compiled programs in a folder, so that a start needs neither clang's seconds nor its memory.

A file is found by a digest of everything that bcc makes programs of: sources, headers, macros, bcc, kernel, machine.
What cannot be read, or is not whole, counts as absent.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import platform
import stat
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from agent.kernel.compiled import Compiled

_FORMAT = "1"
_KEPT = 16
_MAX_BYTES = 16 << 20


@dataclass(frozen=True, slots=True)
class ProgramCache:
    """One folder; any number of processes at once."""

    folder: Path

    def read(self, digest: str) -> Compiled | None:
        """None where there is none. Raises OSError and ValueError where it cannot be read."""
        try:
            fd = os.open(self._path(digest), os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        with os.fdopen(fd, "rb") as file:
            found = os.fstat(fd)
            if not stat.S_ISREG(found.st_mode):
                raise ValueError("it is no file")
            if found.st_uid != os.geteuid() or found.st_mode & 0o022:
                raise ValueError("others than this user may have written it")
            name, _, data = file.read(_MAX_BYTES).partition(b"\n")
            if name != digest.encode():
                raise ValueError("it is of other programs")
            compiled = Compiled.decode(data)
            with contextlib.suppress(OSError):  # on a disk that takes nothing
                os.utime(fd)
            return compiled

    def write(self, digest: str, compiled: Compiled) -> None:
        """Whole or not at all; of the others those that were used last stay. Raises OSError."""
        self.folder.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix="new-", delete=False) as file:
            try:
                file.write(digest.encode() + b"\n" + compiled.encode())
                file.close()
                os.replace(file.name, self._path(digest))
            except BaseException:
                Path(file.name).unlink(missing_ok=True)
                raise
        for path in self._oldest():
            path.unlink(missing_ok=True)

    def _path(self, digest: str) -> Path:
        return self.folder / f"{digest}.programs"

    def _oldest(self) -> list[Path]:
        """All but those that were used last; what a writer has left behind counts too."""
        ages = {}
        for entry in os.scandir(self.folder):
            with contextlib.suppress(FileNotFoundError):  # another writer's, put in place or taken away meanwhile
                found = entry.stat(follow_symlinks=False)
                if stat.S_ISREG(found.st_mode):
                    ages[Path(entry.path)] = found.st_mtime_ns
        return sorted(ages, key=ages.__getitem__)[:-_KEPT]


def digest_of(source: str, headers: Path, flags: Iterable[str], bcc: str) -> str:
    """`flags` without those that name folders: they do not change the programs."""
    parts = [_FORMAT, platform.release(), platform.machine(), bcc, source, *sorted(flags)]
    for path in sorted(each for each in headers.rglob("*.h") if each.is_file()):
        parts += [str(path.relative_to(headers)), path.read_text(encoding="utf-8")]
    found = hashlib.sha256()
    for part in parts:
        text = part.encode()
        found.update(len(text).to_bytes(8, "big") + text)
    return found.hexdigest()
