"""Where a node's ledger is kept: in memory, in its own folder, or with the data that it has."""

from __future__ import annotations

from pathlib import Path

import attrs

from qres_core import NodeInfo, OwnContributions, RoundError, RoundInfo
from qres_dp.ledger import Owner, PrivacyLedger
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
        return PrivacyLedger.begin(folder, self.owner)


@attrs.define
class Newness:
    """Whether a ledger that began without a charge of the node may lack some.

    A node that lost its whole folder begins at height 0, with a new ledger, and then hears how far
    the swarm is. The chain tells of the last sets only. So a node counts as new for as long as the
    chain tells of every height since its first round here, or its operator says that it is.
    """

    is_declared: bool = False  # whether the operator says that the node is new in the swarm
    _is_known: bool | None = attrs.field(init=False, default=None)
    _told: int = attrs.field(init=False, default=0)

    def untold(self, height: int, contributed: OwnContributions, *, has_charges: bool) -> int:
        """Before which height there may be charges that are lost; 0 for none.

        Args:
            height: of the round that opens.
            contributed: what journal and chain know, and the ledger has.
            has_charges: whether the ledger has any of this node.
        """
        if self._is_known is None:
            self._is_known = has_charges
        if contributed.height >= 0:  # the ledger has what the chain names
            self._is_known = True
        if self.is_declared or contributed.silent_since <= self._told:
            self._told = height
        is_sure = self._is_known or contributed.silent_since <= self._told
        return 0 if is_sure else contributed.silent_since
