"""Sources of secret numbers: the system, or a secret that outlasts a process.

Inside another framework a client is a process for each message. What it draws must be the same when
what it was told is played again. So it follows from a secret of the round, and from all that was
said before: two histories that differ share no draw after the point where they part. A nonce is
then never used for two messages.
"""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Generator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Final

from qres_secagg.session import joined

_HEARD: Final = b"qres-secagg/1 heard"
_DRAWN: Final = b"qres-secagg/1 drawn"


class Draws:
    """Numbers that follow from a secret and from what was heard.

    Args:
        secret: 32 bytes, of one client in one session.
    """

    def __init__(self, secret: bytes) -> None:
        self._state, self._count = secret, 0

    def __repr__(self) -> str:
        return "Draws()"

    @contextmanager
    def after(self, *heard: bytes) -> Generator[None]:
        """Everything that this thread draws meanwhile follows from what was heard as well."""
        self._state = hmac.digest(self._state, _HEARD + joined(*heard), "sha256")
        self._count = 0
        token = _SOURCE.set(self)
        try:
            yield
        finally:
            _SOURCE.reset(token)

    def below(self, limit: int) -> int:
        """The next number. Its bias is below 2**-250 for a ``limit`` of 253 bits."""
        self._count += 1
        block = hmac.digest(self._state, _DRAWN + self._count.to_bytes(8, "little"), "sha512")
        return int.from_bytes(block, "little") % limit


_SOURCE: Final[ContextVar[Draws | None]] = ContextVar("qres_secagg_draws", default=None)


def below(limit: int) -> int:
    """A secret number from 0 below a limit of at most 253 bits, uniform."""
    source = _SOURCE.get()
    return secrets.randbelow(limit) if source is None else source.below(limit)
