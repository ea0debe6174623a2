"""Common part of all modes: from the options to a round's mechanism, and the hooks' halves."""

from __future__ import annotations

import abc
import math
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import ClassVar

import attrs

from qres_core import (
    Needs,
    NodeInfo,
    Outcome,
    OwnContributions,
    RoundInfo,
    Surroundings,
    Update,
    Updates,
    Vector,
    fixed,
)
from qres_core.claims import Extent
from qres_core.errors import CompatibilityError, Problem, RoundError, ValueRefusedError
from qres_dp import grid
from qres_dp.accounting.limits import Kind
from qres_dp.fitting import miscounts, misfits, of_round, refuse
from qres_dp.ledger import PrivacyLedger
from qres_dp.modes import Mechanism, steps
from qres_dp.terms import Releaser, ReleaseTerms


@attrs.define(eq=False)
class Release(abc.ABC):
    """Release of one node, by the rules of a mode."""

    terms: ReleaseTerms  # what the options come to
    # where the node keeps files, or ``None``
    folder: Path | None = attrs.field(init=False, default=None)
    # what releases are charged to, or ``None`` where it is not open
    ledger: PrivacyLedger | None = attrs.field(init=False, default=None)
    # share of the nodes that may collude against what is hidden
    colluding: float = attrs.field(init=False, default=0.0)
    # who releases, once a node was set up
    releaser: Releaser | None = attrs.field(init=False, default=None)
    # whether the ledger knows all that is known to have left
    is_trusted: bool = attrs.field(init=False, default=True)
    # before this height the node may have been charged by a ledger that is lost; 0 for none
    untold: int = attrs.field(init=False, default=0)
    # whether the node has just started, and must hear first how far the swarm is
    waits: bool = attrs.field(init=False, default=False)

    needs: ClassVar[Needs] = Needs()  # what the mode rests on, for the solver
    alters: ClassVar[bool] = False  # whether the merged update is another than the rule's
    is_seen: ClassVar[bool] = (
        True  # whether others see what leaves by itself, and not in sums alone
    )

    # ── the mechanism ─────────────────────────────────────────────────────────────────────────

    def sized(self, bound: int, around: Surroundings) -> Mechanism:
        """The mechanism with a clipping bound.

        ``bound``: in steps of the grid; below 1 counts as 1.
        """
        del around
        terms = self.terms
        honest = max(1, terms.honest)
        return Mechanism(
            terms.mode, terms.relation, max(1, bound), terms.multiplier, honest, terms.units
        )

    def mechanism(self, around: Surroundings) -> Mechanism:
        """The mechanism the options name, in steps of a swarm's grid.

        Args:
            around: the swarm. A dimension of 0 is not known and counts as 1.

        Raises:
            CompatibilityError: QRES-E313 where the grid does not hold it, QRES-E314.
            ValueRefusedError: QRES-E313.
        """
        clip, dimension = self.terms.clip, around.dimension or 1
        made = self.sized(steps(clip, around.scale), around)
        grid.check(made, clip, dimension=dimension, nodes=around.nodes)
        return made

    def around(self, round_info: RoundInfo) -> Surroundings:
        """Surroundings from a round, with the colluders that all plugins count on."""
        return of_round(round_info, self.colluding)

    def fitted(self, round_info: RoundInfo) -> Mechanism:
        """The mechanism of a round, if the swarm's numbers and its grid allow it.

        Raises CompatibilityError: QRES-E313, QRES-E314. Raises ValueRefusedError: QRES-E313.
        """
        around = self.around(round_info)
        refuse(self.miscounts(around))
        return self.mechanism(around)

    def miscounts(self, around: Surroundings) -> Iterator[Problem]:
        """See :func:`qres_dp.fitting.miscounts`."""
        terms, delta = self.terms, self.terms.budget.delta
        return miscounts(around, delta=delta, honest=terms.honest, records=terms.records)

    def misfits(self, around: Surroundings) -> Iterator[Problem]:
        """See :func:`qres_dp.fitting.misfits`."""
        terms = self.terms
        return misfits(
            around,
            self.mechanism,
            delta=terms.budget.delta,
            honest=terms.honest,
            records=terms.records,
        )

    def cautions(self, around: Surroundings) -> Iterator[str]:
        """Cautions for an operator of such a swarm."""
        if around.judges:
            names = " and ".join(f"plugins.{name}" for name in around.judges)
            yield (
                f"{names} judges updates by a node's held-out examples; the votes, and the members "
                "or weights that it proposes, are neither noised nor charged: keep these examples "
                "apart from the data that dp protects"
            )

    def extent(self, around: Surroundings) -> Extent:
        """Size of an update once it is clipped and has its noise."""
        length = self.terms.clip * self.terms.units
        try:
            made = self.mechanism(around)
        except (CompatibilityError, ValueRefusedError):  # `misfits` says so
            return Extent(length=length)
        step = 2.0 ** (around.scale - fixed.FRACTION_BITS)
        if made.stretch > 1:
            length *= float(made.stretch) * (1.0 + 2.0**-50)
        return Extent(length=length, noise=math.sqrt(made.share) * step)

    # ── the plan ──────────────────────────────────────────────────────────────────────────────

    def charges(self, rounds: int, around: Surroundings) -> Mapping[Kind, int]:
        """Charges for the ledger over so many rounds: noise multipliers."""
        del around
        return {self.terms.multiplier: rounds}

    def told(self, around: Surroundings) -> Mapping[str, object]:
        """Additions of the mode to the mechanism of a plan's JSON."""
        del around
        return {"noise": "independent"}

    # ── life cycle ────────────────────────────────────────────────────────────────────────────

    def begin(self, node_info: NodeInfo) -> None:
        """The node is set up, after :meth:`close`."""
        self.folder = Path(node_info.data_dir) if node_info.data_dir is not None else None
        self.colluding = node_info.colluding
        self.releaser = Releaser(node_info.node_id, OwnContributions())
        self.is_trusted, self.untold, self.waits = True, 0, False

    def opened(self, round_info: RoundInfo, contributed: OwnContributions) -> None:
        """A round begins. ``contributed``: what journal and chain know of this node's part so far.

        Raises CompatibilityError: QRES-E313, QRES-E314 where the round does not hold the mechanism.
        Raises ValueRefusedError: QRES-E313.
        """
        self.fitted(round_info)
        if self.releaser is not None:
            self.releaser = attrs.evolve(self.releaser, contributed=contributed)

    def closed(self, outcome: Outcome) -> None:  # noqa: B027 - most modes remember nothing
        """The round ended. Raises RoundError: QRES-E602 when the disk does not take it."""

    def close(self) -> None:
        """Close the ledger and let go of what was known of rounds; idempotent."""
        if self.ledger is not None:
            self.ledger.close()
        self.ledger = None

    @property
    def book(self) -> PrivacyLedger:
        """The open ledger.

        Raises RoundError: QRES-E602 where there is none, or not of all. Raises ValueRefusedError:
        QRES-E507 in the first round of a node that starts again.
        """
        if self.ledger is None or not self.is_trusted:
            what = "no ledger is open that can be trusted, and nothing is released without one"
            fix = "setup and round_opened come first"
            raise RoundError.of("QRES-E602", "plugins.dp", what, fix)
        if self.untold and self.ledger.is_durable:
            what = (
                "the ledger was begun here, and the chain does not tell whether this node was in "
            )
            what += f"a set at a height before {self.untold}"
            fix = "bring the ledger back; for a node that is new in the swarm, new_ledger = true"
            raise RoundError.of("QRES-E602", "plugins.dp.ledger", what, fix)
        if self.waits:
            what = "the node starts again, and was perhaps in this height before"
            fix = "nothing: it contributes from the next round on"
            raise ValueRefusedError.of("QRES-E507", "plugins.dp", what, fix)
        return self.ledger

    @property
    def by(self) -> Releaser:
        """Releaser of the node. Raises RoundError: QRES-E602 before the node was set up."""
        if self.releaser is None:
            raise RoundError.of("QRES-E602", "plugins.dp", "the node was not set up")
        return self.releaser

    # ── rounds ────────────────────────────────────────────────────────────────────────────────

    @abc.abstractmethod
    def out(self, update: Update, round_info: RoundInfo) -> Update:
        """Charge the ledger, and make of the node's update what may leave.

        ``update``: int32, shape ``(d,)``. Raises ValueRefusedError: QRES-E509 when the budget is
        spent. Raises RoundError: QRES-E602. Raises CompatibilityError: QRES-E313, QRES-E314.
        """

    def revealed(self, updates: Updates, round_info: RoundInfo) -> Updates:
        """The agreed updates, once the mode has checked them.

        ``updates``: int32, shape ``(n, d)``. Raises ValueRefusedError: QRES-E505.
        """
        del round_info
        return updates

    def merge(
        self, proceed: Callable[[Updates], Vector], updates: Updates, round_info: RoundInfo
    ) -> Vector:
        """Change of the model, int32, shape ``(d,)``.

        ``proceed``: the rule; ``updates``: what :meth:`revealed` returned. Raises RoundError:
        QRES-E608 where this node alone cannot merge.
        """
        del round_info
        return proceed(updates)
