"""What `test_distributed.py` runs, alone and in two processes: three stages of 20 updates.

Usage: two_processes.py OUT. Every process writes OUT/RANK.json (its group and the items it ran) and
OUT/RANK.safetensors (the gradients of every update, as the optimisers see them).
"""

import json
import sys
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import nn

from limbeck.objectives.embedding import squared_error
from limbeck.objectives.listwise import cross_entropy, kl_divergence
from limbeck.training import Player, Stage, Turn, frozen_player, train
from limbeck.training.distributed import current_group
from limbeck.types import Loss, Scores, Signals
from toys import (
    Bag,
    PairScorer,
    Tokens,
    a_player,
    a_run,
    dual_scores,
    outputs,
    own,
    pair_outputs,
)

UPDATES = 20
gradients: dict[str, torch.Tensor] = {}
items: dict[str, int] = {}


def noted(player: Player, stage: str) -> Player:
    """The player, its gradients written down before each step."""

    def note(*_) -> None:
        for at, parameter in enumerate(player.trainable):
            if parameter.grad is not None:
                name = f"{stage}/{player.name}/{player.steps:02d}/{at}"
                gradients[name] = parameter.grad.detach().clone()

    player.optimizer.register_step_pre_hook(note)
    return player


def counted(stage: str, forward):
    """The forward, its items added up."""

    def counting(update, batch):
        signals = forward(update, batch)
        items[stage] = items.get(stage, 0) + sum(count.items for count in update.counts.values())
        return signals

    return counting


class Unused(Bag):
    """A bag with a layer that no output goes through, as a pooler often is."""

    def __init__(self, seed: int) -> None:
        super().__init__(seed=seed)
        with torch.random.fork_rng():
            torch.manual_seed(seed)
            self.pooler = nn.Linear(8, 8)


def dual() -> Stage:
    """In-batch scores and a temperature that the student's own model holds and learns."""
    model = Unused(seed=1)
    model.scale = nn.Parameter(torch.tensor(1.0))
    student = noted(a_player("student", model, 0.01), "dual")
    teacher = frozen_player("teacher", Bag(seed=2))

    def forward(update, batch):
        scores = dual_scores(update, "student", batch) * update.model("student").scale
        taught = dual_scores(update, "teacher", batch)
        target = torch.arange(4) * 3
        return Signals({"student": Scores.of(scores, target=target), "teacher": Scores.of(taught)})

    def loss(signals):
        s, t = signals.scores["student"], signals.scores["teacher"]
        kl = kl_divergence(t, s, teacher_temperature=1.0, student_temperature=1.0)
        return Loss({"kl": kl, "contrastive": 0.5 * cross_entropy(s)})

    turn = Turn(counted("dual", forward), loss, trains=frozenset({"student"}))
    return Stage("train-dual", [student, teacher], Tokens(), [turn], UPDATES, clip=1e9)


def cross() -> Stage:
    """A pair scorer, and a single query's dual encoder: fewer items than there are processes."""
    ranker = noted(a_player("ranker", PairScorer(seed=3), 0.01), "cross")
    student = noted(a_player("student", Bag(seed=1), 0.01), "cross")

    def forward(update, batch):
        values = own(dual_scores(update, "student", batch))
        return Signals(
            {
                "ranker": Scores.of(pair_outputs(update, "ranker", batch)),
                "student": Scores.of(values),
            }
        )

    def loss(signals):
        s, t = signals.scores["student"], signals.scores["ranker"]
        kl = kl_divergence(t, s, teacher_temperature=1.0, student_temperature=1.0)
        return Loss({"kl": kl, "listwise": cross_entropy(t)})

    turn = Turn(counted("cross", forward), loss, trains=frozenset({"ranker", "student"}))
    return Stage("train-cross", [ranker, student], Tokens(B=1), [turn], UPDATES, clip=1e9)


def with_parts() -> Stage:
    """A projection over the whole update, and a decoder that reads the projected vectors."""
    student = noted(a_player("student", Bag(seed=1), 0.01), "parts")
    teacher = frozen_player("teacher", Bag(12, seed=2))
    with torch.random.fork_rng():
        torch.manual_seed(0)
        parts = nn.ModuleDict({"map": nn.Linear(8, 12), "decoder": nn.Linear(12, 12)})
    bridge = noted(a_player("bridge", parts, 0.01), "parts")

    def forward(update, batch):
        mapped = update.model("bridge")["map"](outputs(update, "student", batch.passages))
        decoded = update.run(
            "bridge",
            np.ones(len(mapped), dtype=np.int64),
            lambda chosen: {"mapped": mapped[torch.from_numpy(chosen)]},
            lambda model, features: model["decoder"](features["mapped"]),
        )
        taught = outputs(update, "teacher", batch.passages)
        return Signals(embeddings={"mapped": mapped, "decoded": decoded, "teacher": taught})

    def loss(signals):
        e = signals.embeddings
        parts = {name: squared_error(e["teacher"], e[name]) for name in ("mapped", "decoded")}
        return Loss(parts)

    turn = Turn(counted("parts", forward), loss, trains=frozenset({"student", "bridge"}))
    players, source = [student, teacher], Tokens()
    return Stage("train-parts", players, source, [turn], UPDATES, parts=bridge, clip=1e9)


def main(out: Path) -> None:
    torch.set_num_threads(1)
    group = current_group()
    run = a_run(out / "run", train_tokens=25, group=group)
    states = {}
    for make in (dual, cross, with_parts):
        stage = make()
        train(stage, run)
        states |= {f"{stage.name}/{p.name}": p.state() for p in stage.everyone}
    flat = {f"{name}/{key}": value for name, s in states.items() for key, value in s.items()}
    save_file(gradients, out / f"{group.rank}.safetensors")
    save_file({k: v.clone() for k, v in flat.items()}, out / f"{group.rank}.states.safetensors")
    about = {"size": group.size, "items": items, "world": torch.distributed.is_initialized()}
    (out / f"{group.rank}.json").write_text(json.dumps(about))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
