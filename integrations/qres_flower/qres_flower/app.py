"""A Flower app where it lies: its components and its settings, as ``pyproject.toml`` names them."""

from __future__ import annotations

import importlib
import sys
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

import attrs

from qres_core import canonical
from qres_core.errors import ConfigError
from qres_flower.border import imported

Setting = bool | int | float | str

_WHERE: Final = "trainer.options.app"
_PROJECT: Final = "pyproject.toml"
_FIX: Final = f"name a folder with {_PROJECT}, or module:object of a ClientApp"


@attrs.frozen
class FlowerProject:
    """An app of Flower."""

    name: str
    folder: str  # is looked at for modules after what is installed; empty for none
    client: str  # ``module:object`` of the ClientApp
    server: str  # ``module:object`` of the ServerApp; empty where it is not known
    # ``[tool.flwr.app.config]``, flat: names joined by dots
    settings: Mapping[str, Setting] = attrs.field(eq=False)

    @classmethod
    def find(cls, app: str) -> FlowerProject:
        """Find an app.

        Args:
            app: its folder, from here or from where modules are looked for; or ``module:object`` of
                a ClientApp.

        Raises:
            ConfigError: QRES-E101 where there is none or its ``pyproject.toml`` cannot be read,
                QRES-E103 or QRES-E104 for one that names no ClientApp.
        """
        for base in ("", *sys.path):
            folder = (Path(base) / app).resolve()
            if (folder / _PROJECT).is_file():
                return cls._read(folder)
        module, colon, _name = app.partition(":")
        if colon and module.replace(".", "").isidentifier():
            return cls(app, "", app, "", {})
        raise ConfigError.of("QRES-E101", _WHERE, f"there is no Flower app in {app!r}", _FIX)

    @classmethod
    def _read(cls, folder: Path) -> FlowerProject:
        path = folder / _PROJECT
        try:
            table = tomllib.loads(path.read_text("utf-8"))
        except (OSError, ValueError) as error:
            what = f"{path} cannot be read: {error}"
            raise ConfigError.of("QRES-E101", _WHERE, what, "correct the file") from error
        name = _inside(table, "project").get("name", folder.name)
        app = _inside(table, "tool", "flwr", "app")
        components = _inside(app, "components")
        client, server = (components.get(key, "") for key in ("clientapp", "serverapp"))
        if not (isinstance(client, str) and isinstance(server, str) and isinstance(name, str)):
            what = f"{path}: components of [tool.flwr.app] are not text"
            raise ConfigError.of("QRES-E104", _WHERE, what, "write module:object")
        if not client:
            what = f"{path}: [tool.flwr.app.components] names no clientapp"
            raise ConfigError.of("QRES-E103", _WHERE, what, 'set clientapp = "module:object"')
        settings = _flat(_inside(app, "config"), f"{path}: tool.flwr.app.config")
        return cls(name, str(folder), client, server, settings)

    def client_app(self) -> Any:
        """The ClientApp. Raises ConfigError: QRES-E101, QRES-E104 where it is none."""
        return self._loaded(self.client, "ClientApp", imported("flwr.clientapp").ClientApp)

    def server_app(self) -> Any:
        """The ServerApp. Raises ConfigError: QRES-E101, QRES-E104 where it is none."""
        return self._loaded(self.server, "ServerApp", imported("flwr.serverapp").ServerApp)

    def _loaded(self, reference: str, noun: str, kind: type) -> Any:
        found = self.loaded(reference)
        if not isinstance(found, kind):
            what = f"{reference!r} is a {type(found).__name__}, and no {noun}"
            raise ConfigError.of("QRES-E104", _WHERE, what, f"name the {noun} of the app")
        return found

    def loaded(self, reference: str) -> Any:
        """Object that ``module:object`` names in the app. Raises ConfigError: QRES-E101, E105."""
        module_name, colon, name = reference.partition(":")
        if not (colon and module_name and name):
            what = f"{reference!r} does not name an object of a module"
            raise ConfigError.of("QRES-E105", _WHERE, what, "write module:object")
        if self.folder and self.folder not in sys.path:
            sys.path.append(self.folder)  # last: nothing in it stands in for what is installed
        importlib.invalidate_caches()
        try:
            found: Any = importlib.import_module(module_name)
            for part in name.split("."):
                found = getattr(found, part)
        except (Exception, SystemExit) as error:
            what = f"{reference!r} cannot be loaded: {type(error).__name__}: {error}"
            fix = "install what the app needs, or correct its pyproject.toml"
            raise ConfigError.of("QRES-E101", _WHERE, what, fix) from error
        return found


def _inside(table: Any, *names: str) -> dict[str, Any]:
    for name in names:
        table = table.get(name) if canonical.is_map(table) else None
    return table if canonical.is_map(table) else {}


def _flat(table: Mapping[str, Any], where: str, before: str = "") -> dict[str, Setting]:
    found: dict[str, Setting] = {}
    for key, value in table.items():
        name = f"{before}{key}"
        if canonical.is_map(value):
            found |= _flat(value, where, f"{name}.")
        elif isinstance(value, (bool, int, float, str)):
            found[name] = value
        else:
            what = f"{where}.{name} is a {type(value).__name__}"
            raise ConfigError.of("QRES-E104", _WHERE, what, "write text, a number, true or false")
    return found


def with_settings(
    settings: Mapping[str, Setting], given: Mapping[str, Any]
) -> Mapping[str, Setting]:
    """The settings of an app with others laid over them, as ``flwr run --run-config`` does.

    Raises ConfigError: QRES-E102 for one that the app does not have, QRES-E104.
    """
    over = _flat(given, "trainer.options.run_config")
    unknown = sorted(set(over) - set(settings))
    if unknown:
        what = f"the app has no setting {', '.join(unknown)}"
        fix = f"it has {', '.join(sorted(settings)) or 'none'}"
        raise ConfigError.of("QRES-E102", "trainer.options.run_config", what, fix)
    return {**settings, **over}
