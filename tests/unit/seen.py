"""Flows, denials and views for the tests of outputs."""

from __future__ import annotations

from dataclasses import replace
from ipaddress import ip_address

from immutables import Map

from agent.model.binding import TaskIdentityBinding
from agent.model.cluster import Cluster, Escape, Namespace
from agent.model.flow import Denial, EndpointFacts, Flow, FlowCounts, Outcome, PeerKind, PeerName, Timing, Tuple
from agent.model.identity import FIRST_IDENTITY, Claim, Identity, Kind, PodUid
from agent.model.nearest import Lacks, Nearest
from agent.model.node_state import AgentFacts, NodeState, Status, Topic, View
from agent.model.policy import Policy, PolicyRef, RuleRef, Subject
from agent.model.report import DenialRow, EndpointRow, HookState, IdentityRow, MapFill, Totals
from agent.model.verdict import Cause, Direction, DropReason, EndpointState, Hook, Verdict

WORLD = PeerName(PeerKind.ENTITY, "world")
NUMBER = FIRST_IDENTITY + 1


def endpoint(dag: str = "finance", task: str = "load", pod: str = "finance-load-x1") -> EndpointFacts:
    identity = Identity("prod", "airflow", "etl", dag, task, Kind.KUBERNETES_EXECUTOR)
    claim = Claim(identity, (), run_id="manual__1", try_number="2", map_index="-1")
    own = (ip_address("10.0.0.7"), ip_address("2001:db8:1::7"))
    return EndpointFacts(identity, NUMBER, "airflow", pod, "uid-1", claim, "n1", addresses=own, slot=3)


def rule_of(text: str) -> RuleRef | None:
    """`Kind/namespace/name/rule`, or without the namespace; None of ""."""
    kind, *middle, rule = text.split("/") if text else ("", "")
    return RuleRef(PolicyRef("".join(middle[:-1]), kind, "".join(middle[-1:])), rule) if text else None


WAREHOUSE = RuleRef(PolicyRef("airflow", "TaskNetworkPolicy", "finance-egress"), "warehouse")


def flow(
    dag: str = "finance", *, time: float = 1.5, peer: PeerName = WORLD, address: str = "192.0.2.9", port: int = 443,
    direction: Direction = Direction.EGRESS, verdict: Verdict = Verdict.ALLOW, protocol: int = 6,
) -> Flow:  # fmt: skip
    return Flow(
        time, endpoint(dag), Tuple(ip_address(address), protocol, port, direction), peer, verdict,
        rule_of("TaskNetworkPolicy/airflow/finance-egress/api"), FlowCounts(3, 300, 2, 5000, 1), new=True,
    )  # fmt: skip


def denial(
    dag: str = "finance", *, time: float = 2.5, reason: DropReason = DropReason.NO_RULE, rule: str = "",
    verdict: Verdict = Verdict.DENY, address: str = "192.0.2.9", direction: Direction = Direction.EGRESS,
) -> Denial:  # fmt: skip
    return Denial(
        time, endpoint(dag), Tuple(ip_address(address), 6, 5432, direction), WORLD, verdict, reason, rule_of(rule),
        Hook.CONNECT, cgroup_id=4711, socket_cookie=99, source_port=40000,
        nearest=Nearest(WAREHOUSE, Lacks(protocol=6, port=5432)),
    )  # fmt: skip


TIMING = Timing(lasted=2.5, handshake=0.001, first_byte=0.25, round_trip=0.0005, retransmits=1)


def outcome(
    cause: Cause = Cause.REFUSED, detail: int = 0, *, dag: str = "finance", time: float = 3.5,
    timing: Timing = TIMING, address: str = "192.0.2.9",
) -> Outcome:  # fmt: skip
    return Outcome(
        time, endpoint(dag), Tuple(ip_address(address), 6, 443, Direction.EGRESS), WORLD, cause, detail,
        rule_of("TaskNetworkPolicy/airflow/finance-egress/api"), timing, source_port=40001, pid=41, comm="python3",
    )  # fmt: skip


FACTS = AgentFacts(
    version="0.1.0", node="n1", source="kubernetes", kernel="6.1.0", bcc="0.26.0", features={"set_retval": True},
    pins="/sys/fs/bpf/dagwall", on_agent_loss="allow", started=1.0,
)  # fmt: skip

POLICIES = tuple(PolicyRef("airflow", "TaskNetworkPolicy", f"p{n}") for n in range(3))

ROW = EndpointRow(
    "uid-1", "airflow", "finance-load-x1", EndpointState.MANAGED, "airflow/etl/finance/load", NUMBER, 1, 1, (4711,),
    escapes=(Escape("NET_RAW"),), dag_id="finance", task_id="load", run_id="manual__1", try_number="2",
)  # fmt: skip

STATE = NodeState(
    facts=FACTS,
    status=Status(
        revision=7, hooks=(HookState("egress", "/kubepods", attached=True, program_id=5, instructions=1000),),
        fill=(MapFill("rules", 100, 1000),), object_errors=("a.yaml:3: TaskNetworkPolicy/x/y: broken",),
        repaired=3, enforcing_after_seconds=0.8,
    ),
    cluster=Cluster(
        revision=6, complete=True, namespaces=Map({"airflow": Namespace("airflow", managed=True)}),
        policies=Map({ref: Policy(ref, Subject(), egress=()) for ref in POLICIES}),
        bindings=Map({"b": TaskIdentityBinding("b", "airflow", ("etl",), ("finance",))}),
    ),
    endpoints={PodUid("uid-1"): ROW},
)  # fmt: skip

TOTALS = Totals(
    identities=(
        IdentityRow(
            NUMBER, "airflow", "etl", "finance", "load", Kind.KUBERNETES_EXECUTOR, ambiguous=False, endpoints=1,
            sent_bytes=300, received_bytes=5000, sent_packets=3, received_packets=2, connections=1, denied_packets=9,
        ),
    ),
    denials=(DenialRow(NUMBER, DropReason.NO_RULE, None, Direction.EGRESS, Verdict.DENY, 9, 540),),
    fill=(MapFill("flows", 10, 65536),),
    losses={"ring_full": 0, "flows_quota": 4},
    resident_bytes=50_000_000,
)  # fmt: skip

VIEW = View(STATE, TOTALS)


def unready(**problems: str) -> View:
    """By topic."""
    status = replace(STATE.status, problems={Topic(topic): text for topic, text in problems.items()})
    return replace(VIEW, state=replace(STATE, status=status))


def with_row(row: EndpointRow) -> View:
    """One endpoint instead of the other."""
    return replace(VIEW, state=replace(STATE, endpoints={PodUid(row.uid): row}))
