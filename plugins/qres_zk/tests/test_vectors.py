"""The published test vectors: whoever implements norm/v1 must find the same."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import attrs
import numpy as np
import pytest
from qres_zk import norm
from qres_zk.aggregate import opens
from qres_zk.bundle import ProofBundle
from qres_zk.group import encode, generator, hash_to_group
from qres_zk.statement import PROTOCOL, Context, NormStatement
from qres_zk.transcript import Transcript

from qres_core import WireError

FILE = Path(__file__).parent / "vectors" / "norm_v1.json"
VECTORS: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
WHERE = VECTORS["context"]
CONTEXT = Context(
    WHERE["swarm"],
    bytes.fromhex(WHERE["node"]),
    WHERE["round"],
    bytes.fromhex(WHERE["model"]),
    bytes.fromhex(WHERE["roster"]),
)


def statement_of(case: dict[str, Any]) -> NormStatement:
    center, direction = case["center"], case["direction"]
    return NormStatement(
        case["dimension"],
        case["bound"],
        case["k"],
        case["scale"],
        center=None if center is None else np.array(center, dtype=np.int32),
        direction=None if direction is None else np.array(direction, dtype=np.int16),
        threshold=case["threshold"],
    )


def test_protocol_and_generators() -> None:
    assert VECTORS["protocol"].encode() == PROTOCOL
    points = VECTORS["generators"]
    assert points["H"] == encode(generator()).hex()
    assert points["G0"] == encode(hash_to_group(b"value")).hex()
    assert points["G_0..G_2"] == [encode(hash_to_group(b"vector", n)).hex() for n in range(3)]


@pytest.mark.parametrize("case", VECTORS["cases"], ids=lambda case: case["name"])
def test_cases(case: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    statement = statement_of(case)
    numbers = (statement.rows, statement.columns, statement.mask_bits, str(statement.budget))
    assert numbers == (case["rows"], case["columns"], case["mask_bits"], case["budget"])
    assert statement.parameters().hex() == case["parameters"]
    assert statement.reference().hex() == case["reference"]

    found: list[list[str]] = []
    challenge = Transcript.challenge

    def noted(self: Transcript, label: str, size: int) -> bytes:
        octets = challenge(self, label, size)
        found.append([label, octets[:32].hex()])  # the first bytes name it
        return octets

    bundle = ProofBundle.from_bytes(bytes.fromhex(case["bundle"]), statement)
    monkeypatch.setattr(Transcript, "challenge", noted)
    norm.verify(statement, CONTEXT, bundle)
    assert found == case["challenges"]

    blinds = [int.from_bytes(bytes.fromhex(blind), "little") for blind in case["blinds"]]
    rows = [bundle.points[: statement.rows]]
    assert opens(statement, rows, np.array(case["vector"]), blinds)
    for name, value in VECTORS["refused_under"].items():
        other = bytes.fromhex(value) if name == "node" else value
        with pytest.raises(WireError):
            norm.verify(statement, attrs.evolve(CONTEXT, **{name: other}), bundle)
