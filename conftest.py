"""Settings of all tests, and a clock that no machine can slow down."""

from __future__ import annotations

import asyncio
import os
import resource
import selectors
import signal
import threading
import zlib
from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import anyio
import anyio.to_thread
import pytest
from hypothesis import settings

# No test is timed: a kernel that is compiled on its first call would fail by chance.
settings.register_profile("qres", settings.default, deadline=None)
settings.load_profile("qres")
# Where lines are counted, which makes all slower: `--hypothesis-profile counted`.
settings.register_profile("counted", settings.get_profile("qres"), max_examples=10)
# As many examples as each test asks for; by default no test draws more than HASTY.
settings.register_profile("thorough", settings.get_profile("qres"))
HASTY = 20

# A shell without job control starts background jobs deaf to ctrl-C; so would be what tests start.
if signal.getsignal(signal.SIGINT) is signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

STUCK_SECONDS = 600.0
"""Real seconds after which an event loop that waits for a thread gives up."""


@pytest.hookimpl(optionalhook=True)  # also without pytest-xdist
def pytest_xdist_auto_num_workers() -> int:
    """One worker more than there are cores: some tests wait for processes or sockets."""
    return (os.cpu_count() or 1) + 1


def pytest_itemcollected(item: pytest.Item) -> None:
    """Draw at most :data:`HASTY` examples, also where a test asks for more, by default."""
    label = "_hypothesis_internal_use_settings"  # a profile cannot overrule what a test asks for
    function: Any = getattr(item, "obj", None)
    function = getattr(function, "__func__", function)
    asked: settings | None = getattr(function, label, None)
    if asked is None or settings.get_current_profile_name() == "thorough":
        return
    if asked.max_examples > HASTY:
        setattr(function, label, settings(asked, max_examples=HASTY))


# ── what a test costs ─────────────────────────────────────────────────────────────────────────────

COSTS = Path(__file__).parent / "scripts" / "costs.tsv"
"""Processor seconds of the dearer cases, measured by `make costs`."""
BUDGET = 1.0
"""Processor seconds of a case, above which `make test` leaves it to the gate."""
KEPT = 0.5
"""Processor seconds from which a case is in :data:`COSTS`."""


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add what the gate runs with."""
    parser.addoption("--costs", type=Path, help="write the processor seconds of dear cases here")
    parser.addoption("--turn", default="0/1", help="the share of long cases that is due: 3/7")


def _costs() -> dict[str, float]:
    """Processor seconds by case."""
    if not COSTS.exists():
        return {}
    rows = (line.split("\t", 1) for line in COSTS.read_text("utf-8").splitlines())
    return {case: float(seconds) for seconds, case in rows}


def _is_due(case: str, turn: str) -> bool:
    """True if a long case is to be played in this turn."""
    day, _, days = turn.partition("/")
    return zlib.crc32(case.encode()) % int(days) == int(day) % int(days)


@pytest.hookimpl(tryfirst=True)  # before `-m` looks at the marks
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Mark the cases above the budget, and leave out the long ones whose turn it is not."""
    costs, turn = _costs(), config.getoption("turn")
    waiting: list[pytest.Item] = []
    for item in items:
        if costs.get(item.nodeid, 0.0) > BUDGET:
            item.add_marker("gate")
        if item.get_closest_marker("long") is not None and not _is_due(item.nodeid, turn):
            waiting.append(item)
    if waiting:
        config.hook.pytest_deselected(items=waiting)
        kept = set(map(id, waiting))
        items[:] = [item for item in items if id(item) not in kept]


def _processor() -> float:
    """Processor seconds of this process and of the children that it waited for."""
    spent = (resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
    return sum(each.ru_utime + each.ru_stime for each in spent)


_BEGAN = pytest.StashKey[float]()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """Begin to count."""
    item.stash[_BEGAN] = _processor()


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item: pytest.Item) -> Generator[None, pytest.TestReport]:
    """Say what the case cost, with its fixtures: a worker hands it to the process that counts."""
    report = yield
    if report.when == "teardown" and _BEGAN in item.stash:
        report.user_properties.append(("processor", _processor() - item.stash[_BEGAN]))
    return report


def _spent(reports: Sequence[Any]) -> dict[str, float]:
    """Processor seconds by case, of those that end here."""
    found: dict[str, float] = {}
    for report in reports:
        said = dict(getattr(report, "user_properties", ()))
        if "processor" in said and report.when == "teardown":
            found[report.nodeid] = said["processor"]
    return found


def pytest_terminal_summary(terminalreporter: Any, config: pytest.Config) -> None:
    """Name what was dearer than the budget, and write all costs where that is asked for."""
    every = (report for reports in terminalreporter.stats.values() for report in reports)
    spent = _spent([report for report in every if isinstance(report, pytest.TestReport)])
    if not spent:
        return
    known = _costs()
    dear = sorted(spent, key=lambda case: -spent[case])
    over = [case for case in dear if spent[case] > BUDGET and known.get(case, 0.0) <= BUDGET]
    total = sum(spent.values())
    terminalreporter.write_line(f"{len(spent)} cases took {total:.0f} s of processors")
    for case in over[:20]:
        terminalreporter.write_line(f"{spent[case]:6.1f} s, above the budget: {case}")
    target: Path | None = config.getoption("costs")
    if target is not None:
        rows = [f"{spent[case]:.1f}\t{case}\n" for case in sorted(dear) if spent[case] >= KEPT]
        target.write_text("".join(rows), "utf-8")


class VirtualTime:
    """Event loops whose time passes only while nobody has anything to do.

    Where every task waits and no thread works, the time jumps to the next timer at once. A slow
    machine therefore changes nothing: a deadline of 0.3 s never passes while a node computes.
    """

    def __init__(self) -> None:
        self.now = 0.0
        self._working = 0
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._run = anyio.run
        self._run_sync = anyio.to_thread.run_sync

    def run(self, main: Callable[..., Any], *arguments: Any, backend: str = "asyncio") -> Any:
        """As :func:`anyio.run`, from time zero; trio has its own time."""
        if backend != "asyncio":
            return self._run(main, *arguments, backend=backend)
        self.now = 0.0
        return self._run(main, *arguments, backend_options={"loop_factory": self._make_loop})

    async def run_sync(self, call: Callable[..., Any], *arguments: Any, **options: Any) -> Any:
        """As :func:`anyio.to_thread.run_sync`; time stands still until the thread is done."""
        self._count(1)
        try:
            return await self._run_sync(call, *arguments, **options)
        finally:
            self._count(-1)

    def gate(self) -> Gate:
        """What a thread can wait at while time passes."""
        return Gate(self._count)

    def _count(self, change: int) -> None:
        with self._lock:
            self._working += change
            idle = self._working <= 0
        if idle and self._loop is not None and not self._loop.is_closed():
            self._loop.call_soon_threadsafe(bool)  # it may wait for the thread

    def _make_loop(self) -> asyncio.AbstractEventLoop:
        time = self

        class Selector(selectors.DefaultSelector):
            def select(self, timeout: float | None = None) -> Any:
                ready = super().select(0)
                if ready or timeout == 0:
                    return ready
                if timeout is None or time._working > 0:
                    ready = super().select(STUCK_SECONDS)
                    if not ready:
                        raise TimeoutError("every task waits for a thread, or for ever")
                    return ready
                time.now += timeout
                return []

        class Loop(asyncio.SelectorEventLoop):
            def time(self) -> float:
                return time.now

        self._loop = Loop(Selector())
        return self._loop


class Gate:
    """A thread waits until it is opened, and is taken for idle meanwhile."""

    def __init__(self, count: Callable[[int], None]) -> None:
        self._count = count
        self._lock = threading.Lock()
        self._waiting = 0
        self._opened = threading.Event()

    def wait(self) -> None:
        """Wait in a thread of :meth:`VirtualTime.run_sync`."""
        with self._lock:
            if self._opened.is_set():
                return
            self._waiting += 1
            self._count(-1)
        if not self._opened.wait(STUCK_SECONDS):
            raise TimeoutError("nobody opened the gate")

    def open(self) -> None:
        """Let all go on; they work from now on, however late the machine wakes them."""
        with self._lock:
            self._count(self._waiting)
            self._waiting = 0
            self._opened.set()


@contextmanager
def _installed() -> Generator[VirtualTime]:
    time = VirtualTime()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(anyio, "run", time.run)
        patch.setattr(anyio.to_thread, "run_sync", time.run_sync)
        yield time


@pytest.fixture
def virtual_time() -> Generator[VirtualTime]:
    """What :func:`anyio.run` runs meanwhile lives in virtual time."""
    with _installed() as time:
        yield time


@pytest.fixture(scope="module")
def virtual_time_of_module() -> Generator[VirtualTime]:
    """The same for all of a module, its own fixtures too."""
    with _installed() as time:
        yield time
