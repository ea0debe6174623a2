"""Weights in and out: safetensors files under the names of ``state_dict``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from qres_core import stores
from qres_core.errors import ModelError
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
        place = _place(tensor)
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
            for other names; for numbers of another kind, such as whole ones for real ones, for a
            name in two files, and where no name is the module's. The module is as it was then.
    """
    found: dict[str, Any] = {}
    path = Path(path)
    paths = sorted(path.glob("*.safetensors")) if path.is_dir() else [path]
    for each in paths:
        try:
            part: dict[str, Any] = files.load_file(str(each))
        except (OSError, BadFileError) as error:
            raise _unusable(each, f"cannot be read: {error}") from error
        if twice := [name for name in part if name in found]:
            raise _unusable(path, f"holds in several files: {listed(twice)}")
        found |= part
    if not found:
        raise _unusable(path, "holds no safetensors file with weights")
    own: dict[str, Any] = module.state_dict()
    wrong = [name for name in own if name in found and own[name].shape != found[name].shape]
    if wrong:
        raise _unusable(path, f"has other shapes than the module: {listed(wrong)}")
    other = [name for name in own if name in found and _kind(own[name]) != _kind(found[name])]
    if other:
        raise _unusable(path, f"has numbers of another kind than the module: {listed(other)}")
    given = {_place(own[name]) for name in own if name in found}
    if not given:
        raise _unusable(path, f"has no name of the module, which has: {listed(list(own))}")
    missing = [name for name in own if name not in found and _place(own[name]) not in given]
    unknown = [name for name in found if name not in own]
    for names, what in ((missing, "lacks"), (unknown, "has, and the module has not")):
        if names and not partial:
            raise _unusable(path, f"{what}: {listed(names)}")
    with torch.no_grad():
        module.load_state_dict(found, strict=False)
    return module


def _place(tensor: Any) -> tuple[Any, ...]:
    """Place of a tensor: tied weights have one place."""
    return tensor.device, tensor.data_ptr(), tensor.dtype, tuple(tensor.shape), tensor.stride()


def _kind(tensor: Any) -> tuple[bool, bool]:
    """Tell if a tensor holds real numbers, or complex ones."""
    return tensor.is_floating_point(), tensor.is_complex()


def _unusable(path: Path, what: str) -> ModelError:
    fix = "name the weights of this module, or load what fits with partial=True"
    return ModelError.of("QRES-E605", str(path), what, fix)
