"""The settings of the programs, and the heartbeat: the value of the `config` map. Values only."""

from __future__ import annotations

from agent.abi.structs import CONFIG
from agent.config import Config, OnAgentLoss

PENDING_RETRY_SECONDS = 0.012
PENDING_TRIES = 13
"""With these a pending SYN is given up after about as long as the stack's own default (kernel: tcp_syn_retries)."""


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
        name_least_s=min(config.dns_min_ttl_seconds, config.dns_max_ttl_seconds),
        name_most_s=config.dns_max_ttl_seconds,
    )
