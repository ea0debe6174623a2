"""In a new process: the first noise of a plugin in some settings. See :mod:`.keys`."""

from __future__ import annotations

import json
import sys

from qres_dp.audit.claim import SETTINGS, Claim
from qres_dp.audit.keys import first_noise
from qres_dp.audit.mutants import loaded


def main() -> None:
    """Read plans by setting, print noise by setting; the argument names a fault, or is empty."""
    asked = json.load(sys.stdin)
    found = {}
    with loaded(sys.argv[1]) as package:
        for setting in SETTINGS:
            if setting.name in asked:
                claim = Claim(setting, asked[setting.name])
                found[setting.name] = first_noise(package, claim)
    json.dump(found, sys.stdout)


if __name__ == "__main__":
    main()
