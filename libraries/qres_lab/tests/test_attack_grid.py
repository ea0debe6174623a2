"""The benchmark of rules against attacks: what was played is not played again."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from types import ModuleType

import pytest

FILE = Path(__file__).parents[3] / "benchmarks" / "attack_grid.py"


@pytest.fixture(scope="module")
def grid() -> ModuleType:
    pytest.importorskip("sklearn")
    spec = importlib.util.spec_from_file_location("attack_grid", FILE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules["attack_grid"] = module  # attrs looks its classes' modules up
    spec.loader.exec_module(module)
    return module


def test_a_run_that_was_stopped_goes_on_and_plays_no_cell_twice(
    grid: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    options = grid.options_of(["--data", "digits", "--gammas", "0.33", "--seeds", "1,2"])
    cells = list(grid.plan(options))
    assert len(set(cells)) == len(cells)
    assert [cell.rule for cell in cells[:2]] == [grid.RECOMMENDED] * 2
    assert [cell.seed for cell in cells] == sorted(cell.seed for cell in cells)
    played: list[object] = []

    def play(cell: object) -> object:
        played.append(cell)
        if len(played) == 3:
            raise KeyboardInterrupt
        return grid.Found(0.5, 0.25, 0.0, 60)

    monkeypatch.setattr(grid, "play", play)
    kept = tmp_path / "cells.jsonl"
    with pytest.raises(KeyboardInterrupt):
        grid.play_all(cells[:4], kept)
    with kept.open("a", encoding="utf-8") as file:
        file.write('{"cell": {"data": "dig')  # stopped while it wrote
    found = grid.play_all(cells[:4], kept)
    assert list(found) == cells[:4]
    assert played == [*cells[:3], *cells[2:4]]
    assert list(grid.kept(kept)) == cells[:4]


def test_a_row_says_the_worst_of_what_was_played_and_how_much_that_is(grid: ModuleType) -> None:
    def cell(attack: str, rule: str = grid.FITTED) -> object:
        return grid.Cell("digits", 0.33, 4, rule, attack, 11, 60)

    cells = {
        cell("none"): grid.Found(0.9, 0.0, 0.1, 60, worst_class=0.8),
        cell("foe"): grid.Found(0.7, 0.3, 0.2, 60, worst_class=0.5),
        cell("mirror"): grid.Found(0.8, 0.5, 0.9, 60, worst_class=0.25),
        cell("none", grid.ALONE): grid.Found(0.75, 0.0, 0.0, 0, worst_class=0.6),
    }
    made = grid.table(cells)
    assert "| 0.90 | 0.70 `foe` | 50% | - (10%) | 0.25 (0.80) | 2, 1 |" in made
    assert "| 0.75 | - | - | - (0%) | - (0.60) | 0, 1 |" in made
    cells[cell("backdoor_aside")] = grid.Found(0.9, 0.0, 0.4, 60)  # kept by an older version
    assert "| 0.90 | 0.70 `foe` | 50% | 40% (10%) | 0.25 (0.80) | 3, 1 |" in grid.table(cells)
    assert "| `foe` | 0.70; 0.50; 30%; 20% |" in grid.details(cells, grid.FITTED)
    few = grid.Cell("digits", 1.0, 2, grid.RECOMMENDED, "none", 11, 60, honest=8)
    judged = {few: grid.Found(0.9, 0.0, 0.1, 60)}
    judged[grid.attrs.evolve(few, attack="foe")] = grid.Found(0.5, 0.0, 0.1, 60)
    many = {grid.attrs.evolve(cell, f=3): found for cell, found in judged.items()}
    assert [item.name for item in grid.records(judged) if item.target and not item.holds]
    assert not [item for item in grid.records(many) if item.target]  # more than a fifth lie
    missed = [item.name for item in grid.records(cells) if item.target and not item.holds]
    assert [name.rpartition(", ")[2] for name in missed] == [
        "of no attack",
        "less held-out examples alone",
    ]
