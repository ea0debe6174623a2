"""The ``dp`` plugin: its options and its hooks."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import attrs

from qres_core import (
    Claims,
    Contribution,
    NodeInfo,
    Outcome,
    OwnContributions,
    Reads,
    RoundInfo,
    Surroundings,
    Update,
    Updates,
    Vector,
    hookimpl,
    options,
)
from qres_core.claims import Extent, Privatizes, Wraps
from qres_core.errors import CompatibilityError, Problem, RoundError
from qres_dp import combination, ranges
from qres_dp.fitting import of_node, refuse
from qres_dp.keeping import Keeping, Start
from qres_dp.ledger.lack import Lack
from qres_dp.modes import Mode, ModeOption, Relation, Unit, relation_of
from qres_dp.plan import PrivacyPlan, plan_of
from qres_dp.releases import Release, release_of
from qres_dp.terms import Correlation, ReleaseTerms, settle


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@attrs.define(eq=False)
class Dp:
    """Clips what a node contributes and hides it in noise, as far as a budget goes.

    What is protected is a unit: a node with all its data, or a single record of one. Everything
    that comes of it in all rounds together is ``(epsilon, delta)`` differentially private. A ledger
    is charged before noised data leave, and a round that would exceed the budget is refused
    (QRES-E509).

    Name two of ``epsilon``, ``rounds`` and ``noise_multiplier``; the third follows.
    """

    GONE: ClassVar[Mapping[str, tuple[str, str]]] = combination.GONE

    mode: str = attrs.field(
        validator=ModeOption.of_modes(),
        metadata=_help('Source of the noise: "local" or "distributed".'),
    )
    clip: float = attrs.field(
        validator=options.real(*ranges.CLIP, unit="model units"),
        metadata=_help(
            "Greatest L2 norm of what one unit adds to an update, in the model's own units: with "
            "unit node of the whole update."
        ),
    )
    delta: float = attrs.field(
        validator=options.real(*ranges.DELTA),
        metadata=_help("Probability with which epsilon may not hold; far below 1 / units."),
    )
    unit: str = attrs.field(
        default=Unit.NODE.value,
        validator=options.one_of(*(unit.value for unit in Unit)),
        metadata=_help(
            'The unit of privacy: a "node" with all its data, or a single "record" of one. For '
            "records the trainer must say which step each of its examples asks for."
        ),
    )
    records: int = attrs.field(
        default=0,
        validator=options.whole(0, ranges.RECORDS[1]),
        metadata=_help("Unit record: the most records that any node has. It is public."),
    )
    epsilon: float = attrs.field(
        default=0.0,
        validator=options.real(*ranges.EPSILON, or_zero=True),
        metadata=_help("The budget: epsilon of all rounds together; 0 to compute it."),
    )
    rounds: int = attrs.field(
        default=0,
        validator=options.whole(0, ranges.ROUNDS[1]),
        metadata=_help("Rounds the budget is spent over; 0 to compute it."),
    )
    noise_multiplier: float = attrs.field(
        default=0.0,
        validator=options.real(*ranges.NOISE_MULTIPLIER, or_zero=True),
        metadata=_help("Deviation of a sum's noise over its sensitivity; 0 to compute it."),
    )
    honest: int = attrs.field(
        default=0,
        validator=options.whole(0, ranges.HONEST[1]),
        metadata=_help(
            "Mode distributed: noise shares in every revealed sum that no observer of "
            "the sum knows."
        ),
    )
    relation: str = attrs.field(
        default="",
        validator=options.one_of("", *(relation.value for relation in Relation)),
        metadata=_help('Neighbours: "add-remove" or "replace-one"; empty for the mode\'s own.'),
    )
    noise: str = attrs.field(
        default="independent",
        validator=options.one_of("independent", "correlated"),
        metadata=_help(
            '"independent", or in mode distributed "correlated" between rounds, which helps if a '
            "node has data in few of them."
        ),
    )
    band: int = attrs.field(
        default=16,
        validator=options.whole(*ranges.BAND),
        metadata=_help("Noise correlated: rounds whose noise is cancelled, and vectors kept."),
    )
    separation: int = attrs.field(
        default=1,
        validator=options.whole(*ranges.SEPARATION),
        metadata=_help("Noise correlated: s, if the node's data are in one of s rounds."),
    )
    dataset: str = attrs.field(
        default="",
        validator=ranges.FOLDER,
        metadata=options.local(
            "Folder of the ledger that all nodes with the same data share, whatever swarm they are "
            "in. Empty: the node has its own ledger."
        ),
    )
    new_ledger: bool = attrs.field(
        default=False,
        validator=options.flag(),
        metadata=options.local(
            "Begin a ledger although the model has rounds behind it: a new node."
        ),
    )

    _terms: ReleaseTerms = attrs.field(init=False)
    _release: Release = attrs.field(init=False, repr=False)  # it knows keys
    _info: NodeInfo | None = attrs.field(init=False, default=None)
    _start: Start = attrs.field(init=False, factory=Start)
    _lack: Lack = attrs.field(init=False, factory=lambda: Lack(None))

    def __attrs_post_init__(self) -> None:
        self._terms = self._settled()
        self._release = release_of(self._terms)

    def _settled(self) -> ReleaseTerms:
        """Settle the options, if they go together."""
        mode, unit = Mode(self.mode), Unit(self.unit)
        units = combination.units_of(unit, self.records)
        relation = relation_of(mode, self.relation, unit=unit)
        combination.check_honest(mode, self.honest)
        correlation = None
        if self.noise == "correlated":
            combination.check_correlated(mode, epsilon=self.epsilon, rounds=self.rounds)
            correlation = Correlation(self.rounds, self.band, self.separation)
        else:
            combination.check_separation(self.separation)
        multiplier, budget = settle(
            epsilon=self.epsilon,
            delta=self.delta,
            rounds=self.rounds,
            noise_multiplier=self.noise_multiplier,
            stream=correlation is not None,
        )
        return ReleaseTerms(
            mode,
            relation,
            self.clip,
            multiplier,
            budget,
            self.honest,
            correlation,
            unit,
            units,
        )

    # ── claims ────────────────────────────────────────────────────────────────────────────────

    @property
    def claims(self) -> Claims:
        """Claims of the mode: see the classes of :mod:`qres_dp.releases`."""
        release, terms = self._release, self._terms
        return Claims(
            tolerates=None,
            needs=attrs.evolve(release.needs, folder=True, records=terms.records),
            wraps=Wraps(alters=release.alters),
            privatizes=Privatizes(reveals=False),
            reads=Reads.NOTHING,
            effective={
                "epsilon": terms.budget.epsilon,
                "noise_multiplier": terms.multiplier,
            },
        )

    def check(self, around: Surroundings) -> Iterable[Problem | str]:
        """Check that swarm, grid and the plugins beside allow the mechanism.

        Returns see :func:`qres_dp.fitting.misfits`; QRES-E314 for what nodes would say of their
        data without noise; and what an operator should read.
        """
        return [
            *self._release.misfits(around),
            *self._said_without_noise(around),
            *self._release.cautions(around),
        ]

    @staticmethod
    def _said_without_noise(around: Surroundings) -> Iterator[Problem]:
        """The word that a model is good enough: a fact about a node's own examples."""
        if around.until:
            what = (
                f'every node would say whether its own examples meet "{around.until}", which is '
                "neither noised nor charged"
            )
            fix = "leave swarm.until out, and set swarm.rounds"
            yield Problem("QRES-E314", "plugins.dp", what, fix)

    def passes(self, extent: Extent, around: Surroundings) -> Extent:
        """Size of an update after the plugin, however large it was before."""
        del extent
        return self._release.extent(around)

    def plan(self, around: Surroundings) -> PrivacyPlan:
        """Plan these options in a swarm: see :func:`qres_dp.plan.plan_of`.

        Raises CompatibilityError: QRES-E313, QRES-E314.
        """
        return plan_of(self._release, self.rounds, around)

    # ── life cycle ────────────────────────────────────────────────────────────────────────────

    def preflight(self, node_info: NodeInfo) -> Iterator[Problem]:
        """Check that ``setup`` would take the ledger that there may be: yields QRES-E602 where not.

        The numbers of the swarm are judged by :meth:`check`.
        """
        try:
            Lack(None if node_info.data_dir is None else Path(node_info.data_dir))
        except RoundError as error:
            yield from error.problems
        yield from self._keeping(node_info).refusals()

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Open the node's ledger, if it has one already.

        Raises QRES-E602 for a ledger that is damaged, cut short or another node's, and QRES-E314
        for a delta that is not below 1 / nodes or for more honest nodes than there can be.
        """
        refuse(self._release.miscounts(of_node(node_info)))
        self.teardown()
        self._info, self._start = node_info, Start(is_declared=self.new_ledger)
        self._release.begin(node_info)
        self._lack = Lack(self._release.folder)
        self._release.ledger = self._keeping(node_info).found()

    @hookimpl
    def teardown(self) -> None:
        self._release.close()

    @hookimpl
    def round_opened(self, round_info: RoundInfo, contributed: OwnContributions) -> None:
        """Check that the grid holds the round and the ledger knows all that left; begin it if new.

        Raises QRES-E313 for the grid, QRES-E314 for a number of honest nodes that the swarm does
        not guarantee. Raises QRES-E602 where the model has rounds behind it and there is no ledger,
        and for a ledger that lacks what the node's journal or the swarm's chain knows of. Where the
        ledger knows of nothing, and the chain does not tell of all heights, nothing is released; in
        mode local neither in the first round of a node that starts again.
        """
        info, release = self._info, self._release
        release.opened(round_info, contributed)
        if info is None:
            return
        if release.ledger is None:
            release.ledger = self._keeping(info).begun(round_info, is_new=self.new_ledger)
        release.is_trusted = False
        release.ledger.refresh()
        self._lack.check(release.ledger, round_info.swarm, info.node_id, contributed)
        release.is_trusted = True
        has_charges = release.ledger.knows(round_info.swarm, info.node_id)
        self._start.heard(round_info, contributed, has_charges=has_charges)
        release.untold = self._start.untold(contributed)
        release.waits = release.is_seen and self._start.waits(round_info, contributed)

    def _keeping(self, node_info: NodeInfo) -> Keeping:
        return Keeping(node_info, self.dataset, self._terms.relation, self._terms.unit)

    @hookimpl
    def round_closed(self, outcome: Outcome) -> None:
        """Remember what the round added to the model, where sums are decoded. Raises QRES-E602."""
        self._release.closed(outcome)

    @hookimpl
    def status(self) -> Mapping[str, object]:
        """Spending, its budget, and the way in which the noise is made."""
        ledger, terms = self._release.ledger, self._terms
        return {
            "epsilon": ledger.spent(self.delta) if ledger is not None else 0.0,
            "epsilon_budget": terms.budget.epsilon,
            "delta": self.delta,
            "releases": len(ledger) if ledger is not None else 0,
            "ledger": "on disk" if ledger is not None and ledger.is_durable else "in memory",
            "mode": self.mode,
            "unit": terms.unit.value,
            "relation": terms.relation.value,
            "noise_multiplier": terms.multiplier,
        }

    # ── rounds ────────────────────────────────────────────────────────────────────────────────

    @hookimpl
    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        """Charge the ledger, clip the update and add noise.

        What leaves has weight 1: how many examples a node has is a fact about its data. O(d).

        Raises QRES-E509 when the budget is spent, QRES-E602 when the ledger cannot be written,
        QRES-E313 and QRES-E314.
        """
        if update.companions:
            what = "another plugin's companion would leave without noise"
            fix = "put [plugins.dp] before every plugin that has companions"
            raise CompatibilityError.of("QRES-E314", "plugins.dp", what, fix)
        return self._release.out(update, round_info)

    @hookimpl
    def reveal(
        self, updates: Updates, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> Updates:
        """Check what the mode rests on. Changes no update.

        Raises QRES-E505 for a sum of fewer nodes than the noise is counted on.
        """
        del contributions
        return self._release.revealed(updates, round_info)

    @hookimpl
    def wrap_aggregate(
        self, proceed: Callable[[Updates], Vector], updates: Updates, round_info: RoundInfo
    ) -> Vector:
        """In mode distributed with correlated noise, decode the mean; else change nothing.

        Raises QRES-E608 where this node lacks earlier changes of the model. O(band d).
        """
        return self._release.merge(proceed, updates, round_info)
