"""A model that leaves a swarm: believed for its signatures, and for nothing else."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import anyio
import attrs
import numpy as np
import pytest
from click.testing import CliRunner, Result
from qres_ed25519 import keyfile
from qres_ed25519.signature import SigningKey
from qres_lab.box import toml

from qres_core import ACCEPT, Envelope, Vector, canonical, model_digest
from qres_core.cli.app import app
from qres_core.errors import CompatibilityError, ConfigError, ModelError, PluginError, QresError
from qres_core.kernel.config import Config, parse
from qres_core.kernel.intake import Intake
from qres_core.swarm.context import model_proof
from qres_core.swarm.context.model_proof import verify
from qres_core.swarm.ledger.messages import (
    OUTCOME_PRECOMMIT,
    OUTCOME_PREVOTE,
    PRECOMMIT,
    encode_conclusion,
)
from qres_core.swarm.ledger.results import Conclusion, Merged, Void
from qres_core.swarm.runtime.node import Node, run_node
from qres_core.swarm.storage.model_file import SwarmModel, kept_model
from qres_core.training.tasks import Task, TaskConfig, make_task

NOW = 1_700_000_000.0
PAIRS = [SigningKey.from_seed(hashlib.sha256(bytes([n])).digest()) for n in range(7)]
STRANGER = SigningKey.from_seed(hashlib.sha256(b"stranger").digest())
VECTOR: Vector = np.array([0, 1, -70000, 65536], dtype=np.int32)
HEAD, CHOSEN = b"p" * 32, b"s" * 32
VOID = encode_conclusion(Conclusion(CHOSEN, Void("QRES-E508")))
STEP = 5


def tables(**changed: Any) -> dict[str, Any]:
    swarm: dict[str, Any] = {
        "name": "vouched",
        "nodes": 7,
        "byzantine": 2,
        "quorum": 5,
        "roster": [pair.public.hex() for pair in PAIRS],
        **changed,
    }
    return {"swarm": swarm, "plugins": {"ed25519": {}}}


def roster(plugins: dict[str, Any] | None = None, **changed: Any) -> Config:
    raw = tables(**changed)
    if plugins is not None:
        raw["plugins"] = plugins
    return parse(raw, source="roster.toml")


def voucher(pair: SigningKey, digest: bytes, **changed: Any) -> Envelope:
    fields: dict[str, Any] = {
        "swarm": "vouched",
        "kind": OUTCOME_PRECOMMIT,
        "round": 2,
        "head": HEAD,
        "sender": pair.public,
        "sequence": 4,
        "time_ms": int(NOW * 1000),
        "payload": encode_conclusion(Conclusion(CHOSEN, Merged(digest))),
        **changed,
    }
    envelope = Envelope(**fields)
    return envelope.with_auth({"ed25519": pair.sign(envelope.signing_digest)})


def made(
    pairs: Sequence[SigningKey] = PAIRS[:5], vector: Vector = VECTOR, scale: int = 0, **changed: Any
) -> SwarmModel:
    digest = model_digest(vector, STEP)
    vouchers = tuple(voucher(pair, digest, **changed) for pair in pairs)
    return SwarmModel("vouched", STEP, scale, vector, vouchers)


def refusal(model: SwarmModel, config: Config | None = None) -> str:
    with pytest.raises(ModelError, match="QRES-E606") as caught:
        verify(model, roster() if config is None else config, NOW)
    return caught.value.problems[0].what


def test_a_quorum_of_the_roster_is_believed() -> None:
    proof = verify(made(), roster(), NOW)
    assert (proof.step, proof.digest) == (STEP, model_digest(VECTOR, STEP))
    assert (proof.vouchers, proof.needed, proof.nodes, proof.byzantine) == (5, 5, 7, 2)
    assert verify(made(PAIRS), roster(), NOW).vouchers == 7


def mixed(**changed: Any) -> SwarmModel:
    """One of the votes is of another place than the others."""
    model = made()
    other = voucher(PAIRS[4], model.digest, **changed)
    return attrs.evolve(model, vouchers=(*model.vouchers[:4], other))


def about(chosen: bytes) -> bytes:
    return encode_conclusion(Conclusion(chosen, Merged(model_digest(VECTOR, STEP))))


def borrowed() -> SwarmModel:
    """Four nodes and a liar, who speaks for a sixth node."""
    model = made()
    fifth = attrs.evolve(model.vouchers[4], sender=PAIRS[5].public)
    return attrs.evolve(model, vouchers=(*model.vouchers[:4], fifth))


def unsigned() -> SwarmModel:
    model = made()
    return attrs.evolve(model, vouchers=tuple(voucher.with_auth({}) for voucher in model.vouchers))


def changed_after() -> SwarmModel:
    """Signatures of one model, shown for another."""
    model, other = made(), VECTOR + 1
    payload = encode_conclusion(Conclusion(CHOSEN, Merged(model_digest(other, STEP))))
    vouchers = tuple(attrs.evolve(voucher, payload=payload) for voucher in model.vouchers)
    return attrs.evolve(model, vector=other, vouchers=vouchers)


FORGED: list[tuple[str, Callable[[], SwarmModel], str]] = [
    ("f votes", lambda: made(PAIRS[:2]), "2 nodes voted for it, and 5 of 7 decide"),
    ("f + 1 votes", lambda: made(PAIRS[:3]), "3 nodes voted for it, and 5 of 7 decide"),
    ("a vote too few", lambda: made(PAIRS[:4]), "4 nodes voted for it, and 5 of 7 decide"),
    ("a node twice", lambda: made([*PAIRS[:2], PAIRS[0]]), "counts a node twice"),
    (
        "a node twice, with two messages",
        lambda: attrs.evolve(
            made(PAIRS[:2]),
            vouchers=(
                *made(PAIRS[:2]).vouchers,
                voucher(PAIRS[0], model_digest(VECTOR, STEP), sequence=8),
            ),
        ),
        "counts a node twice",
    ),
    ("a stranger", lambda: made([*PAIRS[:2], STRANGER]), "not in the roster"),
    ("strangers", lambda: made([STRANGER]), "not in the roster"),
    ("another swarm", lambda: made(swarm="other"), "another swarm, 'other'"),
    ("another file's swarm", lambda: attrs.evolve(made(), swarm="other"), "of the swarm 'other'"),
    ("another step", lambda: attrs.evolve(made(), step=STEP + 1), "voted for something else"),
    ("another vector", lambda: attrs.evolve(made(), vector=VECTOR + 1), "something else"),
    ("another scale", lambda: attrs.evolve(made(), scale=1), "its scale is 1"),
    ("nobody", lambda: made([]), "no certificate"),
    ("another head", lambda: mixed(head=b"q" * 32), "different heights"),
    ("another attempt", lambda: mixed(round=3), "different attempts"),
    ("another set", lambda: mixed(payload=about(b"t" * 32)), "different sets"),
    ("prevotes", lambda: made(kind=OUTCOME_PREVOTE), "'outcome/prevote' message"),
    ("votes on the set", lambda: made(kind=PRECOMMIT), "'choice/precommit' message"),
    (
        "void",
        lambda: made(payload=encode_conclusion(Conclusion(CHOSEN, Void("QRES-E508")))),
        "else",
    ),
    ("nil", lambda: made(payload=encode_conclusion(None)), "something else"),
    ("a digest alone", lambda: made(payload=canonical.dumps(CHOSEN)), "something else"),
    ("a payload that is no decision", lambda: made(payload=b"\xff"), "something else"),
    ("another's name", lambda: made(sender=PAIRS[3].public), "counts a node twice"),
    ("a signature under another's name", borrowed, "signature"),
    ("unsigned", unsigned, "signature"),
    ("signed, then changed", changed_after, "signature"),
]


@pytest.mark.parametrize(
    ("forge", "why"), [item[1:] for item in FORGED], ids=[o[0] for o in FORGED]
)
def test_a_forged_certificate_is_refused(forge: Callable[[], SwarmModel], why: str) -> None:
    assert why in refusal(forge())


@pytest.mark.parametrize("forge", [borrowed, unsigned, changed_after])
def test_without_the_check_of_signatures_the_forgery_is_believed(
    forge: Callable[[], SwarmModel], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The control of the test above: nothing else than the signature stands in the way."""
    monkeypatch.setattr(Intake, "authenticate", lambda *_arguments: (ACCEPT, ""))
    monkeypatch.setattr(model_proof, "_lets_anything_pass", lambda *_arguments: False)
    model = forge()
    assert verify(model, roster(), NOW).vouchers == 5


def test_the_roster_s_file_decides() -> None:
    assert "not in the roster" in refusal(
        made(), roster(roster=[pair.public.hex() for pair in [*PAIRS[1:], STRANGER]])
    )
    assert "of the swarm" in refusal(made(), roster(name="other"))
    assert "swarm.scale of the roster 2" in refusal(made(), roster(scale=2))
    assert verify(made(scale=2), roster(scale=2), NOW).vouchers == 5
    assert verify(made(), roster(byzantine=1), NOW).byzantine == 1
    assert verify(made(PAIRS[:4]), roster(byzantine=0), NOW).vouchers == 4
    with pytest.raises(ConfigError, match=r"QRES-E105 swarm.byzantine"):
        verify(made(PAIRS), roster(byzantine=3), NOW)


def test_a_file_that_lets_the_unsigned_pass_is_refused() -> None:
    for plugins in ({"ed25519": {"require_signature": False}}, {"pki": tables_of_members()}):
        with pytest.raises(PluginError, match=r"QRES-E206.*unsigned messages"):
            verify(made(), roster(plugins), NOW)
    both = {"ed25519": {}, "pki": tables_of_members()}
    assert verify(made(), roster(both), NOW).vouchers == 5, "control: with signatures it is used"
    fewer = {"ed25519": {}, "pki": {"members": [pair.public.hex() for pair in PAIRS[1:]]}}
    assert "does not hold: not a member (pki)" in refusal(made(), roster(fewer))


def tables_of_members() -> dict[str, Any]:
    return {"members": [pair.public.hex() for pair in PAIRS]}


def test_a_file_without_a_roster_or_signatures_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"QRES-E103 swarm.roster"):
        verify(made(), roster(roster=[]), NOW)
    with pytest.raises(CompatibilityError, match="QRES-E301"):
        verify(made(), roster({"mean": {}}), NOW)


# ── real nodes ────────────────────────────────────────────────────────────────────────────────


@attrs.define(eq=False)
class Four:
    """Four nodes of one process, each with its key file and data folder."""

    folder: Path
    pairs: list[SigningKey] = attrs.field(factory=list)
    models: dict[int, list[SwarmModel]] = attrs.field(factory=dict)
    task: Task = attrs.field(init=False)

    def __attrs_post_init__(self) -> None:
        self.task = make_task(
            TaskConfig(name="quadratic", dimension=8, local_epochs=1), nodes=4, seed=3, scale=1
        )
        for index in range(4):
            home = self.folder / f"node-{index}"
            home.mkdir(mode=0o700)
            pair = SigningKey.from_seed(hashlib.sha256(b"four" + bytes([index])).digest())
            keyfile.save(home / "node.key", pair, None)
            self.pairs.append(pair)

    def raw(self, index: int) -> dict[str, Any]:
        home = self.folder / f"node-{index}"
        return {
            "swarm": {
                "name": "four",
                "nodes": 4,
                "byzantine": 1,
                "quorum": 4,
                "scale": 1,
                "deadline": 20.0,
                "vote_timeout": 10.0,
                "max_message_bytes": 65536,
                "roster": [pair.public.hex() for pair in self.pairs],
            },
            "node": {"data_dir": str(home / "data")},
            "plugins": {
                "memory": {},
                "ed25519": {"key": str(home / "node.key")},
                "replay": {},
                "median": {"f": 1},
            },
        }

    async def node(
        self, index: int, on_start: Callable[[Node], None], on_model: Callable[[], None]
    ) -> None:
        def note(model: SwarmModel) -> None:
            self.models.setdefault(index, []).append(model)
            on_model()

        await run_node(
            parse(self.raw(index), source="test"),
            node_id=self.pairs[index].public,
            roster=[pair.public for pair in self.pairs],
            trainer=self.task.trainers[index],
            initial=self.task.initial,
            steps=None,
            clock=lambda: 1e9 + anyio.current_time(),
            on_model=note,
            on_start=on_start,
        )

    def run(self, steps: int) -> None:
        """Until every node has seen the votes that decided that model."""

        async def main() -> None:
            nodes: list[Node] = []
            done = anyio.Event()

            def look() -> None:
                last = [seen[-1].step for seen in self.models.values()]
                if len(last) == 4 and min(last) >= steps:
                    done.set()

            async with anyio.create_task_group() as group:
                for index in range(4):
                    group.start_soon(self.node, index, nodes.append, look)
                with anyio.fail_after(600):
                    await done.wait()
                for node in nodes:
                    node.stop()

        anyio.run(main)


def qres(*arguments: object) -> Result:
    return CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.mark.usefixtures("virtual_time")
def test_every_node_hands_out_the_swarm_s_models(tmp_path: Path) -> None:
    four = Four(tmp_path)
    four.run(3)
    for index, models in four.models.items():
        assert [model.step for model in models][:3] == [1, 2, 3]
        kept = kept_model(tmp_path / f"node-{index}")
        assert kept.digest == models[-1].digest
        assert kept.certificate == models[-1].certificate
        assert len(kept.vouchers) == 3, "a quorum"
    assert len({models[2].digest for models in four.models.values()}) == 1

    # As a person would: export, load with numpy, verify with the roster and the plugins it names.
    out = tmp_path / "model.npz"
    done = qres("model", "export", "--folder", tmp_path / "node-2", "--out", out)
    assert done.exit_code == 0, done.output
    assert "of four" in done.output
    with np.load(out, allow_pickle=False) as loaded:
        np.testing.assert_array_equal(loaded["model"], four.models[2][-1].weights)
    small = four.raw(2)
    small["plugins"] = {"ed25519": {}}  # no key: whoever verifies is no node
    del small["node"]
    (tmp_path / "roster.toml").write_text(toml.render(small))
    (tmp_path / "node-2" / "node.toml").write_text(toml.render(four.raw(2)))
    for file in (tmp_path / "roster.toml", tmp_path / "node-2" / "node.toml"):
        done = qres("model", "verify", out, "--roster", file)
        assert done.exit_code == 0, done.output
        assert "decided by 3 of 4 nodes, of which 1 may lie" in done.output
    content = bytearray(out.read_bytes())
    content[len(content) // 2] ^= 1
    (tmp_path / "changed.npz").write_bytes(content)
    done = qres("model", "verify", tmp_path / "changed.npz", "--roster", tmp_path / "roster.toml")
    assert done.exit_code == 1
    assert "refused: QRES-E605" in done.output
    done = qres(
        *("model", "verify", tmp_path / "changed.npz", "--json"),
        *("--roster", tmp_path / "roster.toml"),
    )
    assert done.exit_code == 1
    assert json.loads(done.stdout)["ok"] is False


def test_a_file_that_is_not_there_is_no_verdict(tmp_path: Path) -> None:
    done = qres("model", "verify", tmp_path / "none.npz", "--roster", tmp_path / "none.toml")
    assert done.exit_code == 2


@pytest.mark.usefixtures("virtual_time")
def test_an_export_overwrites_nothing_and_says_what_is_missing(tmp_path: Path) -> None:
    four = Four(tmp_path)
    four.run(1)
    (tmp_path / "mine.npz").write_bytes(b"mine")
    folder = tmp_path / "node-0"
    cases = [
        (folder, "mine.npz", "QRES-E803"),
        (folder, "model.pt", "QRES-E105"),
        (tmp_path / "none", "model.npz", "QRES-E105"),
        (tmp_path, "model.npz", "QRES-E105"),
    ]
    for place, name, code in cases:
        done = qres("model", "export", "--folder", place, "--out", tmp_path / name)
        assert isinstance(done.exception, QresError)
        assert done.exception.code == code
    assert (tmp_path / "mine.npz").read_bytes() == b"mine"
    assert not (tmp_path / "model.npz").exists()
