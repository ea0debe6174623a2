"""Taking a changed configuration while the node runs: all of it, or nothing."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Final

import attrs

from qres_core.contract import canonical
from qres_core.contract.errors import ConfigError, Problem
from qres_core.contract.options import LIVE
from qres_core.kernel.compliance import enforce
from qres_core.kernel.config import Config
from qres_core.kernel.discovery import Installed
from qres_core.kernel.kernel import Kernel
from qres_core.kernel.policy import SitePolicy
from qres_core.node.logs import set_level

_LEVEL: Final = "node.log_level"
_WHAT: Final = "cannot change while the node runs"
_FIX: Final = "bring it back as it was, or restart the node"


def changed(old: object, new: object, path: str = "") -> Iterator[str]:
    """The paths of the keys in which two values of a configuration differ, tables key by key."""
    if canonical.is_map(old) and canonical.is_map(new):
        for key in dict.fromkeys((*old, *new)):
            inner = f"{path}.{key}" if path else str(key)
            if (key in old) != (key in new):
                yield inner
            else:
                yield from changed(old[key], new[key], inner)
    elif old != new:
        yield path


def _tables(config: Config) -> dict[str, Any]:
    """A configuration as plain tables."""
    own: dict[str, Any] = {"swarm": config.swarm, "node": config.node, **config.sections}
    made = {name: attrs.asdict(table) for name, table in own.items()}
    return {**made, "plugins": {name: dict(table) for name, table in config.plugins.items()}}


def live_keys(kernel: Kernel) -> frozenset[str]:
    """The paths of the keys that may change while these plugins run."""
    found = {_LEVEL}
    for plugin in kernel.enabled:
        kind: Any = type(plugin.instance)
        marked = [field.name for field in attrs.fields(kind) if field.metadata.get(LIVE)]
        found |= {f"plugins.{plugin.name}.{name}" for name in marked}
    return frozenset(found)


@attrs.define(eq=False)
class Reloader:
    """Holds what is in force at one node, and puts what changed in its place."""

    config: Config  # what is in force
    kernel: Kernel  # of the node that runs
    installed: Mapping[str, Installed]  # plugins by name
    policies: Sequence[SitePolicy] = ()  # what the site demands of every configuration

    def reload(self, reread: Callable[[], Config]) -> tuple[str, ...]:
        """Take what changed, and return its paths.

        ``reread``: reads the file as it was read at the start. Raises ConfigError: QRES-E106 for
        each key that cannot change; other errors as at a start. Nothing is taken then.
        """
        new = reread()
        paths = [*changed(_tables(self.config), _tables(new))]
        if list(self.config.plugins) != list(new.plugins):
            paths.append("plugins")
        live = live_keys(self.kernel)
        if refused := [path for path in paths if path not in live]:
            raise ConfigError([Problem("QRES-E106", path, _WHAT, _FIX) for path in refused])
        fresh = self._made(new)  # else it would not start again
        enforce(self.policies, new, fresh.enabled)
        self._retune(fresh, paths)
        set_level(new.node.log_level)
        self.config = new
        return tuple(paths)

    def _made(self, config: Config) -> Kernel:
        return Kernel.from_config(config, installed=self.installed)

    def _retune(self, fresh: Kernel, paths: Sequence[str]) -> None:
        """Have each plugin take what changed; where one refuses, those before it go back."""
        concerned = [
            plugin.name
            for plugin in self.kernel.enabled
            if any(path.startswith(f"plugins.{plugin.name}.") for path in paths)
        ]
        running, after = _instances(self.kernel), _instances(fresh)
        before = _instances(self._made(self.config)) if len(concerned) > 1 else {}
        for index, name in enumerate(concerned):
            try:
                running[name].retune(after[name])
            except Exception:
                for earlier in concerned[:index]:
                    running[earlier].retune(before[earlier])
                raise


def _instances(kernel: Kernel) -> dict[str, Any]:
    return {plugin.name: plugin.instance for plugin in kernel.enabled}
