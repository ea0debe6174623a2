"""The operating system's randomness, replayed, so that a played attack gives the same bits again.

Plugins draw noise and keys from ``os.urandom``, as they must, and results that hold noise would
differ from run to run. While an exhibit is played, ``os.urandom`` is a stream that the seed
decides. Nothing that is played here is a secret of anybody. Never to be used around a real node.
"""

from __future__ import annotations

import hashlib
import inspect
import os
from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager


@contextmanager
def replayed(label: str) -> Generator[None]:
    """``os.urandom`` as a function of a label, the calling module and how often it asked.

    By module, because libraries that are loaded on first use draw a few bytes of their own. What
    holds a reference to the real function, as ``secrets`` does, goes on using it: masks and proofs
    stay random, and no result depends on them.
    """
    real, asked = os.urandom, Counter[str]()

    def urandom(size: int, /) -> bytes:
        here = inspect.currentframe()
        caller = None if here is None else here.f_back
        module = "" if caller is None else str(caller.f_globals.get("__name__"))
        asked[module] += 1
        key = f"qres/gallery/{label}/{module}/{asked[module]}"
        return hashlib.shake_256(key.encode()).digest(size)

    os.urandom = urandom
    try:
        yield
    finally:
        os.urandom = real
