"""Try what is in ``deploy/`` without a container engine.

    python -P scripts/try_deploy.py

1. The first stage of the Dockerfile is played: each COPY and RUN in order, below a temporary folder
   in place of ``/``, with ``CC=/bin/false``. Only what ``.dockerignore`` lets through is copied.
2. ``deploy/make_nodes.py`` makes five nodes, on the loopback interface.
3. Each is started by the image's ENTRYPOINT and CMD. The image's HEALTHCHECK is run for each until
   all are well and have made three models.
4. SIGTERM must end each with exit code 0.

Not tried, as it takes a container engine: the base image, its user and its network.

Exit status 1 if anything of this fails.
"""

from __future__ import annotations

import fnmatch
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
PATIENCE: Final = 300.0
"""Seconds for five nodes to be well."""
MODELS: Final = 3


def instructions(text: str) -> list[tuple[str, str]]:
    """The instructions of a Dockerfile, each as its word and the rest of it."""
    whole = re.sub(r"^\s*#.*\n", "", text, flags=re.MULTILINE).replace("\\\n", " ")
    split = (line.strip().partition(" ") for line in whole.splitlines() if line.strip())
    return [(word.upper(), " ".join(rest.split())) for word, _, rest in split]


def stages(text: str) -> list[list[tuple[str, str]]]:
    """The instructions of each stage; what stands before the first FROM is left out."""
    found: list[list[tuple[str, str]]] = []
    for word, rest in instructions(text):
        if word == "FROM":
            found.append([])
        elif found:
            found[-1].append((word, rest))
    return found


def let_through(name: str, ignore: str) -> bool:
    """Whether a ``.dockerignore`` of this project lets a file into the build.

    Args:
        name: path of the file below the root.
        ignore: text of the file: ``*``, then ``!PATH`` for what is let in, then ``**/PATTERN`` for
            parts of paths that are left out again.
    """
    lines = [line for line in ignore.splitlines() if line and not line.startswith("#")]
    wanted = [line[1:] for line in lines if line.startswith("!")]
    unwanted = [line[3:] for line in lines if line.startswith("**/")]
    parts = Path(name).parts
    inside = any(name == item or name.startswith(f"{item}/") for item in wanted)
    return inside and not any(fnmatch.fnmatch(part, item) for part in parts for item in unwanted)


def copy(words: Sequence[str], folder: Path) -> None:
    """COPY: the tracked files of each source into the folder."""
    *sources, target = words
    ignore = (ROOT / ".dockerignore").read_text("utf-8")
    for source in sources:
        listed = subprocess.run(
            ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z", source],
            cwd=ROOT,
            capture_output=True,
            check=True,
            text=True,
        )
        names = [name for name in listed.stdout.split("\0") if name and let_through(name, ignore)]
        if not names:
            raise SystemExit(f"COPY {source}: nothing gets past .dockerignore")
        for name in names:
            inner = Path(name).name if target.endswith("/") else Path(name).relative_to(source)
            place = folder / target / inner
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(ROOT / name, place)


def build(stage: Sequence[tuple[str, str]], top: Path) -> None:
    """Play a stage below ``top``."""
    folder = top
    environment = {**os.environ, "CC": "/bin/false", "CXX": "/bin/false"}
    for word, rest in stage:
        print(f"{word} {rest}", flush=True)
        match word:
            case "WORKDIR":
                folder = top / rest.lstrip("/")
                folder.mkdir(parents=True)
            case "ENV":
                environment |= dict(pair.split("=", 1) for pair in rest.split())
                environment.pop("PIP_NO_CACHE_DIR", None)  # for the image's size
            case "COPY":
                copy(rest.split(), folder)
            case "RUN":
                line = rest.replace("/opt/qres", str(top / "opt/qres"))
                line = line.replace("--no-deps", "--quiet --no-deps")
                line = re.sub(r"^python3 ", f"{sys.executable} ", line)
                subprocess.run(["sh", "-ec", line], cwd=folder, env=environment, check=True)
            case _:
                raise SystemExit(f"cannot play {word}")


def command(stage: Sequence[tuple[str, str]], word: str) -> list[str]:
    """The words of ENTRYPOINT, CMD or HEALTHCHECK, which are JSON."""
    (rest,) = [rest for name, rest in stage if name == word]
    words: list[str] = json.loads(rest[rest.index("[") :])
    return words


def run_nodes(last: Sequence[tuple[str, str]], top: Path) -> None:
    """Start five nodes as the image would, see that they get well, and stop them."""
    programs = top / "opt/qres/bin"
    environment = {**os.environ, "PATH": f"{programs}:{os.environ['PATH']}", "PYTHONSAFEPATH": "1"}
    start = [*command(last, "ENTRYPOINT"), *command(last, "CMD")]
    check = command(last, "HEALTHCHECK")
    base = 20_000 + os.getpid() % 10_000
    made = [str(programs / "python"), "-P", str(ROOT / "deploy/make_nodes.py"), str(top / "nodes")]
    subprocess.run([*made, "--loopback", str(base)], check=True, env=environment)
    homes = sorted((top / "nodes").iterdir())
    nodes: list[subprocess.Popen[bytes]] = []
    try:
        for home in homes:
            with (home / "log.jsonl").open("wb") as log:
                nodes.append(subprocess.Popen(start, cwd=home, env=environment, stderr=log))
        ports = [base + len(homes) + index for index in range(len(homes))]
        await_models(check, ports, environment)
        for node in nodes:
            node.send_signal(signal.SIGTERM)
        codes = [node.wait(60) for node in nodes]
    except BaseException:
        for home in homes:
            print(f"--- {home.name}", (home / "log.jsonl").read_text("utf-8")[-3000:], sep="\n")
        raise
    finally:
        for node in nodes:
            node.kill()
            node.wait()
    print(f"exit codes after SIGTERM: {codes}")
    if any(codes):
        raise SystemExit("a node did not end in order")


def await_models(check: Sequence[str], ports: Sequence[int], env: Mapping[str, str]) -> None:
    """Run the health check of each node until all are well and have made :data:`MODELS`."""
    end = time.monotonic() + PATIENCE
    waiting = list(ports)
    while waiting:
        if time.monotonic() > end:
            raise SystemExit(f"not well after {PATIENCE:g} seconds: {waiting}")
        words = [word.replace("8470", str(waiting[0])) for word in check]
        asked = subprocess.run([*words, "--json"], capture_output=True, check=False, env=env)
        status: dict[str, Any] = json.loads(asked.stdout) if asked.returncode == 0 else {}
        if status.get("step", 0) >= MODELS:
            print(f"well: port {waiting.pop(0)}, model {status['step']}", flush=True)
        else:
            time.sleep(0.5)


def main() -> None:
    """Play it all in a temporary folder."""
    first, last = stages((ROOT / "deploy/Dockerfile").read_text("utf-8"))
    with tempfile.TemporaryDirectory(prefix="qres-deploy-") as top:
        build(first, Path(top))
        run_nodes(last, Path(top))


if __name__ == "__main__":
    main()
