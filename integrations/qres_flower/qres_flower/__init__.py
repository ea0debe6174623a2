"""Flower for QRES: its defences around a Flower strategy, and a Flower ClientApp in a swarm.

Flower is imported with the first name that is asked for: ``qres --help`` must not load it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from qres_flower.mod import QresMod, qres_mod
    from qres_flower.strategy import FlowerRound, QresStrategy

__version__ = "0.2.0"

_HOME: Final = {
    "FlowerRound": "strategy",
    "QresMod": "mod",
    "QresStrategy": "strategy",
    "qres_mod": "mod",
}
__all__ = ["FlowerRound", "QresMod", "QresStrategy", "__version__", "qres_mod"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"qres_flower.{_HOME[name]}"), name)
