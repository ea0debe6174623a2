"""The validators of this plugin's options: those of :mod:`qres_core`."""

from __future__ import annotations

from qres_core import options

flag = options.flag()
one_of = options.one_of
real = options.real
whole = options.whole
