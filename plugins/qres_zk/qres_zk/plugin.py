"""The ``zk`` plugin: its options and its hooks."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

import attrs
import numpy as np

from qres_core import (
    ACCEPT,
    Blame,
    Claims,
    Companion,
    Contribution,
    NodeId,
    NodeInfo,
    Outcome,
    Reads,
    RoundInfo,
    Surroundings,
    Update,
    Updates,
    Vector,
    Verdict,
    Visibility,
    hookimpl,
    options,
    reject,
)
from qres_core.claims import Extent, Privatizes, Verifies
from qres_core.dialogues import Revelation
from qres_core.errors import ConfigError, Problem, ValueRefusedError, WireError
from qres_zk.aggregate import opens, opens_rows
from qres_zk.batch import failing
from qres_zk.bundle import ProofBundle
from qres_zk.fitting import misfits
from qres_zk.group import ORDER, integers
from qres_zk.judging import LIED, NAME, SumJudge, blinds_of, fits
from qres_zk.norm import prove
from qres_zk.options import read_vector, steps
from qres_zk.pedersen import commit
from qres_zk.policy import NormPolicy
from qres_zk.slack import PROJECTIONS, SECURITY, factor, honest_bound
from qres_zk.statement import Context, NormStatement, columns_of

BAD: Final = "bad-proof"


def _help(text: str) -> dict[str, str]:
    return {"help": text}


@attrs.frozen(eq=False)
class _Made:
    """Commitment made in a round, and its proof."""

    number: int
    model: bytes
    vector: Vector
    bundle: bytes


@attrs.define(eq=False)
class Zk:
    """Proves, in zero knowledge, that a node's update is within a norm bound, and checks sums.

    The update is committed to before a plugin after this one hides it. Everybody checks the proof
    of every contribution, or a committee does (``swarm.proof_checks``). Where single vectors stay
    visible, who checks a proof also checks that the vector is the committed one; where only sums
    are revealed, everybody checks that the sum is the sum of those committed.

    What ``bound`` promises holds for whatever is accepted, except with probability ``2**-security``
    for each try of a cheater. Honest updates are clipped to a lower norm, ``bound / sigma``: see
    :mod:`qres_zk.slack`.

    Attributes:
        bound: greatest L2 norm of an accepted update, in the model's own units.
        k: random projections in a proof, 256, 512 or 1024: more of them, less slack.
        security: 40, 80 or 128 bits.
        clip: whether updates longer than ``bound / sigma`` are clipped; if not, the node sits out.
            To be switched off where noise was added before: clipping would take some of it away.
        center: ``.npy`` file of a vector the update is to be near; empty for zero.
        direction: ``.npy`` file of a vector the update is to point along; empty for none.
        threshold: how far along the direction at least, in the model's own units.

    Raises:
        ValueError: an option out of range; the message names it.
    """

    bound: float = attrs.field(
        validator=options.real(2.0**-40, 2.0**40, unit="model units"),
        metadata=_help("Greatest L2 norm of an accepted update, in the model's own units."),
    )
    k: int = attrs.field(
        default=256,
        validator=options.one_of(*PROJECTIONS),
        metadata=_help("Random projections in a proof: 256, 512 or 1024; more give less slack."),
    )
    security: int = attrs.field(
        default=128,
        validator=options.one_of(*SECURITY),
        metadata=_help("Bits of security against one try of a cheater: 40, 80 or 128."),
    )
    clip: bool = attrs.field(
        default=True,
        validator=options.flag(),
        metadata=_help(
            "Clip honest updates. False after added noise: a longer update is then not contributed."
        ),
    )
    center: str = attrs.field(
        default="",
        metadata=options.local(
            "A .npy file: updates must be within the bound of this vector.", content=True
        ),
    )
    direction: str = attrs.field(
        default="",
        metadata=options.local("A .npy file: updates must point along this vector.", content=True),
    )
    threshold: float = attrs.field(
        default=0.0,
        validator=options.real(-(2.0**40), 2.0**40, unit="model units"),
        metadata=_help("Least length along the direction, in the model's own units."),
    )

    _node: NodeId = attrs.field(init=False, default=b"")
    _visibility: Visibility = attrs.field(init=False, default=Visibility.INDIVIDUAL)
    _policy: NormPolicy = attrs.field(init=False)
    _made: _Made | None = attrs.field(init=False, default=None)
    _judge: SumJudge = attrs.field(init=False, factory=SumJudge)
    _counts: dict[str, int] = attrs.field(init=False, factory=dict[str, int])

    def __attrs_post_init__(self) -> None:
        if self.threshold and not self.direction:
            msg = "threshold is an option of a direction; set direction too"
            raise ValueError(msg)
        self._policy = NormPolicy(self.bound, self.k, self.security, self.clip)

    # ── claims ────────────────────────────────────────────────────────────────────────────────

    @property
    def claims(self) -> Claims:
        """Claims: how far a node can move a mean, and one verdict of all honest nodes on a proof.

        A commitment travels beside the update. What ``reveal`` checks, it does not change.
        """
        sigma = factor(self.k, self.security)
        honest = "clipped to" if self.clip else "refused above"
        limits = (
            f"norm of at most {self.bound:g}; honest ones are {honest} {self.bound / sigma:.6g}"
        )
        around = f" around {self.center}" if self.center else ""
        return Claims(
            tolerates=None,
            notices=(
                f"accepted updates have a {limits}",
                "experimental: the protocol has not been reviewed by anybody outside the project",
            ),
            verifies=Verifies(bounds=f"norm at most {self.bound:g}{around}", transferable=True),
            # It keeps noised updates: what clips is refused where there is noise, see `check`.
            privatizes=Privatizes(reveals=False, accompanies=True, keeps=True),
            reads=Reads.NOTHING,  # but shards of them, where they stay visible
        )

    def check(self, around: Surroundings) -> Iterator[Problem]:
        """Check that grid and neighbours leave a vector that can be proved about.

        Yields QRES-E303, QRES-E313 and QRES-E314, see :func:`qres_zk.fitting.misfits`.
        """
        policy = steps(self.bound, around.scale)
        honest = honest_bound(policy, self.k, self.security)
        return misfits(
            around, self.bound, policy, honest, clip=self.clip, centred=bool(self.center)
        )

    def passes(self, extent: Extent, around: Surroundings) -> Extent:
        """Within the bound of honest updates."""
        del around
        if self.center:
            return extent
        if not self.clip:  # nothing is made shorter: who is too long sits out
            return attrs.evolve(extent, accepted=self.bound)
        return attrs.evolve(
            extent,
            length=min(extent.length, self.bound / factor(self.k, self.security)),
            accepted=self.bound,
        )

    def shard_run(self, dimension: int) -> int:
        """A row of the layout: a commitment is to a whole row."""
        return columns_of(dimension)

    # ── life cycle ────────────────────────────────────────────────────────────────────────────

    def preflight(self, node_info: NodeInfo) -> Iterator[Problem]:
        """Check that the files with references could be used: yields QRES-E105, as ``setup``."""
        del node_info
        try:
            self._read()
        except ConfigError as error:
            yield from error.problems

    def _read(self) -> NormPolicy:
        """The options with the references that they name. Raises ConfigError: QRES-E105."""
        center = read_vector(self.center, "plugins.zk.center") if self.center else None
        direction = read_vector(self.direction, "plugins.zk.direction") if self.direction else None
        return NormPolicy(
            self.bound, self.k, self.security, self.clip, center, direction, self.threshold
        )

    @hookimpl
    def setup(self, node_info: NodeInfo) -> None:
        """Read the references and note what later plugins leave visible.

        Raises QRES-E105 for a file that cannot be used.
        """
        self._node, self._visibility = node_info.node_id, node_info.visibility
        self._judge.single = self._visibility is Visibility.INDIVIDUAL
        self._judge.rows = node_info.rows
        self._policy = self._read()
        self._made = None

    @hookimpl
    def round_opened(self, round_info: RoundInfo) -> None:
        """Check that the round's dimension and grid can be proved about; take in its members.

        Raises QRES-E313 where the grid or the group is too small for the bound, and QRES-E105 for a
        reference of another dimension.
        """
        self._made = None
        self._judge.follow(round_info.roster)
        self._statement(round_info)

    @hookimpl
    def round_closed(self, outcome: Outcome) -> None:
        """Forget what was committed."""
        del outcome
        self._made = None
        self._judge.forget()

    @hookimpl
    def status(self) -> Mapping[str, object]:
        """Bounds, and how many proofs were made, accepted and refused."""
        counted = ("proofs_made", "proofs_accepted", "proofs_refused")
        return {
            "bound": self.bound,
            "honest_bound": self.bound / factor(self.k, self.security),
            **{name: self._counts.get(name, 0) for name in counted},
            "sums_failed": self._judge.failed,
            "suspects": len(self._judge.suspects),
        }

    def _count(self, name: str) -> None:
        self._counts[name] = self._counts.get(name, 0) + 1

    def _statement(self, round_info: RoundInfo) -> NormStatement:
        return self._policy.statement(round_info.dimension, round_info.scale)

    # ── the way out ───────────────────────────────────────────────────────────────────────────

    @hookimpl
    def privatize(self, update: Update, round_info: RoundInfo) -> Update:
        """Clip the update, commit to it and prove; the blinds go beside it as residues.

        Raises QRES-E510 if the update is not within the statement, and QRES-E313. The cost is that
        of :func:`qres_zk.norm.prove`.
        """
        statement = self._statement(round_info)
        vector = self._policy.within(update.vector, statement)
        context = Context.of(self._node, round_info)
        commitment, bundle = prove(statement, context, commit(statement, vector))
        self._made = _Made(round_info.number, round_info.model_digest, vector, bundle.to_bytes())
        self._count("proofs_made")
        blinds = Companion.of(integers(commitment.blinds), ORDER)
        return attrs.evolve(update, vector=vector, companions={**update.companions, NAME: blinds})

    @hookimpl
    def prove(self, update: Update, round_info: RoundInfo) -> bytes:
        """The proof made for what was committed in this round.

        Raises QRES-E510 if nothing was committed, or if single vectors are visible and a plugin
        after this one changed the update.
        """
        made = self._made
        if made is None or (made.number, made.model) != (
            round_info.number,
            round_info.model_digest,
        ):
            raise ValueRefusedError.of("QRES-E510", "plugins.zk", "nothing was committed")
        visible = self._visibility is Visibility.INDIVIDUAL
        if visible and not np.array_equal(made.vector, update.vector):
            what = "a plugin after this one changed the update that was committed to"
            fix = "put [plugins.zk] after it"
            raise ValueRefusedError.of("QRES-E510", "plugins.zk", what, fix)
        return made.bundle

    # ── the way in ────────────────────────────────────────────────────────────────────────────

    @hookimpl
    def verify(self, contribution: Contribution, round_info: RoundInfo) -> Verdict:
        """Check the proof, against this node's own configuration and view of the round.

        O(d) word operations and O(b + m) in the group.
        """
        return self.verify_all((contribution,), round_info)[0]

    @hookimpl
    def verify_all(
        self, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> list[Verdict]:
        """Check many proofs by one multiplication in the group; see :mod:`qres_zk.batch`.

        O(n d) word operations and O(n b + m) in the group.
        """
        statement = self._statement(round_info)
        reasons: dict[int, str] = {}
        bundles: dict[int, ProofBundle] = {}
        for at, contribution in enumerate(contributions):
            # Whoever lied where no model was made would lie again: the set is tried without it.
            refused = self._judge.refuses(contribution.sender, round_info.number)
            found = LIED if refused else self._decoded(contribution, statement)
            if isinstance(found, str):
                reasons[at] = found
            else:
                bundles[at] = found
        where = list(bundles)
        items = [
            (Context.of(contributions[at].sender, round_info), bundle)
            for at, bundle in bundles.items()
        ]
        for index in failing(statement, items):
            reasons[where[index]] = BAD
        for at, bundle in bundles.items():
            if at in reasons:
                continue
            if self._matches(contributions[at], bundle, statement):
                self._judge.note(contributions[at], bundle.points[: statement.rows])
            else:
                reasons[at] = LIED
        return [self._verdict(reasons.get(at, "")) for at in range(len(contributions))]

    def _verdict(self, reason: str) -> Verdict:
        self._count("proofs_refused" if reason else "proofs_accepted")
        return reject(reason, blame=Blame.SENDER) if reason else ACCEPT

    def _decoded(self, contribution: Contribution, statement: NormStatement) -> ProofBundle | str:
        """The proof, or why there is none."""
        data = contribution.proofs.get(NAME)
        if data is None:
            return "no-proof"
        if not fits(contribution.companions.get(NAME), statement):
            return "no-blinds"
        try:
            return ProofBundle.from_bytes(data, statement)
        except WireError as error:
            return "other-proof-version" if error.code == "QRES-E406" else "malformed-proof"

    def _matches(
        self, contribution: Contribution, bundle: ProofBundle, statement: NormStatement
    ) -> bool:
        """True if a vector that can be seen is the committed one."""
        if contribution.root:  # those that hold its shards see them
            return True
        return self._visibility is not Visibility.INDIVIDUAL or opens(
            statement,
            [bundle.points[: statement.rows]],
            contribution.vector,
            blinds_of(contribution.companions.get(NAME)),
        )

    @hookimpl
    def verify_shard(
        self, contribution: Contribution, shard: Vector, start: int, round_info: RoundInfo
    ) -> Verdict:
        """Judge if rows of a vector that can be seen are those that were committed to.

        O(c) word operations and a multiplication of ``m`` points, however few rows there are.
        """
        statement = self._statement(round_info)
        blinds = blinds_of(contribution.companions.get(NAME))
        try:
            points = self._judge.commitments(contribution, statement)
        except WireError:
            return reject(LIED, blame=Blame.SENDER)
        if len(blinds) == statement.rows and opens_rows(statement, points, shard, blinds, start):
            return ACCEPT
        return reject(LIED, blame=Blame.SENDER)

    @hookimpl
    def reveal(
        self, updates: Updates, contributions: tuple[Contribution, ...], round_info: RoundInfo
    ) -> Revelation:
        """Keep the rows that are sums of what their members committed to.

        The evidence is against whoever must have lied. O(d) word operations a row, and a
        multiplication of ``b`` points a member. Raises QRES-E508 if no row holds, or too few: see
        :mod:`qres_zk.judging`.
        """
        statement = self._statement(round_info)
        return self._judge.revealed(statement, updates, contributions, round_info)
