"""Mode distributed with a clip that follows a quantile: votes, their noise, and the bound.

The tests drive the plugin by its hooks, as the kernel and secure aggregation do.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from qres_dp import Dp
from qres_dp.adaptive import FINE, MAX_RADIUS, SPAN, UNIT, AdaptiveClip, PrivacySplit, split
from qres_dp.audit.course import same_randomness
from qres_dp.discrete_gaussian import LARGEST_DEVIATION, discrete_gaussian
from qres_dp.following import FILE
from qres_dp.grid import HEADROOM, LEAST_SHARE
from qres_dp.modes import LEMMA
from qres_dp.releases.voted import VotedRelease
from qres_dp.votes import BOUND, MODULUS, NAME, VoteNoise, named_bounds

from qres_core import (
    Companion,
    CompatibilityError,
    Contribution,
    NodeInfo,
    Outcome,
    OwnContributions,
    QresError,
    RoundError,
    RoundInfo,
    RoundStatus,
    Surroundings,
    Update,
    Updates,
    ValueRefusedError,
    Visibility,
    model_digest,
)
from qres_core.testing import make_node_ids

NODES, HONEST, DIMENSION, SCALE = 7, 5, 4, -4
OPTIONS: dict[str, Any] = {
    "mode": "distributed",
    "clip": 0.25,
    "delta": 1e-6,
    "epsilon": 8.0,
    "rounds": 60,
    "honest": HONEST,
    "adaptive_quantile": 0.5,
}
ROSTER = make_node_ids(NODES)
ZERO = np.zeros(DIMENSION, dtype=np.int32)
CLIP = 2**18  # 0.25 in steps of 2**(-4 - 16)


def plugin(index: int, folder: Path | None = None, **options: Any) -> Dp:
    made = Dp(**{**OPTIONS, **options})
    path = None if folder is None else str(folder / str(index))
    made.setup(NodeInfo(ROSTER[index], "lab", ROSTER, data_dir=path))
    return made


def voted(node: Dp) -> VotedRelease:
    assert isinstance(node._release, VotedRelease)
    return node._release


def following(node: Dp) -> Any:
    found = voted(node)._following
    assert found is not None
    return found


@attrs.define(eq=False)
class Swarm:
    """Nodes and their one model."""

    nodes: list[Dp]
    byzantine: int = 0
    step: int = attrs.field(init=False, default=0)
    height: int = attrs.field(init=False, default=0)
    number: int = attrs.field(init=False, default=0)

    @property
    def info(self) -> RoundInfo:
        digest = model_digest(ZERO, self.step)
        more = {"step": self.step, "height": self.height, "byzantine": self.byzantine}
        return RoundInfo("lab", self.number, digest, DIMENSION, SCALE, ROSTER, HONEST + 1, **more)

    def open(self, nodes: Sequence[Dp] | None = None) -> None:
        self.number += 1
        for node in self.nodes if nodes is None else nodes:
            node.round_opened(self.info, OwnContributions())

    def send(self, index: int, length: int) -> Contribution:
        vector = ZERO.copy()
        vector[index % DIMENSION] = length
        made = self.nodes[index].privatize(Update(vector), self.info)
        return Contribution(
            ROSTER[index], bytes(32), made.vector, made.weight, companions=made.companions
        )

    def summed(self, sent: Sequence[Contribution], *groups: Sequence[int]) -> Updates:
        """The sums of groups of what was sent, as secure aggregation reveals them."""
        split_up = [[sent[at] for at in group] for group in groups or [range(len(sent))]]
        rows, sums = [], []
        for group in split_up:
            total = np.sum([item.vector.astype(np.int64) for item in group], axis=0)
            rows.append(np.rint(total / len(group)).astype(np.int32))
            residues = [item.companions[NAME].residues()[0] for item in group]
            sums.append(Companion.of((sum(residues) % MODULUS,), MODULUS))
        members = tuple(tuple(item.sender for item in group) for group in split_up)
        return Updates(
            np.stack(rows),
            tuple(group[0] for group in members),
            np.array([len(group) for group in members], dtype=np.int64),
            Visibility.SUM if len(members) == 1 else Visibility.GROUP,
            members=members,
            companions={NAME: tuple(sums)},
        )

    def reveal(self, sent: Sequence[Contribution], nodes: Sequence[Dp] | None = None) -> None:
        updates = self.summed(sent)
        for node in self.nodes if nodes is None else nodes:
            assert node.reveal(updates, tuple(sent), self.info) is updates

    def close(self, *, merged: Sequence[Dp] | None = None) -> None:
        """A model; the others took it from those that merged."""
        info, digest = self.info, model_digest(ZERO, self.step + 1)
        for node in self.nodes:
            own = merged is None or any(node is item for item in merged)
            node.round_closed(Outcome(info, RoundStatus.CLOSED, digest, merged=own))
        self.step, self.height = self.step + 1, self.height + 1

    def void(self) -> None:
        info = self.info
        for node in self.nodes:
            node.round_closed(Outcome(info, RoundStatus.VOID, info.model_digest))
        self.height += 1

    def round(self, lengths: Sequence[int]) -> list[Contribution]:
        self.open()
        sent = [self.send(index, length) for index, length in enumerate(lengths)]
        self.reveal(sent)
        self.close()
        return sent

    def bounds(self) -> list[int]:
        return [following(node).known.bound for node in self.nodes]


@pytest.fixture
def swarm() -> Iterator[Swarm]:
    made = Swarm([plugin(index) for index in range(NODES)])
    yield made
    for node in made.nodes:
        node.teardown()


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch, no_noise: type[Any]) -> None:
    monkeypatch.setattr("qres_dp.votes.discrete_gaussian", no_noise)


# ── the rule at work ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-dp-15")
@pytest.mark.usefixtures("silent")
def test_all_nodes_move_the_bound_as_the_formula_says(swarm: Swarm) -> None:
    bound = float(CLIP)
    for lengths in ([0] * 5 + [2**20] * 2, [2**20] * 7, [0] * 7, [CLIP] * 7):
        fitting = sum(length <= math.floor(bound) for length in lengths) / NODES
        bound *= math.exp(-0.2 * (fitting - 0.5))
        swarm.round(lengths)
        (found,) = set(swarm.bounds())
        assert found / FINE == pytest.approx(bound, rel=1e-9)


def test_noised_votes_move_the_bound_of_all_alike_and_it_finds_the_quantile(swarm: Swarm) -> None:
    """The median length is a fourth of the clip; the noise of seven nodes' votes is wide."""
    path: list[int] = []
    for _round in range(12):
        swarm.round([CLIP // 8] * 3 + [CLIP // 4] + [CLIP // 2] * 3)
        (found,) = set(swarm.bounds())
        path.append(found)
    assert len(set(path)) > 1
    assert all(CLIP // SPAN * FINE <= bound <= CLIP * SPAN * FINE for bound in path)
    shown = swarm.nodes[0].status()["clip"]
    assert shown == math.ldexp(path[-1] // FINE, SCALE - 16)


@pytest.mark.usefixtures("silent")
def test_a_void_height_moves_nothing_and_its_votes_are_charged_again(swarm: Swarm) -> None:
    swarm.round([0] * NODES)
    before = swarm.bounds()
    spent = swarm.nodes[0].status()["releases"]
    swarm.open()
    swarm.reveal([swarm.send(index, 0) for index in range(NODES)])
    swarm.void()
    swarm.open()
    assert swarm.bounds() == before
    swarm.send(0, 0)
    assert swarm.nodes[0].status()["releases"] == spent + 2  # type: ignore[operator]


@pytest.mark.claim("C-dp-16")
def test_what_leaves_is_clipped_to_the_bound_of_the_round_and_charged_once_for_both(
    swarm: Swarm,
) -> None:
    swarm.round([2**20] * NODES)
    swarm.open()
    sent = swarm.send(0, 2**20)
    (bound,) = {AdaptiveClip.radius(item) for item in swarm.bounds()}
    assert int.from_bytes(sent.companions[BOUND].body, "little") // FINE == bound
    ledger = voted(swarm.nodes[0]).ledger
    assert ledger is not None
    first, last = (record.charge for record in ledger.records)
    assert (first.bound, last.bound) == (CLIP, bound)
    parts = split(last.noise_multiplier, HONEST)
    assert last.votes == parts.votes
    assert parts.together >= last.noise_multiplier
    assert first.content != last.content


# ── privacy ───────────────────────────────────────────────────────────────────────────────────────


def centred(norm_squared: int, bound: int) -> int:
    """The vote as it was: its noise is for ``UNIT``, and a zero update is two of them apart."""
    radius = AdaptiveClip.radius(bound)
    return UNIT if norm_squared <= radius * radius else -UNIT


def lower_bound(vote: Callable[[int, int], int], runs: int = 1500) -> tuple[float, float]:
    """Mu of update and vote together as released sums show it, and how far off it may be.

    Neighbours are an update beyond the clip, and zero. All that is used of the plugin is what
    leaves the nodes whose shares the noise is counted on.
    """
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(AdaptiveClip, "vote", staticmethod(vote))
        item = plugin(0, honest=1, noise_multiplier=1.0, epsilon=0.0, rounds=10**5)
        world = Swarm([item])
        world.open()
        mechanism = voted(item).fitted(world.info)
        parts = split(1.0, 1)
        far = vote(1 << 60, CLIP * FINE) - vote(0, CLIP * FINE)
        towards = np.array([1.0 / parts.vector**2, far / UNIT / parts.votes**2])
        found: list[float] = []
        for length in (2**24, 0):
            rows: list[list[float]] = []
            for _run in range(runs):
                sent = world.send(0, length)
                (residue,) = sent.companions[NAME].residues()
                signed = residue - MODULUS if residue >= MODULUS // 2 else residue
                rows.append([int(sent.vector[0]) / mechanism.bound, signed / UNIT])
            found.append(float(np.mean(np.array(rows) @ towards)))
        item.teardown()
    deviation = math.hypot(towards[0] * parts.vector, towards[1] * parts.votes)
    return (found[0] - found[1]) / deviation, 5.0 * math.sqrt(2.0 / runs)


@pytest.mark.claim("C-dp-16")
@pytest.mark.control("C-dp-16")
@pytest.mark.long
def test_a_black_box_audit_finds_the_centred_votes_and_passes_the_one_sided() -> None:
    claim = 1.0  # 1 / noise multiplier
    with same_randomness(1):
        found, slack = lower_bound(AdaptiveClip.vote)
    assert found - slack <= claim
    assert found + slack >= 0.95 * claim  # and the audit does see all that there is
    # The control: votes of both signs, accounted for as if a node moved their sum by a UNIT.
    with same_randomness(1):
        found, slack = lower_bound(centred)
    assert found - slack > claim


def test_shares_of_honest_nodes_are_the_noise_of_the_sum() -> None:
    noise = VoteNoise(2.0, 5)
    assert 5 * noise.share - 9 >= (2 * UNIT) ** 2
    drawn = discrete_gaussian(noise.share).sample(20_000, bytes(32)).astype(float)
    assert np.std(drawn) == pytest.approx(2 * UNIT / math.sqrt(5), rel=0.03)
    sent = [int(noise.ballot(0, FINE)[NAME].residues()[0]) for _ in range(400)]
    signed = np.array([item - MODULUS if item >= MODULUS // 2 else item for item in sent], float)
    assert np.std(signed) == pytest.approx(2 * UNIT / math.sqrt(5), rel=0.2)


# ── liars ─────────────────────────────────────────────────────────────────────────────────────────


def lie(
    sent: Contribution, *, residue: int | None = None, bound: int | None = None
) -> Contribution:
    companions = dict(sent.companions)
    if residue is not None:
        companions[NAME] = Companion.of((residue % MODULUS,), MODULUS)
    if bound is not None:
        companions[BOUND] = Companion((bound % 2**64).to_bytes(8, "little"))
    return attrs.evolve(sent, companions=companions)


@pytest.mark.claim("C-dp-16")
@pytest.mark.usefixtures("silent")
@pytest.mark.parametrize("residue", [10**9 * UNIT, -(10**9) * UNIT, MODULUS // 2])
def test_a_lying_vote_moves_the_bound_by_no_more_than_the_rate(swarm: Swarm, residue: int) -> None:
    for _round in range(4):
        swarm.open()
        sent = [swarm.send(index, 0) for index in range(NODES)]
        before = following(swarm.nodes[0]).known
        start = CLIP * FINE if before is None else before.bound
        swarm.reveal([*sent[:-1], lie(sent[-1], residue=residue)])
        swarm.close()
        (after,) = set(swarm.bounds())
        assert math.exp(-0.1) * (1 - 1e-9) <= after / start <= math.exp(0.1) * (1 + 1e-9)


def test_a_false_bound_of_liars_is_not_taken_and_two_of_more_are_refused_by_all(
    swarm: Swarm,
) -> None:
    swarm.byzantine = 1
    swarm.open()
    sent = [swarm.send(index, 0) for index in range(NODES)]
    swarm.reveal([*sent[:-1], lie(sent[-1], bound=FINE)])
    swarm.close()
    assert len(set(swarm.bounds())) == 1
    swarm.open()
    sent = [swarm.send(index, 0) for index in range(NODES)]
    lies = [*sent[:-2], *(lie(item, bound=FINE) for item in sent[-2:])]
    for node in swarm.nodes:
        with pytest.raises(ValueRefusedError, match="QRES-E505"):
            node.reveal(swarm.summed(sent), tuple(lies), swarm.info)


def test_sums_without_votes_are_refused(swarm: Swarm) -> None:
    swarm.open()
    sent = [swarm.send(index, 0) for index in range(NODES)]
    updates = swarm.summed(sent)
    for beside in (None, Companion(b"123456"), Companion.of((1,), 97), Companion(b"", MODULUS)):
        companions = {} if beside is None else {NAME: (beside,)}
        with pytest.raises(ValueRefusedError, match="QRES-E505"):
            swarm.nodes[0].reveal(
                attrs.evolve(updates, companions=companions), tuple(sent), swarm.info
            )


def test_each_group_is_counted_by_itself(swarm: Swarm) -> None:
    """A group with fewer shares than are counted on is refused, however many the others have."""
    swarm.open()
    sent = [swarm.send(index, 0) for index in range(NODES)]
    with pytest.raises(ValueRefusedError, match="a sum of 1 nodes is too small"):
        swarm.nodes[0].reveal(swarm.summed(sent, range(6), [6]), tuple(sent), swarm.info)


# ── what a node knows ─────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-dp-27")
def test_a_node_that_missed_a_round_sits_out_and_follows_again(swarm: Swarm) -> None:
    swarm.round([0] * NODES)
    away, others = swarm.nodes[0], swarm.nodes[1:]
    swarm.open(others)
    sent = [swarm.send(index, 0) for index in range(1, NODES)]
    swarm.reveal(sent, others)
    swarm.close(merged=others)
    swarm.open()
    with pytest.raises(ValueRefusedError, match=r"QRES-E507 .*does not know the clipping bound"):
        swarm.send(0, 0)
    assert away.status()["releases"] == 1
    swarm.reveal([swarm.send(index, 0) for index in range(1, NODES)])
    swarm.close()
    assert len(set(swarm.bounds())) == 1
    swarm.open()
    swarm.send(0, 0)


def test_a_model_of_others_is_not_taken_for_that_of_a_set_that_came_to_nothing(
    swarm: Swarm,
) -> None:
    """The node opened the sums of a void height and missed the one that made the model."""
    away, others = swarm.nodes[0], swarm.nodes[1:]
    swarm.open()
    swarm.reveal([swarm.send(index, 0) for index in range(NODES)])
    swarm.height += 1  # void, which the node does not hear of
    swarm.open(others)
    swarm.reveal([swarm.send(index, 2**20) for index in range(1, NODES)], others)
    swarm.close(merged=others)
    swarm.open()
    assert following(away).known is None
    with pytest.raises(ValueRefusedError, match="QRES-E507"):
        swarm.send(0, 0)


@pytest.mark.control("C-dp-27")
def test_killed_after_the_sums_were_opened_all_nodes_know_the_bound(tmp_path: Path) -> None:
    for index in range(NODES):
        (tmp_path / str(index)).mkdir()
    first = Swarm([plugin(index, tmp_path) for index in range(NODES)])
    first.open()
    first.reveal([first.send(index, 2**20) for index in range(NODES)])
    for node in first.nodes:
        node.teardown()  # before any of them was told that the round closed
    again = Swarm([plugin(index, tmp_path) for index in range(NODES)])
    again.step = again.height = again.number = 1
    try:
        again.open()
        (bound,) = set(again.bounds())
        assert bound != CLIP * FINE
        again.send(0, 0)
    finally:
        for node in again.nodes:
            node.teardown()


def test_a_node_that_does_not_know_the_bound_takes_a_copy_of_anothers_file(tmp_path: Path) -> None:
    for index in (0, 1):
        (tmp_path / str(index)).mkdir()
    knows = plugin(1, tmp_path)
    world = Swarm([knows])
    world.open()
    following(knows).decided(world.info, CLIP // 2 * FINE)
    world.close()
    knows.teardown()
    shutil.copy(tmp_path / "1" / FILE, tmp_path / "0" / FILE)
    taught = plugin(0, tmp_path, new_ledger=True)
    world.nodes = [taught]
    world.open()
    assert world.send(0, 0).companions[BOUND].body == (CLIP // 2 * FINE).to_bytes(8, "little")
    taught.teardown()


@pytest.mark.parametrize("harm", ["renamed", "flipped", "other clip", "too long", "too short"])
def test_a_file_that_is_damaged_or_of_other_settings_is_refused(tmp_path: Path, harm: str) -> None:
    (tmp_path / "0").mkdir()
    item = plugin(0, tmp_path)
    world = Swarm([item])
    world.open()
    edges = {"too long": CLIP * SPAN * FINE + 1, "too short": CLIP // SPAN * FINE - 1}
    following(item).decided(world.info, edges.get(harm, CLIP * SPAN * FINE))
    item.teardown()
    file, model = tmp_path / "0" / FILE, world.info.model_digest
    if harm == "renamed":
        file.write_bytes(file.read_bytes().replace(b"next", b"mext"))
    if harm == "flipped":
        file.write_bytes(file.read_bytes().replace(model, bytes(32)))
    other = plugin(0, tmp_path, **({"clip": 0.5} if harm == "other clip" else {}))
    with pytest.raises(RoundError, match=r"QRES-E602 .*dp-bound"):
        Swarm([other]).open()
    other.teardown()


@pytest.mark.parametrize(
    ("name", "record"),
    [
        ("known", [1]),
        ("known", [0, bytes(31), CLIP * FINE]),
        ("known", [-1, bytes(32), CLIP * FINE]),
        ("next", [1]),
        ("next", [0, 0, bytes(31), CLIP * FINE]),
        ("next", [0, -1, bytes(32), CLIP * FINE]),
        ("next", [0, "0", bytes(32), CLIP * FINE]),
    ],
)
def test_a_record_of_the_bound_that_is_none_is_refused(
    tmp_path: Path, name: str, record: list[object]
) -> None:
    (tmp_path / "0").mkdir()
    item = plugin(0, tmp_path)
    world = Swarm([item])
    world.open()
    with following(item)._db.transaction():
        following(item)._facts.write(name, record)
    item.teardown()
    other = plugin(0, tmp_path)
    with pytest.raises(RoundError, match=rf"QRES-E602 .*the record '{name}' is damaged"):
        Swarm([other]).open()
    other.teardown()


@pytest.mark.parametrize("bound", [CLIP // SPAN * FINE, CLIP * SPAN * FINE])
def test_a_node_that_starts_again_knows_this_bound_and_the_next(tmp_path: Path, bound: int) -> None:
    (tmp_path / "0").mkdir()
    item = plugin(0, tmp_path)
    world = Swarm([item])
    world.open()
    following(item).decided(world.info, bound)
    world.close()
    world.open()
    following(item).decided(world.info, CLIP * FINE)
    item.teardown()
    world.nodes = [plugin(0, tmp_path, new_ledger=True)]
    world.open()
    assert world.bounds() == [bound]
    world.close()
    assert world.bounds() == [CLIP * FINE]
    world.nodes[0].teardown()


def test_the_set_of_a_height_says_nothing_of_the_model_of_another(swarm: Swarm) -> None:
    """A node that merged a later set has not seen its sums, and does not take earlier ones."""
    swarm.open()
    for node in swarm.nodes:
        following(node).decided(swarm.info, CLIP // 2 * FINE)
    swarm.height += 1
    swarm.close()
    assert all(following(node).known is None for node in swarm.nodes)


def test_a_grid_that_changes_is_refused_and_so_is_a_vote_before_a_round(swarm: Swarm) -> None:
    node = swarm.nodes[0]
    with pytest.raises(RoundError, match=r"QRES-E602 .*no round was opened"):
        node.privatize(Update(ZERO), swarm.info)
    swarm.open()
    with pytest.raises(RoundError, match=r"QRES-E602 .*the grid changed"):
        node.round_opened(attrs.evolve(swarm.info, scale=SCALE - 1), OwnContributions())


def test_another_attempt_of_a_height_forgets_no_bound_that_its_set_decided(swarm: Swarm) -> None:
    swarm.open()
    for node in swarm.nodes:
        following(node).decided(swarm.info, CLIP // 2 * FINE)
    swarm.open()  # the height goes on with the set that it decided
    swarm.close()
    assert set(swarm.bounds()) == {CLIP // 2 * FINE}


# ── before the start ──────────────────────────────────────────────────────────────────────────────


AROUND = Surroundings(
    nodes=NODES, byzantine=0, quorum=6, scale=SCALE, dimension=DIMENSION, members=6
)


def found(options: dict[str, Any], around: Surroundings) -> list[str]:
    return [str(problem) for problem in Dp(**{**OPTIONS, **options}).check(around)]


def test_the_grid_must_hold_every_bound_that_the_clip_may_move_to() -> None:
    assert not found({}, attrs.evolve(AROUND, scale=-6))
    told = found({}, attrs.evolve(AROUND, scale=-10))
    assert told
    assert all("QRES-E313" in text and "swarm.scale in" in text for text in told)
    # The control: a clip that stays where it is fits.
    assert not found({"adaptive_quantile": 0.0}, attrs.evolve(AROUND, scale=-10))


@pytest.mark.control("C-dp-28")
def test_a_large_swarm_starts_and_noise_that_no_sum_holds_is_refused() -> None:
    large = attrs.evolve(AROUND, nodes=40_000, quorum=30_000, members=30_000, scale=2)
    assert not found({"honest": 20_000, "delta": 1e-9}, large)
    for noise in (VoteNoise.of(split(1e6, 5), 5), VoteNoise(1e-3, 2**16)):
        with pytest.raises(CompatibilityError, match=r"QRES-E313 .*share of the votes' noise"):
            noise.check(100)
    with pytest.raises(CompatibilityError, match=r"QRES-E313 .*votes and 12 deviations"):
        VoteNoise(1.0, 1).check(2**31)


def test_the_least_and_the_most_noise_are_drawn_and_a_sum_that_just_wraps_is_refused() -> None:
    least, most = VoteNoise(math.sqrt(54.5) / UNIT, 1), VoteNoise(1024 - 10 * 2.0**-43, 1)
    assert (least.share, most.share) == (LEAST_SHARE**2, LARGEST_DEVIATION**2)
    least.check(100)
    most.check(100)
    noise, nodes = VoteNoise(math.sqrt(118.5) / UNIT, 1), 2**31 - 96
    needed = nodes * UNIT + HEADROOM * (math.isqrt(nodes * int(noise.share)) + 1)
    assert needed == MODULUS // 2
    noise.check(nodes - 1)
    with pytest.raises(CompatibilityError, match="votes and 12 deviations"):
        noise.check(nodes)


def test_bounds_that_no_clip_has_are_not_named() -> None:
    bounds = (FINE - 1, FINE, MAX_RADIUS * FINE, MAX_RADIUS * FINE + 1)
    named = [
        Contribution(
            ROSTER[0],
            bytes(32),
            ZERO,
            1,
            companions={BOUND: Companion(bound.to_bytes(8, "little"))},
        )
        for bound in bounds
    ]
    assert list(named_bounds(named)) == [FINE, MAX_RADIUS * FINE]


def test_noise_of_votes_that_cannot_be_drawn_is_told_before_the_start() -> None:
    told = found({"epsilon": 0.0, "noise_multiplier": 2000.0}, AROUND)
    assert any("a node's share of the votes' noise" in text for text in told)


def test_a_quorum_in_which_liars_could_name_another_bound_is_refused() -> None:
    around = attrs.evolve(AROUND, byzantine=3, colluders=4, quorum=7, members=7)
    told = [text for text in found({"honest": 3}, around) if "name the bound" in text]
    assert len(told) == 1
    assert "QRES-E314" in told[0]


def test_the_plan_counts_the_vote_and_tells_how_far_the_clip_moves() -> None:
    plan = Dp(**OPTIONS).plan(AROUND)
    told = plan.to_json()["mechanism"]
    assert told["lowest_clip"] * SPAN == told["highest_clip"] / SPAN == told["clip"] == 0.25
    mechanism = plan.mechanism
    vector = math.sqrt(mechanism.share * mechanism.honest - LEMMA) / mechanism.sensitivity
    both = PrivacySplit(vector, told["votes_multiplier"]).together
    assert plan.terms.multiplier <= both < mechanism.noise_multiplier
    assert plan.epsilon <= 8.0
    plain = Dp(**{**OPTIONS, "adaptive_quantile": 0.0}).plan(AROUND)
    assert plan.epsilon == plain.epsilon


def test_an_operator_reads_what_a_liar_can_do_and_that_few_votes_drown_in_noise() -> None:
    (whole,) = found({}, attrs.evolve(AROUND, quorum=NODES))
    assert "must sit out" in whole
    few, many = Dp(**OPTIONS).claims.notices, Dp(**{**OPTIONS, "honest": 120}).claims.notices
    assert "votes are not proved" in few[0]
    assert "5 are counted on: the clip wanders" in few[1]
    assert many == few[:1]
    assert not Dp(**{**OPTIONS, "adaptive_quantile": 0.0}).claims.notices


@pytest.mark.control("C-dp-16")
def test_noise_that_is_left_out_of_votes_is_found(
    swarm: Swarm, monkeypatch: pytest.MonkeyPatch, no_noise: type[Any]
) -> None:
    """The review's mutant: votes without noise are multiples of a vote."""

    def bare() -> bool:
        swarm.open()
        votes = [swarm.send(0, 0).companions[NAME].residues()[0] for _ in range(3)]
        return all(vote % UNIT == 0 for vote in votes)

    assert not bare()
    monkeypatch.setattr("qres_dp.votes.discrete_gaussian", no_noise)
    assert bare()


def test_nonsense_never_gets_past_a_named_error(swarm: Swarm) -> None:
    swarm.open()
    sent = [swarm.send(index, 0) for index in range(NODES)]
    rng = np.random.default_rng(1)
    for _try in range(30):
        bodies = [rng.bytes(int(rng.integers(0, 12))) for _ in sent]
        odd = tuple(
            attrs.evolve(item, companions={BOUND: Companion(body)})
            for item, body in zip(sent, bodies, strict=True)
        )
        with pytest.raises(QresError):
            swarm.nodes[0].reveal(swarm.summed(sent), odd, swarm.info)
