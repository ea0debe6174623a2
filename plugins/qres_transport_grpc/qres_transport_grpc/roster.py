"""Members that a hub serves: a swarm's name and their keys, from a file that may change."""

from __future__ import annotations

import logging
import tomllib
from pathlib import Path
from typing import Any, Final

from qres_core import NODE_ID_BYTES, NodeId, canonical, stores
from qres_core.errors import ConfigError, QresError

MAX_FILE_BYTES: Final = 2**20
_PRIME: Final = 2**255 - 19
_Y_OF_ORDER_8: Final = 2707385501144840649318225287225658788936804267575313519463743609750303402022
_SMALL_ORDER_Y: Final = frozenset({0, 1, _PRIME - 1, _Y_OF_ORDER_8, _PRIME - _Y_OF_ORDER_8})
"""The ``y`` of the 8 points whose order divides 8."""
_FIX: Final = "name the configuration of a node, or a file with its [swarm] name and roster"
_SHOW: Final = "`qres key show` prints a node's identity"
_LOG: Final = logging.getLogger(__name__)


class HubRoster:
    """Reads ``[swarm] name`` and ``roster`` of a node's configuration, and ``[hub.keys]``.

    ``[hub.keys]`` maps a node's identity to the key that speaks for it now, where it was replaced;
    both are 64 hex digits.

    Args:
        path: the file.

    Raises:
        ConfigError: QRES-E101 if it cannot be read, QRES-E102 for an unknown key of ``[hub]``,
            QRES-E103 for no name or roster, QRES-E105 for identities that are none, and for keys of
            nodes that are not in the roster.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._stamp = self._warned = self._now()
        self.swarm, self.keys = self._read()

    def refresh(self) -> bool:
        """Read the file again if it has changed; whether the members may have.

        A file that cannot be used changes nothing, and is read again at the next look: what kept it
        from being read may be over.
        """
        stamp = self._now()
        if stamp == self._stamp:
            return False
        try:
            swarm, keys = self._read()
            if swarm != self.swarm:
                what = f"the swarm {swarm!r}, and the hub serves {self.swarm!r}"
                raise ConfigError.of("QRES-E105", str(self._path), what, "run another hub for it")
            self.keys = keys
        except QresError as error:
            if stamp != self._warned:
                _LOG.warning("the members stay as they were: %s", error)
            self._warned = stamp
            return False
        self._stamp = self._warned = stamp
        return True

    def _now(self) -> tuple[int, int, int] | None:
        try:
            found = self._path.stat()
        except OSError:
            return None
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _read(self) -> tuple[str, dict[NodeId, bytes]]:
        where = str(self._path)
        try:
            tables: dict[str, Any] = tomllib.loads(stores.read_text(self._path, MAX_FILE_BYTES))
        except (ValueError, RecursionError) as error:
            raise ConfigError.of("QRES-E101", where, f"no TOML: {error}", _FIX) from error
        swarm, hub = _table(tables, "swarm"), tables.get("hub", {})
        extra: object = hub.get("keys", {}) if canonical.is_map(hub) else None
        if not canonical.is_map(extra) or hub.keys() - {"keys"}:
            what = "[hub] has something else than the table [hub.keys]"
            raise ConfigError.of("QRES-E102", where, what, "write [hub.keys], and remove the rest")
        name, roster = swarm.get("name"), swarm.get("roster")
        if type(name) is not str or not canonical.is_list(roster) or not roster:
            raise ConfigError.of("QRES-E103", where, "no [swarm] name and roster", _FIX)
        keys = {_identity(where, text): _identity(where, text) for text in roster}
        newer = {_identity(where, text): _identity(where, key) for text, key in extra.items()}
        if strangers := newer.keys() - keys.keys():
            what = f"hub.keys names {min(strangers).hex()[:16]}, which is not in the roster"
            raise ConfigError.of("QRES-E105", where, what, "remove it, or add it to the roster")
        return name, keys | newer


def _table(tables: dict[str, Any], name: str) -> dict[str, Any]:
    found: object = tables.get(name)
    return found if canonical.is_map(found) else {}


def _identity(where: str, text: object) -> bytes:
    try:
        found = bytes.fromhex(text) if isinstance(text, str) else b""
    except ValueError:
        found = b""
    if len(found) != NODE_ID_BYTES:
        what = f"{text!r:.80} is not {2 * NODE_ID_BYTES} hex digits"
        raise ConfigError.of("QRES-E105", where, what, _SHOW)
    # A key of small order fits signatures that nobody made: whoever likes could speak for the node.
    y = int.from_bytes(found, "little") & 2**255 - 1
    if y >= _PRIME or y in _SMALL_ORDER_Y:
        what = f"{text!r} is no node's key: {'not canonical' if y >= _PRIME else 'of small order'}"
        raise ConfigError.of("QRES-E105", where, what, _SHOW)
    return found
