"""The cases of the published test vectors: proofs that hold, and forgeries.

`scripts/zk_vectors.py` writes them; `docs/reference/norm-v2.md` describes the files.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import attrs
import numpy as np
import pytest
from qres_zk import norm
from qres_zk.bundle import ProofBundle
from qres_zk.challenges import Challenges
from qres_zk.group import ORDER, add, encode, generator, hash_to_group, integers
from qres_zk.pedersen import commit
from qres_zk.statement import HEADER_BYTES, MASKED_BYTES, MASKS, Context, NormStatement
from qres_zk.transcript import Transcript
from zk_field_prover import K2, Run, prove
from zk_forgeries import (
    LATE,
    fitting_direction,
    forgetting,
    late_masked,
    late_rows,
    no_squares,
    padded_pair,
    shrunk,
    wrapped,
)
from zk_plain_verifier import PlainVerifier, failing_checks

Case = dict[str, Any]

CONTEXT = Context("vectors", b"n" * 32, 7, b"m" * 32, b"r" * 32)
FAR = Context("Schwärme", bytes(range(32)), 2**64 - 1, b"\xff" * 32, bytes(32))
"""A name that is not ASCII, and the largest round number."""


def _ramp(count: int, factor: int = 37) -> np.ndarray:
    return np.array([(-1) ** i * (factor * i % 901) for i in range(count)], dtype=np.int32)


def _along(count: int) -> np.ndarray:
    return np.array([(7919 * i) % 65535 - 32767 for i in range(count)], dtype=np.int16)


# ── encodings of statements and contexts ──────────────────────────────────────────────────────


def statement_case(statement: NormStatement) -> Case:
    """A statement as the files have it."""

    def listed(vector: np.ndarray | None) -> list[int] | None:
        return None if vector is None else vector.tolist()

    return {
        "dimension": statement.dimension,
        "bound": statement.bound,
        "k": statement.k,
        "scale": statement.scale,
        "center": listed(statement.center),
        "direction": listed(statement.direction),
        "threshold": str(statement.threshold),
    }


def statement_of(case: Case) -> NormStatement:
    """The statement of a case."""
    center, direction = case["center"], case["direction"]
    return NormStatement(
        case["dimension"],
        case["bound"],
        case["k"],
        case["scale"],
        center=None if center is None else np.array(center, dtype=np.int32),
        direction=None if direction is None else np.array(direction, dtype=np.int16),
        threshold=int(case["threshold"]),
    )


def context_case(context: Context) -> Case:
    """A context as the files have it."""
    return {
        "swarm": context.swarm,
        "node": context.node.hex(),
        "round": str(context.round),
        "model": context.model.hex(),
        "roster": context.roster.hex(),
    }


def context_of(case: Case) -> Context:
    """The context of a case."""
    node, model, roster = (bytes.fromhex(case[name]) for name in ("node", "model", "roster"))
    return Context(case["swarm"], node, int(case["round"]), model, roster)


def bundle_of(case: Case, accepted: dict[str, Case]) -> bytes:
    """The bytes of a case: its own, or those of an accepted one with changes."""
    if "bundle" in case:
        return base64.b64decode(case["bundle"])
    data = bytearray(base64.b64decode(accepted[case["of"]]["bundle"]))
    for offset, octets in case["edits"]:
        changed = bytes.fromhex(octets)
        data[offset : offset + len(changed)] = changed
    length = case.get("length", len(data))
    return bytes(data[:length]) + bytes(max(0, length - len(data)))


# ── proofs that hold ──────────────────────────────────────────────────────────────────────────


def _statements() -> dict[str, tuple[NormStatement, Context, np.ndarray]]:
    center = np.array([5, -7, 11, 0, 3, -2, 9, 1, -4, 8], dtype=np.int32)
    direction = np.array([100, -32767, 5, 0, 9, -1, 32767, 2, 3, -4], dtype=np.int16)
    both = NormStatement(
        10, 2**16, scale=-3, center=center, direction=direction, threshold=-(2**20)
    )
    along = NormStatement(9, 2**16, direction=_along(9), threshold=1)
    wide = NormStatement(
        200, 2**18, scale=5, center=_ramp(200, 5), direction=_along(200), threshold=-(2**33)
    )
    longest = NormStatement(
        64, 2**28, direction=np.full(64, 32767, dtype=np.int16), threshold=-(2**46)
    )
    assert longest.mask_bits == 118
    return {
        "one coordinate, no folding": (NormStatement(1, 2**31 - 1), FAR, np.array([-(2**31) + 1])),
        "ball": (NormStatement(10, 2**16), CONTEXT, _ramp(10)),
        "ball and half-space around a center": (both, CONTEXT, _ramp(10)),
        "half-space, with padding": (along, FAR, np.array([-9, -3, 0, 0, 0, 0, 0, 0, 9])),
        "many rows, center and half-space": (wide, CONTEXT, _ramp(200, 5) + 1),
        "longest masks": (longest, CONTEXT, _ramp(64)),
        "k = 512": (NormStatement(33, 2**20, k=512), CONTEXT, _ramp(33)),
        "k = 1024": (NormStatement(8, 2**12, k=1024, scale=-128), FAR, _ramp(8)),
        "a thousand coordinates": (NormStatement(1000, 2**16, scale=127), CONTEXT, _ramp(1000)),
    }


def challenges_of(
    statement: NormStatement, context: Context, bundle: ProofBundle
) -> list[list[str]]:
    """Labels, sizes and answers in their order, from a verifier's run."""
    found: list[list[str]] = []
    answer = Transcript.challenge

    def noted(self: Transcript, label: str, size: int) -> bytes:
        octets = answer(self, label, size)
        found.append([label, str(size), octets[:32].hex()])  # the first bytes name it
        return octets

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Transcript, "challenge", noted)
        norm.prepare(statement, context, bundle)
    return found


def _held(
    name: str, statement: NormStatement, context: Context, vector: np.ndarray, blinds: list[int],
    bundle: ProofBundle,
) -> Case:  # fmt: skip
    run = PlainVerifier(statement, context, bundle)
    assert run.failing() == []
    return {
        "name": name,
        "statement": statement_case(statement),
        "context": context_case(context),
        "derived": {
            "rows": statement.rows,
            "columns": statement.columns,
            "values": statement.values,
            "gamma_bits": statement.gamma_bits,
            "mask_bits": statement.mask_bits,
            "budget": str(statement.budget),
            "offset": str(statement.offset),
            "bundle_bytes": statement.bundle_bytes,
            "parameters": statement.parameters().hex(),
            "reference": statement.reference().hex(),
        },
        "opening": {
            "vector": vector.tolist(),
            "blinds": [blind.to_bytes(32, "little").hex() for blind in blinds],
        },
        "intermediate": {
            "A[0,0]": str(run.weights[0][0]),
            "A[b-1,m-1]": str(run.weights[-1][-1]),
            "folded A[0]": str(run.row[0]),
            "X": str(run.product),
            "delta": str(run.combination.square),
            "c": str(run.c),
        },
        "challenges": challenges_of(statement, context, bundle),
        "bundle": _base64(bundle),
    }


def _base64(bundle: ProofBundle) -> str:
    return base64.b64encode(bundle.to_bytes()).decode("ascii")


def accepted_cases() -> Iterator[Case]:
    """Proofs that hold; the last has numbers in its padding, which is allowed."""
    for name, (statement, context, vector) in _statements().items():
        commitment, bundle = norm.prove(
            statement, context, commit(statement, vector.astype(np.int32))
        )
        yield _held(name, statement, context, vector, integers(commitment.blinds), bundle)
    pair = padded_pair(9)
    weaker = attrs.evolve(pair.statement, threshold=pair.true(0))
    committed = np.concatenate([pair.vectors[0], pair.paddings[0]])
    run = prove(weaker, CONTEXT, committed.tolist())
    name = "half-space, with numbers in the padding"
    yield _held(name, weaker, CONTEXT, committed, run.blinds, run.bundle())


# ── what is refused ───────────────────────────────────────────────────────────────────────────


def refused_cases(accepted: dict[str, Case]) -> Iterator[Case]:
    """Forgeries of all kinds."""
    yield from _malformed(accepted["half-space, with padding"])
    yield from _changed(accepted["half-space, with padding"])
    yield from _elsewhere(accepted["ball and half-space around a center"])
    yield from _untrue()
    yield from _forgotten()


def _edited(
    of: Case, name: str, fails: list[str], edits: list[tuple[int, bytes]], **more: Any
) -> Case:
    return {
        "name": name,
        "fails": fails,
        "statement": of["statement"],
        "context": of["context"],
        "of": of["name"],
        "edits": [[offset, octets.hex()] for offset, octets in edits],
        **more,
    }


def _whole(name: str, statement: NormStatement, context: Context, run: Run, **more: Any) -> Case:
    bundle = run.bundle()
    renamed = attrs.evolve(bundle, context=Challenges(statement, context).context)
    fails = failing_checks(statement, context, renamed)
    assert fails, name
    return {
        "name": name,
        "fails": fails,
        "statement": statement_case(statement),
        "context": context_case(context),
        **more,
        "bundle": _base64(renamed),
    }


class _Places:
    """Where in a bundle things are."""

    def __init__(self, statement: NormStatement) -> None:
        self.points = HEADER_BYTES
        self.masked = self.points + 32 * statement.points
        self.link = self.masked + MASKED_BYTES * MASKS
        self.blinds = self.link + 32
        self.row = self.blinds + 32 * 4
        self.values = self.row + 32 * statement.columns
        b, folds = statement.rows, statement.folds
        named = {"V_0": 0, f"V_{b - 1}": b - 1, "C_v": b, "T_0": b + 1, "T_1": b + 2}
        last = b + 1 + 2 * folds
        named |= {name: last + at for at, name in enumerate(("D_u", "D_v", "E", "W_0", "W_1"))}
        self.of_point = {name: self.points + 32 * at for name, at in named.items()}
        k = statement.k
        numbers = {
            "q_0": 0,
            "s": k,
            "e_1": k + 1,
            "h": k + 5,
            "f_1": k + 6,
            "y_0": statement.values,
        }
        self.of_scalar = {"t_3": self.link}
        self.of_scalar |= {f"z_{at}": self.blinds + 32 * at for at in range(4)}
        self.of_scalar["z_u of column 0"] = self.row
        self.of_scalar |= {f"z_v of {name}": self.values + 32 * at for name, at in numbers.items()}


def _malformed(of: Case) -> Iterator[Case]:
    """Bytes that are no bundle of the statement, by what is wrong with them."""
    data, places = base64.b64decode(of["bundle"]), _Places(statement_of(of["statement"]))
    encoding = ["encoding"]
    for offset, octet, name in (
        (0, b"q", "another magic"),
        (4, b"\x01", "version 1: norm/v1"),
        (4, b"\x03", "version 3"),
        (5, b"\x02", "suite 2"),
        (6, b"\x01", "a reserved byte that is not zero"),
        (7, b"\x80", "the other reserved byte that is not zero"),
    ):
        yield _edited(of, name, encoding, [(offset, octet)])
    yield _edited(of, "one byte too short", encoding, [], length=len(data) - 1)
    yield _edited(of, "one byte too long", encoding, [], length=len(data) + 1)
    yield _edited(of, "nothing", encoding, [], length=0)
    yield _edited(of, "the header alone", encoding, [], length=8)
    for name, place in places.of_scalar.items():
        value = int.from_bytes(data[place : place + 32], "little") + ORDER
        edit = (place, value.to_bytes(32, "little"))
        yield _edited(of, f"{name} plus the order", encoding, [edit])
    for name, place in places.of_point.items():
        edit = (place, b"\xed" + b"\xff" * 30 + b"\x7f")
        yield _edited(of, f"{name}: the field's order in place of zero", encoding, [edit])
    for what, octets in (
        ("a negative field element", b"\x01" + bytes(31)),
        ("a field element with the highest bit set", bytes(31) + b"\x80"),
        ("no square root", _without_root()),
    ):
        edit = (places.of_point["V_0"], octets)
        yield _edited(of, f"V_0: {what}", encoding, [edit])
    mask_bits = of["derived"]["mask_bits"]
    for at in (0, MASKS - 1):
        edit = (places.masked + MASKED_BYTES * at, (1 << mask_bits).to_bytes(16, "little"))
        yield _edited(of, f"w_{at} of one bit more than masks have", encoding, [edit])


def _without_root() -> bytes:
    """From RFC 9496, appendix A.3: the first of the non-square x^2."""
    return bytes.fromhex("26948d35ca62e643e26a83177332e6b6afeb9d08e4268b650f1f5bbd8d81d371")


def _changed(of: Case) -> Iterator[Case]:
    """One thing changed, which all decoders take."""
    statement, context = statement_of(of["statement"]), context_of(of["context"])
    data, places = base64.b64decode(of["bundle"]), _Places(statement)

    def changed(name: str, edits: list[tuple[int, bytes]]) -> Case:
        case = _edited(of, name, [], edits)
        bundle = ProofBundle.from_bytes(bundle_of(case, {of["name"]: of}), statement)
        case["fails"] = failing_checks(statement, context, bundle)
        assert case["fails"], name
        return case

    flipped = bytes([data[8] ^ 1])
    yield changed("another context challenge", [(8, flipped)])
    for name, place in places.of_scalar.items():
        value = (int.from_bytes(data[place : place + 32], "little") + 1) % ORDER
        yield changed(f"{name} plus 1", [(place, value.to_bytes(32, "little"))])
    other = encode(add(generator(), hash_to_group(b"value")))
    for name, place in places.of_point.items():
        yield changed(f"another point for {name}", [(place, other)])
    yield changed("the identity for W_1", [(places.of_point["W_1"], bytes(32))])
    for at in (0, MASKS - 1):
        place = places.masked + MASKED_BYTES * at
        value = int.from_bytes(data[place : place + MASKED_BYTES], "little") ^ 1
        yield changed(f"the last bit of w_{at}", [(place, value.to_bytes(MASKED_BYTES, "little"))])
    first, second = places.of_point["T_0"], places.of_point["T_1"]
    swapped = [(first, data[second : second + 32]), (second, data[first : first + 32])]
    yield changed("T_0 and T_1 swapped", swapped)
    z, place = data[places.blinds : places.blinds + 64], places.blinds
    yield changed("z_0 and z_1 swapped", [(place, z[32:] + z[:32])])


def _elsewhere(of: Case) -> Iterator[Case]:
    """A proof under another statement or context, with the context challenge of that one."""
    statement, context = statement_of(of["statement"]), context_of(of["context"])
    assert statement.center is not None
    assert statement.direction is not None
    center, direction = statement.center.copy(), statement.direction.copy()
    center[9] += 1
    direction[9] -= 1
    statements = {
        "a bound of one more": attrs.evolve(statement, bound=statement.bound + 1),
        "a bound of one less": attrs.evolve(statement, bound=statement.bound - 1),
        "another scale": attrs.evolve(statement, scale=statement.scale + 1),
        "another center": attrs.evolve(statement, center=center),
        "another direction": attrs.evolve(statement, direction=direction),
        "a threshold of one more": attrs.evolve(statement, threshold=statement.threshold + 1),
        "a threshold of one less": attrs.evolve(statement, threshold=statement.threshold - 1),
    }
    contexts = {
        "another swarm": attrs.evolve(context, swarm="vector"),
        "another node": attrs.evolve(context, node=b"o" * 32),
        "another round": attrs.evolve(context, round=8),
        "another model": attrs.evolve(context, model=b"n" * 32),
        "another roster": attrs.evolve(context, roster=b"s" * 32),
    }
    pairs = [(name, item, context) for name, item in statements.items()]
    pairs += [(name, statement, item) for name, item in contexts.items()]
    for name, claimed, where in pairs:
        renamed = Challenges(claimed, where).context
        case = _edited(of, f"{name}, renamed", [], [(8, renamed)])
        case |= {"statement": statement_case(claimed), "context": context_case(where)}
        bundle = ProofBundle.from_bytes(bundle_of(case, {of["name"]: of}), claimed)
        case["fails"] = failing_checks(claimed, where, bundle)
        assert case["fails"], name
        yield case


def _untrue() -> Iterator[Case]:
    """False statements. Of each, all checks hold but those named."""
    small = NormStatement(10, 2**16)
    boosted = (30 * 2**16 // 10 * np.ones(10, dtype=np.int64)).tolist()
    yield _whole("thirty times too long, without squares", small, CONTEXT,
                 prove(small, CONTEXT, boosted, values=no_squares))  # fmt: skip
    yield _whole("projections of a shorter vector", small, CONTEXT,
                 prove(small, CONTEXT, boosted, values=shrunk(small)))  # fmt: skip
    run = prove(small, CONTEXT, boosted, values=wrapped)
    run.masked = [0] * K2
    yield _whole("a square that is negative over the integers", small, CONTEXT, run)
    against = NormStatement(10, 2**16, direction=_along(10), threshold=10)
    run = prove(against, CONTEXT, (-_along(10) // 8).tolist(), product=11)
    yield _whole("another product with the direction", against, CONTEXT, run)
    for dimension in (9, 50, 201):
        pair = padded_pair(dimension)
        run = pair.forged(0, CONTEXT)
        assert not failing_checks(pair.statement, CONTEXT, run.bundle(), padding_shift=0)
        yield _whole(
            f"padding outside of the shift, d = {dimension}", pair.statement, CONTEXT, run,
            accepted_by="a verifier that weighs padding with 0 in place of 2**15, as norm/v1 did",
        )  # fmt: skip


def _forgotten() -> Iterator[Case]:
    """For each item of the transcript, a proof that holds where that item is not absorbed."""
    small = NormStatement(10, 2**16)
    boosted = (30 * 2**16 // 10 * np.ones(10, dtype=np.int64)).tolist()

    def accepted_by(item: str) -> str:
        return f"a verifier that does not absorb {item}"

    for item, (kind, cheat) in LATE.items():
        values = {"no squares": no_squares, "wrapped": wrapped, "shrunk": shrunk(small)}[kind]
        with forgetting(item):
            run = prove(small, CONTEXT, boosted, values=values)
            cheat(run)
        yield _frozen(item, small, CONTEXT, run, accepted_by(item))
    with forgetting("rows"):
        run = prove(small, CONTEXT, _ramp(10).tolist())
        late_rows(run)
    yield _frozen("rows", small, CONTEXT, run, accepted_by("rows"))
    yield _frozen("masked", *_late_masked(), accepted_by("masked"))
    first = np.full(64, -1000, dtype=np.int16) * np.sign(_vector()).astype(np.int16)
    statement = NormStatement(64, 2**16, direction=first, threshold=10**6)
    with forgetting("reference"):
        run = prove(statement, CONTEXT, _vector().tolist(), product=2 * 10**6)
        late = attrs.evolve(statement, direction=fitting_direction(run, first))
    yield _frozen("reference", late, CONTEXT, run, accepted_by("reference"))
    others: dict[str, Any] = {"swarm": "war", "round": 8}
    for item in ("swarm", "node", "round", "model", "roster"):
        with forgetting(item):
            run = prove(small, CONTEXT, _ramp(10).tolist())
        elsewhere = attrs.evolve(CONTEXT, **{item: others.get(item, bytes(32))})
        yield _frozen(item, small, elsewhere, run, accepted_by(item))
    with forgetting("parameters"):
        run = prove(attrs.evolve(small, scale=4), CONTEXT, _ramp(10).tolist())
    yield _frozen("parameters", small, CONTEXT, run, accepted_by("parameters"))
    with pytest.MonkeyPatch.context() as patch:
        former = b"qres-zk/norm/v1/ristretto255/shake256/blake3"
        patch.setattr("qres_zk.challenges.PROTOCOL", former)
        run = prove(small, CONTEXT, _ramp(10).tolist())
    yield _frozen("protocol", small, CONTEXT, run, "a verifier that absorbs the name of norm/v1")


def _vector() -> np.ndarray:
    return np.array([(-1) ** i * (3000 + 40 * i) for i in range(64)], dtype=np.int32)


def _late_masked() -> tuple[NormStatement, Context, Run]:
    along = np.full(64, 32767, dtype=np.int16)
    statement = NormStatement(64, 2**28, direction=along, threshold=-(2**46))
    huge = (_vector().astype(np.int64) * 2**17).tolist()
    with forgetting("masked"):
        while True:  # seldom a second time: what is wanted is uniform modulo the order
            run = prove(statement, CONTEXT, huge, values=wrapped, masked=late_masked(statement))
            if all(0 <= number < 1 << statement.mask_bits for number in run.masked):
                return statement, CONTEXT, run


def _frozen(
    item: str, statement: NormStatement, context: Context, run: Run, accepted_by: str
) -> Case:
    """With the context challenge that the careless verifier computes."""
    bundle = run.bundle()
    fails = failing_checks(statement, context, bundle)
    assert fails, item
    return {
        "name": f"without {item} in the transcript",
        "fails": fails,
        "statement": statement_case(statement),
        "context": context_case(context),
        "item": item,
        "accepted_by": accepted_by,
        "bundle": _base64(bundle),
    }
