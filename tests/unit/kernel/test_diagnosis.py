"""Everything that is wrong with a configuration at once, and what it would run if nothing is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import pytest

from qres_core.builtin.mean import Mean
from qres_core.builtin.memory import Memory
from qres_core.errors import PluginError
from qres_core.kernel.assembly import plugin_class
from qres_core.kernel.diagnosis import Diagnosis, diagnose
from qres_core.kernel.discovery import Installed

INSTALLED = {"mean": Installed.local("mean", Mean), "memory": Installed.local("memory", Memory)}
BOTH: Mapping[str, Any] = {"memory": {}, "mean": {}}
SwarmTable = Callable[..., dict[str, Any]]


def diagnosed(raw: Mapping[str, Any]) -> Diagnosis:
    return diagnose(raw, source="test.toml", sections={}, installed=INSTALLED)


def codes(found: Diagnosis) -> list[str]:
    return [problem.code for problem in found.problems]


def test_a_sound_configuration_is_shown_as_it_would_run(swarm_table: SwarmTable) -> None:
    found = diagnosed({"swarm": swarm_table(), "plugins": BOTH})
    assert found.problems == ()
    assert [plugin.name for plugin in found.enabled] == ["memory", "mean"]
    assert len(found.notices) == 2
    assert found.config is not None
    assert found.config.swarm.nodes == 4


def test_what_does_not_add_up_is_reported_with_what_would_run(swarm_table: SwarmTable) -> None:
    found = diagnosed({"swarm": swarm_table(insecure=False, byzantine=1), "plugins": BOTH})
    assert codes(found) == ["QRES-E306", "QRES-E306", "QRES-E306", "QRES-E309"]
    assert len(found.enabled) == 2


def test_a_broken_swarm_table_does_not_hide_broken_plugins() -> None:
    found = diagnosed({"plugins": {"mean": {"unprotecte": True}, "krumm": {}}})
    assert codes(found) == ["QRES-E103", "QRES-E102", "QRES-E201"]


def test_sound_plugins_of_a_broken_swarm_are_shown() -> None:
    found = diagnosed({"swarm": {}, "plugins": BOTH})
    assert set(codes(found)) == {"QRES-E103"}
    assert [plugin.name for plugin in found.enabled] == ["memory", "mean"]
    assert found.config is None


@pytest.mark.parametrize("plugins", [3, [], {"mean": 3}, {"mean": []}])
def test_plugin_tables_that_are_none_are_reported_once(
    swarm_table: SwarmTable, plugins: object
) -> None:
    assert codes(diagnosed({"swarm": swarm_table(), "plugins": plugins})) == ["QRES-E104"]


def test_the_class_of_a_plugin_can_be_had_for_its_options() -> None:
    assert plugin_class(INSTALLED["mean"]) is Mean
    with pytest.raises(PluginError, match=r"QRES-E206 plugins\.odd"):
        plugin_class(Installed.local("odd", int))
