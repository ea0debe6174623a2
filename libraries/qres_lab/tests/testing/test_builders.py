"""The builders: what they fill in, and what they refuse as the contract does."""

from __future__ import annotations

import subprocess
import sys

import attrs
import numpy as np
import pytest
from qres_lab.testing import (
    host,
    make_envelope,
    make_node_ids,
    make_node_info,
    make_round_info,
    make_updates,
)

from qres_core import Claims, Updates, hookimpl
from qres_core.errors import LabError, PluginError, ValueRefusedError


def test_node_ids_are_distinct_ascending_and_repeatable() -> None:
    ids = make_node_ids(50)
    assert len(set(ids)) == 50
    assert list(ids) == sorted(ids)
    assert {len(item) for item in ids} == {32}
    assert ids == make_node_ids(50)


def test_updates_are_a_copy() -> None:
    rows = np.array([[1, 2], [3, 4]], dtype=np.int32)
    updates = make_updates(rows)
    rows[0, 0] = 9
    assert updates.vectors.tolist() == [[1, 2], [3, 4]]
    assert updates.weights.tolist() == [1, 1]
    assert rows.flags.writeable


@pytest.mark.parametrize(
    "values", [[[0.5, 1.0]], [[float("nan"), 0.0]], [[float("inf"), 0.0]], [[True, False]]]
)
def test_what_is_not_on_the_grid_never_becomes_updates(values: list[list[float]]) -> None:
    with pytest.raises(ValueRefusedError) as caught:
        make_updates(values)
    assert caught.value.code == "QRES-E503"
    with pytest.raises(ValueRefusedError) as caught:
        Updates(np.array(values), make_node_ids(1), np.ones(1, dtype=np.int64))  # type: ignore[arg-type]
    assert caught.value.code == "QRES-E503"


@pytest.mark.parametrize("value", [2**31, -(2**31) - 1])
def test_integers_beyond_int32_are_not_wrapped(value: int) -> None:
    with pytest.raises(ValueRefusedError) as caught:
        make_updates([[value]])
    assert caught.value.code == "QRES-E503"


@pytest.mark.parametrize(
    ("vectors", "weights", "code"),
    [([1, 2], None, "QRES-E502"), ([[1]], [0], "QRES-E506"), ([[1]], [1, 1], "QRES-E506")],
)
def test_bad_shapes_and_weights_are_refused(
    vectors: list[int], weights: list[int] | None, code: str
) -> None:
    with pytest.raises(ValueRefusedError) as caught:
        make_updates(vectors, weights)
    assert caught.value.code == code


def test_one_roster_for_rounds_nodes_and_messages() -> None:
    info = make_round_info(3, nodes=5, byzantine=1)
    node = make_node_info(nodes=5, index=2, byzantine=1)
    assert info.roster == node.roster
    assert node.node_id == info.roster[2]
    assert info.dimension == 3
    assert make_envelope(sender=node.node_id).sender == node.node_id


def test_host_calls_hooks_with_the_arguments_they_ask_for() -> None:
    @attrs.frozen
    class Counter:
        claims = Claims(tolerates=None)

        @hookimpl
        def aggregate(self, round_info: object) -> object:
            return round_info

    info = make_round_info()
    hook = host(Counter()).hook
    assert hook.aggregate(updates=make_updates([[1]]), round_info=info) == [info]


def test_host_refuses_a_class_without_hooks() -> None:
    @attrs.frozen
    class Empty:
        pass

    with pytest.raises(PluginError) as caught:
        host(Empty())
    assert caught.value.code == "QRES-E206"


def test_without_pytest_the_extra_is_named() -> None:
    program = (
        "import sys\n"
        "import qres_core\n"
        "assert 'pytest' not in sys.modules\n"
        "sys.modules['pytest'] = None\n"
        "import qres_lab.testing\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], capture_output=True, text=True, check=False
    )
    assert done.returncode == 1
    last = done.stderr.strip().splitlines()[-1]
    assert LabError.__name__ in last
    assert "QRES-E802" in last
    assert "pip install pytest" in last
