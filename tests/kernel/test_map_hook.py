"""A hook that sits on a map of sockets: attached, replaced in one step, put back, taken off. Real sockets send."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import pytest

from agent.kernel import datapath as subject
from agent.kernel import map_hooks, syscall
from agent.kernel.datapath import Datapath, detach
from agent.kernel.instructions import EXIT, set_register
from agent.kernel.pins import Pins
from agent.kernel.probe import Features
from agent.kernel.programs import OnMap, Program
from agent.kernel.syscall import AttachType, MapType, ProgType
from tests.kernel.rig import Rig

FEATURES = Features(
    set_retval=False,
    sockops=False,
    lsm_cgroup=False,
    skb_netns=False,
    sock_error=False,
    netns_owner=False,
    write_seq=False,
    shared_frags=False,
)
TOY = Program("toy", "toy.c", ProgType.SK_MSG, AttachType.SK_MSG_VERDICT, OnMap("toys"))


def toy(verdict: int) -> int:
    """A program that says this of each send: 0 refuses it with EACCES, 1 lets it go on."""
    return syscall.load_program(ProgType.SK_MSG, AttachType.SK_MSG_VERDICT, set_register(0, verdict) + EXIT)


@pytest.fixture
def sockets() -> Iterator[int]:
    fd = syscall.map_create(MapType.SOCKHASH, 4, 4, 8)
    yield fd
    os.close(fd)


@pytest.fixture
def connection() -> Iterator[socket.socket]:
    with socket.create_server(("127.0.0.1", 0)) as server:
        client = socket.create_connection(server.getsockname(), timeout=5)
        peer, _ = server.accept()
        with client, peer:
            yield client


def put(sockets: int, connection: socket.socket) -> None:
    syscall.map_update(sockets, bytes(4), connection.fileno().to_bytes(4, "little"))


def send(connection: socket.socket) -> str:
    try:
        connection.send(b"x")
    except OSError as exc:
        return errno.errorcode[exc.errno or 0]
    return "ok"


def datapath_with(root: Path, sockets: int, program: int) -> Datapath:
    """A datapath whose table of hooks is the toy's row."""
    datapath = Datapath(Pins(root), FEATURES)
    datapath.kernel_only["toys"] = os.dup(sockets)
    datapath.programs["toy"] = program
    datapath._ids["toy"] = syscall.prog_info(program).id
    return datapath


@pytest.fixture
def one_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(subject, "HOOKS", (TOY,))


@pytest.mark.usefixtures("one_row")
def test_a_row_of_the_table_is_attached_and_replaced(sockets: int, connection: socket.socket, tmp_path: Path) -> None:
    first, second = (datapath_with(tmp_path / "pins", sockets, toy(verdict)) for verdict in (0, 1))
    with closing(first), closing(second):
        first.attach([])
        put(sockets, connection)
        assert send(connection) == "EACCES"
        assert first.map_hooks() == ["toy"]
        assert [(a.hook, a.on_map, a.ours) for a in first.attached()] == [("toy", "toys", True)]
        second.attach([])
        assert send(connection) == "EACCES", "one that is in the map keeps the program with which it joined"
        syscall.map_delete(sockets, bytes(4))
        put(sockets, connection)
        assert send(connection) == "ok"
        assert [a.ours for a in second.attached()] == [True]


@pytest.mark.usefixtures("one_row")
def test_another_s_program_in_its_place_is_noticed_where_the_kernel_tells(sockets: int, tmp_path: Path) -> None:
    with closing(datapath_with(tmp_path / "pins", sockets, toy(0))) as datapath:
        datapath.attach([])
        tells = map_hooks.attached(sockets, AttachType.SK_MSG_VERDICT) is not None  # from 5.18 on
        stranger = toy(1)
        map_hooks.attach(sockets, stranger, AttachType.SK_MSG_VERDICT)
        assert [a.ours for a in datapath.attached()] == [not tells]
        datapath.attach([])
        assert [a.ours for a in datapath.attached()] == [True]
        os.close(stranger)


@pytest.mark.usefixtures("one_row")
def test_detach_takes_it_off(rig: Rig, sockets: int, connection: socket.socket) -> None:
    pins = Pins(rig.node.bpffs / "toys")
    program = toy(0)
    with closing(datapath_with(pins.root, sockets, program)) as datapath:
        for folder in (pins.maps, pins.programs(1)):
            folder.mkdir(parents=True)
        syscall.pin(sockets, str(pins.maps / "toys"))
        syscall.pin(program, str(pins.programs(1) / "toy"))
        datapath.attach([])
        assert detach(pins.root) == 1
        put(sockets, connection)
        assert send(connection) == "ok"
        assert not map_hooks.detach(sockets, program, AttachType.SK_MSG_VERDICT)
