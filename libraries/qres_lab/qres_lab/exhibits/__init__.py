"""Exhibits of the protocols of plugins: what colluders try on secagg, zk and dp.

A protocol is attacked from within, so an exhibit imports inner modules of its plugin. Those of a
plugin that is not installed are left out.
"""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from typing import Final

from qres_lab.exhibit import GalleryEntry

NEEDED: Final[Mapping[str, tuple[str, ...]]] = {
    "dp": ("qres-dp", "qres-dp-audit"),
    "secagg": ("qres-secagg",),
    "zk": ("qres-zk",),
}
"""The distributions that the exhibits of a module need."""


def lacking() -> Mapping[str, tuple[str, ...]]:
    """By module, the distributions that are not installed, where there are any."""
    absent = {
        module: tuple(name for name in names if not _installed(name))
        for module, names in NEEDED.items()
    }
    return {module: names for module, names in absent.items() if names}


def brought() -> Iterator[GalleryEntry]:
    """The exhibits of the plugins that are installed."""
    without = lacking()
    for module in NEEDED:
        if module not in without:
            yield from importlib.import_module(f"qres_lab.exhibits.{module}").ENTRIES


def _installed(name: str) -> bool:
    try:
        distribution(name)
    except PackageNotFoundError:
        return False
    return True
