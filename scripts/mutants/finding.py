"""Where the security checks of a module are, and its text with each of them behind a switch.

A check is found by its form, so nobody has to list them:

- ``if C:`` that raises, refuses, leaves a loop or returns a refusal: it never does; of ``A or B``,
  each part alone never does;
- ``if A and B:`` that does something: each part is not asked; so are the conditions of
  comprehensions, and what a function that answers yes or no returns;
- ``<`` and ``<=``, ``>`` and ``>=`` in a condition: one for the other;
- a quorum's ``+ 1``, and a ceiling in ``min``: left out;
- a call whose result nobody takes and whose name says that it checks, and a field's decoder that
  has bounds: left out;
- ``"" if A else "why not"``, and ``return False`` where an error is caught: always good.

In the swarm a comparison with the clock is no check: it says when something is asked, said or given
up, and not what is believed, voted for or decided. Elsewhere it is one: of what is out of date.

A mutant keeps its name when lines move: module, function, what is done, and the text of the check.
"""

from __future__ import annotations

import ast
import copy
import re
from collections import Counter
from collections.abc import Sequence
from typing import Final

import attrs

SWITCHES: Final = "__mutants__"
"""A name among the builtins: a list by mutant, of whether it is on; the first stands for none."""

_REFUSING = re.compile(
    r"refus|reject|blame|bad\b|error|problem|banned|Rejection|penal|fault", re.IGNORECASE
)
_CHECKING = re.compile(r"verif|check(?!point)|refuse|require|expect_|ensure|validate|guard|must")
_BOUNDED = re.compile(r"^_?(number|octets|items|list|listed|integer|frames|text)$")
_SPEAKING = re.compile(  # what a condition speaks of that keeps strangers and liars out
    r"sender|source|author|\bbann?s?|banned|roster|quorum|threshold|byzantine|corrupt|liar|lied"
    r"|verif|authentic|prov(en|es)|sign(ed|er|ature)|digest|hash|standing|trust|is_near|epoch"
    r"|\b_?(MAX|MOST|LEAST|MIN)_?|revoked|expir|equivoc|judged|committee|voters|leaf|root"
)
_WORKING = re.compile(  # what a function is called that says how far its work has come
    r"ready|finished|busy|waits|pulling|leads|changed|published|exists|__bool__|through|waited|due$"
    r"|^is_out|over$|lacks|^_apply|runs_once|is_here|coin|durable|has_enough|ahead|carries|_count"
    r"|sampled|_await|_learn$|late$|^_is_kind|^_is_needed"
)
_COUNTED = re.compile(
    r"\bf\b|byzantine|faulty|threshold|quorum|corrupt|colluders|\bt\b|// 2|majority"
)
_PACED: Final = "qres_core.swarm."
_CLOCK = re.compile(r"\bnow [<>]|[<>]=? now\b")
_EASIER: Final = {ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt}
_LOUD = re.compile(r"_*[A-Z][A-Z0-9_]+$")
_COMPILED: Final = {"compiled", "part", "intrinsic", "_intrinsic", "overload", "property_of_type"}
LONGEST: Final = 70
"""Letters of a check's text in a name."""


@attrs.frozen
class Mutant:
    """A check that is taken out or weakened."""

    module: str
    function: str  # qualified
    what: str  # is done to it
    text: str  # of the check
    line: int

    @property
    def name(self) -> str:
        """What it is called, here and in the lists."""
        return f"{self.module}:{self.function}: {self.what}: {self.text}"


def _last(node: ast.expr) -> str:
    """The last part of the name of what is called."""
    match node:
        case ast.Call():
            return _last(node.func)
        case ast.Attribute():
            return node.attr
        case ast.Name():
            return node.id
        case _:
            return ""


def _no(value: ast.expr | None) -> bool:
    """Whether a value that is returned refuses, as far as its form shows."""
    match value:
        case ast.Constant():
            return value.value is False or (isinstance(value.value, str) and value.value != "")
        case ast.Name() | ast.Attribute():
            return bool(_LOUD.match(_last(value)))
        case ast.Call():
            return bool(_REFUSING.search(ast.unparse(value.func)))
        case ast.JoinedStr():
            return True
        case ast.Tuple():
            return any(map(_no, value.elts))
        case _:
            return False


def _good(value: ast.expr) -> bool:
    """Whether a value says that nothing is wrong."""
    match value:
        case ast.Constant():
            return value.value is None or value.value is True or value.value == ""
        case ast.Name():
            return value.id == "ACCEPT"
        case _:
            return False


def _skips(body: Sequence[ast.stmt]) -> bool:
    """Whether a branch goes on as if nothing had come."""
    match body[-1]:
        case ast.Continue() | ast.Break() | ast.Return(None):
            return True
        case ast.Return(ast.Constant(value)):
            return not value
        case _:
            return False


def _speaks(test: ast.expr) -> bool:
    return bool(_SPEAKING.search(ast.unparse(test)))


def _refuses(body: Sequence[ast.stmt]) -> bool:
    """Whether a branch refuses."""
    match body[-1]:
        case ast.Raise():
            return True
        case ast.Return(value):
            return _no(value)
        case _:
            calls = (node for stmt in body for node in ast.walk(stmt) if isinstance(node, ast.Call))
            return any(_REFUSING.search(_last(call)) for call in calls)


def _constant(value: bool | None, like: ast.AST) -> ast.expr:  # noqa: FBT001 - what it is to hold
    return ast.copy_location(ast.Constant(value), like)


def _yes(like: ast.AST) -> ast.expr:
    return ast.copy_location(ast.Constant(value=True), like)


class Switcher(ast.NodeTransformer):
    """Puts every check of a module behind a switch.

    Args:
        module: its name.
        first: number of its first mutant.

    Attributes:
        mutants: what was found, in the order of the text.
    """

    def __init__(self, module: str, first: int) -> None:
        self._module, self._first = module, first
        self._path: list[str] = []
        self._says: list[bool] = []  # whether the function answers yes or no
        self._seen: Counter[str] = Counter()
        self.mutants: list[Mutant] = []

    def _switch(
        self, node: ast.expr, other: ast.expr, what: str, was: ast.expr | None = None
    ) -> ast.expr:
        """The other value while the mutant is on; ``was``: as it was in the text.

        What runs while a module is imported stays as it is: a switch is turned later.
        """
        if not self._says:
            return node
        text = " ".join(ast.unparse(was or node).split())
        if self._module.startswith(_PACED) and _CLOCK.search(text):
            return node
        text = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"
        mutant = Mutant(self._module, ".".join(self._path), what, text, node.lineno)
        self._seen[mutant.name] += 1
        if self._seen[mutant.name] > 1:
            mutant = attrs.evolve(mutant, what=f"{what} #{self._seen[mutant.name]}")
        self.mutants.append(mutant)
        number = self._first + len(self.mutants) - 1
        index = ast.copy_location(ast.Constant(number), node)
        switches = ast.copy_location(ast.Name(SWITCHES, ast.Load()), node)
        test = ast.copy_location(ast.Subscript(switches, index, ast.Load()), node)
        return ast.copy_location(ast.IfExp(test, other, node), node)

    # ── conditions ────────────────────────────────────────────────────────────────────────────

    def _weaker(self, node: ast.expr) -> ast.expr:
        """A condition with each of its bounds off by one."""
        for part in list(ast.walk(node)):
            if isinstance(part, (ast.Lambda, ast.GeneratorExp, ast.ListComp, ast.SetComp)):
                return node  # it is visited by itself
        found = node
        for part in ast.walk(node):
            if not isinstance(part, ast.Compare):
                continue
            for at, operator in enumerate(part.ops):
                if type(operator) in _EASIER:
                    other = copy.deepcopy(node)
                    twin = _twin(node, part, other)
                    twin.ops[at] = _EASIER[type(operator)]()
                    sign = {ast.Lt: "<", ast.LtE: "<=", ast.Gt: ">", ast.GtE: ">="}
                    what = f"{sign[type(operator)]} is {sign[_EASIER[type(operator)]]}"
                    found = self._switch(found, other, what, part)
        return found

    def _parts(self, node: ast.expr, *, asked: bool, speaking: bool = False) -> ast.expr:
        """A condition, each part of which may be switched off.

        ``asked``: it lets something pass; ``speaking``: only those parts that speak of who sent it,
        what is proven, or how much there may be.
        """
        kind = ast.And if asked else ast.Or
        what = "not asked" if asked else "never refuses"
        if (
            isinstance(node, ast.UnaryOp)
            and isinstance(node.op, ast.Not)
            and (isinstance(node.operand, ast.BoolOp) or not asked)
        ):
            inner = self._parts(node.operand, asked=not asked, speaking=speaking)
            return ast.copy_location(ast.UnaryOp(node.op, inner), node)
        if isinstance(node, ast.BoolOp) and isinstance(node.op, kind):
            values = [self._parts(value, asked=asked, speaking=speaking) for value in node.values]
            return ast.copy_location(ast.BoolOp(node.op, values), node)
        if isinstance(node, ast.Constant) or (speaking and not _speaks(node)):
            return node
        return self._switch(self._weaker(node), _constant(asked, node), what, node)

    def visit_If(self, node: ast.If) -> ast.AST:
        """A guard, or a condition under which something passes."""
        test, first = node.test, node.orelse[:1]
        if _last(test) == "TYPE_CHECKING":
            return node
        if _refuses(node.body):
            node.test = self._parts(test, asked=False)
        elif first and not isinstance(first[0], ast.If) and _refuses(node.orelse):
            node.test = self._parts(test, asked=True)
        else:
            node.test = self._parts(test, asked=not _skips(node.body), speaking=True)
        return self._inside(node, test)

    def _inside(self, node: ast.If | ast.While, test: ast.expr) -> ast.AST:
        node.body = [self.visit(stmt) for stmt in node.body]
        node.orelse = [self.visit(stmt) for stmt in node.orelse]
        for part in ast.walk(test):
            if isinstance(part, (ast.GeneratorExp, ast.ListComp, ast.SetComp, ast.DictComp)):
                self._filtered(part)
        return node

    def visit_While(self, node: ast.While) -> ast.AST:
        """Its body, and what its condition filters."""
        return self._inside(node, node.test)

    def visit_IfExp(self, node: ast.IfExp) -> ast.AST:
        """A value that says that all is well, or what is wrong."""
        body, orelse = _good(node.body), _good(node.orelse)
        if body and _no(node.orelse) and not orelse:
            node.test = self._parts(node.test, asked=True)
        elif orelse and _no(node.body) and not body:
            node.test = self._parts(node.test, asked=False)
        node.body, node.orelse = self.visit(node.body), self.visit(node.orelse)
        return node

    def _filtered(self, node: ast.AST) -> None:
        for generator in node.generators:  # type: ignore[attr-defined]
            generator.ifs = [self._parts(test, asked=True, speaking=True) for test in generator.ifs]

    def visit_comprehension(self, node: ast.comprehension) -> ast.AST:
        """What it filters."""
        node.iter = self.visit(node.iter)
        node.ifs = [self._parts(test, asked=True, speaking=True) for test in node.ifs]
        return node

    def visit_match_case(self, node: ast.match_case) -> ast.AST:
        """Its guard."""
        if node.guard is not None:
            node.guard = self._parts(node.guard, asked=True, speaking=True)
        node.body = [self.visit(stmt) for stmt in node.body]
        return node

    # ── answers ───────────────────────────────────────────────────────────────────────────────

    def visit_Return(self, node: ast.Return) -> ast.AST:
        """An answer of yes or no."""
        value = node.value
        if value is None or not self._says[-1] or isinstance(value, (ast.Constant, ast.IfExp)):
            self.generic_visit(node)
            return node
        asked = not _WORKING.search(self._path[-1])
        if isinstance(value, ast.BoolOp):
            every = isinstance(value.op, ast.And)
            node.value = self._parts(value, asked=every, speaking=not asked)
        elif asked or _speaks(value):
            node.value = self._switch(self._weaker(value), _yes(value), "always yes", value)
        for part in ast.walk(value):
            if isinstance(part, (ast.GeneratorExp, ast.ListComp, ast.SetComp, ast.DictComp)):
                self._filtered(part)
        return node

    def visit_ExceptHandler(self, node: ast.ExceptHandler) -> ast.AST:
        """No, where an error was caught."""
        self.generic_visit(node)
        last = node.body[-1]
        says = self._says[-1:] == [True]
        if says and isinstance(last, ast.Return) and isinstance(last.value, ast.Constant):
            was = node.type or last.value
            if last.value.value is False:
                last.value = self._switch(last.value, _yes(last), "caught is good", was)
        return node

    def visit_BinOp(self, node: ast.BinOp) -> ast.AST:
        """One more than those who may lie, or than half."""
        was = copy.deepcopy(node)
        self.generic_visit(node)
        by_one = isinstance(node.right, ast.Constant) and node.right.value == 1
        if by_one and isinstance(node.op, ast.Add) and _COUNTED.search(ast.unparse(was.left)):
            return self._switch(node, node.left, "by one less", was)
        return node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """A ceiling, or a decoder with bounds."""
        name, was = _last(node.func), copy.deepcopy(node)
        self.generic_visit(node)
        if name == "min" and len(node.args) == 2 and not node.keywords:
            for value, ceiling in (node.args, node.args[::-1]):
                if _LOUD.match(_last(ceiling)):
                    return self._switch(node, value, "no ceiling", was)
        if (
            _BOUNDED.match(name)
            and len(node.args) >= 2
            and not isinstance(node.args[0], ast.Starred)
        ):
            return self._switch(node, node.args[0], "not looked at", was)
        return node

    def visit_Expr(self, node: ast.Expr) -> ast.AST:
        """A check that raises."""
        value = was = copy.deepcopy(node.value)
        self.generic_visit(node)
        if isinstance(value, ast.Await):
            value = value.value
        if isinstance(value, ast.Call) and (
            _CHECKING.search(_last(value)) or (_last(value) == "expect" and len(value.args) > 1)
        ):
            node.value = self._switch(node.value, _constant(None, node), "not done", was)
        return node

    # ── places ────────────────────────────────────────────────────────────────────────────────

    def _function(self, node: ast.FunctionDef | ast.AsyncFunctionDef) -> ast.AST:
        if any(_last(decorator) in _COMPILED for decorator in node.decorator_list):
            return node
        self._path.append(node.name)
        self._says.append(isinstance(node.returns, ast.Name) and node.returns.id == "bool")
        node.body = [self.visit(stmt) for stmt in node.body]
        self._says.pop()
        self._path.pop()
        return node

    def visit_FunctionDef(self, node: ast.FunctionDef) -> ast.AST:
        """Its body."""
        return self._function(node)

    def visit_AsyncFunctionDef(self, node: ast.AsyncFunctionDef) -> ast.AST:
        """Its body."""
        return self._function(node)

    def visit_ClassDef(self, node: ast.ClassDef) -> ast.AST:
        """Its methods."""
        self._path.append(node.name)
        node.body = [self.visit(stmt) for stmt in node.body]
        self._path.pop()
        return node

    def visit_Lambda(self, node: ast.Lambda) -> ast.AST:
        """Nothing: it is too small."""
        return node

    def visit_AnnAssign(self, node: ast.AnnAssign) -> ast.AST:
        """Its value."""
        if node.value is not None:
            node.value = self.visit(node.value)
        return node


def _twin(node: ast.expr, part: ast.AST, other: ast.expr) -> ast.Compare:
    for mine, its in zip(ast.walk(node), ast.walk(other), strict=True):
        if mine is part and isinstance(its, ast.Compare):
            return its
    raise AssertionError("a copy has the same parts")


def switched(module: str, text: str, first: int) -> tuple[ast.Module, list[Mutant]]:
    """A module's text with every check behind a switch, and what the switches do.

    ``first``: number of its first switch.
    """
    switcher = Switcher(module, first)
    tree = switcher.visit(ast.parse(text))
    return ast.fix_missing_locations(tree), switcher.mutants
