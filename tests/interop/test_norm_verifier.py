"""A second verifier of norm/v2, in JavaScript and written from the specification alone.

``norm_verifier/check.mjs`` holds it against the test vectors, changed proofs and random bytes.
"""

from __future__ import annotations

import base64
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

pytestmark = pytest.mark.interop

HERE = Path(__file__).parent / "norm_verifier"
VECTORS = HERE / "vectors"
SECONDS = 3000.0
"""How long it may take on a machine that is busy with other things."""


def _check(node: str, folder: Path) -> subprocess.CompletedProcess[str]:
    command = [node, str(HERE / "check.mjs"), str(folder)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=SECONDS)


def _read(file: str) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((VECTORS / file).read_text(encoding="utf-8"))
    return read


@pytest.mark.claim("C-zk-10")
def test_it_accepts_the_proofs_that_hold_and_refuses_the_others(
    verifier_node: str, capsys: pytest.CaptureFixture[str]
) -> None:
    holds, forgeries = (len(_read(file)["cases"]) for file in ("accepted.json", "refused.json"))
    assert holds >= 10
    assert forgeries >= 103
    run = _check(verifier_node, VECTORS)
    with capsys.disabled():
        print("\n" + run.stdout)  # noqa: T201 - `make interop` shows which check refused what
    assert not run.returncode, run.stdout + run.stderr
    assert f"accepted: {holds} of {holds} proofs that hold" in run.stdout
    assert f"refused: {forgeries} of {forgeries} forgeries" in run.stdout
    assert f"refused: {50 * holds} of {50 * holds} proofs with one bit changed" in run.stdout
    assert "refused: 10 of 10 random byte strings" in run.stdout


@pytest.mark.control("C-zk-10")
def test_a_forgery_among_the_proofs_is_noticed_and_a_proof_among_the_forgeries(
    verifier_node: str, tmp_path: Path
) -> None:
    accepted, refused = _read("accepted.json"), _read("refused.json")
    proof = next(case for case in accepted["cases"] if case["name"] == "ball")
    forgery = bytearray(base64.b64decode(proof["bundle"]))
    forgery[-32] ^= 1
    spoiled = {**proof, "name": "spoiled", "bundle": base64.b64encode(forgery).decode()}
    kept = {key: proof[key] for key in ("statement", "context", "bundle")}
    lie = {**kept, "name": "no forgery", "fails": ["5"]}
    for file, read, cases in (
        ("accepted.json", accepted, [proof, spoiled]),
        ("refused.json", refused, [lie]),
    ):
        (tmp_path / file).write_text(json.dumps({**read, "cases": cases}), encoding="utf-8")
    run = _check(verifier_node, tmp_path)
    assert run.returncode == 1, run.stdout + run.stderr
    assert 'SURPRISE: spoiled: failed checks: ["2","5"], expected []' in run.stdout
    assert 'SURPRISE: no forgery: failed checks: [], expected ["5"]' in run.stdout
