"""The table over networks: what its figures mean, and that no cell is measured twice."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import attrs
import network_table as table
import pytest
from trials.routed import unavailable


def measured(**changes: Any) -> Any:
    figures = {
        "models": 3,
        "seconds": 12.34,
        "over": 1.056,
        "failed": 2,
        "aborted": 1,
        "sent": 50.0,
        "late": 0.01,
        "took": 60.0,
        "load": 1.0,
    }
    return table.CellCost(**{**figures, **changes})


def test_plain_updates_and_their_time_on_a_line() -> None:
    cell = table.NetworkCell(5, 10**6, 200, 20, 2)
    assert cell.plain == 16_000_000  # 4 MB to each of four others
    assert cell.ideal == pytest.approx(6.4)
    assert cell.deadline == table.LEAST_DEADLINE
    assert attrs.evolve(cell, dimension=10**7).deadline == pytest.approx(4 * 64.0)
    assert (cell.mtu, attrs.evolve(cell, loss=0).mtu) == (1500, 9000)


def test_a_cell_without_a_model_is_told_so() -> None:
    cell = table.NetworkCell(5, 10**4, 20, 10, 0)
    assert table.row(cell, measured())[4:] == ("12.3", "0.1", "1.06", "2", "1", "3", "10 ms", "1")
    none = measured(models=0, seconds=None, over=None)
    assert table.row(cell, none)[4:7] == ("none in 60", "0.1", "(50 MB a node)")
    lines = table.text([table.row(cell, none)]).splitlines()
    assert len({line.count("|") for line in lines}) == 1


def test_cells_that_a_file_has_are_not_measured_again(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    tried: list[Any] = []

    def measure(cell: Any, *_rest: Any) -> Any:
        if len(tried) == 3:
            raise KeyboardInterrupt
        tried.append(cell)
        return measured(seconds=None, over=None, models=0) if cell.loss else measured()

    path = tmp_path / "table.json"
    words = ["--json", str(path), "--dimensions", "10", "100", "--mbits", "10"]
    monkeypatch.setattr(table, "measure", measure)
    monkeypatch.setattr(sys, "argv", ["network_table.py", *words, "--milliseconds", "20"])
    with pytest.raises(KeyboardInterrupt):  # in the fourth cell
        table.main()
    kept, tried[:] = list(tried), []
    assert table.main() == 1  # some made no model
    assert len(kept) == 3
    assert len(tried) == 1
    assert not {*kept} & {*tried}
    tried.clear()
    assert table.main() == 1
    assert not tried
    assert capsys.readouterr().out.count("none in 60") > 0
    path.write_text('[{"cell": {}}]', encoding="utf-8")
    assert table.main() == 2
    assert "holds no table" in capsys.readouterr().err


@pytest.mark.long
def test_a_cell_is_measured_over_a_shaped_network(tmp_path: Path) -> None:
    if why := unavailable():
        pytest.skip(why)
    pytest.importorskip("qres_transport_libp2p")
    # 20,000 parameters at 2 Mbit/s each way: a model takes at least its plain updates.
    cell = table.NetworkCell(3, 20_000, 40, 2, 0)
    found = table.measure(cell, 1, 600.0, tmp_path / "box")
    assert found.models >= 1
    assert found.over > 0
    # All need all updates: no less was sent for each model and the first, and no faster.
    models = found.models + 1
    assert found.sent * 1e6 > 0.8 * cell.plain * models
    assert found.took > 0.8 * cell.ideal * models
