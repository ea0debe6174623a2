"""The ``reputation`` plugin: its options and its hooks."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from pathlib import Path
from typing import Final

import attrs

from qres_core import (
    Claims,
    Evidence,
    Fault,
    Merit,
    Needs,
    NodeId,
    NodeInfo,
    Outcome,
    RoundInfo,
    RoundStatus,
    Standing,
    Surroundings,
    Updates,
    Vector,
    Visibility,
    hookimpl,
    options,
    stores,
)
from qres_core.claims import Wraps
from qres_core.errors import OptionError, Problem, ValueRefusedError
from qres_reputation import outliers
from qres_reputation.influence import weights
from qres_reputation.ledger import ConductTable
from qres_reputation.record import Conduct
from qres_reputation.rules import UNIT, Additive, Beta, Ema, ScoringRule, units
from qres_reputation.store import KIND, Settings

DISPUTABLE: Final = (
    Fault.REPLAYED,
    Fault.STANDING_BENT,
)
"""Faults that are laid on a node and are no proof of a lie.

A network, or a node that helps out with another's contribution, may deliver a message twice. A bent
standing depends on the scores that the observer keeps. Two honest nodes can differ in that, and
would ban each other over it. Quoted votes are judged by their signatures and by the members of
their own height, so a node that quotes votes that prove nothing answers for it.
"""

BANNED: Final = Standing(0, banned=True)
FULL: Final = Standing()
_OF_ONE_RULE: Final = {
    "reward": "additive",
    "punish": "additive",
    "gamma": "ema",
    "forgetting": "beta",
}


@attrs.define(eq=False)
class Reputation:
    """Keeps a score for every member, and bans those whose score falls too low.

    What counts against a node is what it provably did: facts whose blame the kernel laid on the
    node as the sender or as the source of a message, and an update far from the others round
    after round. That a rule did not choose an update is not evidence. What counts for a node is a
    contribution that was merged.

    A node is banned as soon as its score is below ``ban_below``. After ``ban_rounds`` rounds it is
    back with a score of exactly ``ban_below``: one further punishment bans it again.

    The members are those of the last round that opened, and those of ``setup`` before. A new one
    begins with ``start``. Who left keeps its record as it was, and its ban, for when it comes back.

    The watch compares every update of an agreed set with the coordinate-wise median. It changes
    nothing in the updates and needs to see them singly; where a plugin hides them, it is idle.
    """

    rule: str = attrs.field(
        default="additive",
        validator=options.one_of("additive", "beta", "ema"),
        metadata=options.help_text(
            'Rule by which evidence changes a score: "additive", "beta" or "ema".'
        ),
    )
    start: float = attrs.field(
        default=0.5,
        validator=options.real(1 / UNIT, 1),
        metadata=options.help_text("Score of a new node; scores decay towards it."),
    )
    reward: float = attrs.field(
        default=0.01,
        validator=options.real(0, 1),
        metadata=options.help_text("Rule additive: added for a contribution that was merged."),
    )
    punish: float = attrs.field(
        default=0.1,
        validator=options.real(1 / UNIT, 1),
        metadata=options.help_text("Rule additive: taken for a proven fault."),
    )
    gamma: float = attrs.field(
        default=0.05,
        validator=options.real(1 / UNIT, 1),
        metadata=options.help_text("Rule ema: weight of the newest evidence."),
    )
    forgetting: float = attrs.field(
        default=0.9,
        validator=options.real(0, 1),
        metadata=options.help_text("Rule beta: factor on older evidence; 1 never forgets."),
    )
    decay: float = attrs.field(
        default=0.001,
        validator=options.real(0, 1),
        metadata=options.help_text(
            "Share of the way to the start score that fades in every closed round."
        ),
    )
    ban_below: float = attrs.field(
        default=0.2,
        validator=options.real(1 / UNIT, 1),
        metadata=options.help_text(
            "A node with a score below this is banned; below the start score."
        ),
    )
    ban_rounds: int = attrs.field(
        default=120,
        validator=options.whole(0, 2**32),
        metadata=options.help_text("Rounds a ban lasts; 0 for ever."),
    )
    flood: int = attrs.field(
        default=64,
        validator=options.whole(0, 2**32),
        metadata=options.help_text(
            "Repetitions of one fact in a round that count as one more fault; 0 for none."
        ),
    )
    ignore: tuple[str, ...] = attrs.field(
        default=tuple(fault.value for fault in DISPUTABLE),
        validator=options.many(options.text(allowed="the name of a fact")),
        metadata=options.help_text(
            "Faults that count against nobody, and ids of plugins (<plugin>:<id>). Every other one "
            "counts, also that of a plugin which is not known."
        ),
    )
    exponent: int = attrs.field(
        default=0,
        validator=options.whole(0, 8),
        metadata=options.help_text(
            "Weight of a node is its score to this power; 0 counts all equally."
        ),
    )
    influence_cap: float = attrs.field(
        default=0.1,
        validator=options.real(1 / UNIT, 1),
        metadata=options.help_text(
            "With an exponent: greatest share of the roster's weight a node may have."
        ),
    )
    outlier_factor: float = attrs.field(
        default=4.0,
        validator=options.real(1, 2**20),
        metadata=options.help_text(
            "Distance to the median, in median distances, that makes an outlier."
        ),
    )
    outlier_rounds: int = attrs.field(
        default=3,
        validator=options.whole(0, 2**32),
        metadata=options.help_text(
            "Rounds in a row a node must be an outlier before it is punished; 0 switches it off."
        ),
    )
    outlier_sample: int = attrs.field(
        default=4096,
        validator=options.whole(0, 2**32),
        metadata=options.help_text(
            "Coordinates that the watch looks at, drawn again in every round; 0 for all."
        ),
    )

    _rule: ScoringRule = attrs.field(init=False)
    _floor: int = attrs.field(init=False)
    _ignored: frozenset[str] = attrs.field(init=False)
    _ledger: ConductTable = attrs.field(init=False, factory=lambda: ConductTable({}))
    _standings: dict[NodeId, Standing] = attrs.field(init=False, factory=dict[NodeId, Standing])
    _weights: dict[NodeId, Standing] = attrs.field(init=False, factory=dict[NodeId, Standing])
    _number: int = attrs.field(init=False, default=0)
    _seen: Counter[tuple[NodeId, str]] = attrs.field(
        init=False, factory=Counter[tuple[NodeId, str]]
    )
    _contributed: set[NodeId] = attrs.field(init=False, factory=set[NodeId])
    _watched: dict[NodeId, bool] = attrs.field(init=False, factory=dict[NodeId, bool])

    def __attrs_post_init__(self) -> None:
        fields = attrs.fields_dict(type(self))
        for name, rule in _OF_ONE_RULE.items():
            if self.rule != rule and getattr(self, name) != fields[name].default:
                what = f"is an option of rule {rule!r}, and rule is {self.rule!r}"
                raise OptionError.of("QRES-E105", name, what, f"remove it, or rule = {rule!r}")
        self._floor = units(self.ban_below)
        if self._floor >= units(self.start):
            what = f"must be below start = {self.start}, got {self.ban_below}"
            raise OptionError.of("QRES-E105", "ban_below", what)
        try:
            self._ignored = frozenset(Fault.named(text) for text in self.ignore)
        except ValueRefusedError as error:
            fix = f"<plugin>:<id>, or one of {', '.join(sorted(Fault))}"
            raise OptionError.of("QRES-E105", "ignore", error.problems[0].what, fix) from error
        self._rule = self._make_rule()

    def _make_rule(self) -> ScoringRule:
        start, decay = units(self.start), units(self.decay)
        if self.rule == "beta":
            return Beta(start, units(self.forgetting), decay)
        if self.rule == "ema":
            return Ema(start, units(self.gamma), decay)
        return Additive(start, units(self.reward), units(self.punish), decay)

    @property
    def claims(self) -> Claims:
        """Senders must be proved: without that, anybody could have anybody banned.

        Scores scale weights, beside banning, unless ``exponent`` is 0.
        """
        weighs = self.exponent != 0
        notice = (
            "weights follow the scores; a proposer whose view of a weight is farther from this "
            "node's than swarm.standing_tolerance gets no vote from it"
        )
        return Claims(
            tolerates=None,
            needs=Needs(families=("authenticate",)),
            notices=(notice,) if weighs else (),
            weighs=weighs,
            wraps=Wraps(alters=False),
        )

    def check(self, around: Surroundings) -> Iterator[Problem]:
        """Check that the watch would see the updates as they were sent.

        Yields QRES-E303: what another plugin made of several updates would be held against one
        node.
        """
        if not self.outlier_rounds or around.visibility is not Visibility.INDIVIDUAL:
            return
        for name in around.altered_by:
            what = f"its watch would judge what plugins.{name} makes of updates, not the updates"
            fix = f"put [plugins.reputation] before [plugins.{name}], or outlier_rounds = 0"
            yield Problem("QRES-E303", "plugins.reputation.outlier_rounds", what, fix)

    # ── life cycle ────────────────────────────────────────────────────────────────────────────

    def preflight(self, node_info: NodeInfo) -> tuple[Problem, ...]:
        """Check that ``setup`` could open the store of this node. Returns QRES-E602 where not."""

        def opens(folder: Path) -> None:
            self._opened(attrs.evolve(node_info, data_dir=str(folder))).close()

        return stores.rehearse(node_info.data_dir, KIND, opens)

    def _opened(self, node_info: NodeInfo) -> ConductTable:
        settings = Settings(self.rule, units(self.start), self._floor, self.ban_rounds)
        return ConductTable.open(node_info, self._rule, settings)

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Open the node's store, or make it; in memory where nothing may be kept.

        Raises QRES-E602 for a store that is damaged or another node's.
        """
        self._ledger.close()
        self._ledger = self._opened(node_info)
        self._number = 0
        self._drop_round()
        self._weigh()

    @hookimpl
    def teardown(self) -> None:
        self._ledger.close()

    @hookimpl
    def round_opened(self, round_info: RoundInfo) -> None:
        """Take in who joined and who left; let out whoever has served a ban. Raises QRES-E602."""
        self._number = round_info.number
        self._seen.clear()
        self._drop_round()
        probation = self._rule.at(self._floor)

        def release(records: Mapping[NodeId, Conduct]) -> Mapping[NodeId, Conduct]:
            return {
                # The streak stays: on probation there is no new patience with an outlier.
                node: Conduct(probation, streak=record.streak)
                for node, record in records.items()
                if record.served(self._number)
            }

        self._notice()
        others = self._ledger.follow(round_info.roster, Conduct(self._rule.fresh()))
        released = bool(release(self._ledger.records))
        if released:
            self._ledger.change(release)
        if others or released:
            self._weigh()

    @hookimpl
    def round_closed(self, outcome: Outcome) -> None:
        """Settle a round that made a model: rewards, outliers, decay. One write, O(n).

        A round without a model changes nothing: it is nobody's merit. Raises QRES-E602.
        """
        if outcome.status is RoundStatus.CLOSED:
            self._ledger.change(self._settle, ended=self._number)
            self._weigh()

    # ── asking ────────────────────────────────────────────────────────────────────────────────

    @hookimpl
    def reputation(self, sender: NodeId) -> Standing:
        """Standing that the score of a node gives it.

        The weight is 2**32 with ``exponent = 0`` and for strangers, of whom nothing is known, else
        the capped power of the score as of the round's opening. Raises QRES-E602.
        """
        self._notice()
        return self._standings.get(sender, FULL)

    # ── telling ───────────────────────────────────────────────────────────────────────────────

    @hookimpl
    def observe(self, evidence: Evidence) -> None:
        """Hold a fact against a node, durably before this returns; or note a contribution.

        A fact counts once per node and round, and once more for every ``flood`` repetitions. Facts
        about strangers and about the banned change nothing. Rewards are given when the round
        closes: a crash before that loses a reward, never a ban. Raises QRES-E602.
        """
        subject = evidence.subject
        self._notice()
        record = self._ledger.records.get(subject)
        if record is None or record.banned:
            return
        if not evidence.against:
            if evidence.fact is Merit.CONTRIBUTED:
                self._contributed.add(subject)
            return
        fact = evidence.fact
        own_view = isinstance(fact, Fault) and fact.own_view
        if own_view or fact in self._ignored or not self._counts(subject, fact):
            return

        def punish(records: Mapping[NodeId, Conduct]) -> Mapping[NodeId, Conduct]:
            return {subject: self._punished(records[subject])}

        self._ledger.change(punish)
        self._refresh_standings()

    def _counts(self, subject: NodeId, fact: str) -> bool:
        # By this node's own round: the number in the evidence is the sender's choice.
        self._seen[subject, fact] += 1
        repeated = self._seen[subject, fact] - 1
        return repeated == 0 or (self.flood > 0 and repeated % self.flood == 0)

    def _punished(self, record: Conduct) -> Conduct:
        # Banned already only if an operator did it since this node last looked: let it stand.
        punished = attrs.evolve(record, belief=self._rule.punish(record.belief))
        if record.banned or punished.belief.score >= self._floor:
            return punished
        return punished.sentenced(self._number, self.ban_rounds)

    # ── watching ──────────────────────────────────────────────────────────────────────────────

    @hookimpl
    def wrap_aggregate(
        self, proceed: Callable[[Updates], Vector], updates: Updates, round_info: RoundInfo
    ) -> Vector:
        """Note who is far from the others; pass the updates on as they are.

        O(n d) to draw the sample, then O(n log n) for each coordinate of it.
        """
        if self.outlier_rounds and updates.visibility is Visibility.INDIVIDUAL:
            digest, vectors = round_info.model_digest, updates.vectors
            columns = outliers.sample_columns(vectors, digest, self.outlier_sample)
            far = outliers.far_rows(vectors, Fraction(self.outlier_factor), columns)
            self._watched = dict(zip(updates.senders, far, strict=True))
        return proceed(updates)

    def _settle(self, records: Mapping[NodeId, Conduct]) -> Mapping[NodeId, Conduct]:
        changes: dict[NodeId, Conduct] = {}
        for node, before in records.items():
            if before.banned:
                continue
            after = before
            far = self._watched.get(node)
            if far is not None:
                after = attrs.evolve(after, streak=after.streak + 1 if far else 0)
            if far and after.streak >= self.outlier_rounds:
                after = self._punished(after)
            elif not far and node in self._contributed:
                after = attrs.evolve(after, belief=self._rule.reward(after.belief))
            if not after.banned:
                after = attrs.evolve(after, belief=self._rule.fade(after.belief))
            if after != before:
                changes[node] = after
        return changes

    # ── what follows from the records ─────────────────────────────────────────────────────────

    def _notice(self) -> None:
        """Take in what ``qres reputation`` did to the store of the running node."""
        if self._ledger.refresh():
            self._weigh()

    def _drop_round(self) -> None:
        self._contributed.clear()
        self._watched.clear()

    def _weigh(self) -> None:
        """Fix the weights until the next round, so that all of a round's votes use the same."""
        free = {
            node: record.belief.score
            for node, record in self._ledger.records.items()
            if not record.banned
        }
        if self.exponent == 0 or not free:
            self._weights = {}
        else:
            cap = units(self.influence_cap)
            shared = weights(free, self.exponent, cap)
            self._weights = {node: Standing(weight) for node, weight in shared.items()}
        self._refresh_standings()

    def _refresh_standings(self) -> None:
        self._standings = {
            node: BANNED if record.banned else self._weights.get(node, FULL)
            for node, record in self._ledger.records.items()
        }
