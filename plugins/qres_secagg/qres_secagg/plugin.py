"""The ``secagg`` plugin: its options and its hooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core import (
    MAX_WEIGHT,
    Claims,
    Contribution,
    Needs,
    NodeId,
    NodeInfo,
    Outcome,
    RoundInfo,
    RoundStatus,
    Surroundings,
    Update,
    Updates,
    Visibility,
    hookimpl,
    options,
    stores,
)
from qres_core.claims import Hides
from qres_core.dialogues import Dialogue, Revelation
from qres_core.errors import CompatibilityError, ConfigError, Problem, RoundError
from qres_secagg.attempts import Attempts
from qres_secagg.dialogue import SecaggDialogue
from qres_secagg.fitting import keeping, misfits, spoiling, stalling
from qres_secagg.hosted import PATIENCE, ClientSession, FreshHistory, WatchedSession
from qres_secagg.levels import finest
from qres_secagg.masking import masked
from qres_secagg.parameters import PRGS, Parameters
from qres_secagg.permission import Permission
from qres_secagg.revelation import open_shard, reveal
from qres_secagg.ring import masked_under
from qres_secagg.sizing import group_least, raw_bound, sized
from qres_secagg.store import FILE, KIND, SessionStore


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@attrs.define(eq=False)
class Secagg:
    """Masks updates so that only their sum, or the sums of groups, can be opened.

    Double masking after Bonawitz et al. (CCS 2017) on the sparse graph of Bell et al. (CCS 2020),
    with survivor statements against an aggregator that lies. Nobody in particular sums: shares are
    broadcast, and every node opens the same sums.

    Up to ``corrupt`` nodes may collude against the others, and up to ``dropout`` may fail in a
    round; degree and threshold of the share graph follow, with 40 bits of security. A sum of fewer
    than ``min_size`` inputs is never opened.

    A node that lacks a message the leader's list names, or that the list leaves out, sits the round
    out; its masks are recovered. A leader that is away, or silent, costs one patience.
    """

    group_size: int = attrs.field(
        default=0,
        validator=options.whole(0, 65_535),
        metadata=_help("Fewest nodes of a group; a rule sees one mean for each group. 0: one sum."),
    )
    min_size: int = attrs.field(
        default=0,
        validator=options.whole(0, 65_535),
        metadata=_help(
            "Fewest inputs of a sum that is opened: 3 or more, and two more than may be corrupt. "
            "0: 8 with groups, and without them the least."
        ),
    )
    corrupt: float = attrs.field(
        default=0.1,
        validator=options.real(0, 0.5),
        metadata=_help(
            "Share of the nodes that may collude; at least swarm.byzantine nodes. Every sum has "
            "two inputs more."
        ),
    )
    dropout: float = attrs.field(
        default=0.1,
        validator=options.real(0, 0.5),
        metadata=_help(
            "Share of the nodes that may fail within a round; at least one node. Enough groups for "
            "the rule must then be open with probability 0.9."
        ),
    )
    ring: int = attrs.field(
        default=32,
        validator=options.one_of(32, 64),
        metadata=_help(
            "Bits of the ring: 32, or 64 for large bounds and weights (twice the size)."
        ),
    )
    prg: str = attrs.field(
        default="aes256ctr",
        validator=options.one_of(*PRGS),
        metadata=_help('Generator of masks: "aes256ctr", or "chacha20" if AES is slow.'),
    )
    bound: float = attrs.field(
        default=8.0,
        validator=options.real(2.0**-16, 2.0**15),
        metadata=_help(
            "Largest coordinate of an update, in units of 2**16 raw; larger ones are refused."
        ),
    )
    noise_room: float = attrs.field(
        default=0.0,
        validator=options.real(0, 2.0**46),
        metadata=_help("Room for noise in a sum: six standard deviations, in units of 2**16 raw."),
    )
    weights: str = attrs.field(
        default="equal",
        validator=options.one_of("equal", "public"),
        metadata=_help(
            '"equal": every update counts once. "public": by its number of examples, '
            "which everybody sees."
        ),
    )
    max_weight: int = attrs.field(
        default=1,
        validator=options.whole(1, MAX_WEIGHT),
        metadata=_help("Largest weight with public weights; not above swarm.weight_cap."),
    )
    bisect: bool = attrs.field(
        default=False,
        validator=options.flag(),
        metadata=_help(
            "Work in groups half as large after a sum that failed its check, down to min_size."
        ),
    )
    patience: float = attrs.field(
        default=2.0,
        validator=options.real(0.01, 3600, unit="seconds"),
        metadata=options.local(
            "Seconds to wait for nodes that may be away, for keys, for shares and for a leader's "
            "list. Four times as much must fit into swarm.deadline."
        ),
    )
    threads: int = attrs.field(
        default=1,
        validator=options.whole(1, 64),
        metadata=options.local("Threads that expand masks."),
    )
    new_store: bool = attrs.field(
        default=False,
        validator=options.flag(),
        metadata=options.local(
            "Begin a store of used sessions although the swarm has heights behind it: a new node."
        ),
    )

    _node: NodeInfo | None = attrs.field(init=False, default=None)
    _store: SessionStore | None = attrs.field(init=False, default=None)
    _attempts: Attempts | WatchedSession | ClientSession | None = attrs.field(
        init=False, default=None
    )
    _kept: tuple[SecaggDialogue, ...] = attrs.field(init=False, default=())
    _judge: Permission | None = attrs.field(init=False, default=None)
    _sessions: int = attrs.field(init=False, default=0)
    _rounds_opened: int = attrs.field(init=False, default=0)
    _saturated: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        if self.min_size in (1, 2):
            msg = f"min_size must be 3 or more, or 0 for the default, got {self.min_size}"
            raise ValueError(msg)
        if self.group_size and self.group_size < group_least(self):
            msg = (
                f"group_size must be 0 or at least min_size = {group_least(self)}, "
                f"got {self.group_size}"
            )
            raise ValueError(msg)
        if self.weights == "equal" and self.max_weight != 1:
            msg = f'max_weight is an option of weights = "public", got {self.max_weight}'
            raise ValueError(msg)

    # ── what it needs and hides ───────────────────────────────────────────────────────────────

    @property
    def claims(self) -> Claims:
        """One sum is left, or one for each group; with ``bisect``, one may become those of groups.

        Senders must be proved: a node that can speak for others can open what they masked.
        """
        hides = Hides(Visibility.SUM, colluding=float(self.corrupt))
        if self.bisect or self.group_size:
            size, least = self.group_size or None, group_least(self)
            hides = Hides(Visibility.GROUP, size, least, colluding=float(self.corrupt))
        found = ["sums are not differential privacy: everybody sees what a sum shows of a node"]
        if self.weights == "public":
            found.append("weights are public: everybody sees each node's number of examples")
        return Claims(
            tolerates=None,
            needs=Needs(families=("authenticate", "replay_check")),
            hides=hides,
            notices=tuple(found),
        )

    def check(self, around: Surroundings) -> Iterator[Problem | str]:
        """Check that the swarm has the nodes, the room and the time for sums to be opened.

        Yields QRES-E304, QRES-E310, QRES-E313, QRES-E314 and QRES-E105, see
        :func:`qres_secagg.fitting.misfits`.
        """
        try:
            parameters = sized(self, around.nodes, around.byzantine, around.dimension or 1)
        except (CompatibilityError, ConfigError) as error:
            yield from error.problems
            return
        yield from misfits(around, parameters, self)
        yield from stalling(around, parameters)
        yield from spoiling(around, self)
        yield from keeping(around, parameters, self)

    def parameters(self, around: NodeInfo | RoundInfo, dimension: int) -> Parameters:
        """The numbers of a session; the same on every node of the swarm.

        ``around``: for the size of the roster and the fault bound. Raises CompatibilityError:
        QRES-E313 where a sum may leave the ring, QRES-E314 where no degree and threshold are safe
        or the swarm is smaller than its groups.
        """
        return sized(self, len(around.roster), around.byzantine, dimension)

    def _finest(self, nodes: int) -> int:
        if not self.bisect:
            return 0
        return finest(size=self.group_size, least=group_least(self), nodes=nodes)

    # ── life cycle ────────────────────────────────────────────────────────────────────────────

    def preflight(self, node_info: NodeInfo) -> tuple[Problem, ...]:
        """Check that ``setup`` would take the store that there may be. Returns QRES-E602 where not.

        The numbers of the swarm are judged by :meth:`check`.
        """

        def opens(folder: Path) -> None:
            found = self._opened(attrs.evolve(node_info, data_dir=str(folder)))
            if found is not None:
                found.close()

        return stores.rehearse(self._folder(node_info), KIND, opens)

    @staticmethod
    def _folder(node_info: NodeInfo) -> Path | None:
        if node_info.data_dir is None or node_info.hosted:
            return None  # inside a framework, what is kept of a session is with what plays it again
        return Path(node_info.data_dir)

    def _opened(self, node_info: NodeInfo) -> SessionStore | None:
        """The store, if the node has one already; one in memory where it may keep nothing."""
        folder = self._folder(node_info)
        if folder is not None and not SessionStore.exists(folder):
            return None
        return SessionStore(folder, swarm=node_info.swarm, node_id=node_info.node_id)

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Check the numbers and open the store of used sessions, if the node has one already.

        Raises QRES-E313 and QRES-E314, see :meth:`parameters`, and QRES-E602 for a store that is
        damaged or another node's.
        """
        self.parameters(node_info, 1)
        if self._store is not None:
            self._store.close()
        self._store = None
        self._store = self._opened(node_info)
        self._node, self._attempts, self._kept, self._judge = node_info, None, (), None

    @hookimpl
    def teardown(self) -> None:
        """Forget the secrets and close the store."""
        self._node = self._attempts = self._judge = None
        self._kept = ()
        if self._store is not None:
            self._store.close()
            self._store = None

    @hookimpl
    def status(self) -> Mapping[str, object]:
        """Numbers of opened sums and of odd events."""
        return {
            "sessions": self._sessions,
            "rounds_opened": self._rounds_opened,
            "level": 0 if self._judge is None else self._judge.level,
            "saturated": self._saturated,
        }

    @hookimpl
    def round_opened(self, round_info: RoundInfo) -> Dialogue:
        """Begin the session of a round; in the swarm's first one, the store as well.

        Graph, threshold and groups follow from the members of the round. A node that took part in
        the session before, because it was restarted in the middle of the round, stays out of it
        when the dialogue starts. Raises QRES-E313, QRES-E314, QRES-E604 where it was not set up or
        is no member, and QRES-E602 where the swarm has heights behind it and there is no store of
        the sessions the node took part in.
        """
        node = self._node
        if node is None:
            raise RoundError.of("QRES-E604", "secagg", "not set up")
        if node.hosted:
            return self._open_hosted(node, round_info)
        if node.node_id not in round_info.roster:
            raise RoundError.of("QRES-E604", "secagg", "this node is no member in this round")
        self._attempts = None
        store = self._store = self._store or self._begun(node, round_info)
        permission = self._permission(round_info)

        def notes(senders: Collection[NodeId]) -> bool:
            step, model = round_info.step, round_info.model_digest
            return store.states(step, model, permission.record, permission.entry(senders))

        def session(number: int) -> SecaggDialogue:
            return SecaggDialogue(
                permission.session(number),
                node.node_id,
                store.of_round(number),
                permits=permission.permits,
                opens=permission.opens,
                notes=notes,
                patience=self.patience,
                threads=self.threads,
            )

        self._sessions += 1
        self._attempts = Attempts(session(round_info.number), self._kept, watch=session)
        return self._attempts

    def _open_hosted(self, node: NodeInfo, round_info: RoundInfo) -> Dialogue:
        """The session of a round inside another framework, see :mod:`qres_secagg.hosted`."""
        if self.bisect:
            what = "groups are halved at a swarm's heights, and a coordinator has none"
            fix = "leave it out, or run a swarm: qres node run"
            raise CompatibilityError.of("QRES-E322", "plugins.secagg.bisect", what, fix)
        permission = self._permission(round_info)
        kind = WatchedSession if node.observer else ClientSession

        def notes(senders: Collection[NodeId]) -> bool:
            return isinstance(made, ClientSession) and made.may_state(permission.entry(senders))

        made = kind(
            permission.session(round_info.number),
            node.node_id,
            FreshHistory(),
            permits=permission.permits,
            opens=permission.opens,
            notes=notes,
            patience=PATIENCE,
            threads=self.threads,
        )
        if isinstance(made, ClientSession):
            made.least = round_info.quorum
        self._sessions += 1
        self._attempts = made
        return made

    def _begun(self, node: NodeInfo, round_info: RoundInfo) -> SessionStore:
        """A new store, where the node cannot have lost one."""
        if node.data_dir is None:
            raise RoundError.of("QRES-E604", "secagg", "not set up")
        folder = Path(node.data_dir)
        # Of a height without a model sums may be open, and the next one is about the same updates.
        if round_info.height > 0 and not self.new_store:
            what = f"no store of sessions, and the swarm has {round_info.height} heights behind it"
            fix = "bring it back; for a node that is new in the swarm, new_store = true"
            raise RoundError.of("QRES-E602", str(folder / FILE), what, fix)
        return SessionStore.begin(folder, swarm=node.swarm, node_id=node.node_id)

    @hookimpl
    def round_closed(self, outcome: Outcome) -> None:
        """Forget secrets that are of no more use.

        Where the height goes on, a set of this round may be decided in a later one: its session is
        kept. Where it is over no set of it is, with a new model or without.
        """
        left = self._attempts.leave() if isinstance(self._attempts, Attempts) else self._kept
        self._kept = left if outcome.status is RoundStatus.ABORTED else ()
        self._attempts = None

    # ── masking and opening ───────────────────────────────────────────────────────────────────

    @hookimpl
    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        """Mask the update, and the residues that plugins before this one put beside it.

        Every coordinate and residue is uniform to whoever lacks the masks. O(d k) for ``k`` peers
        in the group. Raises QRES-E507 for a coordinate beyond the bound, or a companion under this
        plugin's name: the node sits the round out. Raises QRES-E604 without a session that is
        ready, or for a second update in it.
        """
        dialogue = self._session_of(round_info)
        weight = self._weight_of(update, round_info)
        return masked(update, dialogue, weight=weight, bound=raw_bound(self))

    def _weight_of(self, update: Update, round_info: RoundInfo) -> int:
        """Number of times that an update counts: for one model always as often as it did first.

        A node whose examples have become more between two heights would else have the difference
        of two sums of the same set show its update.
        """
        if self.weights == "equal":
            return 1
        weight = min(update.weight, self.max_weight)
        if isinstance(self._attempts, ClientSession):
            return self._attempts.weight_for(weight)
        assert self._store is not None  # noqa: S101 - opened with the session
        return self._store.weight_for(round_info.model_digest, weight)

    @hookimpl
    def revealable(
        self, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> tuple[NodeId, ...]:
        """Name those of whom sums may be opened after the sums of sets on record.

        They were masked under one list, the one that most name, and none counts more often than
        ``max_weight``: else a liar could make a sum whose weight is no weight, and no sum of the
        round would be of use. Who of them may be in the set, says
        :meth:`~qres_secagg.permission.Permission.permitted`. Raises QRES-E313 and QRES-E314, see
        :meth:`parameters`.
        """
        contributions = tuple(item for item in contributions if item.weight <= self.max_weight)
        lists = Counter(masked_under(item.companions) for item in contributions)
        del lists[b""]
        named = max(sorted(lists), key=lambda name: lists[name], default=b"?")
        together = [i.sender for i in contributions if masked_under(i.companions) == named]
        judge = self._permission(round_info)
        if round_info.ahead:  # the same on every node, whatever list it has
            kept = judge.permitted(together)
            kept = kept if judge.opens(kept) else frozenset[NodeId]()
        else:
            together = self._listed(together, named, round_info)
            kept = judge.permitted(together)
        return tuple(sender for sender in together if sender in kept)

    def _listed(self, senders: list[NodeId], named: bytes, round_info: RoundInfo) -> list[NodeId]:
        """Those that are on the list of this name; all of them where the node does not have it.

        A liar that is on no list can name one. It would count for the quorum and be in no sum.
        """
        dialogue = None if self._attempts is None else self._attempts.of(round_info)
        if dialogue is None or dialogue.board.listing is None or dialogue.board.list_hash != named:
            return senders
        members, rank = dialogue.board.listed().members, dialogue.session.rank
        return [sender for sender in senders if rank.get(sender, -1) in members]

    def _permission(self, round_info: RoundInfo) -> Permission:
        """Permission to open sums at the height of a round, where sizes follow from the members."""
        height = attrs.evolve(round_info, number=0)
        if self._judge is None or self._judge.info != height:
            f, d = height.byzantine, height.dimension
            rows = 1 if self._node is None else self._node.rows
            self._judge = Permission(
                height, lambda n: sized(self, n, f, d), self._finest, rows, self.max_weight > 1
            )
        return self._judge

    @hookimpl
    def reveal(
        self, updates: Updates, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> Revelation:
        """Open the sums of the agreed contributions; ``updates`` are masked and not looked at.

        Contributions of nodes the list leaves out were not masked in the session and do not count;
        nor do those of a group of which fewer than ``min_size`` inputs are left. The result has a
        row for each group: the mean, the exact sums, who is in it, and the sums of residues. The
        evidence is against whoever dealt or opened wrong shares. O(d) for each input, and for each
        pair of a survivor and a dropped node. Raises QRES-E604 where the session was not opened.
        """
        dialogue = self._finished(round_info)
        revealed = reveal(
            dialogue.board,
            dialogue.inputs(contributions),
            equal=self.weights == "equal",
            visibility=self.claims.hides.leaves,
            opened=updates.opened,
            threads=self.threads,
        )
        self._rounds_opened += 1
        self._saturated += revealed.saturated
        return revealed.revelation

    @hookimpl
    def reveal_shard(
        self,
        updates: Updates,
        contributions: tuple[Contribution, ...],
        start: int,
        round_info: RoundInfo,
    ) -> NDArray[np.int64]:
        """Open the sums of a range of coordinates, of each group in the order of :meth:`reveal`.

        The range of each key stream is expanded, and nothing else. Raises QRES-E604 where the
        session was not opened.
        """
        dialogue = self._finished(round_info)
        inputs = dialogue.inputs(contributions)
        return open_shard(dialogue.board, inputs, updates, start, threads=self.threads)

    def _finished(self, round_info: RoundInfo) -> SecaggDialogue:
        dialogue = self._session_of(round_info)
        if not dialogue.finished:
            raise RoundError.of("QRES-E604", "secagg", dialogue.refusal or "not finished")
        return dialogue

    def _session_of(self, round_info: RoundInfo) -> SecaggDialogue:
        if self._attempts is None:
            raise RoundError.of("QRES-E604", "secagg", "no session in this round")
        found = self._attempts.of(round_info)
        if found is None:
            what = f"no session of round {round_info.number} for this model"
            raise RoundError.of("QRES-E604", "secagg", what)
        return found
