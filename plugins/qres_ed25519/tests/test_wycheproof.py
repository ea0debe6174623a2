"""Strict verification against Wycheproof: signatures made to slip by, and keys of other orders."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import attrs
import pytest
from qres_ed25519.signature import key_fault, verify

FILE = Path(__file__).parent / "vectors" / "wycheproof_ed25519.json"


@attrs.frozen
class Case:
    number: int
    result: str
    flags: list[str]
    key: bytes = attrs.field(converter=bytes.fromhex)
    message: bytes = attrs.field(converter=bytes.fromhex)
    signature: bytes = attrs.field(converter=bytes.fromhex)


def _cases() -> list[Case]:
    found: dict[str, Any] = json.loads(FILE.read_text(encoding="utf-8"))
    return [Case(*row) for row in found["cases"]]


CASES = _cases()


def _name(case: Case) -> str:
    return f"{case.number}-{case.result}-{'-'.join(case.flags)}"


@pytest.mark.claim("C-trust-4")
@pytest.mark.parametrize("case", CASES, ids=_name)
def test_a_signature_is_accepted_exactly_if_it_is_valid_under_a_key_of_the_group(
    case: Case,
) -> None:
    """What Wycheproof leaves to the verifier, keys of small or mixed order, is refused here."""
    accepted = not key_fault(case.key) and verify(case.key, case.message, case.signature)
    assert accepted == (case.result == "valid")


@pytest.mark.control("C-trust-4")
def test_without_the_check_of_keys_those_of_mixed_order_verify() -> None:
    """The positive control: the equation alone takes all of them, and libraries differ on them."""
    mixed = [case for case in CASES if "MixedOrderPublicKey" in case.flags]
    taken = [case for case in mixed if verify(case.key, case.message, case.signature)]
    assert len(taken) == sum(case.result == "acceptable" for case in mixed) == 21


def test_there_are_cases_of_every_kind() -> None:
    kinds = Counter(case.result for case in CASES)
    assert kinds == {"valid": 117, "invalid": 64, "acceptable": 29}
    flags = {flag for case in CASES for flag in case.flags}
    assert flags >= {"SignatureMalleability", "InvalidEncoding", "SmallOrderPublicKey"}
