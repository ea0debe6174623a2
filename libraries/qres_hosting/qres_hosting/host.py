"""A configuration as both ends of a framework read it: plugins, members and folders."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import attrs

from qres_core.attacks.scenario import SECTIONS
from qres_core.contract.errors import CompatibilityError, ConfigError, Problem
from qres_core.contract.types import NODE_ID_BYTES, NodeId, NodeInfo, Visibility
from qres_core.kernel.assembly import Enabled, assemble
from qres_core.kernel.chain import having
from qres_core.kernel.config import Config, read_toml
from qres_core.kernel.diagnosis import Diagnosis, diagnose
from qres_core.kernel.discovery import Installed, scan
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.node_ids import node_ids
from qres_core.kernel.policy import SitePolicy, in_force
from qres_core.kernel.solver import Solution
from qres_hosting.fitting import forgetful, gives_up, unhosted

NOBODY: Final = bytes(NODE_ID_BYTES)
"""The identity of the coordinator, which is no member."""
COORDINATOR: Final = "coordinator"
"""The coordinator's folder in ``node.data_dir``."""
_CARRIER: Final = "memory"
"""Stands for the transport, which is the framework's own."""


@attrs.frozen(eq=False)
class Host:
    """Configuration as it holds inside a framework.

    Attributes:
        config: the configuration, with the members that count.
        enabled: its plugins, in file order.
        seed: of the members' keys, where they are made for an experiment; ``None`` where they are
            real.
        notices: what an operator should know.
    """

    config: Config
    enabled: tuple[Enabled, ...]
    seed: int | None
    notices: tuple[str, ...]
    _installed: Mapping[str, Installed] = attrs.field(alias="installed")

    @classmethod
    def read(
        cls,
        path: Path,
        *,
        seed: int | None = None,
        installed: Mapping[str, Installed] | None = None,
    ) -> Host:
        """Read and check a configuration file. Site policies apply as they do to a node.

        Args:
            path: the file. Its ``[trainer]`` and ``[simulation]`` do not count.
            seed: makes the members of ``swarm.roster`` and their keys. Whoever knows it can speak
                for all of them: for experiments only.
            installed: the plugins that there are; found if not given.

        Raises:
            ConfigError: the file cannot be read; QRES-E103 where it lists no members, and no seed
                is given.
            CompatibilityError: everything that keeps it from starting, QRES-E322 for what needs
                agreement.
        """
        found_plugins = scan() if installed is None else installed
        found = inspect(read_toml(path), str(path), found_plugins)
        if found.problems or found.config is None:
            raise CompatibilityError(found.problems)
        config = found.config
        given = tuple(sorted(config.swarm.roster))
        roster = given if seed is None else made_roster(config, seed, found_plugins)
        if not roster:
            what = "not set, so it is not known whose messages count"
            fix = "list the clients' identities, as `qres key show` prints them"
            raise ConfigError.of("QRES-E103", "swarm.roster", what, fix)
        config = attrs.evolve(config, swarm=attrs.evolve(config.swarm, roster=roster))
        return cls(config, found.enabled, seed, found.notices, found_plugins)

    def kernel(self) -> Kernel:
        """The plugins, made afresh."""
        return Kernel(assemble(self.config, self._installed), self.config.swarm)

    @cached_property
    def _solution(self) -> Solution:
        """Solution of the plugins, which takes making them."""
        return self.kernel().solution

    @property
    def withholds(self) -> bool:
        """True if plugins hide updates in noise or in a sum.

        Whatever else a client says then, figures or the text of an error, would tell more.
        """
        return self._solution.noised or self.in_sums

    @property
    def in_sums(self) -> bool:
        """True if the coordinator sees updates in sums alone, and no single one."""
        return self._solution.visibility is not Visibility.INDIVIDUAL

    def lab_id(self, index: int) -> bytes:
        """Source of a made member's key, 32 bytes.

        Raises ConfigError: QRES-E105 for an index that no member has.
        """
        nodes = self.config.swarm.nodes
        assert self.seed is not None  # noqa: S101 - asked of made members alone
        if type(index) is not int or not 0 <= index < nodes:
            what = f"client {index!r} of a simulation, and swarm.nodes is {nodes}"
            fix = "as many clients as swarm.nodes, numbered from 0"
            raise ConfigError.of("QRES-E105", "swarm.nodes", what, fix)
        return node_ids(nodes, self.seed)[index]

    def node_info(
        self,
        node_id: NodeId,
        *,
        validates: bool,
        references: bool,
        pooled: bool,
        folder: str = "",
    ) -> NodeInfo:
        """Facts for plugins at ``setup``; ``folder``: below ``node.data_dir``."""
        swarm, data_dir = self.config.swarm, self.config.node.data_dir
        if data_dir is not None and folder:
            data_dir = str(Path(data_dir) / folder)
        return NodeInfo(
            node_id,
            swarm.name,
            tuple(bytes.fromhex(text) for text in swarm.roster),
            swarm.byzantine,
            data_dir=data_dir,
            seed=self.seed,
            validates=validates,
            references=references,
            pooled=pooled,
            observer=node_id == NOBODY,
            hosted=True,
        )


def inspect(
    raw: Mapping[str, Any],
    source: str,
    installed: Mapping[str, Installed],
    policies: tuple[SitePolicy, ...] | None = None,
) -> Diagnosis:
    """Find errors in the tables of a file inside a framework, and the losses there."""
    applied = in_force() if policies is None else policies
    found = diagnose(raw, source=source, sections=SECTIONS, installed=installed, policies=applied)
    if found.enabled and not having(found.enabled, "transport"):
        plugins: dict[str, Any] = {**raw["plugins"], _CARRIER: {}}
        carried: dict[str, Any] = {**raw, "plugins": plugins}
        found = diagnose(
            carried, source=source, sections=SECTIONS, installed=installed, policies=applied
        )
    if found.config is None:
        return found
    problems: tuple[Problem, ...] = (
        *found.problems,
        *unhosted(found.enabled, found.config.swarm),
        *forgetful(found.enabled, found.config.node),
    )
    notices = (*found.notices, *gives_up(found.enabled))
    return attrs.evolve(found, problems=problems, notices=notices)


def made_roster(config: Config, seed: int, installed: Mapping[str, Installed]) -> tuple[str, ...]:
    """The roster of an experiment: identities of its members, as a configuration has them."""
    made: list[str] = []
    for fallback in node_ids(config.swarm.nodes, seed):
        kernel = Kernel(assemble(config, installed), config.swarm)
        made.append((kernel.identity(fallback) or fallback).hex())
    return tuple(sorted(made))
