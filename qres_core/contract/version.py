"""The version of qres-core: here, so that no module has to import the whole facade for it."""

from __future__ import annotations

__version__ = "0.2.0"
