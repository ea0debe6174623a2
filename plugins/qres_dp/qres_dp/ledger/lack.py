"""Lack of a ledger, as found: a small file in the node's folder, until the ledger has it.

The swarm's chain names a contribution for a few heights only. Without this file a ledger that was
set back would be refused for as long, and then be taken for all there is.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

import attrs

from qres_core import NodeId, OwnContributions, canonical, stores
from qres_core.errors import RoundError, WireError
from qres_dp.ledger import PrivacyLedger

FILE: Final = "dp-ledger.lacks"
_MAX_BYTES: Final = 1024
_TYPES: Final[list[type[Any]]] = [type(value) for value in attrs.astuple(OwnContributions())]


@attrs.define
class Lack:
    """Charges that journal or chain knew of, when a ledger did not.

    ``folder``: of the node, or ``None`` to forget it with the process. Raises RoundError: QRES-E602
    for a file that cannot be read.
    """

    folder: Path | None
    known: OwnContributions | None = attrs.field(init=False, default=None)

    def __attrs_post_init__(self) -> None:
        self.known = None if self.folder is None else _read(self.folder / FILE)

    def check(
        self, ledger: PrivacyLedger, swarm: str, node: NodeId, contributed: OwnContributions
    ) -> None:
        """Refuse a ledger that lacks what is known now, or was known when one was refused before.

        Arguments as of :meth:`PrivacyLedger.expect`. Raises RoundError: QRES-E602.
        """
        if self.known is not None:
            ledger.expect(swarm, node, self.known)
        try:
            ledger.expect(swarm, node, contributed)
        except RoundError:
            self._note(contributed)
            raise
        if self.known is not None:
            self._clear()

    def _note(self, known: OwnContributions) -> None:
        """Keep it; durable on return."""
        self.known = known
        if self.folder is not None:
            stores.make_folder(self.folder)
            stores.replace_file(self.folder / FILE, canonical.dumps(list(attrs.astuple(known))))

    def _clear(self) -> None:
        self.known = None
        if self.folder is not None:
            (self.folder / FILE).unlink(missing_ok=True)


def _read(path: Path) -> OwnContributions | None:
    try:
        with path.open("rb") as file:
            octets = file.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        return None
    except OSError as error:
        raise _unusable(path, str(error)) from error
    try:
        value: Any = canonical.loads(octets, max_bytes=_MAX_BYTES)
    except WireError as error:
        raise _unusable(path, "the file is damaged") from error
    if not canonical.is_list(value) or [type(item) for item in value] != _TYPES:
        raise _unusable(path, "the file is damaged")
    return OwnContributions(*value)


def _unusable(path: Path, what: str) -> RoundError:
    fix = "bring the file back as it was; it says what the privacy ledger lacks"
    return RoundError.of("QRES-E602", str(path), what, fix)
