"""Random choices of an app: made again from the seed, the index of the node and the round."""

from __future__ import annotations

import random
import sys
import threading
from collections.abc import Generator
from contextlib import ExitStack, contextmanager
from typing import Any, Final

import numpy as np

_TURN: Final = threading.RLock()  # the generators belong to the process


def seed_of(*numbers: int) -> int:
    """A seed below ``2**63`` that follows from whole numbers, none of them negative."""
    drawn: int = np.random.SeedSequence(numbers).generate_state(1, np.uint64)[0]
    return int(drawn) >> 1


@contextmanager
def drawn_by(seed: int) -> Generator[None]:
    """Seed the generators of Python, numpy and, where it is loaded, torch; put them back after it.

    Nothing else that is drawn by this takes place meanwhile in another thread.
    """
    torch: Any = sys.modules.get("torch")
    with _TURN, ExitStack() as stack:
        if torch is not None:
            stack.enter_context(torch.random.fork_rng())
        python, arrays = random.getstate(), np.random.get_state()  # noqa: NPY002 - apps use it
        try:
            if torch is not None:
                torch.manual_seed(seed)
            random.seed(seed)
            np.random.seed(seed % 2**32)  # noqa: NPY002 - as above
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)  # noqa: NPY002 - as above
