"""Rounds inside another framework: its server takes the place of agreement.

A framework with a server carries messages, samples clients and calls whoever trains. What QRES adds
are the plugins of a configuration, at both ends. Nothing here knows the framework::

    coordinator                         client
    ───────────                         ──────
    begin
    asks   ── a turn of dialogues ──►   converse: again and again, with secagg
    take   ◄── signed frames ────────
           ── what a round is ──────►   begin
                                        contribute, report
    take   ◄── signed frames ────────
    decide: choose, judge
    asks   ── a turn of dialogues ──►   converse: again and again, with secagg
    take   ◄── signed frames ────────
    close: reveal, merge

What is gone is agreement. The coordinator alone says who is in a round, what counts, and what it
merges to; nobody checks it. :func:`~qres_hosting.gives_up` has the sentences, and what rests
on agreement is refused before the start (QRES-E322).

The module is public, and so are the names in ``__all__``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final

from qres_core.contract.on_demand import on_demand

if TYPE_CHECKING:
    from qres_hosting.client import HostedClient
    from qres_hosting.coordinator import (
        Coordinator,
        HostedMessage,
        HostedRefusal,
        HostedResult,
    )
    from qres_hosting.fitting import gives_up
    from qres_hosting.host import Host
    from qres_hosting.told import HostedRound
    from qres_hosting.turns import HostedTurn

_HOME: Final = {
    "client": ("HostedClient",),
    "coordinator": ("Coordinator", "HostedMessage", "HostedRefusal", "HostedResult"),
    "fitting": ("gives_up",),
    "host": ("Host",),
    "told": ("HostedRound",),
    "turns": ("HostedTurn",),
}

__all__ = [
    "Coordinator",
    "Host",
    "HostedClient",
    "HostedMessage",
    "HostedRefusal",
    "HostedResult",
    "HostedRound",
    "HostedTurn",
    "gives_up",
]

_load = on_demand(globals(), "qres_hosting", _HOME)


def __getattr__(name: str) -> Any:
    return _load(name)
