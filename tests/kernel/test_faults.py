"""What fails, and what happens then: real agents are killed, pins and links taken away, maps
too small, sockets that end without a word. Enforcement stays, counts are exact or the loss is counted."""

from __future__ import annotations

import ctypes
import errno
import mmap
import os
import shutil
import socket
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from ipaddress import ip_network
from pathlib import Path

import pytest

from agent.abi.structs import CONFIG, DENIAL, DENIAL_KEY, IDENTITY_TOTALS, MAPS, U32
from agent.app.agent import build
from agent.config import OnAgentLoss
from agent.errors import StateError
from agent.kernel import syscall
from agent.kernel.datapath import detach
from agent.kernel.maps import KernelMap, sum_per_cpu
from agent.kernel.pins import Pins
from agent.kernel.probe import features
from agent.kernel.programs import HOOKS
from agent.kernel.syscall import AttachType, Command, ProgType
from agent.model.cluster import Settings
from agent.model.verdict import DropReason, Loss
from agent.outputs.notices import notices
from lab.node import Pod, ScratchNode, cgroup_mount
from tests.kernel.agent_process import AgentProcess
from tests.kernel.rig import eventually
from tests.kernel.sockets import tcp, udp
from tests.kernel.test_agent import Machine, pod_manifest, policy

V4 = "192.0.2.90"
ALLOWED, FORBIDDEN = 8301, 8302
REFUSED = ("EACCES", "EPERM")


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    with ScratchNode() as node:
        try:
            for port in (ALLOWED, FORBIDDEN):
                node.serve(V4, port)
                node.serve(V4, port, socket.SOCK_DGRAM)
            yield Machine(node, tmp_path)
        finally:
            detach(node.bpffs / "dagwall")


def managed_pod(machine: Machine, name: str = "p") -> Pod:
    """A pod that may reach ALLOWED and nothing else."""
    pod = machine.node.add_pod()
    machine.write(f"{name}.yaml", pod_manifest(name, pod.uid, pod.ipv4))
    machine.write("policy.yaml", policy("p", "etl", f"{V4}/32", ALLOWED))
    return pod


def unmanaged_pod(machine: Machine) -> Pod:
    """A pod of a namespace that is nobody's business."""
    pod = machine.node.add_pod()
    manifest = pod_manifest("free", pod.uid, pod.ipv4).replace("namespace: airflow", "namespace: kube-system")
    machine.write("free.yaml", manifest)
    return pod


class Traffic:
    """Two processes in a pod: one uses what is allowed, the other tries what is not. Counts in shared memory."""

    NAMES = ("tried", "failed", "forbidden", "passed", "stop")

    def __init__(self, pod: Pod, *, forbidden: bool = True) -> None:
        self._memory = mmap.mmap(-1, 4096)
        self._words = (ctypes.c_uint64 * len(self.NAMES)).from_buffer(self._memory)
        self._text = self._memory
        pod.spawn(_use, self)
        if forbidden:
            pod.spawn(_try_forbidden, self)
        self._forbidden = forbidden

    def get(self, name: str) -> int:
        return int(self._words[self.NAMES.index(name)])

    def add(self, name: str) -> None:
        self._words[self.NAMES.index(name)] += 1

    def fail(self, name: str, what: str) -> None:
        self.add(name)
        self._memory[256:512] = what.encode()[:256].ljust(256)

    def flows(self) -> bool:
        """Both go on from here."""
        tried, forbidden = self.get("tried"), self.get("forbidden")
        return eventually(
            lambda: (
                self.get("tried") > tried + 20 and (not self._forbidden or self.get("forbidden") > forbidden + 20)
            ),
            20,
        )

    def check(self) -> None:
        """Nothing allowed failed, nothing forbidden passed."""
        what = bytes(self._memory[256:512]).strip(b"\0 ").decode()
        assert (self.get("failed"), self.get("passed")) == (0, 0), what

    def end(self) -> None:
        self.add("stop")
        self.check()


def _use(traffic: Traffic) -> None:
    """Old connection, new connection, datagram: in turns."""
    with socket.create_connection((V4, ALLOWED), 10) as old, socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as udp_:
        old.settimeout(10)
        udp_.settimeout(10)
        while not traffic.get("stop"):
            try:
                old.sendall(b"old")
                answers = [old.recv(16)]
                udp_.sendto(b"dgm", (V4, ALLOWED))
                answers.append(udp_.recv(16))
                with socket.create_connection((V4, ALLOWED), 10) as new:
                    new.sendall(b"new")
                    answers.append(new.recv(16))
                if answers != [b"old", b"dgm", b"new"]:
                    traffic.fail("failed", f"answers {answers}")
            except OSError as exc:
                traffic.fail("failed", f"allowed: {exc!r}")
            traffic.add("tried")
            time.sleep(0.001)


def _try_forbidden(traffic: Traffic) -> None:
    while not traffic.get("stop"):
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM) as stream:
            stream.settimeout(10)
            if (code := stream.connect_ex((V4, FORBIDDEN))) not in (errno.EACCES, errno.EPERM):
                traffic.fail("passed", f"forbidden connect: {errno.errorcode.get(code, code)}")
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as datagrams:
            try:
                datagrams.sendto(b"x", (V4, FORBIDDEN))
            except PermissionError:
                pass
            else:
                traffic.fail("passed", "forbidden datagram")
        traffic.add("forbidden")
        time.sleep(0.001)


class Counters:
    """The kernel's counters by their pins, which must only ever grow."""

    def __init__(self, pins: Path) -> None:
        folder = Pins(pins).maps
        names = ("identities", "denials", "losses")
        self._maps = {n: KernelMap(n, syscall.open_pin(str(folder / n)), MAPS[n]) for n in names}
        self._last: dict[object, tuple[int, ...]] = {}

    def look(self) -> None:
        for key, values in self._read():
            before = self._last.get(key, (0,) * len(values))
            assert all(now >= was for now, was in zip(values, before, strict=True)), f"{key}: {before} -> {values}"
            self._last[key] = values

    def close(self) -> None:
        for each in self._maps.values():
            each.close()

    def _read(self) -> Iterator[tuple[object, tuple[int, ...]]]:
        words = IDENTITY_TOTALS.size // 8
        for slot in range(16):
            value = self._maps["identities"].get(U32.pack(value=slot)) or b""
            yield ("identity", slot), sum_per_cpu(value, words)
        for key, value in self._maps["denials"].items():
            yield ("denial", key), struct.unpack("=QQ", value)
        for loss in Loss:
            yield loss, sum_per_cpu(self._maps["losses"].get(U32.pack(value=int(loss))) or b"", 1)


@contextmanager
def watched(pins: Path) -> Iterator[None]:
    """Counters are read all the time, and may not go backwards."""
    counters, stop, failures = Counters(pins), threading.Event(), []

    def loop() -> None:
        while not stop.wait(0.05):
            try:
                counters.look()
            except AssertionError as exc:
                failures.append(exc)
                return

    thread = threading.Thread(target=loop)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()
        counters.close()
    assert not failures, failures[0]


def test_an_agent_killed_under_traffic_and_its_successor_drop_nothing_and_pass_nothing(machine: Machine) -> None:
    pod, free = managed_pod(machine), unmanaged_pod(machine)
    config, ready = machine.config(), machine.folder / "ready"
    first = AgentProcess(config, ready)
    assert ready.read_text() == "fresh"
    traffic, free_traffic = Traffic(pod), Traffic(free, forbidden=False)
    with watched(config.pins):
        assert traffic.flows()
        first.kill()
        assert traffic.flows()
        assert free_traffic.flows()
        for _ in range(2):
            second = AgentProcess(config, ready)
            assert ready.read_text() == "adopted"
            assert traffic.flows()
            second.kill()
        third = AgentProcess(config, ready)
        assert traffic.flows()
        assert free_traffic.flows()
        assert third.stop() == 0, third.errors
        assert traffic.flows()
    traffic.end()
    free_traffic.end()


def test_what_was_revoked_while_no_agent_lived_is_denied_by_the_next(machine: Machine) -> None:
    """The flow is still in the map, and connect() would be let through by it."""
    pod = managed_pod(machine)
    with machine.agent():
        assert pod.run(tcp, V4, ALLOWED) == "ok"
    machine.write("policy.yaml", policy("p", "etl", f"{V4}/32", FORBIDDEN))
    assert pod.run(tcp, V4, ALLOWED) == "ok"
    with machine.agent():
        assert pod.run(tcp, V4, ALLOWED) in REFUSED
        assert pod.run(tcp, V4, FORBIDDEN) == "ok"


@pytest.mark.parametrize("mode", list(OnAgentLoss))
def test_after_the_grace_unknown_pods_follow_the_setting_and_managed_ones_stay(
    machine: Machine, mode: OnAgentLoss
) -> None:
    pod = managed_pod(machine)
    grace = 4.0
    config = machine.config(loss_grace_seconds=grace, on_agent_loss=mode)
    process = AgentProcess(config, machine.folder / "ready")
    process.kill()
    over = _last_heartbeat(Pins(config.pins)) + grace
    stranger = machine.node.add_pod()
    outcome = stranger.run(tcp, V4, ALLOWED, 0.5)
    if time.monotonic() < over:  # else the machine was too slow to see the grace period
        assert outcome == "TIMEOUT"
    time.sleep(max(0.0, over + 0.2 - time.monotonic()))
    if mode is OnAgentLoss.ALLOW:
        assert stranger.run(tcp, V4, ALLOWED) == "ok"
        assert stranger.run(udp, V4, FORBIDDEN) == "ok"
    else:
        assert stranger.run(tcp, V4, ALLOWED, 1.0) in REFUSED
        assert stranger.run(udp, V4, FORBIDDEN) == "EPERM"
    passed, denied = _without_an_agent(Pins(config.pins))
    assert (passed > 0, denied >= 2) == ((True, False) if mode is OnAgentLoss.ALLOW else (False, True))
    assert pod.run(tcp, V4, ALLOWED) == "ok"
    assert pod.run(tcp, V4, FORBIDDEN) in REFUSED
    assert pod.run(udp, V4, FORBIDDEN) == "EPERM"


def _last_heartbeat(pins: Pins) -> float:
    """On the clock of time.monotonic()."""
    config = KernelMap("config", syscall.open_pin(str(pins.maps / "config")), MAPS["config"])
    found = config.get(U32.pack(value=0))
    config.close()
    assert found is not None
    return float(CONFIG.unpack(found)["heartbeat_ns"]) / 1e9


def _without_an_agent(pins: Pins) -> tuple[int, int]:
    """Packets of unknown pods that passed, and that were denied, because no agent was there to ask."""
    losses = KernelMap("losses", syscall.open_pin(str(pins.maps / "losses")), MAPS["losses"])
    denials = KernelMap("denials", syscall.open_pin(str(pins.maps / "denials")), MAPS["denials"])
    passed = sum_per_cpu(losses.get(U32.pack(value=int(Loss.AGENT_GONE))) or b"", 1)[0]
    gone = (v for k, v in denials.items() if DENIAL_KEY.unpack(k)["reason"] == DropReason.AGENT_GONE)
    denied = sum(int(DENIAL.unpack(value)["packets"]) for value in gone)
    losses.close()
    denials.close()
    return passed, denied


class TestPins:
    """Somebody takes the pins away while the agent lives."""

    @pytest.mark.parametrize("what", ["everything", "links", "programs", "the mount"])
    def test_enforcement_stays_and_the_pins_come_back(self, machine: Machine, what: str) -> None:
        pod, free = managed_pod(machine), unmanaged_pod(machine)
        pins = Pins(machine.config().pins)
        with machine.agent() as agent:
            before = _pinned(pins.version)
            traffic, free_traffic = Traffic(pod), Traffic(free, forbidden=False)
            assert traffic.flows()
            if what == "the mount":
                subprocess.run(["umount", "-l", str(machine.node.bpffs)], check=True)
            else:
                shutil.rmtree(
                    {"everything": pins.root, "links": pins.links, "programs": pins.version / "programs"}[what]
                )
            assert _pinned(pins.version) != before
            assert traffic.flows()
            assert eventually(lambda: _pinned(pins.version) == before, 15), agent.node.health.problems
            assert traffic.flows()
        assert traffic.flows()  # now the pins alone hold it
        assert free_traffic.flows()
        traffic.end()
        free_traffic.end()


def _pinned(folder: Path) -> set[str]:
    """Names below a folder of bpffs; generations of programs have no lasting number."""
    found = (str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())
    return {
        "/".join(p for p in name.split("/") if not name.startswith("programs/") or not p.isdigit()) for name in found
    }


ALLOW_ALL = struct.pack("=BBhi", 0xB7, 0, 0, 1) + struct.pack("=BBhi", 0x95, 0, 0, 0)


def test_pins_that_were_gone_when_an_agent_starts_are_said(machine: Machine) -> None:
    """Nobody held them: nothing was enforced in between. A node that never was enforced is no such node."""
    managed_pod(machine)
    for gone in (False, False, True, False):
        if gone:
            detach(machine.config().pins)
        with machine.agent():
            assert machine.outputs.newest.facts.pins_were_gone is gone
            assert any("pins were gone" in each for each in notices(machine.outputs.newest)) is gone


def test_a_wall_clock_that_jumps_changes_nothing(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """It stamps reports; what waits, ends and lives goes by the monotonic clock and by jiffies."""
    pod, real = managed_pod(machine), time.time
    with machine.agent() as agent:
        for day in (0, 1, -30, 0):
            monkeypatch.setattr(time, "time", lambda day=day: real() + day * 86400)
            known = len(machine.outputs.seen_flows)
            fresh = managed_pod(machine, f"p{day}")
            assert eventually(lambda fresh=fresh: fresh.run(tcp, V4, ALLOWED) == "ok", 5)  # type: ignore[misc]
            for each in (pod, fresh):
                assert each.run(tcp, V4, ALLOWED) == "ok"
                assert each.run(tcp, V4, FORBIDDEN) in REFUSED
            assert eventually(lambda known=known: len(machine.outputs.seen_flows) > known, 5)  # type: ignore[misc]
            assert machine.outputs.seen_flows[-1].time == pytest.approx(time.time(), abs=30)
            assert agent.node.health.problems == {}


def test_links_detached_by_force_come_back_and_a_foreign_program_goes_on(machine: Machine) -> None:
    pod = managed_pod(machine)
    statistics, _ = syscall.bpf(Command.ENABLE_STATS, struct.pack("=I", 0))
    foreign = syscall.load_program(ProgType.CGROUP_SKB, AttachType.INET_EGRESS, ALLOW_ALL)
    root = os.open(machine.node.kubepods, os.O_RDONLY | os.O_DIRECTORY)
    try:
        before = syscall.link_create(foreign, root, AttachType.INET_EGRESS)
        with machine.agent() as agent:
            after = syscall.link_create(foreign, root, AttachType.INET_EGRESS)
            assert pod.run(tcp, V4, FORBIDDEN) in REFUSED
            links = Pins(machine.config().pins).links
            hooks = agent.datapath.hooks()
            for hook in hooks:
                link = syscall.open_pin(str(next(links.glob(f"*/{hook}"))))
                syscall.link_detach(link)
                os.close(link)
            assert eventually(lambda: _all_attached(links, machine.node.kubepods, hooks), 15), (
                agent.node.health.problems
            )
            assert pod.run(tcp, V4, FORBIDDEN) in REFUSED
            assert pod.run(udp, V4, FORBIDDEN) == "EPERM"
            runs = syscall.prog_info(foreign).run_count
            assert pod.run(tcp, V4, ALLOWED) == "ok"
            assert syscall.prog_info(foreign).run_count > runs
            problems = agent.node.health.problems  # other scratch nodes' containers may be among them
            assert eventually(lambda: not {"kernel", "hooks", "roots"} & problems.keys(), 10), problems
        for link in (before, after):
            assert syscall.link_info(link).cgroup_id == machine.node.kubepods.stat().st_ino
            os.close(link)
        assert pod.run(tcp, V4, FORBIDDEN) in REFUSED  # by the new links' pins
    finally:
        for fd in (foreign, root, statistics):
            os.close(fd)


def test_a_program_put_into_a_link_of_ours_is_found_and_replaced(machine: Machine) -> None:
    """The link is there, on its cgroup: only the program's number says that nothing is enforced."""
    pod = managed_pod(machine)
    foreign = syscall.load_program(ProgType.CGROUP_SKB, AttachType.INET_EGRESS, ALLOW_ALL)
    try:
        with machine.agent() as agent:
            pin = next(Pins(machine.config().pins).links.glob("*/egress"))
            link = syscall.open_pin(str(pin))
            syscall.link_update(link, foreign)
            number = syscall.prog_info(foreign).id
            assert eventually(lambda: syscall.link_info(link).prog_id != number, 10)
            assert pod.run(udp, V4, FORBIDDEN) == "EPERM"
            assert eventually(lambda: all(found.ours for found in agent.datapath.attached()))
            os.close(link)
    finally:
        os.close(foreign)


def test_a_second_agent_on_the_same_pins_is_refused_and_changes_nothing(machine: Machine) -> None:
    """With state and socket of its own, and without policies: it would open everything."""
    pod = managed_pod(machine)
    (machine.folder / "none").mkdir()
    other = replace(machine.config(), state=machine.folder / "other", files=machine.folder / "none")
    with machine.agent() as agent:
        with pytest.raises(AssertionError, match=r"--pins .*: another agent enforces by these pins"):
            AgentProcess(other, machine.folder / "ready")
        assert pod.run(tcp, V4, FORBIDDEN) in REFUSED
        assert pod.run(tcp, V4, ALLOWED) == "ok"
        assert agent.node.health.repaired == 0
        shutil.rmtree(machine.config().pins)
        assert eventually(agent.datapath.pins_are_there, 10), "the lock is of the new folder"
        with pytest.raises(AssertionError, match=r"another agent enforces by these pins"):
            AgentProcess(other, machine.folder / "ready")
    second = AgentProcess(replace(other, files=machine.files), machine.folder / "ready")
    assert second.stop() == 0, "the lock has gone with its owner"


@pytest.mark.parametrize("name", ["endpoints", "rules", "peers"])
def test_a_map_that_somebody_empties_is_filled_again(machine: Machine, name: str) -> None:
    pod = managed_pod(machine)
    with machine.agent() as agent:
        assert pod.run(tcp, V4, ALLOWED) == "ok"
        entries = agent.datapath.maps[name]
        before = dict(entries.items())
        assert before
        assert eventually(lambda: agent.node.health.whole_due > 0), "the first look at all maps is over"
        agent.node.health.whole_due = 0.0
        entries.delete_all(before)
        assert eventually(lambda: dict(entries.items()) == before, 15)
        assert eventually(lambda: agent.node.health.repaired >= len(before))
        assert eventually(lambda: pod.run(tcp, V4, ALLOWED) == "ok")
        assert pod.run(tcp, V4, FORBIDDEN) in REFUSED
        assert not {"kernel"} & agent.node.health.problems.keys()
        time.sleep(5)
        assert agent.node.health.repaired == len(before), "and is left alone afterwards"


def test_links_that_were_lost_while_no_agent_lived_are_said(machine: Machine) -> None:
    managed_pod(machine)
    with machine.agent():
        pass
    next(Pins(machine.config().pins).links.glob("*/connect4")).unlink()
    with machine.agent():
        assert any("took them off" in text and "connect4" in text for text in notices(machine.outputs.newest))
    with machine.agent() as agent:
        assert agent.datapath.lost == ()


def _raw_bpf(command: int, attr: bytes) -> int:
    """A bpf(2) command that the agent does not need."""
    buffer = ctypes.create_string_buffer(attr.ljust(144, b"\0"), 144)
    result = syscall._LIBC.syscall(syscall._number(), command, buffer, 144)
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return int(result)


def _all_attached(links: Path, root: Path, hooks: list[str]) -> bool:
    """Asked from the kernel by the pins: the agent's own descriptors are its threads'."""
    found = []
    for hook in hooks:
        try:
            link = syscall.open_pin(str(links / str(root.stat().st_ino) / hook))
        except FileNotFoundError:
            return False
        found.append(syscall.link_info(link).cgroup_id)
        os.close(link)
    return set(found) == {root.stat().st_ino}


PROG_BY_ID, MAP_BY_ID, LINK_BY_ID = 13, 14, 30


def test_detach_leaves_nothing(machine: Machine) -> None:
    pod = managed_pod(machine)
    with machine.agent():
        ours = _ids(machine.config().pins)
        assert pod.run(tcp, V4, FORBIDDEN) in REFUSED
    assert {kind for kind, _ in ours} == {PROG_BY_ID, MAP_BY_ID, LINK_BY_ID}
    assert len(ours) >= len(MAPS) + 2 * (len(HOOKS) - 2)  # two of them not on each kernel
    assert {each for each in ours if _lives(*each)} == ours
    there = features(cgroup_mount()).as_dict()
    holder = syscall.open_pin(str(next(Pins(machine.config().pins).links.glob("*/egress"))))
    assert detach(machine.config().pins) == sum(not hook.needs or there[hook.needs] for hook in HOOKS)
    assert pod.run(tcp, V4, FORBIDDEN) == "ok"  # whoever else holds a link
    os.close(holder)
    assert eventually(lambda: not any(_lives(*each) for each in ours), 10), [e for e in ours if _lives(*e)]
    assert not machine.config().pins.exists()
    assert detach(machine.config().pins) == 0


def _links(pins: Path) -> list[syscall.LinkInfo]:
    """Every attachment that is pinned."""
    found = []
    for path in sorted(pins.glob("v*/links/*/*")):
        link = syscall.open_pin(str(path))
        found.append(syscall.link_info(link))
        os.close(link)
    return found


def _ids(pins: Path) -> set[tuple[int, int]]:
    """(command that opens it, id) of all that is pinned."""
    found = set()
    kinds = {"prog_id": PROG_BY_ID, "map_id": MAP_BY_ID, "link_id": LINK_BY_ID}
    for path in (p for p in pins.rglob("*") if not p.is_dir()):
        fd = syscall.open_pin(str(path))
        lines = dict(line.split(":", 1) for line in Path(f"/proc/self/fdinfo/{fd}").read_text().splitlines())
        os.close(fd)
        name = next(n for n in ("link_id", "map_id", "prog_id") if n in lines)
        found.add((kinds[name], int(lines[name])))
    return found


def _lives(command: int, number: int) -> bool:
    try:
        os.close(_raw_bpf(command, struct.pack("=I", number)))
    except OSError as exc:
        if exc.errno != errno.ENOENT:
            raise
        return False
    return True


def test_a_second_agent_on_the_same_state_folder_is_refused_and_disturbs_nothing(machine: Machine) -> None:
    pod = managed_pod(machine)
    with machine.agent():
        before = _links(machine.config().pins)
        settings = Settings(pod_ranges=(ip_network("10.77.0.0/16"),), baseline=())
        with pytest.raises(StateError, match="another agent owns"):
            build(machine.config(), settings)
        with pytest.raises(AssertionError, match="another agent owns"):
            AgentProcess(machine.config(), machine.folder / "ready")
        assert _links(machine.config().pins) == before
        assert pod.run(tcp, V4, ALLOWED) == "ok"
        assert pod.run(tcp, V4, FORBIDDEN) in REFUSED


def test_a_revocation_ends_an_established_connection_with_an_error(machine: Machine) -> None:
    """TCP would stall for minutes otherwise; a datagram gets EPERM."""
    pod = managed_pod(machine)
    with machine.agent():
        traffic = mmap.mmap(-1, 4096)
        pod.spawn(_hold_connection, traffic)
        assert eventually(lambda: traffic[0:4] == b"open", 10)
        began = time.monotonic()
        machine.write("policy.yaml", policy("p", "etl", f"{V4}/32", FORBIDDEN))
        assert eventually(lambda: traffic[0:4] == b"done", 10), "the connection stalls"
        seconds = time.monotonic() - began
        assert traffic[8:40].strip(b"\0").decode() == "ECONNABORTED"
        assert eventually(lambda: pod.run(udp, V4, ALLOWED) == "EPERM", 5)
        print(f"\nfrom the edit of a file to the error in the application: {seconds * 1000:.0f} ms")
        assert seconds < 3


def _hold_connection(memory: mmap.mmap) -> None:
    with socket.create_connection((V4, ALLOWED), 10) as sock:
        sock.settimeout(20)
        memory[0:4] = b"open"
        try:
            while sock.send(b"x") and sock.recv(16):
                time.sleep(0.01)
            word = "closed"
        except OSError as exc:
            word = errno.errorcode.get(exc.errno or 0, repr(exc))
        memory[8 : 8 + len(word)] = word.encode()
        memory[0:4] = b"done"
