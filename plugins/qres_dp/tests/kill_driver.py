"""Charges a ledger and releases noise in a loop, until it is killed.

Run as a program: ``kill_driver.py FOLDER [late] [encoded]``. Each turn calls the plugin as a round
does and then writes a byte to the standard output: the release. With ``late`` it writes the byte
first, as a plugin would that charges afterwards. With ``encoded`` what leaves are rows of encoded
updates, from the step on that comes after the last one charged.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

import numpy as np
from qres_dp import Dp
from qres_dp.ledger import PrivacyLedger
from qres_lab.testing import make_node_ids

from qres_core import NodeInfo, OwnContributions, RoundInfo, Update

ROSTER = make_node_ids(3)
BAND, SEPARATION = 6, 3


def plugin(folder: str) -> Dp:
    dp = Dp(mode="local", clip=0.01, delta=1e-5, noise_multiplier=1000.0, epsilon=2.0)
    dp.setup(NodeInfo(ROSTER[0], "kill", ROSTER, data_dir=folder))
    return dp


def encoder(folder: str) -> Dp:
    dp = Dp(
        mode="distributed",
        clip=0.01,
        delta=1e-5,
        epsilon=2.0,
        rounds=1000,
        honest=2,
        noise="correlated",
        band=BAND,
        separation=SEPARATION,
    )
    dp.setup(NodeInfo(ROSTER[0], "kill", ROSTER, data_dir=folder))
    return dp


def main(folder: str, *, late: bool, encoded: bool) -> None:
    dp = encoder(folder) if encoded else plugin(folder)
    update = Update(np.array([5, 6, 7], dtype=np.int32))
    known = (
        PrivacyLedger.read(Path(folder))[1]
        if encoded and PrivacyLedger.exists(Path(folder))
        else ()
    )
    first = 1 + max((record.charge.row + 1 for record in known), default=0)
    for number in range(first, 10**6):
        step = number - 1 if encoded else 0
        info = RoundInfo("kill", number, bytes(32), 3, 0, ROSTER, 3, step=step)
        dp.round_opened(info, OwnContributions())
        if late:
            os.write(1, b".")
        dp.privatize(update, info)
        if not late:
            os.write(1, b".")


if __name__ == "__main__":
    main(sys.argv[1], late="late" in sys.argv, encoded="encoded" in sys.argv)
