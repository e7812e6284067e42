"""From the first update to the last, exactly once: resuming, refusing, measuring, clipping."""

import copy
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
import torch

from limbeck.errors import StageError, StoreError
from limbeck.objectives.listwise import cross_entropy, distillation_kl
from limbeck.schedules import linear_warmup_decay
from limbeck.store import digest_tensors, read_json
from limbeck.training import Player, Stage, Turn, Validation, frozen_player, train, trained_player
from limbeck.types import Loss, Scores, Signals
from toys import Bag, Batch, Tokens, a_player, a_run, dual_scores, own

UPDATES = 20
TINY_BATCHES = 25  # tokens: 5 rows of 5, so that every player has several micro-batches


@dataclass(frozen=True)
class Counted(Tokens):
    """Tokens that note which updates were asked for, and fail at one of them."""

    fail_at: int | None = None
    asked: list[int] = field(default_factory=list)

    def batch(self, update: int) -> Batch:
        if update == self.fail_at:
            raise KeyboardInterrupt
        self.asked.append(update)
        return super().batch(update)


def falls(players: Mapping[str, Player]) -> float:
    """A measure that is best in the middle: how near the weights' squares come to a sum of 154."""
    norm = sum(float(p.detach().square().sum()) for p in players["student"].model.parameters())
    return -abs(norm - 154.0)


def a_stage(source: Tokens | None = None, *, keep="best", dropout=0.3, updates=UPDATES, **changes):
    """A student with dropout, a frozen teacher, and a second player who learns every third time."""
    student = trained_player(
        "student",
        Bag(seed=1, dropout=dropout),
        learning_rate=0.05,
        schedule=linear_warmup_decay(4, UPDATES),
        weight_decay=0.1,
    )
    second = a_player("second", Bag(seed=4))
    teacher = frozen_player("teacher", Bag(seed=2))

    def forward(update, batch):
        names = ("student", "teacher")
        return Signals({n: Scores.of(dual_scores(update, n, batch)) for n in names})

    def loss(signals):
        kl = distillation_kl(signals.scores["teacher"], signals.scores["student"], temperature=1.0)
        return Loss({"kl": kl})

    def forward_second(update, batch):
        return Signals({"second": Scores.of(own(dual_scores(update, "second", batch)))})

    def loss_second(signals):
        return Loss({"hard": cross_entropy(signals.scores["second"])})

    turns = [
        Turn(forward, loss, trains=frozenset({"student"})),
        Turn(forward_second, loss_second, trains=frozenset({"second"}), every=3),
    ]
    players = [student, second, teacher]
    measure = Validation("norm", falls, "student", every=4, keep=keep)
    stage = Stage("train-toy", players, source or Tokens(), turns, updates, measure=measure)
    return replace(stage, **changes)


def result(stage: Stage, folder: Path) -> dict[str, object]:
    """Everything that a stage leaves: every player's state by its bytes, and the curves."""
    return {
        "players": {p.name: digest_tensors(p.state()) for p in stage.everyone},
        "curves": read_json(folder / "stages" / stage.name / "curves.json"),
    }


def settings(**changes) -> dict[str, int]:
    return {"save_steps": 5, "train_tokens": TINY_BATCHES, **changes}


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory: pytest.TempPathFactory) -> dict[str, object]:
    folder, stage = tmp_path_factory.mktemp("whole"), a_stage()
    train(stage, a_run(folder, **settings()))
    return result(stage, folder)


def test_the_measure_is_best_in_the_middle(uninterrupted) -> None:
    """So that the tests below tell best from last."""
    values = [value for _, value in uninterrupted["curves"]["measured"]]
    assert [at for at, _ in uninterrupted["curves"]["measured"]] == [4, 8, 12, 16, 20]
    assert 0 < values.index(max(values)) < 4, values


@pytest.mark.parametrize("stopped_at", [0, 1, 4, 5, 6, 13, 19])
def test_a_stage_that_was_stopped_ends_with_the_same_bytes(
    tmp_path: Path, uninterrupted, stopped_at: int
) -> None:
    """Weights, optimiser, steps, loss curve, measurements; and only what was lost is repeated."""
    first = Counted(fail_at=stopped_at)
    with pytest.raises(KeyboardInterrupt):
        train(a_stage(first), a_run(tmp_path, **settings()))
    assert first.asked == list(range(stopped_at))
    second, stage = Counted(), a_stage()
    train(replace(stage, source=second), a_run(tmp_path, **settings()))
    assert second.asked == list(range(stopped_at // 5 * 5, UPDATES))
    assert result(stage, tmp_path) == uninterrupted


def test_a_stage_that_is_stopped_again_and_again_gets_there(tmp_path: Path, uninterrupted) -> None:
    asked = []
    for fail_at in (7, 12, 18, None):
        source, stage = Counted(fail_at=fail_at), a_stage()
        try:
            train(replace(stage, source=source), a_run(tmp_path, **settings()))
        except KeyboardInterrupt:
            asked.append(source.asked)
    assert [(seen[0], seen[-1]) for seen in asked] == [(0, 6), (5, 11), (10, 17)]
    assert result(stage, tmp_path) == uninterrupted


@pytest.mark.parametrize("activation_bytes", [0, 2000])
def test_activations_computed_twice_give_the_same_bytes(
    tmp_path: Path, uninterrupted, activation_bytes: int
) -> None:
    stage = a_stage()
    train(stage, a_run(tmp_path, **settings(activation_bytes=activation_bytes)))
    assert result(stage, tmp_path) == uninterrupted


def test_micro_batches_of_any_size_give_the_same_weights(tmp_path: Path) -> None:
    stages = [a_stage(dropout=0.0, measure=None) for _ in range(3)]
    for train_tokens, stage in zip((10_000, 25, 5), stages, strict=True):
        train(stage, a_run(tmp_path / str(train_tokens), train_tokens=train_tokens))
    for stage in stages[1:]:
        for a, b in zip(stages[0].players[0].trainable, stage.players[0].trainable, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_best_and_last_weights(tmp_path: Path, uninterrupted) -> None:
    best, last = a_stage(), a_stage(keep="last")
    kept = {}
    values = dict(uninterrupted["curves"]["measured"])
    for name, stage in {"best": best, "last": last}.items():
        train(stage, a_run(tmp_path / name, **settings()))
        kept[name] = falls({player.name: player for player in stage.players})
    assert kept["best"] == max(values.values())
    assert kept["last"] == values[UPDATES]


def test_a_finished_stage_is_read_back(tmp_path: Path, uninterrupted) -> None:
    train(a_stage(), a_run(tmp_path, **settings()))
    source, stage = Counted(), a_stage()
    trained = train(replace(stage, source=source), a_run(tmp_path, **settings()))
    assert source.asked == []
    assert result(stage, tmp_path) == uninterrupted
    assert trained.counts["student"].items > 0
    assert all(not player.model.training for player in stage.everyone)


@pytest.mark.parametrize(
    ("differs", "changed", "run"),
    [
        ("updates", {"updates": UPDATES + 1}, {}),
        ("source", {"source": Tokens(seed=1)}, {}),
        ("settings", {"settings": {"temperature": 2}}, {}),
        ("clip", {"clip": 2.0}, {}),
        ("players", {"players": [a_player("student", Bag(seed=9))], "turns": []}, {}),
        ("train_tokens", {}, {"train_tokens": 99}),
    ],
)  # fmt: skip
def test_a_folder_made_from_other_inputs_is_refused(
    tmp_path: Path, differs: str, changed, run
) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(a_stage(Counted(fail_at=7)), a_run(tmp_path, **settings()))
    with pytest.raises(StoreError, match=f"other inputs .*{differs}.* differ"):
        train(a_stage(**changed), a_run(tmp_path, **settings(**run)))


@pytest.mark.parametrize("left", [0, 7, 1000, -1])
def test_a_truncated_state_is_refused(tmp_path: Path, left: int) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(a_stage(Counted(fail_at=7)), a_run(tmp_path, **settings()))
    state = tmp_path / "stages" / "train-toy" / "state.safetensors"
    state.write_bytes(state.read_bytes()[:left])
    with pytest.raises(StoreError, match=r"state\.safetensors is damaged.*Delete it"):
        train(a_stage(), a_run(tmp_path, **settings()))


def test_a_finished_stage_that_was_changed_is_refused(tmp_path: Path) -> None:
    train(a_stage(), a_run(tmp_path, **settings()))
    state = tmp_path / "stages" / "train-toy" / "state.safetensors"
    content = bytearray(state.read_bytes())
    content[-1] ^= 1
    state.write_bytes(content)
    with pytest.raises(StoreError, match="SHA-256"):
        train(a_stage(), a_run(tmp_path, **settings()))


def test_a_frozen_player_stays_what_it_was_to_the_bit(tmp_path: Path) -> None:
    stage = a_stage()
    before = copy.deepcopy(stage.players[2].model.state_dict())
    train(stage, a_run(tmp_path))
    after = stage.players[2].model.state_dict()
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_a_turn_is_taken_every_so_often(tmp_path: Path) -> None:
    stage = a_stage()
    train(stage, a_run(tmp_path, **settings()))
    student, second, _ = stage.players
    assert (student.steps, second.steps) == (20, 7)  # updates 0, 3, ..., 18
    curve = read_json(tmp_path / "stages" / "train-toy" / "curves.json")["losses"]
    assert [at for at, entry in enumerate(curve) if "hard" in entry] == [0, 3, 6, 9, 12, 15, 18]
    assert all("kl" in entry for entry in curve)


@pytest.mark.parametrize(("clip", "length"), [(1e-3, 1e-3), (1e9, None)])
def test_gradients_are_clipped(tmp_path: Path, clip: float, length: float | None) -> None:
    """Under plain gradient descent with rate 1 a step is as long as the clipped gradient."""
    model = Bag(seed=1)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    optimizer.param_groups[0]["initial_lr"] = 1.0
    student = Player("student", model, optimizer, lambda step: 1.0)
    before = [p.detach().clone() for p in model.parameters()]

    def forward(update, batch):
        return Signals({"student": Scores.of(dual_scores(update, "student", batch))})

    turn = Turn(
        forward,
        lambda signals: Loss({"hard": cross_entropy(signals.scores["student"])}),
        trains=frozenset({"student"}),
    )
    train(Stage("train-clip", [student], Tokens(), [turn], 1, clip=clip), a_run(tmp_path))
    moved = torch.stack(
        [(p.detach() - b).square().sum() for p, b in zip(model.parameters(), before, strict=True)]
    )
    step = float(moved.sum().sqrt())
    assert step > 0.01 if length is None else step == pytest.approx(length, rel=1e-3)


def test_a_learning_rate_follows_its_schedule(tmp_path: Path) -> None:
    """AdamW's steps are as long as the rate: none at the factor 0, then 0.25, 0.5, ..."""
    stage, lengths = a_stage(updates=4, measure=None), []
    student = stage.players[0]
    weight = student.model.layers[1].weight
    before = weight.detach().clone()

    def noting(signals, original=stage.turns[0].loss):
        nonlocal before
        lengths.append(float((weight.detach() - before).abs().max()))
        before = weight.detach().clone()
        return original(signals)

    turn = replace(stage.turns[0], loss=noting)
    train(replace(stage, turns=[turn, stage.turns[1]]), a_run(tmp_path))
    assert lengths[:2] == [0.0, 0.0]
    assert lengths[2] == pytest.approx(0.25 * 0.05, rel=0.05)
    assert student.optimizer.param_groups[0]["lr"] == 0.75 * 0.05


def test_work_is_counted(tmp_path: Path) -> None:
    train(a_stage(), a_run(tmp_path, **settings()))
    metrics = read_json(tmp_path / "stages" / "train-toy" / "done.json")["metrics"]
    assert metrics["updates"] == UPDATES
    assert metrics["items"] == UPDATES * 2 * (4 + 12) + 7 * (4 + 12)
    assert metrics["padded_tokens"] == 5 * metrics["items"]
    assert metrics["processes"] == 1
    assert metrics["speed"]["tokens"] == metrics["padded_tokens"]  # all texts are of one length
    assert 0 < metrics["speed"]["seconds"] <= metrics["seconds"]


def test_work_before_a_kill_counts_as_far_as_it_was_kept(tmp_path: Path) -> None:
    with pytest.raises(KeyboardInterrupt):
        train(a_stage(Counted(fail_at=13)), a_run(tmp_path, **settings()))
    train(a_stage(), a_run(tmp_path, **settings()))
    metrics = read_json(tmp_path / "stages" / "train-toy" / "done.json")["metrics"]
    assert metrics["items"] == UPDATES * 2 * (4 + 12) + 7 * (4 + 12)
    assert metrics["speed"]["tokens"] == 5 * metrics["items"]
    assert 0 < metrics["speed"]["seconds"] <= metrics["seconds"]


def test_a_step_of_a_frozen_player_is_refused() -> None:
    with pytest.raises(StageError, match="'teacher' is frozen"):
        frozen_player("teacher", Bag()).step()


def test_a_model_of_another_shape_is_refused_stored_weights() -> None:
    state = a_player("student", Bag(layers=3)).state()
    with pytest.raises(StageError, match=r"do not fit the model: layers\.2\.bias"):
        a_player("student", Bag(layers=2)).load_state(state)


KILLED = """
import os, sys
sys.path[:0] = {paths!r}
import torch
torch.set_num_threads(1)
from pathlib import Path
from test_loop import Counted, a_stage, settings
from limbeck.training import train
from toys import a_run
for number in range(1, 14):  # a child for each write: what was imported is imported once
    child = os.fork()
    if not child:
        os.environ["LIMBECK_KILL_AT"] = f"train:{{number}}"
        train(a_stage(), a_run(Path({out!r}) / str(number), **settings()))
        os._exit(0)
    print(number, os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


@pytest.mark.slow
def test_killed_at_any_durable_write_it_ends_with_the_same_bytes(
    tmp_path: Path, uninterrupted
) -> None:
    """The kill comes before the rename. Writes: inputs, then by turns best weights and states."""
    paths = [str(Path(__file__).parent), str(Path(__file__).parent.parent)]
    script = KILLED.format(paths=paths, out=str(tmp_path))
    found = subprocess.run(
        [sys.executable, "-c", script],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    codes = {int(n): int(code) for n, code in map(str.split, found.stdout.splitlines())}
    killed = [number for number, code in codes.items() if code == -signal.SIGKILL]
    assert killed == list(range(1, len(killed) + 1))
    assert len(killed) >= 8  # inputs, some best weights, three checkpoints, final, curves, done
    assert {code for number, code in codes.items() if number not in killed} == {0}
    for number in killed:
        source, stage = Counted(), a_stage()
        folder = tmp_path / str(number)
        state = folder / "stages" / "train-toy" / "state.safetensors"
        written = updates_in(state)
        train(replace(stage, source=source), a_run(folder, **settings()))
        assert source.asked == list(range(written, UPDATES))
        assert result(stage, folder) == uninterrupted


def updates_in(state: Path) -> int:
    """How many updates a checkpoint holds."""
    if not state.exists():
        return 0
    header = int.from_bytes(state.read_bytes()[:8], "little")
    metadata = json.loads(state.read_bytes()[8 : 8 + header])["__metadata__"]
    return json.loads(metadata["log"])["updates"]
