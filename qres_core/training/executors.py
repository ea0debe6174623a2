"""Executors of other distributions, to run training elsewhere: ``[simulation] executor``.

An executor is an attrs class under the entry-point group ``qres.executors``. Its fields are the
keys of ``simulation.executor_options``, and its instance, called without an argument, makes a
worker (:data:`~qres_core.training.workers.MakeWorker`). As with plugins, only metadata in
site-packages counts, and nothing is imported before its name is used.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final, cast

import attrs

from qres_core.contract.errors import LabError, PluginError
from qres_core.kernel.config import structure
from qres_core.kernel.discovery import EXECUTORS_GROUP, load, scan
from qres_core.kernel.index import absent
from qres_core.training.workers import MakeWorker

_WHERE: Final = "simulation.executor"


def make_executor(name: str, options: Mapping[str, Any]) -> MakeWorker:
    """Maker of the workers.

    Raises LabError: QRES-E201 for an executor that is not installed, QRES-E801 for a name that
    nobody knows. Raises PluginError: QRES-E202 to QRES-E206 for one that cannot be used. Raises
    ConfigError: every option that it does not take.
    """
    if (problem := absent(name, EXECUTORS_GROUP, _WHERE)) is not None:
        raise LabError((problem,))
    origin = scan(group=EXECUTORS_GROUP)[name]
    kind = load(origin, _WHERE)
    if isinstance(kind, type) and attrs.has(kind):
        made: Any = structure(dict(options), kind, "simulation.executor_options")
        if callable(made):
            return cast("MakeWorker", made)
    what = f"{origin.provenance}: is no attrs class whose instances make a worker"
    fix = f"tell the authors of {origin.distribution}"
    raise PluginError.of("QRES-E206", _WHERE, what, fix)
