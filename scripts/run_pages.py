"""Run what pages tell their readers to do, and compare what is printed with what they show.

    python scripts/run_pages.py                      every page of this list, in this environment
    python scripts/run_pages.py README.md docs/tutorials/first-simulation.md
    python scripts/run_pages.py --bin clean/bin      with the programs of another environment
    python scripts/run_pages.py --list               print the commands, run none
    python scripts/run_pages.py --lines PAGE         count the lines of code of its files, run none

Each page is played from top to bottom in an empty folder with a copy of ``examples/``, as a reader
of a checkout has it. What is played:

- every block ``console``: lines with ``$ `` are commands, the others what they print. Each line
  shown must be printed, in this order; more may be printed. ``…`` stands for any text inside a
  line, and alone on a line for any lines. Spaces are not compared;
- every block ``bash``: one script;
- every block below the comment ``<!-- file: NAME -->``: written to that file. A second block of one
  file replaces the first, or is added with ``<!-- append: NAME -->``;
- all blocks ``python`` of the page, as one program, at the end.

Set-up that the environment stands for is not run: see ``PREPARED``. Comments right above a block
change what is done with it:

``<!-- shown: REASON -->``            it is not run.
``<!-- exit: N -->``                  its last command must end with this code, not 0.
``<!-- folder: NAME -->``             it is run, or its file is written, in this folder.
``<!-- fresh: REASON -->``            its output differs in every run. Where the page shows one word
                                      and another is printed, the page means the printed one from
                                      here on: keys, for example.
``<!-- background: TEXT; REASON -->`` it goes on beside what follows. The next block is played once
                                      TEXT was printed. At the end of the page it is sent SIGINT.
``<!-- stop: FOLDER -->``             what runs there beside the page is sent SIGINT and ends.

Two count for the whole page, wherever they stand:

``<!-- instead: OLD -> NEW; REASON -->`` the gate takes another address, number or folder.
``<!-- needs: MODULE; REASON -->``       without this module the page is left out, and named.

Exit status 1 if a page is not true.
"""

from __future__ import annotations

import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import attrs

ROOT: Final = Path(__file__).resolve().parent.parent
PAGES: Final = (
    "README.md",
    "docs/index.md",
    "docs/tutorials/*.md",
    "docs/how-to/get-the-model-out.md",
    "docs/how-to/sizing.md",
    "docs/how-to/use-pytorch.md",
    "docs/how-to/fine-tune-with-lora.md",
    "docs/how-to/use-qres-inside-flower.md",
)
PREPARED: Final = (
    r"git clone .*",
    r"cd qres",
    r"python3? -m venv \.venv",
    r"\. \.venv/bin/activate",
    r"make (demo|node|demo node)",
)
"""Commands, as regular expressions of the whole line, that make what is already there: a checkout
and an environment with QRES in it."""

_MARK: Final = re.compile(r"<!-- (\w+): ?(.*?) -->\Z")
_MARKS: Final = {"shown", "exit", "folder", "fresh", "background", "file", "append"}
_ALONE: Final = {"instead", "needs", "stop"}
_REASONED: Final = {"shown", "fresh", "background", "instead", "needs"}
_TIMEOUT: Final = 900.0


class PageError(Exception):
    """A page that cannot be played, or is not true. The text says where and why."""


@attrs.frozen
class Command:
    """What a reader types, and the lines that the page shows below it."""

    line: int
    text: str
    shown: tuple[str, ...] = ()


@attrs.frozen
class Block:
    """A fenced block: its first line on the page, language, text and the marks above it."""

    line: int
    language: str
    text: str
    marks: dict[str, str]

    def commands(self) -> tuple[Command, ...]:
        """The commands of a ``console`` or ``bash`` block."""
        if self.language == "bash":
            return (Command(self.line, self.text),)
        return tuple(_commands(self.text, self.line))


@attrs.frozen
class Page:
    """A page's blocks in order, and what its marks say of the whole of it."""

    name: str
    blocks: tuple[Block, ...]
    instead: tuple[tuple[str, str], ...] = ()
    needs: tuple[str, ...] = ()


def read_page(name: str, text: str) -> Page:
    """Take a page apart.

    Args:
        name: of the page, for messages.
        text: Markdown.

    Raises:
        PageError: a mark is unknown, lacks its reason or stands above no block.
    """
    blocks: list[Block] = []
    instead: list[tuple[str, str]] = []
    needs: list[str] = []
    marks: dict[str, str] = {}
    lines = iter(enumerate(text.splitlines(), start=1))
    for number, line in lines:
        where = f"{name}:{number}"
        if fence := re.fullmatch(r"(`{3,})(\S*)", line):
            inside: list[str] = []
            for _number, inner in lines:
                if inner == fence[1]:
                    break
                inside.append(inner)
            blocks.append(Block(number, fence[2], "\n".join(inside) + "\n", marks))
            marks = {}
        elif mark := _MARK.fullmatch(line):
            kind, value = mark[1], mark[2].strip()
            if kind not in _MARKS | _ALONE:
                raise PageError(f"{where}: no such mark: {kind}")
            head, _, reason = value.partition("; ")
            if kind in _REASONED and not (value if kind in {"shown", "fresh"} else reason):
                raise PageError(f"{where}: the mark {kind} needs a reason")
            if kind == "needs":
                needs.append(head)
            elif kind == "stop":
                blocks.append(Block(number, "", "", {"stop": value}))
            elif kind == "instead":
                old, arrow, new = head.partition(" -> ")
                if not arrow:
                    raise PageError(f"{where}: instead: OLD -> NEW; REASON")
                instead.append((old, new))
            else:
                marks[kind] = head if kind == "background" else value
        elif line.strip() and marks and not line.startswith("<!--"):
            raise PageError(f"{where}: the mark {next(iter(marks))} stands above no block")
    return Page(name, tuple(blocks), tuple(instead), tuple(needs))


def _commands(text: str, first: int) -> Iterator[Command]:
    command, start = "", first
    shown: list[str] = []
    open_ended = False
    for number, line in enumerate(text.splitlines(), start=first + 1):
        if open_ended:
            command += "\n" + line
        elif line.startswith("$ "):
            if command:
                yield Command(start, command, tuple(shown))
            command, shown, start = line[2:], [], number
        elif command:
            shown.append(line)
            continue
        else:
            raise PageError(f"line {number}: a console block begins with a command: $ …")
        open_ended = line.rstrip().endswith(("\\", "|", "&&"))
    if command:
        yield Command(start, command, tuple(shown))


def prepared(command: str) -> bool:
    """Whether the environment stands for this command, so that it is not run."""
    joined = re.sub(r"\\\n\s*", "", command).splitlines()
    lines = [line.split("  #")[0].strip() for line in joined]
    return all(any(re.fullmatch(each, line) for each in PREPARED) for line in lines)


def first_missing(shown: tuple[str, ...], printed: str) -> str | None:
    """The first line that a page shows and a command did not print in this order; None if none."""
    rest = iter([" ".join(line.split()) for line in printed.splitlines()])
    for line in shown:
        wanted = " ".join(line.split())
        if wanted in {"", "…"}:
            continue
        pattern = re.compile(".*".join(re.escape(part) for part in wanted.split("…")))
        if not any(pattern.fullmatch(each) for each in rest):
            return line
    return None


def fresh_words(shown: tuple[str, ...], printed: str) -> dict[str, str]:
    """Words of the lines shown that differ from those printed, line by line and word by word.

    Raises:
        PageError: a line was not printed with as many words.
    """
    found: dict[str, str] = {}
    lines = [line.split() for line in printed.splitlines()]
    for line in shown:
        words = line.split()
        same = [each for each in lines if len(each) == len(words) and words and each[0] == words[0]]
        if not same:
            raise PageError(f"not printed: {line}")
        lines = lines[lines.index(same[0]) + 1 :]
        found |= {old: new for old, new in zip(words, same[0], strict=True) if old != new}
    return found


@attrs.frozen(eq=False)
class _Beside:
    """What runs beside the page."""

    command: Command
    place: Path
    process: subprocess.Popen[bytes]
    out: Path


@attrs.define
class Player:
    """Plays one page in one folder.

    Attributes:
        folder: where the page's commands run.
        programs: folder of the environment's programs.
        timeout: seconds for a command.
        stands_for: what the page says, and what is taken in its place.
    """

    folder: Path
    programs: Path
    timeout: float = _TIMEOUT
    stands_for: dict[str, str] = attrs.field(factory=dict[str, str])
    _cwd: Path = attrs.field(init=False)
    _beside: list[_Beside] = attrs.field(init=False, factory=list["_Beside"])
    _started: int = attrs.field(init=False, default=0)

    def __attrs_post_init__(self) -> None:
        self._cwd = self.folder

    def play(self, page: Page) -> int:
        """Play the page; returns the number of commands run.

        Raises:
            PageError: something did not do what the page says.
        """
        self.stands_for |= dict(page.instead)
        try:
            return self._play(page)
        finally:
            for each in self._beside:
                if each.process.poll() is None:
                    os.killpg(each.process.pid, signal.SIGKILL)
                each.process.wait()

    def _play(self, page: Page) -> int:
        count = 0
        for block in page.blocks:
            try:
                count += self._block(block)
            except PageError as error:
                raise PageError(f"{page.name}:{block.line}: {error}") from None
        program = "".join(
            f"{block.text}\n"
            for block in page.blocks
            if block.language == "python" and "shown" not in block.marks
        )
        try:
            if program:
                (self.folder / "blocks_of_the_page.py").write_text(self._true(program), "utf-8")
                self._run(Command(0, "python blocks_of_the_page.py"), self.folder, 0)
                count += 1
            self._stop()
        except PageError as error:
            raise PageError(f"{page.name}: {error}") from None
        return count

    def _block(self, block: Block) -> int:
        marks = block.marks
        if "shown" in marks:
            return 0
        if "stop" in marks:
            self._stop(self.folder / marks["stop"])
            return 0
        place = self.folder / self._true(marks["folder"]) if "folder" in marks else self._cwd
        place.mkdir(parents=True, exist_ok=True)
        for kind, mode in (("file", "w"), ("append", "a")):
            if kind in marks:
                path = place / self._true(marks[kind])
                path.parent.mkdir(parents=True, exist_ok=True)
                between = "\n\n" if kind == "append" else ""
                with path.open(mode, encoding="utf-8") as file:
                    file.write(between + self._true(block.text))
        if block.language not in {"console", "bash"}:
            return 0
        commands = [each for each in block.commands() if not prepared(self._true(each.text))]
        if "background" in marks:
            (command,) = commands
            self._start(block, command, place)
            return 1
        for command in commands:
            last = command is commands[-1]
            expected = int(marks.get("exit", "0")) if last else 0
            printed = self._run(command, place, expected, compare="fresh" not in marks)
            if "fresh" in marks:
                self.stands_for |= fresh_words(command.shown, printed)
            place = self._cwd
        if "folder" in marks:
            self._cwd = self.folder
        return len(commands)

    def _true(self, text: str) -> str:
        for old, new in self.stands_for.items():
            text = text.replace(old, new)
        return text

    def _environment(self) -> dict[str, str]:
        kept = {
            name: value
            for name, value in os.environ.items()
            if name.startswith(("LANG", "LC_", "PIP_", "SSL_")) or name in {"TMPDIR", "TZ"}
        }
        return kept | {
            "PATH": f"{self.programs}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
            "HOME": str(self.folder),
            "COLUMNS": "120",
            "NO_COLOR": "1",
            "PYTHONUNBUFFERED": "1",
        }

    def _bash(self, text: str, place: Path, out: Path) -> subprocess.Popen[bytes]:
        script = f"trap 'pwd >\"{self.folder}/.cwd\"' EXIT\n{self._true(text)}\n"
        with out.open("wb") as file:
            return subprocess.Popen(
                ["bash", "-euo", "pipefail", "-c", script],
                cwd=place,
                env=self._environment(),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    def _run(self, command: Command, place: Path, expected: int, *, compare: bool = True) -> str:
        print(f"  $ {command.text}", flush=True)
        out = self.folder / ".printed"
        process = self._bash(command.text, place, out)
        try:
            code = process.wait(self.timeout)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
            code = -1
        printed = out.read_text("utf-8", errors="replace")
        if code != expected:
            ended = "did not end in time" if code == -1 else f"ended with {code}, not {expected}"
            raise PageError(f"{command.text}\n{ended}; it printed:\n{printed}")
        if compare:
            self._compare(command, printed)
        self._cwd = Path((self.folder / ".cwd").read_text("utf-8").strip())
        return printed

    def _compare(self, command: Command, printed: str) -> None:
        shown = tuple(self._true(line) for line in command.shown)
        if (line := first_missing(shown, printed)) is not None:
            raise PageError(f"{command.text}\nshown and not printed:\n{line}\nprinted:\n{printed}")

    def _start(self, block: Block, command: Command, place: Path) -> None:
        print(f"  $ {command.text}   (beside what follows)", flush=True)
        self._started += 1
        out = self.folder / f".printed-{self._started}"
        process = self._bash(f"exec {command.text}", place, out)
        self._beside.append(_Beside(command, place, process, out))
        until, end = self._true(block.marks["background"]), time.monotonic() + self.timeout
        while until not in out.read_text("utf-8", errors="replace"):
            if process.poll() is not None or time.monotonic() > end:
                printed = out.read_text("utf-8", errors="replace")
                raise PageError(f"{command.text}\nnever printed {until!r}, but:\n{printed}")
            time.sleep(0.2)

    def _stop(self, place: Path | None = None) -> None:
        """End what runs beside the page in that folder, or everywhere, and compare its output.

        Raises:
            PageError: it ended with another code than 0 or 130, or did not print what is shown.
        """
        ending = [each for each in self._beside if place in {None, each.place}]
        self._beside = [each for each in self._beside if each not in ending]
        for each in ending:
            if each.process.poll() is None:
                os.killpg(each.process.pid, signal.SIGINT)
        codes: list[int] = []
        for each in ending:
            try:
                codes.append(each.process.wait(60))
            except subprocess.TimeoutExpired:
                os.killpg(each.process.pid, signal.SIGKILL)
                codes.append(each.process.wait())
        for each, code in zip(ending, codes, strict=True):
            printed = each.out.read_text("utf-8", errors="replace")
            if code not in {0, 130}:
                raise PageError(f"{each.command.text}\nended with {code}; it printed:\n{printed}")
            self._compare(each.command, printed)


def can_import(programs: Path, module: str) -> bool:
    """Whether the environment has the module."""
    text = f"import importlib.util as u, sys; sys.exit(u.find_spec({module!r}) is None)"
    return subprocess.run([programs / "python", "-c", text], check=False).returncode == 0


def play(path: Path, programs: Path, timeout: float) -> int | None:
    """Play one page in a folder of its own.

    Returns:
        the number of commands, or None for a page that needs what is not installed.

    Raises:
        PageError: the page is not true.
    """
    page = read_page(str(path.relative_to(ROOT)), path.read_text("utf-8"))
    missing = [each for each in page.needs if not can_import(programs, each)]
    if missing:
        print(f"==> {page.name}: left out, {', '.join(missing)} is not installed", flush=True)
        return None
    print(f"==> {page.name}", flush=True)
    with tempfile.TemporaryDirectory(prefix="qres-page-") as name:
        folder = Path(name).resolve()
        shutil.copytree(ROOT / "examples", folder / "examples")
        started = time.monotonic()
        count = Player(folder, programs, timeout).play(page)
    print(f"    {count} commands, {time.monotonic() - started:.0f} s", flush=True)
    return count


def main() -> int:
    """Play the pages named, or all of them."""
    parser = argparse.ArgumentParser(description="Run what pages tell their readers to do.")
    parser.add_argument("pages", nargs="*", help=f"paths or patterns; default: {' '.join(PAGES)}")
    parser.add_argument("--bin", type=Path, default=Path(sys.executable).parent)
    parser.add_argument("--timeout", type=float, default=_TIMEOUT, help="seconds for a command")
    parser.add_argument("--list", action="store_true", help="print the commands, run none")
    parser.add_argument("--lines", action="store_true", help="count the lines of its files")
    options = parser.parse_args()
    wanted = [path for each in options.pages or PAGES for path in sorted(ROOT.glob(each))]
    failed: list[str] = []
    for path in wanted:
        try:
            if options.list or options.lines:
                page = read_page(str(path.relative_to(ROOT)), path.read_text("utf-8"))
                _print_commands(page) if options.list else print(*lines_of(page), sep="\n")
            else:
                play(path, options.bin.absolute(), options.timeout)
        except PageError as error:
            print(error, file=sys.stderr, flush=True)
            failed.append(path.name)
    if failed:
        print(f"not true: {', '.join(failed)}", file=sys.stderr)
    return bool(failed) or not wanted


def lines_of(page: Page) -> list[str]:
    """The files of a page with their lines of code: neither empty nor a comment alone."""
    return [
        f"{block.marks['file']}: "
        f"{sum(bool(line.partition('#')[0].strip()) for line in block.text.splitlines())}"
        for block in page.blocks
        if "file" in block.marks
    ]


def _print_commands(page: Page) -> None:
    for block in page.blocks:
        if block.language not in {"console", "bash"}:
            continue
        for command in block.commands():
            why = block.marks.get("shown") or ("prepared" if prepared(command.text) else "")
            print(f"{page.name}:{command.line}: {command.text}" + (f"   [{why}]" if why else ""))


if __name__ == "__main__":
    sys.exit(main())
