"""A node's conversation in a round: the protocol's steps, and when to take them.

The first leader is the node whose turn it is to propose. It names in a list whom it found complete;
it has no secrets and no other power: a list that leaves nodes out, names what others did not get or
differs from node to node makes nodes sit out, or the round abort. A node that took no list of a
leader within a patience skips it. Once a quorum has, no set of its lists can be stated, and the
next node of the roster leads.

::

    start      advertise, to everybody
    receive    when all holders advertised, or patience is over: share, to everybody
    receive    when all shares for this node came, or patience is over again: ack those that fit,
               complain about the others
    receive    leader: when all shares were found to fit, or half a patience later: the list
    tick       a patience later without a list: skip the leader, and the next one lists
    receive    the list names what this node has and enough others checked: ready, ``mask`` may run
    decided    state the survivor set
    receive    when a quorum stated it: unmask, to everybody
    receive    shares enough of every listed node: finished, the sums can be opened

The round machine brings what was lost, as its author signed it. A node that still lacks what a list
names when the set is decided no longer takes part: it opens the sums with what others say.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, Final

from numpy.typing import NDArray

from qres_core import Accusation, Contribution, NodeId, RoundInfo
from qres_core.dialogues import DialogueMessage, Send
from qres_core.errors import RoundError, WireError
from qres_secagg.board import SessionMessages
from qres_secagg.client import Client, History, Masked, Phase
from qres_secagg.failure import PeerFault, Reason, SecaggError
from qres_secagg.inputs import Inputs, input_digest, listed
from qres_secagg.leaders import Leaders
from qres_secagg.masks import Residues
from qres_secagg.messages import Kind
from qres_secagg.ring import incoming
from qres_secagg.session import Session

NO_LIE: Final = frozenset({Reason.OTHER_SESSION})
"""Faults that an honest node with another configuration shows as well."""
LEADERS_FAULT: Final = frozenset({Reason.MALFORMED, Reason.BAD_LIST, Reason.EQUIVOCATION})

_FOR_ALL: Final = frozenset(Kind) - {Kind.LIST}

Out = list[Send | Accusation]


class SecaggDialogue:
    """One node in one session, between the round machine and the protocol.

    Args:
        session: the session.
        me: this node.
        history: what it remembers over restarts.
        permits: whether sums of these nodes may be opened after those on record.
        opens: whether as many of their sums can be opened as are of use.
        notes: note that this node is about to state a set of these nodes; whether it may.
        patience: seconds to wait for nodes that may be away.
        threads: threads that expand masks.

    Attributes:
        session: the session.
        board: its public side.
        refusal: why this node does not take part any more; empty while it does.
    """

    def __init__(
        self,
        session: Session,
        me: NodeId,
        history: History,
        *,
        permits: Callable[[Collection[NodeId]], bool],
        opens: Callable[[Collection[NodeId]], bool],
        notes: Callable[[Collection[NodeId]], bool],
        patience: float = 2.0,
        threads: int = 1,
    ) -> None:
        self.session, self.board = session, SessionMessages(session, me)
        self.refusal = ""
        self._me = me
        self._client = Client(session, me, self.board, history, threads=threads)
        self._permits, self._opens, self._notes = permits, opens, notes
        self._patience = patience
        self._opened_at: float | None = None
        self._now = 0.0
        self._leaders = Leaders(session, patience)
        self._agreed: tuple[Contribution, ...] | None = None
        self._senders: tuple[NodeId, ...] | None = None  # of the agreed set
        self._inputs: Inputs | None = None  # those read last
        self._stated = False  # what was agreed on last, by this node or without it
        self._observing = False
        self._finished = False

    # ── what the round asks ───────────────────────────────────────────────────────────────────

    @property
    def ready(self) -> bool:
        """True when the node may mask."""
        return not self._observing and not self.refusal and self._client.phase is Phase.LISTED

    @property
    def finished(self) -> bool:
        """True when the sums can be opened."""
        return self._finished and not self.refusal

    def start(self) -> Sequence[Send | Accusation]:
        """Advertise. Raises SecaggError: QRES-E604, the node took part in this session before."""
        try:
            return [Send(self._client.advertise(), int(Kind.ADVERTISE))]
        except SecaggError as error:
            self.refusal = str(error)
            raise

    def receive(self, message: DialogueMessage) -> Sequence[Send | Accusation]:
        """Take a message of a peer. Never raises for what it holds.

        Complexity: that of the step it makes possible; else O(n).
        """
        out: Out = []
        sender, step, body = message.sender, message.step, message.body
        if message.to is not None:  # nobody else would ever get it, and a list could name it
            return [Accusation(sender, Reason.ADDRESSED)]
        try:
            if step == Kind.LIST:
                fault = self._leaders.take(sender, body)
                out += [] if fault is None else [Accusation(sender, fault)]
            elif step in _FOR_ALL:
                self.board.receive(sender, Kind(step), body)
            else:
                out.append(Accusation(sender, Reason.MALFORMED))
        except WireError:
            out.append(Accusation(sender, Reason.MALFORMED))
        return out + self._advance()

    def tick(self, now: float) -> Sequence[Send | Accusation]:
        """The clock is at ``now``: stop waiting for nodes that are away."""
        self._now = now
        if self._opened_at is None:
            self._opened_at = now
        if self._leaders.due_at is None and self._list_is_due:
            self._leaders.due_at = now
        return self._advance()

    def decided(
        self,
        members: tuple[NodeId, ...],
        contributions: tuple[Contribution, ...],
        round_info: RoundInfo,
    ) -> Sequence[Send | Accusation]:
        """The agreed set: state who of the listed is in it, and with which masked inputs.

        ``members``: senders of the agreed contributions; ``contributions``: theirs, in that order;
        ``round_info``: the round they were made in, which must be the session's.
        """
        del members  # the contributions say whose they are
        self._agreed, self._stated = contributions, False
        self._leaders.agreed(contributions)
        made_in, here = round_info.number, self.session.round
        place = round_info.model_digest, round_info.head
        if made_in != here or place != (self.session.model_digest, self.session.head):
            self.retire(f"a set of round {made_in}, not of {here}")
            return []
        return self._settled(tuple(item.sender for item in contributions))

    def _settled(self, senders: tuple[NodeId, ...]) -> Sequence[Send | Accusation]:
        """Go on with a set of the session's round, if its sums may and can be opened."""
        self._senders = senders
        if not self._permits(senders):
            self.retire(Reason.ON_RECORD.replace("-", " "))  # more than f accepted it and lie
            return []
        if not self._opens(senders):
            self.retire(Reason.FEW_SUMS.replace("-", " "))  # such a set is decided, for a change
            return []
        if self._client.phase not in (Phase.LISTED, Phase.MASKED):
            self._observing = True  # from here on never ready
        return self._advance()

    # ── between rounds ────────────────────────────────────────────────────────────────────────

    @property
    def may_be_opened(self) -> bool:
        """True if there is a list and nothing was refused: a set of it may be agreed on yet."""
        return self.board.listing is not None and not self.refusal

    def leave(self) -> None:
        """The session's round is over: nothing is masked in it any more."""
        self._observing = True

    def retire(self, why: str) -> None:
        """Another session goes on: no set of this one is stated."""
        self.refusal = self.refusal or why

    # ── what the plugin asks ──────────────────────────────────────────────────────────────────

    def mask(self, values: NDArray[Any], residues: Mapping[str, Residues]) -> Masked:
        """See :meth:`Client.mask`."""
        if not self.ready:
            raise SecaggError(Reason.OUT_OF_ORDER, self.refusal or "the session is not ready")
        return self._client.mask(values, residues)

    def inputs(self, contributions: Sequence[Contribution]) -> Inputs:
        """The masked inputs of contributions; of those that were decided, as hashed for that.

        Complexity: O(d) for each, once.
        """
        chosen = listed(self.board, contributions)
        if self._inputs is None or not self._inputs.are_of(chosen):
            self._inputs = Inputs.of(chosen, self.session.parameters)
            self._name_own(self._inputs)
        return self._inputs

    def _name_own(self, inputs: Inputs) -> None:
        """Tell the client what its own input goes by, where vectors are with committees.

        It states no set with another input of its own. So it must know its own by all coordinates.
        """
        parameters = self.session.parameters
        for own in inputs.read_from:
            whole = own.vector.size == parameters.dimension
            if own.sender == self._me and own.root and whole:
                values, _right = incoming(own.vector, own.companions, parameters)
                digest = input_digest(values, inputs.by_sender[self._me].residues)
                self._client.goes_by(digest, own.digest)

    # ── steps ─────────────────────────────────────────────────────────────────────────────────

    def _waited(self, patiences: float) -> bool:
        opened = self._opened_at
        return opened is not None and self._now >= opened + patiences * self._patience

    def _advance(self) -> Out:
        """Take every step whose condition holds."""
        out: Out = []
        if not self.refusal:
            out += self._share()
            out += self._ack()
            self._turn_to()
            out += self._lead()
            out += self._skip()
        out += self._adopt()
        out += self._state()
        if self._client.phase is Phase.STATED and self._client.can_unmask:
            out.append(Send(self._client.unmask(), int(Kind.UNMASK)))
        self._finish()
        return out + self._accusations(self.board.drain())

    def _finish(self) -> None:
        board = self.board
        if self._finished or self.refusal or board.opening is None:
            return
        if board.statements < board.quorum or board.opening.missing:
            return
        try:
            self._finished = board.opening.open_all()
        except SecaggError as error:
            self.refusal = str(error)

    def _share(self) -> Out:
        client = self._client
        if client.phase is not Phase.ADVERTISED or not (client.can_share or self._waited(1)):
            return []
        try:
            return [Send(client.share(), int(Kind.SHARE))]
        except SecaggError:  # too few holders yet
            return []

    def _ack(self) -> Out:
        client = self._client
        board = self.board
        if client.phase is not Phase.SHARED or self._observing or board.listing is not None:
            return []
        if client.has_judged:
            return []
        # Who has not advertised within a patience is away, and no shares of it will come.
        shared = self._waited(1) and board.adverts.keys() <= board.shares.keys()
        if not (client.can_ack or shared or self._waited(2)):
            return []
        return [Send(body, int(kind)) for kind, body in client.acknowledge()]

    def _turn_to(self) -> None:
        """See whose turn it is to list, and leave a list that does not count any more."""
        board, client, leaders = self.board, self._client, self._leaders
        changed = leaders.has_changed(board.turn, board.list_hash)
        if changed and board.listing is not None and board.opening is None:
            board.forget_list()
            if client.phase in (Phase.LISTED, Phase.MASKED):  # it masks and states once
                self._observing |= client.phase is Phase.MASKED or self._senders is not None
                client.leave()

    @property
    def _list_is_due(self) -> bool:
        if self._leaders.turn:  # it was, for the leader before
            return True
        heard = len(self.board.shares) == len(self.session.roster) or self._waited(1)
        return (heard and self.board.complete) or self._waited(2.5)

    def _lead(self) -> Out:
        leaders, turn = self._leaders, self._leaders.turn
        if leaders.who(turn) != self._me or turn in leaders.lists or self._observing:
            return []
        if not self._list_is_due:
            return []
        try:
            body = self.board.compose()
        except SecaggError:  # too few are complete yet
            return []
        leaders.take(self._me, body)
        return [Send(body, int(Kind.LIST))]

    def _skip(self) -> Out:
        """Skip a leader of whom no list was taken in time, or can be.

        Or whose list so many skipped that no quorum is left to state a set of it. Else a leader
        that tells its list to some as its patience ends would cost the round.
        """
        client, leaders, board = self._client, self._leaders, self.board
        if self._observing or leaders.is_last or client.skipped > leaders.turn:
            return []
        listed = client.phase is Phase.LISTED and board.opening is None
        if listed and board.hopeless(leaders.turn):
            board.forget_list()
            client.leave()
        elif board.listing is not None or not leaders.late(self._now):
            return []
        if client.phase not in (Phase.ADVERTISED, Phase.SHARED):
            return []
        return [Send(client.skip(leaders.turn + 1), int(Kind.SKIP))]

    def _takes(self, turn: int) -> bool:
        """True if it masks under a list; where its leader was skipped, if others did not do so."""
        leaders = self._leaders
        return self._client.skipped <= turn or leaders.late(self._now - self._patience)

    def _adopt(self) -> Out:
        board, told = self.board, self._leaders.chosen
        if told is None or board.listing is not None or self.refusal or board.lacking(told.listing):
            return []
        try:
            if self._observing:
                board.adopt(told.body)
            elif self._client.phase is Phase.SHARED and self._takes(told.turn):
                self._client.adopt(told.body, told.turn)
        except SecaggError as error:
            if error.reason in LEADERS_FAULT and told.turn not in self._leaders.bad:
                self._leaders.bad.add(told.turn)
                return [Accusation(self._leaders.who(told.turn), error.reason), *self._skip()]
            # Left out: it watches how the others go on. Else more may come.
        return []

    def _state(self) -> Out:
        board, senders = self.board, self._senders
        if senders is None or board.listing is None or self._stated or self.refusal:
            return []
        inputs = self._digests()
        if not inputs and senders:
            return []  # nobody masked under this list: perhaps another one comes
        self._stated = True
        try:
            if self._client.can_state:
                self._client.expect_statable(inputs)  # what is refused takes no room on the disk
                if not self._notes(senders):
                    self.retire(Reason.OFF_RECORD.replace("-", " "))  # more than f lied in votes
                    return []
                return [Send(self._client.state(inputs), int(Kind.STATEMENT))]
            board.decide(inputs)  # where it was before, for the same set alone
        except RoundError as error:
            self.refusal = str(error)
        return []

    def _digests(self) -> Mapping[NodeId, bytes]:
        """The hash of each input of the agreed set that was masked under the list."""
        return self.inputs(self._agreed or ()).digests()

    # ── messages ──────────────────────────────────────────────────────────────────────────────

    def _accusations(self, faults: Sequence[PeerFault]) -> Out:
        return [
            Accusation(fault.subject, fault.reason)
            for fault in faults
            if fault.reason not in NO_LIE and fault.subject in self.session.rank
        ]
