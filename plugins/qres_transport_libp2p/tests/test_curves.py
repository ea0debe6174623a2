"""libp2p is imported without fastecdsa, and a key that would need it is refused by name.

Each test starts a Python of its own, in which fastecdsa cannot be found, whatever is installed.
"""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

WITHOUT = """
import sys, warnings
warnings.simplefilter("ignore")

class Hides:
    def __init__(self, finder):
        self.finder = finder

    def __getattr__(self, name):
        return getattr(self.finder, name)

    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] != "fastecdsa":
            return self.finder.find_spec(name, path, target)

sys.meta_path[:] = [Hides(finder) for finder in sys.meta_path]
"""


def run(program: str, cwd: Path | None = None) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", program]
    return subprocess.run(command, capture_output=True, check=False, cwd=cwd, text=True)


@pytest.mark.control("C-install-2", "C-libp2p-2")
def test_libp2p_alone_cannot_be_imported_without_fastecdsa() -> None:
    assert "No module named 'fastecdsa'" in run(WITHOUT + "import libp2p").stderr


def test_the_plugin_imports_libp2p_without_fastecdsa() -> None:
    done = run(
        WITHOUT
        + "from qres_transport_libp2p.pin import check_libp2p\n"
        + "check_libp2p()\n"
        + "import qres_transport_libp2p.transport\n"
        + "print(sorted(name for name in sys.modules if name.startswith('fastecdsa')))\n"
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.claim("C-libp2p-2")
def test_a_key_on_p_256_is_refused_by_name() -> None:
    done = run(
        WITHOUT
        + "from qres_core.errors import TransportError\n"
        + "from qres_transport_libp2p.pin import check_libp2p\n"
        + "check_libp2p()\n"
        + "from libp2p.crypto.ecc import ECCPublicKey, create_new_key_pair\n"
        + "from libp2p.crypto.key_exchange import create_ephemeral_key_pair, int_bytelen\n"
        + "for call in (\n"
        + "    lambda: create_new_key_pair('P-256'),\n"
        + "    lambda: create_ephemeral_key_pair('P-256'),\n"
        + "    lambda: ECCPublicKey.from_bytes(bytes(65), 'P-256'),\n"
        + "    lambda: ECCPublicKey(None, None).to_bytes(),\n"
        + "    lambda: int_bytelen(1),\n"
        + "):\n"
        + "    try:\n"
        + "        call()\n"
        + "    except TransportError as error:\n"
        + "        print(error)\n"
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len([line for line in lines if "QRES-E908 plugins.libp2p: " in line]) == 5
    assert all("P-256" in line for line in lines if "QRES-E908" in line)


@pytest.mark.control("C-libp2p-2")
def test_an_ed25519_key_signs_without_fastecdsa() -> None:
    done = run(
        WITHOUT
        + "from qres_transport_libp2p.pin import check_libp2p\n"
        + "check_libp2p()\n"
        + "from libp2p.crypto.ed25519 import create_new_key_pair\n"
        + "pair = create_new_key_pair(bytes(32))\n"
        + "print(pair.public_key.verify(b'told', pair.private_key.sign(b'told')))\n"
        + "print(pair.public_key.verify(b'tolt', pair.private_key.sign(b'told')))\n"
    )
    assert (done.stdout, done.stderr) == ("True\nFalse\n", "")


def test_a_fastecdsa_that_is_installed_is_the_one_used(tmp_path: Path) -> None:
    (tmp_path / "fastecdsa.py").write_text("MARK = 'the real one'\n", encoding="utf-8")
    done = run(
        f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n"
        "from qres_transport_libp2p.curves import without_fastecdsa\n"
        "with without_fastecdsa():\n"
        "    import fastecdsa\n"
        "    print(fastecdsa.MARK)\n"
        "print('fastecdsa' in sys.modules)\n"
    )
    assert (done.stdout, done.stderr) == ("the real one\nTrue\n", "")


def test_an_error_inside_leaves_nothing_behind() -> None:
    done = run(
        WITHOUT
        + "from qres_transport_libp2p.curves import without_fastecdsa\n"
        + "try:\n"
        + "    with without_fastecdsa():\n"
        + "        raise ImportError\n"
        + "except ImportError:\n"
        + "    print([name for name in sys.modules if name.startswith('fastecdsa')])\n"
    )
    assert (done.stdout, done.stderr) == ("[]\n", "")
