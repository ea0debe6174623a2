"""Correlated noise in mode central: the noise of a swarm's models, the same on every node.

The noise of a step takes back some of that of earlier steps, so a node needs the keys of all steps
before to merge the next. It keeps them on disk, and every contribution carries them too, 32 bytes a
step: a node that missed rounds takes the keys that more than ``byzantine`` of the agreed
contributions name. Members of the swarm could compute the noise anyway; those who see only models
get no contributions.

A step of the model is charged once, however many attempts it takes, with what it adds to the price
of the stream: see :mod:`qres_dp.stream`.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qres_core import QresError, ValueRefusedError, canonical, stores
from qres_dp.correlated import CorrelatedNoise
from qres_dp.randomness import KEY_BYTES
from qres_dp.stream import StreamShape

FILE: Final = "dp-central-noise"
MOST_STEPS: Final = 2**14
"""A contribution carries 32 bytes for every step, half a MiB at most."""
_DOMAIN: Final = b"qres/dp/central/stream/v1\0"
_RELEASE: Final = b"qres/dp/central/step/v1\0"
_DIGEST: Final = 32
_MAX_BYTES: Final = KEY_BYTES * MOST_STEPS + 1024


class CentralStream:
    """What one node knows of the stream.

    Args:
        swarm: the swarm's name.
        shape: what the stream is; ``offset`` and turns do not change the noise.
        folder: where the keys are kept, or ``None``.

    Raises:
        ValueRefusedError: QRES-E313 where the grid does not hold the noise.
    """

    def __init__(self, swarm: str, shape: StreamShape, folder: Path | None) -> None:
        self.shape = shape
        numbers = [shape.steps, shape.band, shape.separation, shape.bound, shape.dimension]
        variance = [str(shape.variance.numerator), str(shape.variance.denominator)]
        self._name = hashlib.sha256(_DOMAIN + canonical.dumps([swarm, numbers, variance])).digest()
        self._folder = folder
        self._keys: list[bytes] = []
        self._pending: tuple[bytes, NDArray[np.int32]] | None = None
        self._noise = self._begin()
        self._adopt(self._read())

    def _begin(self) -> CorrelatedNoise:
        shape = self.shape
        return CorrelatedNoise(shape.factor, shape.variance, shape.dimension, shape.steps)

    def _adopt(self, keys: list[bytes]) -> None:
        if keys[: len(self._keys)] != self._keys:
            self._keys, self._noise = [], self._begin()
        self._noise.replay(keys[len(self._keys) :])
        self._keys = keys

    def release_name(self, step: int) -> bytes:
        """Names the one release that a step of the model can end with, 32 bytes."""
        return hashlib.sha256(_RELEASE + step.to_bytes(8, "little") + self._name).digest()

    def price(self, step: int) -> float:
        """The noise multiplier a step is charged with.

        Raises ValueRefusedError: QRES-E509 past the last step.
        """
        if step >= self.shape.steps:
            what = f"the stream of correlated noise has {self.shape.steps} steps, and all are used"
            raise ValueRefusedError.of("QRES-E509", "plugins.dp.rounds", what)
        return self.shape.price(step)

    def testimony(self, step: int) -> bytes:
        """The keys of all steps before this one, as a contribution carries them.

        Raises ValueRefusedError: QRES-E507 for a node that missed rounds: it sits this one out.
        """
        if len(self._keys) != step:
            what = f"the noise of {len(self._keys)} rounds is known here, and the model has {step}"
            fix = "none: the node learns it when it merges this round"
            raise ValueRefusedError.of("QRES-E507", "plugins.dp.noise", what, fix)
        return b"".join(self._keys)

    def hear(self, step: int, testimonies: Iterable[bytes], liars: int) -> None:
        """Take the keys that the agreed contributions name.

        Honest nodes that do not know them sit out, so those in the set all say the same.

        Args:
            step: of the round.
            testimonies: one of each contribution.
            liars: how many may be false, the swarm's ``byzantine``.

        Raises:
            ValueRefusedError: QRES-E505 if not exactly one history is named by more than ``liars``.

        Complexity: O(1) for a node that knows it; else a draw for every step it missed.
        """
        said = Counter(testimony for testimony in testimonies if len(testimony) == step * KEY_BYTES)
        named = [history for history, count in said.items() if count > liars]
        if len(named) != 1:
            what = f"{len(named)} histories of noise are named by more than {liars} contributions"
            raise ValueRefusedError.of("QRES-E505", "companions.dp", what)
        keys = [named[0][n : n + KEY_BYTES] for n in range(0, len(named[0]), KEY_BYTES)]
        if keys != self._keys:
            self._adopt(keys)

    def draw(self, key: bytes) -> NDArray[np.int32]:
        """The noise of the next step; it counts as taken once :meth:`closed` is told."""
        noise = self._noise.draw(key)
        self._pending = key, noise
        return noise

    def forget(self) -> None:
        """The round was aborted, or another begins."""
        self._pending = None

    def closed(self) -> None:
        """The round closed: its noise is in the model.

        Raises RoundError: QRES-E602 when the disk does not take the key.
        """
        pending, self._pending = self._pending, None
        if pending is not None:
            self._keys.append(pending[0])
            self._noise.advance(pending[1])
            self._write()

    def close(self) -> None:
        """Nothing is held open."""

    # ── the file ──────────────────────────────────────────────────────────────────────────────

    def _read(self) -> list[bytes]:
        """The keys kept; none where the file is missing, damaged or another stream's.

        Nothing is lost then that the others do not know.
        """
        if self._folder is None:
            return []
        try:
            with (self._folder / FILE).open("rb") as file:
                octets = file.read(_MAX_BYTES)
            digest, body = octets[:_DIGEST], octets[_DIGEST:]
            value: Any = canonical.loads(body, max_bytes=_MAX_BYTES)
            name, joined = value
        except (OSError, QresError, TypeError, ValueError):
            return []
        sound = digest == hashlib.sha256(_DOMAIN + body).digest() and name == self._name
        if not sound or type(joined) is not bytes or len(joined) % KEY_BYTES:
            return []
        keys = [joined[n : n + KEY_BYTES] for n in range(0, len(joined), KEY_BYTES)]
        return keys if len(keys) <= self.shape.steps else []

    def _write(self) -> None:
        if self._folder is None:
            return
        body = canonical.dumps([self._name, b"".join(self._keys)])
        digest = hashlib.sha256(_DOMAIN + body).digest()
        stores.replace_file(self._folder / FILE, digest + body)
