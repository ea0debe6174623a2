"""Whether the core, a rule and privacy alone are enough, and what the laboratory adds.

    python -P scripts/try_small.py --bin ENVIRONMENT/bin --wheels dist

The environment has the pins of ``requirements/node.txt`` and nothing of QRES. Installed are the
wheels of qres-core, qres-krum, qres-dp and what these two stand on. They check a configuration and
simulate a trainer that nobody else knows. Every command of the laboratory is refused, with the line
that installs it, and so is a check for a framework. With a plugin for keys a node runs; with
hosting and the laboratory their commands are there.
Exit status 1 says which of it is not so.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

TRAINER: Final = """\
import numpy as np
from qres_core import Update, fixed


class Mine:
    def __init__(self, index, scale):
        self.goal, self.scale = np.array([index / 8, 1.0, 0.5]), scale

    def fit(self, vector, round_info):
        here = fixed.decode(vector, scale=self.scale)
        return Update(fixed.encode(0.5 * (self.goal - here), scale=self.scale).vector)

    def evaluate(self, vector, round_info):
        return {"loss": float(np.sum((fixed.decode(vector, scale=self.scale) - 0.5) ** 2))}


def make(*, index, nodes, seed, scale):
    return Mine(index, scale), np.zeros(3, dtype=np.int32)
"""
SWARM: Final = """\
[swarm]
name = "small"
nodes = 7
byzantine = 1
quorum = 6
insecure = true
[simulation]
rounds = 3
[trainer]
entry = "mine:make"
path = "."
[plugins.memory]
[plugins.krum]
f = 1
[plugins.dp]
mode = "local"
clip = 1.0
noise_multiplier = 1.0
delta = 1e-5
rounds = 5
"""
NODE: Final = """\
[swarm]
name = "alone"
nodes = 1
byzantine = 0
quorum = 1
rounds = 3
roster = ["{identity}"]
insecure = true
[node]
data_dir = "data"
[simulation]           # a node ignores it
attack = "mimic"
attackers = 1
[trainer]
entry = "mine:make"
path = "."
[plugins.memory]
[plugins.mean]
unprotected = true
[plugins.ed25519]
key = "node.key"
"""
SMALL: Final = ("qres_core", "qres_arithmetic", "qres_krum", "qres_dp")
LABORATORY: Final = 'fix: pip install "qres-core[lab]": in a checkout of QRES, ./libraries/qres_lab'
HOSTING: Final = (
    'fix: pip install "qres-core[hosting]": in a checkout of QRES, ./libraries/qres_hosting'
)
AUDIT: Final = 'fix: pip install "qres-dp[audit]": in a checkout of QRES, ./libraries/qres_dp_audit'
REFUSED: Final = {
    "attack list": LABORATORY,
    "certify krum": LABORATORY,
    "demo": LABORATORY,
    "new-plugin mine": LABORATORY,
    "swarm up small.toml": LABORATORY,
    "simulate small.toml --attack mimic --attackers 1": LABORATORY,
    "simulate small.toml --attack replay --attackers 1": LABORATORY,
    'simulate small.toml --set simulation.engine="vectorised"': LABORATORY,
    "check small.toml --host flower": HOSTING,
    "dp audit --seed 1": AUDIT,
}
"""Commands that want a distribution which is not there, and what they say of it."""
HEARD: Final = 600.0
"""Seconds after which a command is taken to hang."""


class Trial:
    """The environment, and a folder to play in."""

    def __init__(self, binaries: Path, wheels: Path, folder: Path) -> None:
        self._bin, self._wheels, self._folder = binaries.resolve(), wheels.resolve(), folder
        self.failures: list[str] = []

    def install(self, *packages: str) -> None:
        """Install wheels of ours, and nothing that they ask for."""
        found = [str(next(self._wheels.glob(f"{name}-[0-9]*.whl"))) for name in packages]
        pip = [str(self._bin / "python"), "-m", "pip", "install", "--quiet", "--no-deps"]
        subprocess.run([*pip, *found], check=True, cwd=self._folder)

    def qres(self, words: str, *, code: int = 0, says: str = "") -> str:
        """Run a command, which ends with that code and says that; returns what it printed."""
        command: Sequence[str] = [str(self._bin / "qres"), *words.split()]
        done = subprocess.run(
            command, cwd=self._folder, capture_output=True, text=True, check=False, timeout=HEARD
        )
        said = done.stdout + done.stderr
        right = done.returncode == code and says in said
        print(f"{'as promised' if right else 'NOT SO':12} qres {words}: {done.returncode}")
        if not right:
            self.failures.append(words)
            print(said)
        return done.stdout


def main() -> int:
    """Try it."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--bin", type=Path, required=True, help="programs of the environment")
    parser.add_argument("--wheels", type=Path, required=True, help="folder of the built wheels")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder)
        (place / "mine.py").write_text(TRAINER, encoding="utf-8")
        (place / "small.toml").write_text(SWARM, encoding="utf-8")
        trial = Trial(given.bin, given.wheels, place)
        trial.install(*SMALL)
        trial.qres("check small.toml", says="small.toml would start")
        trial.qres("simulate small.toml", says="3 rounds closed, 0 aborted")
        trial.qres("simulate small.toml --attack sign_flip --attackers 1", says="3 rounds closed")
        for words, fix in REFUSED.items():
            trial.qres(words, code=2, says=fix)
        trial.install("qres_ed25519")
        trial.qres("keygen node.key --no-passphrase")
        identity = json.loads(trial.qres("key show node.key --json"))["public_key"]
        node = NODE.format(identity=identity)
        (place / "node.toml").write_text(node, encoding="utf-8")
        trial.qres("node run node.toml")
        trial.install("qres_hosting")
        inside = 'check small.toml --host flower --set node.data_dir="data"'
        trial.qres(inside, says="takes the place of agreement")
        trial.install("qres_lab", "qres_dp_audit")
        trial.qres("attack list", says="qres-secagg")  # whose exhibits are left out, by name
        trial.qres("simulate small.toml --attack mimic --attackers 1", says="3 rounds closed")
        trial.qres('simulate small.toml --set simulation.engine="vectorised"', says="3 rounds")
        trial.qres("new-plugin mine --hook aggregate")
        trial.qres("dp audit --seed 1", says="holds")
    if trial.failures:
        print(f"not as promised: {'; '.join(trial.failures)}")
    return 1 if trial.failures else 0


if __name__ == "__main__":
    sys.exit(main())
