"""`make bench`: everything in one run, as ratios. Fails on nothing but its own defects."""

from __future__ import annotations

import os
import statistics

import click
from rich.console import Console
from rich.table import Table

from bench import agent_cost, endtoend, live
from bench.agent_cost import Size
from bench.endtoend import MODES, PACKETS, Results

CONNECTIONS = ("tcp_crr", "tcp_conn")
SHOWN = ("floor", "dagwall", "dagwall-young", "dagwall-unmanaged", "nft", "nft-ct")


@click.command()
@click.option("--quick", is_flag=True, help="Few short rounds: the shape of the result, not its third digit.")
@click.option(
    "--part", type=click.Choice(["all", "packets", "layer7", "live", "compile", "worst", "agent"]), default="all"
)
def main(quick: bool, part: str) -> None:  # noqa: FBT001  click passes flags by name
    """Measure dagwall against empty programs and nftables on this machine."""
    console = Console(width=118)
    load = " ".join(f"{value:.1f}" for value in os.getloadavg())
    console.print(f"Linux {os.uname().release}, {os.cpu_count()} CPUs, load {load}")
    if part in ("all", "packets"):
        rounds, milliseconds = (8, 40) if quick else (24, 80)
        results = endtoend.measure(rounds, milliseconds)
        _added(console, results, rounds)
        _targets(console, results)
    if part in ("all", "layer7"):
        _layer7(console, *((8, 40) if quick else (24, 80)))
    if part in ("all", "live"):
        _live(console, 200 if quick else 500)
    if part in ("all", "compile"):
        _compile(console)
    if part in ("all", "worst"):
        _worst(console)
    if part in ("all", "agent"):
        _agent(console)


def _added(console: Console, results: Results, rounds: int) -> None:
    table = Table(
        title=f"added CPU time, ns an operation (median of {rounds} rounds, quartiles) over nothing attached"
    )
    for column in ("mode", "nothing", "null test", *SHOWN):
        table.add_column(column, justify="left" if column == "mode" else "right")
    for mode in MODES:
        cells = [f"{statistics.median(results.base[mode]):.0f}", f"{results.null(mode):.1f} %"]
        table.add_row(mode, *cells, *(_spread(results.added[mode][name]) for name in SHOWN))
    console.print(table)


def _spread(values: list[float]) -> str:
    low, middle, high = statistics.quantiles(values, n=4)
    return f"{middle:+.0f} [{low:.0f}..{high:.0f}]"


def _targets(console: Console, results: Results) -> None:
    table = Table(
        title="over empty programs on the same hooks, and against nftables (socket cgroupv2, set of equal size)"
    )
    for column in ("what", "mode", "ns", "in floors", "target", "nft costs", "verdict"):
        table.add_column(column, justify="left" if column in ("what", "mode", "verdict") else "right")
    rows = [
        *((name, mode, target, PACKETS[mode]) for name, target in _PACKET_TARGETS for mode in PACKETS),
        *(("dagwall", mode, 1100, 1) for mode in CONNECTIONS),
    ]
    for name, mode, target, packets in rows:
        floor, added = results.median(mode, "floor"), results.median(mode, name)
        per = (added - floor) / packets
        ratio = f"{(added - floor) / floor:.2f}" if floor > 0 else "-"
        unit = "a packet" if packets > 1 or mode in PACKETS else "a connection"
        nft = results.median(mode, "nft")
        table.add_row(
            f"{name}, {unit}", mode, f"{per:.0f}", ratio, f"{target}", f"{nft / added:.1f} x" if added > 0 else "-",
            _verdict(results, mode, added, nft),
        )  # fmt: skip
    console.print(table)
    console.print(
        "Targets are for the machine of ARCHITECTURE.md, whose floor is 40 ns a packet; on another one compare the "
        f"column in floors. Floor here: {results.median('udp_tx', 'floor'):.0f} ns a packet sent."
    )


_PACKET_TARGETS = (("dagwall", 15), ("dagwall-young", 30), ("dagwall-unmanaged", 15))


def _verdict(results: Results, mode: str, added: float, nft: float) -> str:
    """Is the difference larger than the null test? Differences below it say nothing."""
    noise = results.null(mode) / 100 * statistics.median(results.base[mode])
    if abs(nft - added) <= noise:
        return "no difference beyond the null test"
    return "less than nft" if added < nft else "MORE than nft"


def _layer7(console: Console, rounds: int, milliseconds: int) -> None:
    """Against the same policy without `http` and `tls`."""
    results = endtoend.measure_layer7(rounds, milliseconds)
    table = Table(
        title=f"rules with http and tls, ns of CPU time an operation (median of {rounds} rounds, quartiles)"
    )
    for column in ("what", "nothing", "null test", "dagwall", "with http or tls", "costs more", "target"):
        table.add_column(column, justify="left" if column == "what" else "right")
    for what, mode, target in _LAYER7:
        base = statistics.median(results.base[mode])
        plain, asked = (results.added[mode][name] for name in ("dagwall", "dagwall-layer7"))
        more = statistics.median([b - a for a, b in zip(plain, asked, strict=True)])
        share = f" ({100 * more / base:+.1f} %)" if mode == "tls_stream" else ""
        table.add_row(
            what,
            f"{base:.0f}",
            f"{results.null(mode):.1f} %",
            _spread(plain),
            _spread(asked),
            f"{more:+.0f}{share}",
            target,
        )
    console.print(table)


_LAYER7 = (
    ("HTTP request on an open connection", "http_rr", "1,000"),
    ("TLS connection", "tls_crr", "1,500"),
    ("KiB behind a TLS hello", "tls_stream", "2 %"),
)


def _live(console: Console, milliseconds: int) -> None:
    table = Table(title="time inside the programs, ns a call over empty ones (bpf_stats)")
    hooks = ("egress", "ingress", "connect4", "sock_create", "sock_release", "sockops")
    for column in ("mode", "contestant", *hooks):
        table.add_column(column, justify="left" if column in ("mode", "contestant") else "right")
    for mode in ("udp_rr", "tcp_rr", "tcp_crr"):
        for name, times in live.measure(mode, milliseconds).items():
            table.add_row(mode, name, *(f"{times[hook]:.0f}" if hook in times else "-" for hook in hooks))
    console.print(table)


def _compile(console: Console) -> None:
    from bench import compile as compiling  # noqa: PLC0415  builds its clusters when imported

    compiling.main()
    console.print()


def _worst(console: Console) -> None:
    from bench import worst  # noqa: PLC0415  as above

    worst.main([])
    console.print()


def _agent(console: Console) -> None:
    table = Table(title="agent: start of the process to enforcing, and resident memory", width=80)
    for column in ("endpoints", "pods", "policies", "prefixes", "seconds", "again", "MB"):
        table.add_column(column, justify="right")
    for size in (Size(100, 100, 20, 20), Size(100, 10_000, 500, 20_000)):
        cost = agent_cost.measure(size)
        sizes = (f"{n:,}" for n in (size.endpoints, size.pods, size.policies, size.prefixes))
        table.add_row(
            *sizes, f"{cost.start_seconds:.2f}", f"{cost.again_seconds:.2f}", f"{cost.resident_bytes / 1e6:.0f}"
        )
    console.print(table)


if __name__ == "__main__":
    main()
