"""A model file is read as it was written, or refused by name, whatever its bytes."""

from __future__ import annotations

import hashlib
import io
import itertools
import json
import os
import random
import subprocess
import sys
import tracemalloc
import zipfile
from importlib.util import find_spec
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qres_core import Envelope, Vector, canonical
from qres_core.errors import ConfigError, LabError, ModelError
from qres_core.swarm.ledger.messages import OUTCOME_PRECOMMIT, encode_conclusion
from qres_core.swarm.ledger.results import Conclusion, Merged
from qres_core.swarm.storage import model_file
from qres_core.swarm.storage.model_file import KEPT, SwarmModel, decode, encode, homes, kept_model

NO_SAFETENSORS = pytest.mark.skipif(
    find_spec("safetensors") is None, reason="safetensors is not installed"
)
FORMS = (".npz", pytest.param(".safetensors", marks=NO_SAFETENSORS), KEPT)
VECTOR: Vector = np.array([0, 1, -1, 65536, 2**31 - 1, -(2**31) + 1], dtype=np.int32)
HEAD = b"p" * 32


def voucher(number: int, digest: bytes, **changed: bytes) -> Envelope:
    payload = encode_conclusion(Conclusion(b"s" * 32, Merged(digest)))
    auth = changed or {"some": bytes([number]) * 64}
    return Envelope("test", OUTCOME_PRECOMMIT, 7, HEAD, bytes([number]) * 32, 5, 1, payload, auth)


def made(scale: int = 3, vouchers: int = 2) -> SwarmModel:
    bare = SwarmModel("test", 7, scale, VECTOR)
    return SwarmModel(
        "test", 7, scale, VECTOR, tuple(voucher(n, bare.digest) for n in range(vouchers))
    )


def same(swarm_model: SwarmModel, other: SwarmModel) -> bool:
    return (
        (swarm_model.swarm, swarm_model.step, swarm_model.scale)
        == (other.swarm, other.step, other.scale)
        and np.array_equal(swarm_model.vector, other.vector)
        and swarm_model.certificate == other.certificate
    )


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("vouchers", [0, 2])
@given(
    step=st.integers(0, 2**63 - 1),
    scale=st.integers(-32, 32),
    values=st.lists(st.integers(-(2**31), 2**31 - 1), min_size=1, max_size=30),
    swarm=st.from_regex(r"[A-Za-z0-9][A-Za-z0-9._/-]{0,63}", fullmatch=True),
)
@settings(max_examples=25, deadline=None)
def test_every_model_is_read_as_it_was_written(
    form: str, vouchers: int, step: int, scale: int, values: list[int], swarm: str
) -> None:
    vector = np.array(values, dtype=np.int32)
    messages = tuple(voucher(n, HEAD) for n in range(vouchers))
    model = SwarmModel(swarm, step, scale, vector, messages)
    content = encode(model, form)
    assert same(decode(content, form), model)
    assert encode(model, form) == content


def test_numpy_alone_reads_an_npz(tmp_path: Path) -> None:
    made().save(tmp_path / "model.npz")
    program = (
        "import sys, numpy as np\n"
        "one = np.load(sys.argv[1], allow_pickle=False)\n"
        "assert one['model'].dtype == np.float64 and one['vector'].dtype == np.int32\n"
        "assert (one['model'] == one['vector'] * 2.0 ** (int(one['scale']) - 16)).all()\n"
        "assert int(one['step']) == 7 and str(one['swarm']) == 'test'\n"
        "assert one['certificate'].dtype == np.uint8 and one['certificate'].size\n"
        "assert not [name for name in sys.modules if name.startswith('qres')]\n"
    )
    subprocess.run([sys.executable, "-c", program, str(tmp_path / "model.npz")], check=True)


@NO_SAFETENSORS
def test_safetensors_reads_the_other_form(tmp_path: Path) -> None:
    import safetensors.numpy  # noqa: PLC0415 - an extra

    made().save(tmp_path / "model.safetensors")
    tensors = safetensors.numpy.load_file(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(tensors["model"], made().weights)
    np.testing.assert_array_equal(tensors["vector"], VECTOR)


@pytest.mark.parametrize(
    ("form", "digest"),
    [
        (".npz", "486ed1de727bec3a"),
        pytest.param(".safetensors", "f1dbfd927c8f2693", marks=NO_SAFETENSORS),
        (KEPT, "b3bb3bb6ec9a5fbf"),
    ],
)
def test_a_form_does_not_change_with_the_version_of_a_library(form: str, digest: str) -> None:
    """Otherwise a reader would refuse what an older writer made."""
    assert hashlib.sha256(encode(made(), form)).hexdigest()[:16] == digest


# ── damage ────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("form", FORMS)
def test_every_byte_with_one_bit_changed_is_refused(form: str) -> None:
    content = encode(made(), form)
    drawn = random.Random(form)
    assert same(decode(content, form), made()), "control: unchanged it is read"
    for at in range(len(content)):
        changed = bytearray(content)
        changed[at] ^= 1 << drawn.randrange(8)
        with pytest.raises(ModelError, match="QRES-E605"):
            decode(bytes(changed), form)


@pytest.mark.parametrize("form", FORMS)
def test_whatever_is_cut_off_or_added_is_refused(form: str) -> None:
    content = encode(made(), form)
    for length in range(len(content)):
        with pytest.raises(ModelError, match="QRES-E605"):
            decode(content[:length], form)
    for more in (b"\0", content):
        with pytest.raises(ModelError, match="QRES-E605"):
            decode(content + more, form)


@pytest.mark.parametrize("form", FORMS)
@given(content=st.binary(max_size=400))
@settings(max_examples=200, deadline=None)
def test_any_bytes_are_a_model_or_one_named_error(form: str, content: bytes) -> None:
    with pytest.raises(ModelError, match="QRES-E605"):
        decode(content, form)


@pytest.mark.parametrize("form", FORMS)
def test_many_changes_at_once_are_refused(form: str) -> None:
    content = encode(made(), form)
    drawn = random.Random(form)
    for _ in range(500):
        changed = bytearray(content)
        for _change in range(drawn.randint(1, 8)):
            at, length = drawn.randrange(len(changed)), drawn.randint(0, 12)
            changed[at : at + length] = drawn.randbytes(drawn.randint(0, 12))
        if bytes(changed) != content:
            with pytest.raises(ModelError, match="QRES-E605"):
                decode(bytes(changed), form)


@pytest.mark.parametrize("form", [".npz", KEPT])
@pytest.mark.long
def test_what_is_tiny_in_a_file_does_not_grow_in_memory(form: str) -> None:
    """A list of empty lists takes 72 bytes of memory for each byte of a file."""
    size = 2**20
    bomb = b"\x9a" + size.to_bytes(4, "big") + b"\x80" * size
    assert len(canonical.loads(bomb, max_bytes=2 * size)) == size, "control: it is well formed"
    content = bomb
    if form == ".npz":
        whole = encode(made(), form)
        at = whole.index(b"certificate.npy") + len("certificate.npy")
        head = bytearray(whole[: at + 128])
        entry = at - len("certificate.npy") - 30
        head[entry + 18 : entry + 26] = (128 + len(bomb)).to_bytes(4, "little") * 2
        tail = whole[whole.index(b"PK\x03\x04", at) :]
        content = bytes(head) + bomb + tail
    tracemalloc.start()
    try:
        with pytest.raises(ModelError, match="QRES-E605"):
            decode(content, form)
        _now, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 8 * size


@NO_SAFETENSORS
def test_a_bomb_is_not_unpacked() -> None:
    """A file that claims gigabytes, in either form, costs what its bytes cost."""
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as file:
        for name in ("model", "vector", "step", "scale", "swarm", "certificate", "checksum"):
            file.writestr(f"{name}.npy", bytes(2**24))
    with pytest.raises(ModelError, match="QRES-E605"):
        decode(packed.getvalue(), ".npz")
    header = (
        b'{"__metadata__":{"qres":"{\\"step\\":1,\\"scale\\":0,\\"swarm\\":\\"s\\"}"},'
        b'"vector":{"dtype":"I32","shape":[4611686018427387904],"data_offsets":[0,%d]}}'
    )
    for end in (2**62, 9):
        text = header % end
        with pytest.raises(ModelError, match="QRES-E605"):
            decode(len(text).to_bytes(8, "little") + text, ".safetensors")
    with pytest.raises(ModelError, match="QRES-E605"):
        decode((2**62).to_bytes(8, "little") + b"{}", ".safetensors")


@NO_SAFETENSORS
def test_a_model_that_does_not_follow_from_the_vector_is_refused() -> None:
    """The checksum is right and the file is well formed; only the decoded values are others."""
    import safetensors.numpy  # noqa: PLC0415 - an extra

    model = made()
    arrays = {
        "model": model.weights + 1.0,
        "vector": model.vector,
        "certificate": np.frombuffer(model.certificate, dtype=np.uint8),
        "checksum": np.frombuffer(model.checksum, dtype=np.uint8),
    }
    content = encode(model, ".safetensors")
    size = int.from_bytes(content[:8], "little")
    meta = json.loads(content[8 : 8 + size])["__metadata__"]
    assert safetensors.numpy.save({**arrays, "model": model.weights}, meta) == content, "control"
    with pytest.raises(ModelError, match="QRES-E605"):
        decode(safetensors.numpy.save(arrays, meta), ".safetensors")


# ── files ─────────────────────────────────────────────────────────────────────────────────────


def test_a_file_in_the_way_stays_as_it_is(tmp_path: Path) -> None:
    (tmp_path / "model.npz").write_bytes(b"mine")
    with pytest.raises(LabError, match="QRES-E803"):
        made().save(tmp_path / "model.npz")
    assert (tmp_path / "model.npz").read_bytes() == b"mine"


@pytest.mark.parametrize("name", ["model", "model.pt", "model.NPZ"])
def test_another_ending_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(ConfigError, match="QRES-E105"):
        made().save(tmp_path / name)
    assert not list(tmp_path.iterdir())


def test_without_safetensors_the_refusal_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "safetensors.numpy", None)
    with pytest.raises(LabError, match=r"QRES-E802.*pip install safetensors"):
        made().save(tmp_path / "model.safetensors")
    made().save(tmp_path / "model.npz")


def test_what_is_no_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "folder.npz").mkdir()
    os.mkfifo(tmp_path / "fifo.npz")
    for name in ("none.npz", "folder.npz", "fifo.npz", "a\0b.npz"):
        with pytest.raises(ModelError, match="QRES-E605"):
            SwarmModel.load(tmp_path / name)


@pytest.mark.parametrize(
    "wrong",
    [
        {"swarm": "no name"},
        {"step": -1},
        {"step": True},
        {"step": 1.0},
        {"step": 2**63},
        {"scale": 33},
        {"vector": np.zeros(3, dtype=np.int64)},
        {"vector": np.zeros((2, 2), dtype=np.int32)},
        {"vector": np.zeros(0, dtype=np.int32)},
    ],
)
def test_what_no_swarm_has_is_no_model(wrong: dict[str, object]) -> None:
    fields: dict[str, object] = {"swarm": "test", "step": 1, "scale": 0, "vector": VECTOR}
    with pytest.raises(ModelError, match="QRES-E605"):
        SwarmModel(**{**fields, **wrong})  # type: ignore[arg-type]


def test_what_another_program_wrote_is_told_apart_from_what_was_changed() -> None:
    saved = io.BytesIO()
    np.savez(saved, model=np.zeros(3))
    for content in (saved.getvalue(), bytes(1000)):
        with pytest.raises(ModelError, match="another program wrote it"):
            decode(content, ".npz")


def test_as_much_as_fits_is_a_model_and_no_more(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(model_file, "MAX_COORDINATES", VECTOR.size)
    monkeypatch.setattr(model_file, "MAX_VOUCHERS", 2)
    assert same(decode(encode(made(), KEPT), KEPT), made())
    with pytest.raises(ModelError, match="coordinates, limit"):
        SwarmModel("test", 7, 3, np.zeros(VECTOR.size + 1, dtype=np.int32))
    with pytest.raises(ModelError, match="3 vouchers, limit 2"):
        made(vouchers=3)


ODD = [None, True, 7, "text", b"octets", [], [b"octets"], {}, {"key": b"octets"}]


@pytest.mark.parametrize("odd", ODD, ids=repr)
def test_a_field_of_another_kind_is_refused_by_name(odd: object) -> None:
    fields = canonical.loads(encode(made(), KEPT), max_bytes=2**20, max_items=7)
    for place in range(len(fields)):
        changed = [*fields[:place], odd, *fields[place + 1 :]]
        certificates = [odd] if place == 5 else []
        if place == 5 and odd != b"octets":
            certificates.append(canonical.dumps(odd))
        for value in [changed, *([*fields[:5], item, fields[6]] for item in certificates)]:
            if value != fields:
                with pytest.raises(ModelError, match="QRES-E605"):
                    decode(canonical.dumps(value), KEPT)
    with pytest.raises(ModelError, match="QRES-E605"):
        decode(canonical.dumps(odd), KEPT)


@NO_SAFETENSORS
@pytest.mark.parametrize("odd", ["true", "7e0", '\\"7\\"', "null", "[7]", "{}"])
@pytest.mark.parametrize("field", ["step", "scale", "swarm", "data_offsets"])
def test_metadata_of_another_kind_are_refused_by_name(field: str, odd: str) -> None:
    content = encode(made(scale=7), ".safetensors")
    size = int.from_bytes(content[:8], "little")
    header = content[8 : 8 + size].decode()
    if field == "data_offsets":
        start = header.index('"vector"')
        start = header.index("[", header.index(field, start)) + 1
        changed = f"{header[:start]}{odd.replace(chr(92), '')}{header[header.index(',', start) :]}"
    else:
        was = '\\"test\\"' if field == "swarm" else "7"
        changed = header.replace(f'\\"{field}\\": {was}', f'\\"{field}\\": {odd}')
    assert changed != header
    octets = changed.encode()
    with pytest.raises(ModelError, match="QRES-E605"):
        decode(len(octets).to_bytes(8, "little") + octets + content[8 + size :], ".safetensors")


@NO_SAFETENSORS
@pytest.mark.parametrize("size", [2**16, 2**16 + 1])
def test_a_header_that_is_too_long_is_not_parsed(
    monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    parsed: list[int] = []

    def loads(text: bytes) -> dict[str, object]:
        parsed.append(len(text))
        return {}

    monkeypatch.setattr(model_file, "json", SimpleNamespace(loads=loads, dumps=json.dumps))
    with pytest.raises(ModelError, match="QRES-E605"):
        decode(size.to_bytes(8, "little") + bytes(2 * size), ".safetensors")
    assert parsed == ([size] if size == 2**16 else [])


def test_a_place_with_a_file_or_a_link_is_refused_early(tmp_path: Path) -> None:
    there, link = tmp_path / "there.npz", tmp_path / "link.npz"
    model_file.check_writable(there)
    there.touch()
    link.symlink_to(tmp_path / "nowhere.npz")
    for path in (there, link):
        with pytest.raises(LabError, match="QRES-E803"):
            model_file.check_writable(path)


# ── a node's folder ───────────────────────────────────────────────────────────────────────────


def home(folder: Path, number: int) -> Path:
    place = folder / (bytes([number]) * 32).hex()
    place.mkdir(parents=True)
    (place / "journal.sqlite").touch()
    return place


def test_a_folder_is_found_by_each_of_its_names(tmp_path: Path) -> None:
    place = home(tmp_path / "node-3" / "data", 1)
    made().keep(place)
    for name in (tmp_path / "node-3", tmp_path / "node-3" / "data", place):
        assert list(homes(name)) == [place]
        assert same(kept_model(name), made())


def test_a_folder_without_a_model_says_so(tmp_path: Path) -> None:
    home(tmp_path, 1)
    with pytest.raises(ModelError, match=r"QRES-E606.*no model yet"):
        kept_model(tmp_path)


def test_what_is_no_node_s_folder_is_refused(tmp_path: Path) -> None:
    for place in (tmp_path, tmp_path / "none"):
        with pytest.raises(ConfigError, match="QRES-E105"):
            kept_model(place)
    home(tmp_path, 1)
    home(tmp_path, 2)
    with pytest.raises(ConfigError, match="data of 2 nodes"):
        kept_model(tmp_path)


def test_the_kept_model_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    place = home(tmp_path, 1)
    made(scale=1).keep(place)

    def full(*_arguments: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("os.fsync", full)
        with pytest.raises(Exception, match="QRES-E602"):
            made(scale=2).keep(place)
    assert kept_model(tmp_path).scale == 1
    made(scale=2).keep(place)
    assert kept_model(tmp_path).scale == 2
    assert {path.name for path in place.iterdir()} == {"journal.sqlite", KEPT}


def test_a_damaged_kept_model_is_refused(tmp_path: Path) -> None:
    place = home(tmp_path, 1)
    for content in itertools.chain([b"", b"x"], [encode(made(), KEPT)[:-1]]):
        (place / KEPT).write_bytes(content)
        with pytest.raises(ModelError, match=r"QRES-E605.*start the node"):
            kept_model(tmp_path)


def test_a_size_limit_comes_before_reading(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    made().save(tmp_path / "model.npz")
    monkeypatch.setattr(model_file, "MAX_FILE_BYTES", 100)
    with pytest.raises(ModelError, match="larger than 100 bytes"):
        SwarmModel.load(tmp_path / "model.npz")
