"""The matrix without a guest: what its records say, what counts as failed, what is packed for a boot."""

from __future__ import annotations

import re
import stat
import subprocess
from pathlib import Path
from typing import Any

import pytest

from matrix import bcc, debian, initramfs, report
from matrix.debian import MatrixError, parts_of, release_of
from matrix.report import Result
from matrix.tools import major_version
from matrix.vm import complete_lines

BOOT = {"kind": "boot", "kernel": "6.1.0-40-cloud-amd64", "python": "3.11.2", "seconds": 4.5}
FEATURES = {"kind": "features", "set_retval": True, "sockops": False}
PROGRAMS = {"kind": "programs", "bcc": "0.26.0", "programs": {"egress": [291, 783], "sockops": [0, 52]}}
COLLECTED = {"kind": "collected", "tests": 2}
PASSED = [{"kind": "test", "name": f"t::{name}", "outcome": "passed"} for name in "ab"]
START = {"kind": "start", "name": "t::a"}
FAILED = {"kind": "test", "name": "t::a", "outcome": "failed", "text": "assert 0"}
SKIPPED = {"kind": "test", "name": "t::b", "outcome": "skipped"}
END = [{"kind": "pytest", "code": 0}, {"kind": "end"}]
GOOD = [BOOT, FEATURES, PROGRAMS, COLLECTED, *PASSED, *END]


def result(records: list[dict[str, Any]], expected: int | None = 2, problem: str = "") -> Result:
    made = Result("6.1", expected)
    for record in records:
        made.take(record)
    made.problem = made.problem or problem
    return made


def test_all_tests_passed_is_ok() -> None:
    assert result(GOOD).verdict() == "ok"


@pytest.mark.parametrize(
    ("records", "expected", "verdict"),
    [
        ([], 2, "the guest did not boot"),
        ([BOOT], 2, "the guest ended early"),
        (GOOD[:-1], 2, "the guest ended early"),
        ([BOOT, PROGRAMS, COLLECTED, START], 2, "the guest ended early, in t::a"),
        ([BOOT, {"kind": "end"}], 2, "no programs were loaded"),
        ([BOOT, {"kind": "refused", "error": "egress: too big\nmore"}, {"kind": "end"}], 2, "egress: too big"),
        ([BOOT, PROGRAMS, {"kind": "collected", "tests": 0}, *END], 2, "no test ran"),
        ([BOOT, PROGRAMS, {"kind": "collected", "tests": 0}, *END], None, "no test ran"),
        ([BOOT, PROGRAMS, COLLECTED, FAILED, PASSED[1], *END], 2, "1 failed"),
        ([BOOT, PROGRAMS, COLLECTED, PASSED[0], FAILED, FAILED, *END], 2, "1 failed"),
        ([BOOT, PROGRAMS, COLLECTED, PASSED[0], SKIPPED, *END], 2, "1 of 2 tests passed, 1 skipped"),
        (GOOD, 3, "2 of 3 tests passed, 0 skipped"),
        ([BOOT, PROGRAMS, COLLECTED, PASSED[0], *END], None, "1 of 2 tests passed, 0 skipped"),
        ([BOOT, PROGRAMS, COLLECTED, *PASSED, {"kind": "pytest", "code": 3}, END[1]], 2, "pytest exited with 3"),
    ],
)
def test_whatever_is_not_known_to_be_good_is_bad(
    records: list[dict[str, Any]], expected: int | None, verdict: str
) -> None:
    assert result(records, expected).verdict() == verdict


def test_a_guest_that_was_given_up_failed_even_if_its_tests_had_passed() -> None:
    assert result(GOOD, problem="not done within 900 s").verdict() == "not done within 900 s"


def test_a_loader_that_must_refuse_has_to_say_why() -> None:
    said = [BOOT, {"kind": "refused", "error": "bcc 0.18.0 is too old: it lacks something"}, END[1]]
    for records, verdict in ((said, "ok"), (GOOD, "not refused with: bcc 0.18.0"), (said[:2], "the guest ended")):
        made = Result("old", 0, must_refuse="bcc 0.18.0")
        for record in records:
            made.take(record)
        assert made.verdict().startswith(verdict)
    assert bcc.table([made])[1][:3] == ["old", "3.11.2", "0.18.0"]


def test_a_panic_and_a_hang_name_the_test_that_ran() -> None:
    assert result([BOOT, START], problem="not done within 900 s").verdict() == "not done within 900 s, in t::a"
    console = "[ 1.0] ok\n[ 2.0] Kernel panic - not syncing: Fatal exception in interrupt\n[ 2.1] Call Trace:\n"
    assert report.panic(console) == "Kernel panic - not syncing: Fatal exception in interrupt"
    assert not report.panic("[ 1.0] ok\n")


def test_without_tests_the_programs_are_enough() -> None:
    assert result([BOOT, FEATURES, PROGRAMS, END[1]], expected=0).verdict() == "ok"
    assert result([BOOT, FEATURES, END[1]], expected=0).verdict() == "no programs were loaded"


def test_the_table_has_a_column_for_each_kernel_and_says_what_is_not_known() -> None:
    rows = report.table([result(GOOD), Result("5.10")])
    assert rows[0] == ["", "6.1", "5.10"]
    assert ["program egress", "291/783", "-"] in rows
    assert ["program sockops", "52", "-"] in rows
    assert ["feature set_retval", "yes", "-"] in rows
    assert ["feature sockops", "no", "-"] in rows
    assert ["tests passed", "2 of 2", "-"] in rows
    assert rows[-1] == ["result", "ok", "FAILED"]
    assert len({len(line) for line in rows}) == 1


def test_markdown_and_text_have_every_cell() -> None:
    rows = [["", "a"], ["b|c", "d"]]
    assert report.markdown(rows) == "|  | a |\n| --- | --- |\n| b/c | d |\n"
    assert report.text(rows).splitlines() == ["     a", "------", "b|c  d"]


def test_what_stands_between_the_markers_is_replaced_and_nothing_else() -> None:
    document = "before\n<!-- kernels -->\nold\n<!-- /kernels -->\nafter\n"
    once = report.spliced(document, "kernels", "| new |\n")
    assert once == "before\n<!-- kernels -->\n\n| new |\n\n<!-- /kernels -->\nafter\n"
    assert report.spliced(once, "kernels", "| new |\n") == once
    with pytest.raises(ValueError, match="bcc"):
        report.spliced(document, "bcc", "")


def test_modules_come_after_what_they_need() -> None:
    dep = (
        "kernel/fs/fuse/virtiofs.ko.xz: kernel/drivers/virtio/virtio.ko.xz kernel/fs/fuse/fuse.ko.xz\n"
        "kernel/fs/fuse/fuse.ko.xz:\n"
        "kernel/drivers/virtio/virtio.ko.xz:\n"
        "kernel/drivers/virtio/virtio-pci.ko.xz: kernel/drivers/virtio/virtio_ring.ko.xz "
        "kernel/drivers/virtio/virtio.ko.xz\n"
        "kernel/drivers/virtio/virtio_ring.ko.xz: kernel/drivers/virtio/virtio.ko.xz\n"
    )
    names = [initramfs.module_name(path) for path in initramfs.load_order(dep, ("virtio_pci", "virtiofs", "9p"))]
    assert names == ["virtio", "virtio_ring", "virtio_pci", "fuse", "virtiofs"]


def test_an_archive_is_what_cpio_reads(tmp_path: Path) -> None:
    files = {"dir": (stat.S_IFDIR | 0o755, b""), "dir/init": (stat.S_IFREG | 0o755, b"#!/bin/sh\n")}
    archive = tmp_path / "archive"
    archive.write_bytes(initramfs.cpio(files))
    head = archive.read_bytes()
    assert head[:6] == b"070701"
    assert head[6:14] == b"00000001"
    assert int(head[14:22], 16) == stat.S_IFDIR | 0o755
    assert len(head) % 4 == 0
    assert b"dir/init\0" in head
    assert head.rstrip(b"\0").endswith(b"TRAILER!!!")


def test_the_init_is_a_script_that_busybox_can_parse() -> None:
    subprocess.run(["sh", "-n", str(Path(initramfs.__file__).with_name("init.sh"))], check=True)


def test_a_kernel_is_the_parts_that_its_package_depends_on() -> None:
    assert parts_of("Depends: linux-image-6.1.0-40-cloud-amd64 (= 6.1.153-1)") == ["linux-image-6.1.0-40-cloud-amd64"]
    split = "Depends: kmod, linux-base (>= 4.3~), linux-modules-7.2+deb14-cloud-amd64 (= 7), initramfs-tools | dracut"
    assert parts_of(split) == ["linux-modules-7.2+deb14-cloud-amd64"]


def test_an_image_says_its_release() -> None:
    image = bytearray(0x400)
    image[0x202:0x206] = b"HdrS"
    image[0x20E:0x210] = (0x100).to_bytes(2, "little")
    image[0x300:0x320] = b"6.1.0-rc1 (builder@host) #1 SMP\0"
    assert release_of(bytes(image)) == "6.1.0-rc1"
    with pytest.raises(MatrixError):
        release_of(bytes(0x400))


def test_a_version_of_qemu() -> None:
    assert major_version("QEMU emulator version 10.0.13 (Debian 1:10.0.13)") == 10
    assert major_version("nothing") == 0


def test_a_line_that_is_still_being_written_is_left_for_later() -> None:
    assert complete_lines('{"a": 1}\n{"b"') == ['{"a": 1}\n']
    assert complete_lines("") == []


def test_the_image_s_compiler_is_tried_in_every_old_kernel() -> None:
    dockerfile = (Path(bcc.__file__).parents[1] / "Dockerfile").read_text()
    assert set(re.findall(r"^FROM debian:(\w+)", dockerfile, re.MULTILINE)) == {bcc.IMAGE}
    tried = {each.kernel for each in bcc.RELEASES if each.suite == bcc.IMAGE}
    assert tried == {name for name in debian.KERNEL_SUITES if name != "sid"}
