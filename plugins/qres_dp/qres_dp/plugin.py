"""The ``dp`` plugin: its options and its hooks."""

from __future__ import annotations

import functools
import hashlib
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from fractions import Fraction
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np

from qres_core import (
    Companion,
    CompatibilityError,
    Contribution,
    Extent,
    Needs,
    NodeInfo,
    Outcome,
    Problem,
    RoundError,
    RoundInfo,
    RoundStatus,
    Surroundings,
    Update,
    Updates,
    ValueRefusedError,
    Vector,
    Visibility,
    fixed,
    hookimpl,
)
from qres_dp import accounting, central, grid
from qres_dp.adaptive import AdaptiveClip, Ballot, split
from qres_dp.central import SEED_BYTES, Noised
from qres_dp.central_stream import MOST_STEPS, CentralStream
from qres_dp.clip import clip
from qres_dp.correlated import CorrelatedNoise
from qres_dp.discrete_gaussian import discrete_gaussian
from qres_dp.fitting import extent_after, misfits
from qres_dp.following import Following, ballots, noisy_votes
from qres_dp.ledger import Budget, Ledger, Owner
from qres_dp.modes import Mechanism, Mode, Relation, relation_of, steps
from qres_dp.options import flag, one_of, real, whole
from qres_dp.randomness import fresh_key
from qres_dp.record import Charge
from qres_dp.stream import Entry, Shape, Stream

MOST_ROUNDS: Final = 10**6
MOST_NODES: Final = 2**16


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@attrs.frozen(eq=False)
class _Revealed:
    """What ``reveal`` leaves for ``wrap_aggregate``."""

    updates: Updates
    key: bytes
    variance: Fraction


@attrs.define(eq=False)
class Dp:
    """Clips what a node contributes and hides it in noise, as far as a budget goes.

    The unit of protection is the node: everything it contributes in all rounds together is
    ``(epsilon, delta)`` differentially private. A ledger is charged before noised data leave, and
    a round that would exceed the budget is refused (QRES-E509).

    Name two of ``epsilon``, ``rounds`` and ``noise_multiplier``; the third follows.
    """

    mode: str = attrs.field(
        validator=one_of(*(mode.value for mode in Mode)),
        metadata=_help('Who adds the noise: "local", "distributed" or "central".'),
    )
    clip: float = attrs.field(
        validator=real(2.0**-40, 2.0**40),
        metadata=_help("Greatest L2 norm of an update, in the model's own units."),
    )
    delta: float = attrs.field(
        validator=real(1e-30, 1e-3),
        metadata=_help("Probability with which epsilon may not hold; far below 1 / nodes."),
    )
    epsilon: float = attrs.field(
        default=0.0,
        validator=real(1e-6, 1e6, or_zero=True),
        metadata=_help("The budget: epsilon of all rounds together; 0 if it is to follow."),
    )
    rounds: int = attrs.field(
        default=0,
        validator=whole(0, MOST_ROUNDS),
        metadata=_help("Rounds the budget is spent over; 0 if it is to follow."),
    )
    noise_multiplier: float = attrs.field(
        default=0.0,
        validator=real(1e-3, 1e6, or_zero=True),
        metadata=_help("Deviation of a sum's noise over its sensitivity; 0 if it is to follow."),
    )
    honest: int = attrs.field(
        default=0,
        validator=whole(0, MOST_NODES),
        metadata=_help(
            "Mode distributed: noise shares of every revealed sum that nobody who sees it knows."
        ),
    )
    relation: str = attrs.field(
        default="",
        validator=one_of("", *(relation.value for relation in Relation)),
        metadata=_help('Neighbours: "add-remove" or "replace-one"; empty for the mode\'s own.'),
    )
    sampling: str = attrs.field(
        default="none",
        validator=one_of("none", "poisson"),
        metadata=_help(
            'Whether nodes secretly contribute zeros in some rounds: "none" or "poisson".'
        ),
    )
    sampling_rate: float = attrs.field(
        default=1.0,
        validator=real(1e-6, 1.0),
        metadata=_help("Sampling poisson: probability that a node contributes its update."),
    )
    adaptive_quantile: float = attrs.field(
        default=0.0,
        validator=real(0.1, 0.9, or_zero=True),
        metadata=_help(
            "Mode central: share of nodes whose update is to fit; clip is where the bound starts "
            "and then follows that quantile. 0 leaves it where it is."
        ),
    )
    adaptive_rate: float = attrs.field(
        default=0.2,
        validator=real(0.001, 1.0),
        metadata=_help("How fast the bound follows: by at most the factor exp(rate) a round."),
    )
    noise: str = attrs.field(
        default="independent",
        validator=one_of("independent", "correlated"),
        metadata=_help(
            'Modes local and central: "independent" or "correlated" between rounds, which helps if '
            "a node has data in few of them."
        ),
    )
    band: int = attrs.field(
        default=16,
        validator=whole(2, 64),
        metadata=_help("Noise correlated: rounds whose noise is taken back, and vectors kept."),
    )
    separation: int = attrs.field(
        default=1,
        validator=whole(1, MOST_ROUNDS),
        metadata=_help("Noise correlated: the node's data are in one of so many rounds."),
    )
    new_ledger: bool = attrs.field(
        default=False,
        validator=flag,
        metadata=_help("Begin a ledger although the model has rounds behind it: a new node."),
    )

    _mode: Mode = attrs.field(init=False)
    _relation: Relation = attrs.field(init=False)
    _budget: Budget = attrs.field(init=False)
    _multiplier: float = attrs.field(init=False)
    _info: NodeInfo | None = attrs.field(init=False, default=None)
    _ledger: Ledger | None = attrs.field(init=False, default=None)
    _revealed: _Revealed | None = attrs.field(init=False, default=None)
    _following: Following | None = attrs.field(init=False, default=None)
    _stream: Stream | None = attrs.field(init=False, default=None)
    _central_stream: CentralStream | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self._mode = Mode(self.mode)
        sampled = self._check_sampling()
        self._relation = relation_of(self._mode, self.relation, sampled=sampled)
        if (self._mode is Mode.DISTRIBUTED) != (self.honest > 0):
            what = "honest is to be set in mode distributed, to 1 or more, and in no other"
            fix = "honest = swarm.quorum - max(1, swarm.byzantine), or with groups the least group"
            raise CompatibilityError.of("QRES-E314", "plugins.dp.honest", what, fix)
        self._check_adaptive(sampled=sampled)
        self._check_correlated(sampled=sampled)
        self._multiplier, self._budget = self._plan()

    def _check_adaptive(self, *, sampled: bool) -> None:
        if not self.adaptive_quantile:
            return
        where, fix = "plugins.dp.adaptive_quantile", "adaptive_quantile = 0"
        if self._mode is not Mode.CENTRAL:
            what = f"mode {self.mode} has no noised sum of votes that every node sees"
            raise CompatibilityError.of("QRES-E314", where, what, fix)
        if sampled:
            what = "a node that is not drawn would have to vote without being told from the others"
            raise CompatibilityError.of("QRES-E314", where, what, fix)

    def _check_sampling(self) -> bool:
        sampled = self.sampling == "poisson"
        where = "plugins.dp.sampling"
        if not sampled and self.sampling_rate != 1.0:
            what = "sampling_rate is an option of sampling poisson"
            raise CompatibilityError.of("QRES-E314", where, what, 'sampling = "poisson"')
        if sampled and self._mode is Mode.LOCAL:
            what = "in mode local everybody sees who takes part: sampling amplifies nothing"
            raise CompatibilityError.of("QRES-E314", where, what, 'sampling = "none"')
        return sampled

    def _check_correlated(self, *, sampled: bool) -> None:
        if self.noise == "independent":
            if self.separation != 1:
                what, fix = "separation is an option of noise correlated", 'noise = "correlated"'
                raise CompatibilityError.of("QRES-E314", "plugins.dp.separation", what, fix)
            return
        where, fix = "plugins.dp.noise", 'noise = "independent"'
        if self._mode is Mode.DISTRIBUTED:
            what = "shares that are rounded one by one, or that a node fails to send, do not cancel"
            raise CompatibilityError.of("QRES-E314", where, what, fix)
        if sampled or self.adaptive_quantile:
            what = "correlated noise is accounted for without sampling, and for one clip"
            raise CompatibilityError.of("QRES-E314", where, what, fix)
        if self._mode is Mode.CENTRAL and self.rounds > MOST_STEPS:
            what = f"in mode central contributions carry 32 bytes for each of {self.rounds} rounds"
            raise CompatibilityError.of("QRES-E314", where, what, f"at most {MOST_STEPS} rounds")
        if not (self.epsilon and self.rounds):
            what = "a stream of correlated noise has an end: its rounds and its epsilon must be set"
            raise CompatibilityError.of("QRES-E314", where, what, "set epsilon and rounds")

    def _plan(self) -> tuple[float, Budget]:
        """The noise multiplier and the budget, from the two of three that are set."""
        set_ones = [
            name for name in ("epsilon", "rounds", "noise_multiplier") if getattr(self, name)
        ]
        if len(set_ones) != 2:
            what = f"{', '.join(set_ones) or 'none'} of epsilon, rounds and noise_multiplier is set"
            raise CompatibilityError.of("QRES-E314", "plugins.dp", what, "set two of them")
        rate = self.sampling_rate
        if self.noise == "correlated":  # the whole stream is one release
            return _calibrated(self.epsilon, self.delta, 1, 1.0), Budget(self.epsilon, self.delta)
        if not self.noise_multiplier:
            multiplier = _calibrated(self.epsilon, self.delta, self.rounds, rate)
            return multiplier, Budget(self.epsilon, self.delta)
        multiplier = float(self.noise_multiplier)
        once = accounting.epsilon(multiplier, self.rounds or 1, self.delta, sampling_rate=rate)
        if self.rounds:
            return multiplier, Budget(once, self.delta)
        if once > self.epsilon:
            what = f"a single round spends epsilon {once:.6g}, and the budget is {self.epsilon:g}"
            fix = "a larger noise_multiplier"
            raise CompatibilityError.of("QRES-E314", "plugins.dp.epsilon", what, fix)
        return multiplier, Budget(self.epsilon, self.delta)

    # ── traits ────────────────────────────────────────────────────────────────────────────────

    @property
    def needs(self) -> Needs:
        """What each mode rests on.

        All: equal weights, for an update counts in the sum as it was clipped. Distributed: single
        updates hidden, since a share alone hides nothing. Central: single updates visible, to be
        clipped again, and a rule that averages, since the noise is for a sum.
        """
        if self._mode is Mode.DISTRIBUTED:
            return Needs(equal_weights=True, at_most=Visibility.GROUP)
        if self._mode is Mode.CENTRAL:
            return Needs(visibility=Visibility.INDIVIDUAL, equal_weights=True, averaging=True)
        return Needs()

    @property
    def alters(self) -> bool:
        """Whether the merged update is changed: in mode central, which adds its noise there."""
        return self._mode is Mode.CENTRAL

    @property
    def reveals(self) -> bool:
        """Whether updates change after the vote: mode central clips them again."""
        return self._mode is Mode.CENTRAL

    @property
    def accompanies(self) -> bool:
        """Whether something travels beside the update: in mode central, a seed."""
        return self._mode is Mode.CENTRAL

    def check(self, around: Surroundings) -> Iterable[Problem]:
        """Whether swarm, grid and the plugins beside allow the mechanism.

        Args:
            around: the configuration around the plugin.

        Returns:
            see :func:`qres_dp.fitting.misfits`.
        """
        return misfits(
            around, self._mechanism, mode=self._mode, honest=self.honest, delta=self.delta
        )

    def passes(self, extent: Extent, around: Surroundings) -> Extent:
        """How large an update is after the plugin, however large it was before.

        Args:
            extent: how large it was.
            around: the configuration around the plugin.
        """
        del extent
        return extent_after(around, self._mechanism, mode=self._mode, clip=self.clip)

    def _mechanism(self, around: Surroundings) -> Mechanism:
        """The mechanism for a swarm that has not started, if its grid holds it."""
        bound, dimension = steps(self.clip, around.scale), around.dimension or 1
        mechanism = self._with_bound(bound, around.nodes)
        if self.noise == "correlated":
            apart = 1 if self._relation is Relation.ADD_REMOVE else 2
            numbers = (self.rounds, self.band, self.separation, self._multiplier)
            shape = _shaped(*numbers, 0, max(1, bound), dimension, apart)
            _check_stream(shape)
            mechanism = attrs.evolve(mechanism, noise_multiplier=shape.deviation)
        grid.check(mechanism, self.clip, dimension=dimension, nodes=around.nodes)
        if self.adaptive_quantile:
            following = Following(self.adaptive_quantile, self.adaptive_rate, None)
            following.rule(mechanism, dimension=dimension, nodes=around.nodes)
        return mechanism

    @property
    def effective(self) -> Mapping[str, float]:
        """What epsilon and the noise come to where they follow, for a site policy's bounds."""
        return {"epsilon": self._budget.epsilon, "noise_multiplier": self._multiplier}

    @property
    def notices(self) -> tuple[str, ...]:
        """What an operator should know of the mode."""
        if self._mode is Mode.CENTRAL:
            notice = (
                "mode central protects against those who see only models; members of the swarm "
                "see single updates and can compute the noise"
            )
            return (notice,)
        return ()

    # ── life cycle ────────────────────────────────────────────────────────────────────────────

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Open the node's ledger, if it has one already.

        Args:
            node_info: the node, its roster and its folder.

        Raises:
            RoundError: QRES-E602 for a ledger that is damaged, cut short or another node's.
            CompatibilityError: QRES-E314 for a delta that is not below 1 / nodes, and for more
                honest nodes than there can be.
        """
        nodes = len(node_info.roster)
        if self.delta * nodes >= 1.0:
            what = (
                f"delta {self.delta:g} is not below 1 / {nodes}: it would allow giving a node away"
            )
            raise CompatibilityError.of("QRES-E314", "plugins.dp.delta", what, "a smaller delta")
        liars = max(1, node_info.byzantine)
        if self.honest > nodes - liars:
            what = f"{self.honest} secret shares, of {nodes} nodes of which {liars} may look"
            fix = f"honest <= {nodes - liars}"
            raise CompatibilityError.of("QRES-E314", "plugins.dp.honest", what, fix)
        self.teardown()
        self._info = node_info
        folder = self._folder
        if self.adaptive_quantile:
            self._following = Following(self.adaptive_quantile, self.adaptive_rate, folder)
        if folder is None:
            self._ledger = Ledger.in_memory(self._owner)
        elif Ledger.exists(folder):
            self._ledger = Ledger.open(folder, self._owner)

    @hookimpl
    def teardown(self) -> None:
        """Close the ledger."""
        for open_file in (self._ledger, self._stream):
            if open_file is not None:
                open_file.close()
        self._ledger, self._revealed, self._stream = None, None, None
        self._central_stream = None

    @hookimpl
    def round_opened(self, round_info: RoundInfo) -> None:
        """Check that the grid holds the round; begin the ledger in the first one.

        Args:
            round_info: the round.

        Raises:
            CompatibilityError: QRES-E313 for the grid, QRES-E314 for a number of honest nodes the
                swarm does not guarantee.
            RoundError: QRES-E602 where the model has rounds behind it and there is no ledger.
        """
        self._check_round(round_info)
        if self._following is not None:
            self._follow(round_info)
            self._following.forget()
        if self._central_stream is not None:
            self._central_stream.forget()
        folder = self._folder
        if self._ledger is None and folder is not None:
            if round_info.step > 0 and not self.new_ledger:
                what = f"no privacy ledger, and the model has {round_info.step} rounds behind it"
                fix = "bring it back; for a node that is new in the swarm, new_ledger = true"
                raise RoundError.of("QRES-E602", str(folder), what, fix)
            self._ledger = Ledger.begin(folder, self._owner)

    @hookimpl
    def round_closed(self, outcome: Outcome) -> None:
        """Take over the clipping bound that the round's votes made, and the noise of the model.

        Args:
            outcome: how the round ended. An aborted one changes nothing.

        Raises:
            RoundError: QRES-E602.
        """
        self._revealed = None
        for following in (self._following, self._central_stream):
            if following is None:
                continue
            if outcome.status is RoundStatus.CLOSED:
                following.closed()
            else:
                following.forget()

    @hookimpl
    def status(self) -> Mapping[str, object]:
        """What is spent, and of what budget.

        Returns:
            ``epsilon``, ``epsilon_budget``, ``delta``, ``releases`` charged so far, mode, relation
            and noise multiplier; ``clip_steps``, the bound in steps of the grid, where it moves.
        """
        ledger, following = self._ledger, self._following
        radius = following.radius if following is not None else None
        return {
            "epsilon": ledger.spent(self.delta) if ledger is not None else 0.0,
            "epsilon_budget": self._budget.epsilon,
            "delta": self.delta,
            "releases": len(ledger) if ledger is not None else 0,
            "mode": self.mode,
            "relation": self._relation.value,
            "noise_multiplier": self._multiplier,
            **({} if radius is None else {"clip_steps": radius}),
        }

    # ── the way out ───────────────────────────────────────────────────────────────────────────

    @hookimpl
    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        """Charge the ledger and clip the update; in modes local and distributed, add noise.

        What leaves has weight 1: how many examples a node has is a fact about its data.

        Args:
            update: int32, shape ``(d,)``.
            round_info: the round.

        Returns:
            the update that may leave.

        Raises:
            ValueRefusedError: QRES-E509 when the budget is spent.
            RoundError: QRES-E602 when the ledger cannot be written.
            CompatibilityError: QRES-E313, QRES-E314.

        Complexity: O(d).
        """
        mechanism, bound = self._own_mechanism(round_info)
        if update.companions and self._mode is not Mode.CENTRAL:
            what = "another plugin's companion would leave without noise"
            fix = "put [plugins.dp] before every plugin that has companions"
            raise CompatibilityError.of("QRES-E314", "plugins.dp", what, fix)
        if self.noise == "correlated" and self._mode is Mode.LOCAL:
            released = self._streamed(update.vector, mechanism, round_info)
            return attrs.evolve(update, vector=released, weight=1)
        vector = update.vector
        if not (self._drawn() and self._in_turn(round_info)):
            vector = np.zeros_like(vector)
        one = clip(vector, mechanism.bound)
        clipped = one.vector
        ballot = None if bound is None else Ballot(not one.was_outside, bound)
        if self._mode is Mode.CENTRAL:
            # Now, and not when the sum is made: the others may make it without this node.
            testimony = self._testimony(round_info)
            self._book.charge(self._central_charge(mechanism, round_info), self._budget)
            body = fresh_key() + testimony
            if ballot is not None:
                body += ballot.to_bytes()
            companions = {**update.companions, central.NAME: Companion(body)}
            return attrs.evolve(update, vector=clipped, weight=1, companions=companions)
        charge = self._charge(mechanism, round_info, os.urandom(32))
        self._book.charge(charge, self._budget)
        return attrs.evolve(update, vector=_noised(clipped, mechanism), weight=1)

    def _streamed(self, vector: Vector, mechanism: Mechanism, round_info: RoundInfo) -> Vector:
        """The next release of the node's stream, which begins or goes on where it was."""
        book, budget = self._book, self._budget
        shape = self._shape(round_info)
        if self._stream is None:
            self._stream = Stream(self._owner, shape, self._folder, book)
        if self._stream.shape != shape:
            what = "the grid or the dimension changed in the middle of a stream of noise"
            raise RoundError.of("QRES-E602", "plugins.dp.noise", what)

        def entry(release: bytes, multiplier: float) -> Entry:
            usual = self._charge(mechanism, round_info, release)
            charge = attrs.evolve(usual, noise_multiplier=multiplier)
            return Entry(lambda: book.after(charge, budget), lambda: book.charge(charge, budget))

        return self._stream.release(vector, entry)

    def _in_turn(self, round_info: RoundInfo) -> bool:
        """Whether the node's data are in a round of mode central, where noise is correlated."""
        return self.noise == "independent" or self._shape(round_info).carries(round_info.step)

    def _models(self, round_info: RoundInfo) -> CentralStream | None:
        """The noise of the models, where it is correlated."""
        if self.noise == "independent":
            return None
        shape = attrs.evolve(self._shape(round_info), offset=0)
        if self._central_stream is None:
            self._central_stream = CentralStream(self._owner.swarm, shape, self._folder)
        if self._central_stream.shape != shape:
            what = "the grid or the dimension changed in the middle of a stream of noise"
            raise RoundError.of("QRES-E602", "plugins.dp.noise", what)
        return self._central_stream

    def _testimony(self, round_info: RoundInfo) -> bytes:
        models = self._models(round_info)
        return models.testimony(round_info.step) if models is not None else b""

    def _central_charge(self, mechanism: Mechanism, round_info: RoundInfo) -> Charge:
        """Of a round in mode central; where noise is correlated, of a step of the model."""
        models = self._models(round_info)
        if models is None:
            return self._charge(mechanism, round_info, central.release_name(round_info))
        usual = self._charge(mechanism, round_info, models.release_name(round_info.step))
        return attrs.evolve(usual, noise_multiplier=models.price(round_info.step))

    def _shape(self, round_info: RoundInfo) -> Shape:
        bound = max(1, steps(self.clip, round_info.scale))
        # Nodes take turns, by their identities.
        turn = int.from_bytes(hashlib.sha256(self._owner.node).digest()) % self.separation
        numbers = (self.rounds, self.band, self.separation, self._multiplier)
        apart = 1 if self._relation is Relation.ADD_REMOVE else 2
        return _shaped(*numbers, turn, bound, round_info.dimension, apart)

    def _drawn(self) -> bool:
        """A secret coin: whether the node's update counts in this round."""
        if self.sampling == "none":
            return True
        # Rounded down: a lower rate than was accounted for is safe.
        return int.from_bytes(os.urandom(8)) < int(Fraction(self.sampling_rate) * 2**64)

    # ── the way in ────────────────────────────────────────────────────────────────────────────

    @hookimpl
    def reveal(
        self, updates: Updates, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> Updates:
        """Check what the mode rests on; in mode central clip again and charge for the sum.

        Args:
            updates: int32, shape ``(n, d)``.
            contributions: of the agreed members, with their seeds.
            round_info: the round they are of.

        Returns:
            the updates; in mode central every row clipped again.

        Raises:
            ValueRefusedError: QRES-E509 when the budget is spent, QRES-E505 for a sum of fewer
                nodes than the noise is counted on.
            RoundError: QRES-E602.
        """
        if self._mode is Mode.DISTRIBUTED:
            self._check_sums(updates, round_info)
        if self._mode is not Mode.CENTRAL:
            return updates
        if updates.visibility is not Visibility.INDIVIDUAL or updates.senders != tuple(
            one.sender for one in contributions
        ):
            what = "expected the single updates of the agreed members"
            raise CompatibilityError.of("QRES-E303", "plugins.dp", what)
        models = self._models(round_info)
        if models is not None:
            said = (one.companions.get(central.NAME) for one in contributions)
            heard = [one.body[SEED_BYTES:] for one in said if one is not None and not one.modulus]
            models.hear(round_info.step, heard, round_info.byzantine)
        cast = ballots(contributions, central.NAME, SEED_BYTES)
        mechanism, bound = self._agreed_mechanism(cast, round_info)
        clipped = central.clip_rows(updates, mechanism.bound)
        # A node whose update is not in the sum merges it all the same, and keeps count.
        self._book.charge(self._central_charge(mechanism, round_info), self._budget)
        key = central.noise_key(contributions, round_info)
        self._revealed = _Revealed(clipped, key, mechanism.share)
        if bound is not None:
            self._move(bound, cast, key, round_info)
        return clipped

    def _move(self, bound: int, cast: Sequence[Ballot], key: bytes, round_info: RoundInfo) -> None:
        following, rule = self._follow(round_info)
        votes = split(self._multiplier, len(round_info.roster)).votes
        noisy = noisy_votes(cast, votes, self._relation, key)
        following.learn(round_info.step, rule.move(bound, noisy, len(cast)))

    def _check_sums(self, updates: Updates, round_info: RoundInfo) -> None:
        least = self.honest + max(1, round_info.byzantine)
        for members in updates.members:
            if len(members) < least:
                what = (
                    f"a sum of {len(members)} nodes, and {self.honest} honest ones beside "
                    f"{least - self.honest} who may know their share need {least}"
                )
                raise ValueRefusedError.of("QRES-E505", "plugins.dp.honest", what)

    @hookimpl
    def wrap_aggregate(
        self, proceed: Callable[[Updates], Vector], updates: Updates, round_info: RoundInfo
    ) -> Vector:
        """In mode central, add the noise to the sum that the rule divides.

        Args:
            proceed: the rest of the chain.
            updates: what ``reveal`` returned, untouched.
            round_info: the round.

        Returns:
            the mean of the noised sum, int32, shape ``(d,)``.

        Raises:
            CompatibilityError: QRES-E314 if a plugin before this one changed the updates, or one
                after it returned anything but their mean.

        Complexity: O(n d).
        """
        del round_info
        if self._mode is not Mode.CENTRAL:
            return proceed(updates)
        revealed = self._revealed
        if revealed is None or not _same(revealed.updates, updates):
            what = "the updates to merge are not those that were clipped and charged for"
            fix = "put [plugins.dp] before every plugin that filters or mixes updates"
            raise CompatibilityError.of("QRES-E314", "plugins.dp", what, fix)
        noised = self._noised(revealed)
        merged = proceed(noised.updates)
        if not np.array_equal(merged, noised.mean):
            what = "a plugin after this one dropped or changed updates: the noise is for their mean"
            raise CompatibilityError.of("QRES-E314", "plugins.dp", what, "remove that plugin")
        return merged

    def _noised(self, revealed: _Revealed) -> Noised:
        dimension = revealed.updates.dimension
        if self._central_stream is not None:
            return central.add_noise(revealed.updates, self._central_stream.draw(revealed.key))
        noise = discrete_gaussian(revealed.variance).sample(dimension, revealed.key)
        return central.add_noise(revealed.updates, noise)

    # ── the round's numbers ───────────────────────────────────────────────────────────────────

    @property
    def _folder(self) -> Path | None:
        info = self._info
        return Path(info.data_dir) if info is not None and info.data_dir is not None else None

    @property
    def _owner(self) -> Owner:
        if self._info is None:
            raise _not_set_up()
        return Owner(self._info.swarm, self._info.node_id, self._relation.value)

    @property
    def _book(self) -> Ledger:
        if self._ledger is None:
            raise _not_set_up()
        return self._ledger

    def _charge(self, mechanism: Mechanism, round_info: RoundInfo, release: bytes) -> Charge:
        return Charge(
            round_info.number,
            release,
            self.mode,
            self._relation.value,
            self._multiplier,
            float(self.sampling_rate),
            mechanism.bound,
            round_info.scale,
            len(round_info.roster),
            mechanism.honest,
        )

    def _with_bound(self, bound: int, nodes: int) -> Mechanism:
        """The mechanism for a bound in steps; with votes, the vector has part of the privacy."""
        multiplier = self._multiplier
        if self.adaptive_quantile:
            multiplier = split(multiplier, nodes).vector
        honest = max(1, self.honest)
        return Mechanism(self._mode, self._relation, max(1, bound), multiplier, honest)

    def _check_round(self, round_info: RoundInfo) -> Mechanism:
        """The mechanism the configuration names, if the swarm and the grid hold it."""
        nodes = len(round_info.roster)
        if self._mode is Mode.DISTRIBUTED:
            guaranteed = round_info.quorum - max(1, round_info.byzantine)
            if self.honest > guaranteed:
                what = (
                    f"noise is counted on {self.honest} shares; a sum may have "
                    f"{round_info.quorum} nodes, of which {max(1, round_info.byzantine)} may see "
                    "it and know their own"
                )
                fix = f"honest <= {guaranteed}, or a larger swarm.quorum"
                raise CompatibilityError.of("QRES-E314", "plugins.dp.honest", what, fix)
        mechanism = self._with_bound(steps(self.clip, round_info.scale), nodes)
        if self.noise == "correlated":
            deviation = self._shape(round_info).deviation
            mechanism = attrs.evolve(mechanism, noise_multiplier=deviation)
        grid.check(mechanism, self.clip, dimension=round_info.dimension, nodes=nodes)
        return mechanism

    def _follow(self, round_info: RoundInfo) -> tuple[Following, AdaptiveClip]:
        if self._following is None:
            raise _not_set_up()
        mechanism, nodes = self._check_round(round_info), len(round_info.roster)
        dimension = round_info.dimension
        return self._following, self._following.rule(mechanism, dimension=dimension, nodes=nodes)

    def _own_mechanism(self, round_info: RoundInfo) -> tuple[Mechanism, int | None]:
        """The mechanism by which this node contributes, and the bound where it follows one."""
        fixed_one = self._check_round(round_info)
        if not self.adaptive_quantile:
            return fixed_one, None
        following, rule = self._follow(round_info)
        bound = following.bound(rule, fixed_one.bound, round_info)
        return self._with_bound(rule.radius(bound), len(round_info.roster)), bound

    def _agreed_mechanism(
        self, cast: Sequence[Ballot], round_info: RoundInfo
    ) -> tuple[Mechanism, int | None]:
        """The mechanism of an agreed set, and the bound where it follows one."""
        if not self.adaptive_quantile:
            return self._check_round(round_info), None
        _following, rule = self._follow(round_info)
        bound = rule.agreed((one.bound for one in cast), round_info.byzantine)
        return self._with_bound(rule.radius(bound), len(round_info.roster)), bound


def _noised(clipped: Vector, mechanism: Mechanism) -> Vector:
    """The clipped vector and noise under a fresh key, which nobody keeps."""
    distribution = discrete_gaussian(mechanism.share)
    noise = distribution.sample(clipped.size, fresh_key())
    if distribution.reach + mechanism.bound <= fixed.LIMIT:
        noise += clipped
        return noise
    # The grid was checked to leave room for 12 deviations; beyond it, saturate.
    held: Vector = np.clip(noise.astype(np.int64) + clipped, -fixed.LIMIT, fixed.LIMIT).astype(
        np.int32
    )
    return held


@functools.lru_cache(maxsize=64)
def _shaped(*numbers: Any) -> Shape:
    return Shape(*numbers)


@functools.lru_cache(maxsize=64)
def _check_stream(shape: Shape) -> None:
    """Raise QRES-E313 where the grid does not hold the noise of a stream; for one coordinate."""
    CorrelatedNoise(shape.factor, shape.variance, 1, shape.steps)


@functools.lru_cache(maxsize=64)
def _calibrated(epsilon: float, delta: float, rounds: int, rate: float) -> float:
    return accounting.calibrate(epsilon, delta, rounds, sampling_rate=rate)


def _not_set_up() -> RoundError:
    what = "no ledger is open, and nothing is released without one"
    return RoundError(Problem("QRES-E602", "plugins.dp", what, "setup and round_opened come first"))


def _same(left: Updates, right: Updates) -> bool:
    if left is right:
        return True
    return (
        left.senders == right.senders
        and np.array_equal(left.weights, right.weights)
        and np.array_equal(left.vectors, right.vectors)
    )
