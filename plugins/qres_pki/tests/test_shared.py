"""What nodes must have alike: a CA of one key, whatever its certificate and wherever it lies."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import attrs
import pytest
from qres_pki import Pki

from qres_core import options
from qres_core.kernel.assembly import assemble
from qres_core.kernel.config import parse
from qres_core.kernel.discovery import Installed
from qres_core.kernel.settings import SharedSettings, shared_settings


@attrs.define(eq=False)
class Trusting(Pki):
    """The control: of the CA it is shared that there is one, and not which."""

    ca: str = attrs.field(default="", metadata=options.local("A file.", presence=True))


def settings(swarm: Any, ca: Path | str, kind: type[Pki] = Pki) -> SharedSettings:
    table = swarm.options(ca=str(ca)) if ca else {"members": [swarm.a.hex()]}
    raw = {"name": swarm.name, "nodes": 4, "byzantine": 1, "quorum": 3, "insecure": True}
    config = parse({"swarm": raw, "plugins": {"pki": table}}, source="test")
    enabled = assemble(config, {"pki": Installed.local("pki", kind)})
    return shared_settings(config.swarm, enabled)


@pytest.mark.claim("C-pki-10")
@pytest.mark.parametrize("kind", [Pki, Trusting])
def test_two_cas_of_one_swarm_are_different_settings(
    swarm: Any, make_swarm: Callable[[str, str], Any], kind: type[Pki]
) -> None:
    """Each would let in whom its CA lists, and take its approval of a change of the members."""
    other = make_swarm("other", "testing")
    here, there = (settings(swarm, ca, kind) for ca in (swarm.ca, other.ca))
    assert (here == there) == (kind is Trusting)
    if kind is Pki:
        (said,) = here.differences(there)
        assert said.startswith("plugins.pki.ca is the bytes ")


@pytest.mark.control("C-pki-10")
def test_one_key_is_the_same_setting_wherever_its_certificate_is(
    swarm: Any, tmp_path: Path
) -> None:
    copy, renewed = tmp_path / "copy.pem", tmp_path / "renewed.pem"
    copy.write_bytes(swarm.ca.read_bytes())
    renewed.write_bytes(swarm.renewed_ca())
    assert settings(swarm, swarm.ca) == settings(swarm, copy) == settings(swarm, renewed)


def test_a_file_that_is_no_ca_certificate_is_another_setting(swarm: Any, tmp_path: Path) -> None:
    missing, garbage, big = (tmp_path / name for name in ("missing", "garbage", "big"))
    garbage.write_bytes(b"\xff\xfe garbage")
    big.write_bytes(swarm.ca.read_bytes() + b"#" * 2**23)
    unreadable = {settings(swarm, path).digest for path in (missing, garbage, big, tmp_path)}
    assert len(unreadable) == 1, "the start refuses it, and says what is wrong with it"
    others = {settings(swarm, swarm.ca).digest, settings(swarm, "").digest}
    assert len(unreadable | others) == 3
