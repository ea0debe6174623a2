"""Builders: distributions on disk, configurations, and kernels over plugin classes of a test."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, TypeAlias

import pytest
from qres_lab.testing.builders import SWARM, make_node_info

from qres_core.builtin.mean import Mean
from qres_core.builtin.memory import Memory
from qres_core.kernel.config import Config, parse
from qres_core.kernel.discovery import Installed
from qres_core.kernel.kernel import Kernel

Plugins: TypeAlias = Mapping[str, type[object]]
MakeKernel: TypeAlias = Callable[..., Kernel]
WriteDist: TypeAlias = Callable[..., Path]

SWARM_TABLE: Mapping[str, Any] = {
    "name": SWARM,
    "nodes": 4,
    "byzantine": 0,
    "quorum": 3,
    "insecure": True,
}


@pytest.fixture(scope="session")
def swarm_table() -> Callable[..., dict[str, Any]]:
    """The ``[swarm]`` table of an insecure swarm of four, changed as asked."""

    def build(**changes: Any) -> dict[str, Any]:
        return {**SWARM_TABLE, **changes}

    return build


@pytest.fixture(scope="session")
def make_config() -> Callable[..., Config]:
    """A configuration that enables plugins in the given order."""

    def build(plugins: Mapping[str, Mapping[str, Any]], **swarm: Any) -> Config:
        raw = {"swarm": {**SWARM_TABLE, **swarm}, "plugins": dict(plugins)}
        return parse(raw, source="test.toml")

    return build


@pytest.fixture(scope="session")
def make_kernel(make_config: Callable[..., Config]) -> MakeKernel:
    """A kernel over plugin classes, in order; ``memory`` and ``mean`` are added where missing."""

    def build(
        plugins: Plugins,
        options: Mapping[str, Mapping[str, Any]] | None = None,
        *,
        set_up: bool = True,
        **swarm: Any,
    ) -> Kernel:
        missing = {
            name: built_in
            for name, built_in, hook in (
                ("memory", Memory, "transport"),
                ("mean", Mean, "aggregate"),
            )
            if not any(hasattr(plugin, hook) for plugin in plugins.values())
        }
        classes: dict[str, type[object]] = {**plugins, **missing}
        tables = {name: (options or {}).get(name, {}) for name in classes}
        installed = {name: Installed.local(name, cls) for name, cls in classes.items()}
        kernel = Kernel.from_config(make_config(tables, **swarm), installed=installed)
        if set_up:
            kernel.setup(make_node_info(nodes=kernel.swarm.nodes))
        return kernel

    return build


@pytest.fixture
def write_dist() -> WriteDist:
    """Write a ``dist-info`` folder as an installer would, or as it would not."""

    def write(
        folder: Path,
        name: str = "qres-toy",
        version: str = "1.0",
        *,
        entries: str = "toy = qres_toy:Toy",
        requires: tuple[str, ...] = (),
        metadata: bytes | None = None,
        entry_points: bytes | None = None,
    ) -> Path:
        home = folder / f"{name.replace('-', '_')}-{version}.dist-info"
        home.mkdir(parents=True)
        lines = ["Metadata-Version: 2.1", f"Name: {name}", f"Version: {version}"]
        lines += [f"Requires-Dist: {text}" for text in requires]
        text = "\n".join(lines) + "\n"
        (home / "METADATA").write_bytes(text.encode() if metadata is None else metadata)
        group = f"[qres.plugins]\n{entries}\n"
        (home / "entry_points.txt").write_bytes(
            group.encode() if entry_points is None else entry_points
        )
        return home

    return write
