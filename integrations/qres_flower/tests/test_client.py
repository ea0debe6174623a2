"""A client asked as Flower asks it: what it gets, what it keeps, and what is refused by name."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("flwr", reason="Flower is not installed")
from apps import CLIENT, SERVER, app_in
from qres_flower.client import FlowerTrainer, make

from qres_core import RoundInfo, Update, Vector, fixed, model_digest
from qres_core.errors import QresError

BROKEN = """\
    from flwr.app import Error
    return Message(Error(3, "no disk"), reply_to=msg)
    dict("""


def a_round(vector: Vector, number: int = 1, step: int = 0) -> RoundInfo:
    return RoundInfo(
        swarm="s",
        number=number,
        model_digest=model_digest(vector, step),
        dimension=vector.size,
        scale=0,
        roster=(b"\x01" * 32, b"\x02" * 32),
        quorum=2,
        step=step,
    )


def made(app: Path | str, **options: Any) -> tuple[FlowerTrainer, Vector]:
    return make(str(app), 1, 5, 7, 0, **options)


def fitted(trainer: FlowerTrainer, vector: Vector, number: int = 1, step: int = 0) -> Update:
    update = trainer.fit(vector, a_round(vector, number, step))
    assert update is not None
    return update


def refused(told: str, app: Path | str, **options: Any) -> None:
    with pytest.raises(QresError, match=f"(?s){told}"):
        made(app, **options)


def refused_fit(told: str, app: Path) -> None:
    trainer, first = made(app)
    with pytest.raises(QresError, match=f"(?s){told}"):
        trainer.fit(first, a_round(first))


def test_a_client_gets_the_message_of_its_server_and_its_place(tmp_path: Path) -> None:
    client = CLIENT.replace(
        "    arrays, config", "    SEEN.append((msg, context))\n    arrays, config"
    )
    app = app_in(tmp_path, client.replace("app = ClientApp()", "app = ClientApp()\nSEEN = []"))
    trainer, first = made(app, node_config={"data": "here"}, run_config={"rate": 0.5})
    update = fitted(trainer, first, number=9, step=4)
    module = __import__(f"{app.name}.client_app").client_app
    ((message, context),) = module.SEEN
    assert dict(message.content["config"]) == {"lr": 0.5, "server-round": 5}
    assert context.node_config == {"data": "here", "partition-id": 1, "num-partitions": 5}
    assert context.run_config == {"rate": 0.5}
    assert message.metadata.message_type == "train"
    assert message.metadata.dst_node_id == context.node_id
    sent = {name: each.numpy() for name, each in message.content["arrays"].items()}
    assert {name: (each.shape, str(each.dtype)) for name, each in sent.items()} == {
        "weight": ((3, 4), "float32"),
        "bias": ((2,), "float64"),
        "steps": ((), "int64"),
    }
    moved = fixed.decode(update.vector)
    assert moved[:12] == pytest.approx(0.5 * 2, abs=2**-15)
    assert moved[12:].tolist() == [5.0, 5.0, 5.0]
    assert update.weight == 10
    assert update.metrics == {"loss": 1.0}


def test_evaluation_gives_figures_and_keeps_nothing(tmp_path: Path) -> None:
    trainer, first = made(app_in(tmp_path))
    before = trainer.remember()
    found = trainer.evaluate(first, a_round(first))
    assert found == {"eval_loss": pytest.approx(0.0, abs=1e-4)}
    assert trainer.remember() == before


def test_a_client_without_evaluation_has_no_figures_and_errors_of_others_are_told(
    tmp_path: Path,
) -> None:
    cut = CLIENT.partition("@app.evaluate()")[0]
    trainer, first = made(app_in(tmp_path, cut))
    assert trainer.evaluate(first, a_round(first)) == {}
    wrong = cut + "\n\n@app.evaluate()\ndef evaluate(msg, context):\n    raise ValueError('mine')\n"
    trainer, first = made(app_in(tmp_path, wrong))
    with pytest.raises(ValueError, match="mine"):
        trainer.evaluate(first, a_round(first))


def test_models_are_judged_by_a_figure_of_evaluation(tmp_path: Path) -> None:
    app = app_in(tmp_path)
    trainer, first = made(app, judge_by="eval_loss")
    assert trainer.validate(first, a_round(first)) == pytest.approx(0.0, abs=1e-4)
    copied = copy.deepcopy(trainer)  # as another process gets it
    assert copied.validate(first, a_round(first)) == trainer.validate(first, a_round(first))
    assert not hasattr(made(app)[0], "validate")
    trainer, first = made(app, judge_by="loss")
    with pytest.raises(QresError, match=r"judge_by.*no 'loss'; it has \['eval_loss'"):
        trainer.validate(first, a_round(first))


def test_a_round_that_is_trained_again_begins_from_what_was_kept_before_it(tmp_path: Path) -> None:
    trainer, first = made(app_in(tmp_path))
    once = fitted(trainer, first, 1)
    assert np.array_equal(fitted(trainer, first, 1).vector, once.vector)
    second = fitted(trainer, first, 2)
    assert not np.array_equal(second.vector, once.vector)  # the client counts its rounds
    memory = trainer.remember()
    other, _first = made(trainer.project.folder)
    other.recall(memory)
    assert np.array_equal(fitted(other, first, 2).vector, second.vector)
    assert np.array_equal(fitted(other, first, 3).vector, fitted(trainer, first, 3).vector)


@pytest.mark.parametrize("damage", ["cut", "form", "empty", "state"])
def test_a_damaged_memory_is_refused_and_changes_nothing(tmp_path: Path, damage: str) -> None:
    trainer, first = made(app_in(tmp_path))
    fitted(trainer, first)
    memory = trainer.remember()
    broken = {
        "cut": memory[:-1],
        "form": memory.replace(b"memory/v1", b"memory/v9"),
        "empty": b"",
        "state": memory.replace(b"ConfigRecord", b"Con\xc3\xa4igReco"),
    }[damage]
    assert broken != memory
    with pytest.raises(QresError, match="QRES-E503"):
        trainer.recall(broken)
    assert trainer.remember() == memory


def test_what_a_client_keeps_survives_whatever_flower_lets_it_keep(tmp_path: Path) -> None:
    client = CLIENT.replace(
        '    kept["rounds"] += 1',
        """    kept["rounds"] += 1
    was = dict(kept)
    kept.update({"text": "é", "raw": b"\\x00\\xff", "flag": True, "real": 0.1, "list": [1.5, 2.5]})
    assert kept["rounds"] == 1 or was == dict(kept), was
    context.state["arrays"] = ArrayRecord({"a": Array(np.arange(6.0).reshape(2, 3))})
    context.state["figures"] = MetricRecord({"big": -(2**40), "many": [1, 2]})""",
    )
    trainer, first = made(app_in(tmp_path, client))
    for number in (1, 2, 3):
        fitted(trainer, first, number)
        trainer.recall(trainer.remember())


def test_what_the_client_draws_depends_on_seed_index_and_round_alone(tmp_path: Path) -> None:
    app = app_in(tmp_path, CLIENT.replace('(config["lr"]', "(np.random.rand() + random.random()"))
    trainer, first = made(app)
    state = np.random.get_state()[1].copy()  # noqa: NPY002 - what the client draws from
    one_round = fitted(trainer, first).vector
    assert np.array_equal(np.random.get_state()[1], state)  # noqa: NPY002
    np.random.seed(5)  # noqa: NPY002
    assert np.array_equal(fitted(made(app)[0], first).vector, one_round)
    assert not np.array_equal(fitted(trainer, first, 2).vector, one_round)
    other, _first = make(str(app), 2, 5, 7, 0)
    assert not np.array_equal(fitted(other, first).vector, one_round)
    other, _first = make(str(app), 1, 5, 8, 0)
    assert not np.array_equal(fitted(other, first).vector, one_round)


def test_a_client_without_examples_contributes_nothing(tmp_path: Path) -> None:
    trainer, first = made(app_in(tmp_path, CLIENT.replace(": 10", ": 0")))
    assert trainer.fit(first, a_round(first)) is None


def test_without_a_name_of_a_figure_all_weigh_the_same(tmp_path: Path) -> None:
    app = app_in(tmp_path, CLIENT.replace('"num-examples": 10', '"other": 10'))
    trainer, first = made(app, weighted_by="")
    assert fitted(trainer, first).weight == 1


def test_mods_of_the_client_run(tmp_path: Path) -> None:
    mod = """
def doubling(msg, context, call_next):
    out = call_next(msg, context)
    out.content["metrics"]["num-examples"] *= 2
    return out


app = ClientApp(mods=[doubling])
"""
    trainer, first = made(app_in(tmp_path, CLIENT.replace("\napp = ClientApp()\n", mod)))
    assert fitted(trainer, first).weight == 20


# ── refused by name ───────────────────────────────────────────────────────────────────────────────


@pytest.mark.parametrize(
    ("old", "new", "told"),
    [
        ('arrays["bias"] = arrays["bias"]', 'arrays["bias"] = np.nan * arrays["bias"]',
         r"QRES-E501 arrays\['bias'\]: 2 of 2 numbers are NaN or infinite"),
        ('arrays["bias"] = arrays["bias"]', 'arrays["bias"] = np.inf + arrays["bias"]',
         r"QRES-E501 arrays\['bias'\]"),
        ('arrays["bias"] = arrays["bias"]', 'arrays["bias"] = np.zeros(3)',
         r"QRES-E502 arrays\['bias'\]: has shape \(3,\), and \(2,\) was sent"),
        ('arrays["steps"] = arrays["steps"]', 'del arrays["steps"]\n    arrays["other"] = 1',
         "QRES-E502 arrays: the arrays of the reply lack steps and add other"),
        ('arrays["steps"] = arrays["steps"]', 'arrays["steps"] = 0.5',
         r"QRES-E503 arrays\['steps'\]: holds float64, and int64 was sent"),
        ('arrays["bias"] = arrays["bias"]', 'arrays["bias"] = 1j * arrays["bias"]',
         r"QRES-E503 arrays\['bias'\]: holds complex128"),
        ('"num-examples": 10', '"examples": 10',
         r"QRES-E506 train: the reply has no figure 'num-examples'; it has \['examples', 'loss'\]"),
        ('"num-examples": 10', '"num-examples": -1', "QRES-E506 train: 'num-examples' is -1"),
        ('"num-examples": 10', '"num-examples": 0.5', "QRES-E506 train: 'num-examples' is 0.5"),
        ('"num-examples": 10', '"num-examples": float("nan")', "QRES-E506 train"),
        ('{"arrays": made, "metrics"', '{"metrics"', "QRES-E502 train: .*got 0"),
        ('{"arrays": made,', '{"arrays": made, "more": made,', "QRES-E502 train: .*got 2"),
        ("    return reply(", "    return 1 or reply(", "QRES-E507 train: .*returned a int"),
        ("    return reply(",
         BROKEN,
         "QRES-E507 train: the client answered with error 3: no disk"),
    ],
)  # fmt: skip
def test_a_reply_that_cannot_be_used_is_named(
    tmp_path: Path, old: str, new: str, told: str
) -> None:
    assert old in CLIENT
    refused_fit(told, app_in(tmp_path, CLIENT.replace(old, new)))


def test_nothing_is_kept_of_a_round_that_was_refused(tmp_path: Path) -> None:
    client = CLIENT.replace('arrays["bias"] = ', 'arrays["bias"] = (np.nan if part else 0) * ')
    trainer, first = made(app_in(tmp_path, client))
    with pytest.raises(QresError, match="QRES-E501"):
        trainer.fit(first, a_round(first))
    trainer.evaluate(first, a_round(first))
    assert b"rounds" not in trainer.remember()


def test_a_client_that_raises_is_told_with_its_error(tmp_path: Path) -> None:
    broken = CLIENT.replace(
        "    part = context", '    raise OSError("no disk")\n    part = context'
    )
    trainer, first = made(app_in(tmp_path, broken))
    with pytest.raises(OSError, match="no disk"):  # the swarm makes a QRES-E512 of it
        trainer.fit(first, a_round(first))


def test_another_model_is_refused(tmp_path: Path) -> None:
    trainer, first = made(app_in(tmp_path))
    with pytest.raises(QresError, match="QRES-E502"):
        trainer.fit(first[:-1], a_round(first[:-1]))


def test_clients_with_other_arrays_are_told_apart(tmp_path: Path) -> None:
    usual = made(app_in(tmp_path))[0].base_digest()
    assert made(app_in(tmp_path))[0].base_digest() == usual
    for old, new in (
        ('"bias"', '"biases"'),
        ("reshape(3, 4)", "reshape(4, 3)"),
        ("array(0)", "ones(())"),
    ):
        assert old in SERVER
        assert made(app_in(tmp_path, server=SERVER.replace(old, new)))[0].base_digest() != usual


# ── apps that cannot be found or begun ────────────────────────────────────────────────────────────


def test_an_app_that_is_not_there_is_named(tmp_path: Path) -> None:
    refused(
        "QRES-E101 trainer.options.app: there is no Flower app in '.*absent'", tmp_path / "absent"
    )
    refused("QRES-E101 trainer.options.app: 'absent:app' cannot be loaded", "absent:app")


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("[", "QRES-E101 .*cannot be read"),
        ("[project]\nname = 'x'", "QRES-E103 .*names no clientapp"),
        ("tool = 1", "QRES-E103 .*names no clientapp"),
        ("[tool.flwr.app.components]\nclientapp = 1", "QRES-E104 .*are not text"),
        ("[tool.flwr.app.components]\nclientapp = 'x'", "QRES-E105 .*'x' does not name"),
        ("[tool.flwr.app.components]\nclientapp = 'x_gone:app'", "QRES-E101 .*'x_gone:app'"),
        ("[tool.flwr.app.components]\nclientapp = 'json:dumps'", "QRES-E104 .*no ClientApp"),
        ("[tool.flwr.app.components]\nclientapp='a:b'\n[tool.flwr.app.config]\nx=[1]",
         r"QRES-E104 .*tool.flwr.app.config.x is a list"),
    ],
)  # fmt: skip
def test_a_project_that_says_too_little_is_named(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "pyproject.toml").write_text(text)
    refused(told, tmp_path)


def test_a_pyproject_that_cannot_be_read_as_text_is_named(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_bytes(b"\xff")
    refused("QRES-E101 .*cannot be read", tmp_path)


def test_a_setting_that_the_app_does_not_have_is_refused(tmp_path: Path) -> None:
    app = app_in(tmp_path, more="[tool.flwr.app.config.deep]\nvalue = true\n")
    assert made(app)[0].settings == {"rate": 0.25, "deep.value": True}
    changed = made(app, run_config={"deep": {"value": False}})[0].settings
    assert changed == {"rate": 0.25, "deep.value": False}
    refused("QRES-E102 .*no setting rat", app, run_config={"rat": 1})
    refused("QRES-E104 .*rate is a list", app, run_config={"rate": [1]})


@pytest.mark.parametrize(
    ("server", "told"),
    [
        ("", "QRES-E103 .*no ServerApp gives the first arrays"),
        ("app = 1", "QRES-E104 .*no ServerApp"),
        (SERVER.partition("@app.main")[0], "QRES-E101 .*sent no message of training: "),
        (SERVER.replace("    strategy.start", "    return\n    strategy.start"),
         "QRES-E101 .*sent no message of training"),
        (SERVER.replace("    strategy.start", "    raise OSError('no disk')\n    strategy.start"),
         "QRES-E101 .*sent no message of training: OSError: no disk"),
        (SERVER.replace("    strategy.start", "    while not list(grid.pull_messages([])): ...\n"
                        "    strategy.start"), "QRES-E101 .*sent no message of training"),
        (SERVER.replace("zeros(2)", "full(2, np.nan)"), r"QRES-E501 arrays\['bias'\]"),
        (SERVER.replace("zeros(2)", "full(2, 1e6)"), "QRES-E503 .*2 numbers of the first model"),
        (SERVER.replace("arrays = {", "arrays = {} and {"), "QRES-E502 arrays: there is no number"),
    ],
)  # fmt: skip
def test_a_server_that_gives_no_first_arrays_is_named(
    tmp_path: Path, server: str, told: str
) -> None:
    refused(told, app_in(tmp_path, server=server))


def test_a_strategy_that_waits_for_many_nodes_begins(tmp_path: Path) -> None:
    server = SERVER.replace("min_available_nodes=2", "min_available_nodes=6")
    assert np.array_equal(made(app_in(tmp_path, server=server))[1], made(app_in(tmp_path))[1])


def test_a_server_of_ones_own_loop_begins_too(tmp_path: Path) -> None:
    server = (
        SERVER.partition("    strategy = ")[0]
        + """
    from flwr.app import Message, RecordDict

    for round in range(3):
        ids = [node.node_id for node in grid.get_nodes()]
        content = RecordDict({"model": ArrayRecord(arrays), "config": ConfigRecord({"lr": 1.0})})
        told = [grid.create_message(content, "train", node, group_id=str(round)) for node in ids]
        asked = grid.push_messages(told)
        while not list(grid.pull_messages(asked)):
            pass
"""
    )
    client = CLIENT.replace('msg.content["arrays"]', 'msg.content["model"]')
    client = client.replace(' + config["server-round"]', " + 1")
    trainer, first = made(app_in(tmp_path, client, server))
    assert fitted(trainer, first).weight == 10


def test_a_function_gives_the_first_arrays_where_the_server_should_not(tmp_path: Path) -> None:
    client = (
        CLIENT
        + """

def first():
    return {"weight": np.float32(np.random.rand(2)), "bias": np.zeros(1), "steps": [0]}


def record():
    return ArrayRecord({name: Array(np.asarray(each)) for name, each in first().items()})


def none():
    return 3
"""
    )
    client = client.replace('config["lr"]', "0.25")
    app = app_in(tmp_path, client, server="")
    trainer, vector = made(app, initial=f"{app.name}.client_app:first")
    assert trainer.shapes.names == ("weight", "bias", "steps")
    assert fitted(trainer, vector).vector[0] == fixed.encode([0.5]).vector[0]
    assert np.array_equal(made(app, initial=f"{app.name}.client_app:record")[1], vector)
    refused("QRES-E104 trainer.options.initial", app, initial=f"{app.name}.client_app:none")
    # Without a project, by the name of the ClientApp alone.
    made(app, initial=f"{app.name}.client_app:first")
    trainer, _vector = made(f"{app.name}.client_app:app", initial=f"{app.name}.client_app:first")
    assert not trainer.settings


OLD_CLIENT = """
from flwr.client import NumPyClient
from flwr.clientapp import ClientApp


class Old(NumPyClient):
    def __init__(self, part):
        self.part = part

    def get_parameters(self, config):
        return []

    def fit(self, parameters, config):
        step = config.get("lr", 1.0) * (self.part + 1)
        return [each + step for each in parameters], 7, {"x": 2.0}

    def evaluate(self, parameters, config):
        return 0.5, 4, {"accuracy": 0.75}


app = ClientApp(client_fn=lambda context: Old(context.node_config["partition-id"]).to_client())
"""
OLD_SERVER = """
import numpy as np
from flwr.common import ndarrays_to_parameters
from flwr.server import ServerAppComponents, ServerConfig
from flwr.server.strategy import FedAvg
from flwr.serverapp import ServerApp


def server_fn(context):
    first = ndarrays_to_parameters([np.ones((2, 2), dtype=np.float32), np.zeros(3)])
    strategy = FedAvg(initial_parameters=first, on_fit_config_fn=lambda number: {"lr": 0.25})
    return ServerAppComponents(strategy=strategy, config=ServerConfig(num_rounds=2))


app = ServerApp(server_fn=server_fn)
"""


def test_a_numpy_client_with_a_server_function_trains(tmp_path: Path) -> None:
    trainer, first = made(app_in(tmp_path, OLD_CLIENT, OLD_SERVER))
    assert fixed.decode(first).tolist() == [1.0] * 4 + [0.0] * 3
    update = fitted(trainer, first)
    assert fixed.decode(update.vector).tolist() == [0.5] * 7
    assert update.weight == 7
    assert trainer.evaluate(first, a_round(first))["accuracy"] == 0.75


def test_a_trainer_is_copied_for_another_process_with_its_memory(tmp_path: Path) -> None:
    trainer, first = made(app_in(tmp_path))
    fitted(trainer, first)
    other = copy.deepcopy(trainer)
    assert np.array_equal(fitted(other, first, 2).vector, fitted(trainer, first, 2).vector)
