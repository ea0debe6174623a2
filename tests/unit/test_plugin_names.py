"""The core knows no plugin by name: its code names no plugin, no distribution and no option.

What messages name is in ``qres_core/kernel/index.json``, which is made of the plugins' own files.
"""

from __future__ import annotations

import ast
import re
import shutil
import zipfile
from collections.abc import Callable, Iterator
from functools import cache
from pathlib import Path
from types import ModuleType

import attrs
import pytest
from hatchling.builders.wheel import WheelBuilder

from qres_core.attacks.scenario import Scenario
from qres_core.kernel.assembly import plugin_class
from qres_core.kernel.config import NodeConfig, SwarmConfig
from qres_core.kernel.discovery import scan
from qres_core.kernel.index import ROLES, plugin_index
from qres_core.kernel.inspection import hooks_of
from qres_core.kernel.slots import ALL_HOOKS, SLOTS
from qres_core.training.table import TrainerConfig
from qres_core.training.tasks import TaskConfig

ROOT = Path(__file__).resolve().parents[2]
CORE = ROOT / "qres_core"
FILES = sorted(path for path in CORE.rglob("*.py") if path.parent != CORE)
BUILT_IN = {"mean", "memory"}
"""The plugins that core brings and registers itself: these names are its own."""
WORDS = {"arc", "bucketing", "clipping", "median", "replay", "reputation", "validation"}
"""Names that are words of the language: in a sentence they name nothing."""
OWN_TABLES = (SwarmConfig, NodeConfig, Scenario, TrainerConfig, TaskConfig)


@attrs.frozen
class Names:
    """What code of the core may not say.

    Attributes:
        plugins: names of plugins that core does not bring.
        distributions: their distributions.
        options: options of these plugins, of more than one word, that core has no key for.
    """

    plugins: frozenset[str]
    distributions: frozenset[str]
    options: frozenset[str]


@cache
def names() -> Names:
    plugins = {name: found for name, found in scan().items() if found.distribution != "qres-core"}
    ours = plugins.keys() & plugin_index().distributions.keys()
    fields = [field for name in ours for field in attrs.fields(plugin_class(plugins[name]))]
    own = {field.name for table in OWN_TABLES for field in attrs.fields(table)}
    return Names(
        frozenset(plugin_index().distributions.keys() - BUILT_IN),
        frozenset(set(plugin_index().distributions.values()) - {"qres-core"}),
        frozenset(field.name for field in fields if field.init and "_" in field.name) - own,
    )


def texts(source: str) -> Iterator[tuple[int, str]]:
    """The strings of a module that are no documentation, with their lines."""
    tree = ast.parse(source)
    said = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        match node:
            case ast.Constant(value=str(text)) if id(node) not in said:
                yield node.lineno, text
            case ast.Constant(value=bytes(octets)):
                yield node.lineno, octets.decode("latin-1")
            case _:
                continue


def named(source: str) -> Iterator[tuple[int, str]]:
    """Every plugin, distribution and option that a module names, with its line."""
    known = names()
    for line, text in texts(source):
        words = set(re.findall(r"[\w-]+", text))
        parts = set(re.findall(r"\w+", text))
        tables = set(re.findall(r"plugins\.(\w+)", text))
        quoted = set(re.findall(r"[`'\"](\w+)[`'\"]", text)) | {text.partition(".")[0]}
        of_options = set(re.findall(r"(\w+) = ", text)) | ({text} if text.isidentifier() else set())
        found = {text, *tables, *quoted} & known.plugins
        found |= (parts & known.plugins) - WORDS
        found |= words & known.distributions
        found |= of_options & known.options
        # A hook and its family have the name of a plugin: that is no plugin in its table.
        found -= set(ALL_HOOKS) - tables
        yield from ((line, name) for name in sorted(found))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(CORE)))
def test_the_core_names_no_plugin(path: Path) -> None:
    assert list(named(path.read_text("utf-8"))) == []


@pytest.mark.parametrize(
    ("code", "name"),
    [
        ('rule = "krum"', "krum"),
        ('fix = f"enable {what}, for example [plugins.secagg]"', "secagg"),
        ('table = "plugins.reputation.outlier"', "reputation"),
        ('fix = "replace it by `median`"', "median"),
        ('once = ("ed25519.authenticate",)', "ed25519"),
        ('if name in {"replay", "other"}: pass', "replay"),
        ('tables = {"validation": {}}', "validation"),
        ('what = "krum is better at that"', "krum"),
        ('fix = "install qres-krum"', "qres-krum"),
        ('where = "plugins.x.ban_below"\nkey = "ban_below"', "ban_below"),
        ('fix = f"outlier_rounds = 0 in {table}"', "outlier_rounds"),
        ('match name:\n    case "libp2p": pass', "libp2p"),
    ],
)
def test_a_name_in_code_is_found(code: str, name: str) -> None:
    assert name in {found for _line, found in named(code)}


@pytest.mark.parametrize(
    "code",
    [
        '"""The rule krum of qres-krum."""',
        'hook = "reputation"',
        'what = "the replay of old messages, by a median that validation shows"',
        'rule = "mean"',
        "krum = plugin()",
    ],
)
def test_what_is_no_name_of_a_plugin_passes(code: str) -> None:
    assert list(named(code)) == []


# ── the index ─────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture(scope="module")
def generator(script: Callable[[str], ModuleType]) -> ModuleType:
    return script("plugin_index")


def test_the_index_is_up_to_date(generator: ModuleType) -> None:
    assert generator.main(["--check"]) == 0


_SHOWN = {"network": "transport", "first_rule": "aggregate", "first_wrapper": "wrap_aggregate"}


def test_every_example_fills_its_role() -> None:
    """In the families and hooks; what a network or a first rule is, the hooks show only in part."""
    installed = scan()
    for role, name in plugin_index().examples.items():
        assert plugin_index().distributions[name] == installed[name].distribution
        hooks = set(hooks_of(installed[name].target) or ())
        shown = _SHOWN.get(role, role)
        wanted = SLOTS[shown].counted if shown in SLOTS else (shown,)
        assert hooks.issuperset(wanted) or role == "judge_of_merged", role
    judge = hooks_of(installed[plugin_index().examples["judge_of_merged"]].target) or ()
    assert "wrap_aggregate" in judge
    assert not {"screen", "endorse"} & set(judge)


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    """The files that the index is made of."""
    kinds = ("libraries", "plugins", "integrations")
    found = [path for kind in kinds for path in ROOT.glob(f"{kind}/*/pyproject.toml")]
    for path in [ROOT / "pyproject.toml", *found]:
        copy = tmp_path / path.relative_to(ROOT)
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, copy)
    return tmp_path


@pytest.mark.parametrize(
    ("old", "new", "reason"),
    [
        ('first_rule = "trim', 'first_rul = "trim', "'first_rul' is none of"),
        ('first_rule = "trimmed_mean"', 'first_rule = "krum"', "is no plugin of qres-robust-stats"),
        ('first_rule = "trim', 'prove = "trim', "is the example of 'prove' already"),
        ('first_rule = "trimmed_mean"', "", "no plugin is an example of first_rule"),
        ('meamed = "', 'zk = "', "another distribution has zk"),
    ],
)
def test_what_is_wrong_with_the_plugins_files_stops_the_generator(
    generator: ModuleType, checkout: Path, old: str, new: str, reason: str
) -> None:
    path = checkout / "plugins/qres_robust_stats/pyproject.toml"
    text = path.read_text("utf-8")
    assert old in text
    path.write_text(text.replace(old, new), "utf-8")
    with pytest.raises(ValueError, match=reason):
        generator.rendered(checkout)


def test_a_new_plugin_is_in_the_index(generator: ModuleType, checkout: Path) -> None:
    path = checkout / "plugins/qres_krum/pyproject.toml"
    path.write_text(
        path.read_text("utf-8").replace(
            "[project.entry-points.",
            '[project.entry-points."other"]\nx = "y:Z"\n\n[project.entry-points.',
            1,
        ),
        "utf-8",
    )
    assert generator.rendered(checkout) == generator.rendered(ROOT)  # of another group: no plugin
    path.write_text(
        path.read_text("utf-8").replace('krum = "', 'my_rule = "qres_krum:Mine"\nkrum = "'), "utf-8"
    )
    assert '"my_rule": "qres-krum"' in generator.rendered(checkout)


def test_a_new_executor_is_in_the_index_and_two_of_one_name_are_not(
    generator: ModuleType, checkout: Path
) -> None:
    path = checkout / "integrations/qres_ray/pyproject.toml"
    text = path.read_text("utf-8")
    path.write_text(text.replace('ray = "', 'mine = "qres_ray:Mine"\nray = "'), "utf-8")
    assert '"mine": "qres-ray"' in generator.rendered(checkout)
    copy = checkout / "integrations/qres_second/pyproject.toml"
    copy.parent.mkdir()
    copy.write_text(text.replace("qres-ray", "qres-second"), "utf-8")
    with pytest.raises(ValueError, match="another distribution has ray"):
        generator.rendered(checkout)


def test_roles_are_families_or_have_a_meaning() -> None:
    assert set(plugin_index().examples) == set(ROLES)
    assert set(ROLES) >= set(SLOTS)


def test_the_index_is_in_the_wheel(tmp_path: Path) -> None:
    """Built from the checkout, as releases are."""
    (wheel,) = WheelBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with zipfile.ZipFile(wheel) as archive:
        packed = archive.read("qres_core/kernel/index.json")
    assert packed == (CORE / "kernel/index.json").read_bytes()
