"""Options of several verbs: a configuration with values set on the command line, and policies."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import click
import tomli

from qres_core.attacks.scenario import SECTIONS
from qres_core.contract import canonical
from qres_core.contract.errors import ConfigError
from qres_core.kernel.config import Config, parse, read_toml

__all__ = ["SECTIONS", "parse_setting", "policy_option", "read_config", "read_raw"]

policy_option = click.option(
    "--policy",
    "policy_files",
    multiple=True,
    type=click.Path(path_type=Path),
    metavar="FILE",
    help="A site policy to meet, beside /etc/qres/policy.toml and those in QRES_POLICY; may be "
    "repeated.",
)


def _set(raw: dict[str, Any], key: str, value: object) -> None:
    *tables, last = key.split(".")
    for table in tables:
        inner: object = raw.setdefault(table, {})
        if not canonical.is_map(inner):
            what = f"{table!r} holds a value and is no table"
            fix = f"set {table} itself, or a key of a table"
            raise ConfigError.of("QRES-E104", f"--set {key}", what, fix)
        raw = inner
    raw[last] = value


def parse_setting(text: str) -> tuple[str, object]:
    """``swarm.quorum=30`` as a key path and a TOML value. Raises ConfigError: QRES-E101."""
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ConfigError.of(
            "QRES-E101", f"--set {text}", "expected KEY=VALUE", "for example --set swarm.quorum=9"
        )
    try:
        return key.strip(), tomli.loads(f"value = {value}")["value"]
    except tomli.TOMLDecodeError as error:
        what = f"not a TOML value: {value!r}"
        fix = "text needs quotes: --set 'simulation.attack=\"noise\"'"
        raise ConfigError.of("QRES-E101", f"--set {key}", what, fix) from error


def read_raw(path: Path, settings: Sequence[tuple[str, object]]) -> dict[str, Any]:
    """The file's tables with the settings laid over them."""
    raw = read_toml(path)
    for key, value in settings:
        _set(raw, key, value)
    return raw


def read_config(path: Path, settings: Sequence[tuple[str, object]] = ()) -> Config:
    """The file, structured, with the settings laid over it. Raises ConfigError."""
    return parse(read_raw(path, settings), source=str(path), sections=SECTIONS)


def default_attackers(raw: dict[str, Any], given: Mapping[str, object]) -> None:
    """An attack without a number of attackers gets as many as the swarm promises to withstand."""
    table, swarm = raw.get("simulation"), raw.get("swarm")
    if given.get("attack") and canonical.is_map(table) and canonical.is_map(swarm):
        table.setdefault("attackers", swarm.get("byzantine", 0))
