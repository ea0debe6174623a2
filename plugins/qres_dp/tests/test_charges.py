"""The attacks of the review on the ledger, each with the control that shows what stops it."""

from __future__ import annotations

import hashlib
import shutil
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from qres_dp import Dp
from qres_dp.accounting import gaussian
from qres_dp.ledger import PrivacyLedger, anchor, key, lack
from qres_dp.ledger.store import FILE
from qres_lab.testing import make_node_ids

from qres_core import NodeInfo, OwnContributions, RoundInfo, Update, canonical, vector_digest
from qres_core.errors import RoundError, ValueRefusedError

VECTOR = np.full(50, 700, dtype=np.int32)
ONE_SHOT: dict[str, Any] = {"epsilon": 1.0, "rounds": 1, "delta": 1e-5}
JOURNAL = bytes(range(16))
ROSTER = make_node_ids(7)


def known(rounds: int, height: int = -1) -> OwnContributions:
    return OwnContributions(JOURNAL, rounds, rounds, height)


def records(node: Any) -> list[Any]:
    return list(node.plugin._release.ledger.records)


# ── a rerun ───────────────────────────────────────────────────────────────────────────────────


@pytest.mark.claim("C-dp-9")
@pytest.mark.control("C-dp-9")
def test_a_training_that_runs_again_is_charged_again(
    make_node: Callable[..., Any], tmp_path: Path
) -> None:
    """Ledgers kept, everything else removed: the very round of the first run."""
    first = make_node(data_dir=str(tmp_path), **ONE_SHOT)
    first.send(VECTOR)
    first.plugin.teardown()
    again = make_node(data_dir=str(tmp_path), **ONE_SHOT)
    assert again.info == first.info
    with pytest.raises(ValueRefusedError, match="QRES-E509"):
        again.send(VECTOR)
    again.plugin.teardown()
    # Control: the ledger refused, for with a larger budget the second release is charged in full.
    rich = make_node(data_dir=str(tmp_path), **{**ONE_SHOT, "epsilon": 8.0, "rounds": 4})
    before = rich.plugin.status()["epsilon"]
    for _ in range(2):
        rich.send(VECTOR)
    spent = [record.epsilon for record in records(rich)]
    assert before < spent[1] < spent[2]
    z = [record.charge.noise_multiplier for record in records(rich)]
    exact = gaussian.epsilon(sum(item**-2 for item in z) ** 0.5, 1e-5)
    assert spent[2] >= exact * (1 - 1e-9)
    rich.plugin.teardown()


@pytest.mark.claim("C-dp-9")
def test_a_release_with_less_noise_in_the_same_round_costs_what_it_costs(
    make_node: Callable[..., Any], tmp_path: Path
) -> None:
    usual = make_node(data_dir=str(tmp_path), **ONE_SHOT)
    usual.send(VECTOR)
    usual.plugin.teardown()
    loud = {"epsilon": 1e6, "noise_multiplier": 0.05, "delta": 1e-5, "clip": 10.0}
    less = make_node(data_dir=str(tmp_path), **loud)
    less.send(VECTOR)
    assert less.plugin.status()["epsilon"] > gaussian.epsilon(20.0, 1e-5) > 100
    less.plugin.teardown()


@pytest.mark.claim("C-dp-9")
def test_a_charge_names_all_that_was_released(make_node: Callable[..., Any]) -> None:
    node = make_node(mode="distributed", honest=4)
    node.info = attrs.evolve(node.info, number=9, height=4, head=bytes(range(32)))
    node.contributed = known(0)
    node.plugin.round_opened(node.info, node.contributed)
    sent = [node.send(VECTOR), node.send(VECTOR)]
    charges = [record.charge for record in records(node)]
    assert [charge.content for charge in charges] == [vector_digest(item.vector) for item in sent]
    assert charges[0].content != charges[1].content
    charge = charges[0]
    terms, info = node.plugin._terms, node.info
    mechanism = node.plugin._release.fitted(info)
    assert (charge.swarm, charge.node, charge.journal) == ("lab", ROSTER[0], JOURNAL)
    assert (charge.height, charge.round, charge.head) == (4, 9, bytes(range(32)))
    assert (charge.mode, charge.relation, charge.unit) == ("distributed", "add-remove", "node")
    assert (charge.noise_multiplier, charge.sampling_rate) == (terms.multiplier, 1.0)
    assert (charge.bound, charge.honest, charge.units) == (mechanism.bound, 4, 1)
    assert (charge.scale, charge.dimension, charge.nodes) == (info.scale, 50, 7)
    assert (charge.stream, charge.row) == (b"", 0)


# ── set back, moved, begun anew ───────────────────────────────────────────────────────────────


@pytest.mark.claim("C-dp-10")
@pytest.mark.control("C-dp-10")
@pytest.mark.parametrize(
    ("knows", "moves_on"),
    [
        (known(2), True),
        (known(1, 1), True),
        (OwnContributions(height=1), True),
        (known(2), False),  # a number that nobody heard of is opened again, at the next head
    ],
)
def test_a_ledger_set_back_with_all_its_files_is_refused(
    knows: OwnContributions, make_node: Callable[..., Any], tmp_path: Path, *, moves_on: bool
) -> None:
    home, copy = tmp_path / "home", tmp_path / "copy"
    node = make_node(data_dir=str(home), opened=False)
    for height in range(2):
        node.info = attrs.evolve(node.info, number=height + 1, height=height, step=height)
        node.contributed = known(height, height - 1)
        node.plugin.round_opened(node.info, node.contributed)
        node.send(VECTOR)
        if not height:
            shutil.copytree(home, copy)
    node.plugin.teardown()
    shutil.rmtree(home)
    shutil.copytree(copy, home)
    assert {FILE, anchor.FILE, key.FILE} <= {path.name for path in home.iterdir()}
    back = make_node(data_dir=str(home), opened=False)
    later = attrs.evolve(node.info, number=3, height=2, step=2)
    for _ in range(2):
        with pytest.raises(RoundError, match="QRES-E602"):
            back.plugin.round_opened(later, knows)
        back.info = later
        with pytest.raises(RoundError, match="QRES-E602"):
            back.send(VECTOR)
    back.plugin.teardown()
    # Control: it is journal and chain that know better.
    shutil.rmtree(home)
    shutil.copytree(copy, home)
    back = make_node(data_dir=str(home), opened=False)
    head = bytes(range(32))
    for then in (later, attrs.evolve(later, **({"number": 4} if moves_on else {"head": head}))):
        back.info = then
        back.plugin.round_opened(back.info, known(1, 0))
        if then is later:  # it waits for a round
            with pytest.raises(ValueRefusedError, match=r"QRES-E507 .*the node starts again"):
                back.send(VECTOR)
    back.send(VECTOR)
    assert len(records(back)) == 2
    back.plugin.teardown()


def test_new_ledger_does_not_make_a_known_node_new(
    make_node: Callable[..., Any], tmp_path: Path
) -> None:
    node = make_node(data_dir=str(tmp_path), opened=False, new_ledger=True)
    later = attrs.evolve(node.info, number=6, height=5, step=5)
    with pytest.raises(RoundError, match="at height 3, and the ledger knows of none"):
        node.plugin.round_opened(later, OwnContributions(height=3))
    node.plugin.teardown()
    # Control: one that is new in the swarm may begin.
    node = make_node(data_dir=str(tmp_path / "new"), opened=False, new_ledger=True)
    node.plugin.round_opened(later, OwnContributions())
    node.plugin.teardown()


@pytest.mark.parametrize("durable", [1, 0])
def test_what_a_ledger_lacks_is_not_forgotten_when_the_chain_forgets_it(
    durable: int, make_node: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The chain names a contribution for eight sets. The ledger lacks it for ever."""
    home = str(tmp_path / "home") if durable else None
    node = make_node(data_dir=home)
    told, forgot = OwnContributions(height=3, silent_since=4), OwnContributions(silent_since=12)
    later = attrs.evolve(node.info, number=5, height=4, step=4)
    with pytest.raises(RoundError, match="at height 3, and the ledger knows of none"):
        node.plugin.round_opened(later, told)
    node.info = attrs.evolve(later, number=21, height=20, step=20)
    for _ in range(2):
        with pytest.raises(RoundError, match="at height 3, and the ledger knows of none"):
            node.plugin.round_opened(node.info, forgot)
        with pytest.raises(RoundError, match="QRES-E602"):
            node.send(VECTOR)
        if durable:  # nor by a restart
            node.plugin.teardown()
            node = make_node(data_dir=home, opened=False)
            node.info = attrs.evolve(later, number=21, height=20, step=20)
    # With the ledger that was charged it is over.
    charge = node.plugin._terms.charge
    mechanism, by = node.plugin._release.fitted(later), node.plugin._release.by
    ledger = node.plugin._release.ledger
    missing = charge(mechanism, attrs.evolve(later, number=4, height=3), by)
    ledger.charge(missing, node.plugin._terms.budget)
    for _ in range(2):
        node.plugin.round_opened(node.info, forgot)
        node.send(VECTOR)
    if durable:
        assert not (tmp_path / "home" / lack.FILE).exists()
    node.plugin.teardown()
    # The control: a node that does not remember it goes on when the chain has forgotten it.
    monkeypatch.setattr(lack.Lack, "_note", lambda *_arguments: None)
    node = make_node(new_ledger=True)
    with pytest.raises(RoundError, match="QRES-E602"):
        node.plugin.round_opened(later, told)
    node.plugin.round_opened(node.info, forgot)
    node.send(VECTOR)
    node.plugin.teardown()


@pytest.mark.parametrize("octets", [b"", b"x" * 2000, canonical.dumps([1]), canonical.dumps(7)])
def test_a_damaged_file_of_what_a_ledger_lacks_is_refused(octets: bytes, tmp_path: Path) -> None:
    (tmp_path / lack.FILE).write_bytes(octets)
    with pytest.raises(RoundError, match=r"QRES-E602 .*lacks: the file is damaged"):
        lack.Lack(tmp_path)


@pytest.mark.parametrize("early", [0, 1])
def test_a_node_that_lost_its_folder_is_not_new_because_the_chain_forgot_it(
    early: int, make_node: Callable[..., Any], tmp_path: Path
) -> None:
    """It was away for long. It begins at height 0, and then hears where the swarm is.

    With ``early`` it contributes before that, and has a charge: of a height that is long over.
    """
    node = make_node(data_dir=str(tmp_path / "first"))
    node.send(VECTOR)
    node.plugin.teardown()
    shutil.rmtree(tmp_path / "first")
    for options, silent, is_refused in (
        ({}, 42, True),  # no set since height 42 has a contribution of it; nobody tells of before
        ({}, 0, False),  # control: the chain tells of all heights, and of no contribution
        ({"new_ledger": True}, 42, False),  # control: its operator says that it is new
    ):
        folder = tmp_path / f"{silent}-{is_refused}"
        again = make_node(data_dir=str(folder), **options)
        if early:
            again.send(VECTOR)
        for height in (50, 51):
            again.info = attrs.evolve(again.info, number=height + 1, height=height, step=height)
            told = OwnContributions(silent_since=silent and silent + height - 50)
            again.plugin.round_opened(again.info, told)
            if is_refused:
                with pytest.raises(RoundError, match=r"QRES-E602 plugins\.dp\.ledger.*before 4"):
                    again.send(VECTOR)
            else:
                again.send(VECTOR)
        assert len(records(again)) == early + (0 if is_refused else 2)
        again.plugin.teardown()


def test_a_node_that_is_new_may_wait_as_long_as_it_hears_of_every_height(
    make_node: Callable[..., Any], tmp_path: Path
) -> None:
    node = make_node(data_dir=str(tmp_path))
    for height in range(1, 30):
        node.info = attrs.evolve(node.info, number=height + 1, height=height, step=height)
        told = OwnContributions(silent_since=max(0, height - 8))
        node.plugin.round_opened(node.info, told)
    node.send(VECTOR)
    # From here on the chain names what it contributed, and so it may be away for long too.
    node.info = attrs.evolve(node.info, number=31, height=30, step=30)
    node.plugin.round_opened(node.info, OwnContributions(height=29, silent_since=30))
    node.info = attrs.evolve(node.info, number=91, height=90, step=90)
    node.plugin.round_opened(node.info, OwnContributions(silent_since=82))
    node.send(VECTOR)
    node.plugin.teardown()


def test_a_charge_of_an_earlier_training_is_not_that_of_this_one(
    make_node: Callable[..., Any], tmp_path: Path
) -> None:
    """The heights and rounds of a training that begins anew are those of the first."""
    node = make_node(data_dir=str(tmp_path))
    heads = [bytes([7]) * 32, bytes([8]) * 32]
    node.info = attrs.evolve(node.info, number=2, height=1, step=1, head=heads[0])
    node.plugin.round_opened(node.info, OwnContributions())
    node.send(VECTOR)
    later = attrs.evolve(node.info, number=3, height=2, step=2, head=bytes(32))
    told = OwnContributions(height=1, decided_round=2, decided_head=heads[1], silent_since=2)
    # Control: that height and that round are charged, of the head that they were of.
    node.plugin.round_opened(later, attrs.evolve(told, decided_head=heads[0]))
    with pytest.raises(RoundError, match=r"at height 1, and the ledger knows of none in round 2"):
        node.plugin.round_opened(later, told)
    node.plugin.teardown()


def test_a_ledger_of_a_data_set_outlives_the_nodes_folder(
    make_node: Callable[..., Any], tmp_path: Path
) -> None:
    """The folder is removed while the model is the first one still, so nobody else knows of it."""
    home = tmp_path / "home"
    for dataset, left in (("", 0), (str(tmp_path / "data"), 1)):
        node = make_node(data_dir=str(home), dataset=dataset, **ONE_SHOT)
        node.send(VECTOR)
        node.plugin.teardown()
        shutil.rmtree(home, ignore_errors=True)
        again = make_node(data_dir=str(home), dataset=dataset, **ONE_SHOT)
        assert again.plugin.status()["releases"] == left
        if dataset:
            with pytest.raises(ValueRefusedError, match="QRES-E509"):
                again.send(VECTOR)
        again.plugin.teardown()
        shutil.rmtree(home, ignore_errors=True)


# ── a second name ─────────────────────────────────────────────────────────────────────────────


def named(swarm: str, index: int, folder: Path, **options: Any) -> tuple[Dp, RoundInfo]:
    plugin = Dp(**{"mode": "local", "clip": 0.01, **ONE_SHOT, **options})
    home = folder / f"{swarm}-{index}"
    plugin.setup(NodeInfo(ROSTER[index], swarm, ROSTER, data_dir=str(home)))
    info = RoundInfo(swarm, 1, bytes(32), 50, -4, ROSTER, 7)
    plugin.round_opened(info, OwnContributions())
    return plugin, info


@pytest.mark.claim("C-dp-11")
@pytest.mark.control("C-dp-11")
def test_swarms_and_nodes_with_the_same_data_share_one_budget(tmp_path: Path) -> None:
    dataset = str(tmp_path / "data")
    plugins = [
        named(swarm, index, tmp_path, dataset=dataset)
        for swarm, index in (("one", 0), ("two", 0), ("one", 3))
    ]
    plugins[0][0].privatize(Update(VECTOR), plugins[0][1])
    for plugin, info in plugins[1:]:
        with pytest.raises(ValueRefusedError, match="QRES-E509"):
            plugin.privatize(Update(VECTOR), info)
        plugin.round_opened(attrs.evolve(info, number=2), OwnContributions())
        assert plugin.status()["epsilon"] > 0.99
        plugin.teardown()
    plugins[0][0].teardown()
    owner, entries = PrivacyLedger.read(Path(dataset))
    assert (owner.swarm, owner.node, len(entries)) == ("", b"", 1)
    # Control: without the data set's ledger a second name is a second budget.
    for swarm in ("one", "two"):
        plugin, info = named(swarm, 0, tmp_path / "apart")
        plugin.privatize(Update(VECTOR), info)
        plugin.teardown()


def test_one_data_set_is_in_a_sum_once(tmp_path: Path) -> None:
    """Two nodes would move the sum by 2 C, and two charges pay for two sums of C each."""
    options = {"mode": "distributed", "honest": 4, "dataset": str(tmp_path / "data")}
    options |= {"epsilon": 8.0, "rounds": 20, "noise_multiplier": 0.0}
    (first, info), (second, _info) = (named("one", index, tmp_path, **options) for index in (0, 3))
    first.privatize(Update(VECTOR), info)
    again = attrs.evolve(info, number=2)
    for opened in (info, again):
        second.round_opened(opened, OwnContributions())
        with pytest.raises(
            ValueRefusedError, match=r"QRES-E507 plugins\.dp\.dataset.*one sum twice"
        ):
            second.privatize(Update(VECTOR), opened)
    first.round_opened(again, OwnContributions())
    first.privatize(Update(VECTOR), again)  # its own next attempt is another release of one node
    later = attrs.evolve(info, number=3, height=1, head=b"2" * 32)
    second.round_opened(later, OwnContributions())
    second.privatize(Update(VECTOR), later)
    # In mode local each node's release has noise enough for its own part, and charges add up.
    options |= {"mode": "local", "honest": 0, "dataset": str(tmp_path / "other")}
    nodes = [named("two", index, tmp_path, **options) for index in (0, 3)]
    for plugin, opened in nodes:
        plugin.round_opened(opened, OwnContributions())
        plugin.privatize(Update(VECTOR), opened)
    for plugin in (first, second, *(plugin for plugin, _info in nodes)):
        plugin.teardown()


def test_nodes_that_begin_at_once_begin_one_ledger(tmp_path: Path) -> None:
    dataset = str(tmp_path / "data")
    options = {"mode": "local", "clip": 0.01, "dataset": dataset, **ONE_SHOT}
    plugins = [Dp(**options), Dp(**options)]
    for index, plugin in enumerate(plugins):
        home = str(tmp_path / str(index))
        plugin.setup(NodeInfo(ROSTER[index], "lab", ROSTER, data_dir=home))
    info = RoundInfo("lab", 1, bytes(32), 50, -4, ROSTER, 7)
    for plugin in plugins:
        plugin.round_opened(info, OwnContributions())
        assert plugin.status()["ledger"] == "on disk"
    plugins[0].privatize(Update(VECTOR), info)
    with pytest.raises(ValueRefusedError, match="QRES-E509"):
        plugins[1].privatize(Update(VECTOR), info)
    for plugin in plugins:
        plugin.teardown()


def test_a_data_set_keeps_one_relation(tmp_path: Path) -> None:
    dataset = str(tmp_path / "data")
    named("one", 0, tmp_path, dataset=dataset)[0].teardown()
    with pytest.raises(RoundError, match="kept for replace-one neighbours and the unit node"):
        named("two", 0, tmp_path, dataset=dataset, mode="distributed", honest=4)


def test_the_folder_of_a_data_set_is_the_same_whatever_the_working_directory(
    tmp_path: Path,
) -> None:
    with pytest.raises(ValueError, match="dataset: must be an absolute path, or empty"):
        named("one", 0, tmp_path, dataset="data")


@pytest.mark.control("C-dp-25")
def test_what_may_not_be_kept_is_kept_in_memory_and_says_so() -> None:
    plugin = Dp(mode="local", clip=0.01, dataset="/nowhere/at/all", **ONE_SHOT)
    plugin.setup(NodeInfo(ROSTER[0], "lab", ROSTER))
    assert plugin.status()["ledger"] == "in memory"
    assert plugin.claims.needs.folder


def contributed(index: int, training: bytes, folder: Path) -> list[int]:
    """At which of four heights a node with the data set contributes, in a training."""
    options = {"mode": "distributed", "honest": 4, "dataset": str(folder / "data")}
    options |= {"epsilon": 8.0, "rounds": 40, "noise_multiplier": 0.0}
    plugin, info = named("one", index, folder / training.decode(), **options)
    done: list[int] = []
    for height in range(4):
        head = hashlib.sha256(training + bytes([height])).digest()
        opened = attrs.evolve(info, number=height + 1, height=height, step=height, head=head)
        plugin.round_opened(opened, OwnContributions())
        with suppress(ValueRefusedError):
            plugin.privatize(Update(VECTOR), opened)
            done.append(height)
    plugin.teardown()
    return done


@pytest.mark.claim("C-dp-11")
def test_a_new_key_on_a_data_set_contributes_to_a_training_that_begins_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No sum of the training before is one of the new training; each run of Flower begins at 0."""
    assert contributed(0, b"first", tmp_path) == [0, 1, 2, 3]
    assert contributed(3, b"second", tmp_path) == [0, 1, 2, 3]
    # In the very sums that the other node was charged for, the data would be twice.
    assert contributed(0, b"second", tmp_path) == []
    # The control: heights in place of sums keep one of them out of the next training.
    monkeypatch.setattr("qres_dp.ledger._sum_of", lambda charge: (charge.swarm, charge.height))
    assert contributed(0, b"third", tmp_path) == []
