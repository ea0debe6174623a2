"""Decisions and credentials of the node's plugins, asked in its loop from the transport's."""

from __future__ import annotations

from collections.abc import Callable

import attrs

from qres_core import NodeId, Verdict
from qres_transport_grpc.home import HomeLoop


@attrs.frozen
class Gatekeeper:
    """Asks the plugins."""

    home: HomeLoop
    admission: Callable[[NodeId, bytes], Verdict]
    credential: Callable[[], bytes]
    patience: float  # seconds

    async def shows(self) -> bytes | None:
        """Credential to show; ``None`` where no plugin says so now."""
        try:
            shown: bytes = await self.home.ask(self.credential, self.patience)
        except Exception:  # noqa: BLE001 - whatever a plugin raises: it is asked again
            return None
        return shown

    async def bars(self, node: NodeId, shown: bytes) -> str | None:
        """Reason why a node is not admitted, or nothing; ``None`` where the node has no time."""
        try:
            verdict: Verdict = await self.home.ask(self.admission, self.patience, node, shown)
        except TimeoutError:  # the node computes; that is nobody's fault
            return None
        except Exception as error:  # noqa: BLE001 - whoever cannot be judged is not admitted
            return f"admission failed: {type(error).__name__}: {error}"
        return "" if verdict.accepted else verdict.reason or "not admitted"
