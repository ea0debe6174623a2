"""The records of the members, in memory and, where the node has a folder, on disk."""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from pathlib import Path
from typing import TypeAlias

import attrs

from qres_core import NodeId, NodeInfo
from qres_reputation.record import Conduct
from qres_reputation.rules import ScoringRule
from qres_reputation.store import ConductStore, SavedConduct, Settings

Change: TypeAlias = Callable[[Mapping[NodeId, Conduct]], Mapping[NodeId, Conduct]]
"""From the present records of the members to those that change."""


@attrs.define(eq=False)
class ConductTable:
    """Records by node; complete for the members from the first moment."""

    records: dict[NodeId, Conduct]  # the present records of the members. Not to be written to.
    _store: ConductStore | None = None
    # of those that left, where there is no file
    _left: dict[NodeId, Conduct] = attrs.field(factory=dict[NodeId, Conduct], init=False)

    @classmethod
    def open(cls, info: NodeInfo, rule: ScoringRule, settings: Settings) -> ConductTable:
        """The node's records: from its folder if it has one, else fresh ones.

        Nodes new in the roster get a fresh record. Scores made by another rule are translated: the
        score stays, the evidence behind it is not kept. Whoever left the roster keeps a row in the
        file, and a ban with it. Raises RoundError: QRES-E602 for a file that is damaged or another
        node's.
        """
        fresh = {node: Conduct(rule.fresh()) for node in info.roster}
        if info.data_dir is None:
            return cls(fresh)
        begin = (info.swarm, info.node_id), SavedConduct(settings, 0, fresh)
        store = ConductStore(Path(info.data_dir), begin)
        try:
            store.bind(info.swarm, info.node_id)
            with store.transaction():
                found = store.load()
                changes = {node: item for node, item in fresh.items() if node not in found.records}
                if found.settings.rule != settings.rule:
                    for node, record in found.records.items():
                        changes[node] = attrs.evolve(record, belief=rule.at(record.belief.score))
                store.put(changes)
                store.put_settings(settings)
        except BaseException:
            store.close()
            raise
        kept = {**found.records, **changes}
        return cls({node: kept[node] for node in info.roster}, store)

    def follow(self, roster: Collection[NodeId], fresh: Conduct) -> bool:
        """Change the members, durably before this returns; true if they were others before.

        ``fresh``: the record of a node that never was a member. Who was one before goes on with
        what it left behind, a ban too: leaving and coming back must not make anybody new. Raises
        RoundError: QRES-E602; then nothing changed.
        """
        members = set(roster)
        if self.records.keys() == members:
            return False
        if self._store is None:
            known = {**self._left, **self.records}
            self.records = {node: known.get(node, fresh) for node in roster}
            self._left = {node: known[node] for node in known.keys() - members}
            return True
        with self._store.transaction():
            known = self._read(self._store)
            new = dict.fromkeys(sorted(members - known.keys()), fresh)
            self._store.put(new)
        known.update(new)
        self.records = {node: known[node] for node in roster}
        return True

    def refresh(self) -> bool:
        """Take in what ``qres reputation`` changed; true if it did.

        Raises RoundError: QRES-E602.
        """
        if self._store is None or not self._store.changed():
            return False
        self._read(self._store)
        return True

    def _read(self, store: ConductStore) -> dict[NodeId, Conduct]:
        found = dict(store.load().records)
        if missing := self.records.keys() - found.keys():
            raise store.unusable(f"{len(missing)} nodes of the roster are gone")
        self.records = {node: found[node] for node in self.records}
        return found

    def change(self, change: Change, *, ended: int | None = None) -> None:
        """Change some records, durably before this returns.

        Raises RoundError: QRES-E602; then nothing changed.
        """
        if self._store is None:
            self.records.update(change(self.records))
            return
        with self._store.transaction():
            if self._store.changed():
                self._read(self._store)
            changes = change(self.records)
            self._store.put(changes)
            if ended is not None:
                self._store.put_round(ended)
        self.records.update(changes)

    def close(self) -> None:
        """Let go of the file."""
        if self._store is not None:
            self._store.close()
