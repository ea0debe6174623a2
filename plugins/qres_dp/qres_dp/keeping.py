"""Place of a node's ledger: in memory, in its own folder, or with the data that it has."""

from __future__ import annotations

from pathlib import Path

import attrs

from qres_core import NodeInfo, OwnContributions, RoundInfo, stores
from qres_core.errors import Problem, RoundError
from qres_dp.ledger import Owner, PrivacyLedger
from qres_dp.ledger.store import BESIDE, KIND
from qres_dp.modes import Relation, Unit


@attrs.frozen
class Keeping:
    """The place of one node's ledger, and whose it is."""

    node_info: NodeInfo
    dataset: str  # folder of a ledger that is shared; empty for none
    relation: Relation  # that it is kept for
    unit: Unit  # likewise

    @property
    def folder(self) -> Path | None:
        """Of the ledger. Where a node may keep nothing, as in a simulation, there is none."""
        if self.node_info.data_dir is None:
            return None
        return Path(self.dataset or self.node_info.data_dir)

    @property
    def owner(self) -> Owner:
        """Of the ledger."""
        relation, unit = self.relation.value, self.unit.value
        if self.dataset:
            return Owner.of_data_set(relation, unit)
        return Owner(self.node_info.swarm, self.node_info.node_id, relation, unit)

    def found(self) -> PrivacyLedger | None:
        """The ledger that there is; a new one where it is kept in memory. Raises QRES-E602."""
        if self.folder is None:
            return PrivacyLedger.in_memory(self.owner)
        if PrivacyLedger.exists(self.folder):
            return PrivacyLedger.open(self.folder, self.owner)
        return None

    def refusals(self) -> tuple[Problem, ...]:
        """Reasons why :meth:`found` would refuse the present ledger: QRES-E602. It opens a copy."""

        def opens(folder: Path) -> None:
            if PrivacyLedger.exists(folder):
                PrivacyLedger.open(folder, self.owner).close()

        return stores.rehearse(self.folder, KIND, opens, BESIDE)

    def begun(self, round_info: RoundInfo, *, is_new: bool) -> PrivacyLedger:
        """A new ledger, or that of the data set which another node has just begun.

        ``is_new``: whether the operator says that the node is new in the swarm. Raises RoundError:
        QRES-E602 where the swarm has heights behind it and nobody says so.
        """
        found, folder = self.found(), self.folder
        if found is not None:
            return found
        if folder is None:
            return PrivacyLedger.in_memory(self.owner)
        behind = max(round_info.height, round_info.step)
        if behind and not is_new:
            what = f"no privacy ledger, and the swarm has {behind} heights behind it"
            fix = "bring it back; for a node that is new in the swarm, new_ledger = true"
            raise RoundError.of("QRES-E602", str(folder), what, fix)
        try:
            return PrivacyLedger.begin(folder, self.owner)
        except RoundError:
            # Of a node's own folder it is refused: two processes would be one node.
            found = self.found() if self.dataset else None
            if found is None:
                raise
            return found


@attrs.define
class Start:
    """Facts that a node cannot know of itself when it starts: how far the swarm is without it.

    It begins where its folder says, and only then hears of the others.

    - A folder that was set back leads it to a height that it contributed to before. What it sends
      there is another release, and its ledger knows of one. Where others see single updates, it
      therefore waits for a round: by then it has heard.
    - A node that lost its folder begins at height 0, with a new ledger. The chain tells of the last
      sets only. So it counts as new for as long as the chain tells of every height since its first
      round here, or its operator says that it is.
    """

    is_declared: bool = False  # whether the operator says that the node is new in the swarm
    _first: tuple[int, bytes] | None = attrs.field(init=False, default=None)  # the first round here
    _had_charges: bool = attrs.field(init=False, default=False)  # then
    _is_known: bool = attrs.field(init=False, default=False)
    _told: int = attrs.field(init=False, default=0)

    def heard(
        self, round_info: RoundInfo, contributed: OwnContributions, *, has_charges: bool
    ) -> None:
        """A round opens, with a ledger that has all that journal and chain know of.

        ``has_charges``: whether it has any of this node.
        """
        if self._first is None:
            self._first = (round_info.number, round_info.head)
            self._had_charges = self._is_known = has_charges
        if contributed.height >= 0:  # the ledger has what the chain names
            self._is_known = True
        if self.is_declared or contributed.silent_since <= self._told:
            self._told = round_info.height

    def waits(self, round_info: RoundInfo, contributed: OwnContributions) -> bool:
        """True if it is the first round here of a node that was charged before."""
        # A number that nobody heard of is opened again, at the next head.
        is_first = (round_info.number, round_info.head) == self._first
        return is_first and self._had_charges and bool(contributed.journal)

    def untold(self, contributed: OwnContributions) -> int:
        """Before which height there may be charges that are lost; 0 for none."""
        is_sure = self._is_known or contributed.silent_since <= self._told
        return 0 if is_sure else contributed.silent_since
