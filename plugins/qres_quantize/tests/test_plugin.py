"""What the plugin does to an update, and beside which others it is refused."""

from __future__ import annotations

import tomllib
from typing import Any

import attrs
import numpy as np
import pytest
from numpy.typing import NDArray
from qres_lab.testing import make_node_info, make_round_info
from qres_quantize import BITS, Quantize

from qres_core import Companion, OwnContributions, Surroundings, Update, packing
from qres_core.claims import Extent
from qres_core.errors import CompatibilityError, OptionError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.kernel import Kernel

SIZE = 2 * packing.BLOCK


def update(seed: int = 1) -> NDArray[np.int32]:
    return np.rint(np.random.default_rng(seed).normal(0, 9000, SIZE)).astype(np.int32)


def made(bits: int = 4, seed: int | None = 3, index: int = 0, **more: Any) -> Quantize:
    plugin = Quantize(bits=bits)
    info = attrs.evolve(make_node_info(index=index, **more), seed=seed)
    plugin.setup(info)
    return plugin


@pytest.mark.claim("C-quantize-1")
@pytest.mark.control("C-quantize-1")
@pytest.mark.parametrize("bits", BITS)
def test_an_update_takes_its_bits(bits: int) -> None:
    plugin = made(bits)
    sent = plugin.privatize(
        Update(update(), weight=7, metrics={"loss": 1.0}), make_round_info(SIZE)
    )
    assert len(packing.pack(sent.vector)) <= SIZE * bits // 8 + 10
    assert len(packing.pack(update())) > SIZE * 14 // 8, "control: it took more"
    assert (sent.weight, dict(sent.metrics)) == (7, {"loss": 1.0})
    assert plugin.status() == {"bits": bits, "waiting": 1}


def test_what_travels_beside_the_update_stays() -> None:
    beside = {"other": Companion(b"open")}
    sent = made().privatize(Update(update(), weight=1, companions=beside), make_round_info(SIZE))
    assert dict(sent.companions) == beside


@pytest.mark.claim("C-quantize-4")
def test_a_node_rounds_as_no_other_does() -> None:
    info = make_round_info(SIZE)

    def sent(plugin: Quantize, number: int = 1) -> bytes:
        again = attrs.evolve(info, number=number)
        return plugin.privatize(Update(update(), 1), again).vector.tobytes()

    assert sent(made()) == sent(made()), "a simulation repeats itself"
    assert sent(made()) != sent(made(index=1))
    assert sent(made()) != sent(made(seed=4))
    assert sent(made()) != sent(made(), number=2)
    assert sent(made(seed=None)) != sent(made(seed=None)), "outside of one, nobody can foresee it"


@pytest.mark.claim("C-quantize-4")
def test_a_real_node_takes_no_key_from_a_seed(tmp_path: Any) -> None:
    """The seed of an experiment is no secret."""
    keys: set[bytes] = set()
    for name in "ab":
        (tmp_path / name).mkdir(mode=0o700)
        plugin = made(data_dir=str(tmp_path / name))
        keys.add(plugin._left.key)
        plugin.teardown()
    assert len(keys) == 2


def test_a_tool_that_only_looks_keeps_nothing(tmp_path: Any) -> None:
    plugin = Quantize()
    plugin.setup(attrs.evolve(make_node_info(data_dir=str(tmp_path)), observer=True))
    plugin.round_opened(make_round_info(SIZE), OwnContributions())
    plugin.teardown()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("bits", [0, 1, 3, 16, 32, "4", 4.0, True, None])
def test_other_bits_are_refused(bits: Any) -> None:
    with pytest.raises(OptionError, match=r"QRES-E105"):
        Quantize(bits=bits)


# ── beside others ─────────────────────────────────────────────────────────────────────────────────


def configured(plugins: str, rule: str = "mean") -> Config:
    text = f"""
        [swarm]
        name = "few-bits"
        nodes = 8
        byzantine = 0
        quorum = 7
        insecure = true
        scale = -8
        [plugins.memory]
        {plugins}
        [plugins.{rule}]
        """
    return parse(tomllib.loads(text), source="test")


DP = '[plugins.dp]\nmode = "local"\nclip = 1.0\ndelta = 1e-6\nepsilon = 8.0\nrounds = 4\n'
ZK = "[plugins.zk]\nbound = 100.0\nk = 256\nsecurity = 40\nclip = {}\n"
SECAGG = "[plugins.ed25519]\n[plugins.secagg]\nbound = 256.0\n"
MINE = "[plugins.quantize]\n"


@pytest.mark.control("C-quantize-6")
@pytest.mark.parametrize(
    "plugins",
    [MINE, DP + MINE, MINE + ZK.format("true"), MINE + ZK.format("false")]
    + [f"{MINE}[plugins.{name}]\n" for name in ("fedavgm", "fedadam", "clipping")],
)
def test_what_it_may_stand_beside(plugins: str) -> None:
    plugins = plugins.replace("[plugins.clipping]\n", "[plugins.clipping]\nbound = 1.0\n")
    names = [plugin.name for plugin in Kernel.from_config(configured(plugins)).enabled]
    assert "quantize" in names


@pytest.mark.claim("C-quantize-6")
@pytest.mark.parametrize(
    ("plugins", "words"),
    [
        (MINE + DP, "put [plugins.dp] before [plugins.quantize]"),
        (MINE + SECAGG, "remove [plugins.quantize] or [plugins.secagg]"),
        (SECAGG + MINE, "remove [plugins.quantize] or [plugins.secagg]"),
        (ZK.format("true") + MINE, "put [plugins.zk] after [plugins.quantize]"),
    ],
)
def test_what_would_undo_the_rounding_is_refused_with_a_remedy(plugins: str, words: str) -> None:
    with pytest.raises(CompatibilityError) as caught:
        Kernel.from_config(configured(plugins))
    problems = [item for item in caught.value.problems if words in item.fix]
    assert problems, caught.value
    assert problems[0].code == "QRES-E303"


@pytest.mark.claim("C-quantize-6")
def test_noise_of_many_nodes_is_not_rounded() -> None:
    """Shares of noise add up in a sum of updates, and not in a sum of what was made of each."""
    dp = DP.replace('"local"', '"distributed"').replace("clip", "honest = 2\nclip")
    with pytest.raises(CompatibilityError, match=r"QRES-E314 plugins\.dp\.mode: .*quantize"):
        Kernel.from_config(configured(dp + MINE))


def asked(extra: str, **swarm: Any) -> list[tuple[str, str]]:
    """What the solver has against the plugin in a swarm, code and remedy."""
    text = """
        [swarm]
        name = "few-bits"
        nodes = 8
        byzantine = 0
        quorum = 7
        insecure = true
        [plugins.memory]
        [plugins.quantize]
        """
    raw = tomllib.loads(text)
    raw["swarm"] |= swarm
    raw["plugins"] |= tomllib.loads(extra)["plugins"]
    try:
        Kernel.from_config(parse(raw, source="test"))
    except CompatibilityError as error:
        found = error.problems
        return [(item.code, item.fix) for item in found if item.where == "plugins.quantize"]
    return []


def test_committees_take_it() -> None:
    """A sender rounds its own update, whoever merges it."""
    assert not asked("[plugins.mean]", aggregation="sharded")


@pytest.mark.claim("C-quantize-6")
def test_masks_refuse_it() -> None:
    secagg = f"{SECAGG}[plugins.replay]\n[plugins.mean]"
    fix = "remove [plugins.quantize] or [plugins.secagg]"
    assert ("QRES-E303", fix) in asked(secagg)


def test_nobody_is_told_that_a_rounded_update_is_short() -> None:
    around = Surroundings(nodes=4, byzantine=0, quorum=3)
    extent = Extent(length=1.0, clipped_by="dp", noise=2.0, noised_by="dp")
    after = Quantize().passes(extent, around)
    assert (after.length, after.clipped_by) == (float("inf"), "")
    assert (after.noise, after.noised_by) == (2.0, "dp")


@pytest.mark.claim("C-quantize-1")
def test_it_promises_nothing_about_liars() -> None:
    claims = Quantize().claims
    assert (claims.tolerates, claims.privatizes.keeps, claims.needs.folder) == (None, False, True)
