"""The privacy ledger: what was released, what that spent, and the release that is refused."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Self

import attrs

from qres_core import NodeId, RoundError, ValueRefusedError
from qres_dp.accounting.composition import spent
from qres_dp.accounting.limits import Kind
from qres_dp.ledger.record import Charge, LedgerEntry, genesis
from qres_dp.ledger.store import LedgerStore


@attrs.frozen
class PrivacyBudget:
    """What may be spent in all."""

    epsilon: float  # of all releases together
    delta: float  # likewise


@attrs.frozen
class Owner:
    """Whose ledger it is."""

    swarm: str  # the swarm's name
    node: NodeId  # the node's identity
    relation: str  # the neighbouring relation; a ledger is kept for one


class PrivacyLedger:
    """The records of one node, in memory and, where it has a folder, on disk.

    Make one with :meth:`open`, :meth:`begin` or :meth:`in_memory`.
    """

    def __init__(self, owner: Owner, store: LedgerStore | None = None) -> None:
        self.owner = owner
        self._store = store
        self._records: list[LedgerEntry] = list(store.records) if store else []
        self._releases = {record.charge.release for record in self._records}
        self._kinds: Counter[Kind] = Counter(_kind(record.charge) for record in self._records)

    @classmethod
    def in_memory(cls, owner: Owner) -> Self:
        """An empty ledger that ends with the process; for simulations."""
        return cls(owner)

    @classmethod
    def open(cls, folder: Path, owner: Owner) -> Self:
        """The ledger in a folder.

        Raises RoundError: QRES-E602 for one that is missing, damaged, cut short or somebody else's.
        """
        store = LedgerStore(folder)
        found = Owner(store.swarm, store.node, store.relation)
        if found != owner:
            store.close()
            if (found.swarm, found.node) != (owner.swarm, owner.node):
                fix = "give every node of every swarm its own node.data_dir"
                raise store.unusable("it belongs to another node", fix)
            what = f"it is kept for {found.relation} neighbours, the configuration is for "
            what += owner.relation
            raise store.unusable(what, "epsilons of two relations do not add up; keep the relation")
        return cls(owner, store)

    @classmethod
    def begin(cls, folder: Path, owner: Owner) -> Self:
        """A new ledger in a folder that has none. Raises RoundError: QRES-E602."""
        return cls(owner, LedgerStore.create(folder, owner.swarm, owner.node, owner.relation))

    @staticmethod
    def exists(folder: Path) -> bool:
        """Whether there is a ledger in the folder, or what is left of one."""
        return LedgerStore.exists(folder)

    @staticmethod
    def read(folder: Path) -> tuple[Owner, Sequence[LedgerEntry]]:
        """Whose ledger is in a folder, and its records, checked. Raises RoundError: QRES-E602."""
        store = LedgerStore(folder)
        store.close()
        return Owner(store.swarm, store.node, store.relation), store.records

    @property
    def records(self) -> Sequence[LedgerEntry]:
        """All records, oldest first."""
        return tuple(self._records)

    def __len__(self) -> int:
        return len(self._records)

    def spent(self, delta: float) -> float:
        """The epsilon of everything charged so far, at a delta."""
        return spent(self._kinds, delta)

    def after(self, charge: Charge, budget: PrivacyBudget) -> float:
        """What will be spent after a charge.

        Args:
            charge: a release; one already charged costs nothing more.
            budget: what may be spent.

        Raises:
            ValueRefusedError: QRES-E509 if that is more than the budget.
        """
        kinds = self._kinds.copy()
        if charge.release not in self._releases:
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

    def charge(self, charge: Charge, budget: PrivacyBudget) -> LedgerEntry | None:
        """Write a charge down, durably before this returns; only then may the release leave.

        ``budget``: what may be spent. Returns the record; ``None`` if that very release was charged
        before. Raises ValueRefusedError: QRES-E509 if it would exceed the budget; nothing was
        charged. Raises RoundError: QRES-E602 if it cannot be written; it may count as charged all
        the same.
        """
        if charge.relation != self.owner.relation:
            what = f"a charge for {charge.relation} neighbours in a ledger of another relation"
            raise RoundError.of("QRES-E602", "ledger", what)
        total = self.after(charge, budget)
        if charge.release in self._releases:
            return None
        last = self._records[-1].digest if self._records else genesis(*attrs.astuple(self.owner))
        record = LedgerEntry(
            len(self._records) + 1, charge, total, budget.delta, budget.epsilon, previous=last
        )
        if self._store is not None:
            self._store.append(record)
        self._records.append(record)
        self._releases.add(charge.release)
        self._kinds[_kind(charge)] += 1
        return record

    def close(self) -> None:
        """Let go of the file; idempotent."""
        if self._store is not None:
            self._store.close()


def _kind(charge: Charge) -> Kind:
    return charge.noise_multiplier, charge.sampling_rate
