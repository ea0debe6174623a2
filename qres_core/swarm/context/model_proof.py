"""Proof that a swarm decided a model: checked by anybody, without a node or a network.

A node votes for what a set of contributions merges to (:mod:`qres_core.swarm.agreement.outcome`).
The votes of a quorum in one attempt decide it, and they are the certificate of the model. Two
quorums share an honest node if at most f nodes of the roster lie, and an honest node votes once in
an attempt. So no other model of this step has a certificate, and at least one honest node computed
this one. Fewer votes decide nothing: the swarm may have decided another model, or none. That it is
a good model is not proven, and neither is what it was trained on.

What is signed does not hold the scale of the grid. It is the same for the whole swarm, and the
roster's file says it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping

import attrs

from qres_core.contract.errors import ConfigError, ModelError, PluginError, WireError
from qres_core.contract.types import NODE_ID_BYTES, NodeInfo
from qres_core.contract.verdict import ACCEPT
from qres_core.contract.wire import Envelope
from qres_core.kernel.config import Config
from qres_core.kernel.discovery import Installed
from qres_core.kernel.kernel import Kernel
from qres_core.swarm.context.position import vote_threshold
from qres_core.swarm.ledger.messages import OUTCOME_PRECOMMIT, decode_conclusion
from qres_core.swarm.ledger.results import Conclusion, Merged
from qres_core.swarm.storage.model_file import SwarmModel

Fault = Callable[[Envelope], str]
"""Why a message is not its sender's, or not a member's; empty if it is. Swarm and roster aside."""


@attrs.frozen
class Proof:
    """Result of a check of a certificate."""

    step: int  # the model's place in the chain of models
    digest: bytes  # its digest, 32 bytes
    vouchers: int  # distinct nodes of the roster that voted for it
    needed: int  # votes that decide; there are as many vouchers, or more
    nodes: int  # nodes of the roster
    byzantine: int  # liars that the swarm withstands


def _refused(
    what: str, fix: str = "do not use the file; ask several nodes for theirs"
) -> ModelError:
    return ModelError.of("QRES-E606", "model", what, fix)


def verify(
    model: SwarmModel,
    config: Config,
    now: float,
    installed: Mapping[str, Installed] | None = None,
) -> Proof:
    """Check that a quorum of a roster decided the model.

    ``config`` names the swarm, its roster, f and scale, and enables the plugins that authenticate
    its messages; of the others none is used. Whoever writes it decides what is believed. ``now``:
    seconds since 1970, where membership depends on the time.

    Raises:
        ModelError: QRES-E606 says why the model is not believed.
        ConfigError: QRES-E103 for a file without a roster, QRES-E105 for more liars than a swarm
            of that many nodes withstands.
        PluginError: QRES-E2xx for plugins that cannot be used, and QRES-E206 for plugins that
            accept what nobody signed.
        QresError: what a plugin's ``setup`` refuses.

    Complexity: a few signatures for each vote, and O(d) for the digest.
    """
    swarm = config.swarm
    if not swarm.roster:
        fix = "name the node.toml of any node, or the roster.toml that swarm up --save writes"
        raise ConfigError.of(
            "QRES-E103",
            "swarm.roster",
            "the file does not list the nodes whose signatures count",
            fix,
        )
    if swarm.nodes <= 3 * swarm.byzantine:
        what = f"{swarm.nodes} nodes cannot agree with {swarm.byzantine} liars among them"
        fix = "take swarm.nodes and swarm.byzantine from the file of a node of the swarm"
        raise ConfigError.of("QRES-E105", "swarm.byzantine", what, fix)
    if model.swarm != swarm.name:
        raise _refused(f"it is of the swarm {model.swarm!r}, the roster of {swarm.name!r}")
    if model.scale != swarm.scale:
        raise _refused(f"its scale is {model.scale}, and swarm.scale of the roster {swarm.scale}")
    if not model.vouchers:
        fix = "export it from a node of a swarm whose messages are signed"
        raise _refused("it has no certificate: no node signed it", fix)
    roster = tuple(sorted(bytes.fromhex(text) for text in swarm.roster))
    info = NodeInfo(bytes(NODE_ID_BYTES), swarm.name, roster, swarm.byzantine, observer=True)
    kernel = Kernel.that_authenticates(config, installed=installed)

    def fault(voucher: Envelope) -> str:
        verdict, plugin = kernel.authenticate(voucher, voucher.sender, now)
        return "" if verdict is ACCEPT else f"{verdict.reason.replace('-', ' ')} ({plugin})"

    try:
        kernel.setup(info)
        return _count(model, config, fault)
    finally:
        kernel.teardown()


def _count(model: SwarmModel, config: Config, fault: Fault) -> Proof:
    swarm, digest = config.swarm, model.digest
    members = {bytes.fromhex(text) for text in swarm.roster}
    heights = {(voucher.head, voucher.round) for voucher in model.vouchers}
    senders = {voucher.sender for voucher in model.vouchers}
    if len(senders) < len(model.vouchers):
        raise _refused("its certificate counts a node twice")
    if len(heights) > 1:
        raise _refused("its votes are of different heights, or of different attempts at one")
    sets: set[bytes] = set()
    for voucher in model.vouchers:
        who = voucher.sender.hex()[:16]
        if voucher.swarm != swarm.name:
            raise _refused(f"{who} voted in another swarm, {voucher.swarm!r}")
        if voucher.sender not in members:
            raise _refused(f"{who} voted for it and is not in the roster")
        if voucher.kind != OUTCOME_PRECOMMIT:
            raise _refused(f"{who} signed a {voucher.kind!r} message, which decides nothing")
        decision = _decision(voucher)
        if decision is None or decision.result != Merged(digest):
            raise _refused(f"{who} voted for something else")
        sets.add(decision.chosen)
        if why := fault(voucher):
            raise _refused(f"the signature of {who} does not hold: {why}")
        if _lets_anything_pass(voucher, fault):
            what = "the enabled plugins accept unsigned messages"
            fix = "enable a plugin that checks signatures, with options that require them"
            raise PluginError.of("QRES-E206", "plugins", what, fix)
    if len(sets) > 1:
        raise _refused("its votes are about different sets of contributions")
    needed = vote_threshold(len(members), swarm.byzantine)
    if len(senders) < needed:
        what = f"{len(senders)} nodes voted for it, and {needed} of {len(members)} decide"
        raise _refused(what, "export it from a node of the swarm, which writes all the votes")
    return Proof(model.step, digest, len(senders), needed, len(members), swarm.byzantine)


def _decision(voucher: Envelope) -> Conclusion | None:
    try:
        return decode_conclusion(voucher.payload)
    except WireError:
        return None


def _lets_anything_pass(voucher: Envelope, fault: Fault) -> bool:
    """True if the same message is accepted unsigned, or with a signature of another one."""
    other = attrs.evolve(voucher, sequence=voucher.sequence ^ 1)
    return not fault(voucher.with_auth({})) or not fault(other)
