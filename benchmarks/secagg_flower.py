"""Flower's client and server of one SecAgg+ round, by its own functions; for ``secagg.py``.

Run by an interpreter that has flwr 1.42: ``python secagg_flower.py NODES DIMENSION``. Prints a line
of JSON with process seconds. Measured are the four stages of one client among all others on the
complete graph, called directly: what flwr does to store its state between stages and to send
messages is left out. The others only make their keys, and shares of the right size for that client.

The server's time is that of its arithmetic: adding up all masked vectors, and for each node to put
its secret together from all shares, to expand its mask and to take it off. The latter is measured
for three nodes and multiplied.
"""

from __future__ import annotations

import importlib
import json
import os
import sys
import time
from typing import Any

import numpy as np
from flwr.common import ndarrays_to_parameters
from flwr.common.secure_aggregation.crypto.shamir import combine_shares, create_shares
from flwr.common.secure_aggregation.crypto.symmetric_encryption import encrypt, generate_shared_key
from flwr.common.secure_aggregation.ndarrays_arithmetic import (
    parameters_addition,
    parameters_mod,
    parameters_subtraction,
)
from flwr.common.secure_aggregation.secaggplus_constants import Key
from flwr.common.secure_aggregation.secaggplus_utils import (
    pseudo_rand_gen,
    share_keys_plaintext_concat,
)
from flwr.supercore.primitives.asymmetric import bytes_to_private_key, bytes_to_public_key

# The package has a function of the module's name.
mod = importlib.import_module("flwr.client.mod.secure_aggregation.secaggplus_mod")

RANGE = 2**32
SAMPLES = 3


def setup(node: int, nodes: int) -> tuple[Any, dict[str, Any], float]:
    """A client after its first stage, what it sends, and its seconds."""
    configs = {
        Key.SAMPLE_NUMBER: nodes,
        Key.SHARE_NUMBER: nodes,
        Key.THRESHOLD: 2 * nodes // 3 + 1,
        Key.CLIPPING_RANGE: 8.0,
        Key.TARGET_RANGE: 2**22,
        Key.MOD_RANGE: RANGE,
        Key.MAX_WEIGHT: 1000.0,
    }
    state = mod.SecAggPlusState()
    state.nid = node
    start = time.process_time()
    sent = mod._setup(state, configs)  # noqa: SLF001 - there is no other way in
    return state, sent, time.process_time() - start


def client(nodes: int, dimension: int) -> float:
    """Seconds of one client."""
    made = [setup(node, nodes) for node in range(1, nodes + 1)]
    me, mine, spent = made[nodes // 2]
    keys = {
        str(state.nid): (sent[Key.PUBLIC_KEY_1], sent[Key.PUBLIC_KEY_2]) for state, sent, _ in made
    }
    start = time.process_time()
    mod._share_keys(me, keys)  # noqa: SLF001
    spent += time.process_time() - start
    sample_seed = me.rd_seed_share_dict[me.nid]
    sample_key = me.sk1_share_dict[me.nid]
    ciphertexts, sources = [], []
    for state, _sent, _seconds in made:
        if state.nid == me.nid:
            continue
        shared = generate_shared_key(
            bytes_to_private_key(state.sk2), bytes_to_public_key(mine[Key.PUBLIC_KEY_2])
        )
        plaintext = share_keys_plaintext_concat(state.nid, me.nid, sample_seed, sample_key)
        ciphertexts.append(encrypt(shared, plaintext))
        sources.append(state.nid)
    parameters = ndarrays_to_parameters([np.zeros(dimension, np.float32)])
    start = time.process_time()
    received = {Key.CIPHERTEXT_LIST: ciphertexts, Key.SOURCE_LIST: sources}
    mod._collect_masked_vectors(me, received, 100, parameters)  # noqa: SLF001
    everybody = {
        Key.ACTIVE_NODE_ID_LIST: list(range(1, nodes + 1)),
        Key.DEAD_NODE_ID_LIST: [],
    }
    mod._unmask(me, everybody)  # noqa: SLF001
    return spent + time.process_time() - start


def server(nodes: int, dimension: int) -> float:
    """Seconds of the server."""
    total = [np.zeros(dimension, np.int64)]
    other = [np.ones(dimension, np.int64)]
    start = time.process_time()
    for _ in range(SAMPLES):
        total = parameters_addition(total, other)
    adding = (time.process_time() - start) / SAMPLES
    shares = create_shares(os.urandom(32), 2 * nodes // 3 + 1, nodes)
    start = time.process_time()
    for _ in range(SAMPLES):
        mask = pseudo_rand_gen(combine_shares(shares), RANGE, [(dimension,)])
        total = parameters_subtraction(total, mask)
    unmasking = (time.process_time() - start) / SAMPLES
    parameters_mod(total, RANGE)
    return nodes * (adding + unmasking)


if __name__ == "__main__":
    count, size = int(sys.argv[1]), int(sys.argv[2])
    print(json.dumps({"client": client(count, size), "server": server(count, size)}))
