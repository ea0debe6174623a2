"""Windows lacks some calls of POSIX: they are made in two modules alone, and done without."""

from __future__ import annotations

import ast
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import anyio
import pytest
from qres_lab.box import children

from qres_core.node import stopping

ROOT = Path(__file__).resolve().parents[2]
OWNERS = {
    ROOT / "qres_core/contract/stores/system.py",
    ROOT / "qres_core/node/calling.py",
    ROOT / "qres_core/node/stopping.py",
    ROOT / "plugins/qres_transport_grpc/qres_transport_grpc/cli.py",
}
SOURCES = sorted(
    path
    for pattern in (
        "qres_core/**/*.py",
        *(f"{kind}/*/qres_*/**/*.py" for kind in ("plugins", "libraries", "integrations")),
    )
    for path in ROOT.glob(pattern)
)
POSIX_ONLY = {
    *("geteuid", "getuid", "getegid", "getgid", "getpwuid", "st_uid", "fchmod", "fchown", "chown"),
    *("O_NONBLOCK", "O_CLOEXEC", "O_NOFOLLOW", "O_DIRECTORY", "O_SYNC", "fdatasync", "fsync"),
    *("fork", "forkpty", "killpg", "setsid", "getpgid", "mkfifo", "sysconf", "uname", "umask"),
    *("SIGKILL", "SIGHUP", "SIGQUIT", "SIGUSR1", "SIGUSR2", "SIGALRM", "SIGCHLD", "SIGPIPE"),
    *("add_signal_handler", "open_signal_receiver", "wait_readable", "AF_UNIX", "SO_REUSEPORT"),
}
MODULES = {"fcntl", "grp", "pwd", "resource", "termios", "tty", "pty", "syslog"}

# Packages of others come first: what they ask a POSIX system for is theirs.
WITHOUT = f"""
import os, signal, sys
import anyio, asyncio, h11, numpy, prometheus_client, rich, sklearn.datasets, structlog, trio
import cryptography.hazmat.primitives.serialization, multiprocessing.pool, nacl.signing
for name in {sorted(POSIX_ONLY - {"fsync"})}:
    for module in (os, signal):
        if hasattr(module, name):
            delattr(module, name)
for name in {sorted(MODULES)}:
    sys.modules[name] = None
"""


def posix_only(source: str) -> Iterator[str]:
    """What ``source`` asks for by name that Windows does not have."""
    for node in ast.walk(ast.parse(source)):
        match node:
            case ast.Attribute(attr=name) | ast.Name(id=name) if name in POSIX_ONLY:
                yield f"line {node.lineno}: {name}"
            case ast.Import(names=names):
                tops = {alias.name.partition(".")[0] for alias in names}
                yield from (f"line {node.lineno}: {name}" for name in tops & MODULES)
            case ast.ImportFrom(module=str(module)) if module.partition(".")[0] in MODULES:
                yield f"line {node.lineno}: {module}"
            case _:
                continue


def run(program: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-P", "-c", WITHOUT + program]
    return subprocess.run(command, capture_output=True, check=False, cwd=cwd, text=True)


def test_calls_of_posix_are_made_by_their_owners_alone() -> None:
    assert len(SOURCES) > 100
    assert set(SOURCES) >= OWNERS
    offending = {
        str(path.relative_to(ROOT)): found
        for path in SOURCES
        if path not in OWNERS and (found := list(posix_only(path.read_text("utf-8"))))
    }
    assert not offending


@pytest.mark.parametrize(
    "source",
    [
        "import os\nos.geteuid()",
        "import os\nflags = os.O_RDONLY | os.O_NONBLOCK",
        "import fcntl",
        "from resource import getrusage",
        "import signal\nprocess.send_signal(signal.SIGKILL)",
        "loop.add_signal_handler(2, stop)",
    ],
)
def test_the_check_sees(source: str) -> None:
    assert list(posix_only(source))


def test_stores_work_where_files_have_no_modes(tmp_path: Path) -> None:
    done = run(
        "from pathlib import Path\n"
        "from qres_core import stores; from qres_core.errors import QresError\n"
        "assert not stores.keeps_modes()\n"
        "folder = Path('node')\n"
        "stores.make_folder(folder)\n"
        "stores.create_file(folder / 'new', b'one\\n')\n"
        "stores.replace_file(folder / 'new', b'two\\r\\n')\n"
        "assert stores.read_file(folder / 'new', 100) == b'two\\r\\n'\n"
        "try:\n"
        "    stores.create_file(folder / 'new', b'three')\n"
        "except QresError as error:\n"
        "    print(error.code)\n"
        "(folder / 'new').chmod(0o666)\n"
        "stores.refuse_loose(folder / 'new')\n"
        "kind = stores.StoreKind(file='a.sqlite3', name='a store', application_id=1, version=1,\n"
        "                        reader='x', remedy='y')\n"
        "fill = lambda made: made.execute('CREATE TABLE t (a)')\n"
        "kept = stores.PrivateDatabase.open(folder, kind, fill)\n"
        "with kept.transaction():\n"
        "    kept.execute('INSERT INTO t VALUES (7)')\n"
        "kept.close()\n"
        "kept = stores.PrivateDatabase.open(folder, kind, fill)\n"
        "print(kept.rows('SELECT a FROM t'))\n"
        "kept.close()\n"
        "print(*stores.unprotected())\n",
        tmp_path,
    )
    assert done.stderr == ""
    code, rows, notice = done.stdout.splitlines()
    assert (code, rows) == ("QRES-E803", "[(7,)]")
    assert "no file modes" in notice


@pytest.mark.claim("C-keys-6")
@pytest.mark.control("C-keys-6")
def test_a_key_takes_a_passphrase_where_files_have_no_modes(tmp_path: Path) -> None:
    done = run(
        "from pathlib import Path\n"
        "from qres_core.errors import ConfigError\n"
        "from qres_ed25519 import keyfile\n"
        "pair, path, secret = keyfile.generate(), Path('node.key'), b'a long enough passphrase'\n"
        "keyfile.save(path, pair, secret)\n"
        "assert keyfile.load(path, secret, 'x').seed == pair.seed\n"
        "from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey\n"
        "from cryptography.hazmat.primitives.serialization import (\n"
        "    Encoding, NoEncryption, PrivateFormat)\n"
        "plain = Ed25519PrivateKey.generate().private_bytes(\n"
        "    Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())\n"
        "Path('plain.key').write_bytes(plain)\n"
        "for refused in (\n"
        "    lambda: keyfile.load(Path('plain.key'), None, 'x'),\n"
        "    lambda: keyfile.save(Path('new.key'), pair, None),\n"
        "):\n"
        "    try:\n"
        "        refused()\n"
        "    except ConfigError as error:\n"
        "        print(str(error).replace(chr(10), ' '))\n"
        "assert not Path('new.key').exists()\n",
        tmp_path,
    )
    assert done.stderr == ""
    lines = done.stdout.splitlines()
    assert len(lines) == 2
    for line in lines:
        assert "QRES-E105" in line
        assert "no file modes" in line
        assert "passphrase" in line


def test_a_ca_takes_a_passphrase_where_files_have_no_modes(tmp_path: Path) -> None:
    command = "import sys\nfrom qres_core.cli import main\nsys.argv = ['qres', 'ca', 'init', {}]\n"
    words = "'ca', '--swarm', 'weather'"
    bare = run(command.format(words) + "main()\n", tmp_path)
    assert bare.returncode == 2
    assert "no file modes" in bare.stderr
    assert not (tmp_path / "ca" / "ca-key.pem").exists()
    guarded = "os.environ['QRES_CA_PASSPHRASE'] = 'a long enough passphrase'\n"
    done = run(guarded + command.format(words) + "main()\n", tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert (tmp_path / "ca" / "ca-key.pem").exists()


def test_every_module_is_imported_without_the_calls_of_posix(tmp_path: Path) -> None:
    names = [
        ".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__")
        for path in SOURCES
        if path.is_relative_to(ROOT / "qres_core") and path.stem != "__main__"
    ]
    program = (
        f"from importlib import import_module\nfor name in {names}:\n    import_module(name)\n"
    )
    done = run(program, tmp_path)
    assert done.returncode == 0, done.stderr


def test_signals_are_noted_where_the_loop_cannot_wait_for_them(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def absent(*_signals: int) -> AsyncIterator[int]:
        raise NotImplementedError

    monkeypatch.setattr(anyio, "open_signal_receiver", absent)

    async def first() -> int:
        with stopping._signals() as signals, anyio.fail_after(60):
            os.kill(os.getpid(), signal.SIGTERM)
            async for number in signals:
                return number
        raise AssertionError

    before = signal.getsignal(signal.SIGTERM)
    assert anyio.run(first) == signal.SIGTERM
    assert signal.getsignal(signal.SIGTERM) is before


def test_the_end_of_a_pipe_is_read_by_a_thread_where_the_loop_cannot_wait_for_it() -> None:
    reader, writer = os.pipe()
    ended: list[bool] = []

    async def wait() -> None:
        async with anyio.create_task_group() as group:
            group.start_soon(watch)
            await anyio.sleep(1)
            ended.append(False)
            os.close(writer)

    async def watch() -> None:
        with anyio.fail_after(60):
            await stopping._end_of(reader)
        ended.append(True)

    os.write(writer, b"still here")
    anyio.run(wait)
    os.close(reader)
    assert ended == [False, True]


def test_a_child_is_asked_by_the_end_of_its_input_where_a_signal_would_kill_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(children, "_POSIX", False)
    program = "import sys; sys.stdin.read(); print('in order')"
    command = [sys.executable, "-c", program]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        children.ask_to_end(child)
        assert child.stdout is not None
        assert child.stdout.read() == b"in order\n"
    assert child.returncode == 0
