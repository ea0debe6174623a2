"""Write the test vectors of norm/v2: proofs that hold, and forgeries.

    python scripts/zk_vectors.py tests/interop/norm_verifier/vectors

Proofs are random, so every run writes others. What makes them vectors is that every verifier finds
the same challenges in them, accepts the first and refuses the second. `docs/reference/norm-v2.md`
describes the files.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from qres_zk.group import encode, generator, hash_to_group
from qres_zk.statement import PROTOCOL

sys.path.append(str(Path(__file__).parents[1] / "plugins" / "qres_zk" / "tests"))

from zk_cases import accepted_cases, refused_cases


def _write(target: Path, made: dict[str, Any]) -> None:
    cases = [json.dumps(case, ensure_ascii=True) for case in made.pop("cases")]
    head = json.dumps(made, indent=1)[:-2]
    text = head + ',\n "cases": [\n  ' + ",\n  ".join(cases) + "\n ]\n}\n"
    assert json.loads(text)  # noqa: S101 - one line a case, and still JSON
    target.write_text(text, encoding="utf-8")


def main(folder: str) -> None:
    """Write both files."""
    protocol = PROTOCOL.decode("ascii")
    vectors = [encode(hash_to_group(b"vector", n)).hex() for n in (0, 1, 2, 388)]
    generators = {
        "H": encode(generator()).hex(),
        "G0": encode(hash_to_group(b"value")).hex(),
        "GG": dict(zip(("0", "1", "2", "388"), vectors, strict=True)),
    }
    accepted = list(accepted_cases())
    by_name = {case["name"]: case for case in accepted}
    refused = list(refused_cases(by_name))
    head = {"protocol": protocol, "generators": generators, "cases": accepted}
    _write(Path(folder) / "accepted.json", head)
    _write(Path(folder) / "refused.json", {"protocol": protocol, "cases": refused})
    sys.stdout.write(f"{len(accepted)} proofs that hold, {len(refused)} that do not\n")


if __name__ == "__main__":
    main(sys.argv[1])
