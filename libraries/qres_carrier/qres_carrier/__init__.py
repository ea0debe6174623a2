"""Common parts of transports: the node's side, queues, counts, token buckets, a store of blobs."""

from __future__ import annotations

from qres_carrier.bucket import SenderBuckets, TokenBucket
from qres_carrier.mailbox import Mailbox
from qres_carrier.origin import origin
from qres_carrier.store import DISPLACED, KEPT_HEIGHTS, UNWRITTEN, SharedBlobStore
from qres_carrier.tally import Tally
from qres_carrier.threaded import FOLDER, ThreadedTransport

__all__ = [
    "DISPLACED",
    "FOLDER",
    "KEPT_HEIGHTS",
    "UNWRITTEN",
    "Mailbox",
    "SenderBuckets",
    "SharedBlobStore",
    "Tally",
    "ThreadedTransport",
    "TokenBucket",
    "origin",
]
