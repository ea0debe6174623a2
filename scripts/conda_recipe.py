"""The conda recipe of all distributions: ``deploy/conda/recipe.yaml``, made from their own files.

    python -P scripts/conda_recipe.py                  write the recipe
    python -P scripts/conda_recipe.py --check          exit with 1 if it is not up to date
    python -P scripts/conda_recipe.py --build FOLDER   build all packages into that folder

Building needs ``requirements/release.txt``. Packages of others come from conda-forge. With
``--stand-in`` none of them is fetched: this Python and its hatchling take the place of conda's,
which shows that the recipe builds and what is in its packages, not that others can be found.

Extras become plain requirements for qres-core's ``node``, and are left out of other packages: conda
knows no extras. What conda-forge lacks has no package: the transport libp2p.
"""

from __future__ import annotations

import argparse
import importlib
import re
import shutil
import sys
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Final

ROOT: Final = Path(__file__).resolve().parent.parent
RECIPE: Final = ROOT / "deploy/conda/recipe.yaml"
LACKING: Final = frozenset({"qres-transport-libp2p"})
PARTS: Final = ("libraries", "plugins", "integrations")
NAMES: Final = {
    "prometheus-client": "prometheus_client",
    "ray": "ray-default",
    "torch": "pytorch",
}
"""Names that conda-forge writes in another way; all of its names are lower-case."""
BACKEND: Final = ("hatchling", "packaging", "pathspec", "pluggy", "trove-classifiers")
"""What building needs, for the stand-in."""
EXTRAS: Final = {"qres-core": ("node",)}
HEAD: Final = """\
# Made from the pyproject.toml files by scripts/conda_recipe.py.
schema_version: 1

recipe:
  name: qres
  version: "{version}"

source:
  path: ../..

build:
  number: 0

about:
  license: Apache-2.0
  license_file: LICENSE

outputs:
"""
OUTPUT: Final = """\
  - package:
      name: {name}
      version: "{version}"
    build:
      noarch: python
      script: python -m pip install --no-deps --no-build-isolation --no-index {folder}
{entry_points}\
    requirements:
      host:
        - python 3.11.*
        - pip
        - {backend}
      run:
        - python {python}
{run}\
    tests:
      - python:
          imports:
            - {package}
    about:
      summary: "{summary}"
"""
STAND_IN: Final = """\
schema_version: 1
recipe:
  name: stand-in
  version: "{version}"
outputs:
  - package:
      name: python
      version: "{version}"
    build:
      script:
        - '"{python}" -m venv --copies "$PREFIX"'
        - 'cp -R {files} "$PREFIX/{lib}/"'
  - package:
      name: pip
      version: "1"
    build:
      noarch: generic
  - package:
      name: hatchling
      version: "{hatchling}"
    build:
      noarch: generic
"""


def projects(root: Path) -> Iterator[tuple[Path, dict[str, Any]]]:
    """The folder and the ``[project]`` table of each distribution that gets a package."""
    found = [root, *(path for part in PARTS for path in sorted((root / part).iterdir()))]
    for folder in found:
        if not (folder / "pyproject.toml").is_file():
            continue
        data = tomllib.loads((folder / "pyproject.toml").read_text("utf-8"))
        if data["project"]["name"] not in LACKING:
            yield folder, data


def requirement(text: str) -> str:
    """A requirement of pip as conda writes it, without extras.

    Example:
        >>> requirement("prometheus-client>=0.21"), requirement("qres-core[node]>=0.2,<0.3")
        ('prometheus_client >=0.21', 'qres-core >=0.2,<0.3')
    """
    found = re.fullmatch(r"([\w.-]+)(?:\[[\w,-]+\])?\s*([^;]*)(;.*)?", text)
    if found is None or found[3]:
        raise ValueError(f"conda cannot say: {text}")
    return f"{NAMES.get(found[1], found[1].lower())} {found[2]}".strip()


def output(folder: Path, data: Mapping[str, Any]) -> str:
    """The part of the recipe that makes one package."""
    project = data["project"]
    extras = project.get("optional-dependencies", {})
    wanted = [*project["dependencies"]]
    wanted += [text for name in EXTRAS.get(project["name"], ()) for text in extras[name]]
    points = [f"          - {name} = {at}\n" for name, at in project.get("scripts", {}).items()]
    return OUTPUT.format(
        name=project["name"],
        version=project["version"],
        folder=f"./{folder.relative_to(ROOT)}" if folder != ROOT else ".",
        entry_points="".join(["      python:\n        entry_points:\n", *points] if points else []),
        backend=requirement(data["build-system"]["requires"][0]),
        python=project["requires-python"],
        run="".join(f"        - {each}\n" for each in sorted(map(requirement, wanted))),
        package=project["name"].replace("-", "_"),
        summary=project["description"].replace('"', '\\"'),
    )


def recipe(root: Path) -> str:
    """The whole recipe."""
    found = list(projects(root))
    head = HEAD.format(version=found[0][1]["project"]["version"])
    return head + "\n".join(output(folder, data) for folder, data in found)


def build(recipe_file: Path, out: Path, *, stand_in: bool) -> list[Path]:
    """Build every package of the recipe into a folder; returns the files."""
    builder: Any = importlib.import_module("rattler_build")
    channels = ["conda-forge"]
    out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="qres-conda-") as name:
        if stand_in:
            channel = Path(name) / "channel"
            _run(builder, _stand_in(Path(name)), channel, [])
            channels = [channel.as_uri()]
        made = _run(builder, recipe_file, Path(name) / "packages", channels)
        return [Path(shutil.copy(file, out)) for file in made]


def contents(package: Path) -> set[str]:
    """The modules in a package that was built: paths below ``site-packages``."""
    builder: Any = importlib.import_module("rattler_build")
    files = (str(file) for file in builder.Package.from_file(package).files)
    inside = (file.removeprefix("site-packages/") for file in files if "site-packages/" in file)
    return {file for file in inside if ".dist-info/" not in file}


def _run(builder: Any, recipe_file: Path, out: Path, channels: list[str]) -> list[Path]:
    files: list[Path] = []
    for variant in builder.Stage0Recipe.from_file(recipe_file).render(builder.VariantConfig()):
        result = variant.run_build(output_dir=out, channels=channels)
        files += map(Path, result.packages)
    return files


def _stand_in(folder: Path) -> Path:
    """A recipe of conda's packages that building needs, made of this interpreter."""
    files: set[str] = set()
    for name in BACKEND:
        for file in metadata.distribution(name).files or ():
            files.add(str(file.locate()).removesuffix(str(file)) + file.parts[0])
    text = STAND_IN.format(
        version=".".join(map(str, sys.version_info[:3])),
        python=sys.executable,
        files=" ".join(f'"{each}"' for each in sorted(files) if not each.endswith("..")),
        lib=f"lib/python{sys.version_info[0]}.{sys.version_info[1]}/site-packages",
        hatchling=metadata.version("hatchling"),
    )
    path = folder / "stand-in" / "recipe.yaml"
    path.parent.mkdir()
    path.write_text(text, encoding="utf-8")
    return path


def main() -> int:
    """Write, check or build."""
    parser = argparse.ArgumentParser(description="The conda recipe of all distributions.")
    parser.add_argument("--check", action="store_true")
    parser.add_argument("--build", type=Path, metavar="FOLDER")
    parser.add_argument("--stand-in", action="store_true", help="fetch nothing from conda-forge")
    options = parser.parse_args()
    text = recipe(ROOT)
    if options.check:
        current = RECIPE.is_file() and RECIPE.read_text("utf-8") == text
        if not current:
            print(f"{RECIPE.relative_to(ROOT)} is not up to date: run this script")
        return not current
    RECIPE.parent.mkdir(exist_ok=True)
    RECIPE.write_text(text, encoding="utf-8")
    if options.build:
        for file in build(RECIPE, options.build.absolute(), stand_in=options.stand_in):
            print(file.name)
    return 0


if __name__ == "__main__":
    sys.exit(main())
