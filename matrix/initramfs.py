"""The guest's initramfs: the few modules that reach the shared folders, busybox, and init.sh, as one cpio archive."""

from __future__ import annotations

import gzip
import lzma
import stat
import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

NEEDED = ("virtio_pci", "virtiofs", "9p", "9pnet_virtio", "overlay")
"""Modules by name; those that a kernel has built in are in no list of it."""

_FOLDERS = ("bin", "dev", "proc", "sys", "modules", "lower", "upper", "share", "root")


def module_name(path: str) -> str:
    """`kernel/fs/fuse/virtio-fs.ko.xz` is module `virtio_fs`."""
    return path.rsplit("/", 1)[-1].split(".ko", 1)[0].replace("-", "_")


def load_order(modules_dep: str, wanted: Iterable[str]) -> list[str]:
    """Paths of the wanted modules, each after those that it needs. `modules_dep` is as depmod writes it."""
    needs: dict[str, list[str]] = {}
    paths: dict[str, str] = {}
    for line in modules_dep.splitlines():
        path, _, rest = line.partition(":")
        needs[path] = rest.split()
        paths[module_name(path)] = path
    order: dict[str, None] = {}
    for name in wanted:
        if name in paths:
            path = paths[name]
            order.update(dict.fromkeys([*reversed(needs[path]), path]))
    return list(order)


def cpio(files: Mapping[str, tuple[int, bytes]]) -> bytes:
    """A `newc` archive of name: (mode, content), owned by root, in the given order."""
    out = bytearray()
    for number, (name, (mode, content)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))], start=1):
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, 0, 0, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % value for value in fields) + name.encode() + b"\0"
        out += bytes(-len(out) % 4)
        out += content
        out += bytes(-len(out) % 4)
    return bytes(out)


def build(modules: Path | None, busybox: Path, files: Mapping[str, str]) -> bytes:
    """The archive of a guest: `modules` is its /lib/modules/RELEASE (None: everything is built in).

    `files` (init among them) go to the root, executable.
    """
    tree: dict[str, tuple[int, bytes]] = dict.fromkeys(_FOLDERS, (stat.S_IFDIR | 0o755, b""))
    tree["bin/busybox"] = (stat.S_IFREG | 0o755, busybox.read_bytes())
    order = load_order((modules / "modules.dep").read_text(), NEEDED) if modules else []
    for path in order:
        tree[f"modules/{module_name(path)}.ko"] = (stat.S_IFREG | 0o644, _unpacked((modules or Path()) / path))
    names = "".join(f"{module_name(path)}.ko\n" for path in order)
    tree["modules/order"] = (stat.S_IFREG | 0o644, names.encode())
    tree |= {name: (stat.S_IFREG | 0o755, text.encode()) for name, text in files.items()}
    return cpio(tree)


def _unpacked(path: Path) -> bytes:
    data = path.read_bytes()
    match path.suffix:
        case ".xz":
            return lzma.decompress(data)
        case ".gz":
            return gzip.decompress(data)
        case ".zst":
            return subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=True).stdout
    return data
