"""Go once through all that a round needs, so that it is compiled and cached."""

from __future__ import annotations

import numpy as np

from qres_core.errors import WireError
from qres_zk.aggregate import opens
from qres_zk.batch import verify_batch
from qres_zk.bundle import commitments
from qres_zk.group import integers
from qres_zk.norm import prove
from qres_zk.pedersen import commit
from qres_zk.selftest import compare_engines
from qres_zk.statement import Context, NormStatement


def warmup() -> None:
    """Commit, prove, verify and check a sum, at a small dimension.

    Raises WireError: QRES-E404 if a proof just made does not hold: the engine is broken. Raises
    ConfigError: QRES-E105 if the compiled engine differs from the one in Python.
    """
    compare_engines()
    ones = np.ones(64, dtype=np.int32)
    statement = NormStatement(64, 2**10, center=ones, direction=ones.astype(np.int16), threshold=64)
    context = Context("warmup", bytes(32), 0, bytes(32), bytes(32))
    commitment, bundle = prove(statement, context, commit(statement, 2 * ones))
    data = bundle.to_bytes()
    if verify_batch(statement, [(context, data), (context, data)]):
        raise WireError.of("QRES-E404", "proof", "a proof just made does not hold")
    points, blinds = [commitments(data, statement)], integers(commitment.blinds)
    if not opens(statement, points, 2 * ones, blinds):
        raise WireError.of("QRES-E404", "sum", "a sum just made does not open")
