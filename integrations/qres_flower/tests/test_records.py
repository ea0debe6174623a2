"""Records as bytes, arrays of every type, and random choices: what both ways round rest on."""

from __future__ import annotations

import random
import sys
from contextlib import contextmanager
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is not installed")
from flwr.app import Array, ArrayRecord, ConfigRecord, MetricRecord, RecordDict
from qres_flower import keeping
from qres_flower.border import imported
from qres_flower.draws import drawn_by, seed_of
from qres_flower.first import SilentGrid, _Enough
from qres_flower.shapes import ArrayShapes

from qres_core.errors import QresError


def records() -> RecordDict:
    return RecordDict(
        {
            "arrays": ArrayRecord({"a": Array(np.arange(6.0).reshape(2, 3))}),
            "figures": MetricRecord({"whole": -(2**40), "real": 0.1, "many": [1, 2]}),
            "settings": ConfigRecord({"text": "é", "raw": b"\x00", "flag": True, "list": ["a"]}),
        }
    )


def test_records_come_back_as_they_were() -> None:
    found = keeping.unpack(keeping.pack(records()))
    assert found == records()
    assert type(found["settings"]["flag"]) is bool
    assert found["arrays"]["a"].numpy().shape == (2, 3)


def test_what_is_no_record_is_refused() -> None:
    with pytest.raises(QresError, match=r"QRES-E503 context\.state: holds a int under 'x'"):
        keeping.pack({"x": 1})


@pytest.mark.parametrize(
    ("old", "new"),
    [(b"MetricRecord", b"MetricRecorx"), (b"dreal", b"dreel"), (b"gfigures", b"gsettings")],
)
def test_bytes_that_hold_no_records_are_refused(old: bytes, new: bytes) -> None:
    whole = keeping.pack(records())
    assert old in whole
    with pytest.raises(QresError, match=r"QRES-E503 context\.state: is not what"):
        keeping.unpack(whole.replace(old, new))
    with pytest.raises(QresError, match="QRES-E503"):
        keeping.unpack(whole[:-1])


@pytest.mark.parametrize("kind", ["f2", "f4", "f8", "i1", "u1", "i4", "u8", "i8", "?"])
@pytest.mark.parametrize("shape", [(), (0,), (3,), (2, 1, 2)])
def test_arrays_of_every_type_and_shape_come_back(kind: str, shape: tuple[int, ...]) -> None:
    drawn = np.random.default_rng(1).integers(0, 2, shape)
    given = {"x": np.asarray(drawn, dtype=kind), "more": np.ones(1)}
    record = ArrayRecord({name: Array(each) for name, each in given.items()})
    shapes = ArrayShapes.of(record)
    found = shapes.record(shapes.numbers(record))
    for name, each in given.items():
        back = found[name].numpy()
        assert back.dtype == each.dtype
        assert back.shape == each.shape
        assert np.array_equal(back, each)


def test_whole_numbers_are_rounded_and_held_within_their_type() -> None:
    record = ArrayRecord({"x": Array(np.zeros(3, np.uint8)), "y": Array(np.zeros(2, bool))})
    found = ArrayShapes.of(record).record(np.array([-3.0, 2.5, 300.0, 0.49, 0.5]))
    assert found["x"].numpy().tolist() == [0, 2, 255]
    assert found["y"].numpy().tolist() == [False, True]


def test_an_array_of_another_serialisation_is_refused_by_name() -> None:
    array = Array(dtype="float32", shape=(1,), stype="pickle", data=b"x")
    with pytest.raises(QresError, match=r"QRES-E503 arrays\['x'\]: cannot be read: TypeError"):
        ArrayShapes.of({"x": array})


def test_generators_are_seeded_and_put_back_that_of_torch_too(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    told: list[Any] = []

    @contextmanager
    def forked() -> Any:
        told.append("forked")
        yield
        told.append("back")

    fake = SimpleNamespace(random=SimpleNamespace(fork_rng=forked), manual_seed=told.append)
    monkeypatch.setitem(sys.modules, "torch", fake)
    before = random.getstate(), np.random.get_state()[1].copy()  # noqa: NPY002 - apps use it
    seed = seed_of(1, 2, 3)
    with drawn_by(seed):
        first = random.random(), np.random.rand()  # noqa: NPY002 - as above
    with drawn_by(seed):
        assert (random.random(), np.random.rand()) == first  # noqa: NPY002 - as above
    assert told == ["forked", seed, "back"] * 2
    assert random.getstate() == before[0]
    assert np.array_equal(np.random.get_state()[1], before[1])  # noqa: NPY002 - as above
    assert len({seed_of(1, 2, 3), seed_of(1, 2, 4), seed_of(2, 2, 3), seed_of(1, 3, 3)}) == 4


def test_a_silent_grid_takes_a_run_and_gives_up_after_a_while() -> None:
    grid = SilentGrid(2)
    grid.set_run(SimpleNamespace(run_id=5))
    assert grid.run.run_id == 5
    asked = 0
    with pytest.raises(_Enough):  # no `except Exception` of an app stops it
        asked = sum(1 for _ in iter(lambda: grid.pull_messages([]), None))
    assert not asked
    assert not issubclass(_Enough, Exception)


def test_a_module_that_is_missing_is_named() -> None:
    with pytest.raises(QresError, match="QRES-E802 qres-flower: flwr_gone cannot be imported"):
        imported("flwr_gone")
