"""Kernels and root file systems of Debian's suites, by an apt with a state of its own, not the machine's."""

from __future__ import annotations

import fcntl
import os
import re
import shutil
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

KEYRING = Path("/usr/share/keyrings/debian-archive-keyring.gpg")
KERNEL_SUITES = {"5.10": "bullseye", "6.1": "bookworm", "6.12": "trixie", "sid": "sid"}
"""What Debian's releases run, and its newest."""

_IMAGE = "linux-image-cloud-amd64"  # small, with virtiofs
_PARTS = re.compile(r"\b(linux-(?:image|binary|modules|base)-[0-9][\w.+~-]*)")

Say = Callable[[str], None]


class MatrixError(Exception):
    """Something that the matrix needs is not there; the message is for a person."""


@dataclass(frozen=True, slots=True)
class Kernel:
    """A kernel to boot. `modules`: its /lib/modules/RELEASE; None where all it needs is built in."""

    name: str
    image: Path
    release: str
    modules: Path | None


def cache_folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(os.environ.get("DAGWALL_MATRIX_CACHE") or f"{base}/dagwall/matrix")


def parts_of(depends: str) -> list[str]:
    """Packages of a kernel that a `Depends:` line of its metapackage or image names."""
    return [name for name in _PARTS.findall(depends) if not name.endswith("-unsigned")]


def release_of(image: bytes) -> str:
    """The release that a bzImage says it is (boot protocol 2.00: a string at 0x200 + the word at 0x20e)."""
    if image[0x202:0x206] != b"HdrS":
        raise MatrixError("not an x86 bzImage")
    start = int.from_bytes(image[0x20E:0x210], "little") + 0x200
    return image[start : image.index(b"\0", start)].decode().split()[0]


def given_kernel(image: Path, modules: Path | None) -> Kernel:
    """A kernel of the user's.

    Its modules are in the folder given, else where the image's own root has them, else where the machine has.
    """
    release = release_of(image.read_bytes())
    beside = image.resolve().parent.parent / "lib/modules" / release
    found = [folder for folder in (modules, beside, Path("/lib/modules") / release) if folder and folder.is_dir()]
    if modules is not None and found[:1] != [modules]:
        raise MatrixError(f"{modules} is not a folder")
    if found and not (found[0] / "modules.dep").exists():
        raise MatrixError(f"{found[0]} has no modules.dep: run depmod")
    return Kernel(image.name, image.resolve(), release, found[0] if found else None)


def fetch_kernel(name: str, say: Say, *, update: bool = False) -> Kernel:
    """The kernel of a suite, from the cache or from Debian's archive."""
    suite = KERNEL_SUITES.get(name)
    if suite is None:
        raise MatrixError(f"no kernel {name}: known are {', '.join(KERNEL_SUITES)}, or the path of an image")
    folder = cache_folder() / "kernels" / name
    with _lock(folder):
        if update or not (folder / "complete").exists():
            say(f"fetching {suite}'s kernel")
            _unpack_kernel(suite, folder)
    (release,) = [entry.name for entry in (folder / "usr/lib/modules").iterdir()]
    image = next(path for path in (folder / f"boot/vmlinuz-{release}", _in_modules(folder, release)) if path.exists())
    return Kernel(name, image, release, folder / "usr/lib/modules" / release)


def _in_modules(folder: Path, release: str) -> Path:
    return folder / "usr/lib/modules" / release / "vmlinuz"  # newer packages have it there


def _unpack_kernel(suite: str, folder: Path) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    (folder / "usr/lib").mkdir(parents=True)
    (folder / "lib").symlink_to("usr/lib")  # one layout for packages from before and after the merge
    apt = _Apt(suite)
    wanted, seen = [_IMAGE], set[str]()
    while wanted:
        package = wanted.pop()
        if package not in seen:
            seen.add(package)
            wanted += parts_of(apt.depends(package))
    downloads = folder / "packages"
    downloads.mkdir()
    for package in sorted(seen - {_IMAGE}):
        apt.run("apt-get", "download", package, cwd=downloads)
    for package_file in sorted(downloads.glob("*.deb")):
        unpacked = subprocess.run(
            ["dpkg-deb", "--fsys-tarfile", package_file], capture_output=True, check=True
        ).stdout
        command = ["tar", "-x", "--keep-directory-symlink", "-C", str(folder), "-f", "-"]
        subprocess.run(command, input=unpacked, check=True)
    shutil.rmtree(downloads)
    for release in (folder / "usr/lib/modules").iterdir():
        _checked(["depmod", "-b", str(folder), release.name])
    (folder / "complete").touch()


class _Apt:
    """apt on one suite, with lists, cache and status below our own cache."""

    def __init__(self, suite: str) -> None:
        state = cache_folder() / "apt" / suite
        for folder in ("lists/partial", "cache/archives/partial"):
            (state / folder).mkdir(parents=True, exist_ok=True)
        (state / "sources.list").write_text(f"deb [signed-by={KEYRING}] {mirror()} {suite} main\n")
        settings = {
            "Dir::Etc::SourceList": state / "sources.list", "Dir::Etc::SourceParts": "/dev/null",
            "Dir::State::Lists": state / "lists", "Dir::State::Status": "/dev/null", "Dir::Cache": state / "cache",
            "APT::Sandbox::User": "root", "APT::Default-Release": "",
        }  # fmt: skip
        self._options = [word for key, value in settings.items() for word in ("-o", f"{key}={value}")]
        self.run("apt-get", "update")

    def run(self, program: str, *arguments: str, cwd: Path | None = None) -> str:
        return _checked([program, "-qq", *self._options, *arguments], cwd=cwd)

    def depends(self, package: str) -> str:
        said = self.run("apt-cache", "show", "--no-all-versions", package)
        return " ".join(line for line in said.splitlines() if line.startswith("Depends:"))


def mirror() -> str:
    """The Debian mirror that this machine's apt uses; Debian's own where it uses none."""
    listed = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI)"], capture_output=True, text=True, check=False
    )
    return next((uri for uri in listed.stdout.split() if uri.endswith("/debian/")), "http://deb.debian.org/debian/")


def root_file_system(
    suite: str, name: str, packages: str, say: Say, *, variant: str, extra: str = "", update: bool = False
) -> Path:
    """A folder with these packages and all they need. Variant `extract`: unpacked only; `minbase`: to be run in.

    `extra` is a further suite, for packages that are written `NAME/SUITE`.
    """
    folder = cache_folder() / "roots" / name
    with _lock(folder):
        if update or not folder.with_suffix(".complete").exists():
            say(f"unpacking {suite}'s {packages}")
            folder.with_suffix(".complete").unlink(missing_ok=True)
            shutil.rmtree(folder, ignore_errors=True)
            _checked([
                "mmdebstrap", "--quiet", f"--variant={variant}", f"--include={packages}",
                '--aptopt=APT::Install-Recommends "false"', *_expired_lists(), f"--keyring={KEYRING}",
                suite, str(folder), *(f"deb {mirror()} {source} main" for source in (suite, extra) if source),
            ])  # fmt: skip
            folder.with_suffix(".complete").touch()
    return folder


def _expired_lists() -> list[str]:
    """What this machine's apt makes of lists that are past their date: a mirror may be a snapshot."""
    said = subprocess.run(
        ["apt-config", "dump", "Acquire::Check-Valid-Until"], capture_output=True, text=True, check=False
    )
    return [f"--aptopt={line}" for line in said.stdout.splitlines()]


def _checked(command: list[str], cwd: Path | None = None) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=cwd)
    if done.returncode:
        raise MatrixError(f"{command[0]} failed:\n" + "\n".join((done.stdout + done.stderr).splitlines()[-15:]))
    return done.stdout


@contextmanager
def _lock(folder: Path) -> Iterator[None]:
    """One process fills a folder of the cache; another waits for it."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    with folder.with_suffix(".lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
