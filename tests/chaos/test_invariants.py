"""The checker sees what it is there to see, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from trials import invariants
from trials.invariants import Line, check

A, B, LIAR = "aa" * 32, "bb" * 32, "cc" * 32


def model(step: int, digest: str = "", number: int | None = None) -> Line:
    made = number if number is not None else step
    return {"kind": "model", "step": step, "round": made, "digest": digest or f"d{step}"}


def start(step: int, sequence: int) -> Line:
    return {"kind": "start", "step": step, "digest": f"d{step}", "sequence": sequence}


def head(height: int, digest: str = "") -> Line:
    return {"kind": "head", "height": height, "digest": digest or f"h{height}"}


def took(sequence: int, sender: str = B, **more: Any) -> Line:
    line = {"kind": "took", "sender": sender, "sequence": sequence, "message": f"m{sequence}"}
    return {
        **line,
        "says": "choice/prevote",
        "round": sequence,
        "head": "h0",
        "payload": "p",
        **more,
    }


def bans(*banned: str) -> Line:
    return {"kind": "bans", "banned": list(banned), "fact": "a fact"}


CALM = [
    head(0),
    start(0, 0),
    took(1),
    head(1),
    model(1),
    bans(),
    bans(LIAR),
    took(2),
    took(3, says="outcome/prevote", round=1),
    took(4, says="outcome/prevote", round=1, head="h1", payload="q"),
    head(1),
    start(1, 1024),
    bans(LIAR),
    model(3, number=5),
]


def kinds(first: list[Line], second: list[Line] | None = None) -> list[str]:
    found = check({A: first, B: second or []}, [LIAR])
    return [event.kind for event in found]


def test_a_calm_run_violates_nothing() -> None:
    assert kinds(CALM, CALM) == []


@pytest.mark.control("C-transport-8")
@pytest.mark.parametrize(
    ("lines", "kind"),
    [
        ([model(3, number=6)], "applied twice"),
        ([model(2, number=7)], "applied twice"),
        ([model(4, number=5)], "applied twice"),
        ([start(2, 2048)], "forgot a model"),
        ([start(3, 1024)], "forgot its sequence"),
        ([took(2)], "accepted a replay"),
        ([bans()], "lost a ban"),
        ([bans(LIAR, B)], "banned an honest node"),
        ([took(9), took(10, round=9, payload="q")], "said two things"),
        ([took(9), took(10, round=9, head="h1", payload="q")], "said two things"),
        ([took(9, says="outcome/prevote", round=1, payload="q")], "said two things"),
    ],
)
def test_every_violation_is_seen(lines: list[Line], kind: str) -> None:
    assert kinds([*CALM, *lines]) == [kind]


def test_what_only_two_nodes_together_show_is_seen() -> None:
    assert kinds([model(1)], [model(1, "other")]) == ["diverged"]
    assert kinds([head(1)], [head(1, "other")]) == ["forked"]
    assert kinds([took(1)], [took(1, message="other")]) == ["spent a number twice"]
    assert kinds([took(1)], [took(7, round=1, payload="q")]) == ["said two things"]


def test_what_a_liar_says_of_itself_is_no_violation() -> None:
    words = [took(1, LIAR), took(2, LIAR, round=1, payload="q")]
    assert kinds(words, [took(1, LIAR, message="other")]) == []


def test_the_newest_model_is_found_from_the_end(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    assert invariants.newest(path) == (0, "")
    noise = b'{"kind":"took"}\n' * 20_000
    line = b'{"kind":"model","step":4,"round":5,"digest":"d4"}\n'
    path.write_bytes(line + noise)
    assert invariants.newest(path) == (4, "d4")
    assert len(invariants.read(path)) == 20_001
