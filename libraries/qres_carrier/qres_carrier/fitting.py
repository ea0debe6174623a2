"""Checks of a transport on its surroundings before it is made."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Final, Protocol

from qres_core import Surroundings
from qres_core.errors import ConfigError, Problem
from qres_core.transport import LinkKeys

_KEYLESS: Final = "there is no key to connect with: no enabled plugin has the hook link_keys"
_ADD: Final = "add [plugins.ed25519]"
_MIB: Final = 2**20


class Sizes(Protocol):
    """Options of a transport, bytes."""

    @property
    def frame_bytes(self) -> int:
        """The largest frame; larger messages travel as blobs."""
        ...

    @property
    def blob_bytes(self) -> int:
        """The largest blob."""
        ...

    @property
    def spool_bytes(self) -> int:
        """Room for blobs."""
        ...


def problems(plugin: str, sizes: Sizes, around: Surroundings) -> Iterator[Problem]:
    """Check that another plugin lends the key to connect with, and messages can be carried.

    Yields QRES-E305 without such a key; QRES-E105 for blobs that cannot hold the largest message,
    and for less room than an update of each node takes, and two more of each liar: liars may give
    theirs as slowly as they like, and those of the honest must fit beside.
    """
    if "link_keys" not in around.hooks:
        yield Problem("QRES-E305", f"plugins.{plugin}", _KEYLESS, _ADD)
    largest = around.max_message_bytes
    if largest <= sizes.frame_bytes:
        return
    for key, room in (("blob_bytes", sizes.blob_bytes), ("spool_bytes", sizes.spool_bytes)):
        if room < largest:
            what = f"is {room}, and swarm.max_message_bytes is {largest}"
            fix = f"{key} = {largest} or more, or a lower swarm.max_message_bytes"
            yield Problem("QRES-E105", f"plugins.{plugin}.{key}", what, fix)
    update = 4 * around.dimension
    count = (
        around.nodes + 2 * around.byzantine
    )  # a liar has its own pulled, and one that it passes on
    together = count * update
    if update > sizes.frame_bytes and sizes.spool_bytes < together:
        what = (
            f"is {sizes.spool_bytes}, and {count} updates of {around.nodes} nodes take {together}"
        )
        fix = f"spool_bytes = {-(-together // _MIB) * _MIB} or more, or a smaller model"
        yield Problem("QRES-E105", f"plugins.{plugin}.spool_bytes", what, fix)


def lent(plugin: str, keys: LinkKeys | None) -> LinkKeys:
    """The keys to connect with. Raises ConfigError: QRES-E103 if no plugin lends them."""
    if keys is None:
        raise ConfigError.of("QRES-E103", f"plugins.{plugin}", _KEYLESS, _ADD)
    return keys
