"""Feed arbitrary and nearly right bytes to the decoder and the verifier of proof bundles.

    python scripts/fuzz_bundle.py [--inputs 1000000] [--seed 1] [--bits]

Every input must decode to a bundle that encodes to the same bytes, or raise WireError; and of one
in ``--verify-every`` that do decode, nothing but the honest proofs may verify. ``--bits`` flips
every bit of a bundle in turn instead, and verifies all. Any other exception, or a false proof that
is accepted, ends the run with its input.
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from collections import Counter
from collections.abc import Iterator

import numpy as np
from qres_zk import norm
from qres_zk.bundle import ProofBundle
from qres_zk.pedersen import commit
from qres_zk.statement import Context, NormStatement

from qres_core.errors import WireError

CONTEXT = Context("fuzz", b"n" * 32, 7, b"m" * 32, b"r" * 32)
STATEMENT = NormStatement(8, 2**16)


def honest(number: int) -> bytes:
    """A proof that holds."""
    vector = np.arange(8, dtype=np.int32) * (number + 1)
    return norm.prove(STATEMENT, CONTEXT, commit(STATEMENT, vector))[1].to_bytes()


def inputs(count: int, seed: int, bundles: list[bytes]) -> Iterator[bytes]:
    """Random bytes, and bundles that were cut, spliced, overwritten, swapped or extended."""
    rng = random.Random(seed)  # noqa: S311 - a repeatable run, no secret
    size = len(bundles[0])
    for _ in range(count):
        data = rng.choice(bundles)
        kind = rng.randrange(8)
        place, other = rng.randrange(size), rng.randrange(size)
        length = rng.choice((1, 2, 4, 8, 16, 32, 33, 64, 200))
        if kind == 0:
            yield rng.randbytes(rng.randrange(300))
        elif kind == 1:
            yield data[:place]
        elif kind == 2:
            yield data + rng.randbytes(length)
        elif kind == 3:
            yield data[:place] + rng.choice(bundles)[place:]
        elif kind == 4:
            filled = rng.choice((bytes(length), b"\xff" * length, rng.randbytes(length)))
            yield (data[:place] + filled + data[place + length :])[:size]
        elif kind == 5:
            piece = data[other : other + length]
            yield (data[:place] + piece + data[place + len(piece) :])[:size]
        elif kind == 6:
            yield data[:place] + bytes([data[place] ^ (1 << rng.randrange(8))]) + data[place + 1 :]
        else:
            yield data[:8] + rng.randbytes(size - 8)


def bits(data: bytes) -> Iterator[bytes]:
    """The bundle with each of its bits flipped."""
    for place in range(len(data)):
        for bit in range(8):
            yield data[:place] + bytes([data[place] ^ (1 << bit)]) + data[place + 1 :]


def judge(data: bytes, true: set[bytes], *, verify: bool) -> str:
    """What becomes of an input.

    Raises:
        AssertionError: it decodes to something else, or is accepted though it is not honest.
    """
    try:
        bundle = ProofBundle.from_bytes(data, STATEMENT)
    except WireError as error:
        return error.code
    if bundle.to_bytes() != data:
        raise AssertionError("encodes to other bytes")
    if not verify:
        return "decoded"
    try:
        norm.verify(STATEMENT, CONTEXT, bundle)
    except WireError:
        return "not proved"
    if data not in true:
        raise AssertionError("accepted")
    return "honest"


def main() -> int:
    """Run and print what became of all inputs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--inputs", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--verify-every", type=int, default=20)
    parser.add_argument("--bits", action="store_true")
    options = parser.parse_args()
    bundles = [honest(number) for number in range(4)]
    true = set(bundles)
    fed = bits(bundles[0]) if options.bits else inputs(options.inputs, options.seed, bundles)
    started, outcomes = time.process_time(), Counter[str]()
    every = 1 if options.bits else options.verify_every
    for number, data in enumerate(fed):
        try:
            outcomes[judge(data, true, verify=number % every == 0)] += 1
        except Exception as error:  # noqa: BLE001 - whatever it is, it is what is looked for
            print(f"FAILED: {type(error).__name__}: {error}\n{data.hex()}")
            return 1
    seconds = time.process_time() - started
    print(f"{outcomes.total()} inputs in {seconds:.0f} s: {dict(sorted(outcomes.items()))}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
