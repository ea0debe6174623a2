"""Stores of a node on disk: private, durable and whole, or refused with QRES-E602.

:class:`PrivateDatabase` is one SQLite file, :class:`Facts` a table of checked values in one, and
:func:`create_file` and :func:`replace_file` write small files that are there whole or not at all.
:func:`read_file` and :func:`read_text` read one that an operator named. :func:`rehearse` says
before a start what it would refuse a store for. What not every operating
system has is called by :func:`open_now`, :func:`set_mode`, :func:`sync` and their neighbours alone.
One policy holds for all of them, so that no plugin has to find it again.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from qres_core.contract.on_demand import on_demand

if TYPE_CHECKING:
    from qres_core.contract.stores.database import BUSY_SECONDS, PrivateDatabase, StoreKind
    from qres_core.contract.stores.facts import Facts
    from qres_core.contract.stores.files import (
        clear_leftovers,
        create_file,
        make_folder,
        read_file,
        read_text,
        refuse_loose,
        replace_file,
    )
    from qres_core.contract.stores.rehearsal import no_room, rehearse
    from qres_core.contract.stores.system import (
        create_now,
        foreign,
        keeps_modes,
        loose,
        open_now,
        set_mode,
        sync,
        sync_folder,
        unprotected,
    )

_HOME = {
    "database": (
        "BUSY_SECONDS",
        "PrivateDatabase",
        "StoreKind",
    ),
    "facts": ("Facts",),
    "files": (
        "clear_leftovers",
        "create_file",
        "make_folder",
        "read_file",
        "read_text",
        "refuse_loose",
        "replace_file",
    ),
    "rehearsal": ("no_room", "rehearse"),
    "system": (
        "create_now",
        "foreign",
        "keeps_modes",
        "loose",
        "open_now",
        "set_mode",
        "sync",
        "sync_folder",
        "unprotected",
    ),
}

__all__ = [
    "BUSY_SECONDS",
    "Facts",
    "PrivateDatabase",
    "StoreKind",
    "clear_leftovers",
    "create_file",
    "create_now",
    "foreign",
    "keeps_modes",
    "loose",
    "make_folder",
    "no_room",
    "open_now",
    "read_file",
    "read_text",
    "refuse_loose",
    "rehearse",
    "replace_file",
    "set_mode",
    "sync",
    "sync_folder",
    "unprotected",
]

__getattr__ = on_demand(globals(), __name__, _HOME)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
