"""What the kernel counts, read when somebody asks: totals of identities and denials, losses, fill of the maps."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace

from agent.abi.structs import EPOCH, IDENTITY_SLOTS, LEARNED_KEY, SLOT, U32
from agent.flows.decode import TOTALS_WORDS, RawDenials, decode_totals
from agent.kernel.maps import sum_per_cpu
from agent.model.identity import FIRST_IDENTITY, Identity, IdentityNumber
from agent.model.node_state import NodeState
from agent.model.policy import RuleRef
from agent.model.report import DenialRow, IdentityRow, MapFill, Totals
from agent.model.verdict import Loss
from agent.model.want import RuleId
from agent.node.folding import Folding
from agent.node.kernel import Maps
from agent.node.process import resident_bytes
from agent.sync.allocate import OVERFLOW_IDENTITY
from agent.sync.learned import forget


@dataclass(frozen=True, slots=True)
class TotalsReader:
    """Any thread. `lost`: what the node's threads lost, by reason."""

    maps: Maps
    folding: Folding
    lost: Callable[[], Mapping[str, int]]

    def read(self, state: NodeState) -> Totals:
        """Of what this report names. Raises MapError and OSError once the agent has ended."""
        raw = self.folding.totals()
        users = Counter(facts.identity for facts in state.by_slot.values())
        return Totals(
            identities=tuple(self._row(who, number, users[who]) for who, number in state.numbers.items()),
            denials=denial_rows(raw, state.rules),
            fill=_fill(self.maps, len(raw)),
            losses=self._losses() | dict(self.lost()),
            resident_bytes=resident_bytes(),
        )

    def _losses(self) -> dict[str, int]:
        """Everything that the kernel lost or left uncounted, by reason."""
        values = ((loss, self.maps["losses"].get(U32.pack(value=int(loss))) or b"") for loss in Loss)
        return {loss.name.lower(): sum_per_cpu(value, 1)[0] for loss, value in values}

    def _row(self, identity: Identity, number: IdentityNumber, endpoints: int) -> IdentityRow:
        value = self.maps["identities"].get(U32.pack(value=number - FIRST_IDENTITY)) or b""
        both = decode_totals(sum_per_cpu(value, TOTALS_WORDS)).values()
        return IdentityRow(
            number=number,
            namespace=identity.namespace,
            service_account=identity.service_account,
            dag_id=identity.dag_id,
            task_id=identity.task_id,
            kind=identity.kind,
            ambiguous=identity.ambiguous,
            endpoints=endpoints,
            sent_bytes=sum(each.sent_bytes for each in both),
            received_bytes=sum(each.received_bytes for each in both),
            sent_packets=sum(each.sent_packets for each in both),
            received_packets=sum(each.received_packets for each in both),
            connections=sum(each.connections for each in both),
            audited=sum(each.audited for each in both),
            denied_packets=sum(each.denied_packets for each in both),
        )


def denial_rows(raw: Iterable[RawDenials], rules: Mapping[RuleId, RuleRef]) -> tuple[DenialRow, ...]:
    """Rows of slots that had the same identity are one."""
    packets: Counter[DenialRow] = Counter()
    sizes: Counter[DenialRow] = Counter()
    for row in raw:
        key = DenialRow(row.identity, row.reason, rules.get(RuleId(row.rule)), row.direction, row.verdict, 0, 0)
        packets[key] += row.packets
        sizes[key] += row.bytes
    return tuple(replace(key, packets=count, bytes=sizes[key]) for key, count in packets.items())


def _fill(maps: Maps, denials: int) -> tuple[MapFill, ...]:
    """Maps that the kernel fills. `flows` by what each slot inserted and what was evicted: no walk over the flows."""
    inserted = sum(sum(SLOT.unpack(value)["inserted"]) for _, value in maps["slots"].items())
    evicted = sum(sum(EPOCH.unpack(value)["evicted"]) for _, value in maps["epochs"].items())
    flows = min(max(0, inserted - evicted), maps["flows"].entries)
    used = {"flows": flows, "denials": denials, "pending": len(maps["pending"].keys())}
    return tuple(MapFill(name, count, maps[name].entries) for name, count in used.items())


def clear_identities(maps: Maps, folding: Folding, numbers: Iterable[int]) -> None:
    """What the kernel counted and learned under these numbers goes, denials into the overflow's: others are to have
    them."""
    found = list(numbers)
    if not found:
        return
    folding.give_up(found)
    forget(maps["learned"], found)
    identities = maps["identities"]
    for key in (U32.pack(value=number - FIRST_IDENTITY) for number in found):
        identities.put(key, bytes(len(identities.get(key) or b"")))


def unknown_numbers(maps: Maps, folding: Folding, known: Iterable[int]) -> list[int]:
    """Numbers that the kernel has counted or learned under, and that the state folder has lost."""
    strange = {row.identity for row in folding.totals()} - {0}
    strange |= {LEARNED_KEY.unpack(key)["identity"] for key, _ in maps["learned"].items()}
    for slot in range(1, IDENTITY_SLOTS):
        if any(maps["identities"].get(U32.pack(value=slot)) or b""):
            strange.add(FIRST_IDENTITY + slot)
    return sorted(strange - {*known, OVERFLOW_IDENTITY})
