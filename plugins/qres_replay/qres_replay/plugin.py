"""The ``replay`` plugin: its options and its hooks."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Final

import attrs

from qres_core import (
    ACCEPT,
    Blame,
    Claims,
    Envelope,
    Needs,
    NodeId,
    NodeInfo,
    RoundInfo,
    Verdict,
    hookimpl,
    options,
    reject,
    stores,
)
from qres_core.dialogues import Dialogue
from qres_core.errors import Problem
from qres_replay.challenge import Challenge, Freshness, draw_nonce
from qres_replay.store import KIND, MARKER, WindowStore
from qres_replay.window import Sender, Window

MODES: Final = ("clock", "challenge")
MIN_WINDOW: Final = 32  # RFC 4303 section 3.4.3
MAX_WINDOW: Final = 2**16

UNKNOWN: Final = reject("unknown-sender")
BEHIND: Final = reject("clock-behind")
AHEAD: Final = reject("clock-ahead")
BEFORE_RESTART: Final = reject("sent-before-the-restart")


@attrs.define(eq=False)
class Replay:
    """Accept every message once, and none that is old.

    Sequence numbers are the defence: of each member the highest number seen is kept and a bitmap
    of the ``window`` numbers up to it. A number is accepted once, in any order inside the window.
    Clocks only bound how long a message that nobody has seen yet may be held back.

    The members of the last round that opened count, those of ``setup`` before. A new one begins
    with an empty window. Who left keeps its window, so that being added again makes nothing it said
    before new.

    Memory is fixed by the members there ever were and ``window``, and no sender has a part in
    another's. With a
    ``data_dir`` it survives ``kill -9`` exactly and a power loss safely, see
    :mod:`qres_replay.store`. Without one it is lost with the process.

    Attributes:
        skew: how far a message's time may be from this node's clock, seconds, both ways.
        window: how many numbers of a sender may arrive out of order, 32..65536.
        mode: ``"clock"``, or ``"challenge"`` to let nodes with a wrong clock take part, see
            :mod:`qres_replay.challenge`.

    Raises:
        OptionError: QRES-E105, an option is out of range.

    Source:
        RFC 4303 section 3.4.3 for the window.

    Example:
        >>> from qres_lab.testing import make_envelope, make_node_info
        >>> replay = Replay()
        >>> replay.setup(make_node_info())
        >>> message = make_envelope()
        >>> replay.replay_check(message, message.time_ms / 1000).accepted
        True
        >>> replay.replay_check(message, message.time_ms / 1000).reason.value
        'replayed'
    """

    skew: float = attrs.field(
        default=60.0,
        validator=options.real(above=0, unit="seconds"),
        metadata=options.local(
            "Greatest difference between a message's time and this node's clock, in "
            "seconds, in both directions."
        ),
    )
    window: int = attrs.field(
        default=1024,
        validator=options.whole(MIN_WINDOW, MAX_WINDOW),
        metadata=options.local(
            "Sequence numbers of a sender that may arrive out of order. Must be at "
            "least the number of messages of one node in flight."
        ),
    )
    mode: str = attrs.field(
        default="clock",
        validator=options.one_of(*MODES),
        metadata={
            "help": '"clock": the clock bounds every message. "challenge": it does not bound '
            "nodes that answer the coordinator's nonce, so that a wrong clock excludes "
            "nobody."
        },
    )
    _senders: Mapping[NodeId, Sender] = attrs.field(factory=dict[NodeId, Sender], init=False)
    _left: dict[NodeId, Sender] = attrs.field(factory=dict[NodeId, Sender], init=False)
    _store: WindowStore | None = attrs.field(default=None, init=False)
    _freshness: Freshness | None = attrs.field(default=None, init=False)
    _node: NodeInfo | None = attrs.field(default=None, init=False)

    @property
    def claims(self) -> Claims:
        """Senders must be authenticated: a forged number would use up the one it was forged for."""
        nonce = "mode = 'challenge': nobody contributes to a round before the coordinator's nonce"
        return Claims(
            tolerates=None,
            needs=Needs(families=("authenticate",)),
            notices=() if self.mode == "clock" else (nonce,),
        )

    # ── life cycle ────────────────────────────────────────────────────────────────────────────

    def preflight(self, node_info: NodeInfo) -> tuple[Problem, ...]:
        """Check that ``setup`` could open the store of this node. Returns QRES-E602 where not."""
        return stores.rehearse(
            node_info.data_dir,
            KIND,
            lambda folder: self._opened(folder, node_info).close(),
            (MARKER,),
        )

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Open the store, or begin with empty windows where there is no ``data_dir``.

        Raises QRES-E602, see :class:`qres_replay.store.WindowStore`.
        """
        self.teardown()
        if node_info.data_dir is None:
            self._senders = {node: Sender(node, Window(self.window)) for node in node_info.roster}
        else:
            self._store = self._opened(Path(node_info.data_dir), node_info)
            self._senders = self._store.senders
        if self.mode == "challenge":
            self._freshness = Freshness(node_info.node_id, min(node_info.roster))
        self._node = node_info

    def _opened(self, folder: Path, node_info: NodeInfo) -> WindowStore:
        return WindowStore(
            folder,
            swarm=node_info.swarm,
            node_id=node_info.node_id,
            roster=node_info.roster,
            window=self.window,
        )

    @hookimpl
    def teardown(self) -> None:
        """Close the store in order. From then on every message is refused.

        Raises QRES-E602 if the disk does not take the mark of an orderly stop.
        """
        store, self._store = self._store, None
        self._senders, self._freshness, self._node = {}, None, None
        self._left.clear()
        if store is not None:
            store.close()

    @hookimpl
    def round_opened(self, round_info: RoundInfo) -> Dialogue | None:
        """Take in who joined and who left; open the challenge of the round, in that mode.

        Raises QRES-E602 if the store did not keep a new member; the members stay as they were.
        """
        freshness, node = self._freshness, self._node
        if node is None:
            return None
        roster = round_info.roster
        if self._senders.keys() != set(roster):
            self._admit(roster)
        if freshness is None:
            return None
        number = round_info.number
        freshness.follow(roster)
        freshness.opened(number, draw_nonce(node.seed, number) if freshness.leads else b"")
        peers = tuple(peer for peer in roster if peer != node.node_id)
        return Challenge(peers, number, freshness)

    def _admit(self, roster: tuple[NodeId, ...]) -> None:
        if self._store is not None:
            self._senders = self._store.admit(roster)
            return
        known = {**self._left, **self._senders}
        self._senders = {
            node: known.get(node) or Sender(node, Window(self.window)) for node in roster
        }
        self._left = {node: sender for node, sender in known.items() if node not in self._senders}

    # ── the check ─────────────────────────────────────────────────────────────────────────────

    @hookimpl
    def replay_check(self, envelope: Envelope, now: float) -> Verdict:
        """Accept a message whose number is new and whose time is right or excused.

        Nothing is kept of a message that is refused: one refused for its time may come again.

        Returns:
            ``ACCEPT``, or a rejection:

            - ``"unknown-sender"``: no member of the last round that opened. Blames nobody: a node
              that is ahead may know it.
            - ``Fault.REPLAYED``: the number was seen. ``"sequence-too-old"``: it is below the
              window. Both blame nobody, as networks duplicate and delay. They blame the source only
              in mode ``"clock"``, and for a time that is more than twice ``skew`` away: no
              neighbour whose own clock is right would have passed that on.
            - ``"clock-behind"``, ``"clock-ahead"``: the time is more than ``skew`` away. Blames
              nobody: a wrong clock is no attack, and it may be this node's.
            - ``"sent-before-the-restart"``: a power loss took the memory of that time. Blames
              nobody.

        O(window / 64); with a store, one commit. Raises QRES-E602 if the store did not keep the
        message; it is not accepted.
        """
        sender = self._senders.get(envelope.sender)
        if sender is None:
            return UNKNOWN
        sequence, time_ms = envelope.sequence, envelope.time_ms
        now_ms = int(now * 1000)  # as senders round it
        off = time_ms - now_ms
        reason = sender.window.refusal(sequence)
        if reason:
            beyond_doubt = self.mode == "clock" and abs(off) > 2000 * self.skew
            return reject(reason, blame=Blame.LINK if beyond_doubt else Blame.NOBODY)
        untimely = self._untimely(sender, time_ms, off)
        freshness = self._freshness
        if untimely is not None and not (freshness is not None and freshness.excuses(envelope)):
            return untimely
        high, seen = sender.window.after(sequence)
        if self._store is not None:
            self._store.record(sender, high, seen, time_ms=time_ms, now_ms=now_ms)
        sender.window.high, sender.window.seen = high, seen
        if freshness is not None:
            freshness.note(envelope)
        return ACCEPT

    def _untimely(self, sender: Sender, time_ms: int, off: int) -> Verdict | None:
        limit = 1000 * self.skew
        if off < -limit:
            return BEHIND
        if off > limit:
            return AHEAD
        return BEFORE_RESTART if time_ms <= sender.floor else None
