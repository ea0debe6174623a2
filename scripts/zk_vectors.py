"""Write the test vectors of norm/v1: statements, contexts, challenges and whole bundles.

    python scripts/zk_vectors.py plugins/qres_zk/tests/vectors/norm_v1.json

Proofs are random, so every run writes other bundles; what makes them vectors is that a verifier
must find the same challenges in them, accept them, and refuse them under ``refused_under``.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
from qres_zk import norm
from qres_zk.bundle import ProofBundle
from qres_zk.group import encode, generator, hash_to_group, integers
from qres_zk.pedersen import commit
from qres_zk.statement import Context, NormStatement
from qres_zk.transcript import Transcript

CONTEXT = Context("vectors", b"n" * 32, 7, b"m" * 32, b"r" * 32)
CENTER = np.array([5, -7, 11, 0, 3, -2, 9, 1, -4, 8], dtype=np.int32)
DIRECTION = np.array([100, -32767, 5, 0, 9, -1, 32767, 2, 3, -4], dtype=np.int16)
CASES = {
    "ball": NormStatement(10, 2**16),
    "ball and half-space around a center": NormStatement(
        10, 2**16, scale=-3, center=CENTER, direction=DIRECTION, threshold=-(2**20)
    ),
}


def challenges(statement: NormStatement, bundle: ProofBundle) -> list[list[str]]:
    """Labels and answers in their order, from a verifier's run."""
    found: list[list[str]] = []
    answer = Transcript.challenge

    def noted(self: Transcript, label: str, size: int) -> bytes:
        octets = answer(self, label, size)
        found.append([label, octets[:32].hex()])  # the first bytes name it
        return octets

    Transcript.challenge = noted  # type: ignore[method-assign]
    try:
        norm.prepare(statement, CONTEXT, bundle)
    finally:
        Transcript.challenge = answer  # type: ignore[method-assign]
    return found


def case(name: str, statement: NormStatement) -> dict[str, Any]:
    """One vector."""
    vector = np.array([300, 1, -1, 0, 70, -900, 12, 5, 6, 7], dtype=np.int32)
    commitment, bundle = norm.prove(statement, CONTEXT, commit(statement, vector))
    none: list[int] | None = None
    return {
        "name": name,
        "dimension": statement.dimension,
        "bound": statement.bound,
        "k": statement.k,
        "scale": statement.scale,
        "center": none if statement.center is None else statement.center.tolist(),
        "direction": none if statement.direction is None else statement.direction.tolist(),
        "threshold": statement.threshold,
        "rows": statement.rows,
        "columns": statement.columns,
        "mask_bits": statement.mask_bits,
        "budget": str(statement.budget),
        "parameters": statement.parameters().hex(),
        "reference": statement.reference().hex(),
        "vector": vector.tolist(),
        "blinds": [integer.to_bytes(32, "little").hex() for integer in integers(commitment.blinds)],
        "challenges": challenges(statement, bundle),
        "bundle": bundle.to_bytes().hex(),
    }


def main(target: str) -> None:
    """Write the file."""
    made = {
        "protocol": "qres-zk/norm/v1/ristretto255/shake256/blake3",
        "context": {
            "swarm": CONTEXT.swarm,
            "node": CONTEXT.node.hex(),
            "round": CONTEXT.round,
            "model": CONTEXT.model.hex(),
            "roster": CONTEXT.roster.hex(),
        },
        "generators": {
            "H": encode(generator()).hex(),
            "G0": encode(hash_to_group(b"value")).hex(),
            "G_0..G_2": [encode(hash_to_group(b"vector", n)).hex() for n in range(3)],
        },
        "cases": [case(name, statement) for name, statement in CASES.items()],
        "refused_under": {"round": 8, "swarm": "vector", "node": (b"o" * 32).hex()},
    }
    Path(target).write_text(json.dumps(made, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1])
