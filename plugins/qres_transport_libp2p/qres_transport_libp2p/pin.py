"""The one release of libp2p this plugin is written for."""

from __future__ import annotations

import importlib
from importlib import metadata
from typing import Final

from qres_core.errors import PluginError
from qres_transport_libp2p.curves import without_fastecdsa

LIBP2P: Final = "0.8.1"
_WHERE: Final = "plugins.libp2p"
_FIX: Final = (
    f"pip install libp2p=={LIBP2P}; on Linux this builds fastecdsa, with gcc, python3-dev and "
    'libgmp-dev; "Installing" in the README of qres-transport-libp2p does without them'
)


def check_libp2p() -> None:
    """Import libp2p, and refuse another release than the one whose insides are known here.

    Call it before anything else imports libp2p: it does so where fastecdsa is missing, too. Raises
    PluginError: QRES-E202 with what to install.
    """
    try:
        found = metadata.version("libp2p")
    except metadata.PackageNotFoundError as error:
        raise PluginError.of("QRES-E202", _WHERE, "libp2p is not installed", _FIX) from error
    if found != LIBP2P:
        what = f"libp2p {found} is installed; private parts of {LIBP2P} are used"
        raise PluginError.of("QRES-E202", _WHERE, what, _FIX)
    try:
        with without_fastecdsa():
            importlib.import_module("libp2p")  # takes most of a second, so not for `qres plugins`
    except Exception as error:
        what = f"libp2p cannot be imported: {type(error).__name__}: {error}"
        raise PluginError.of("QRES-E202", _WHERE, what, _FIX) from error
