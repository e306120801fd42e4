"""What the writing thread gives to the state folder: numbers, claims, managed namespaces (I2, I6, L3)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Protocol

from agent.model.identity import Claim, PodUid
from agent.node.state import StateChange
from agent.sync.writer import Writer


class Folder(Protocol):
    """agent.node.state.StateFolder. Raises StateError."""

    def keep(self, change: StateChange) -> None: ...
    def damage(self) -> tuple[str, ...]: ...


@dataclass(slots=True)
class Keeper:
    """Owned by the writing thread. `claims`: what the folder holds."""

    folder: Folder
    writer: Writer
    known_here: bool = False  # the namespaces were listed here before a restart (L3)
    claims: dict[PodUid, Claim] = field(default_factory=dict)
    _begun: bool = False  # the pods of the first snapshot are written
    _swept: bool = False  # claims of pods that went while no agent lived are forgotten

    def keep(self, touched: Iterable[PodUid] = ()) -> None:
        """Writes what is new, and the claims of these pods. Raises StateError; the next call tries it all again."""
        uids, cluster = set(touched), self.writer.cluster
        if not self._begun:
            uids, self._begun = uids.union(self.claims, cluster.pods), True
        if cluster.complete and not self._swept:
            uids, self._swept = uids.union(self.claims), True
        claims = dict(self._claims_of(uids))
        self.claims |= {uid: claim for uid, claim in claims.items() if claim is not None}
        for uid in [uid for uid, claim in claims.items() if claim is None]:
            self.claims.pop(uid, None)
        self.folder.keep(
            StateChange(
                numbers=self.writer.endpoints.numbers.take_changes(),
                claims=claims,
                namespaces={name: namespace.managed for name, namespace in cluster.namespaces.items()},
                complete=self.known_here or cluster.complete,
                admitted=self.writer.intake.admission.digests,
            )
        )

    def _claims_of(self, uids: Iterable[PodUid]) -> Iterator[tuple[PodUid, Claim | None]]:
        """Pods of other nodes too, which may be peers by what they claim; the source has frozen a claim at its first
        sight (I2). A pod that the API has forgotten keeps its claim while its folder is here (L4). Before the first
        complete list nobody is forgotten."""
        here, cluster = self.writer.endpoints.by_uid, self.writer.cluster
        for uid in uids:
            pod = cluster.pods.get(uid)
            if pod is not None:
                yield uid, pod.claim
            elif uid in here:
                yield uid, self.claims.get(uid)
            elif cluster.complete:
                yield uid, None
