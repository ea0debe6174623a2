"""How long the ledger was when it was last written: a small second file beside it.

A chain of hashes tells when a record was changed, not when the last ones were cut off or the whole
file was removed or put back from an older copy. The anchor tells that. It does not help against
somebody who puts back both files together: nothing on the node's own disk can.
"""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any, Final

import attrs

from qres_core import DIGEST_BYTES, NodeId, RoundError, WireError, canonical, stores

FILE: Final = "dp-ledger.anchor"
MAX_BYTES: Final = 1024
_DOMAIN: Final = b"qres/dp/anchor/v1\0"


@attrs.frozen
class Anchor:
    """The head of a ledger."""

    swarm: str  # the swarm's name
    node: NodeId  # the node's identity
    relation: str  # the neighbouring relation the ledger is kept for
    count: int  # records in it
    head: bytes  # digest of the last one, or what the chain begins with


def write(folder: Path, anchor: Anchor) -> None:
    """Replace the anchor; durable when this returns. Mode 0600.

    Raises RoundError: QRES-E602 when the disk does not take it.
    """
    body = canonical.dumps(list(attrs.astuple(anchor)))
    stores.replace_file(folder / FILE, hashlib.sha256(_DOMAIN + body).digest() + body)


def read(folder: Path) -> Anchor | None:
    """The anchor, or ``None`` where there is no such file.

    Raises RoundError: QRES-E602 for a file that is not an anchor.
    """
    path = folder / FILE
    try:
        with path.open("rb") as file:
            octets = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _damaged(path, str(error)) from error
    digest, body = octets[:DIGEST_BYTES], octets[DIGEST_BYTES:]
    if len(octets) > MAX_BYTES or hashlib.sha256(_DOMAIN + body).digest() != digest:
        raise _damaged(path, "the file is damaged")
    try:
        value: Any = canonical.loads(body, max_bytes=MAX_BYTES)
        swarm, node, relation, count, head = value
    except (WireError, TypeError, ValueError) as error:
        raise _damaged(path, "the file is not an anchor") from error
    texts = type(swarm) is str and type(relation) is str
    if not (texts and type(node) is type(head) is bytes and type(count) is int):
        raise _damaged(path, "the file is not an anchor")
    return Anchor(swarm, node, relation, count, head)


def sweep(folder: Path) -> None:
    """Remove what a node killed while it wrote an anchor left behind."""
    stores.clear_leftovers(folder / FILE)


def _damaged(path: Path, what: str) -> RoundError:
    fix = "restore the file; without it nobody knows the privacy spent"
    return RoundError.of("QRES-E602", str(path), what, fix)
