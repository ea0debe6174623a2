"""What must hold whatever happens, checked against what the witnesses wrote down."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs

Line = Mapping[str, Any]

ONCE_A_ROUND: Final = ("contribution", "choice/prevote", "choice/precommit", "choice/proposal")
"""What an honest node says one thing of in a round, whose numbers increase over the whole run."""
ONCE_AN_ATTEMPT: Final = ("outcome/proposal", "outcome/prevote", "outcome/precommit")
"""What it says one thing of in an attempt at a height's outcome. Attempts count anew there."""

TAIL: Final = 2**16
"""Bytes of the end of a file that are looked at first for the newest model."""


@attrs.frozen
class Violation:
    """An invariant that did not hold.

    Attributes:
        kind: which.
        node: whose, hex; empty for all.
        what: what was seen.
    """

    kind: str
    node: str
    what: str


def read(path: Path) -> list[Line]:
    """The lines of a witness; none where there is no file."""
    if not path.exists():
        return []
    return [json.loads(text) for text in path.read_bytes().split(b"\n") if text]


def check(testimony: Mapping[str, Sequence[Line]], hostile: Iterable[str] = ()) -> list[Violation]:
    """All violations.

    Args:
        testimony: for each honest node, by its identity in hex, what its witness wrote.
        hostile: identities of the others.
    """
    liars = frozenset(hostile)
    found: list[Violation] = []
    for node, lines in testimony.items():
        found += _once(node, lines)
        found += _no_replay(node, lines)
        found += _ledger(node, lines, liars)
    found += _one_model(testimony)
    found += _one_head(testimony)
    found += _one_word(testimony, liars)
    return found


def _once(node: str, lines: Sequence[Line]) -> Iterator[Violation]:
    """No round is applied twice, and nothing applied is forgotten."""
    step, number, sequence = 0, 0, -1
    for line in lines:
        if line["kind"] == "model":
            if line["step"] <= step or line["round"] <= number:
                what = f"model {line['step']} of round {line['round']} after model {step} of round"
                yield Violation("applied twice", node, f"{what} {number}")
            step, number = line["step"], line["round"]
        elif line["kind"] == "start":
            if line["step"] < step:
                what = f"started with model {line['step']} after it had made model {step}"
                yield Violation("forgot a model", node, what)
                step, number = line["step"], 0
            if line["sequence"] <= sequence:
                what = f"numbers its messages from {line['sequence']} again"
                yield Violation("forgot its sequence", node, what)
            sequence = line["sequence"]


def _no_replay(node: str, lines: Sequence[Line]) -> Iterator[Violation]:
    """No message is accepted twice."""
    seen: set[tuple[str, int]] = set()
    for line in lines:
        if line["kind"] == "took":
            name = line["sender"], line["sequence"]
            if name in seen:
                what = f"message {name[1]} of {name[0][:16]}, {line['says']}, was accepted again"
                yield Violation("accepted a replay", node, what)
            seen.add(name)


def _ledger(node: str, lines: Sequence[Line], liars: frozenset[str]) -> Iterator[Violation]:
    """Whoever is banned stays banned (bans last for ever here), and nobody honest is."""
    banned: frozenset[str] = frozenset()
    blamed: set[str] = set()
    for line in lines:
        if line["kind"] != "bans":
            continue
        now = frozenset(line["banned"])
        for lost in sorted(banned - now):
            yield Violation("lost a ban", node, f"{lost[:16]} is not banned any more")
        for node_id in sorted(now - liars - blamed):
            blamed.add(node_id)
            fact = line.get("fact", "what it had done")
            what = f"{node_id[:16]} is honest and banned, over {fact!r}"
            yield Violation("banned an honest node", node, what)
        banned = now


def _one_model(testimony: Mapping[str, Sequence[Line]]) -> Iterator[Violation]:
    """Honest nodes have one model at every step."""
    models: dict[int, dict[str, str]] = {}
    for node, lines in testimony.items():
        for line in lines:
            if line["kind"] in {"model", "start"} and line["step"]:
                models.setdefault(line["step"], {}).setdefault(line["digest"], node)
    for step, digests in sorted(models.items()):
        if len(digests) > 1:
            who = ", ".join(f"{node[:16]}: {digest[:16]}" for digest, node in digests.items())
            yield Violation("diverged", "", f"model {step}: {who}")


def _one_head(testimony: Mapping[str, Sequence[Line]]) -> Iterator[Violation]:
    """Honest nodes have one head at every height, whether it made a model or not."""
    heads: dict[int, dict[str, str]] = {}
    for node, lines in testimony.items():
        for line in lines:
            if line["kind"] == "head":
                heads.setdefault(line["height"], {}).setdefault(line["digest"], node)
    for height, digests in sorted(heads.items()):
        if len(digests) > 1:
            who = ", ".join(f"{node[:16]}: {digest[:16]}" for digest, node in digests.items())
            yield Violation("forked", "", f"height {height}: {who}")


def _one_word(
    testimony: Mapping[str, Sequence[Line]], liars: frozenset[str]
) -> Iterator[Violation]:
    """Honest nodes use a sequence number once, and say one thing of a kind in a round."""
    numbers: dict[tuple[str, int], str] = {}
    words: dict[tuple[str, str, str, int], str] = {}
    for lines in testimony.values():
        for line in lines:
            if line["kind"] != "took" or line["sender"] in liars:
                continue
            sender, says = line["sender"], line["says"]
            if numbers.setdefault((sender, line["sequence"]), line["message"]) != line["message"]:
                what = f"two messages have the number {line['sequence']}"
                yield Violation("spent a number twice", sender, what)
            if says not in ONCE_A_ROUND + ONCE_AN_ATTEMPT:
                continue
            head = line["head"] if says in ONCE_AN_ATTEMPT else ""
            said = sender, says, head, line["round"]
            if words.setdefault(said, line["payload"]) != line["payload"]:
                what = f"two different {says}s in round {line['round']}"
                yield Violation("said two things", sender, what)


def newest(path: Path) -> tuple[int, str]:
    """The last model that a witness wrote down, and its digest."""
    if not path.exists():
        return 0, ""
    with path.open("rb") as file:
        size = file.seek(0, os.SEEK_END)
        tail = TAIL
        while True:
            file.seek(max(0, size - tail))
            for text in reversed(file.read().split(b"\n")):
                if text.startswith((b'{"kind":"model"', b'{"kind":"start"')) and text[-1:] == b"}":
                    line = json.loads(text)
                    return line["step"], line["digest"]
            if tail >= size:
                return 0, ""
            tail *= 8
