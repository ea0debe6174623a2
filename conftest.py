"""Settings of all tests."""

from __future__ import annotations

from hypothesis import settings

# No test is timed: a kernel that is compiled on its first call would fail by chance.
settings.register_profile("qres", settings.default, deadline=None)
settings.load_profile("qres")
