"""Every dist of the workspace is built, bounded, licensed and pinned alike."""

from __future__ import annotations

import re
import subprocess
import sys
import tomllib
from importlib.metadata import EntryPoint
from pathlib import Path
from types import FunctionType
from typing import Any

import click
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from packaging.version import Version

import qres_core

ROOT = Path(__file__).resolve().parents[2]
PLUGINS = sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml"))
LIBRARIES = sorted(path.parent for path in ROOT.glob("libraries/*/pyproject.toml"))
INTEGRATIONS = sorted(path.parent for path in ROOT.glob("integrations/*/pyproject.toml"))
DISTS = [ROOT, *LIBRARIES, *PLUGINS, *INTEGRATIONS]
WORKSPACE = {
    str(tomllib.loads((dist / "pyproject.toml").read_text("utf-8"))["project"]["name"])
    for dist in DISTS
}
PIN_FILES = sorted(ROOT.glob("requirements/*.txt"))
FLOWER = ROOT / "requirements/flower.txt"
RELEASE = ROOT / "requirements/release.txt"
SDISTS = {"python-baseconv", "varint"}
COMPILED = {"fastecdsa"}
CORE = "qres-core"

every_dist = pytest.mark.parametrize("dist", DISTS, ids=lambda path: path.name)
every_plugin = pytest.mark.parametrize("dist", PLUGINS, ids=lambda path: path.name)
every_pin_file = pytest.mark.parametrize("path", PIN_FILES, ids=lambda path: path.name)


def pyproject(dist: Path) -> dict[str, Any]:
    return tomllib.loads((dist / "pyproject.toml").read_text("utf-8"))


def package(dist: Path) -> Path:
    return dist / str(pyproject(dist)["project"]["name"]).replace("-", "_")


def pins(path: Path) -> dict[str, tuple[Requirement, list[str]]]:
    """The requirements of a compiled file by name, each with its hashes."""
    found: dict[str, tuple[Requirement, list[str]]] = {}
    text = re.sub(r"^#.*\n", "", path.read_text("utf-8"), flags=re.MULTILINE)
    for logical in text.replace("\\\n", " ").splitlines():
        words, *hashes = re.split(r"\s+--hash=", logical.strip())
        if not words:
            continue
        requirement = Requirement(words)
        name = canonicalize_name(requirement.name)
        assert name not in found, f"{path.name} pins {name} twice"
        found[name] = (requirement, hashes)
    return found


def group(name: str) -> list[str]:
    entries: list[str] = []
    for entry in pyproject(ROOT)["dependency-groups"][name]:
        entries += [entry] if isinstance(entry, str) else group(entry["include-group"])
    return entries


def wanted(file: str, *groups: str) -> list[Requirement]:
    """What a compiled file has to hold: all runtime dependencies, the extras and the groups."""
    pinned = [dist for dist in DISTS if dist not in INTEGRATIONS]
    dists = [dist for dist in pinned if file != "demo" or "transport" not in dist.name]
    texts = [text for dist in dists for text in pyproject(dist)["project"]["dependencies"]]
    extras = pyproject(ROOT)["project"]["optional-dependencies"]
    texts += extras["node"] + (extras["demo"] if file != "node" else [])
    texts += [text for name in groups for text in group(name)]
    return [
        item for item in map(Requirement, texts) if canonicalize_name(item.name) not in WORKSPACE
    ]


def tracked() -> list[Path]:
    git = ["git", "-c", f"safe.directory={ROOT}", "ls-files", "-z"]
    listed = subprocess.run(git, cwd=ROOT, capture_output=True, check=True, text=True)
    return [ROOT / name for name in listed.stdout.split("\0") if name and (ROOT / name).is_file()]


@every_dist
def test_licence_is_the_roots(dist: Path) -> None:
    assert (dist / "LICENSE").read_bytes() == (ROOT / "LICENSE").read_bytes()
    assert pyproject(dist)["project"]["license"] == "Apache-2.0"
    assert pyproject(dist)["project"]["license-files"] == ["LICENSE"]


def test_licence_of_a_new_plugin_is_the_roots() -> None:
    template = ROOT / "libraries/qres_lab/qres_lab/commands/plugin_templates/LICENSE.tmpl"
    assert template.read_bytes() == (ROOT / "LICENSE").read_bytes()


@every_dist
def test_dist_has_its_files(dist: Path) -> None:
    assert (dist / "README.md").read_text("utf-8").startswith("# ")
    assert (dist / "CHANGELOG.md").read_text("utf-8").startswith("# ")
    assert (package(dist) / "__init__.py").is_file()
    assert (package(dist) / "py.typed").is_file()


@every_dist
def test_what_is_not_released_yet_is_in_fragments(dist: Path) -> None:
    """The changelog begins with the newest release; the rest is in files for towncrier."""
    kinds = {item["directory"] for item in pyproject(ROOT)["tool"]["towncrier"]["type"]}
    fragments = [path for path in (dist / "changelog.d").glob("*.md") if path.name != "README.md"]
    for fragment in fragments:
        assert re.fullmatch(rf"(?:\d+|\+[\w-]+)\.(?:{'|'.join(kinds)})\.md", fragment.name)
        assert fragment.read_text("utf-8").strip().endswith(".")
    changelog = (dist / "CHANGELOG.md").read_text("utf-8")
    released = re.findall(r"^##(?: [\w-]+)? (\d\S*)", changelog, re.MULTILINE)
    assert fragments or released
    version = Version(pyproject(dist)["project"]["version"])
    assert all(Version(item) <= version for item in released)


@every_dist
def test_version_is_static_and_canonical(dist: Path) -> None:
    project = pyproject(dist)["project"]
    assert "dynamic" not in project
    assert str(Version(project["version"])) == project["version"]


def test_core_knows_its_version() -> None:
    assert qres_core.__version__ == pyproject(ROOT)["project"]["version"]


@every_dist
def test_build_is_the_same_everywhere(dist: Path) -> None:
    data = pyproject(dist)
    assert data["build-system"] == pyproject(ROOT)["build-system"]
    assert data["project"]["requires-python"] == pyproject(ROOT)["project"]["requires-python"]
    targets = data["tool"]["hatch"]["build"]["targets"]
    assert targets["wheel"]["packages"] == [package(dist).name]
    assert {package(dist).name, "README.md", "CHANGELOG.md", "LICENSE"} <= set(
        targets["sdist"]["only-include"]
    )


@every_plugin
def test_plugin_admits_the_current_core_and_not_any(dist: Path) -> None:
    project = pyproject(dist)["project"]
    (bound,) = [item for item in map(Requirement, project["dependencies"]) if item.name == CORE]
    assert bound.specifier.contains(qres_core.__version__)
    assert {"<"} & {item.operator for item in bound.specifier}, "no upper bound"


@every_plugin
def test_plugin_follows_the_names(dist: Path) -> None:
    data = pyproject(dist)
    assert str(data["project"]["name"]).replace("-", "_") == dist.name
    assert "qres-plugin" in data["project"]["keywords"]
    assert data["project"]["entry-points"]["qres.plugins"]


@pytest.mark.parametrize("dist", LIBRARIES, ids=lambda path: path.name)
def test_library_follows_the_names_and_is_no_plugin(dist: Path) -> None:
    project = pyproject(dist)["project"]
    assert str(project["name"]).replace("-", "_") == dist.name
    assert "qres-library" in project["keywords"]
    assert "qres.plugins" not in project.get("entry-points", {})
    (bound,) = [item for item in map(Requirement, project["dependencies"]) if item.name == CORE]
    assert bound.specifier.contains(qres_core.__version__)
    assert {"<"} & {item.operator for item in bound.specifier}, "no upper bound"


@pytest.mark.parametrize("dist", INTEGRATIONS, ids=lambda path: path.name)
def test_integration_follows_the_names_and_is_no_plugin(dist: Path) -> None:
    data = pyproject(dist)
    project = data["project"]
    assert str(project["name"]).replace("-", "_") == dist.name
    assert "qres-integration" in project["keywords"]
    assert "qres.plugins" not in project.get("entry-points", {})
    assert "dependency-groups" not in data
    (bound,) = [item for item in map(Requirement, project["dependencies"]) if item.name == CORE]
    assert bound.specifier.contains(qres_core.__version__)
    assert {"<"} & {item.operator for item in bound.specifier}, "no upper bound"


def test_numba_is_an_extra_everywhere() -> None:
    for dist in DISTS:
        names = {item.name for item in map(Requirement, pyproject(dist)["project"]["dependencies"])}
        assert "numba" not in names


@every_plugin
def test_plugin_leaves_groups_and_sources_to_the_root(dist: Path) -> None:
    data = pyproject(dist)
    assert "dependency-groups" not in data
    assert "uv" not in data["tool"]


@pytest.mark.parametrize(
    ("group_name", "name", "target"),
    [
        (group_name, name, target)
        for dist in DISTS
        for group_name, entries in pyproject(dist)["project"].get("entry-points", {}).items()
        for name, target in entries.items()
    ],
)
def test_entry_point_resolves(group_name: str, name: str, target: str) -> None:
    kinds: dict[str, type] = {
        "qres.attacks": type,
        "qres.engines": type,
        "qres.plugins": type,
        "qres.sabotage": type,
        "qres.commands": click.Command,
        "qres.executors": type,
        "qres.hosts": FunctionType,
        "qres.trainers": FunctionType,
    }
    expected = kinds[group_name]
    assert isinstance(EntryPoint(name, target, group_name).load(), expected)


def test_entry_points_have_distinct_names() -> None:
    names = [
        name
        for dist in DISTS
        for name in pyproject(dist)["project"].get("entry-points", {}).get("qres.plugins", {})
    ]
    assert len(names) == len(set(names))


@pytest.mark.claim("C-install-1")
@every_pin_file
def test_every_pin_is_exact_and_hashed(path: Path) -> None:
    found = pins(path)
    assert found
    for name, (requirement, hashes) in found.items():
        assert [item.operator for item in requirement.specifier] == ["=="], name
        assert requirement.url is None, name
        assert hashes, name
        assert all(re.fullmatch(r"sha256:[0-9a-f]{64}", item) for item in hashes), name


@pytest.mark.control("C-install-1")
def test_control_a_pin_without_a_version_or_a_hash_is_found(tmp_path: Path) -> None:
    path = tmp_path / "loose.txt"
    path.write_text("numpy>=1.26\n", encoding="utf-8")
    with pytest.raises(AssertionError):
        test_every_pin_is_exact_and_hashed(path)


@every_pin_file
def test_pins_hold_no_address(path: Path) -> None:
    text = path.read_text("utf-8").lower()
    addresses = ("http:", "https:", "://", " @ ", "file:", "index-url", "find-links")
    assert not [word for word in addresses if word in text]


@every_pin_file
def test_pins_leave_torch_ray_and_the_workspace_out(path: Path) -> None:
    # Flower admits one Ray only.
    ray = set[str]() if path == FLOWER else {"ray"}
    assert not {*ray, "torch", *WORKSPACE} & set(pins(path))


@pytest.mark.claim("C-install-2")
@every_pin_file
def test_no_pin_needs_a_compiler(path: Path) -> None:
    """What has no wheel is in a file of its own; fastecdsa, which is C, is in none."""
    assert not COMPILED & set(pins(path))
    assert SDISTS & set(pins(path)) == (SDISTS if path.name == "sdists.txt" else set())
    assert set(pins(ROOT / "requirements/sdists.txt")) == SDISTS


def test_the_demonstration_installs_no_transport() -> None:
    assert not {"libp2p", "trio", "multiaddr"} & set(pins(ROOT / "requirements/demo.txt"))
    assert {"libp2p", "trio", "multiaddr"} <= set(pins(ROOT / "requirements/node.txt"))


@pytest.mark.parametrize("path", sorted({*PIN_FILES} - {FLOWER}), ids=lambda path: path.name)
def test_one_package_has_one_version_everywhere(path: Path) -> None:
    everything = pins(ROOT / "requirements/dev.txt") | pins(ROOT / "requirements/sdists.txt")
    for name, (requirement, hashes) in pins(path).items():
        if path == RELEASE and name not in everything:
            continue  # tools of a rehearsal that no other environment has
        assert everything[name][0].specifier == requirement.specifier
        assert everything[name][1] == hashes


@pytest.mark.parametrize(
    ("file", "groups"),
    [
        ("demo", ["build"]),
        ("node", ["build", "sdists"]),
        ("test", ["build", "sdists", "test"]),
        ("lint", ["build", "sdists", "test", "lint"]),
        ("docs", ["build", "sdists", "test", "docs"]),
        ("dev", ["dev"]),
    ],
)
def test_pins_meet_what_the_projects_ask_for(file: str, groups: list[str]) -> None:
    found = pins(ROOT / f"requirements/{file}.txt") | pins(ROOT / "requirements/sdists.txt")
    for requirement in wanted(file, *groups):
        name = canonicalize_name(requirement.name)
        assert name in found, f"{requirement} is not pinned: run `make requirements`"
        (pin,) = found[name][0].specifier
        assert requirement.specifier.contains(pin.version), f"{requirement}, pinned {pin}"


def test_the_pins_of_a_release_meet_what_its_tools_ask_for() -> None:
    found = pins(RELEASE)
    for requirement in map(Requirement, [*group("build"), *group("release"), *group("rehearsal")]):
        (pin,) = found[canonicalize_name(requirement.name)][0].specifier
        assert requirement.specifier.contains(pin.version), f"{requirement}, pinned {pin}"


def test_the_pins_of_flower_meet_what_it_and_all_but_transports_ask_for() -> None:
    found = pins(FLOWER)
    project = pyproject(ROOT / "integrations/qres_flower")["project"]
    texts = [*project["dependencies"], *project["optional-dependencies"]["simulation"]]
    asked = [*wanted("demo", "build", "test"), *map(Requirement, texts)]
    for requirement in asked:
        name = canonicalize_name(requirement.name)
        if name not in WORKSPACE:
            (pin,) = found[name][0].specifier
            assert requirement.specifier.contains(pin.version), f"{requirement}, pinned {pin}"


def test_no_lock_file_or_registry_address_is_tracked() -> None:
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    files = tracked()
    # npm can be told to leave addresses out of its lock file, see tests/interop/js/README.md.
    assert not {"uv.lock", "poetry.lock"} & {path.name for path in files}
    hosts = [
        ".".join(parts).encode()
        for parts in (
            ("pypi", "org"),
            ("pythonhosted", "org"),
            ("npmjs", "org"),
            ("yarnpkg", "com"),
            ("anaconda", "org"),
            ("pytorch", "org/whl"),
        )
    ]
    offending = [
        (path.relative_to(ROOT).as_posix(), host.decode())
        for path in files
        for host in hosts
        if host in path.read_bytes()
    ]
    assert not offending


def test_readme_blocks_are_found_and_others_are_an_error() -> None:
    def run(*arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-P", str(ROOT / "scripts/readme_block.py"), *arguments]
        return subprocess.run(command, capture_output=True, check=False, text=True)

    assert "--only-binary :all: -r requirements/test.txt" in run("setup").stdout
    tests = '.venv/bin/python -P -m pytest -n auto --dist worksteal -m "not long and not gate"\n'
    assert run("test").stdout == tests
    assert run("absent").returncode == 1
    assert "0 bash blocks" in run("absent").stderr
    assert run().returncode == 2
