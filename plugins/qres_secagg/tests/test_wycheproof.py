"""Seals and derived keys against Wycheproof."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from qres_secagg import sharing
from qres_secagg.keys import hkdf

FOLDER = Path(__file__).parent / "vectors"


def _cases(name: str) -> list[dict[str, Any]]:
    found: dict[str, Any] = json.loads((FOLDER / name).read_text(encoding="utf-8"))
    rows = [dict(zip(found["columns"], row, strict=True)) for row in found["cases"]]
    return [
        {
            key: bytes.fromhex(value) if at > 2 else value
            for at, (key, value) in enumerate(row.items())
        }
        for row in rows
    ]


SEALS = _cases("wycheproof_chacha20_poly1305.json")
DERIVATIONS = _cases("wycheproof_hkdf_sha256.json")


def _name(case: dict[str, Any]) -> str:
    return f"{case['tcId']}-{case['result']}-{'-'.join(case['flags'])}"


@pytest.mark.claim("C-secagg-21")
@pytest.mark.parametrize("case", SEALS, ids=_name)
def test_a_seal_opens_exactly_if_its_tag_is_right(
    case: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(sharing, "_NONCE", case["iv"])  # the plugin's own is zero: one seal a key
    opened = sharing.unseal(case["key"], case["aad"], case["ct"] + case["tag"])
    if case["result"] == "valid":
        assert opened is not None
        assert b"".join(opened) == case["msg"]
        sealed = sharing.seal(case["key"], case["aad"], case["msg"], b"")
        assert sealed == case["ct"] + case["tag"]
    else:
        assert opened is None


@pytest.mark.claim("C-secagg-21")
@pytest.mark.parametrize("case", DERIVATIONS, ids=_name)
def test_a_derived_key_is_the_first_block_of_hkdf(case: dict[str, Any]) -> None:
    found = hkdf(case["ikm"], case["salt"], case["info"])
    assert found[: len(case["okm"])] == case["okm"]


@pytest.mark.control("C-secagg-21")
def test_there_are_cases_of_every_kind() -> None:
    assert {"valid", "invalid"} == {case["result"] for case in SEALS}
    flags = {flag for case in SEALS for flag in case["flags"]}
    assert flags >= {"ModifiedTag", "EdgeCasePoly1305", "EdgeCaseTag"}
    assert any("EmptySalt" in case["flags"] for case in DERIVATIONS)
