"""Mode distributed with correlated noise: what nodes send, what it costs, and what is decoded.

The tests drive the plugin by its hooks. What a node sent, with the noise taken out, is held against
the charges in its ledger, in exact integers.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from fractions import Fraction
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from qres_arithmetic import squared_norm
from qres_dp import Dp
from qres_dp.clip import clip
from qres_dp.correlated import EncodingShape, Factor, Participation
from qres_dp.correlated.memory import FILE
from qres_dp.ledger import PrivacyLedger
from qres_dp.releases import encoded, local
from qres_dp.stream import turn_of
from qres_lab.testing import make_node_ids

from qres_core import (
    NodeInfo,
    Outcome,
    OwnContributions,
    RoundInfo,
    RoundStatus,
    Update,
    Updates,
    Vector,
    Visibility,
    fixed,
    model_digest,
)
from qres_core.builtin.mean import weighted_mean
from qres_core.errors import RoundError, ValueRefusedError

NODES, HONEST, DIMENSION = 7, 5, 30
ROUNDS, BAND, SEPARATION = 12, 4, 3
OPTIONS: dict[str, Any] = {
    "mode": "distributed",
    "clip": 0.01,
    "delta": 1e-6,
    "epsilon": 8.0,
    "rounds": ROUNDS,
    "honest": HONEST,
    "noise": "correlated",
    "band": BAND,
    "separation": SEPARATION,
}
ROSTER = make_node_ids(NODES)


def plugin(index: int, folder: Path | None = None, **options: Any) -> Dp:
    made = Dp(**{**OPTIONS, **options})
    path = None if folder is None else str(folder / str(index))
    made.setup(NodeInfo(ROSTER[index], "lab", ROSTER, data_dir=path))
    return made


def turn(index: int) -> int:
    return turn_of(ROSTER[index], SEPARATION)


def mean_rule(updates: Updates) -> Vector:
    return weighted_mean(updates.vectors, updates.weights)


@attrs.define(eq=False)
class Swarm:
    """Nodes, their one model, and what each of them sent."""

    nodes: list[Dp]
    dimension: int = DIMENSION
    model: Vector = attrs.field(init=False)
    step: int = attrs.field(init=False, default=0)
    number: int = attrs.field(init=False, default=0)
    sent: list[tuple[int, int, Vector]] = attrs.field(init=False, factory=list)

    def __attrs_post_init__(self) -> None:
        self.model = np.zeros(self.dimension, dtype=np.int32)

    @property
    def info(self) -> RoundInfo:
        digest = model_digest(self.model, self.step)
        quorum = HONEST + 1
        return RoundInfo(
            "lab", self.number, digest, self.dimension, -4, ROSTER, quorum, step=self.step
        )

    def open(self) -> None:
        """The next round."""
        self.number += 1
        for node in self.nodes:
            node.round_opened(self.info, OwnContributions())

    def send(self, index: int, update: Vector) -> Vector:
        vector = self.nodes[index].privatize(Update(update), self.info).vector
        self.sent.append((index, self.step, vector))
        return vector

    def total(self, rows: dict[int, Vector]) -> Updates:
        """The sum of what some nodes sent, as secure aggregation reveals it."""
        members = tuple(ROSTER[index] for index in sorted(rows))
        sums = np.sum([row.astype(np.int64) for row in rows.values()], axis=0)
        mean = np.rint(sums / len(rows)).astype(np.int32)[None]
        weights = np.array([len(rows)], dtype=np.int64)
        return Updates(mean, members[:1], weights, Visibility.SUM, members=(members,))

    def merged(self, node: Dp, updates: Updates) -> Vector:
        return node.wrap_aggregate(mean_rule, node.reveal(updates, (), self.info), self.info)

    def close(
        self,
        rows: dict[int, Vector],
        *,
        merging: list[int] | None = None,
        told: list[int] | None = None,
    ) -> None:
        """All merge to the same bits, and are told what the round did."""
        updates = self.total(rows)
        everybody = list(range(len(self.nodes)))
        found = [self.merged(self.nodes[index], updates) for index in merging or told or everybody]
        assert all(np.array_equal(item, found[0]) for item in found)
        after = fixed.add_saturating(self.model, found[0]).vector
        digest = model_digest(after, self.step + 1)
        change = fixed.difference(after, self.model)
        ended = Outcome(self.info, RoundStatus.CLOSED, digest, change=change)
        for index in told or everybody:
            self.nodes[index].round_closed(ended)
        self.model, self.step = after, self.step + 1

    def void(self) -> None:
        """The height ends without a model."""
        info = self.info
        for node in self.nodes:
            node.round_closed(Outcome(info, RoundStatus.VOID, info.model_digest))


@pytest.fixture
def swarm() -> Iterator[Swarm]:
    made = Swarm([plugin(index) for index in range(NODES)])
    yield made
    for node in made.nodes:
        node.teardown()


@pytest.fixture
def silent(monkeypatch: pytest.MonkeyPatch, no_noise: type[Any]) -> None:
    monkeypatch.setattr(local, "discrete_gaussian", no_noise)


def update_of(rng: np.random.Generator, size: int = DIMENSION) -> Vector:
    """An update beyond the clip, half of the time along one line."""
    direction = np.ones(size) if rng.random() < 0.5 else rng.normal(size=size)
    return np.rint(20_000 * direction / np.linalg.norm(direction)).astype(np.int32)


def ledger_of(node: Dp) -> PrivacyLedger:
    ledger = node._release.ledger
    assert ledger is not None
    return ledger


def paid(node: Dp, info: RoundInfo) -> list[Fraction]:
    """The squared move that each charge of a node is good for, in squared steps, exact."""
    mechanism = node._release.fitted(info)
    accounted = mechanism.share * mechanism.honest - 9  # the lemma's nine are not accounted for
    charges = [record.charge for record in ledger_of(node).records]
    return [accounted / Fraction(charge.noise_multiplier) ** 2 for charge in charges]


# ── what is sent, in exact integers ───────────────────────────────────────────────────────────────


def wander(seed: int, folder: Path, *, sends: Callable[..., Vector] = Swarm.send) -> Swarm:
    """A stream in which nodes drop out, heights are void, rows are sent again and nodes restart."""
    rng = np.random.default_rng(seed)

    def node(index: int) -> Dp:  # two of them are on disk, and restart
        return plugin(index, folder if index < 2 else None, rounds=40)

    made = Swarm([node(index) for index in range(NODES)])
    while made.step < ROUNDS:
        made.open()
        here = [index for index in range(NODES) if rng.random() < 0.85]
        rows = {index: sends(made, index, update_of(rng)) for index in here}
        if rng.random() < 0.3:
            index = int(rng.integers(2))
            made.nodes[index].teardown()
            made.nodes[index] = node(index)
            made.nodes[index].round_opened(made.info, OwnContributions())
        if len(rows) > HONEST and rng.random() < 0.8:
            made.close(rows)
        else:
            made.void()
    return made


def overdrawn(made: Swarm) -> list[str]:
    """What is wrong with the charges of a stream that was sent without noise."""
    found: list[str] = []
    for index, node in enumerate(made.nodes):
        rows = [squared_norm(vector) for sender, _step, vector in made.sent if sender == index]
        charges = paid(node, made.info)
        if len(rows) != len(charges):
            found.append(f"node {index}: {len(rows)} rows, {len(charges)} charges")
        if any(row > charge for row, charge in zip(rows, charges, strict=False)):
            found.append(f"node {index}: a row moves more than its charge is good for")
        if sum(rows) > sum(charges):
            found.append(f"node {index}: {sum(rows)} moved, {float(sum(charges)):.1f} paid")
    return found


@pytest.mark.claim("C-dp-19")
@pytest.mark.parametrize("seed", range(3))
@pytest.mark.usefixtures("silent")
def test_every_row_is_charged_for_all_it_moves(seed: int, tmp_path: Path) -> None:
    made = wander(seed, tmp_path)
    assert overdrawn(made) == []
    # It is tight: some rows move nearly all that they are charged for.
    shares = [
        squared_norm(vector) / charge
        for index, node in enumerate(made.nodes)
        for (_sender, _step, vector), charge in zip(
            [item for item in made.sent if item[0] == index], paid(node, made.info), strict=True
        )
        if squared_norm(vector)
    ]
    assert max(shares) > 0.99
    for node in made.nodes:
        node.teardown()


@pytest.mark.control("C-dp-19")
@pytest.mark.usefixtures("silent")
def test_a_node_that_does_not_charge_a_repeated_row_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control: with the charge of a second attempt left out, the same check objects."""
    charge, known = PrivacyLedger.charge, set[tuple[int, int]]()
    at = [0]

    def forgetful(self: PrivacyLedger, item: Any, budget: Any) -> Any:
        key = id(self), at[0]
        if key in known:
            return None
        known.add(key)
        return charge(self, item, budget)

    def sends(made: Swarm, index: int, update: Vector) -> Vector:
        at[0] = made.step
        return Swarm.send(made, index, update)

    monkeypatch.setattr(PrivacyLedger, "charge", forgetful)
    made = wander(0, tmp_path, sends=sends)
    assert any("moved" in line for line in overdrawn(made))
    for node in made.nodes:
        node.teardown()


@pytest.mark.usefixtures("silent")
def test_a_node_with_another_node_gone_moves_the_sum_by_its_row_alone(swarm: Swarm) -> None:
    """Neighbours as the page has them: with the node's updates, and with zeros in their place."""
    rng = np.random.default_rng(3)
    other = Swarm([plugin(index) for index in range(NODES)])
    for _ in range(ROUNDS):
        swarm.open()
        other.open()
        made = [update_of(rng) for _ in range(NODES)]
        rows = {index: swarm.send(index, made[index]) for index in range(NODES)}
        made[0] = np.zeros_like(made[0])
        theirs = {index: other.send(index, made[index]) for index in range(NODES)}
        moved = swarm.total(rows).vectors * NODES - other.total(theirs).vectors * NODES
        assert np.abs(moved[0] - rows[0]).max() <= NODES  # means are rounded
        for index in range(1, NODES):
            assert np.array_equal(rows[index], theirs[index])
        swarm.close(rows)
        # The same history: what was released is the same in both, but for the node's row.
        other.model, other.step = swarm.model, swarm.step


@pytest.mark.usefixtures("silent")
def test_updates_that_are_replaced_by_others_move_rows_by_twice_as_much_and_cost_that() -> None:
    rng = np.random.default_rng(6)
    worlds = [Swarm([plugin(0, relation="replace-one")]) for _ in range(2)]
    plain, moved = Swarm([plugin(0)]), list[int]()
    for _ in range(ROUNDS):
        update = update_of(rng)
        rows: list[Vector] = []
        for world, sign in zip((*worlds, plain), (1, -1, 1), strict=True):
            world.open()
            rows.append(world.send(0, np.asarray(sign * update, dtype=np.int32)))
            world.step += 1
        moved.append(squared_norm(rows[1] - rows[0]))
    charges = paid(worlds[0].nodes[0], worlds[0].info)
    assert all(move <= charge for move, charge in zip(moved, charges, strict=True))
    # The control: charges for updates that are taken away would not do.
    less = paid(plain.nodes[0], plain.info)
    assert any(move > charge for move, charge in zip(moved, less, strict=True))
    for world in (*worlds, plain):
        world.nodes[0].teardown()


@pytest.mark.usefixtures("silent")
def test_a_record_moves_every_row_by_no_more_than_its_charge() -> None:
    """Both sums hold the node's other records, and both rows are rounded."""
    rng = np.random.default_rng(4)
    options: dict[str, Any] = {"unit": "record", "records": 50, "clip": 100 * 2.0**-20}
    worlds = [Swarm([plugin(0, **options)], 40) for _ in range(2)]
    bound = 100  # in steps of the grid, the clip of a record
    moved: list[int] = []
    for _ in range(ROUNDS):
        others = rng.integers(-40, 40, 40).astype(np.int32)
        line = np.rint(bound * np.ones(40) / math.sqrt(40) * rng.choice([-1, 1], 40))
        record = clip(line.astype(np.int32), bound).vector
        rows: list[Vector] = []
        for world, update in zip(worlds, (others, others + record), strict=True):
            world.open()
            rows.append(world.send(0, update))
            world.step += 1
        moved.append(squared_norm(rows[1] - rows[0]))
    node, info = worlds[1].nodes[0], worlds[1].info
    assert node._release.fitted(info).bound == bound
    charges = paid(node, info)
    assert all(move <= charge for move, charge in zip(moved, charges, strict=True))
    assert sum(moved) > 0
    # The control: rounding moves some rows farther than the record by itself would.
    plain = plugin(0, clip=100 * 2.0**-20)
    grain = node._release._shape(node._release.around(info)).grain  # type: ignore[attr-defined]
    assert grain > 0
    assert plain._release._shape(node._release.around(info)).grain == 0  # type: ignore[attr-defined]
    for world in worlds:
        world.nodes[0].teardown()
    plain.teardown()


def moved_after_records_became_shorter(folder: Path) -> tuple[int, Fraction]:
    """A row with an update of before: its move when a record goes, squared, and what was paid.

    First five records of a node are clipped to 200 steps each, then ten to 100. Both times no
    update is longer than 1000.
    """
    options: dict[str, Any] = {"unit": "record", "new_ledger": True}
    record = np.zeros(DIMENSION, dtype=np.int32)
    record[3] = 200
    rows: list[Vector] = []
    for name, update in (("with", record), ("without", np.zeros_like(record))):
        world = Swarm([plugin(0, folder / name, records=5, clip=200 * 2.0**-20, **options)])
        world.step = turn(0)
        world.open()
        world.send(0, update)
        world.nodes[0].teardown()
        world.nodes[0] = plugin(0, folder / name, records=10, clip=100 * 2.0**-20, **options)
        world.step += 1
        try:
            world.open()
            rows.append(world.send(0, np.zeros_like(record)))
            charge = paid(world.nodes[0], world.info)[-1]
        finally:
            world.nodes[0].teardown()
    return squared_norm(rows[0] - rows[1]), charge


@pytest.mark.usefixtures("silent")
def test_updates_of_records_that_were_clipped_otherwise_are_not_sent_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RoundError, match=r"QRES-E602 .*another swarm, clip, unit, band"):
        moved_after_records_became_shorter(tmp_path / "guarded")
    # The control: a file that says only how long an update is. Its rows move by more than is paid.
    monkeypatch.setattr(encoded, "EncodingShape", lambda *fields: EncodingShape(*fields[:5]))
    moved, charge = moved_after_records_became_shorter(tmp_path / "open")
    assert moved > charge


def test_a_whole_stream_costs_its_budget_and_not_more(swarm: Swarm) -> None:
    """Nobody misses a step: the charges add up to the sensitivity of the matrix."""
    for _ in range(ROUNDS):
        swarm.open()
        zero = np.zeros(DIMENSION, dtype=np.int32)
        swarm.close({index: swarm.send(index, zero) for index in range(NODES)})
    spent = [ledger_of(node).spent(1e-6) for node in swarm.nodes]
    assert max(spent) <= 8.0
    first = [node for index, node in enumerate(swarm.nodes) if turn(index) == 0]
    assert first
    for node in first:
        assert ledger_of(node).spent(1e-6) == pytest.approx(8.0, rel=1e-6)
    swarm.open()
    with pytest.raises(ValueRefusedError, match=r"QRES-E509 .*all are used"):
        swarm.send(0, np.zeros(DIMENSION, dtype=np.int32))


def test_a_row_that_is_sent_again_has_a_fresh_share_and_costs_again() -> None:
    made = Swarm([plugin(0)], 2000)
    made.open()
    zero = np.zeros(2000, dtype=np.int32)
    rows = [made.send(0, zero).astype(np.int64) for _ in range(2)]
    share = float(made.nodes[0]._release.fitted(made.info).share)
    assert np.var(rows[0] - rows[1]) == pytest.approx(2 * share, rel=0.2)
    assert len(ledger_of(made.nodes[0])) == 2
    made.nodes[0].teardown()


@pytest.mark.control("C-dp-19")
def test_a_share_that_is_used_twice_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    """The control of the test above."""
    monkeypatch.setattr(local, "fresh_key", lambda: bytes(32))
    made = Swarm([plugin(0)], 2000)
    made.open()
    zero = np.zeros(2000, dtype=np.int32)
    rows = [made.send(0, zero).astype(np.int64) for _ in range(2)]
    assert np.var(rows[0] - rows[1]) == 0
    made.nodes[0].teardown()


# ── what is decoded ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.usefixtures("silent")
def test_the_model_is_the_sum_of_the_updates(swarm: Swarm) -> None:
    rng, expected = np.random.default_rng(5), np.zeros(DIMENSION)
    for _ in range(ROUNDS):
        swarm.open()
        made = [update_of(rng) for _ in range(NODES)]
        bound = swarm.nodes[0]._release.fitted(swarm.info).bound
        for index, update in enumerate(made):
            if swarm.step % SEPARATION == turn(index):
                expected += clip(update, bound).vector / NODES
        swarm.close({index: swarm.send(index, made[index]) for index in range(NODES)})
        assert np.abs(swarm.model - expected).max() < 2 * (swarm.step + 1)
    assert np.abs(expected).max() > 1000


def test_noise_of_the_model_is_that_of_the_inverse_and_no_less() -> None:
    size = 16_000  # 0.03 is eight deviations of what is measured
    made = Swarm([plugin(index) for index in range(NODES)], size)
    zero, models = np.zeros(size, dtype=np.int32), []
    for _ in range(ROUNDS):
        made.open()
        made.close({index: made.send(index, zero) for index in range(NODES)})
        models.append(made.model.astype(np.float64) * NODES)
    share = made.nodes[0]._release.fitted(made.info).share
    measured = math.sqrt(float(np.mean(np.stack(models) ** 2)))
    planned = math.sqrt(share * NODES) * Factor(BAND).prefix_error(ROUNDS)
    assert measured == pytest.approx(planned, rel=0.03)
    # Of independent noise at the same budget and the same turns the models would hold more.
    times = -(-ROUNDS // SEPARATION)
    moved = Factor(BAND).squared_sensitivity(ROUNDS, Participation(times, SEPARATION)) / 2**32
    independent = math.sqrt(share * NODES * times / moved) * math.sqrt((ROUNDS + 1) / 2)
    assert measured < 0.9 * independent
    for node in made.nodes:
        node.teardown()


def test_a_node_that_was_away_takes_the_models_of_others_until_it_knows_enough(
    swarm: Swarm,
) -> None:
    zero, others = np.zeros(DIMENSION, dtype=np.int32), list(range(1, NODES))
    for turn in range(BAND + 4):
        swarm.open()
        rows = {index: swarm.send(index, zero) for index in range(NODES)}
        if turn == 3:  # the first node hears nothing of this round
            swarm.close(rows, told=others)
            continue
        lacks = 3 < turn < 3 + BAND
        if lacks:
            with pytest.raises(RoundError, match="QRES-E608"):
                swarm.merged(swarm.nodes[0], swarm.total(rows))
        # It takes the model of the others, and sees what the round added to it.
        swarm.close(rows, merging=others if lacks else None)


@pytest.mark.usefixtures("silent")
def test_a_node_that_restarts_sends_the_row_it_would_have_sent(tmp_path: Path) -> None:
    rng = np.random.default_rng(8)
    updates = [[update_of(rng) for _ in range(NODES)] for _ in range(ROUNDS)]
    rows: list[list[Vector]] = []
    for restarts in (False, True):
        folder = tmp_path / str(restarts)
        made = Swarm([plugin(index) for index in range(1, NODES)])
        made.nodes.insert(0, plugin(0, folder))
        for step in range(ROUNDS):
            made.open()
            made.close({index: made.send(index, updates[step][index]) for index in range(NODES)})
            if restarts and step % 2:
                made.nodes[0].teardown()
                made.nodes[0] = plugin(0, folder)
        rows.append([vector for _index, _step, vector in made.sent])
        for node in made.nodes:
            node.teardown()
    assert all(np.array_equal(a, b) for a, b in zip(*rows, strict=True))


@pytest.mark.usefixtures("silent")
def test_a_node_whose_file_is_lost_sends_less_and_pays_less(tmp_path: Path) -> None:
    """The control of the test above: without the file the row is another one."""
    update, moved = update_of(np.random.default_rng(8)), list[int]()
    for lost in (False, True):
        folder = tmp_path / str(lost)
        made = Swarm([plugin(0, folder)])
        for _ in range(turn(0) + 2):
            made.open()
            moved.append(squared_norm(made.send(0, update)))
            made.step += 1
            if lost and made.step == turn(0) + 1:
                made.nodes[0].teardown()
                (folder / "0" / FILE).unlink()
                made.nodes[0] = plugin(0, folder)
        moved.append(int(paid(made.nodes[0], made.info)[-1]))
        made.nodes[0].teardown()
    kept, forgot = moved[: len(moved) // 2], moved[len(moved) // 2 :]
    assert kept[:-2] == forgot[:-2]
    assert kept[-1] >= kept[-2] > 0  # the row after its turn, and what it paid for it
    assert forgot[-2:] == [0, 0]


def test_a_file_that_is_damaged_stops_the_node(tmp_path: Path) -> None:
    made = Swarm([plugin(0, tmp_path)])
    made.open()
    made.nodes[0].teardown()
    path = tmp_path / "0" / FILE
    octets = bytearray(path.read_bytes())
    octets[len(octets) // 2 :] = bytes(len(octets) - len(octets) // 2)
    path.write_bytes(octets)
    made.nodes[0] = plugin(0, tmp_path)
    with pytest.raises(RoundError, match="QRES-E602"):
        made.open()
    made.nodes[0].teardown()


def test_two_sums_are_refused(swarm: Swarm) -> None:
    swarm.open()
    members = (ROSTER[:3], ROSTER[3:])
    rows = Updates(
        np.zeros((2, DIMENSION), dtype=np.int32),
        (ROSTER[0], ROSTER[3]),
        np.array([3, 4]),
        Visibility.GROUP,
        members=members,
    )
    with pytest.raises(ValueRefusedError, match=r"QRES-E505 .*one sum of all"):
        swarm.nodes[0].reveal(rows, (), swarm.info)


def test_a_grid_that_changes_within_the_stream_is_refused(swarm: Swarm) -> None:
    swarm.open()
    with pytest.raises(RoundError, match=r"QRES-E602 .*changed in the middle"):
        swarm.nodes[0].round_opened(attrs.evolve(swarm.info, scale=-3), OwnContributions())
