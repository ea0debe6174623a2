"""The ``[simulation]`` table: what the simulator plays."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Final

import attrs

from qres_core.contract import options
from qres_core.contract.errors import OptionError, Problem
from qres_core.contract.suggest import did_you_mean
from qres_core.kernel.config import SwarmConfig
from qres_core.kernel.discovery import EXECUTORS_GROUP, SABOTAGE_GROUP
from qres_core.kernel.index import absent, plugin_index
from qres_core.training.table import TrainerConfig


def _help(text: str) -> dict[str, str]:
    return {"help": text}


def _no_options() -> dict[str, Any]:
    return {}


@attrs.frozen(kw_only=True)
class Scenario:
    """The ``[simulation]`` table."""

    MOVED: ClassVar[Mapping[str, str]] = {"task": "write [trainer.task]"}

    rounds: int = attrs.field(
        default=10,
        validator=options.whole(1),
        metadata=_help("Models to make. Left out, `qres simulate` makes `swarm.rounds`, if set."),
    )
    seed: int = attrs.field(
        default=0, validator=options.whole(0), metadata=_help("Seed of all randomness.")
    )
    attack: str = attrs.field(
        default="", metadata=_help("Attack of the attackers: a name of `qres attack list`.")
    )
    attackers: int = attrs.field(
        default=0,
        validator=options.whole(0),
        metadata=_help("Number of attackers among the nodes."),
    )
    strength: float | None = attrs.field(
        default=None, metadata=_help("Strength of the attack; left out, the attack's own.")
    )
    sabotage: str = attrs.field(
        default="",
        metadata=_help(
            "Attack on the protocol that the attackers make beside the lie of `attack`: a name of "
            "`qres attack list`."
        ),
    )
    lies: str = attrs.field(
        default="raw",
        validator=options.one_of("raw", "protocol"),
        metadata=_help(
            '"raw": attackers send lies unchanged, past their own plugins. "protocol": '
            "their own plugins clip, mask and prove the lies, as they do with honest "
            "updates."
        ),
    )
    once: tuple[str, ...] = attrs.field(
        default=(),
        metadata=_help(
            "Verdicts that are computed once for all nodes, to save time, as "
            "PLUGIN.HOOK; for plugins whose verdict depends only on the message: "
            f'"{plugin_index().examples["prove"]}.verify". In sharded rounds also what shards '
            f'merge to: "{plugin_index().examples["aggregate"]}.aggregate", and `wrap_aggregate` '
            "of each wrapper."
        ),
    )
    engine: str = attrs.field(
        default="events",
        validator=options.one_of("events", "vectorised"),
        metadata=_help(
            '"events": every node and message, on a virtual clock. "vectorised": one observer, '
            "no agreement, for thousands of nodes."
        ),
    )
    workers: int = attrs.field(
        default=1,
        validator=options.whole(1),
        metadata=_help(
            "Processes that train, each its share of the nodes. 1: the nodes train one after the "
            "other. The models are the same for any number."
        ),
    )
    executor: str = attrs.field(
        default="",
        metadata=_help(
            "Name of the executor that runs the workers, in place of processes of this machine. "
            "A distribution brings it."
        ),
    )
    executor_options: Mapping[str, Any] = attrs.field(
        factory=_no_options, metadata=_help("Options of the executor.")
    )
    loss: float = attrs.field(
        default=0.0, validator=options.real(0, below=1), metadata=_help("Share of messages lost.")
    )
    duplication: float = attrs.field(
        default=0.0,
        validator=options.real(0, below=1),
        metadata=_help("Share of messages delivered twice."),
    )
    delay: float = attrs.field(
        default=0.02,
        validator=options.real(0),
        metadata=_help("Least delay of a message, seconds."),
    )
    jitter: float = attrs.field(
        default=0.03,
        validator=options.real(0),
        metadata=_help("Mean of the random delay on top, seconds; reorders messages."),
    )
    bandwidth: float = attrs.field(
        default=0.0,
        validator=options.real(0),
        metadata=_help(
            "Mbit/s that a node can send, and as many that it can receive. 0: no limit. Nodes "
            "compute in no time."
        ),
    )
    churn: float = attrs.field(
        default=0.0,
        validator=options.real(0, below=1),
        metadata=_help("Share of honest nodes that are away at any time."),
    )
    dropout: float = attrs.field(
        default=0.0,
        validator=options.real(0, below=1),
        metadata=_help(
            "Share of honest nodes that fall silent in the middle of a round, until it is over."
        ),
    )

    def __attrs_post_init__(self) -> None:
        if self.executor_options and not self.executor:
            what = "they are for simulation.executor, which is not set"
            raise OptionError.of("QRES-E105", "executor_options", what, "name the executor")
        if self.attackers and not self.attack:
            what = f"{self.attackers} nodes attack, but simulation.attack is not set"
            fix = "name an attack, see `qres attack list`; or attackers = 0"
            raise OptionError.of("QRES-E105", "attackers", what, fix)
        if self.sabotage and not self.attack:
            what = f"{self.sabotage!r} stands beside a lie, and simulation.attack is not set"
            raise OptionError.of("QRES-E105", "sabotage", what, f'attack = "{self.sabotage}"')
        if self.attack and not self.attackers:
            # A misspelt attack is the mistake to name first. Imported here: attacks know scenarios.
            from qres_core.attacks.installed import unknown  # noqa: PLC0415

            if problem := unknown(self.attack, "attack"):
                raise OptionError((problem,))
            what = f"is 0, and simulation.attack is {self.attack!r}"
            raise OptionError.of(
                "QRES-E105", "attackers", what, "attackers = 1 or more, or no attack"
            )

    def misfits(self, swarm: SwarmConfig) -> Iterator[Problem]:
        """An attack that nobody knows, an executor that is absent, more attackers than nodes.

        That an attack or an engine is known and not installed only the simulator says: a node
        takes a file that names one.
        """
        # Imported here: attacks know scenarios.
        from qres_core.attacks.installed import unknown  # noqa: PLC0415

        if self.attack and (problem := unknown(self.attack, "simulation.attack")):
            yield problem
        yield from self._sabotage_misfits()
        where = "simulation.executor"
        if self.executor and (problem := absent(self.executor, EXECUTORS_GROUP, where)) is not None:
            yield problem
        if self.attackers > swarm.nodes:
            what = f"{self.attackers} attack, and swarm.nodes is {swarm.nodes}"
            fix = f"simulation.attackers <= {swarm.nodes}"
            yield Problem("QRES-E105", "simulation.attackers", what, fix)

    def _sabotage_misfits(self) -> Iterator[Problem]:
        """A sabotage that nobody knows, or that leaves no room for a lie beside it."""
        # Imported here: attacks know scenarios.
        from qres_core.attacks.installed import find_sabotage, on_protocol  # noqa: PLC0415

        where, names = "simulation.sabotage", on_protocol()
        if self.sabotage not in names:
            every = {*names, *plugin_index().brought[SABOTAGE_GROUP]}
            if self.sabotage and self.sabotage not in every:
                what = f"there is no attack on the protocol {self.sabotage!r}"
                yield Problem("QRES-E801", where, what, did_you_mean(self.sabotage, every))
        elif self.attack in names:
            what = f"{self.attack!r} and {self.sabotage!r} are both attacks on the protocol"
            yield Problem("QRES-E105", where, what, "leave one of them out")
        elif not find_sabotage(self.sabotage).make().contributes:
            what = f"under {self.sabotage!r} attackers contribute nothing that could be a lie"
            yield Problem("QRES-E105", where, what, "leave simulation.attack or it out")


SECTIONS: Final[Mapping[str, type]] = {"simulation": Scenario, "trainer": TrainerConfig}
"""The tables of a configuration file beside those of the kernel."""
