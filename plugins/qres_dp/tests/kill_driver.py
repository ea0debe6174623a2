"""Charges a ledger and releases noise in a loop, until it is killed.

Run as a program: ``kill_driver.py FOLDER [late]``. Each turn calls the plugin as a round does and
then writes a byte to the standard output: the release. With ``late`` it writes the byte first, as a
plugin would that charges afterwards.
"""

from __future__ import annotations

import os
import sys

import numpy as np
from qres_dp import Dp

from qres_core import NodeInfo, OwnContributions, RoundInfo, Update
from qres_core.testing import make_node_ids

ROSTER = make_node_ids(3)


def plugin(folder: str) -> Dp:
    dp = Dp(mode="local", clip=0.01, delta=1e-5, noise_multiplier=1000.0, epsilon=2.0)
    dp.setup(NodeInfo(ROSTER[0], "kill", ROSTER, data_dir=folder))
    return dp


def main(folder: str, *, late: bool) -> None:
    dp = plugin(folder)
    update = Update(np.array([5, 6, 7], dtype=np.int32))
    for number in range(1, 10**6):
        info = RoundInfo("kill", number, bytes(32), 3, 0, ROSTER, 3)
        dp.round_opened(info, OwnContributions())
        if late:
            os.write(1, b".")
        dp.privatize(update, info)
        if not late:
            os.write(1, b".")


if __name__ == "__main__":
    main(sys.argv[1], late="late" in sys.argv)
