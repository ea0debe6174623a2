"""Plays tests with one mutant after the other, each in a child of a process that is warm.

All is imported once, with every check behind its switch. A child turns one switch and plays the
tests that come past it, the quickest first, until one of them fails. Files stay as they are, and
nothing outlives a child.
"""

from __future__ import annotations

import builtins
import gc
import json
import math
import os
import signal
import sys
import tempfile
import time
from collections import Counter, defaultdict
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from importlib.abc import MetaPathFinder
from importlib.machinery import ModuleSpec, PathFinder, SourceFileLoader
from importlib.util import spec_from_file_location
from multiprocessing.connection import Connection, Pipe, wait
from pathlib import Path
from types import CodeType, ModuleType
from typing import Any, Final

import attrs
import pytest

from mutants.finding import SWITCHES, Mutant, switched
from mutants.places import ROOT

FEWEST: Final = 8
"""Tests that a mutant meets, if so many come past it, however long they take."""
SECONDS: Final = 10.0
"""More of them are played as long as they take no longer than this together, as was measured."""
SLOWEST: Final = 60.0
"""A test that works longer than this is given up while it is watched, and finds nothing."""
MANY: Final = 5
"""So much longer than the slowest may all tests of a mutant take, if only quick ones are asked."""
BESIDE: Final = 5.0
"""After them others of the same file: they may meet it in what an earlier test left behind."""
PATIENCE: Final = 60.0
"""Seconds for a child, and ten times what its tests took while they were watched.

One that worked meanwhile gets as much again, until it has worked that long: on a busy machine it
waits for others.
"""
BATCH: Final = 10
"""So many mutants are played before what found them is kept, once it passes without them."""

Task = tuple[int, Sequence[str]]
"""A mutant and the tests it is to meet; mutant 0 is none."""


class _Loader(SourceFileLoader):
    def __init__(self, name: str, path: str, code: Callable[[], CodeType]) -> None:
        super().__init__(name, path)
        self._code = code

    def get_code(self, fullname: str) -> CodeType:
        del fullname
        return self._code()


class Installed(MetaPathFinder):
    """Modules with every check behind a switch, imported in place of what is installed.

    Args:
        modules: files by module.

    Attributes:
        mutants: all there are, each at the number of its switch.
    """

    def __init__(self, modules: Mapping[str, Path]) -> None:
        self.mutants: list[Mutant | None] = [None]
        self._codes: dict[str, tuple[str, Callable[[], CodeType]]] = {}
        for name, path in modules.items():
            tree, found = switched(name, path.read_text("utf-8"), len(self.mutants))
            self.mutants += found
            if found:
                self._codes[name] = str(path), partial(compile, tree, str(path), "exec")
        setattr(builtins, SWITCHES, [False] * len(self.mutants))

    def name(self, index: int) -> str:
        """What a mutant is called; empty for none."""
        mutant = self.mutants[index]
        return "" if mutant is None else mutant.name

    def find_spec(
        self, fullname: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The changed module, and no other."""
        if fullname not in self._codes:
            return None
        found = PathFinder.find_spec(fullname, path, target)
        file, code = self._codes[fullname]
        if found is None or found.origin != file:
            return None
        return spec_from_file_location(
            fullname,
            file,
            loader=_Loader(fullname, file, code),
            submodule_search_locations=found.submodule_search_locations,
        )


class _Reached:
    """Stands for the switches, all off, and notes which are looked at."""

    def __init__(self) -> None:
        self.now: set[int] = set()

    def __getitem__(self, index: int) -> bool:
        self.now.add(index)
        return False


@attrs.define
class Outcome:
    """What became of a mutant."""

    test: str = ""  # that found it
    how: str = ""  # "failed", "hung" or "died"; empty: nothing found it
    reached: int = 0  # tests that come past it


@attrs.define
class _Child:
    pid: int
    pipe: Connection
    mutant: int
    tests: Sequence[str]
    patience: float  # seconds
    until: float
    worked: float = 0.0  # seconds, when it was last looked at
    at: int = -1  # which test it plays

    def has_worked(self) -> bool:
        """Whether it works and may go on."""
        before, self.worked = self.worked, _work_of(self.pid)
        self.until = time.monotonic() + self.patience
        return before + 1.0 < self.worked < self.patience


class Player:
    """A plugin of pytest that plays mutants in place of the tests.

    Args:
        installed: the mutants.
        chosen: their numbers.
        known: the test that found a mutant before, by its name.
        say: takes a line for who watches.
        keep: takes what is known after each batch.
        jobs: children at once.
        quick: no other test than the known one, and the other cases of its function.
        guesses: parts of the names of tests that may find a mutant, by its name; no others are
            played then. It is the cheapest way for who knows the tests.
        seconds: of work of the slowest test that is played; those of a mutant together take
            ``MANY`` times as long. ``None``: as long as they take, and others beside them.

    Attributes:
        outcomes: by number.
    """

    def __init__(  # noqa: PLR0913 - how it plays
        self,
        installed: Installed,
        chosen: Iterable[int],
        known: Mapping[str, str],
        say: Callable[[str], None],
        keep: Callable[[Player], None],
        *,
        jobs: int = 1,
        quick: bool = False,
        guesses: Mapping[str, Sequence[str]] | None = None,
        seconds: float | None = None,
    ) -> None:
        self._installed, self._known, self._say, self._keep = installed, known, say, keep
        self._jobs, self._quick, self._limit = jobs, quick, seconds
        self._guesses = guesses
        self._failed = False
        self._items: dict[str, pytest.Item] = {}
        self._sound: set[str] = set()  # tests that pass without a mutant
        self._bad: set[str] = set()  # tests that fail without a mutant
        self._seconds: dict[str, float] = {}
        self._work: dict[str, float] = {}
        self.outcomes: dict[int, Outcome] = {index: Outcome() for index in chosen}

    # ── as a plugin ───────────────────────────────────────────────────────────────────────────

    @pytest.hookimpl(tryfirst=True)
    def pytest_configure(self) -> None:
        """Draw the same examples each time, keep none, and do not look for smaller ones."""
        from hypothesis import Phase, settings  # noqa: PLC0415 - pytest imports its plugins itself

        settings.register_profile(
            "mutants",
            settings.get_profile("default"),
            deadline=None,
            derandomize=True,
            database=None,
            phases=(Phase.explicit, Phase.generate),
        )

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        """Note a failure."""
        self._failed = self._failed or report.failed

    def pytest_runtestloop(self, session: pytest.Session) -> bool:
        """Play."""
        if session.testsfailed:
            raise session.Interrupted("tests cannot be collected")
        self._items = {item.nodeid: item for item in session.items}
        gc.collect()
        gc.freeze()
        if self._guesses is not None:
            self._play(list(self._guessed(self._guesses)))
            return True
        known = ((index, self._known.get(self._installed.name(index))) for index in self.outcomes)
        self._play([(index, kin) for index, test in known if test and (kin := self._kin(test))])
        files = [] if self._quick else self._nearest_first()
        if self._limit is not None:
            self._play_most_telling(files)
            return True
        for start in range(0, len(files), self._jobs):
            left = [index for index, outcome in self.outcomes.items() if not outcome.how]
            if left:
                past = self._watch(files[start : start + self._jobs])
                for index in left:
                    self.outcomes[index].reached += len(past.get(index, ()))
                tasks = [(index, self._tests(past, index)) for index in left if index in past]
                self._play([task for task in tasks if task[1]])
        return True

    def _kin(self, test: str) -> list[str]:
        """A test, if it is there, and the other cases of its function: a new case renames them."""
        function = test.partition("[")[0]
        kin = (other for other in self._items if other.partition("[")[0] == function)
        return sorted(kin, key=lambda other: other != test)

    def _guessed(self, guesses: Mapping[str, Sequence[str]]) -> Iterator[Task]:
        """The tests that somebody guessed, of each mutant."""
        for index in self.outcomes:
            parts = guesses.get(self._installed.name(index), ())
            tests = dict.fromkeys(test for part in parts for test in self._items if part in test)
            if tests:
                yield index, sorted(tests, key=self._draws)

    def _draws(self, test: str) -> bool:
        """Whether a test draws its input: those take longer."""
        return bool(getattr(getattr(self._items[test], "obj", None), "hypothesis", None))

    def _play_most_telling(self, files: Sequence[Sequence[str]]) -> None:
        """Play quick tests alone, of all files at once: that finds most at the least cost."""
        past: defaultdict[int, list[str]] = defaultdict(list)
        for start in range(0, len(files), self._jobs):
            for index, tests in self._watch(files[start : start + self._jobs]).items():
                past[index] += tests
        left = [index for index, outcome in self.outcomes.items() if not outcome.how]
        for index in left:
            self.outcomes[index].reached = len(past[index])
        tasks = [(index, self._tests(past, index)) for index in left]
        self._play([task for task in tasks if task[1]])

    def _nearest_first(self) -> list[list[str]]:
        """The tests of each file; first of those that are called as a module with mutants."""
        files: defaultdict[str, list[str]] = defaultdict(list)
        for test in self._items:
            files[test.partition("::")[0]].append(test)
        modules = {
            mutant.module.rpartition(".")[2] for mutant in self._installed.mutants[1:] if mutant
        }
        far = {file: Path(file).stem.removeprefix("test_") not in modules for file in files}
        return [
            files[file] for file in sorted(files, key=lambda file: (far[file], file.count("/")))
        ]

    # ── playing ───────────────────────────────────────────────────────────────────────────────

    def _tests(self, past: Mapping[int, Sequence[str]], index: int) -> list[str]:
        """Tests that come past a mutant, and past little else, first; then others of some files."""
        checks = Counter(test for tests in past.values() for test in tests)
        beside = checks.keys() - set(past[index])
        bounds = [(past[index], SECONDS, FEWEST), (beside, BESIDE, 0)]
        if self._limit is not None:
            bounds = [(past[index], MANY * self._limit, 1)]
        found: list[str] = []
        for tests, most, fewest in bounds:
            total = 0.0
            sound = [test for test in tests if test not in self._bad]
            key = partial(_first, self._work, checks)
            for number, test in enumerate(sorted(sound, key=key)):
                total += self._work[test]
                if total > most and number >= fewest:
                    break
                found.append(test)
        return found

    def _play(self, tasks: Sequence[Task]) -> None:
        """Play, and keep what is known of each batch."""
        for start in range(0, len(tasks), BATCH):
            self._say(f"playing {start} of {len(tasks)}")
            self._play_batch(tasks[start : start + BATCH])
            self._keep(self)
            found = sum(bool(outcome.how) for outcome in self.outcomes.values())
            self._say(f"{found} of {len(self.outcomes)} found")

    def _play_batch(self, tasks: Sequence[Task]) -> None:
        """Play, then play what found a mutant without one: there it must pass."""
        while tasks:
            for child, how in self._children(tasks):
                outcome = self.outcomes[child.mutant]
                outcome.how, outcome.test = how, child.tests[child.at] if how else ""
            used = {self.outcomes[index].test for index, _tests in tasks} - {""} - self._sound
            for child, how in self._children([(0, [test]) for test in sorted(used)]):
                (self._bad if how else self._sound).add(child.tests[0])
            again: list[Task] = []
            for index, tests in tasks:
                if self.outcomes[index].test in self._bad:
                    self.outcomes[index] = Outcome(reached=self.outcomes[index].reached)
                    again.append((index, [test for test in tests if test not in self._bad]))
            tasks = [task for task in again if task[1]]

    def _children(self, tasks: Iterable[Task]) -> Iterator[tuple[_Child, str]]:
        """Play each in a child; which are done, and how they ended. Empty: every test passed."""
        todo = iter(tasks)
        running: dict[Connection, _Child] = {}
        while True:
            while len(running) < self._jobs and (task := next(todo, None)) is not None:
                child = self._fork(*task)
                running[child.pipe] = child
            if not running:
                return
            soonest = min(child.until for child in running.values())
            for pipe in wait(list(running), max(0.0, soonest - time.monotonic())):
                child = running[pipe]  # type: ignore[index]
                how = _heard(child)
                if how is not None:
                    del running[child.pipe]
                    _end(child)
                    yield child, how
            now = time.monotonic()
            late = [child for child in running.values() if now >= child.until]
            for child in [child for child in late if not child.has_worked()]:
                del running[child.pipe]
                _end(child)
                yield child, "hung"

    def _fork(self, mutant: int, tests: Sequence[str]) -> _Child:
        mine, its = Pipe(duplex=False)
        pid = os.fork()
        if pid == 0:
            try:
                os.setpgid(0, 0)
                getattr(builtins, SWITCHES)[mutant] = mutant > 0
                its.send(self._run([self._items[test] for test in tests], its.send))
            finally:
                os._exit(0)
        its.close()
        seconds = PATIENCE + 10.0 * sum(self._seconds.get(test, 1.0) for test in tests)
        return _Child(pid, mine, mutant, tests, seconds, time.monotonic() + seconds)

    def _run(self, items: Sequence[pytest.Item], tell: Callable[[int], None]) -> str:
        """In the child: play until a test fails."""
        _quiet(items[0].config)
        limit = math.inf if self._limit is None else MANY * self._limit
        for at, (item, after) in enumerate(_in_turn(items)):
            if at and time.process_time() > limit:
                break
            tell(at)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            if self._failed:
                return "failed"
        return ""

    # ── which tests come past which checks ────────────────────────────────────────────────────

    def _watch(self, files: Sequence[Sequence[str]]) -> dict[int, list[str]]:
        """Play tests of files, each in a child, and learn which of them come past each check."""
        found: defaultdict[int, list[str]] = defaultdict(list)
        with tempfile.TemporaryDirectory() as folder:
            children: dict[int, Path] = {}
            for number, tests in enumerate(files):
                file = Path(folder) / f"{number}.json"
                pid = os.fork()
                if pid == 0:
                    try:
                        file.write_text(json.dumps(self._watched(tests)), "utf-8")
                    finally:
                        os._exit(0)
                children[pid] = file
            for pid, file in children.items():
                os.waitpid(pid, 0)
                if not file.exists():
                    raise SystemExit(
                        f"a test ended the process; of {[tests[0] for tests in files]}"
                    )
                seconds, work, past, bad = json.loads(file.read_text("utf-8"))
                self._seconds.update(seconds)
                self._work.update(work)
                self._bad.update(bad)
                self._sound.update(seconds.keys() - set(bad))
                for index, names in past.items():
                    found[int(index)] += names
                for test in bad:
                    self._say(f"fails without a mutant, or is too slow: {test}")
        return dict(found)

    def _watched(
        self, tests: Sequence[str]
    ) -> tuple[dict[str, float], dict[str, float], dict[int, list[str]], list[str]]:
        """Seconds and seconds of work of each test, what comes past each check, what fails."""
        items = [self._items[test] for test in tests]
        _quiet(items[0].config)
        signal.signal(signal.SIGPROF, _give_up)
        reached = _Reached()
        setattr(builtins, SWITCHES, reached)
        fixtures = _Fixtures(reached)
        items[0].config.pluginmanager.register(fixtures)
        seconds: dict[str, float] = {}
        work: dict[str, float] = {}
        past: defaultdict[int, list[str]] = defaultdict(list)
        bad: list[str] = []
        for item, after in _in_turn(items):
            self._failed, reached.now = False, set()
            start, worked = time.monotonic(), time.process_time()
            signal.setitimer(signal.ITIMER_PROF, SLOWEST if self._limit is None else self._limit)
            item.config.hook.pytest_runtest_protocol(item=item, nextitem=after)
            signal.setitimer(signal.ITIMER_PROF, 0.0)
            seconds[item.nodeid] = time.monotonic() - start
            work[item.nodeid] = time.process_time() - worked
            for index in reached.now | fixtures.of(item):
                past[index].append(item.nodeid)
            if self._failed:
                bad.append(item.nodeid)
        return seconds, work, dict(past), bad


class _Fixtures:
    """What fixtures come past while they are set up, for every test that uses them."""

    def __init__(self, reached: _Reached) -> None:
        self._reached = reached
        self._of: defaultdict[int, set[int]] = defaultdict(set)

    @pytest.hookimpl(wrapper=True)
    def pytest_fixture_setup(self, fixturedef: Any) -> Generator[None, object, object]:
        """Set up a fixture."""
        outer, self._reached.now = self._reached.now, set()
        try:
            return (yield)
        finally:
            self._of[id(fixturedef)] |= self._reached.now
            self._reached.now |= outer

    def of(self, item: Any) -> set[int]:
        """Switches that the fixtures of a test looked at."""
        definitions = item._fixtureinfo.name2fixturedefs.values()  # noqa: SLF001 - nothing public tells
        single = (definition for several in definitions for definition in several)
        return set[int]().union(*(self._of[id(definition)] for definition in single))


def _first(work: Mapping[str, float], checks: Mapping[str, int], test: str) -> tuple[int, int]:
    """Of tests about as quick the one comes first that comes past the fewest checks."""
    return int(work[test] / 0.1), checks[test]


def _in_turn(items: Sequence[pytest.Item]) -> Iterator[tuple[pytest.Item, pytest.Item | None]]:
    return zip(items, [*items[1:], None], strict=True)


class _TooSlow(BaseException):
    """A test works for too long."""


def _give_up(_signal: int, _frame: object) -> None:
    raise _TooSlow


def _work_of(pid: int) -> float:
    """Seconds that a process worked."""
    fields = Path(f"/proc/{pid}/stat").read_text("ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _heard(child: _Child) -> str | None:
    """How a child ended; ``None``: it only began with the next test."""
    try:
        said = child.pipe.recv()
    except EOFError:
        return "died"
    if isinstance(said, str):
        return said
    child.at = said
    return None


def _end(child: _Child) -> None:
    for kill in (os.killpg, os.kill):  # it may not lead a group yet
        with suppress(ProcessLookupError):
            kill(child.pid, signal.SIGKILL)
    os.waitpid(child.pid, 0)
    child.pipe.close()


def _quiet(config: pytest.Config) -> None:
    printer = config.pluginmanager.get_plugin("terminalreporter")
    if printer is not None:
        config.pluginmanager.unregister(printer)


def play(installed: Installed, player: Player, tests: Iterable[str]) -> None:
    """Play mutants with the tests at these paths. Raises SystemExit: they cannot be collected."""
    sys.meta_path.insert(0, installed)
    words = ("-q", "-m", "not long", "--hypothesis-profile", "mutants", "--disable-warnings")
    off = ("-p", "no:cacheprovider", "-p", "no:xdist", "-p", "no:cov")
    status = pytest.main([*words, *off, "--rootdir", str(ROOT), *tests], plugins=[player])
    if status != pytest.ExitCode.OK:
        raise SystemExit(f"pytest ended with {status!r}")
