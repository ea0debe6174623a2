"""Every refusal has an id that is documented, unique and in its family's range."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
from collections.abc import Iterator

import attrs
import pytest

import qres_core
from qres_core.contract import errors
from qres_core.errors import Problem, QresError

FAMILIES = dict(re.findall(r"─ (\w+) +(QRES-E\d)xx", errors.__doc__ or ""))
CODES = sorted(errors.ERRORS)


def subclasses() -> list[type[QresError]]:
    return QresError.__subclasses__()


def test_the_tree_in_the_docstring_is_the_tree() -> None:
    assert len(FAMILIES) == len(set(FAMILIES.values())) == 9
    assert {kind.__name__ for kind in subclasses()} == set(FAMILIES)
    assert all(hasattr(qres_core.errors, name) for name in FAMILIES)


@pytest.mark.parametrize("code", CODES)
def test_every_id_is_documented_and_in_a_family(code: str) -> None:
    title, explanation = errors.ERRORS[code]
    assert re.fullmatch(r"QRES-E[1-9]\d\d", code)
    assert code[:7] in FAMILIES.values()
    assert title == title.strip() != ""
    assert not title.endswith(".")
    assert explanation == explanation.strip()
    assert explanation.endswith(".")


def test_no_id_and_no_title_is_given_twice() -> None:
    # A dict literal keeps the last of two equal keys in silence, so the source is what counts.
    tree = ast.parse(inspect.getsource(errors))
    tables = [node for node in ast.walk(tree) if isinstance(node, ast.Dict)]
    written = [key.value for key in tables[0].keys if isinstance(key, ast.Constant)]
    assert sorted(map(str, written)) == CODES
    assert len({title for title, _ in errors.ERRORS.values()}) == len(CODES)


def test_every_family_has_ids() -> None:
    assert {code[:7] for code in CODES} == set(FAMILIES.values())


def test_the_table_cannot_be_changed() -> None:
    with pytest.raises(TypeError):
        errors.ERRORS["QRES-E999"] = ("x", "y")  # type: ignore[index]  # pyright: ignore[reportIndexIssue]


@pytest.mark.parametrize("code", ["QRES-E999", "E101", "", "qres-e101", "QRES-E1010"])
def test_an_unknown_id_is_refused(code: str) -> None:
    with pytest.raises(ValueError, match=f"^{code}$"):
        Problem(code, "where", "what")
    with pytest.raises(ValueError, match=f"^{code}$"):
        QresError.of(code, "where", "what")


def test_the_message_holds_id_place_fault_and_fix() -> None:
    full = Problem("QRES-E102", "plugins.krum.g", "unknown key 'g'", "did you mean 'f'?")
    assert str(full) == "QRES-E102 plugins.krum.g: unknown key 'g' (did you mean 'f'?)"
    bare = Problem("QRES-E401", "frame", "70000 bytes, limit 65536")
    assert str(bare) == "QRES-E401 frame: 70000 bytes, limit 65536"


@pytest.mark.parametrize("kind", [QresError, *subclasses()])
def test_every_error_is_built_from_its_parts_and_caught_as_the_base(kind: type[QresError]) -> None:
    error = kind.of("QRES-E105", "node.port", "-1", "1..65535")
    assert type(error) is kind
    assert isinstance(error, QresError)
    assert error.code == "QRES-E105"
    assert error.problems == (Problem("QRES-E105", "node.port", "-1", "1..65535"),)
    assert str(error) == "QRES-E105 node.port: -1 (1..65535)"


def test_an_error_reports_all_its_problems_in_order() -> None:
    problems = [Problem("QRES-E103", "swarm.name", "missing"), Problem("QRES-E102", "x", "unknown")]

    def lazily() -> Iterator[Problem]:
        yield from problems

    for given in (problems, tuple(problems), lazily()):
        error = QresError(given)
        assert error.problems == tuple(problems)
        assert error.code == "QRES-E103"
        assert str(error).splitlines() == [str(problem) for problem in problems]


def test_a_problem_given_twice_is_told_once() -> None:
    twice = [Problem("QRES-E802", "x", "missing"), Problem("QRES-E103", "y", "missing")] * 2
    assert QresError(twice).problems == tuple(twice[:2])


@pytest.mark.parametrize("kind", [QresError, *subclasses()])
def test_an_error_survives_the_way_between_processes(kind: type[QresError]) -> None:
    error = kind([Problem("QRES-E103", "swarm.name", "missing"), Problem("QRES-E102", "x", "?")])
    again = pickle.loads(pickle.dumps(error))  # noqa: S301 - its own bytes
    assert type(again) is kind
    assert again.problems == error.problems


def test_an_error_without_a_problem_cannot_be_made() -> None:
    with pytest.raises(ValueError, match="at least one problem"):
        QresError([])


def test_a_problem_cannot_be_changed() -> None:
    problem = Problem("QRES-E103", "swarm.name", "missing")
    with pytest.raises(attrs.exceptions.FrozenInstanceError):
        problem.code = "QRES-E999"  # type: ignore[misc]  # pyright: ignore[reportAttributeAccessIssue]
