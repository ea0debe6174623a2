"""Output of commands: files, never over one that is there, and bounds in few digits."""

from __future__ import annotations

from decimal import ROUND_CEILING, Context
from pathlib import Path

from qres_core.errors import ConfigError


def write_new(path: Path, text: str, option: str) -> None:
    """Write a new file of UTF-8 text.

    ``option``: that named it, for messages. Raises ConfigError: QRES-E803 if the file exists,
    QRES-E105 if it cannot be written.
    """
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(text)
    except FileExistsError as error:
        raise ConfigError.of("QRES-E803", option, f"{path} exists") from error
    except OSError as error:
        raise ConfigError.of("QRES-E105", option, str(error)) from error


def bounded(value: float, digits: int = 6, way: str = ROUND_CEILING) -> str:
    """A bound in few digits.

    Args:
        value: the bound.
        digits: at most 6.
        way: up for a bound from above; ``decimal.ROUND_FLOOR`` for one from below.
    """
    return f"{float(Context(prec=digits, rounding=way).create_decimal_from_float(value)):g}"
