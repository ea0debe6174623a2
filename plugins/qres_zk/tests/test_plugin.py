"""The plugin's hooks: what a node sends, what its peers check, and how a liar is found."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from qres_zk import Zk
from qres_zk.group import ORDER
from qres_zk.judging import REFUSED
from qres_zk.plugin import LIED
from qres_zk.policy import NormPolicy
from qres_zk.slack import factor, honest_bound
from qres_zk.statement import MAX_BOUND

from qres_core import (
    ACCEPT,
    Blame,
    Companion,
    Contribution,
    NodeId,
    NodeInfo,
    RoundInfo,
    Update,
    Updates,
    Visibility,
    fixed,
)
from qres_core.dialogues import RevelationError
from qres_core.errors import CompatibilityError, ConfigError, ValueRefusedError

D = 50
NODES = 9
ROSTER = tuple(bytes([n + 1]) * 32 for n in range(NODES))
UNIT = 2**16


def round_of(number: int = 1, **changes: Any) -> RoundInfo:
    info = RoundInfo("lab", number, bytes(32), D, 0, ROSTER, 5, byzantine=1)
    return attrs.evolve(info, **changes)


def plugin(
    node: NodeId = ROSTER[0],
    visibility: Visibility = Visibility.INDIVIDUAL,
    rows: int = 1,
    **options: Any,
) -> Zk:
    made = Zk(**{"bound": 10.0, **options})
    made.setup(NodeInfo(node, "lab", ROSTER, byzantine=1, visibility=visibility, rows=rows))
    return made


def vector(seed: int, norm: float = 1.0) -> np.ndarray:
    drawn = np.random.default_rng(seed).normal(size=D)
    return np.trunc(drawn / np.linalg.norm(drawn) * norm * UNIT).astype(np.int32)


def send(made: Zk, update: Update, info: RoundInfo, sender: NodeId) -> Contribution:
    made.round_opened(info)
    private = made.privatize(update, info)
    proofs = {"zk": made.prove(private, info)}
    return Contribution(sender, bytes(32), private.vector, 1, proofs, private.companions)


@pytest.fixture(scope="module")
def sent() -> list[Contribution]:
    """What honest nodes send in round 1."""
    return [
        send(plugin(node), Update(vector(n)), round_of(), node) for n, node in enumerate(ROSTER)
    ]


# ── one node ──────────────────────────────────────────────────────────────────────────────────


def test_an_honest_contribution_is_accepted(sent: list[Contribution]) -> None:
    judge = plugin(ROSTER[3])
    assert all(judge.verify(frame, round_of()) is ACCEPT for frame in sent)
    assert judge.status()["proofs_accepted"] == NODES


def test_long_updates_are_clipped_to_what_can_be_proved() -> None:
    made = plugin()
    honest = 10.0 / factor(256, 128)
    contribution = send(made, Update(vector(1, norm=50.0)), round_of(), ROSTER[0])
    norm = float(np.linalg.norm(contribution.vector.astype(float))) / UNIT
    assert honest * 0.999 < norm <= honest
    assert made.status()["honest_bound"] == pytest.approx(honest)
    assert plugin(ROSTER[1]).verify(contribution, round_of()) is ACCEPT


@pytest.mark.claim("C-zk-19")
def test_without_clipping_the_node_sits_out_and_says_by_how_much() -> None:
    made = plugin(clip=False)
    with pytest.raises(ValueRefusedError, match=r"norm is 50 and the proof's bound 2\.6") as no:
        made.privatize(Update(vector(1, norm=50.0)), round_of())
    assert no.value.code == "QRES-E510"
    made.privatize(Update(vector(1, norm=2.5)), round_of())


@pytest.mark.control("C-zk-19")
def test_noise_that_fits_the_bound_is_sent_as_it_is() -> None:
    noised = vector(1, norm=1.0) + vector(2, norm=1.5)
    made = plugin(clip=False)
    assert np.array_equal(made.privatize(Update(noised), round_of()).vector, noised)


@pytest.mark.claim("C-zk-20")
@pytest.mark.parametrize(
    "what", ["boosted", "other", "no-proof", "no-blinds", "garbage", "norm/v1", "late"]
)
def test_what_is_not_as_committed_is_refused_and_blamed(
    what: str, sent: list[Contribution]
) -> None:
    item, info, reason = sent[0], round_of(), LIED
    if what == "boosted":
        item = attrs.evolve(item, vector=item.vector * 1000)
    elif what == "other":
        changed = item.vector.copy()
        changed[7] += 1
        item = attrs.evolve(item, vector=changed)
    elif what == "no-proof":
        item, reason = attrs.evolve(item, proofs={}), "no-proof"
    elif what == "no-blinds":
        item, reason = attrs.evolve(item, companions={}), "no-blinds"
    elif what == "garbage":
        item, reason = attrs.evolve(item, proofs={"zk": b"QZKP"}), "malformed-proof"
    elif what == "norm/v1":
        proof = item.proofs["zk"]
        former = {"zk": proof[:4] + b"\x01" + proof[5:]}
        item, reason = attrs.evolve(item, proofs=former), "other-proof-version"
    else:
        info, reason = round_of(2), "bad-proof"
    verdict = plugin(ROSTER[1]).verify(item, info)
    assert (verdict.reason, verdict.blame) == (reason, Blame.SENDER)


def test_blinds_of_another_kind_are_refused(sent: list[Contribution]) -> None:
    blinds = sent[0].companions["zk"].residues()
    for bad in (
        Companion(bytes(32)),
        Companion.of(blinds[:-1], ORDER),
        Companion.of([blind % 2**200 for blind in blinds], ORDER - 2),
    ):
        verdict = plugin(ROSTER[1]).verify(
            attrs.evolve(sent[0], companions={"zk": bad}), round_of()
        )
        assert verdict.reason == "no-blinds"


def test_the_contribution_of_another_cannot_be_sent_as_ones_own(sent: list[Contribution]) -> None:
    stolen = attrs.evolve(sent[0], sender=ROSTER[5])
    assert plugin(ROSTER[1]).verify(stolen, round_of()).reason == "bad-proof"


@pytest.mark.parametrize(
    "changes",
    [
        {"number": 2},
        {"model_digest": b"m" * 32},
        {"head": b"m" * 32},
        {"swarm": "other"},
        {"roster": ROSTER[:-1]},
        {"scale": 1},
    ],
)
def test_a_proof_holds_in_one_context_only(
    changes: dict[str, Any], sent: list[Contribution]
) -> None:
    verdict = plugin(ROSTER[1]).verify(sent[0], round_of(**{"number": 1, **changes}))
    assert verdict.reason in {"bad-proof", "malformed-proof"}


@pytest.mark.parametrize("options", [{"bound": 9.0}, {"bound": 11.0}, {"k": 512}, {"security": 80}])
def test_the_verifiers_own_options_count(options: dict[str, Any], sent: list[Contribution]) -> None:
    assert plugin(ROSTER[1], **options).verify(sent[0], round_of()) is not ACCEPT


def test_a_cheat_with_a_weaker_configuration_is_refused() -> None:
    """The attacker runs the plugin with a bound of its own choice."""
    boosted = send(plugin(bound=1000.0), Update(vector(1, norm=200.0)), round_of(), ROSTER[0])
    assert plugin(ROSTER[1]).verify(boosted, round_of()).blame is Blame.SENDER
    assert plugin(ROSTER[1], bound=1000.0).verify(boosted, round_of()) is ACCEPT


def test_a_later_plugin_must_not_change_what_stays_visible() -> None:
    made = plugin()
    private = made.privatize(Update(vector(1)), round_of())
    changed = attrs.evolve(private, vector=private.vector + 1)
    with pytest.raises(ValueRefusedError, match="QRES-E510"):
        made.prove(changed, round_of())
    assert made.prove(private, round_of())
    masked = plugin(visibility=Visibility.SUM)
    private = masked.privatize(Update(vector(1)), round_of())
    assert masked.prove(attrs.evolve(private, vector=private.vector + 1), round_of())


def test_a_proof_is_of_its_round() -> None:
    made = plugin()
    private = made.privatize(Update(vector(1)), round_of())
    with pytest.raises(ValueRefusedError, match="nothing was committed"):
        made.prove(private, round_of(2))
    made.round_opened(round_of())
    with pytest.raises(ValueRefusedError, match="nothing was committed"):
        made.prove(private, round_of())


# ── references ────────────────────────────────────────────────────────────────────────────────


def test_a_center_and_a_direction(tmp_path: Path) -> None:
    center, direction = vector(7, norm=30.0) / UNIT, vector(8) / UNIT
    np.save(tmp_path / "center.npy", center)
    np.save(tmp_path / "direction.npy", direction)
    options = {
        "center": str(tmp_path / "center.npy"),
        "direction": str(tmp_path / "direction.npy"),
        "threshold": float(center @ direction),
    }
    near = ((center + direction) * UNIT).astype(np.int32)
    contribution = send(plugin(**options), Update(near), round_of(), ROSTER[0])
    assert plugin(ROSTER[1], **options).verify(contribution, round_of()) is ACCEPT
    assert plugin(ROSTER[1]).verify(contribution, round_of()) is not ACCEPT
    back = ((center - direction) * UNIT).astype(np.int32)
    with pytest.raises(ValueRefusedError, match="QRES-E510"):
        plugin(**options).privatize(Update(back), round_of())
    far = send(plugin(center=options["center"]), Update(vector(1)), round_of(), ROSTER[0])
    distance = np.linalg.norm(far.vector / UNIT - center)
    assert distance <= 10.0 / factor(256, 128) * 1.001  # clipped into the ball around the center


def test_references_that_cannot_be_used(tmp_path: Path) -> None:
    np.save(tmp_path / "short.npy", np.ones(D - 1))
    np.save(tmp_path / "zero.npy", np.zeros(D))
    np.save(tmp_path / "nan.npy", np.full(D, np.nan))
    np.save(tmp_path / "object.npy", np.array([{}], dtype=object), allow_pickle=True)
    (tmp_path / "text.npy").write_text("no array")
    np.save(tmp_path / "table.npy", np.ones((D, 1)))
    np.save(tmp_path / "nothing.npy", np.ones(0))
    np.save(tmp_path / "bool.npy", np.ones(D, dtype=np.bool_))
    for name in ("absent", "nan", "object", "text", "table", "nothing", "bool"):
        with pytest.raises(ConfigError, match=r"QRES-E105 plugins\.zk\.center"):
            plugin(center=str(tmp_path / f"{name}.npy"))
    for name in ("short", "zero"):
        with pytest.raises(ConfigError, match=r"QRES-E105 plugins\.zk\.direction"):
            plugin(direction=str(tmp_path / f"{name}.npy")).round_opened(round_of())


def test_a_reference_of_more_bytes_than_are_read_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "center.npy"
    np.save(path, np.ones(D))
    monkeypatch.setattr("qres_zk.options.MAX_FILE", path.stat().st_size)
    plugin(center=str(path)).round_opened(round_of())
    monkeypatch.setattr("qres_zk.options.MAX_FILE", path.stat().st_size - 1)
    with pytest.raises(ConfigError, match=r"QRES-E105 plugins\.zk\.center.*has more than"):
        plugin(center=str(path))


def test_a_center_and_what_is_near_it_must_be_on_the_grid(tmp_path: Path) -> None:
    edge = np.zeros(D)
    edge[0] = -fixed.LIMIT / UNIT
    np.save(tmp_path / "edge.npy", edge)
    np.save(tmp_path / "beyond.npy", 2 * edge)
    with pytest.raises(CompatibilityError, match=r"QRES-E313 plugins\.zk\.center"):
        plugin(center=str(tmp_path / "beyond.npy")).round_opened(round_of())
    made, vector = plugin(center=str(tmp_path / "edge.npy")), np.zeros(D, dtype=np.int32)
    vector[0] = -fixed.LIMIT
    assert np.array_equal(made.privatize(Update(vector), round_of()).vector, vector)
    vector[0] -= 1  # int32 has it, and the grid has not
    with pytest.raises(ValueRefusedError, match=r"QRES-E510 plugins\.zk\.center"):
        made.privatize(Update(vector), round_of())


@pytest.mark.parametrize(
    "options",
    [
        {"bound": 0.0}, {"bound": float("nan")}, {"bound": "8"}, {"k": 128}, {"k": True},
        {"security": 64}, {"clip": 1}, {"threshold": 1.0},
    ],
)  # fmt: skip
def test_options_out_of_range(options: dict[str, Any]) -> None:
    with pytest.raises(ValueError, match=next(iter(options))):
        Zk(**{"bound": 1.0, **options})


def test_a_bound_below_the_grid_or_beyond_it_is_refused() -> None:
    for bound in (2.0**-17, 3 / UNIT, 2.0**30):
        with pytest.raises(CompatibilityError, match="QRES-E313"):
            plugin(bound=bound).round_opened(round_of())
    finest = plugin(bound=4 / UNIT, clip=False)  # an honest update may have one step
    vector = np.zeros(D, dtype=np.int32)
    vector[3] = 1
    assert np.array_equal(finest.privatize(Update(vector), round_of()).vector, vector)
    with pytest.raises(ValueRefusedError, match="QRES-E510"):
        finest.privatize(Update(2 * vector), round_of())
    most = 8_058_780_891  # the fewest steps of which so many are left for honest updates
    assert honest_bound(most, 256, 128) == MAX_BOUND
    assert NormPolicy(most / UNIT, 256, 128, clip=True).statement(D, 0).bound == MAX_BOUND


# ── sums ──────────────────────────────────────────────────────────────────────────────────────


def revealed(
    sent: Sequence[Contribution],
    groups: Sequence[Sequence[int]],
    true: dict[int, np.ndarray] | None = None,
    visibility: Visibility = Visibility.GROUP,
) -> Updates:
    """What secure aggregation would reveal: sums of vectors, and of blinds, by group."""
    vectors = {n: frame.vector for n, frame in enumerate(sent)} | (true or {})
    sums = np.stack([sum(vectors[n].astype(np.int64) for n in group) for group in groups])
    counts = np.array([len(group) for group in groups], dtype=np.int64)
    blinds = [
        Companion.of(
            [
                sum(column) % ORDER
                for column in zip(
                    *(sent[n].companions["zk"].residues() for n in group), strict=True
                )
            ],
            ORDER,
        )
        for group in groups
    ]
    return Updates(
        np.rint(sums / counts[:, None]).astype(np.int32),
        tuple(ROSTER[group[0]] for group in groups),
        counts,
        visibility,
        members=tuple(tuple(ROSTER[n] for n in group) for group in groups),
        sums=sums,
        companions={"zk": tuple(blinds)},
    )


def lied(updates: Updates, row: int) -> Updates:
    """A member of the row masked another vector than it committed to."""
    assert updates.sums is not None
    sums = updates.sums.copy()
    sums[row, 3] += 100
    return attrs.evolve(updates, sums=sums)


@pytest.fixture(scope="module")
def judge() -> Zk:
    return plugin(ROSTER[8], Visibility.GROUP)


def test_true_sums_pass(judge: Zk, sent: list[Contribution]) -> None:
    for groups in ([range(9)], [range(3), range(3, 6), range(6, 9)], [(0, 1), (2, 5), (3, 4, 6)]):
        updates = revealed(sent, [list(group) for group in groups])
        result = judge.reveal(updates, tuple(sent), round_of())
        assert result.updates is updates
        assert result.against == ()


def test_a_false_sum_is_dropped_and_the_rest_kept(sent: list[Contribution]) -> None:
    updates = lied(revealed(sent, [[0, 1, 2], [3, 4, 5], [6, 7, 8]]), 1)
    result = plugin(visibility=Visibility.GROUP).reveal(updates, tuple(sent), round_of())
    assert result.updates.members == (updates.members[0], updates.members[2])
    assert result.against == ()  # one of three, and nobody knows who


THREE = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
UNEVEN = [[0, 1, 2, 3], [4, 5, 6, 7, 8]]


@pytest.mark.parametrize(
    ("groups", "rows", "quorum", "liars", "aborted"),
    [
        (THREE, [1], 9, 1, False),  # none of the rest lies
        (UNEVEN, [1], 9, 1, False),
        (THREE, [0, 1], 9, 1, True),  # two groups, and one liar
        (THREE, [0, 1], 9, 2, False),
        (UNEVEN, [1], 8, 2, False),  # a liar among 4, as 2 among 8
        (UNEVEN, [1], 9, 2, False),
        (THREE, [1], 6, 0, False),  # the quorum is left
        (THREE, [1], 7, 0, True),
        ([list(range(9))], [0], 5, 1, True),  # nothing is left
        (THREE, [0, 1, 2], 5, 4, True),
    ],
)
def test_groups_are_left_out_unless_none_is_left_or_members_alone_cannot_have_done_it(
    groups: list[list[int]],
    rows: list[int],
    quorum: int,
    liars: int,
    sent: list[Contribution],
    *,
    aborted: bool,
) -> None:
    updates = revealed(sent, groups)
    for row in rows:
        updates = lied(updates, row)
    made, info = plugin(visibility=Visibility.GROUP), round_of(quorum=quorum, byzantine=liars)
    if aborted:
        with pytest.raises(ValueRefusedError, match="QRES-E508"):
            made.reveal(updates, tuple(sent), info)
    else:
        left = tuple(m for row, m in enumerate(updates.members) if row not in rows)
        assert made.reveal(updates, tuple(sent), info).updates.members == left


@pytest.mark.parametrize(
    ("groups", "failing", "liars", "inputs"),
    [
        (UNEVEN, [1], 2, 5),  # one liar among so many is as 2 among 10
        (UNEVEN[:1], [], 2, 10),  # the others' groups were not opened: 2 may be among 4
        (UNEVEN[:1], [], 1, 10),
        (UNEVEN, [1], 1, 4),  # nobody is left that lies
        (THREE, [1], 4, 8),  # 3 of 7.5
    ],
)
@pytest.mark.parametrize("rows", [1, 2])
def test_inputs_count_as_nothing_where_liars_may_be_too_large_a_part_of_a_mean(
    groups: list[list[int]],
    failing: list[int],
    liars: int,
    inputs: int,
    rows: int,
    sent: list[Contribution],
) -> None:
    true = revealed(sent, groups)
    updates = true
    for row in failing:
        updates = lied(updates, row)
    made = plugin(visibility=Visibility.GROUP, rows=rows)
    given = made.reveal(updates, tuple(sent), round_of(quorum=10, byzantine=liars)).updates
    good = [row for row in range(len(true)) if row not in failing]
    assert given.sums is not None
    assert true.sums is not None
    assert np.array_equal(given.sums.sum(axis=0), true.sums[good].sum(axis=0))
    assert int(given.weights.sum()) == max(inputs, sum(map(len, given.members)))
    means = given.sums / given.weights[:, None]
    assert np.array_equal(given.vectors, np.rint(means).astype(np.int32))


def test_a_rule_that_needs_more_rows_gets_the_mean_of_the_others_for_those_that_fail(
    sent: list[Contribution],
) -> None:
    true = revealed(sent, THREE)
    made = plugin(visibility=Visibility.GROUP, rows=3)
    given = made.reveal(lied(true, 1), tuple(sent), round_of(quorum=9)).updates
    mean = (true.vectors[0].astype(np.int64) + true.vectors[2]) // 2
    assert np.array_equal(given.vectors, [true.vectors[0], mean, true.vectors[2]])
    assert given.sums is not None
    assert true.sums is not None
    assert np.array_equal(given.sums, [true.sums[0], 3 * mean, true.sums[2]])
    assert given.members == true.members


def test_no_more_sums_are_replaced_than_are_needed_nor_than_there_are_liars(
    sent: list[Contribution],
) -> None:
    updates = lied(lied(revealed(sent, [[n] for n in range(9)]), 3), 7)
    for rows, liars, expected in ((1, 2, 7), (8, 2, 8), (9, 2, 9), (10, 2, 9), (9, 1, 7)):
        made = plugin(visibility=Visibility.GROUP, rows=rows)
        given = made.reveal(updates, tuple(sent), round_of(byzantine=liars)).updates
        assert len(given) == expected
        for row, members in enumerate(given.members):
            if members == (ROSTER[3],):
                assert not np.array_equal(given.vectors[row], updates.vectors[3])


@pytest.mark.claim("C-zk-13")
@pytest.mark.parametrize(
    "how", ["blinds", "no companion", "member", "absent", "duplicate", "no sums"]
)
def test_a_lying_aggregator_is_caught(how: str, sent: list[Contribution]) -> None:
    updates = revealed(sent, [list(range(8))])
    if how == "blinds":
        other = revealed(sent, [[*range(7), 8]])
        updates = attrs.evolve(updates, companions=other.companions)
    elif how == "no companion":
        updates = attrs.evolve(updates, companions={})
    elif how == "member":
        updates = attrs.evolve(updates, members=(tuple(ROSTER),))
    elif how == "absent":  # the true sum of eight, told as that of nine
        updates, sent = attrs.evolve(updates, members=(tuple(ROSTER),)), sent[:8]
    elif how == "duplicate":
        updates = attrs.evolve(updates, members=(tuple(ROSTER[:7]),))
    else:
        updates = attrs.evolve(updates, sums=None)  # a mean of eight is not their sum
    with pytest.raises(ValueRefusedError, match="QRES-E508"):
        plugin(visibility=Visibility.SUM).reveal(updates, tuple(sent), round_of())


def test_a_row_of_one_that_nobody_could_see_needs_its_opening(sent: list[Contribution]) -> None:
    """It is as that node sent it, and no honest node compared it with what was committed to."""
    updates = Updates(sent[0].vector[None], ROSTER[:1], np.ones(1, dtype=np.int64))
    with pytest.raises(ValueRefusedError, match="QRES-E508"):
        plugin(visibility=Visibility.GROUP).reveal(updates, tuple(sent), round_of(quorum=1))
    seen = plugin().reveal(updates, tuple(sent), round_of(quorum=1))
    assert seen.updates is updates


def test_masked_vectors_are_no_openings(sent: list[Contribution]) -> None:
    masked = attrs.evolve(sent[0], vector=sent[0].vector + 1)
    assert plugin(ROSTER[1], Visibility.GROUP).verify(masked, round_of()) is ACCEPT
    assert plugin(ROSTER[1]).verify(masked, round_of()).reason == LIED


def test_weights(sent: list[Contribution]) -> None:
    weights = [1, 2, 3]
    members = [
        attrs.evolve(frame, weight=weight) for frame, weight in zip(sent, weights, strict=False)
    ]
    vectors = [member.vector.astype(np.int64) * member.weight for member in members]
    blinds = zip(
        *(
            [w * r for r in member.companions["zk"].residues()]
            for member, w in zip(members, weights, strict=True)
        ),
        strict=True,
    )
    updates = Updates(
        np.rint(sum(vectors) / 6).astype(np.int32)[None],
        ROSTER[:1],
        np.array([6]),
        Visibility.SUM,
        members=(ROSTER[:3],),
        sums=np.array(sum(vectors))[None],
        companions={"zk": (Companion.of([sum(blind) % ORDER for blind in blinds], ORDER),)},
    )
    small = round_of(quorum=3)
    assert plugin(visibility=Visibility.SUM).reveal(updates, tuple(members), small).against == ()
    with pytest.raises(ValueRefusedError, match="QRES-E508"):
        plugin(visibility=Visibility.SUM).reveal(updates, tuple(sent), small)


@pytest.mark.claim("C-zk-13")
def test_a_persistent_liar_is_isolated_and_nobody_else(sent: list[Contribution]) -> None:
    """One liar of nine, other groups of three in every round."""
    made = plugin(visibility=Visibility.GROUP)
    rng = np.random.default_rng(4)
    for number in range(1, 30):
        order = rng.permutation(NODES)
        groups = sorted(sorted(int(n) for n in order[k : k + 3]) for k in (0, 3, 6))
        row = next(row for row, group in enumerate(groups) if 4 in group)
        updates = lied(revealed(sent, groups), row)
        result = made.reveal(updates, tuple(sent), round_of(number))
        if result.against:
            assert [(fact.subject, fact.fact) for fact in result.against] == [(ROSTER[4], LIED)]
            assert number <= 6
            return
    pytest.fail("not found")


@pytest.mark.claim("C-zk-20")
def test_single_updates_that_are_not_as_committed_are_dropped_and_blamed(
    sent: list[Contribution],
) -> None:
    """Where single updates are revealed late, a false row names its sender at once."""
    rows = np.stack([frame.vector for frame in sent])
    rows[2, 0] += 5
    updates = Updates(
        rows,
        ROSTER,
        np.ones(NODES, dtype=np.int64),
        companions={"zk": tuple(frame.companions["zk"] for frame in sent)},
    )
    result = plugin().reveal(updates, tuple(sent), round_of())
    assert len(result.updates) == NODES - 1
    assert [fact.subject for fact in result.against] == [ROSTER[2]]


def test_who_lied_in_a_round_without_a_model_is_told_of_and_refused_for_a_while(
    sent: list[Contribution],
) -> None:
    """A node that was restarted proposes the liar: the others must not refuse that for ever."""
    made, restarted = plugin(visibility=Visibility.GROUP), plugin(visibility=Visibility.GROUP)
    updates = lied(revealed(sent, [[0]]), 0)
    with pytest.raises(RevelationError, match="QRES-E508") as caught:
        made.reveal(updates, tuple(sent), round_of())
    assert [found.subject for found in caught.value.against] == [ROSTER[0]]
    assert made.reveal(revealed(sent, [list(range(9))]), tuple(sent), round_of(2)).against == ()
    for number in (2, 1 + REFUSED, 2 + REFUSED):
        info = round_of(number)
        again = [send(plugin(ROSTER[n]), Update(vector(n)), info, ROSTER[n]) for n in (0, 1)]
        accepted = [verdict is ACCEPT for verdict in made.verify_all(tuple(again), info)]
        assert accepted == [number > 1 + REFUSED, True]
        assert restarted.verify_all(tuple(again), info) == [ACCEPT, ACCEPT]


# ── members that change ───────────────────────────────────────────────────────────────────────────

NEWCOMER = bytes([99]) * 32


def test_a_proof_is_bound_to_the_members_of_its_round(sent: list[Contribution]) -> None:
    others = round_of(roster=(*ROSTER, NEWCOMER), quorum=6)
    judge = plugin(ROSTER[3])
    judge.round_opened(others)
    assert judge.verify(sent[0], others).reason == "bad-proof"
    assert judge.verify(sent[0], round_of()) is ACCEPT
    for node in (ROSTER[0], NEWCOMER):
        made = send(plugin(node), Update(vector(1)), others, node)
        assert judge.verify(made, others) is ACCEPT
    fewer = round_of(2, roster=ROSTER[1:])
    made = send(plugin(ROSTER[1]), Update(vector(2)), fewer, ROSTER[1])
    assert judge.verify(made, fewer) is ACCEPT


def test_a_failed_sum_with_a_member_that_left_accuses_nobody_later(
    sent: list[Contribution],
) -> None:
    made = plugin(visibility=Visibility.GROUP)
    groups = [[0, 1], [2, 3, 4, 5, 6, 7, 8]]
    assert made.reveal(lied(revealed(sent, groups), 0), tuple(sent), round_of()).against == ()
    assert made.status()["suspects"] == 2
    made.round_opened(round_of(2, roster=ROSTER[1:]))
    assert made.status()["suspects"] == 0
    second = lied(revealed(sent, [[1, 2], [3, 4, 5, 6, 7, 8]]), 0)
    assert made.reveal(second, tuple(sent[1:]), round_of(2, roster=ROSTER[1:])).against == ()


def test_together_every_contribution_gets_the_verdict_it_gets_alone(
    sent: list[Contribution],
) -> None:
    made = list(sent)
    made[1] = attrs.evolve(made[1], proofs={})
    made[2] = attrs.evolve(made[2], vector=made[2].vector * 2)
    made[4] = attrs.evolve(made[4], proofs=made[5].proofs)
    made[6] = attrs.evolve(made[6], proofs={"zk": b"QZKP"})
    alone = [plugin(ROSTER[3]).verify(item, round_of()) for item in made]
    judge = plugin(ROSTER[3])
    together = judge.verify_all(tuple(made), round_of())
    assert together == alone
    assert [verdict.reason for verdict in together if verdict is not ACCEPT] == [
        "no-proof",
        LIED,
        "bad-proof",
        "malformed-proof",
    ]
    assert judge.status()["proofs_refused"] == 4
    assert judge.verify_all(tuple(sent), round_of()) == [ACCEPT] * NODES


def test_what_is_claimed_names_the_center() -> None:
    assert Zk(bound=1.0).claims.verifies.bounds == "norm at most 1"
    assert (
        Zk(bound=1.0, center="center.npy").claims.verifies.bounds
        == "norm at most 1 around center.npy"
    )
