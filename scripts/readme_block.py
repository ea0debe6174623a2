"""Print the shell commands of a named block of the README, so that checks run what readers run.

A block is a fenced ``bash`` block right below the comment ``<!-- NAME -->``::

    bash -euxc "$(python3 scripts/readme_block.py test)"

Exit status 1 and a message if there is not exactly one such block.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

README = Path(__file__).resolve().parent.parent / "README.md"


def block(text: str, name: str) -> str:
    """The commands of the block ``name`` in the Markdown ``text``.

    Args:
        text: the page.
        name: what stands in the comment above the block.

    Returns:
        the lines between the fences.

    Raises:
        ValueError: there is no such block, or more than one.
    """
    found: list[str] = re.findall(
        rf"^<!-- {re.escape(name)} -->\n+```bash\n(.*?)^```$", text, re.DOTALL | re.MULTILINE
    )
    if len(found) != 1:
        raise ValueError(f"{len(found)} bash blocks below <!-- {name} -->; expected one")
    return found[0]


def main(arguments: list[str]) -> int:
    """Print the one block that is asked for."""
    if len(arguments) != 1:
        print(f"usage: readme_block.py NAME (a block of {README.name})", file=sys.stderr)
        return 2
    try:
        sys.stdout.write(block(README.read_text(encoding="utf-8"), arguments[0]))
    except ValueError as error:
        print(f"{README.name}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
