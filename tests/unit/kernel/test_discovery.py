"""What is installed is found from metadata alone, and nothing can pose as something else."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest

import qres_core
from qres_core.builtin.mean import Mean
from qres_core.kernel.discovery import Installed, Status, scan, site_directories

WriteDist = Callable[..., Path]


def found(
    *folders: Path, trusted: Path | None = None, core: str | None = None
) -> Mapping[str, Installed]:
    places = frozenset({(trusted or folders[0]).resolve()})
    return scan(path=[str(folder) for folder in folders], trusted=places, core_version=core)


# ── what counts as installed ──────────────────────────────────────────────────────────────────────


def test_a_distribution_is_found_with_its_provenance(tmp_path: Path, write_dist: WriteDist) -> None:
    write_dist(tmp_path, "qres-toy", "1.2", requires=("qres-core>=0.1", "numpy>=1"))
    toy = found(tmp_path)["toy"]
    assert (toy.status, toy.detail) == (Status.INSTALLED, "")
    assert (toy.distribution, toy.version, toy.target) == ("qres-toy", "1.2", "qres_toy:Toy")
    assert toy.provenance == "qres-toy 1.2, qres_toy:Toy"
    assert toy.entry_point is not None
    assert toy.factory is None


def test_names_are_sorted_and_other_groups_ignored(tmp_path: Path, write_dist: WriteDist) -> None:
    write_dist(tmp_path, "qres-b", entries="zeta = b:Z\nalpha = b:A")
    write_dist(tmp_path, "other", entry_points=b"[console_scripts]\nqres = evil:main\n")
    assert list(found(tmp_path)) == ["alpha", "zeta"]


def test_an_empty_environment_has_no_plugins(tmp_path: Path) -> None:
    assert found(tmp_path) == {}


def test_the_environment_provides_the_built_in_plugins() -> None:
    here = scan()
    assert here["mean"].target == "qres_core.builtin.mean:Mean"
    assert here["memory"].distribution == "qres-core"
    assert here["mean"].version == qres_core.__version__


def test_a_local_class_has_no_distribution() -> None:
    local = Installed.local("mine", Mean)
    assert local.provenance == "(local) 0, qres_core.builtin.mean:Mean"
    assert local.factory is Mean


def test_site_directories_hold_the_running_core() -> None:
    assert any(folder.name == "site-packages" for folder in site_directories())
    assert Path.cwd().resolve() not in site_directories()


# ── the requirement on qres-core ──────────────────────────────────────────────────────────────────

THIS_PYTHON = f"{sys.version_info.major}.{sys.version_info.minor}"


@pytest.mark.parametrize(
    "requires",
    [
        (),
        ("numpy>=99",),  # not this gate's business
        ("qres-core",),
        ("qres-core>=0.1,<0.2",),
        ("QRES_Core>=0.1",),
        ("qres.core~=0.1.0",),
        ("qres-core>=7; extra == 'future'",),
        ("qres-core>=7; python_version < '3'",),
        ("qres-core-extras>=7",),
        ("qres-core[testing]>=0.1",),
    ],
)
def test_a_met_requirement_is_installed(
    tmp_path: Path, write_dist: WriteDist, requires: tuple[str, ...]
) -> None:
    write_dist(tmp_path, requires=requires)
    assert found(tmp_path, core="0.1.5")["toy"].status is Status.INSTALLED


@pytest.mark.parametrize(
    ("requires", "detail"),
    [
        (("qres-core>=7",), "needs qres-core>=7, running 0.1.5"),
        (("qres-core<0.1",), "needs qres-core<0.1, running 0.1.5"),
        (("QRES_core>=7",), "needs QRES_core>=7, running 0.1.5"),
        (("qres-core==0.1.4",), "needs qres-core==0.1.4, running 0.1.5"),
        (("qres-core>=0.1", "qres-core>=7"), "needs qres-core>=7, running 0.1.5"),
        (
            (f"qres-core>=7; python_version == '{THIS_PYTHON}'",),
            f'needs qres-core>=7; python_version == "{THIS_PYTHON}", running 0.1.5',
        ),
        (("qres-core[testing]>=7",), "needs qres-core[testing]>=7, running 0.1.5"),
        (("qres-core ~> 7",), "unreadable requirement 'qres-core ~> 7'"),
        (("?",), "unreadable requirement '?'"),
        (
            ("qres-core>=0.1; os_name ~= 'posix'",),
            "unreadable requirement \"qres-core>=0.1; os_name ~= 'posix'\"",
        ),
    ],
)
def test_an_unmet_or_unreadable_requirement_is_incompatible(
    tmp_path: Path, write_dist: WriteDist, requires: tuple[str, ...], detail: str
) -> None:
    write_dist(tmp_path, requires=requires)
    toy = found(tmp_path, core="0.1.5")["toy"]
    assert (toy.status, toy.detail) == (Status.INCOMPATIBLE, detail)


def test_a_development_version_of_the_core_meets_its_own_bound(
    tmp_path: Path, write_dist: WriteDist
) -> None:
    write_dist(tmp_path, requires=("qres-core>=0.1,<0.2",))
    assert found(tmp_path, core="0.1.5.dev3")["toy"].status is Status.INSTALLED


# ── two of one name ───────────────────────────────────────────────────────────────────────────────


def test_two_distributions_with_one_name_are_a_conflict(
    tmp_path: Path, write_dist: WriteDist
) -> None:
    write_dist(tmp_path, "qres-one", entries="krum = one:Krum")
    write_dist(tmp_path, "qres-two", entries="krum = two:Krum\nother = two:Other")
    here = found(tmp_path)
    krum = here["krum"]
    assert krum.status is Status.CONFLICT
    assert "qres-one 1.0, one:Krum" in krum.detail
    assert "qres-two 1.0, two:Krum" in krum.detail
    assert krum.entry_point is None, "there is nothing that could be loaded by mistake"
    assert here["other"].status is Status.INSTALLED


def test_an_incompatible_second_distribution_is_still_a_conflict(
    tmp_path: Path, write_dist: WriteDist
) -> None:
    write_dist(tmp_path, "qres-one", entries="krum = one:Krum")
    write_dist(tmp_path, "qres-two", entries="krum = two:Krum", requires=("qres-core>=7",))
    assert found(tmp_path)["krum"].status is Status.CONFLICT


def test_two_versions_of_one_distribution_are_a_conflict(
    tmp_path: Path, write_dist: WriteDist
) -> None:
    """An upgrade that broke off leaves both; which files are there is anybody's guess."""
    write_dist(tmp_path, version="1.0")
    write_dist(tmp_path, version="2.0")
    assert found(tmp_path)["toy"].status is Status.CONFLICT


def test_one_name_twice_in_one_distribution_is_a_conflict(
    tmp_path: Path, write_dist: WriteDist
) -> None:
    write_dist(tmp_path, entries="toy = one:Toy\ntoy = two:Toy")
    assert found(tmp_path)["toy"].status is Status.CONFLICT


def test_a_folder_twice_on_the_path_is_one_folder(tmp_path: Path, write_dist: WriteDist) -> None:
    write_dist(tmp_path / "site")
    (tmp_path / "lib64").symlink_to(tmp_path / "site", target_is_directory=True)
    here = found(tmp_path / "site", tmp_path / "site", tmp_path / "lib64")
    assert here["toy"].status is Status.INSTALLED


# ── metadata in the wrong place ───────────────────────────────────────────────────────────────────


@pytest.mark.parametrize("spoof_first", [True, False])
def test_misplaced_metadata_neither_hides_nor_replaces_the_real(
    tmp_path: Path, write_dist: WriteDist, *, spoof_first: bool
) -> None:
    real, spoof = tmp_path / "site", tmp_path / "work"
    write_dist(real, "qres-krum", "0.1.0", entries="krum = qres_krum:Krum")
    write_dist(spoof, "qres-krum", "9.9", entries="krum = evilmod:Krum")
    folders = (spoof, real) if spoof_first else (real, spoof)
    krum = found(*folders, trusted=real)["krum"]
    assert (krum.status, krum.version, krum.target) == (
        Status.INSTALLED,
        "0.1.0",
        "qres_krum:Krum",
    )


def test_metadata_only_in_the_wrong_place_is_misplaced(
    tmp_path: Path, write_dist: WriteDist
) -> None:
    write_dist(tmp_path / "work", entries="toy = evilmod:Toy")
    toy = found(tmp_path / "work", trusted=tmp_path / "site")["toy"]
    assert toy.status is Status.MISPLACED
    assert str(tmp_path / "work") in toy.detail


# ── damaged metadata ──────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    "entry_points",
    [b"[qres.plugins]\nnonsense\n", b"[other]\nnonsense\n", b"[qres.plugins]\nx = \xff:X\n"],
    ids=["no equals sign", "another group damaged", "not UTF-8"],
)
def test_damaged_entry_points_provide_nothing_and_disturb_nobody(
    tmp_path: Path, write_dist: WriteDist, entry_points: bytes
) -> None:
    write_dist(tmp_path, "damaged", entry_points=entry_points)
    write_dist(tmp_path, "qres-toy")
    assert list(found(tmp_path)) == ["toy"]


@pytest.mark.parametrize(
    ("metadata", "detail"),
    [
        (b"Metadata-Version: 2.1\nVersion: 1.0\n", "gives no name"),
        (b"Metadata-Version: 2.1\nName: qres-toy\n", "no version"),
        (b"", "gives no name"),
        (b"Metadata-Version: 2.1\nName: \xff\nVersion: 1\n", "unreadable metadata"),
    ],
    ids=["nameless", "versionless", "empty", "not UTF-8"],
)
def test_damaged_metadata_is_listed_and_cannot_be_enabled(
    tmp_path: Path, write_dist: WriteDist, metadata: bytes, detail: str
) -> None:
    """Its requirements may be lost with the rest, so it must not pass the version gate."""
    write_dist(tmp_path, metadata=metadata)
    toy = found(tmp_path)["toy"]
    assert toy.status is Status.INCOMPATIBLE
    assert detail in toy.detail
    assert toy.provenance.endswith("qres_toy:Toy")


# ── nothing is imported ───────────────────────────────────────────────────────────────────────────


def python(folder: Path, *arguments: str, **environment: str) -> Any:
    """Run a fresh interpreter in ``folder``; its last line of output is JSON."""
    inherited = {key: value for key, value in os.environ.items() if key != "PYTHONSAFEPATH"}
    done = subprocess.run(
        [sys.executable, *arguments],
        cwd=folder,
        env={**inherited, **environment},
        capture_output=True,
        text=True,
        timeout=900,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout.splitlines()[-1])


LIST_IMPORTED = dedent(
    """
    import json, sys
    from qres_core.kernel.discovery import scan
    found = scan()
    print(json.dumps([sorted(found), sorted(sys.modules)]))
    """
)


def test_scanning_imports_no_plugin_and_no_numerical_library(tmp_path: Path) -> None:
    names, modules = python(tmp_path, "-c", LIST_IMPORTED)
    assert {"krum", "mean", "memory"} <= set(names)
    assert not {"qres_krum", "qres_core.builtin.mean", "numpy"} & set(modules)


# ── the attack, for real ──────────────────────────────────────────────────────────────────────────

SPOOFED = dedent(
    """
    import json, sys
    from importlib.metadata import entry_points
    from qres_core.kernel.discovery import scan
    naive = {ep.name: ep.value for ep in entry_points(group="qres.plugins")}
    krum = scan()["krum"]
    loaded = krum.entry_point.load()
    print(json.dumps({
        "naive": naive["krum"], "target": krum.target, "status": krum.status.value,
        "version": krum.version, "loaded": loaded.__module__, "evil": "evilmod" in sys.modules,
        "extra": scan()["extra"].status.value,
    }))
    """
)


@pytest.mark.claim("C-config-3")
@pytest.mark.control("C-config-3")
@pytest.mark.parametrize("arguments", [("-c", SPOOFED), ("-m", "probe")], ids=["-c", "-m"])
def test_a_dist_info_folder_in_the_working_directory_cannot_pose_as_krum(
    tmp_path: Path, write_dist: WriteDist, arguments: tuple[str, ...]
) -> None:
    pytest.importorskip("qres_krum")
    entries = "krum = evilmod:Krum\nextra = evilmod:Extra"
    write_dist(tmp_path, "qres-krum", "9.9", entries=entries)
    (tmp_path / "evilmod.py").write_text("open('owned', 'w').close()\nclass Krum: pass\n")
    (tmp_path / "probe.py").write_text(SPOOFED)
    seen = python(tmp_path, *arguments)
    assert seen["naive"] == "evilmod:Krum", "the attack works on a plain look at entry points"
    assert seen["target"] == "qres_krum:Krum"
    assert seen["status"] == "installed"
    assert seen["version"] != "9.9"
    assert seen["loaded"] == "qres_krum.plugin"
    assert seen["extra"] == "misplaced"
    assert not seen["evil"]
    assert not (tmp_path / "owned").exists()
