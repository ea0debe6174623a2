"""Known faults: each is a change of the source text of an installed module of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs


@attrs.frozen
class Mutant:
    """A fault."""

    module: str  # below the package
    old: str  # source text that occurs once
    new: str  # what stands there instead
    setting: str  # in which it is looked for


def _noise(new: str, setting: str = "distributed") -> Mutant:
    old = "    distribution = discrete_gaussian(mechanism.share)\n"
    return Mutant("releases.local", old, new, setting)


_SAMPLE = "    noise = distribution.sample(row.size, fresh_key())\n"
_CLIP = "    short = clipped(vector, bound)\n"
_OS = "    return os.urandom(KEY_BYTES)\n"
_OUT = "                    block += drawn\n        return out\n"


def _share(factor: str) -> Mutant:
    return _noise(f"    distribution = discrete_gaussian(mechanism.share * {factor})\n")


def _sample(new: str, setting: str = "distributed") -> Mutant:
    return Mutant("releases.local", _SAMPLE, new, setting)


def _clip(new: str) -> Mutant:
    return Mutant("clip", _CLIP, "    import numpy as np\n" + new, "distributed")


def _key(new: str) -> Mutant:
    return Mutant("randomness", _OS, new, "local")


MUTANTS: Final[Mapping[str, Mutant]] = {
    # Size of the noise.
    "half the noise": _share("1 / 4"),
    "0.9 of the noise": _share("81 / 100"),
    "forgotten z": _share("4"),
    "0.9 of the noise in the mechanism": Mutant(
        "modes",
        "deviation = Fraction(self.noise_multiplier) * self.sensitivity",
        "deviation = Fraction(self.noise_multiplier) * self.sensitivity * Fraction(9, 10)",
        "local",
    ),
    "neighbours half as far apart": Mutant(
        "modes",
        "return 1 if self is Relation.ADD_REMOVE else 2",
        "return 1",
        "local",
    ),
    "share over honest squared": Mutant(
        "modes", "self.variance / self.honest)", "self.variance / self.honest**2)", "distributed"
    ),
    "tail without noise": _sample(_SAMPLE + "    noise[-max(1, row.size // 16):] = 0\n"),
    "noise after which is clipped": Mutant(
        "releases.local",
        "        noise += row.astype(np.int32, copy=False)\n",
        "        noise += row.astype(np.int32, copy=False)\n"
        "        noise = clip(noise, mechanism.bound).vector\n",
        "distributed",
    ),
    "noise cut at three deviations": _sample(
        _SAMPLE
        + "    far = int(3 * float(mechanism.share) ** 0.5)\n"
        + "    noise = np.clip(noise, -far, far)\n"
    ),
    # Independence of the noise, and its keys.
    "keys from the clock": _key(
        "    import hashlib, time\n"
        "    return hashlib.sha256(b'%d' % (time.time() // 3600)).digest()\n"
    ),
    "noise used again": _sample("    noise = distribution.sample(row.size, bytes(32)).copy()\n"),
    "keys of two bytes": _key("    return os.urandom(2) + bytes(30)\n"),
    "a key for three releases": _key(
        "    global _N, _K\n    _N += 1\n    _K = os.urandom(KEY_BYTES) if _N % 3 == 1 else _K\n"
        "    return _K\n\n\n_N, _K = 0, b''\n"
    ),
    "keys from a counter": _key(
        "    global _N\n    _N += 1\n    import hashlib\n"
        "    return hashlib.sha256(b'%d' % _N).digest()\n\n\n_N = 0\n"
    ),
    "keys from a seeded generator": _key(
        "    import random\n    return random.randbytes(KEY_BYTES)\n"
    ),
    "a key that the round names": Mutant(
        "releases.local",
        "        noisy = noised(clipped, mechanism)\n",
        "        global fresh_key\n        import hashlib\n"
        "        place = str((self.by.node, round_info.number)).encode()\n"
        "        fresh_key = lambda: hashlib.sha256(place).digest()\n"
        "        noisy = noised(clipped, mechanism)\n",
        "local",
    ),
    "a key that the data name": _sample(
        "    import hashlib\n"
        "    noise = distribution.sample(row.size, hashlib.sha256(row.tobytes()).digest())\n"
    ),
    "every number twice": Mutant(
        "discrete_gaussian",
        _OUT,
        _OUT.replace(
            "return out", "out[1::2] = -out[: out.size - out.size % 2 : 2]\n        return out"
        ),
        "local",
    ),
    "sizes of noise twice": Mutant(
        "discrete_gaussian",
        _OUT,
        _OUT.replace(
            "return out",
            "half = out.size // 2\n"
            "        out[half : 2 * half] = np.sign(out[half : 2 * half]) * np.abs(out[:half])\n"
            "        return out",
        ),
        "local",
    ),
    "noise of rows used again": _sample(
        "    noise = distribution.sample(row.size, bytes(32)).copy()\n", "encoded"
    ),
    # How far a unit moves what is released.
    "no clipping": _clip("    short = vector\n"),
    "clipping by layer": _clip(
        "    parts = np.array_split(vector, 4)\n"
        "    short = np.concatenate([clipped(np.ascontiguousarray(p), bound) for p in parts])\n"
    ),
    "clipping by coordinate": _clip(
        "    short = np.clip(vector, -bound, bound).astype(np.int32)\n"
    ),
    "clipping in floats": _clip(
        "    norm = float(np.linalg.norm(vector.astype(np.float64)))\n"
        "    short = np.rint(vector * min(1.0, bound / max(norm, 1e-9))).astype(np.int32)\n"
    ),
    "norm that wraps": _clip(
        "    wide = vector.astype(np.int64)\n    square = int(np.sum(wide * wide))\n"
        "    short = vector\n    if square > bound * bound:\n"
        "        short = (vector * (bound / square**0.5)).astype(np.int32)\n"
    ),
    "twice the clip for a record": Mutant(
        "terms",
        "RecordClip(self.clip, self.units)",
        "RecordClip(2 * self.clip, self.units)",
        "record",
    ),
    "sensitivity of rows for one turn": Mutant(
        "correlated.factor",
        "for start in starts[: participation.times]:",
        "for start in starts[:1]:",
        "encoded",
    ),
    "data in every row": Mutant(
        "releases.encoded",
        "        carries = self.carries(step)\n",
        "        carries = True\n",
        "encoded",
    ),
    "rows of updates as they are": Mutant(
        "releases.encoded",
        "clip(update.vector, mechanism.length).vector if carries",
        "update.vector if carries",
        "encoded",
    ),
    # Sums.
    "sums of any size": Mutant(
        "releases.shared", "if len(members) < honest + others:", "if not members:", "distributed"
    ),
    # What is said of it.
    "half the epsilon": Mutant(
        "accounting.composition",
        "    return gaussian.epsilon(mu, delta)\n",
        "    return gaussian.epsilon(mu, delta) / 2\n",
        "local",
    ),
    "ledger that does not count": Mutant(
        "ledger",
        "            self._kinds[_kind(record.charge)] += 1\n",
        "            pass\n",
        "local",
    ),
    "charges that stay in memory": Mutant(
        "ledger", "else self._store.append(make)", "else make(self._head)", "local"
    ),
    "ledger that a restart forgets": Mutant(
        "keeping",
        "            return PrivacyLedger.open(self.folder, self.owner)\n",
        "            return PrivacyLedger.in_memory(self.owner)\n",
        "local",
    ),
    "charges for twice the noise": Mutant(
        "terms",
        "self.multiplier if multiplier is None else multiplier",
        "2 * self.multiplier if multiplier is None else multiplier",
        "distributed",
    ),
    "second attempts for nothing": Mutant(
        "ledger",
        "        record = make(self._head) if",
        "        if any(r.charge.height == charge.height for r in self._records):\n"
        "            return self._records[-1]\n"
        "        record = make(self._head) if",
        "local",
    ),
    "budget without an end": Mutant(
        "ledger", "        if not total <= budget.epsilon:\n", "        if False:\n", "local"
    ),
    "rows charged without earlier updates": Mutant(
        "releases.encoded",
        "        price = shape.price_of(reach(memory.factor, taken, step))\n",
        "        price = shape.price_of(reach(memory.factor, [step] * carries, step))\n",
        "encoded",
    ),
}
"""The faults, by name."""
