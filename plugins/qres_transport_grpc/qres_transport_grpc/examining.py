"""Examination of the hubs: do they answer, are they the ones meant, do they know this node?

A hub has one connection of each node. So a hub is asked whether it knows this node only while the
node does not run: the question would end the node's own connection.
"""

from __future__ import annotations

from collections.abc import Iterator
from queue import SimpleQueue
from typing import Any, Final

from qres_core import NodeInfo
from qres_core.errors import Problem
from qres_core.transport import LinkKeys
from qres_transport_grpc.dial import GRPC, WrongHubError, certificate, channel
from qres_transport_grpc.options import GrpcOptions
from qres_transport_grpc.wire import (
    CHALLENGE,
    CHALLENGE_BYTES,
    METHOD,
    READY,
    HubPlace,
    HubProof,
    proof_statement,
)

_UNASKED: Final = "whether it knows this node is not asked while the node runs, or has no key"


def examine(options: GrpcOptions, info: NodeInfo, keys: LinkKeys | None) -> Iterator[Problem | str]:
    """Lines for an operator on the hubs; ``keys``: to ask them by, or ``None``."""
    for index, text in enumerate(options.hubs):
        place, where = HubPlace.of(text), f"plugins.grpc.hubs[{index}]"
        try:
            pem = certificate(place, options.dial_seconds)
        except WrongHubError as error:
            fix = "ask who runs the hub for what `qres hub run` prints"
            yield Problem("QRES-E105", where, f"{place.address}: {error}", fix)
        except (OSError, ValueError) as error:  # ValueError: a name or a proxy that is none
            why = getattr(error, "strerror", None) or str(error)
            fix = "see whether that hub runs, and the firewalls and proxies between"
            yield Problem("QRES-E904", where, f"{place.address}: {why}", fix)
        else:
            said = f"hub {place.address} answers, and is the one that is meant"
            if keys is None:
                yield f"{said}; {_UNASKED}"
            elif why := _refusal(place, pem, info, keys, options.dial_seconds):
                fix = "have who runs the hub name this node in its roster, under its present key"
                yield Problem("QRES-E904", where, f"{said}, and lets this node not in: {why}", fix)
            else:
                yield f"{said}; it knows this node"


def _refusal(place: HubPlace, pem: str, info: NodeInfo, keys: LinkKeys, within: float) -> str:
    """Reason why a hub takes no messages of this node; empty where it does."""
    words = SimpleQueue[bytes | None]()
    with channel(place, pem) as made:
        call = made.stream_stream(METHOD)(iter(words.get, None), timeout=within)
        try:
            challenge = dict(call.initial_metadata()).get(CHALLENGE, b"")
            if len(challenge) == CHALLENGE_BYTES:
                statement = proof_statement(info.swarm, place.digest, challenge, info.node_id)
                words.put(HubProof(info.node_id, keys.sign(statement)).dumps())
                if next(call, b"") == READY:
                    return ""
        except GRPC.RpcError as error:
            status: Any = error
            return f"{status.code().name}: {str(status.details())[:200]}"
        finally:
            words.put(None)
            call.cancel()
    return "it does not answer as a hub does"
