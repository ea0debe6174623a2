"""The published test vectors: whoever implements norm/v2 must find the same."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from qres_zk import norm
from qres_zk.aggregate import opens
from qres_zk.bundle import ProofBundle
from qres_zk.group import encode, generator, hash_to_group
from qres_zk.statement import DIRECTION_SHIFT, PROTOCOL, NormStatement
from zk_cases import bundle_of, challenges_of, context_of, statement_of
from zk_forgeries import LATE, accepted, forgetting
from zk_plain_verifier import PlainVerifier, failing_checks

from qres_core.errors import WireError

FOLDER = Path(__file__).parents[3] / "tests" / "interop" / "norm_verifier" / "vectors"

pytestmark = pytest.mark.skipif(not FOLDER.exists(), reason="not in the repository")


def _read(name: str) -> dict[str, Any]:
    path = FOLDER / name
    return json.loads(path.read_text(encoding="utf-8")) if path.exists() else {"cases": []}


HELD, REFUSED = _read("accepted.json"), _read("refused.json")
BY_NAME = {case["name"]: case for case in HELD["cases"]}
CHECKS = {"encoding", "context", "1", "2", "3", "4", "5"}
ITEMS = {*LATE, "rows", "masked", "reference", "parameters", "protocol"}
ITEMS |= {"swarm", "node", "round", "model", "roster"}


def _name(case: dict[str, Any]) -> str:
    return str(case["name"])


@contextmanager
def careless(case: dict[str, Any]) -> Iterator[None]:
    """The verifier that a case says accepts it."""
    item = case.get("item")

    def unshifted(statement: NormStatement) -> np.ndarray | None:
        if statement.direction is None:
            return None
        return statement.laid_out(statement.direction.astype(np.int64) + DIRECTION_SHIFT)

    with pytest.MonkeyPatch.context() as patch:
        if item is None:
            patch.setattr("qres_zk.norm.verifying.shifted_direction", unshifted)
        elif item == "protocol":
            former = PROTOCOL.replace(b"/v2/", b"/v1/")
            patch.setattr("qres_zk.challenges.PROTOCOL", former)
            item = None
        with forgetting(item):
            yield


def test_protocol_and_generators() -> None:
    assert HELD["protocol"].encode() == REFUSED["protocol"].encode() == PROTOCOL
    points = HELD["generators"]
    assert points["H"] == encode(generator()).hex()
    assert points["G0"] == encode(hash_to_group(b"value")).hex()
    for index, point in points["GG"].items():
        assert point == encode(hash_to_group(b"vector", int(index))).hex()


@pytest.mark.claim("C-zk-9")
@pytest.mark.parametrize("case", HELD["cases"], ids=_name)
def test_a_proof_that_holds_is_accepted_and_gives_the_same_numbers(case: dict[str, Any]) -> None:
    statement, context = statement_of(case["statement"]), context_of(case["context"])
    for name, value in case["derived"].items():
        found = getattr(statement, name)
        found = found().hex() if name in {"parameters", "reference"} else found
        assert str(found) == str(value), name
    bundle = ProofBundle.from_bytes(bundle_of(case, BY_NAME), statement)
    norm.verify(statement, context, bundle)
    assert challenges_of(statement, context, bundle) == case["challenges"]
    run = PlainVerifier(statement, context, bundle)
    assert run.failing() == []
    numbers = case["intermediate"]
    found = [run.weights[0][0], run.weights[-1][-1], run.row[0], run.product]
    assert [str(number) for number in found] == list(numbers.values())[:4]


@pytest.mark.parametrize("case", HELD["cases"], ids=_name)
def test_a_proof_that_holds_opens_unless_there_are_numbers_in_its_padding(
    case: dict[str, Any],
) -> None:
    statement = statement_of(case["statement"])
    bundle = ProofBundle.from_bytes(bundle_of(case, BY_NAME), statement)
    blinds = [int.from_bytes(bytes.fromhex(blind), "little") for blind in case["opening"]["blinds"]]
    vector = np.array(case["opening"]["vector"])
    padded = len(vector) > statement.dimension
    rows = [bundle.points[: statement.rows]]
    assert opens(statement, rows, vector[: statement.dimension], blinds) is not padded


@pytest.mark.claim("C-zk-9")
@pytest.mark.parametrize("case", REFUSED["cases"], ids=_name)
def test_a_forgery_is_refused_by_the_checks_it_names(case: dict[str, Any]) -> None:
    statement, context = statement_of(case["statement"]), context_of(case["context"])
    data = bundle_of(case, BY_NAME)
    if case["fails"] == ["encoding"]:
        with pytest.raises(WireError):
            ProofBundle.from_bytes(data, statement)
        return
    bundle = ProofBundle.from_bytes(data, statement)
    with pytest.raises(WireError):
        norm.verify(statement, context, bundle)
    assert failing_checks(statement, context, bundle) == case["fails"]


@pytest.mark.control("C-zk-9")
@pytest.mark.parametrize(
    "case", [case for case in REFUSED["cases"] if "accepted_by" in case], ids=_name
)
def test_a_careless_verifier_accepts_what_is_forged_for_it(case: dict[str, Any]) -> None:
    statement, context = statement_of(case["statement"]), context_of(case["context"])
    with careless(case):
        assert accepted(statement, context, bundle_of(case, BY_NAME))


def test_there_is_a_forgery_for_every_check_and_every_item() -> None:
    alone = {case["fails"][0] for case in REFUSED["cases"] if len(case["fails"]) == 1}
    assert alone == CHECKS
    assert {case["item"] for case in REFUSED["cases"] if "item" in case} == ITEMS
    names = [case["name"] for case in (*HELD["cases"], *REFUSED["cases"])]
    assert len(set(names)) == len(names) >= 100


def test_the_files_are_small() -> None:
    assert sum(path.stat().st_size for path in FOLDER.iterdir()) < 10**6
