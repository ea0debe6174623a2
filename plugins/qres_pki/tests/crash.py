"""Kills a process that revokes certificates, again and again; run by the test of crashes.

Arguments: folder of the CA, kill points, seed. A child revokes in a loop and is killed after a
random while; what it left is then checked, and the next child starts from it.
"""

from __future__ import annotations

import os
import random
import signal
import sys
import time
from pathlib import Path

from qres_pki.authority import Authority

NOW = 1_700_000_000


def revoke_for_ever(folder: Path) -> None:
    with Authority.open(folder) as authority:
        while True:
            for item in authority.index.all():
                authority.revoke([item], "superseded", NOW)


def check(folder: Path, before: int) -> int:
    """The CRL that is published is whole, genuine and not older than the last one."""
    with Authority.open(folder) as authority:
        published = authority.issuer.read_crl((folder / "crl.pem").read_bytes())
        newest = authority.issuer.read_crl(authority.index.crl.pem)
        revoked = {
            int(item.serial, 16) for item in authority.index.all() if item.revoked is not None
        }
        assert before <= published.number, (before, published.number)
        assert published.number <= newest.number
        assert newest.serials == revoked
        assert (published.digest == newest.digest) == (published.number == newest.number)
        return published.number


def main() -> None:
    folder, points = Path(sys.argv[1]), int(sys.argv[2])
    chance = random.Random(int(sys.argv[3]))
    number = behind = 0
    for _ in range(points):
        child = os.fork()
        if child == 0:
            try:
                revoke_for_ever(folder)
            finally:
                os._exit(1)
        time.sleep(chance.uniform(0.001, 0.02))
        os.kill(child, signal.SIGKILL)
        _, status = os.waitpid(child, 0)
        assert os.WIFSIGNALED(status), "the child ended by itself"
        number = check(folder, number)
        with Authority.open(folder) as authority:
            behind += not authority.published
    print(f"{points} kills, CRL number {number}, {behind} times not published")  # noqa: T201


if __name__ == "__main__":
    main()
