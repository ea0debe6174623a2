"""The privacy ledger: what was released, what that spent, and the release that is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Self

import attrs

from qres_core import NodeId, OwnContributions
from qres_core.errors import RoundError, ValueRefusedError
from qres_dp.accounting.composition import spent
from qres_dp.accounting.limits import Kind
from qres_dp.ledger import key as keys
from qres_dp.ledger.record import Charge, LedgerEntry, genesis
from qres_dp.ledger.store import LedgerStore, Owner
from qres_dp.modes import Mode

__all__ = ["Owner", "PrivacyBudget", "PrivacyLedger"]


@attrs.frozen
class PrivacyBudget:
    """Budget of all spending."""

    epsilon: float  # of all releases together
    delta: float  # likewise


class PrivacyLedger:
    """The records of one node or one data set, in memory and, where it has a folder, on disk.

    Every release is charged, and a charge is never taken back. Make one with :meth:`open`,
    :meth:`begin` or :meth:`in_memory`.
    """

    def __init__(self, owner: Owner, store: LedgerStore | None = None) -> None:
        self.owner = owner
        self._store = store
        self._records: list[LedgerEntry] = []
        self._kinds: Counter[Kind] = Counter()
        self._sums: dict[tuple[str, bytes | int], NodeId] = {}  # who is in which sum
        self._key = keys.fresh()  # of a ledger in memory
        self._take(store.records if store else ())

    @classmethod
    def in_memory(cls, owner: Owner) -> Self:
        """An empty ledger that ends with the process; for simulations."""
        return cls(owner)

    @classmethod
    def open(cls, folder: Path, owner: Owner) -> Self:
        """The ledger in a folder.

        Raises RoundError: QRES-E602 for one that is missing, damaged, cut short, somebody else's,
        or of another relation or unit.
        """
        store = LedgerStore(folder)
        found = store.owner
        if found != owner:
            store.close()
            if (found.swarm, found.node) != (owner.swarm, owner.node):
                fix = "give every node of every swarm its own node.data_dir, and every data set a "
                fix += "folder of its own (plugins.dp.dataset)"
                raise store.unusable("it belongs to another node or data set", fix)
            what = f"it is kept for {found.relation} neighbours and the unit {found.unit}, the "
            what += f"configuration is for {owner.relation} and {owner.unit}"
            fix = "their epsilons do not add up; keep relation and unit"
            raise store.unusable(what, fix)
        return cls(owner, store)

    @classmethod
    def begin(cls, folder: Path, owner: Owner) -> Self:
        """A new ledger in a folder that has none. Raises RoundError: QRES-E602."""
        return cls(owner, LedgerStore.create(folder, owner))

    @staticmethod
    def exists(folder: Path) -> bool:
        """True if there is a ledger in the folder, or what is left of one."""
        return LedgerStore.exists(folder)

    @staticmethod
    def read(folder: Path) -> tuple[Owner, Sequence[LedgerEntry]]:
        """Owner of the ledger in a folder, and checked records. Raises RoundError: QRES-E602."""
        store = LedgerStore(folder)
        store.close()
        return store.owner, store.records

    def _take(self, fresh: Iterable[LedgerEntry]) -> None:
        for record in fresh:
            self._records.append(record)
            self._kinds[_kind(record.charge)] += 1
            if record.charge.mode == Mode.DISTRIBUTED.value:
                self._sums[_sum_of(record.charge)] = record.charge.node

    def refresh(self) -> None:
        """Read what other nodes with the same data were charged since. Raises as :meth:`open`."""
        if self._store is not None:
            self._store.refresh()
            self._take(self._store.records[len(self._records) :])

    @property
    def records(self) -> Sequence[LedgerEntry]:
        """All records, oldest first."""
        return tuple(self._records)

    @property
    def is_durable(self) -> bool:
        """True if it outlives the process."""
        return self._store is not None

    def __len__(self) -> int:
        return len(self._records)

    def spent(self, delta: float) -> float:
        """The epsilon of everything charged so far, at a delta."""
        return spent(self._kinds, delta)

    def knows(self, swarm: str, node: NodeId) -> bool:
        """True if there is a charge of a node. O(records)."""
        return any((r.charge.swarm, r.charge.node) == (swarm, node) for r in self._records)

    def expect(self, swarm: str, node: NodeId, known: OwnContributions) -> None:
        """Refuse a ledger that lacks what the node's journal or the swarm's chain knows of.

        Such a ledger was set back to an older copy, or begun anew. Every contribution was charged
        before it left, so a ledger that was not has at least as many charges as the journal counts.

        Args:
            swarm: the swarm's name.
            node: the node's identity.
            known: what journal and chain know.

        Raises:
            RoundError: QRES-E602.

        Complexity: O(records).
        """
        own = [r.charge for r in self._records if (r.charge.swarm, r.charge.node) == (swarm, node)]
        counted = [charge for charge in own if charge.journal == known.journal]
        lacks = ""
        if len(counted) < known.rounds:
            lacks = f"contributions in {known.rounds} rounds, and the ledger of {len(counted)}"
        elif known.last_round and all(charge.round != known.last_round for charge in counted):
            lacks = f"one in round {known.last_round}, and the ledger does not"
        if lacks:
            what = f"the node's journal knows of {lacks}"
        elif known.height >= 0 and not any(_is_of(charge, known) for charge in own):
            what = f"the swarm decided a contribution of this node at height {known.height}, and "
            what += "the ledger knows of none"
            if known.decided_round:
                what += f" in round {known.decided_round}"
        else:
            return
        fix = "bring the newest ledger back, with its key and anchor; if it is lost, nobody knows "
        fix += "what was spent, and only the owners of the data may grant another budget"
        raise RoundError.of("QRES-E602", "plugins.dp.ledger", what, fix)

    def after(self, charge: Charge, budget: PrivacyBudget) -> float:
        """Spending after a charge.

        Args:
            charge: a release.
            budget: what may be spent.

        Raises:
            ValueRefusedError: QRES-E509 if that is more than the budget; QRES-E507 if another node
                with the same data is in the sum. Together they would move it by twice as much, and
                two charges pay for two sums.
        """
        other = self._sums.get(_sum_of(charge), charge.node)
        if charge.mode == Mode.DISTRIBUTED.value and other != charge.node:
            what = f"node {other.hex()[:8]} has the same data set and was charged for height "
            what += f"{charge.height}: the data would be in one sum twice"
            fix = "the node sits this height out; give one node of a swarm the data set"
            raise ValueRefusedError.of("QRES-E507", "plugins.dp.dataset", what, fix)
        kinds = self._kinds.copy()
        kinds[_kind(charge)] += 1
        total = spent(kinds, budget.delta)
        # Written so that a NaN refuses.
        if not total <= budget.epsilon:
            what = (
                f"round {charge.round} would bring epsilon to {total:.6g} at delta "
                f"{budget.delta:g}, and the budget is {budget.epsilon:g}"
            )
            fix = "the node sits out; only the owners of the data may grant a larger budget"
            raise ValueRefusedError.of("QRES-E509", "plugins.dp.epsilon", what, fix)
        return total

    def charge(self, charge: Charge, budget: PrivacyBudget) -> LedgerEntry:
        """Write a charge down, durably before this returns; only then may the release leave.

        ``budget``: what may be spent, by all that share the ledger. Returns the record. Raises
        ValueRefusedError: as :meth:`after`; nothing was charged. Raises
        RoundError: QRES-E602 if it cannot be written; it may count as charged all the same.
        """
        if (charge.relation, charge.unit) != (self.owner.relation, self.owner.unit):
            what = f"a charge for {charge.relation} neighbours and the unit {charge.unit} in a "
            what += "ledger of another relation or unit"
            raise RoundError.of("QRES-E602", "ledger", what)

        def make(last: bytes) -> LedgerEntry:
            if self._store is not None:
                self._take(self._store.records[len(self._records) :])
            total = self.after(charge, budget)
            index = len(self._records) + 1
            return LedgerEntry(index, charge, total, budget.delta, budget.epsilon, previous=last)

        record = make(self._head) if self._store is None else self._store.append(make)
        self._take([record])
        return record

    @property
    def _head(self) -> bytes:
        """The tag of the last record of a ledger in memory."""
        if self._records:
            return self._records[-1].tag(self._key)
        return genesis(self._key, attrs.astuple(self.owner))

    def close(self) -> None:
        """Let go of the file; idempotent."""
        if self._store is not None:
            self._store.close()


def _is_of(charge: Charge, known: OwnContributions) -> bool:
    """True if the contribution that the chain knows may be what was charged.

    A height may take several rounds, and each contribution was another release. A training that
    began anew has the heights and rounds of the one before, and other heads.
    """
    made_in = known.decided_round or charge.round
    head = known.decided_head or charge.head
    return (charge.height, charge.round, charge.head) == (known.height, made_in, head)


def _sum_of(charge: Charge) -> tuple[str, bytes | int]:
    """Names the sum that a contribution is for.

    All of a sum name one head. A training that begins anew has the heights of the one before, and
    other heads. Where there is no head, the height stands for it, which refuses more.
    """
    return charge.swarm, charge.head or charge.height


def _kind(charge: Charge) -> Kind:
    """Kind of a charge.

    Version 0.2 had sampled rounds. They count as rounds without sampling, which cost no less.
    """
    return charge.noise_multiplier
