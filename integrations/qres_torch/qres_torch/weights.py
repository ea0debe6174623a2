"""Weights in and out: safetensors files under the names of ``state_dict``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from qres_core import ModelError, stores
from qres_torch.border import BadFileError, files, torch
from qres_torch.layout import listed

_METADATA: Final = {"format": "pt"}  # Hugging Face's readers ask for it


def save_weights(module: Any, path: Path | str) -> None:
    """Write all that ``module.state_dict()`` holds into a new safetensors file.

    Of tensors that share memory, as tied weights do, the first is written.

    Raises:
        LabError: QRES-E803 where there is a file.
        RoundError: QRES-E602 when the disk does not take it.
    """
    written: dict[str, Any] = {}
    seen: set[tuple[Any, ...]] = set()
    for name, tensor in module.state_dict().items():
        place = (tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride())
        if tensor.numel() and place in seen:
            continue
        seen.add(place)
        written[name] = tensor.detach().cpu().contiguous().clone()
    octets: bytes = files.save(written, metadata=_METADATA)
    stores.create_file(Path(path), octets)


def load_weights(module: Any, path: Path | str, *, partial: bool = False) -> Any:
    """Load a safetensors file, or all of a folder, into a module, and return the module.

    Nothing is downloaded, and nothing in a file is run. All nodes of a swarm need the same weights.

    Args:
        module: a ``torch.nn.Module``.
        path: the file, or a folder as ``save_pretrained`` writes it.
        partial: whether names may be missing, as those of a new head are, or be of no use.

    Raises:
        ModelError: QRES-E605 for what is no such file, for other shapes and, unless ``partial``,
            for other names. The module is as it was then.
    """
    found: dict[str, Any] = {}
    path = Path(path)
    paths = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    for each in paths:
        try:
            found |= files.load_file(str(each))
        except (OSError, BadFileError) as error:
            raise _unusable(each, f"cannot be read: {error}") from error
    if not found:
        raise _unusable(path, "holds no safetensors file with weights")
    own: dict[str, Any] = module.state_dict()
    wrong = [name for name in own if name in found and own[name].shape != found[name].shape]
    if wrong:
        raise _unusable(path, f"has other shapes than the module: {listed(wrong)}")
    given = {own[name].data_ptr() for name in own if name in found}
    missing = [name for name in own if name not in found and own[name].data_ptr() not in given]
    unknown = [name for name in found if name not in own]
    for names, what in ((missing, "lacks"), (unknown, "has, and the module has not")):
        if names and not partial:
            raise _unusable(path, f"{what}: {listed(names)}")
    with torch.no_grad():
        module.load_state_dict(found, strict=False)
    return module


def _unusable(path: Path, what: str) -> ModelError:
    fix = "name the weights of this module, or load what fits with partial=True"
    return ModelError.of("QRES-E605", str(path), what, fix)
