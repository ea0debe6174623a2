"""Rounding to few bits: in each block to whole multiples of a step, up or down at random.

A block is that of :mod:`qres_core.packing`, which finds the step by itself: so the result takes
``bits`` a number, and five bytes a block. All is done in whole numbers of the grid.
"""

from __future__ import annotations

import hashlib
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from qres_core import Vector, fixed, packing

BITS: Final = (8, 4, 2)
"""Bits that a number may have."""
KEY_BYTES: Final = 32
_WHOLE: Final = 64
_REACHES: Final = {8: (_WHOLE,), 4: (_WHOLE,), 2: (_WHOLE, 48, 32, 24, 16, 8, 4, 2)}
"""How far a block may reach, in parts of its largest number, by bits; the best is taken. With two
bits there are three levels. If they always reached as far as the largest number, rounding would
take away more than there is, and what is fed back would grow for ever."""
_AT_ONCE: Final = 256
"""Blocks that are rounded at once, with random numbers of their own."""
_DOMAIN: Final = b"qres/quantize/v1\0"

_Whole = NDArray[np.int64]


def most_level(bits: int) -> int:
    """The largest level: levels are ``-most .. most``."""
    return (1 << (bits - 1)) - 1


def rounded(target: NDArray[Any], bits: int, key: bytes) -> Vector:
    """Numbers near the target that take few bits.

    Each is a whole multiple of its block's step, at most :func:`most_level` times it. Where no
    number is cut to fit, its mean over the keys is the target, apart from ``2**-32`` of a step.

    Args:
        target: whole numbers of the grid, shape ``(d,)``; beyond ``fixed.LIMIT`` less 127 they are
            cut.
        bits: 8, 4 or 2.
        key: 32 bytes, for this target alone. Nobody without it can tell how it is rounded.

    Returns:
        int32, shape ``(d,)``, within ``fixed.LIMIT``.

    Complexity: O(d).

    Example:
        >>> rounded(np.int32([700, 0, -350, 100]), 4, bytes(32)).tolist()
        [700, 0, -400, 100]
        >>> rounded(np.int32([5, -1, 0]), 4, bytes(32)).tolist()
        [5, -1, 0]
    """
    most = most_level(bits)
    room = fixed.LIMIT - most  # a step is rounded up by less than 1, and a number by most of that
    flat = np.clip(np.asarray(target, dtype=np.int64), -room, room)
    made = np.empty(flat.size, dtype=np.int32)
    size = _AT_ONCE * packing.BLOCK
    for number, first in enumerate(range(0, flat.size, size)):
        part = flat[first : first + size]
        blocks = np.zeros((-(-part.size // packing.BLOCK), packing.BLOCK), dtype=np.int64)
        blocks.reshape(-1)[: part.size] = part
        near = _near(blocks, most, _REACHES[bits], _random(key, number, blocks.shape))
        made[first : first + size] = near.reshape(-1)[: part.size]
    return made


def _random(key: bytes, number: int, shape: tuple[int, ...]) -> _Whole:
    """Whole numbers below ``2**32``, of SHAKE256 with the key."""
    source = hashlib.shake_256(_DOMAIN + key + number.to_bytes(8, "little"))
    words = np.frombuffer(source.digest(4 * shape[0] * shape[1]), dtype="<u4")
    return words.astype(np.int64).reshape(shape)


def _near(blocks: _Whole, most: int, reaches: tuple[int, ...], words: _Whole) -> _Whole:
    step = _steps(blocks, most, reaches)[:, None]
    reach = most * step
    level, rest = np.divmod(np.clip(blocks, -reach, reach), step)
    near: _Whole = (level + (words * step < rest << 32)) * step
    return near


def _steps(blocks: _Whole, most: int, reaches: tuple[int, ...]) -> _Whole:
    """The step of each block that takes away least, on average."""
    sizes = np.abs(blocks)
    peaks = sizes.max(axis=1)
    steps = [np.maximum(-(-peaks * part // (_WHOLE * most)), 1) for part in reaches]
    lost = [_lost(sizes, step[:, None], most) for step in steps] if len(steps) > 1 else [peaks]
    best: _Whole = np.choose(np.argmin(lost, axis=0), steps)
    return best


def _lost(sizes: _Whole, step: _Whole, most: int) -> NDArray[np.float64]:
    """The mean square that rounding takes away from each block."""
    held = np.minimum(sizes, most * step)
    rest = (held % step).astype(np.float64)
    cut = (sizes - held).astype(np.float64)
    lost: NDArray[np.float64] = (rest * (step - rest) + cut * cut).sum(axis=1)
    return lost
