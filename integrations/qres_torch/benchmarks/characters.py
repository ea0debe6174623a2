"""A transformer that eight nodes teach to write Python, then LoRA on top of it.

The text is on every machine: the sources of the standard library. Each node reads its own files;
bits per character are measured on files that nobody trains on. LoRA then adapts the model to the
tables of ``encodings``, and only its matrices travel. It takes some ten minutes of a core.

    python integrations/qres_torch/benchmarks/characters.py
    python integrations/qres_torch/benchmarks/characters.py --bits 4    # with qres-quantize
    python integrations/qres_torch/benchmarks/characters.py --keep folder --bits 4    # goes on
    python integrations/qres_torch/benchmarks/characters.py --quick --json
"""

# ruff: noqa: INP001, T201 - a script that prints its result

from __future__ import annotations

import argparse
import json
import math
import os
import resource
import tempfile
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from qres_torch import TorchTrainer
from torch import nn
from torch.utils.data import DataLoader, RandomSampler

from qres_core import commands
from qres_core.attacks.scenario import Scenario
from qres_core.kernel.config import parse
from qres_core.lab.record import RoundRecord
from qres_core.lab.simulator import simulate
from qres_core.swarm.ledger.messages import ContributionBody
from qres_core.training.tasks import Task

NODES, SEED, SCALE = 8, 1, -6
LETTERS = 97  # what is printable, the end of a line and anything else
SIZES = {"width": 256, "layers": 7, "length": 64, "batch": 8, "steps": 4, "rounds": 8, "rank": 8}
QUICK = {"width": 32, "layers": 1, "length": 16, "batch": 8, "steps": 12, "rounds": 3, "rank": 2}


class Block(nn.Module):
    """Attention to what came before, and two layers."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.first, self.second = nn.LayerNorm(width), nn.LayerNorm(width)
        self.query, self.key, self.value, self.out = (nn.Linear(width, width) for _ in range(4))
        self.up, self.down = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)

    def forward(self, x: Any) -> Any:
        """Shape ``(batch, length, width)``."""
        normed = self.first(x)
        heads = [
            layer(normed).unflatten(-1, (-1, 16)).transpose(1, 2)
            for layer in (self.query, self.key, self.value)
        ]
        seen = nn.functional.scaled_dot_product_attention(*heads, is_causal=True)
        x = x + self.out(seen.transpose(1, 2).flatten(2))
        return x + self.down(nn.functional.gelu(self.up(self.second(x))))


class Writer(nn.Module):
    """Scores for the next character at each place."""

    def __init__(self, width: int, layers: int, length: int) -> None:
        super().__init__()
        self.letters, self.places = nn.Embedding(LETTERS, width), nn.Embedding(length, width)
        self.blocks = nn.Sequential(*(Block(width) for _ in range(layers)))
        self.norm, self.head = nn.LayerNorm(width), nn.Linear(width, LETTERS)

    def forward(self, x: Any) -> Any:
        """``x``: characters, shape ``(batch, length)``."""
        places = self.places(torch.arange(x.shape[1], device=x.device))
        return self.head(self.norm(self.blocks(self.letters(x) + places)))


class Lora(nn.Module):
    """A layer that stays as it is, with two thin matrices beside it."""

    def __init__(self, layer: Any, rank: int) -> None:
        super().__init__()
        self.layer = layer
        self.lora_a = nn.Parameter(torch.randn(rank, layer.in_features) / layer.in_features**0.5)
        self.lora_b = nn.Parameter(torch.zeros(layer.out_features, rank))

    def forward(self, x: Any) -> Any:
        """As the layer's."""
        return self.layer(x) + x @ self.lora_a.T @ self.lora_b.T


def adapted(module: Any, rank: int) -> Any:
    """The module with LoRA beside the layers for queries and values."""
    torch.manual_seed(SEED)
    for block in module.blocks:
        block.query, block.value = Lora(block.query, rank), Lora(block.value, rank)
    return module


class Windows(torch.utils.data.Dataset[Any]):
    """Pieces of a text, each with the characters that follow."""

    def __init__(self, paths: Sequence[Path], length: int) -> None:
        text = b"".join(path.read_bytes() for path in paths)
        codes = torch.frombuffer(bytearray(text), dtype=torch.uint8).long()
        letters = torch.where((codes >= 32) & (codes < 127), codes - 31, 0)
        self.codes, self.length = torch.where(codes == 10, 96, letters), length

    def __len__(self) -> int:
        return (len(self.codes) - 1) // self.length

    def __getitem__(self, number: int) -> Any:
        start = number * self.length
        piece = self.codes[start : start + self.length + 1]
        return piece[:-1], piece[1:]


def loss(scores: Any, following: Any) -> Any:
    """Mean cross-entropy of a character."""
    return nn.functional.cross_entropy(scores.flatten(0, 1), following.flatten())


def task(module: Any, folder: Path, sizes: dict[str, int], **options: Any) -> Task:
    """The trainers of one module; each has every eighth of the files, but for those held out."""
    paths = sorted(folder.glob("*.py"))
    held, rest = paths[::10], [path for at, path in enumerate(paths) if at % 10]
    measured = Windows(held, sizes["length"])
    torch.manual_seed(SEED)
    chosen = torch.randperm(len(measured))[:200].tolist()
    test = DataLoader(torch.utils.data.Subset(measured, chosen), batch_size=50)

    def trainer(index: int) -> TorchTrainer:
        own = Windows(rest[index::NODES], sizes["length"])
        drawn = RandomSampler(own, num_samples=sizes["steps"] * sizes["batch"])
        batches = DataLoader(own, batch_size=sizes["batch"], sampler=drawn)
        settings: dict[str, Any] = {"loss": loss, "test": test, "clip": 1.0, "keep_optimizer": True}
        return TorchTrainer(module, batches, **settings, **options, seed=SEED, index=index)

    trainers = [trainer(index) for index in range(NODES)]
    return Task("characters", trainers[0].vector(SCALE), tuple(trainers), scale=SCALE)


@contextmanager
def sizes_told(sizes: list[int]) -> Generator[None]:
    """Note the bytes of every contribution that is sent."""
    encode = ContributionBody.to_bytes

    def measured(body: ContributionBody) -> bytes:
        octets = encode(body)
        sizes.append(len(octets))
        return octets

    with patch.object(ContributionBody, "to_bytes", measured):
        yield


def played(
    made: Task, given: Any, sizes: dict[str, int], name: str
) -> tuple[list[dict[str, float]], Any]:
    """What came of each round, from the first model on, and the module with the last model."""
    swarm = {"name": name, "nodes": NODES, "byzantine": 1, "quorum": 7, "insecure": True}
    plugins: dict[str, Any] = {"memory": {}, "trimmed_mean": {"f": 1}}
    if given.bits:
        plugins["quantize"] = {"bits": given.bits}  # of qres-quantize; refused where it is not
    tables = {"swarm": {**swarm, "scale": SCALE}, "plugins": plugins}
    trainer: Any = made.trainers[0]
    sent: list[int] = []
    scene = Scenario(rounds=sizes["rounds"], seed=SEED, engine="vectorised")
    with tempfile.TemporaryDirectory() as folder, sizes_told(sent):
        place = Path(given.keep or folder, f"{name}-{given.bits or 32}-{sizes['rounds']}")
        diary = place.with_suffix(".jsonl")
        goes_on = (place / "checkpoint.cbor").is_file()
        rows = [json.loads(line) for line in diary.read_text().splitlines()] if goes_on else []
        if not goes_on:
            before = trainer.evaluate(made.initial, _first(made))["loss"] / math.log(2)
            rows = [{"round": 0, "bits": before}]
            diary.write_text(json.dumps(rows[0]) + "\n")
        began = time.monotonic()

        def told(record: RoundRecord) -> None:
            nonlocal began
            row = {
                "round": record.number,
                "bits": record.metrics["loss"] / math.log(2),
                "bytes": round(sum(sent) / len(sent)) if sent else 0,  # of an update
                "seconds": round(time.monotonic() - began, 1),
            }
            sent.clear()
            began = time.monotonic()
            rows.append(row)
            with diary.open("a") as file:
                file.write(json.dumps(row) + "\n")
            if not given.json:
                print(f"{place.name} {row}", flush=True)

        config = parse(tables, source=name)
        where = {"resume": place} if goes_on else {"save": place}
        simulate(config, scene, task=made, progress=told, **where)
        model = commands.read_model(place / "model.npz")
    by_round = {row["round"]: row for row in rows}
    return [by_round[number] for number in sorted(by_round)], trainer.load(
        model.vector, model.scale
    )


def _first(made: Task) -> Any:
    from qres_core import RoundInfo, vector_digest  # noqa: PLC0415 - here alone

    digest = vector_digest(made.initial)
    return RoundInfo("characters", 1, digest, made.initial.size, SCALE, (), 1)


def _sizes(writer: Any, rank: int) -> dict[str, Any]:
    """Print what travels of the model, and of its adapters."""
    whole = sum(each.numel() for each in writer.parameters())
    named = adapted(writer, rank).named_parameters()
    lora = sum(each.numel() for name, each in named if "lora_" in name)
    report = {"parameters": whole, "lora_parameters": lora, "nodes": NODES}
    for name, count in (("received_mb", whole), ("lora_received_mb", lora)):
        report[name] = round(4 * count * (NODES - 1) / 1e6, 2)
    print(json.dumps(report))
    return report


def main(words: Sequence[str] | None = None) -> dict[str, Any]:
    """Train, adapt, and print bits per character by round."""
    options = argparse.ArgumentParser(description=__doc__)
    options.add_argument("--quick", action="store_true", help="a small model")
    options.add_argument("--json", action="store_true")
    options.add_argument("--sizes", action="store_true", help="what travels; nothing is trained")
    options.add_argument("--rounds", type=int)
    options.add_argument("--steps", type=int, help="batches a node and round")
    options.add_argument("--bits", type=int, default=0, help="of a number on the wire")
    options.add_argument("--keep", help="folder of what came of each round; goes on from it")
    given = options.parse_args(words)
    sizes = dict(QUICK if given.quick else SIZES)
    sizes |= {name: getattr(given, name) for name in ("rounds", "steps") if getattr(given, name)}
    torch.set_num_threads(1)
    torch.manual_seed(SEED)
    library = Path(os.__file__).parent
    writer = Writer(sizes["width"], sizes["layers"], sizes["length"])

    if given.sizes:
        return _sizes(writer, sizes["rank"])

    def adam(parameters: Any) -> Any:
        return torch.optim.AdamW(parameters, lr=3e-3 if given.quick else 1e-3)

    whole = task(writer, library, sizes, optimizer=adam)
    if given.keep:
        Path(given.keep).mkdir(parents=True, exist_ok=True)
    rows, base = played(whole, given, sizes, "whole")
    lora = task(
        adapted(base, sizes["rank"]),
        library / "encodings",
        sizes,
        select="*.lora_*",
        optimizer=lambda parameters: torch.optim.AdamW(parameters, lr=1e-2),
    )
    tuned, _module = played(lora, given, sizes, "lora")
    updates = [row["bytes"] for row in rows[1:]]
    received = [4 * made.initial.size * (NODES - 1) for made in (whole, lora)]
    report = {
        "parameters": int(whole.initial.size),
        "lora_parameters": int(lora.initial.size),
        "bits_on_the_wire": given.bits or 32,
        # What a node receives in a round where every number takes four bytes.
        "received_mb": round(received[0] / 1e6, 2),
        "lora_received_mb": round(received[1] / 1e6, 2),
        # of an update as it was sent, the mean of all rounds
        "update_mb": round(sum(updates) / len(updates) / 1e6, 3),
        "times_fewer": round(4 * whole.initial.size * len(updates) / sum(updates), 2),
        "seconds": round(sum(row["seconds"] for row in (*rows[1:], *tuned[1:]))),
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "torch": torch.__version__,
        "whole": [round(row["bits"], 3) for row in rows],
        "lora": [round(row["bits"], 3) for row in tuned],
    }
    print(json.dumps(report, indent=None if given.json else 2))
    return report


if __name__ == "__main__":
    main()
