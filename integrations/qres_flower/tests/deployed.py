"""SuperLink and SuperNodes as processes, with TLS, authentication and keys of their own."""

from __future__ import annotations

import datetime as dt
import ipaddress
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

import attrs
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID

PROJECT = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"

[project]
name = "deployed"
version = "1.0.0"
description = "Of a test"
license = { file = "LICENSE" }
dependencies = ["flwr>=1.41"]

[tool.flwr.app]
publisher = "tests"
fab-format-version = 1
flwr-version-target = "1.42.0"

[tool.flwr.app.components]
serverapp = "deployed.server_app:app"
clientapp = "deployed.client_app:app"

[tool.flwr.app.config]
qres = ""
out = ""
"""
CLIENT = '''
import time
from pathlib import Path

import attrs
import numpy as np
from flwr.app import Array, ArrayRecord, ConfigRecord, Message, MetricRecord, RecordDict
from flwr.clientapp import ClientApp
from qres_core import Envelope
from qres_flower import qres_mod


def meddling(message, context, call_next):
    """Somebody between the mod and the server, who has no key."""
    reply = call_next(message, context)
    if reply.has_error() or "config" not in message.content:  # a turn of the clients' dialogue
        return reply
    number, role = message.content["config"]["server-round"], context.node_config["role"]
    kept, frames = Path(context.node_config["kept"]), list(reply.content["qres"]["frames"])
    if number == 1:
        kept.write_bytes(frames[0])
    if (role, number) == ("tampered", 2):
        read = Envelope.from_bytes(frames[0], max_bytes=2**20)
        frames[0] = attrs.evolve(read, time_ms=read.time_ms + 1).to_bytes()
    if (role, number) == ("replayed", 2):
        frames = [kept.read_bytes()]
    reply.content = RecordDict({"qres": ConfigRecord({"frames": frames})})
    return reply


app = ClientApp(mods=[meddling, qres_mod])


@app.train()
def train(message, context):
    number, role = message.content["config"]["server-round"], context.node_config["role"]
    if (role, number) == ("killed", 3):
        Path(context.node_config["kept"]).with_suffix(".training").touch()
        time.sleep(3600)
    weights = message.content["arrays"]["w"].numpy()
    weights = (weights + np.arange(16, dtype=np.float32)) / 2
    metrics = MetricRecord({"num-examples": 10, "loss": float(weights.mean())})
    arrays = ArrayRecord({"w": Array(weights)})
    return Message(RecordDict({"arrays": arrays, "metrics": metrics}), reply_to=message)
'''
SERVER = """
import json
from pathlib import Path

import numpy as np
from flwr.app import Array, ArrayRecord
from flwr.serverapp import ServerApp
from flwr.serverapp.strategy import FedAvg
from qres_flower import QresStrategy

app = ServerApp()


@app.main()
def main(grid, context):
    config = context.run_config
    inner = FedAvg(fraction_evaluate=0.0, min_train_nodes=5, min_available_nodes=5)
    strategy = QresStrategy(inner, config["qres"], run_config=config)
    first = ArrayRecord({"w": Array(np.zeros(16, np.float32))})
    result = strategy.start(grid, first, num_rounds=3, timeout=3600)
    rounds = [[len(r.merged), sorted(r.left_out.values()), r.reason] for r in strategy.rounds]
    found = {"rounds": rounds, "w": result.arrays["w"].numpy().tolist()}
    out = Path(config["out"])
    out.with_suffix(".part").write_text(json.dumps(found))
    out.with_suffix(".part").rename(out)
"""
HOME = """
[superlink]
default = "here"

[superlink.here]
address = "127.0.0.1:{port}"
root-certificates = "{folder}/ca.crt"
"""
CONFIG = """
[swarm]
name = "deployed"
nodes = 5
roster = {roster}
{swarm}

[node]
data_dir = "{data_dir}"

[plugins.ed25519]
{key}

[plugins.replay]

[plugins.reputation]

{plugins}
"""
RULE = "byzantine = 1\nquorum = 3", "[plugins.median]\nf = 1"
SUMS = "byzantine = 0\nquorum = 4", "[plugins.secagg]\n\n[plugins.mean]"


def free_port() -> int:
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


def until(what: Callable[[], bool], seconds: float = 3600) -> None:
    """Wait for a condition, for as long as a busy machine may take."""
    end = time.monotonic() + seconds
    while not what():
        assert time.monotonic() < end, "it did not come to that"
        time.sleep(0.5)


def answers(port: int) -> bool:
    with socket.socket() as found:
        found.settimeout(1)
        return found.connect_ex(("127.0.0.1", port)) == 0


def kill(process: subprocess.Popen[bytes]) -> None:
    """At once, with all that it started."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


@attrs.define
class Deployment:
    """A folder with certificates, keys and an app, and the processes that were started."""

    folder: Path
    swarm: str
    plugins: str
    port: int = attrs.field(factory=free_port)
    started: list[subprocess.Popen[bytes]] = attrs.field(factory=list)

    @property
    def environment(self) -> dict[str, str]:
        programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
        home = str(self.folder / "home")
        return {**os.environ, "FLWR_HOME": home, "PATH": programs, "PYTHONSAFEPATH": "1"}

    def prepare(self, nodes: int) -> None:
        for name in ("home", "app/deployed"):
            (self.folder / name).mkdir(parents=True)
        for name, text in (
            ("app/pyproject.toml", PROJECT),
            ("app/LICENSE", "Apache-2.0"),
            ("app/deployed/__init__.py", ""),
            ("app/deployed/client_app.py", CLIENT),
            ("app/deployed/server_app.py", SERVER),
            ("home/config.toml", HOME.format(port=self.port, folder=self.folder)),
        ):
            (self.folder / name).write_text(text, "utf-8")
        self._certificates()
        roster = json.dumps([self._keys(index) for index in range(nodes)])
        for name in ("server", *(f"node{index}" for index in range(nodes))):
            key = "" if name == "server" else f'key = "{self.folder / name}.key"'
            data = self.folder / f"data-{name}"
            text = CONFIG.format(
                roster=roster, data_dir=data, key=key, swarm=self.swarm, plugins=self.plugins
            )
            (self.folder / f"{name}.toml").write_text(text, "utf-8")

    def _keys(self, index: int) -> str:
        """A key for QRES and one for Flower; the identity of the first."""
        place = self.folder / f"node{index}"
        command = [self.program("qres"), "keygen", f"{place}.key", "--no-passphrase", "--json"]
        made = subprocess.run(command, check=True, capture_output=True, text=True)
        key = ec.generate_private_key(ec.SECP384R1())
        place.with_suffix(".auth").write_bytes(
            key.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.OpenSSH,
                serialization.NoEncryption(),
            )
        )
        place.with_suffix(".pub").write_bytes(
            key.public_key().public_bytes(
                serialization.Encoding.OpenSSH, serialization.PublicFormat.OpenSSH
            )
        )
        return str(json.loads(made.stdout)["public_key"])

    def _certificates(self) -> None:
        authority = ec.generate_private_key(ec.SECP256R1())
        server = ec.generate_private_key(ec.SECP256R1())
        (self.folder / "ca.crt").write_bytes(_certificate(authority, authority, ca=True))
        (self.folder / "server.pem").write_bytes(_certificate(server, authority, ca=False))
        (self.folder / "server.key").write_bytes(
            server.private_bytes(
                serialization.Encoding.PEM,
                serialization.PrivateFormat.PKCS8,
                serialization.NoEncryption(),
            )
        )

    def program(self, name: str) -> str:
        return str(Path(sys.executable).with_name(name))

    def start(self, name: str, log: str, *words: str) -> subprocess.Popen[bytes]:
        with (self.folder / log).open("wb") as file:
            process = subprocess.Popen(
                [self.program(name), *words],
                cwd=self.folder,
                env=self.environment,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Flower starts others, which are to end with it
            )
        self.started.append(process)
        return process

    def superlink(self) -> None:
        self.start(
            "flower-superlink",
            "superlink.log",
            *("--host", "127.0.0.1", "--port", str(self.port)),
            *("--ssl-certfile", "server.pem", "--ssl-keyfile", "server.key"),
            *("--ssl-ca-certfile", "ca.crt", "--enable-supernode-auth"),
            "--disable-runtime-dependency-installation",
        )
        until(lambda: answers(self.port))

    def supernode(self, index: int, role: str) -> subprocess.Popen[bytes]:
        self.flwr("supernode", "register", f"node{index}.pub", "here")
        config = self.folder / f"node{index}.toml"
        kept = self.folder / f"kept{index}"
        return self.start(
            "flower-supernode",
            f"node{index}.log",
            *("--root-certificates", "ca.crt", "--superlink", f"127.0.0.1:{self.port}"),
            *("--auth-supernode-private-key", f"node{index}.auth", "--port", str(free_port())),
            *("--node-config", f'qres="{config}" role="{role}" kept="{kept}"'),
        )

    def flwr(self, *words: str) -> str:
        made = subprocess.run(
            [self.program("flwr"), *words],
            cwd=self.folder,
            env=self.environment,
            check=True,
            capture_output=True,
            text=True,
        )
        return made.stdout

    def stop(self) -> None:
        for process in reversed(self.started):
            kill(process)


def _certificate(key: Any, issuer: Any, *, ca: bool) -> bytes:
    def name(text: str) -> x509.Name:
        return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, text)])

    now, days = dt.datetime.now(dt.UTC), dt.timedelta(days=2)
    builder = (
        x509.CertificateBuilder()
        .subject_name(name("authority" if ca else "localhost"))
        .issuer_name(name("authority"))
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - days)
        .not_valid_after(now + days)
        .add_extension(x509.BasicConstraints(ca=ca, path_length=None), critical=True)
    )
    if not ca:
        places = [
            x509.DNSName("localhost"),
            x509.IPAddress(ipaddress.ip_address("127.0.0.1")),
        ]
        builder = builder.add_extension(x509.SubjectAlternativeName(places), critical=False)
    return builder.sign(issuer, hashes.SHA256()).public_bytes(serialization.Encoding.PEM)
