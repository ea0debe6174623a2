"""Search for installed plugins, without importing any of them.

Only metadata in the interpreter's own site-packages counts: a ``*.dist-info`` folder dropped into
the working directory must not pose as a plugin. Two distributions with one name are a conflict,
never "the first wins".
"""

from __future__ import annotations

import enum
import site
import sysconfig
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

import attrs

from qres_core.contract.errors import PluginError
from qres_core.contract.version import __version__

ENTRY_POINT_GROUP: Final = "qres.plugins"
EXECUTORS_GROUP: Final = "qres.executors"
"""What runs the training of a simulation elsewhere."""
TRAINERS_GROUP: Final = "qres.trainers"
"""What trains an app that was made for another framework."""
COMMANDS_GROUP: Final = "qres.commands"
"""Verbs of ``qres`` that the core has not: name of the verb to a click command."""
ATTACKS_GROUP: Final = "qres.attacks"
"""What liars contribute."""
SABOTAGE_GROUP: Final = "qres.sabotage"
"""What liars do to the protocol beside it."""
ENGINES_GROUP: Final = "qres.engines"
"""Parts of the simulator that the core has not."""
HOSTS_GROUP: Final = "qres.hosts"
"""What checks a configuration as part of another framework, by the framework's name."""


class Status(enum.Enum):
    """State of a found plugin, as far as enabling it goes."""

    INSTALLED = "installed"
    INCOMPATIBLE = "incompatible"
    CONFLICT = "conflict"
    MISPLACED = "misplaced"


@attrs.frozen
class Installed:
    """A plugin that some distribution provides."""

    name: str  # entry-point name; the name of its table in the TOML file
    distribution: str  # name of the distribution
    version: str  # version of the distribution
    target: str  # ``module:Class`` of the entry point
    status: Status = Status.INSTALLED  # whether it can be enabled
    detail: str = ""  # why it cannot, else empty
    # loads the class; ``None`` for one given directly
    entry_point: metadata.EntryPoint | None = None
    # the class itself, for plugins that come without a distribution (tests, scripts)
    factory: type | None = None

    @classmethod
    def local(cls, name: str, factory: type) -> Installed:
        """A plugin class of the running program, without a distribution."""
        target = f"{factory.__module__}:{factory.__qualname__}"
        return cls(name, "(local)", "0", target, factory=factory)

    @property
    def provenance(self) -> str:
        """``distribution version, target``, for messages."""
        return f"{self.distribution} {self.version}, {self.target}"


def site_directories() -> frozenset[Path]:
    """The folders whose metadata is trusted."""
    places = [sysconfig.get_path("purelib"), sysconfig.get_path("platlib"), *site.getsitepackages()]
    if site.ENABLE_USER_SITE:
        places.append(site.getusersitepackages())
    return frozenset(Path(place).resolve() for place in places)


def _core_requirement_unmet(requires: Iterable[str], core_version: str) -> str:
    """The requirement on qres-core that the running version does not meet, or an empty string."""
    from packaging.markers import (  # noqa: PLC0415 - 40 ms
        UndefinedComparison,
        UndefinedEnvironmentName,
    )
    from packaging.requirements import InvalidRequirement, Requirement  # noqa: PLC0415
    from packaging.utils import canonicalize_name  # noqa: PLC0415 - only when a plugin was found

    for text in requires:
        try:
            requirement = Requirement(text)
            if canonicalize_name(requirement.name) != "qres-core":
                continue
            if requirement.marker is not None and not requirement.marker.evaluate({"extra": ""}):
                continue
        except (InvalidRequirement, UndefinedComparison, UndefinedEnvironmentName):
            return f"unreadable requirement {text!r}"
        if not requirement.specifier.contains(core_version, prereleases=True):
            return f"needs {requirement}, running {core_version}"
    return ""


def _plugin_entries(distribution: metadata.Distribution, group: str) -> list[metadata.EntryPoint]:
    try:
        return [ep for ep in distribution.entry_points if ep.group == group]
    except Exception:  # noqa: BLE001 - no rule says what a broken file makes the parser raise
        return []  # it provides nothing; a plugin named in the file is then "not installed"


def _identity(distribution: metadata.Distribution, core_version: str) -> tuple[str, str, str]:
    """Name, version and why the distribution cannot be used, empty if it can."""
    try:
        fields = distribution.metadata
        name, version = ((fields.get_all(key) or [""])[0] for key in ("Name", "Version"))
        unmet = _core_requirement_unmet(fields.get_all("Requires-Dist") or (), core_version)
    except Exception as error:  # noqa: BLE001 - as above
        return "(nameless)", "(no version)", f"unreadable metadata: {type(error).__name__}"
    if not (name and version):
        # The rest of such a file is no more to be trusted: its requirements may be lost too.
        unmet = "its metadata gives no name or no version"
    return name or "(nameless)", version or "(no version)", unmet


def scan(
    *,
    path: Iterable[str] | None = None,
    trusted: frozenset[Path] | None = None,
    core_version: str | None = None,
    group: str = ENTRY_POINT_GROUP,
) -> Mapping[str, Installed]:
    """Find every plugin of the environment, importing none.

    Args:
        path: folders to search instead of ``sys.path``.
        trusted: folders whose metadata counts instead of :func:`site_directories`.
        core_version: version to hold requirements against instead of the running one.
        group: entry-point group; other parts of QRES find theirs by the same rules.

    Returns:
        plugins by name, sorted. One that cannot be enabled is listed with the reason; this
        function never fails because of a bad distribution.

    Complexity: one pass over the distributions of the environment.
    """
    core_version = core_version or __version__
    trusted = site_directories() if trusted is None else trusted
    found: dict[str, list[Installed]] = {}
    seen: set[tuple[object, ...]] = set()
    distributions = (
        metadata.distributions() if path is None else metadata.distributions(path=list(path))
    )
    for distribution in distributions:
        entries = _plugin_entries(distribution, group)
        if not entries:
            continue
        name, version, unmet = _identity(distribution, core_version)
        home = Path(str(distribution.locate_file(""))).resolve()
        key = (name, version, home, *((ep.name, ep.value) for ep in entries))
        if key in seen:  # the same folder twice on sys.path
            continue
        seen.add(key)
        if home not in trusted:
            status, detail = Status.MISPLACED, f"metadata in {home}, not in site-packages"
        elif unmet:
            status, detail = Status.INCOMPATIBLE, unmet
        else:
            status, detail = Status.INSTALLED, ""
        for ep in entries:
            found.setdefault(ep.name, []).append(
                Installed(ep.name, name, version, ep.value, status, detail, ep)
            )
    return {name: _choose(found[name]) for name in sorted(found)}


def _choose(candidates: list[Installed]) -> Installed:
    placed = [candidate for candidate in candidates if candidate.status is not Status.MISPLACED]
    if len(placed) == 1:
        return placed[0]
    if not placed:
        return candidates[0]
    others = " and ".join(item.provenance for item in placed)
    return attrs.evolve(
        placed[0], status=Status.CONFLICT, detail=f"provided by {others}", entry_point=None
    )


_REFUSED: Final[Mapping[Status, tuple[str, str]]] = {
    Status.INCOMPATIBLE: ("QRES-E203", "pip install -U {0} qres-core"),
    Status.CONFLICT: ("QRES-E204", "pip uninstall all except one"),
    Status.MISPLACED: ("QRES-E205", "remove that folder and pip install {0}"),
}


def load(origin: Installed, where: str) -> Any:
    """Import what an entry point leads to.

    ``where``: for messages. Raises PluginError: QRES-E202 where the import fails, QRES-E203 to
    QRES-E205 where the distribution cannot be used.
    """
    if origin.status in _REFUSED:
        code, fix = _REFUSED[origin.status]
        what = f"{origin.provenance}: {origin.detail}"
        raise PluginError.of(code, where, what, fix.format(origin.distribution))
    return imported(origin, where)


def imported(origin: Installed, where: str) -> Any:
    """As :func:`load`, whatever the distribution's status. Raises PluginError: QRES-E202."""
    try:
        if origin.factory is None and origin.entry_point is not None:
            return origin.entry_point.load()
    except (Exception, SystemExit) as error:
        what = f"{origin.provenance}: import failed: {type(error).__name__}: {error}"
        fix = f"reinstall or remove {origin.distribution}"
        raise PluginError.of("QRES-E202", where, what, fix) from error
    return origin.factory
