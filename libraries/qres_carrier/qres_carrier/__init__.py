"""What transports share: queues between threads, counts, token buckets and a store of blobs."""

from __future__ import annotations

from qres_carrier.bucket import TokenBucket
from qres_carrier.mailbox import Mailbox
from qres_carrier.store import KEPT_HEIGHTS, SharedBlobStore
from qres_carrier.tally import Tally

__all__ = ["KEPT_HEIGHTS", "Mailbox", "SharedBlobStore", "Tally", "TokenBucket"]
