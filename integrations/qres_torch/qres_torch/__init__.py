"""PyTorch for QRES: a module, a loader and an optimiser, trained by a swarm.

Torch is imported with the first name that is asked for: ``qres --help`` must not load it.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, Final

if TYPE_CHECKING:
    from qres_torch.scale import GridProposal, propose_scale
    from qres_torch.trainer import TorchTrainer
    from qres_torch.weights import load_weights, save_weights

_HOME: Final = {
    "GridProposal": "scale",
    "TorchTrainer": "trainer",
    "load_weights": "weights",
    "propose_scale": "scale",
    "save_weights": "weights",
}
__all__ = ["GridProposal", "TorchTrainer", "load_weights", "propose_scale", "save_weights"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"qres_torch.{_HOME[name]}"), name)
