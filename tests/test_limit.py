"""Arithmetic against hand-worked numbers and torch's own counter; rates are never timed here."""

from typing import Any

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from conftest import bert_config
from limbeck.limit import TRAINED, Effort, forward_flops, matmul_rate, rates_in_turns

SIZES = {"vocab_size": 50, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}
WIDE = {"num_hidden_layers": 3, "hidden_size": 32, "intermediate_size": 48}


def model(name: str) -> Any:
    """A tiny transformer of an architecture, without a pooler."""
    from transformers import AutoConfig, AutoModel

    if name == "distilbert":
        sizes: dict[str, Any] = {"n_layers": 3, "dim": 32, "hidden_dim": 48, "n_heads": 2}
    else:
        sizes = {**WIDE, "num_attention_heads": 2}
    if name == "electra":
        sizes["embedding_size"] = 32
    if name == "modernbert":
        sizes |= {"cls_token_id": 1, "sep_token_id": 2}
    config = AutoConfig.for_model(name, **SIZES, **sizes, max_position_embeddings=64)
    built = AutoModel.from_config(config, attn_implementation="eager").eval()
    built.pooler = None
    return built


def test_flops_by_hand() -> None:
    """4 layers, width 32, inner 64; 2 tokens: 2*2*(4*32*32 + 2*32*64) + 4*4*32 = 33,280 a layer."""
    config = bert_config(4)
    assert forward_flops(config, [2]) == 4 * 33_280
    assert forward_flops(config, np.array([2, 2])) == 8 * 33_280
    assert forward_flops(config, []) == 0


@pytest.mark.parametrize(
    "name",
    ["bert", "camembert", "distilbert", "electra", "modernbert", "mpnet", "roberta", "xlm-roberta"],
)
def test_flops_are_those_that_torch_counts(name: str) -> None:
    built = model(name)
    with FlopCounterMode(display=False) as counter, torch.no_grad():
        built(input_ids=torch.full((1, 9), 5))
    counts = counter.get_flop_counts()
    products = sum(counts["Global"].values())
    assert forward_flops(built.config, [9]) == products


@pytest.mark.filterwarnings("ignore:There is a performance drop")
def test_a_backward_pass_costs_two_forwards() -> None:
    built = model("bert")
    with FlopCounterMode(display=False) as counter:
        states = torch.randn(1, 9, 32, requires_grad=True)  # what a layer reads has a gradient
        built(inputs_embeds=states).last_hidden_state.sum().backward()
    found = forward_flops(built.config, [9])
    assert found is not None
    assert sum(counter.get_flop_counts()["Global"].values()) == TRAINED * found


def test_a_local_layer_sees_its_neighbours_alone() -> None:
    """Of 20 tokens that see 3 to either side, the outer ones see 4, 5 and 6, the other 14 see 7:
    2 (4 + 5 + 6) + 14 * 7 = 128; the first of three layers sees 20 * 20 = 400.
    """
    config = model("modernbert").config
    config.local_attention = 6
    products = 3 * 2 * 20 * (4 * 32**2 + 3 * 32 * 48)
    assert forward_flops(config, [20]) == products + 4 * 32 * (400 + 2 * 128)
    short = 3 * (2 * 3 * (4 * 32**2 + 3 * 32 * 48) + 4 * 32 * 9)  # three tokens see each other
    assert forward_flops(config, [3]) == short


def test_an_unknown_architecture_is_not_guessed_at() -> None:
    from transformers import T5Config

    assert forward_flops(T5Config(), [5]) is None


def test_the_probe_takes_the_best_product(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of products in 10, 10, 2.5 and 10 ms the third; then the clock says that it is enough."""
    monkeypatch.setattr("limbeck.limit.PROBE_SECONDS", 0.2)
    ticks = iter([0.0, 0.0, 0.01, 0.02, 0.03, 0.04, 0.0425, 0.05, 0.06, 0.07, 9.0])
    found = matmul_rate("cpu", "fp32", clock=lambda: next(ticks))
    assert found == pytest.approx(2 * 2048 * 1536 * 384 / 0.0025)


def test_the_probe_works_in_both_precisions_and_puts_the_threads_back() -> None:
    before = torch.get_num_threads()
    assert matmul_rate("cpu", "fp32") > 0
    assert matmul_rate("cpu", "bf16", threads=before + 1) > 0
    assert torch.get_num_threads() == before


def test_works_that_take_turns_by_hand() -> None:
    """The first turn is not counted; then a takes 4 and 2 s, b 1 and 5: 60 FLOP in 2 and in 1."""
    calls: list[str] = []
    ticks = iter([0, 9, 9, 18, 20, 24, 30, 31, 40, 42, 50, 55])
    works = {name: (lambda name=name: calls.append(name)) for name in "ab"}
    found = rates_in_turns(works, 60.0, seconds=10.0, clock=lambda: float(next(ticks)))
    assert found == {"a": 30.0, "b": 60.0}
    assert calls == ["a", "b"] * 3


def test_speed_by_hand() -> None:
    """60 tokens and 3,000 FLOP in 2 s: 30 tokens/s, 1,500 FLOP/s, of 6,000 a quarter."""
    effort = Effort(seconds=2.0)
    effort.read([20, 10], 1000.0)
    effort.read(np.array([30]), 2000.0)
    assert effort.speed(6000.0) == {
        "tokens": 60,
        "useful_flops": 3000.0,
        "seconds": 2.0,
        "tokens_per_second": 30.0,
        "useful_flops_per_second": 1500.0,
        "share_of_limit": 0.25,
    }
    assert effort.speed(None)["share_of_limit"] is None


def test_what_is_not_known_has_no_rate() -> None:
    effort = Effort(seconds=1.0)
    effort.read([5], None)
    effort.read([5], 100.0)
    found = effort.speed(1e9)
    assert found["tokens_per_second"] == 10
    assert found["useful_flops"] is found["useful_flops_per_second"] is None
    assert found["share_of_limit"] is None
    effort.read(None, None)
    effort.include(Effort(5, 5.0, 1.0))
    assert effort == Effort(None, None, 2.0)
    assert effort.speed(1e9)["tokens_per_second"] is None
    nothing = Effort().speed(1e9)
    assert nothing["tokens_per_second"] is nothing["share_of_limit"] is None
