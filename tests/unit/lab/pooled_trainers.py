"""Trainers that the tests of workers send to other processes."""

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
class Counting:
    """Goes a step that depends on all steps before it, and says what it keeps."""

    node: int
    before: int = 0
    after: int = 0
    number: int = 0

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        if round_info.number != self.number:
            self.before, self.number = self.after, round_info.number
        self.after = 3 * self.before + self.node + 1
        if (self.node, round_info.step) == (1, 1):
            return None
        return Update(np.full(vector.size, self.after % 1009 + int(vector[0]) % 7, dtype=np.int32))

    def evaluate(self, vector: Vector) -> Mapping[str, float]:
        return {"kept": float(self.after + vector[0])}

    def remember(self) -> bytes:
        return f"{self.before} {self.after} {self.number}".encode()

    def recall(self, memory: bytes) -> None:
        self.before, self.after, self.number = (int(part) for part in memory.split())


@attrs.define
class Tells(Counting):
    """Tells which process trained, in a file of its own for each node and round."""

    folder: str = ""

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        name = f"{self.node}-{round_info.number}-{os.getpid()}"
        Path(self.folder, name).write_text("", encoding="utf-8")
        return super().fit(vector, round_info)


@attrs.define
class Dies(Counting):
    """The process that trains it dies at its second step, the first so many times."""

    folder: str = ""
    times: int = 1

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        died = list(Path(self.folder).iterdir())
        if (self.node, round_info.step) == (2, 1) and len(died) < self.times:
            Path(self.folder, str(len(died))).write_text("", encoding="utf-8")
            os.kill(os.getpid(), signal.SIGKILL)
        return super().fit(vector, round_info)


@attrs.define
class Stays(Counting):
    """Does not come back; tells its process first."""

    folder: str = ""

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        Path(self.folder, str(os.getpid())).write_text("", encoding="utf-8")
        time.sleep(3600)
        return super().fit(vector, round_info)


@attrs.define
class Fails(Counting):
    """Raises at its second step."""

    def fit(self, vector: Vector, round_info: RoundInfo) -> Update | None:
        if (self.node, round_info.step) == (2, 1):
            msg = "no more data"
            raise RuntimeError(msg)
        return super().fit(vector, round_info)


@attrs.define
class Unloadable(Counting):
    """Cannot be made again where it is sent."""

    def __reduce__(self) -> tuple[type, tuple[str, ...]]:
        return int, ("not a number",)
