"""When the state of an optimiser holds, when it begins anew, and when a node must not merge."""

from __future__ import annotations

import contextlib
import sqlite3
import stat
from collections.abc import Callable
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from qres_lab.testing import AggregatorContract, find_rule, make_node_info, make_round_info
from qres_lab.testing import make_updates as of
from qres_server_optimiser import FedAdam, FedAvgM, FedYogi, state
from qres_server_optimiser.plugin import NAMES

from qres_core import (
    Needs,
    Outcome,
    RoundInfo,
    RoundStatus,
    Surroundings,
    Updates,
    Vector,
    Visibility,
    canonical,
    stores,
)
from qres_core.errors import OptionError, RoundError

Optimiser = FedAvgM | FedAdam | FedYogi
KINDS: tuple[Callable[[], Optimiser], ...] = (FedAvgM, FedAdam, FedYogi)
BY_NAME = {"fedadam": FedAdam, "fedavgm": FedAvgM, "fedyogi": FedYogi}
DIGESTS = [bytes([i]) * 32 for i in range(1, 20)]


def round_of(step: int, height: int | None = None) -> RoundInfo:
    height = step if height is None else height
    info = make_round_info(2, number=height + 1, model_digest=DIGESTS[step])
    return attrs.evolve(info, step=step, height=height)


def merge(plugin: Optimiser, info: RoundInfo, merged: tuple[int, int]) -> list[int]:
    def proceed(_updates: Updates) -> Vector:
        return np.array(merged, dtype=np.int32)

    return plugin.wrap_aggregate(proceed, of([[1, 2]] * 3), info).tolist()


def close(plugin: Optimiser, info: RoundInfo, change: list[int] | None, **more: Any) -> None:
    vector = None if change is None else np.array(change, dtype=np.int32)
    model = DIGESTS[info.step + 1]
    plugin.round_closed(Outcome(info, RoundStatus.CLOSED, model, change=vector, **more))


def play(plugin: Optimiser, info: RoundInfo, merged: tuple[int, int]) -> list[int]:
    step = merge(plugin, info, merged)
    close(plugin, info, step)
    return step


def void(plugin: Optimiser, info: RoundInfo, code: str) -> None:
    plugin.round_closed(Outcome(info, RoundStatus.VOID, info.model_digest, code=code))


@pytest.mark.control("C-optimiser-6")
@pytest.mark.parametrize("make", KINDS)
def test_the_state_goes_from_model_to_model(make: Callable[[], Optimiser]) -> None:
    plugin, again = make(), make()
    steps = [play(plugin, round_of(step), (4000, -70)) for step in range(4)]
    assert steps == [play(again, round_of(step), (4000, -70)) for step in range(4)]
    assert len({tuple(step) for step in steps}) == 4  # each depends on those before it


@pytest.mark.claim("C-optimiser-6")
@pytest.mark.parametrize("make", KINDS)
def test_a_round_that_is_aborted_leaves_the_state_as_it_is(make: Callable[[], Optimiser]) -> None:
    plugin, plain = make(), make()
    for item in (plugin, plain):
        play(item, round_of(0), (4000, -70))
    info = attrs.evolve(round_of(1), number=9)
    plugin.round_closed(Outcome(round_of(1), RoundStatus.ABORTED, DIGESTS[1]))
    assert merge(plugin, info, (5, 5)) == merge(plain, round_of(1), (5, 5))


@pytest.mark.claim("C-optimiser-6")
@pytest.mark.parametrize("code", ["QRES-E507", "QRES-E604", "QRES-E608"])
@pytest.mark.parametrize("make", KINDS)
def test_after_a_height_without_a_model_all_begin_anew(
    make: Callable[[], Optimiser], code: str
) -> None:
    holds, lacks, new = make(), make(), make()
    play(holds, round_of(0), (4000, -70))
    merge(holds, round_of(1), (-9000, 9000))
    with pytest.raises(RoundError, match="QRES-E608"):
        merge(lacks, round_of(1), (5, 5))
    for plugin in (holds, lacks):
        void(plugin, round_of(1), code)
    fresh = merge(new, round_of(0), (5000, 5))
    assert merge(holds, round_of(1, 2), (5000, 5)) == fresh
    assert merge(lacks, round_of(1, 2), (5000, 5)) == fresh


@pytest.mark.claim("C-optimiser-7")
@pytest.mark.parametrize("make", KINDS)
def test_who_was_not_told_of_a_height_does_not_merge(make: Callable[[], Optimiser]) -> None:
    """It may be one after which the others began anew."""
    plugin = make()
    play(plugin, round_of(0), (4000, -70))
    with pytest.raises(RoundError, match=r"QRES-E608 plugins\.fed.* was not told of every step"):
        merge(plugin, round_of(1, 2), (5, 5))
    void(plugin, round_of(1), "QRES-E508")  # told of the last of three heights at once
    with pytest.raises(RoundError, match="QRES-E608"):
        merge(plugin, round_of(1, 4), (5, 5))


def test_fedavgm_knows_the_step_whoever_merged_it() -> None:
    merged, took = FedAvgM(), FedAvgM()
    for plugin in (merged, took):
        play(plugin, round_of(0), (100, 0))
    step = play(merged, round_of(1), (30, 0))
    merge(took, round_of(1), (-999, 0))  # it judged another set
    close(took, round_of(1), step, merged=False)
    assert merge(took, round_of(2), (1, 1)) == merge(merged, round_of(2), (1, 1)) == [109, 1]
    late = FedAvgM()
    close(late, round_of(0, 0), None)  # several steps at once
    with pytest.raises(RoundError, match="QRES-E608"):
        merge(late, round_of(1), (1, 1))
    close(late, round_of(1), step, merged=False)
    assert merge(late, round_of(2), (1, 1)) == [109, 1]


@pytest.mark.control("C-optimiser-7")
@pytest.mark.parametrize("make", [FedAdam, FedYogi])
def test_who_took_a_model_from_others_merges_again_after_a_restart(
    make: Callable[..., FedAdam | FedYogi],
) -> None:
    holds, took = make(restart=3), make(restart=3)
    step = play(holds, round_of(0), (4000, -70))
    merge(took, round_of(0), (-4000, 70))
    close(took, round_of(0), step, merged=False)
    for number in (1, 2):
        step = play(holds, round_of(number), (4000, -70))
        with pytest.raises(RoundError, match="QRES-E608"):
            merge(took, round_of(number), (4000, -70))
        close(took, round_of(number), step, merged=False)
    for number in (3, 4):
        assert play(took, round_of(number), (9, 9)) == play(holds, round_of(number), (9, 9))


@pytest.mark.claim("C-optimiser-5")
@pytest.mark.control("C-optimiser-5")
@pytest.mark.parametrize("make", [FedAdam, FedYogi])
def test_what_a_lie_leaves_in_the_state_is_gone_after_a_restart_and_not_before(
    make: Callable[..., FedAdam | FedYogi],
) -> None:
    """A rule that is no mean does not merge it; the control is the swarm without the lie."""
    usual, lie = (650, 650), (-65_000, 65_000)
    infos = [attrs.evolve(round_of(0), step=n, height=n) for n in range(80)]
    infos = [attrs.evolve(info, model_digest=bytes([info.step + 1]) * 32) for info in infos]

    def steps(first: tuple[int, int]) -> list[list[int]]:
        plugin = make()
        made: list[list[int]] = []
        for info in infos:
            step = merge(plugin, info, usual if info.step else first)
            model = bytes([info.step + 2]) * 32
            plugin.round_closed(
                Outcome(info, RoundStatus.CLOSED, model, change=np.array(step, dtype=np.int32))
            )
            made.append(step)
        return made

    clean, poisoned = steps(usual), steps(lie)
    rate = 655.36
    assert min(min(step) for step in clean[5:64]) > rate
    # A tenth of a step, for a lie of a hundred times the usual size.
    assert max(abs(value) for step in poisoned[50:64] for value in step) < 1.5 * rate / 10
    assert poisoned[64:] == clean[64:]


# ── the disk ──────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-optimiser-8")
@pytest.mark.parametrize("name", sorted(BY_NAME))
def test_the_state_survives_the_process(name: str, tmp_path: Path) -> None:
    info = make_node_info(data_dir=str(tmp_path))
    plain = BY_NAME[name]()
    # Three models, a height without one, two models.
    for number, height in ((0, 0), (1, 1), (2, 2), (3, 3), (3, 4), (4, 5)):
        plugin, here = BY_NAME[name](), round_of(number, height)
        plugin.setup(info)
        step = merge(plugin, here, (4000, -70))
        assert step == merge(plain, here, (4000, -70))
        for item in (plugin, plain):
            if height == 3:
                void(item, here, "QRES-E508")
            else:
                close(item, here, step)
        plugin.teardown()
        plugin.teardown()
    path = tmp_path / f"{name}.sqlite"
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.control("C-optimiser-8")
def test_a_file_that_was_lost_or_is_older_than_the_model_means_no_merge(tmp_path: Path) -> None:
    info = make_node_info(data_dir=str(tmp_path))
    plugin = FedAdam()
    plugin.setup(info)
    play(plugin, round_of(0), (4000, -70))
    plugin.teardown()
    old = FedAdam()
    old.setup(info)
    with pytest.raises(RoundError, match="QRES-E608"):  # killed before the second model was noted
        merge(old, round_of(2), (4000, -70))
    old.teardown()
    (tmp_path / "fedadam.sqlite").unlink()
    lost = FedAdam()
    lost.setup(info)
    with pytest.raises(RoundError, match="QRES-E608"):
        merge(lost, round_of(1), (4000, -70))
    lost.teardown()


@pytest.mark.claim("C-optimiser-8")
@pytest.mark.parametrize(
    ("statement", "what"),
    [
        ("UPDATE fact SET value = x'80' WHERE name = 'arrays'", "'arrays' is damaged"),
        ("DELETE FROM fact WHERE name = 'at'", "'at' is damaged"),
        ("PRAGMA application_id = 9", "not a state of fedavgm"),
    ],
)
def test_damage_is_refused_by_name(tmp_path: Path, statement: str, what: str) -> None:
    info = make_node_info(data_dir=str(tmp_path))
    plugin = FedAvgM()
    plugin.setup(info)
    play(plugin, round_of(0), (4000, -70))
    with pytest.raises(RoundError, match=r"QRES-E602 .*another process"):
        FedAvgM().setup(info)
    plugin.teardown()
    database = sqlite3.connect(tmp_path / "fedavgm.sqlite")
    database.execute(statement)
    database.commit()
    database.close()
    with pytest.raises(RoundError, match=rf"QRES-E602 .*{what}"):
        FedAvgM().setup(info)


@pytest.mark.parametrize(("piece", "fits"), [(4000, True), (2**26, False)])
def test_a_state_larger_than_a_record_is_kept_in_pieces(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, piece: int, fits: bool
) -> None:
    """SQLite takes 20,000 bytes in a record here, instead of a billion; two arrays have 24,000."""
    monkeypatch.setattr(stores.Facts, "PIECE", piece)
    info = make_node_info(data_dir=str(tmp_path))
    kept = state.OptimiserState.open("fedadam", info)
    assert kept._database is not None
    kept._database._connection.setlimit(sqlite3.SQLITE_LIMIT_LENGTH, 20_000)
    rng = np.random.default_rng(4)
    large: state.Arrays = (
        rng.standard_normal(3000),
        rng.integers(-9, 9, 3000).astype(np.int32),
    )
    wanted = contextlib.nullcontext() if fits else pytest.raises(RoundError, match="QRES-E602")
    with wanted:
        kept.becomes(bytes(32), 1, large)
        for arrays in (large[:1], large):  # what was longer leaves nothing behind
            kept.becomes(bytes(32), 2, arrays)
    kept.close()
    if fits:
        again = state.OptimiserState.open("fedadam", info)
        found = again.of(attrs.evolve(make_round_info(3000), model_digest=bytes(32), height=2))
        again.close()
        assert found is not None
        assert [array.dtype for array in found] == [array.dtype for array in large]
        assert all(np.array_equal(a, b) for a, b in zip(found, large, strict=True))
        with contextlib.closing(sqlite3.connect(tmp_path / "fedadam.sqlite")) as database:
            (count,) = database.execute("SELECT COUNT(*) FROM fact").fetchone()
        assert count == 3 + 6 + 3


def test_another_nodes_file_is_refused(tmp_path: Path) -> None:
    plugin = FedAvgM()
    plugin.setup(make_node_info(data_dir=str(tmp_path)))
    plugin.teardown()
    with pytest.raises(RoundError, match=r"QRES-E602 .*another swarm or node"):
        FedAvgM().setup(make_node_info(index=1, data_dir=str(tmp_path)))


# ── options and claims ────────────────────────────────────────────────────────────────────────────


class TestFirstStepOfFedAvgM(AggregatorContract):
    """The first step at a rate of 1 is what the rule merged: all that holds for a rule holds."""

    def make(self) -> object:
        return find_rule("fedavgm+mean").make()


# ── a simulation that goes on ─────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("make", KINDS)
def test_what_it_remembers_makes_the_next_step(make: Callable[[], Optimiser]) -> None:
    plugin, again, forgot = make(), make(), make()
    play(plugin, round_of(0), (4000, -70))
    again.recall_agreed(plugin.remember())
    assert merge(again, round_of(1), (5, 5)) == merge(plugin, round_of(1), (5, 5))
    with pytest.raises(RoundError, match="QRES-E608"):  # of another model
        merge(again, round_of(2), (5, 5))
    with pytest.raises(RoundError, match="QRES-E608"):  # the control
        merge(forgot, round_of(1), (5, 5))


@pytest.mark.parametrize("make", KINDS)
def test_a_state_that_begins_anew_is_remembered_as_one(make: Callable[[], Optimiser]) -> None:
    plugin, again = make(), make()
    assert plugin.remember() == b""  # nothing is known yet
    play(plugin, round_of(0), (4000, -70))
    void(plugin, round_of(1), "QRES-E507")
    again.recall_agreed(plugin.remember())
    assert merge(again, round_of(1, 2), (5000, 5)) == merge(make(), round_of(0), (5000, 5))


@pytest.mark.parametrize(
    "bad",
    [
        [1, 1, []],
        [DIGESTS[0], "1", []],
        [DIGESTS[0], 1],
        [DIGESTS[0], 1, 5],
        [DIGESTS[0], 1, [["<i2", bytes(8)]]],
        [DIGESTS[0], 1, [["<i4", bytes(7)]]],
        [DIGESTS[0], 1, [["<i4", "text"]]],
        [DIGESTS[0], 1, [["<i4"]]],
    ],
)
def test_what_is_no_state_is_refused(bad: object) -> None:
    plugin = FedAvgM()
    with pytest.raises((TypeError, ValueError)):
        plugin.recall_agreed(canonical.dumps(bad))
    assert plugin.remember() == b""


def test_it_works_on_sums_and_says_what_becomes_of_the_rules_promise() -> None:
    for make in KINDS:
        claims = make().claims
        assert claims.needs == Needs(visibility=Visibility.SUM)
        assert claims.tolerates is None
        assert claims.wraps.alters
        assert "what the rule promises holds for what it merges" in claims.notices[0]
    assert "up to 10 times" in FedAvgM().claims.notices[0]
    assert "up to 30 times" in FedAvgM(momentum=0, learning_rate=30).claims.notices[0]
    assert FedAvgM(momentum=0).claims.notices == ()


@pytest.mark.claim("C-optimiser-2")
def test_votes_on_what_would_be_merged_are_refused() -> None:
    """``test_swarm`` shows what would happen."""
    around = Surroundings(nodes=5, byzantine=1, quorum=4)
    for name, kind in BY_NAME.items():
        assert not list(kind().check(around))
        (problem,) = kind().check(attrs.evolve(around, judges=("validation",)))
        assert (problem.code, problem.where) == ("QRES-E303", f"plugins.{name}")
        assert "plugins.validation votes on what would be merged" in problem.what
        assert f"remove [plugins.validation] or [plugins.{name}]" in problem.fix


@pytest.mark.claim("C-optimiser-2")
def test_a_second_optimiser_is_refused() -> None:
    """``test_swarm`` shows what would happen."""
    around = Surroundings(nodes=5, byzantine=1, quorum=4)
    names = {entry.name for entry in entry_points(group="qres.plugins") if entry.load() in KINDS}
    assert names == NAMES == set(BY_NAME)
    for name, kind in BY_NAME.items():
        assert not list(kind().check(attrs.evolve(around, altered_by=("clipping",))))
        for other in NAMES - {name}:
            (problem,) = kind().check(attrs.evolve(around, altered_by=("clipping", other)))
            assert (problem.code, problem.where) == ("QRES-E303", f"plugins.{name}")
            assert problem.fix == f"remove [plugins.{other}] or [plugins.{name}]"


def test_options() -> None:
    for name, kind in BY_NAME.items():
        (entry,) = entry_points(group="qres.plugins", name=name)
        assert entry.load() is kind
        assert all(field.metadata["help"] for field in attrs.fields(kind) if field.init)
    for bad in (
        {"learning_rate": 0},
        {"learning_rate": 2e6},
        {"momentum": 1.0},
        {"momentum": True},
    ):
        with pytest.raises(OptionError, match=r"(learning_rate|momentum): must be"):
            FedAvgM(**bad)  # type: ignore[arg-type]
    for bad in ({"beta1": 1.0}, {"beta2": -0.1}, {"tau": 1e-10}, {"restart": 0}):
        with pytest.raises(OptionError, match=r"(beta1|beta2|tau|restart): must be"):
            FedAdam(**bad)  # type: ignore[arg-type]
