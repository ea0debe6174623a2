"""Length of the ledger when it was last written: a small second file beside it.

A chain of tags tells when a record was changed, not when the last ones were cut off or the whole
file was removed or put back from an older copy. The anchor tells that. Where both files are put
back together, the node's journal and the swarm's chain know more than they do: see
:meth:`qres_dp.ledger.PrivacyLedger.expect`.
"""

from __future__ import annotations

import hashlib
import hmac
from pathlib import Path
from typing import Any, Final

import attrs

from qres_core import DIGEST_BYTES, canonical, stores
from qres_core.errors import RoundError, WireError
from qres_dp.ledger.key import unusable

FILE: Final = "dp-ledger.anchor"
MAX_BYTES: Final = 1024
_DOMAIN: Final = b"qres/dp/anchor/v2\0"


@attrs.frozen
class Anchor:
    """The head of a ledger."""

    count: int  # records in it
    head: bytes  # tag of the last one, or what the chain begins with; it binds the owner


def write(folder: Path, anchor: Anchor, key: bytes) -> None:
    """Replace the anchor; durable when this returns. Mode 0600. ``key``: of the ledger.

    Raises RoundError: QRES-E602 when the disk does not take it.
    """
    body = canonical.dumps([anchor.count, anchor.head])
    stores.replace_file(folder / FILE, _tag(key, body) + body)


def read(folder: Path, key: bytes) -> Anchor | None:
    """The anchor, or ``None`` where there is no such file.

    Raises RoundError: QRES-E602 for a file that is not an anchor of this key.
    """
    path = folder / FILE
    try:
        with path.open("rb") as file:
            octets = file.read(MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise unusable(path, str(error)) from error
    tag, body = octets[:DIGEST_BYTES], octets[DIGEST_BYTES:]
    if len(octets) > MAX_BYTES or not hmac.compare_digest(_tag(key, body), tag):
        raise unusable(path, "the file is damaged, or made with another key")
    try:
        value: Any = canonical.loads(body, max_bytes=MAX_BYTES)
        count, head = value
    except (WireError, TypeError, ValueError) as error:
        raise unusable(path, "the file is not an anchor") from error
    if type(head) is not bytes or type(count) is not int:
        raise unusable(path, "the file is not an anchor")
    return Anchor(count, head)


def sweep(folder: Path) -> None:
    """Remove what a node killed while it wrote an anchor left behind, while nobody writes one.

    Raises RoundError: QRES-E602 when the disk refuses.
    """
    path = folder / FILE
    try:
        stores.clear_leftovers(path)
    except OSError as error:
        what = f"what is left beside it cannot be removed: {error.strerror or error}"
        fix = "let the node's user change the folder"
        raise RoundError.of("QRES-E602", str(path), what, fix) from error


def _tag(key: bytes, body: bytes) -> bytes:
    return hmac.digest(key, _DOMAIN + body, hashlib.sha256)
