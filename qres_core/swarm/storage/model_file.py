"""Model files: what leaves a swarm, with the votes that decided it.

Three forms hold the same values. ``.npz`` is for everybody (numpy alone reads it), ``.safetensors``
for other tools, and a compact form is what a node keeps in its data folder. A file has exactly one
encoding: a reader takes the few values it needs, encodes them again and compares. So every changed
bit is noticed, no archive is unpacked, and no size that a file claims is believed.

That a file is whole says nothing about who made it; see :mod:`qres_core.swarm.context.model_proof`.
"""

from __future__ import annotations

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import attrs
import numpy as np
from numpy.typing import NDArray

from qres_core.contract import canonical, fixed, stores
from qres_core.contract.errors import ConfigError, LabError, ModelError, QresError
from qres_core.contract.stores import create_file, replace_file
from qres_core.contract.types import Vector, check_vector, model_digest
from qres_core.contract.wire import ENVELOPE_OVERHEAD, Envelope
from qres_core.swarm.storage.journal import FILE

KEPT: Final = "vouched.cbor"
"""Name of the file in a node's folder."""
FORMAT: Final = "qres/model/v1"
MAX_COORDINATES: Final = 2**27
MAX_VOUCHERS: Final = 4096
MAX_FILE_BYTES: Final = 2**31 - 1
SUFFIXES: Final = (".npz", ".safetensors")

_MAX_VOUCHER: Final = ENVELOPE_OVERHEAD + 160
"""Of an encoded vote on an outcome: its payload is 78 bytes."""
_SWARM: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}")
_EARLIEST: Final = (1980, 1, 1, 0, 0, 0)
_MAX_HEADER: Final = 2**16


def unusable(what: str, where: str = "model") -> ModelError:
    """The error that refuses a model file."""
    fix = "export the model again, or ask for the file again"
    return ModelError.of("QRES-E605", where, what, fix)


@attrs.frozen(eq=False)
class SwarmModel:
    """A model of a swarm and the votes that decided it.

    Raises:
        ModelError: QRES-E605 for a value that no model of a swarm has.
    """

    swarm: str  # the swarm's name
    step: int  # how many models were made before it, the first not counted
    scale: int  # power-of-two exponent of the grid: a step of it is ``2**(scale - 16)``
    vector: Vector  # the model on the grid, int32, shape ``(d,)``
    # signed votes (``outcome/precommit``) of the nodes that decided it; empty where nobody signed.
    # Nothing is checked about them here.
    vouchers: tuple[Envelope, ...] = ()

    def __attrs_post_init__(self) -> None:
        if not _SWARM.fullmatch(self.swarm):
            raise unusable("the name of the swarm is invalid")
        if type(self.step) is not int or not 0 <= self.step < 2**63:
            raise unusable(f"step {self.step}")
        try:
            fixed.check_scale(self.scale)
            object.__setattr__(self, "vector", check_vector(self.vector, "vector"))
        except QresError as error:
            raise unusable(str(error.problems[0])) from error
        if self.vector.size > MAX_COORDINATES:
            raise unusable(f"{self.vector.size} coordinates, limit {MAX_COORDINATES}")
        if len(self.vouchers) > MAX_VOUCHERS:
            raise unusable(f"{len(self.vouchers)} vouchers, limit {MAX_VOUCHERS}")

    @property
    def weights(self) -> NDArray[np.float64]:
        """The model's real values, float64, shape ``(d,)``."""
        return fixed.decode(self.vector, scale=self.scale)

    @property
    def digest(self) -> bytes:
        """Names the model in the chain of models; what the votes are for. 32 bytes."""
        return model_digest(self.vector, self.step)

    @property
    def certificate(self) -> bytes:
        """The votes, encoded; empty without any."""
        if not self.vouchers:
            return b""
        return canonical.dumps([voucher.to_bytes() for voucher in self.vouchers])

    @property
    def checksum(self) -> bytes:
        """SHA-256 over all of it, against accidents: whoever changes the file can change it too."""
        fields = [FORMAT, self.swarm, self.step, self.scale, self.digest, self.certificate]
        return hashlib.sha256(canonical.dumps(fields)).digest()

    # ── files ─────────────────────────────────────────────────────────────────────────────────

    def save(self, path: Path) -> None:
        """Write a model file that must not exist yet; it is there whole or not at all.

        ``path``: where; ``.npz`` or ``.safetensors`` decides the form. Raises ConfigError:
        QRES-E105 for another ending. Raises LabError: QRES-E802 where ``safetensors`` is not
        installed, QRES-E803 where there is a file. Raises RoundError: QRES-E602 when the disk does
        not take it.
        """
        create_file(path, encode(self, form_of(path)))

    def keep(self, folder: Path) -> None:
        """Write the compact form into a node's folder, over the one before.

        Raises RoundError: QRES-E602 when the disk does not take it; the one before is as it was.
        """
        replace_file(folder / KEPT, encode(self, KEPT))

    @classmethod
    def load(cls, path: Path) -> SwarmModel:
        """Read a model file of any form.

        Raises ModelError: QRES-E605 for what is no whole model file, whatever it is. Raises
        ConfigError: QRES-E105 for another ending. Raises LabError: QRES-E802 where ``safetensors``
        is not installed.
        """
        return decode(read_file(path), KEPT if path.name == KEPT else form_of(path), str(path))


def form_of(path: Path) -> str:
    """The form that a file's name asks for. Raises ConfigError QRES-E105."""
    if path.suffix not in SUFFIXES:
        what = f"{path.name!r} ends with neither of {', '.join(SUFFIXES)}"
        raise ConfigError.of("QRES-E105", str(path), what, f"name it model{SUFFIXES[0]}")
    return path.suffix


def read_file(path: Path) -> bytes:
    """The content of a file of at most :data:`MAX_FILE_BYTES`. Raises ModelError QRES-E605."""
    try:
        return stores.read_file(path, MAX_FILE_BYTES)
    except ConfigError as error:
        raise unusable(error.problems[0].what, str(path)) from error


def encode(model: SwarmModel, form: str) -> bytes:
    """A model file's content; ``form``: ``.npz``, ``.safetensors`` or :data:`KEPT`. O(d).

    Raises LabError: QRES-E802 where ``safetensors`` is not installed.
    """
    return _FORMS[form][0](model)


def decode(content: bytes, form: str, where: str = "model") -> SwarmModel:
    """The model in a file's content; ``form`` as in :func:`encode`.

    What is read is written again, and must be the same bytes: that refuses whatever a reader below
    takes for something else.

    ``where``: what to name in the error. Raises ModelError: QRES-E605, and nothing else, whatever
    the bytes. Raises LabError: QRES-E802 where ``safetensors`` is not installed.

    Complexity: O(len(content)), and no more memory than a few times that.
    """
    write, read = _FORMS[form]
    try:
        model = read(content)
        whole = write(model) == content
    except LabError:
        raise
    except ModelError as error:
        raise unusable(error.problems[0].what, where) from error
    except (QresError, ValueError, LookupError, TypeError, RecursionError) as error:
        raise unusable("is not a model file of QRES, or is damaged", where) from error
    if not whole:
        raise unusable("is not as QRES writes it: it was changed or is damaged", where)
    return model


def _model(swarm: str, step: int, scale: int, octets: bytes, certificate: bytes) -> SwarmModel:
    vector = np.frombuffer(octets, dtype="<i4").astype(np.int32)
    frames: Any = []
    if certificate:
        size = len(certificate)
        frames = canonical.loads(certificate, max_bytes=size, max_items=MAX_VOUCHERS)
    vouchers = tuple(Envelope.from_bytes(frame, max_bytes=_MAX_VOUCHER) for frame in frames)
    return SwarmModel(swarm, step, scale, vector, vouchers)


def _little_endian(vector: Vector) -> bytes:
    return np.ascontiguousarray(vector, dtype="<i4").tobytes()


# ── npz ───────────────────────────────────────────────────────────────────────────────────────────


def _arrays(model: SwarmModel) -> dict[str, NDArray[Any]]:
    """Arrays of the ``.npz``, in its order."""
    return {
        "model": model.weights.astype("<f8", copy=False),
        "vector": model.vector.astype("<i4", copy=False),
        "step": np.array(model.step, dtype="<i8"),
        "scale": np.array(model.scale, dtype="<i8"),
        "swarm": np.array(model.swarm, dtype=f"<U{len(model.swarm)}"),
        "certificate": np.frombuffer(model.certificate, dtype=np.uint8),
        "checksum": np.frombuffer(model.checksum, dtype=np.uint8),
    }


def _to_npz(model: SwarmModel) -> bytes:
    archive = io.BytesIO()
    # Not `numpy.savez`: it writes the time of day into the file.
    with zipfile.ZipFile(archive, "w", zipfile.ZIP_STORED) as file:
        for name, array in _arrays(model).items():
            entry = zipfile.ZipInfo(f"{name}.npy", _EARLIEST)
            entry.create_system = 3
            entry.external_attr = 0o600 << 16
            content = io.BytesIO()
            np.lib.format.write_array(content, array, version=(1, 0), allow_pickle=False)
            file.writestr(entry, content.getbuffer())
    return archive.getvalue()


def _from_npz(content: bytes) -> SwarmModel:
    """Follows the entries from the first on; the directory at the end is only compared."""
    found: list[bytes] = []
    at = 0
    for _ in range(6):
        head = content[at : at + 30]
        at += 30 + int.from_bytes(head[26:28], "little") + int.from_bytes(head[28:30], "little")
        end = at + int.from_bytes(head[22:26], "little")
        if not head.startswith(b"PK\x03\x04"):
            raise unusable(
                "is not an npz file as QRES writes it: another program wrote it, or it is damaged"
            )
        data = at + 10 + int.from_bytes(content[at + 8 : at + 10], "little")
        # Not the decoded model, which follows from the vector: it is only compared.
        found.append(content[data:end] if found else b"")
        at = end
    _decoded, vector, step, scale, swarm, certificate = found
    number, exponent = (
        int.from_bytes(octets[:8], "little", signed=True) for octets in (step, scale)
    )
    return _model(swarm.decode("utf-32-le"), number, exponent, vector, certificate)


# ── safetensors ───────────────────────────────────────────────────────────────────────────────────


def _safetensors() -> Any:
    try:
        import safetensors.numpy  # noqa: PLC0415 - an extra
    except ImportError as error:
        fix = "pip install safetensors, or name the file model.npz"
        raise LabError.of("QRES-E802", "safetensors", "is not installed", fix) from error
    return safetensors.numpy


def _to_safetensors(model: SwarmModel) -> bytes:
    tensors = {
        name: array
        for name, array in _arrays(model).items()
        if name in {"model", "vector", "certificate", "checksum"}
    }
    facts = {"format": FORMAT, "swarm": model.swarm, "step": model.step, "scale": model.scale}
    # One entry: the library writes several in no order.
    octets: bytes = _safetensors().save(tensors, metadata={"qres": json.dumps(facts)})
    return octets


def _from_safetensors(content: bytes) -> SwarmModel:
    _safetensors()
    size = int.from_bytes(content[:8], "little")
    if size > min(_MAX_HEADER, len(content) - 8):
        raise unusable("is not a safetensors file of QRES")
    header: Any = json.loads(content[8 : 8 + size])
    data = memoryview(content)[8 + size :]
    facts: Any = json.loads(header["__metadata__"]["qres"])

    def tensor(name: str) -> bytes:
        start, end = header[name]["data_offsets"]
        return bytes(data[start:end])

    step, scale, swarm = facts["step"], facts["scale"], facts["swarm"]
    return _model(swarm, step, scale, tensor("vector"), tensor("certificate"))


# ── the compact form ──────────────────────────────────────────────────────────────────────────────


def _to_kept(model: SwarmModel) -> bytes:
    octets = _little_endian(model.vector)
    fields = [model.swarm, model.step, model.scale, octets, model.certificate, model.checksum]
    return canonical.dumps([FORMAT, *fields])


def _from_kept(content: bytes) -> SwarmModel:
    value: Any = canonical.loads(content, max_bytes=MAX_FILE_BYTES, max_items=7)
    _form, swarm, step, scale, octets, certificate, _checksum = value
    return _model(swarm, step, scale, octets, certificate)


_FORMS: Final[Mapping[str, tuple[Callable[[SwarmModel], bytes], Callable[[bytes], SwarmModel]]]] = {
    ".npz": (_to_npz, _from_npz),
    ".safetensors": (_to_safetensors, _from_safetensors),
    KEPT: (_to_kept, _from_kept),
}


# ── a node's folder ───────────────────────────────────────────────────────────────────────────────

_IDENTITY: Final = re.compile(r"[0-9a-f]{64}")


def homes(folder: Path) -> Sequence[Path]:
    """The folders of the nodes in a data folder, by its path or by that of the folder above it."""
    for place in (folder, folder / "data"):
        if _IDENTITY.fullmatch(place.name) and (place / FILE).exists():
            return (place,)
        try:
            inside = sorted(place.iterdir())
        except OSError:
            continue
        found = [
            home for home in inside if _IDENTITY.fullmatch(home.name) and (home / FILE).exists()
        ]
        if found:
            return found
    return ()


def kept_model(folder: Path) -> SwarmModel:
    """The newest model of a node, running or not, that the swarm decided.

    ``folder``: the node's ``node.data_dir``, the folder in it that is named after the identity, or
    a folder with ``data`` in it, as `qres swarm up` makes them. Raises ModelError: QRES-E606 where
    there is none yet, QRES-E605 for a damaged one. Raises ConfigError: QRES-E105 for a folder that
    is no node's, or of several.
    """
    found = homes(folder.resolve())
    if len(found) != 1:
        what = "is not the data folder of a node"
        fix = "name the folder that node.data_dir names"
        below = [below for below in sorted(folder.glob("*/data")) if homes(below)][:1]
        if below:
            fix = f"name the folder of one node, for example {below[0].parent}"
        if found:
            what = f"holds the data of {len(found)} nodes"
            fix = f"name one of them, for example {found[0]}"
        raise ConfigError.of("QRES-E105", str(folder), what, fix)
    path = found[0] / KEPT
    if not path.exists():
        what = "has no model yet that the swarm decided"
        fix = "wait for the end of a round, and see `qres node status`"
        raise ModelError.of("QRES-E606", str(folder), what, fix)
    try:
        return SwarmModel.load(path)
    except ModelError as error:
        fix = "start the node: it writes the file again at its next model"
        raise ModelError.of("QRES-E605", str(path), error.problems[0].what, fix) from error


def check_writable(path: Path) -> None:
    """Refuse early a place where no model file can be made.

    Raises ConfigError: QRES-E105 for an ending that is no form. Raises LabError: QRES-E802 without
    what the form needs, QRES-E803 where there is a file.
    """
    if form_of(path) == ".safetensors":
        _safetensors()
    if path.exists() or path.is_symlink():
        raise LabError.of("QRES-E803", str(path), "exists", "name another file")
