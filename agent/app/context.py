"""What the other threads are told: names of endpoints and rules, and the settings of the programs. Values only."""

from __future__ import annotations

from agent.abi.structs import CONFIG
from agent.config import Config, OnAgentLoss
from agent.flows.join import Context
from agent.model.flow import EndpointFacts
from agent.sync.endpoints import Endpoint
from agent.sync.writer import Writer

PENDING_RETRY_SECONDS = 0.012
PENDING_TRIES = 13
"""With these a pending SYN is given up after about as long as the stack's own default (kernel: tcp_syn_retries)."""


def make_context(writer: Writer, node: str) -> Context:
    """Every endpoint that is known, by slot and by folder."""
    by_slot, by_cgroup = {}, {}
    for endpoint in writer.endpoints.by_uid.values():
        facts = facts_of(endpoint, writer, node)
        if facts is not None:
            by_slot[endpoint.slot] = facts
            by_cgroup.update(dict.fromkeys(endpoint.folders, facts))
    by_slot.pop(0, None)
    return Context(writer.cluster, by_slot, by_cgroup, writer.compiler.rule_refs, node)


def facts_of(endpoint: Endpoint, writer: Writer, node: str) -> EndpointFacts | None:
    """What reports say of an endpoint; None while nobody knows it."""
    if endpoint.assignment is None:
        return None
    pod = writer.cluster.pods.get(endpoint.uid)
    return EndpointFacts(
        identity=endpoint.assignment.identity,
        number=endpoint.number or 0,
        namespace=endpoint.assignment.identity.namespace,
        pod=pod.name if pod else "",
        uid=endpoint.uid,
        claim=pod.claim if pod else None,
        node=node,
        attestation=endpoint.assignment.attestation,
    )


def pack_config(config: Config, hz: int, levels: tuple[int, int], now_ns: int) -> bytes:
    """Value of the `config` map; `now_ns`, CLOCK_MONOTONIC, is the heartbeat."""
    return CONFIG.pack(
        heartbeat_ns=now_ns,
        loss_grace_ns=int(config.loss_grace_seconds * 1e9),
        loss_denies=int(config.on_agent_loss is OnAgentLoss.DENY),
        pod_level=levels,
        reply_ticks=int(config.reply_seconds * hz),
        flush_ticks=hz,
        syn_ticks=max(2, int(hz * PENDING_RETRY_SECONDS)),
        syn_tries=PENDING_TRIES,
        event_rate=config.event_rate,
        event_burst=config.event_burst,
        flow_quota=config.flow_quota,
        hz=hz,
    )
