"""Known faults: each is a change of the source text of an installed module of this package."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

import attrs


@attrs.frozen
class SeededFault:
    """A fault."""

    module: str  # below the package
    old: str  # source text that occurs once
    new: str  # what stands there instead


_SAMPLE = "    noise = distribution.sample(row.size, fresh_key())\n"
_CLIP = "    short = clipped(vector, bound)\n"
_OS = "    return os.urandom(KEY_BYTES)\n"
_OUT = "                    block += drawn\n        return out\n"
_NOISED = "        noisy = noised(clipped, mechanism)\n"
_OWN = "        taken = [item for item in memory.own if item < step] + [step] * carries\n"


def _share(factor: str) -> SeededFault:
    old = "    distribution = discrete_gaussian(mechanism.share)\n"
    return SeededFault("releases.local", old, old.replace("share", f"share * {factor}"))


def _sample(more: str) -> SeededFault:
    """Noise that is changed after it was drawn."""
    return SeededFault("releases.local", _SAMPLE, _SAMPLE + more)


def _keyed(key: str) -> SeededFault:
    """Noise of a key that is not fresh."""
    return SeededFault("releases.local", _SAMPLE, _SAMPLE.replace("fresh_key()", key))


def _clip(new: str) -> SeededFault:
    return SeededFault("clip", _CLIP, "    import numpy as np\n" + new)


def _key(new: str) -> SeededFault:
    return SeededFault("randomness", _OS, new)


def _out(more: str) -> SeededFault:
    return SeededFault("discrete_gaussian", _OUT, _OUT.replace("return out", more + "return out"))


FAULTS: Final[Mapping[str, SeededFault]] = {
    # Size and shape of the noise.
    "half the noise": _share("1 / 4"),
    "0.9 of the noise": _share("81 / 100"),
    "forgotten z": _share("4"),
    "0.9 of the noise in the mechanism": SeededFault(
        "modes",
        "deviation = Fraction(self.noise_multiplier) * self.sensitivity",
        "deviation = Fraction(self.noise_multiplier) * self.sensitivity * Fraction(9, 10)",
    ),
    "neighbours half as far apart": SeededFault(
        "modes", "return 1 if self is Relation.ADD_REMOVE else 2", "return 1"
    ),
    "replaced updates counted once in sums": SeededFault(
        "modes",
        "return self.relation.apart * self.bound",
        "return (self.relation.apart if self.mode is Mode.LOCAL else 1) * self.bound",
    ),
    "share over honest squared": SeededFault(
        "modes", "self.variance / self.honest)", "self.variance / self.honest**2)"
    ),
    "half the noise of records alone": SeededFault(
        "modes",
        "self.variance / self.honest)",
        "self.variance / (4 if self.mode is Mode.LOCAL and self.units > 1 else self.honest))",
    ),
    "tail without noise": _sample("    noise[-max(1, row.size // 16):] = 0\n"),
    "no noise beyond coordinate 131,072": _sample("    noise[2**17 :] = 0\n"),
    "half the noise of narrow tables": _sample(
        "    if len(distribution.levels) == 1:\n        noise //= 2\n"
    ),
    "noise in multiples of 1024 steps": _sample(
        "    if len(distribution.levels) > 1:\n        noise &= -1024\n"
    ),
    "even noise": _sample("    noise &= -2\n"),
    "noise cut at three deviations": _sample(
        "    far = int(3 * float(mechanism.share) ** 0.5)\n    noise = np.clip(noise, -far, far)\n"
    ),
    "noise cut at 4.4 deviations": _sample(
        "    far = int(4.4 * float(mechanism.share) ** 0.5)\n"
        "    noise = np.clip(noise, -far, far)\n"
    ),
    "noise cut at five deviations": _sample(
        "    far = int(5 * float(mechanism.share) ** 0.5)\n    noise = np.clip(noise, -far, far)\n"
    ),
    "noise after which is clipped": SeededFault(
        "releases.local",
        "        noise += row.astype(np.int32, copy=False)\n",
        "        noise += row.astype(np.int32, copy=False)\n"
        "        noise = clip(noise, mechanism.bound).vector\n",
    ),
    "every number twice": _out("out[1::2] = -out[: out.size - out.size % 2 : 2]\n        "),
    "sizes of noise twice": _out(
        "half = out.size // 2\n"
        "        out[half : 2 * half] = np.sign(out[half : 2 * half]) * np.abs(out[:half])\n"
        "        "
    ),
    # Its keys.
    "keys from the clock": _key(
        "    import hashlib, time\n"
        "    return hashlib.sha256(b'%d' % (time.time() // 3600)).digest()\n"
    ),
    "keys of two bytes": _key("    return os.urandom(2) + bytes(30)\n"),
    "keys of 40 bits": _key("    return os.urandom(KEY_BYTES)[:5] + bytes(27)\n"),
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
    "noise used again": _keyed("bytes(32)"),
    "a key that the data name": _keyed("__import__('hashlib').sha256(row.tobytes()).digest()"),
    "a key that the round names": SeededFault(
        "releases.local",
        _NOISED,
        "        global fresh_key\n        import hashlib\n"
        "        place = str((self.by.node, round_info.number)).encode()\n"
        "        fresh_key = lambda: hashlib.sha256(place).digest()\n" + _NOISED,
    ),
    "a second attempt repeats the noise of the first": SeededFault(
        "releases.local",
        _NOISED,
        "        global fresh_key\n        import os\n"
        "        kept, place = globals().setdefault('_KEPT', {}), (id(self), round_info.height)\n"
        "        fresh_key = lambda: kept.setdefault(place, os.urandom(32))\n" + _NOISED,
    ),
    # How far a unit moves what is released.
    "no clipping": _clip("    short = vector\n"),
    "no clipping above 8,192 coordinates": _clip(
        "    short = clipped(vector, bound) if vector.size <= 8192 else vector\n"
    ),
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
    "twice the clip for a record": SeededFault(
        "terms", "RecordClip(self.clip, self.units)", "RecordClip(2 * self.clip, self.units)"
    ),
    "the weight of the update": SeededFault(
        "releases.local", "vector=noisy, weight=1)", "vector=noisy)"
    ),
    "companions of others": SeededFault("plugin", "if update.companions:", "if False:"),
    # Rows of correlated noise.
    "sensitivity of rows for one turn": SeededFault(
        "correlated.factor",
        "for start in starts[: participation.times]:",
        "for start in starts[:1]:",
    ),
    "data in every row": SeededFault(
        "releases.encoded",
        "        carries = self.carries(step)\n",
        "        carries = True\n",
    ),
    "rows of updates as they are": SeededFault(
        "releases.encoded",
        "clip(update.vector, mechanism.length).vector if carries",
        "update.vector if carries",
    ),
    "rows charged without earlier updates": SeededFault(
        "releases.encoded",
        "reach(memory.factor, taken, step)",
        "reach(memory.factor, [step] * carries, step)",
    ),
    "rows from before a restart for nothing": SeededFault(
        "releases.encoded",
        _OWN,
        "        begun = memory.__dict__.setdefault('begun', step)\n"
        + _OWN.replace("if item < step]", "if begun <= item < step]"),
    ),
    "updates of a killed process for nothing": SeededFault(
        "releases.encoded",
        _OWN,
        "        charges = [record.charge for record in self.book.records]\n"
        "        rows = {charge.row for charge in charges if charge.node == self.by.node}\n"
        + _OWN.replace("if item < step]", "if item < step and item in rows]"),
    ),
    "records without what rounding adds": SeededFault(
        "releases.encoded", "if terms.unit is Unit.RECORD:", "if False:"
    ),
    # Sums, and what is refused.
    "sums of any size": SeededFault(
        "releases.shared", "if len(members) < honest + others:", "if not members:"
    ),
    "one watcher whatever the colluders": SeededFault(
        "fitting", "return max(1, colluders)", "return 1"
    ),
    "nodes say when they are content": SeededFault("plugin", "if around.until:", "if False:"),
    "companions pass the check": SeededFault("fitting", "if around.companions:", "if False:"),
    # What is said of it.
    "half the epsilon": SeededFault(
        "accounting.composition",
        "    return gaussian.epsilon(mu, delta)\n",
        "    return gaussian.epsilon(mu, delta) / 2\n",
    ),
    "groups at the price of their root": SeededFault(
        "account", "{noise / size: ", "{noise / size**0.5: "
    ),
    "ledger that does not count": SeededFault(
        "ledger", "            self._kinds[_kind(record.charge)] += 1\n", "            pass\n"
    ),
    "charges that stay in memory": SeededFault(
        "ledger", "else self._store.append(make)", "else make(self._head)"
    ),
    "ledger that a restart forgets": SeededFault(
        "keeping",
        "            return PrivacyLedger.open(self.folder, self.owner)\n",
        "            return PrivacyLedger.in_memory(self.owner)\n",
    ),
    "charges for twice the noise": SeededFault(
        "terms",
        "self.multiplier if multiplier is None else multiplier",
        "2 * self.multiplier if multiplier is None else multiplier",
    ),
    "second attempts for nothing": SeededFault(
        "ledger",
        "        record = make(self._head) if",
        "        if any(r.charge.height == charge.height for r in self._records):\n"
        "            return self._records[-1]\n"
        "        record = make(self._head) if",
    ),
    "budget without an end": SeededFault(
        "ledger", "        if not total <= budget.epsilon:\n", "        if False:\n"
    ),
    "charges of others are not read": SeededFault(
        "ledger", "            self._store.refresh()\n", "            return\n"
    ),
    "charges of others are not counted": SeededFault(
        "ledger",
        "                self._take(self._store.records[len(self._records) :])\n            total",
        "                pass\n            total",
    ),
    "the same data twice in a sum": SeededFault(
        "ledger", "if charge.mode == Mode.DISTRIBUTED.value and other != charge.node:", "if False:"
    ),
    "an anchor that stays": SeededFault(
        "ledger.store",
        "        with self._db.transaction():\n            self.refresh()\n"
        "            self._write_anchor()\n        return record\n",
        "        return record\n",
    ),
    "a journal that nobody asks": SeededFault(
        "plugin",
        "        self._lack.check(release.ledger, round_info.swarm, info.node_id, contributed)\n",
        "",
    ),
    "no wait after a restart": SeededFault(
        "plugin", "release.waits = release.is_seen and", "release.waits = False and"
    ),
}
"""The faults, by name."""
