"""How outputs and gradients come and go: whatever the memory, the micro-batches and the dropout."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from limbeck.errors import StageError
from limbeck.limit import Effort
from limbeck.models.encoder import Encoder
from limbeck.objectives.listwise import cross_entropy
from limbeck.training import Pass, Player, frozen_player
from limbeck.training.distributed import Group
from limbeck.types import Scores
from toys import Bag, Tokens, a_player, a_run, dual_scores, outputs


def a_pass(
    folder: Path,
    *players: Player,
    update: int = 0,
    stage: str = "s/0",
    seed: int = 0,
    rank: int = 0,
    **settings,
) -> Pass:
    """The pass of one update, with every player that can be trained in training."""
    return Pass(
        replace(a_run(folder, **settings), seed=seed, group=Group(rank)),
        {player.name: player for player in players},
        frozenset(player.name for player in players if player.optimizer is not None),
        stage=stage,
        update=update,
        progress=0.0,
        bytes_per_token={},
    )


def ragged_outputs(forward: Pass, player: str, rows: list[list[int]]) -> Tensor:
    """Outputs over lists of token ids of any length, padded within a micro-batch."""

    def collate(chosen: np.ndarray) -> dict[str, Tensor]:
        picked = [torch.tensor(rows[at]) for at in chosen]
        ids = nn.utils.rnn.pad_sequence(picked, batch_first=True, padding_value=-1)
        return {"ids": ids}

    def call(model: nn.Module, features: dict[str, Tensor]) -> Tensor:
        mask = (features["ids"] >= 0).unsqueeze(-1)
        words = model.words(features["ids"].clamp(min=0)) * mask
        return model.dropout(torch.tanh(model.layers[0](words.sum(1) / mask.sum(1))))

    return forward.run(player, np.array([len(row) for row in rows]), collate, call)


def ragged(count: int = 11) -> list[list[int]]:
    random = np.random.default_rng(3)
    return [random.integers(20, size=random.integers(1, 9)).tolist() for _ in range(count)]


def gradients(folder: Path, **settings) -> tuple[float, list[Tensor]]:
    """The loss of one update over queries and passages, and its gradients."""
    player = a_player("student", Bag(seed=1))
    forward = a_pass(folder, player, **settings)
    queries = ragged_outputs(forward, "student", ragged(4))
    passages = ragged_outputs(forward, "student", ragged(11)[::-1])
    scores = Scores.of(5 * queries @ passages.T, target=torch.tensor([10, 9, 8, 7]))
    loss = cross_entropy(scores)
    forward.backward(loss)
    return float(loss.detach()), [p.grad for p in player.trainable if p.grad is not None]


@pytest.mark.parametrize("train_tokens", [1, 7, 16, 40])
@pytest.mark.parametrize("activation_bytes", [0, 700, 1 << 30])
def test_micro_batches_of_any_size_give_the_gradient_of_one_batch(
    tmp_path: Path, train_tokens: int, activation_bytes: int
) -> None:
    """An in-batch loss: every query of every micro-batch meets every passage of every other."""
    whole, expected = gradients(tmp_path, train_tokens=10_000)
    loss, found = gradients(tmp_path, train_tokens=train_tokens, activation_bytes=activation_bytes)
    assert loss == pytest.approx(whole, rel=1e-6)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-7)


def test_outputs_come_in_the_order_of_the_items(tmp_path: Path) -> None:
    player = a_player("student", Bag(seed=1))
    rows = ragged()
    together = ragged_outputs(a_pass(tmp_path, player, train_tokens=12), "student", rows)
    for at, row in enumerate(rows):
        alone = ragged_outputs(a_pass(tmp_path, player), "student", [row])
        torch.testing.assert_close(together[at], alone[0])


def test_items_and_padded_tokens_are_counted(tmp_path: Path) -> None:
    """Lengths 3, 2, 1 under 4 tokens: {3}, {2, 1} padded to 2 each; 3 + 4 tokens."""
    forward = a_pass(tmp_path, a_player("student", Bag()), train_tokens=4)
    ragged_outputs(forward, "student", [[1], [1, 2], [1, 2, 3]])
    counted = forward.counts["student"]
    assert (counted.items, counted.padded_tokens) == (3, 7)


def test_what_layers_do_for_items_is_counted(tmp_path: Path, tiny_encoder: Encoder) -> None:
    """Without padding; with its backward pass a forward counts three times, of a frozen player
    once, and twice when a gradient passes through it. Of a bag of words nothing is known.
    """
    rows = [np.arange(5, 5 + length, dtype=np.int32) for length in (3, 9, 4)]
    collator = tiny_encoder.collator("query")
    lengths = np.array([collator.length(len(row)) for row in rows])
    once = tiny_encoder.forward_flops(lengths)
    assert once is not None

    def read(player: Player, weight: Tensor | None = None) -> Effort:
        forward = a_pass(tmp_path, player, train_tokens=8)

        def collate(chosen: np.ndarray) -> dict[str, Tensor]:
            features = collator.singles([rows[at] for at in chosen])
            return features if weight is None else {**features, "weight": weight}

        def call(model: nn.Module, features: dict[str, Tensor]) -> Tensor:
            words = {name: value for name, value in features.items() if name != "weight"}
            return model(words) * features.get("weight", 1.0)

        forward.run("student", lengths, collate, call)
        return forward.counts["student"].effort

    assert read(a_player("student", tiny_encoder)) == Effort(int(lengths.sum()), 3 * once)
    frozen = frozen_player("student", tiny_encoder)
    assert read(frozen) == Effort(int(lengths.sum()), once)
    assert read(frozen, torch.ones(1, requires_grad=True)).flops == 2 * once
    bag = a_pass(tmp_path, a_player("student", Bag()), train_tokens=4)
    ragged_outputs(bag, "student", [[1], [1, 2], [1, 2, 3]])
    assert bag.counts["student"].effort == Effort(6, None)


@pytest.mark.parametrize("activation_bytes", [0, 2**30])
@pytest.mark.parametrize("train_tokens", [5, 1000])
def test_several_outputs_of_one_forward_are_as_from_one_each(
    tmp_path: Path, train_tokens: int, activation_bytes: int
) -> None:
    """Two layers, with dropout, and one that no loss reads: kept or computed a second time."""
    ids = Tokens().batch(0).passages
    lengths = np.full(len(ids), ids.shape[1])

    def collate(chosen: np.ndarray) -> dict[str, Tensor]:
        return {"ids": torch.tensor(ids[chosen])}

    def layers(model: nn.Module, features: dict[str, Tensor]) -> dict[str, Tensor]:
        states = model.states(features)
        return {"first": states[:, 0], "second": states[:, 1], "unread": states.sum(dim=2)}

    def stacked(model: nn.Module, features: dict[str, Tensor]) -> Tensor:
        return model.states(features)

    found = []
    for several in (True, False):
        player = a_player("student", Bag(dropout=0.5, seed=1))
        limits = {"train_tokens": train_tokens, "activation_bytes": activation_bytes}
        forward = a_pass(tmp_path, player, **limits)
        if several:
            named = forward.run_several("student", lengths, collate, layers)
            assert named["unread"].shape == (len(ids), 2)
            first, second = named["first"], named["second"]
        else:
            first, second = forward.run("student", lengths, collate, stacked).unbind(dim=1)
        loss = (first * second).square().sum()
        forward.backward(loss)
        assert forward.counts["student"].items == len(ids)
        gradients = [p.grad for p in player.trainable if p.grad is not None]
        found.append([first.detach(), second.detach(), loss.detach(), *gradients])
    for own, expected in zip(*found, strict=True):
        torch.testing.assert_close(own, expected)


def test_a_player_without_items_is_refused(tmp_path: Path) -> None:
    with pytest.raises(StageError, match="'student' has no item"):
        ragged_outputs(a_pass(tmp_path, a_player("student", Bag())), "student", [])


def test_a_frozen_player_answers_without_dropout_and_without_a_graph(tmp_path: Path) -> None:
    teacher = frozen_player("teacher", Bag(dropout=0.9, seed=2))
    found = outputs(a_pass(tmp_path, teacher), "teacher", Tokens().batch(0).queries)
    with torch.no_grad():
        expected = Bag(seed=2).eval()({"ids": torch.tensor(Tokens().batch(0).queries)})
    assert torch.equal(found, expected)
    assert not found.requires_grad


# --- dropout -------------------------------------------------------------------------------------


class Ones(nn.Module):
    """Ones for every item, after dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.ones(8))
        self.dropout = nn.Dropout(0.5)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        return self.dropout(self.weight.expand(len(features["ids"]), 8))


def dropped(folder: Path, *, player: str = "student", calls: int = 1, **place) -> Tensor:
    """What dropout leaves of 6 items in the last of some calls of one update: [6, 8] bool."""
    forward = a_pass(folder, a_player(player, Ones()), **place)
    for _ in range(calls):
        found = forward.run(player, np.ones(6, int), lambda at: {"ids": torch.tensor(at)})
    return found.detach() > 0


def test_dropout_depends_on_seed_stage_update_player_rank_and_micro_batch_alone(
    tmp_path: Path,
) -> None:
    cases = [{}, {"seed": 1}, {"stage": "t/0"}, {"update": 1}, {"player": "other"}, {"calls": 2}]
    torch.manual_seed(5)
    masks = [dropped(tmp_path, **case) for case in cases]
    torch.manual_seed(6)  # the global generator has no say
    assert all(torch.equal(dropped(tmp_path, **c), m) for c, m in zip(cases, masks, strict=True))
    for a, b in itertools.combinations(masks, 2):
        assert not torch.equal(a, b)
    by_rank = dropped(tmp_path, rank=1)[1:]  # its share begins with the second item
    assert not torch.equal(by_rank, masks[0][:5])
    halves = dropped(tmp_path, train_tokens=3)  # two micro-batches of 3
    assert torch.equal(halves[:3], masks[0][:3])
    assert not torch.equal(halves[3:], halves[:3])


def test_dropout_leaves_the_global_generator_where_it_was(tmp_path: Path) -> None:
    torch.manual_seed(7)
    before = torch.get_rng_state()
    dropped(tmp_path)
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("train_tokens", [5, 30])
def test_computing_twice_meets_the_same_dropout(tmp_path: Path, train_tokens: int) -> None:
    """Nothing kept, everything computed again: the same gradients, to the bit."""
    found = []
    for activation_bytes in (1 << 30, 0):
        player = a_player("student", Bag(dropout=0.5, seed=1))
        forward = a_pass(
            tmp_path, player, train_tokens=train_tokens, activation_bytes=activation_bytes
        )
        scores = dual_scores(forward, "student", Tokens().batch(0))
        cross = Scores.of(scores, target=torch.arange(4) * 3)
        forward.backward(cross_entropy(cross))
        found.append([p.grad for p in player.trainable])
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_what_does_not_fit_in_memory_is_computed_again(tmp_path: Path) -> None:
    """12 passages in 4 micro-batches: the first says what one keeps, the other 3 are too many."""

    def forwards(activation_bytes: int) -> int:
        calls = []

        class Counting(Bag):
            def forward(self, features: dict[str, Tensor]) -> Tensor:
                calls.append(len(features["ids"]))
                return super().forward(features)

        player = a_player("student", Counting(seed=1))
        forward = a_pass(tmp_path, player, train_tokens=15, activation_bytes=activation_bytes)
        found = outputs(forward, "student", Tokens().batch(0).passages)
        forward.backward(found.sum())
        return len(calls)

    assert (forwards(1 << 30), forwards(0)) == (4, 4 + 3)


def test_what_no_loss_reads_gets_no_gradient(tmp_path: Path) -> None:
    read, unread = a_player("read", Bag(seed=1)), a_player("unread", Bag(seed=2))
    forward = a_pass(tmp_path, read, unread)
    found = [outputs(forward, name, Tokens().batch(0).queries) for name in ("read", "unread")]
    forward.backward(found[0].sum())
    assert all(p.grad is not None for p in read.trainable)
    assert all(p.grad is None for p in unread.trainable)
