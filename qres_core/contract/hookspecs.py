"""The hooks: seven families and the life cycle.

A plugin is an attrs class whose fields are its options and whose methods marked ``@hookimpl`` are
its hooks. Hooks are plain functions. A hook may ask for any subset of its arguments, by name.
Plugins run in the order of their tables in the TOML file.

This file is the overview. ``docs/reference/hooks.md`` has what each hook is promised and what it
must keep to: when it is called, shapes and units, what an error does, and an example.
"""

# pyright: reportReturnType=false
# Specifications are signatures; their bodies never run.

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import pluggy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from qres_core.contract.dialogue import Dialogue
    from qres_core.contract.evidence import Evidence, Revelation, Standing
    from qres_core.contract.held_out import HeldOut, Screening
    from qres_core.contract.rounds import Outcome, OwnContributions, RoundInfo
    from qres_core.contract.transport import LinkKeys, Transport
    from qres_core.contract.types import (
        Contribution,
        NodeId,
        NodeInfo,
        Update,
        Updates,
        Vector,
    )
    from qres_core.contract.verdict import Verdict
    from qres_core.contract.wire import Envelope

PROJECT = "qres"

hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a method of a plugin as the implementation of the hook of that name."""

hookspec = pluggy.HookspecMarker(PROJECT)


class HookSpecs:
    """The specification of every hook. Never instantiated."""

    # ── life cycle ────────────────────────────────────────────────────────────────────────────────
    # Any number of plugins, in file order; ``teardown`` in reverse.

    @hookspec
    def setup(self, node_info: NodeInfo) -> None:
        """Prepare the plugin for its node. Called once, before the transport starts."""

    @hookspec
    def teardown(self) -> None:
        """Release what ``setup`` took. Called once, even after an error."""

    @hookspec
    def round_opened(self, round_info: RoundInfo, contributed: OwnContributions) -> Dialogue | None:
        """Begin a round, before training; return a dialogue to exchange messages with the peers."""

    @hookspec
    def round_closed(self, outcome: Outcome) -> None:
        """End a round, with a new model or with nothing changed."""

    @hookspec
    def status(self) -> Mapping[str, object]:
        """Return figures for the status page, by name. Must not change state."""

    # ── transport ─────────────────────────────────────────────────────────────────────────────────
    # Exactly one plugin.

    @hookspec
    def transport(
        self,
        node_info: NodeInfo,
        admission: Callable[[NodeId, bytes], Verdict],
        credential: Callable[[], bytes],
        link_keys: LinkKeys | None,
    ) -> Transport:
        """Make the object that carries frames between nodes. Called once, after ``setup``."""

    # ── authenticate ──────────────────────────────────────────────────────────────────────────────
    # One plugin or more (none only with ``swarm.insecure``). Every one must accept a message.

    @hookspec
    def sign(self, envelope: Envelope) -> bytes:
        """Return the authenticator of an outgoing message, at most 4096 bytes."""

    @hookspec
    def authenticate(
        self,
        envelope: Envelope,
        source: NodeId,
        now: float,
        quoted: bool,  # noqa: FBT001 - plugins ask for it by name
    ) -> Verdict:
        """Decide whether the claimed sender made the message and may take part."""

    @hookspec
    def identity(self, seed: bytes | None) -> NodeId:
        """Return this node's identity, a public key of 32 bytes. Called once, before ``setup``."""

    @hookspec
    def key_index(self, node_id: NodeId) -> int:
        """Return how many keys a node had before its present one, 0..2**15-1."""

    @hookspec
    def link_keys(self) -> LinkKeys:
        """Lend the transport the keys that prove identities on a connection."""

    @hookspec
    def credential(self) -> bytes:
        """Return what this node shows a neighbour when it connects, at most 4096 bytes."""

    @hookspec
    def admit(self, peer: NodeId, credential: bytes) -> Verdict:
        """Decide whether a neighbour may connect at all."""

    @hookspec
    def approve(self, digest: bytes, approval: bytes, now: float) -> Verdict:
        """Decide whether the swarm's authority approved a change of the members."""

    # ── replay_check ──────────────────────────────────────────────────────────────────────────────
    # One plugin or more (none only with ``swarm.insecure``). Every one must accept a message.

    @hookspec
    def replay_check(self, envelope: Envelope, now: float) -> Verdict:
        """Decide whether an authenticated message is new and timely. Called once a delivery."""

    # ── reputation ────────────────────────────────────────────────────────────────────────────────
    # At most one ``reputation``; any number of ``observe``.

    @hookspec
    def reputation(self, sender: NodeId) -> Standing:
        """Return how much a node counts, in units of 2**-32, and whether it is banned."""

    @hookspec
    def observe(self, evidence: Evidence) -> None:
        """Take note of a fact about a node. An error stops the node."""

    # ── privatize ─────────────────────────────────────────────────────────────────────────────────
    # Any number of plugins: ``privatize`` chained in file order, ``reveal`` in reverse. A set holds
    # only what every ``revealable`` names.

    @hookspec
    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        """Hide what must not leave the node. Called once a round, after training."""

    @hookspec
    def revealable(
        self, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> tuple[NodeId, ...]:
        """Name the senders, of these, whose contributions may be revealed together."""

    @hookspec
    def reveal(
        self, updates: Updates, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> Updates | Revelation:
        """Undo for the agreed set what ``privatize`` did to each update, before ``aggregate``."""

    @hookspec
    def reveal_shard(
        self,
        updates: Updates,
        contributions: tuple[Contribution, ...],
        start: int,
        round_info: RoundInfo,
    ) -> NDArray[np.int64]:
        """Open the sums of a range of coordinates of the agreed set, as ``(rows, c)``."""

    # ── prove ─────────────────────────────────────────────────────────────────────────────────────
    # Any number of plugins. Every one must accept a contribution.

    @hookspec
    def prove(self, update: Update, round_info: RoundInfo) -> bytes:
        """Prove a property of the update as it leaves the node."""

    @hookspec
    def verify(self, contribution: Contribution, round_info: RoundInfo) -> Verdict:
        """Check the proof that came with a contribution."""

    @hookspec
    def verify_shard(
        self, contribution: Contribution, shard: Vector, start: int, round_info: RoundInfo
    ) -> Verdict:
        """Check a range of a contribution's coordinates against its proof."""

    @hookspec
    def verify_all(
        self, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> Sequence[Verdict]:
        """Check the proofs of many contributions at once, where that is cheaper than ``verify``."""

    # ── aggregate ─────────────────────────────────────────────────────────────────────────────────
    # Exactly one ``aggregate``, inside any number of ``wrap_aggregate``: the first is outermost.

    @hookspec
    def aggregate(self, updates: Updates, round_info: RoundInfo) -> Vector:
        """Merge the agreed updates ``(n, d)`` into one ``(d,)``: the same bits on every machine."""

    @hookspec
    def wrap_aggregate(
        self,
        proceed: Callable[[Updates], Vector],
        updates: Updates,
        held_out: HeldOut | None,
        round_info: RoundInfo,
    ) -> Vector:
        """Run around the rule: filter or mix what goes in, check or clip what comes out."""

    @hookspec
    def screen(self, updates: Updates, held_out: HeldOut, round_info: RoundInfo) -> Screening:
        """As proposer, choose which updates to leave out of the proposal and which count less."""

    @hookspec
    def endorse(
        self, updates: Updates, merged: Vector, held_out: HeldOut, round_info: RoundInfo
    ) -> Verdict:
        """Decide whether this node votes for a proposed set. Every plugin must accept."""
