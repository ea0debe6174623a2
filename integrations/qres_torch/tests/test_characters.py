"""The small form of the transformer on characters, and of LoRA on top of it."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import pytest

pytest.importorskip("torch", reason="PyTorch is not installed")

from qres_core.errors import QresError

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "characters.py"


def script() -> Any:
    spec = importlib.util.spec_from_file_location("characters", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_nodes_learn_to_write_and_lora_adapts_what_they_learnt() -> None:
    characters = script()
    report = characters.main(["--quick", "--json"])
    assert len(report["whole"]) == len(report["lora"]) == 4
    assert report["whole"][0] > 6.0  # of 97 characters: 6.6 bits where nothing is known
    assert report["whole"][-1] < report["whole"][0] - 1.0
    assert report["lora"][-1] < report["lora"][0] - 0.1
    assert report["lora_parameters"] == 2 * 2 * 2 * 32
    full = characters.main(["--sizes"])
    assert full["parameters"] > 5_000_000
    assert full["received_mb"] > 90 * full["lora_received_mb"]


def test_what_was_kept_is_not_trained_again(tmp_path: Path) -> None:
    characters = script()
    words = ["--quick", "--json", "--steps", "2", "--rounds", "2", "--keep", str(tmp_path)]
    report = characters.main(words)
    diaries = {path.name: path.read_text() for path in tmp_path.glob("*.jsonl")}
    assert [len(text.splitlines()) for text in diaries.values()] == [3, 3]
    again = characters.main(words)
    assert {**again, "peak_mb": 0} == {**report, "peak_mb": 0}
    assert {path.name: path.read_text() for path in tmp_path.glob("*.jsonl")} == diaries
    assert 1 < report["times_fewer"] < 4, "packed without loss"


def test_few_bits_without_the_plugin_are_refused_by_its_name() -> None:
    characters = script()
    if importlib.util.find_spec("qres_quantize") is not None:
        pytest.skip("qres-quantize is installed")
    with pytest.raises(QresError, match="quantize"):
        characters.main(["--quick", "--json", "--bits", "4"])
