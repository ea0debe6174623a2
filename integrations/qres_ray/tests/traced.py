"""Trainers that the tests send to Ray."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Mapping
from pathlib import Path

import attrs
import numpy as np

from qres_core import RoundInfo, Update, Vector


@attrs.define
class Adding:
    """Goes a step that depends on all its steps before, and keeps what it needs for that."""

    node: int
    folder: str = ""
    steps: int = 0
    number: int = 0

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        """Train."""
        if round_info.number != self.number:
            self.steps, self.number = 3 * self.steps + self.node + 1, round_info.number
        return Update(np.full(vector.size, self.steps % 1009 + int(vector[0]) % 7, dtype=np.int32))

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        """What it keeps, and the model."""
        return {"kept": float(self.steps + vector[0])}

    def remember(self) -> bytes:
        """What it keeps."""
        return f"{self.steps} {self.number}".encode()

    def recall(self, memory: bytes) -> None:
        """Keep that."""
        self.steps, self.number = (int(part) for part in memory.split())

    def note(self, *words: object) -> None:
        """Tell something by the name of a file."""
        Path(self.folder, "-".join(map(str, words))).touch()


@attrs.define
class Telling(Adding):
    """Tells its process and the GPUs that this may use."""

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        """Train."""
        self.note(self.node, round_info.number, os.getpid(), os.environ["CUDA_VISIBLE_DEVICES"])
        return super().fit(vector, round_info)


@attrs.define
class Mortal(Adding):
    """Its process dies in the middle of the second step, so many times."""

    times: int = 1

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        """Train."""
        died = len(list(Path(self.folder).iterdir()))
        if (self.node, round_info.step) == (2, 1) and died < self.times:
            self.note(died)
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(vector, round_info)


@attrs.define
class Lasting(Adding):
    """Does not come back; tells its process and the one above it."""

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        """Train."""
        self.note(os.getpid(), os.getppid())
        time.sleep(3600)
        return super().fit(vector, round_info)


@attrs.define
class Raising(Adding):
    """Raises in its second step."""

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        """Train."""
        if (self.node, round_info.step) == (2, 1):
            msg = "no more data"
            raise RuntimeError(msg)
        return super().fit(vector, round_info)


@attrs.define
class Unreadable(Adding):
    """Cannot be made again where it is sent."""

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return int, ("not a number",)
