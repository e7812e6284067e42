import copy
import sys
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import pytest
import torch

from conftest import encoder_of
from limbeck import inference
from limbeck.data.tokens import TokenStore, tokenize_here
from limbeck.errors import ConfigError, ScoreError
from limbeck.inference import (
    Backend,
    Engine,
    choose_engine,
    embed,
    embed_batches,
    pair_lengths,
    plan_batches,
    score,
    score_batches,
)
from limbeck.models import compiled
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.graph import to_openvino
from limbeck.models.layers import cut_layers, ranker_from_encoder
from limbeck.models.workers import close_workers

EXACT = Engine("cpu", "fp32")
TEXTS = [
    "how to find the largest files on disk",
    "",
    "cat",
    "the moon and the sea " * 20,
    "dog 😀",
    "list all users",
]
PAIRS = np.array([[0, 3], [2, 2], [4, 1], [0, 0], [5, 4]])


@pytest.fixture
def tokens(tiny_encoder: Encoder) -> TokenStore:
    return tokenize_here(TEXTS, tiny_encoder.tokenizer)


def quickly_exported(encoder: Encoder) -> tuple[Encoder, Ranker]:
    """An encoder and a ranker of one layer: an export to ONNX takes two seconds a layer."""
    small = cut_layers(encoder, 1)
    return small, ranker_from_encoder(small, seed=0)


class Counted:
    """A progress that remembers what it was told."""

    def __init__(self) -> None:
        self.tasks: dict[str, tuple[int, int]] = {}

    @contextmanager
    def task(self, label: str, total: int, unit: str) -> Iterator[Callable[[int], None]]:
        seen: list[int] = []
        yield seen.append
        self.tasks[f"{label} ({unit})"] = (total, sum(seen))

    def say(self, line: str) -> None:
        raise AssertionError(line)


# --- plans ---------------------------------------------------------------------------------------


def test_a_plan_worked_by_hand() -> None:
    """Budget 12: 7 alone (7 + 7 > 12), then three of 4 (12), then 2 and 1 (2 x 2)."""
    plan = plan_batches([4, 1, 7, 4, 2, 4], max_tokens=12)
    assert [batch.tolist() for batch in plan] == [[2], [0, 3, 5], [4, 1]]


def test_plans_are_partitions_within_the_budget_and_longest_first() -> None:
    generator = np.random.default_rng(0)
    for budget in (1, 16, 100, 5000):
        lengths = generator.integers(1, 60, size=200)
        plan = plan_batches(lengths, budget)
        assert sorted(np.concatenate(plan).tolist()) == list(range(200))
        for batch in plan:
            assert len(batch) == 1 or len(batch) * lengths[batch].max() <= budget
        ordered = lengths[np.concatenate(plan)]
        assert (np.diff(ordered) <= 0).all()
        again = plan_batches(lengths.tolist(), budget)
        assert all(np.array_equal(one, other) for one, other in zip(plan, again, strict=True))


def test_nothing_needs_no_batches() -> None:
    assert plan_batches([], 100) == []


# --- engines -------------------------------------------------------------------------------------


def test_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert choose_engine("torch", "fp32") == Engine("cpu", "fp32")
    assert choose_engine("auto", "bf16") == Engine("cpu", "bf16")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_engine("torch", "fp32") == Engine("cuda", "fp32", 16384)
    with pytest.raises(ConfigError, match="no backend 'abacus'"):
        choose_engine("abacus")
    with pytest.raises(ConfigError, match="no precision 'int3'"):
        choose_engine("auto", "int3")


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """A processor with bf16 whose rates in it are so many times those in fp32."""

    def measured(torch_reads: float, openvino_reads: float, trains: float) -> None:
        reads = {"torch": torch_reads, "openvino": openvino_reads}
        monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
        monkeypatch.setattr(inference, "precisions", lambda device: ("fp32", "bf16"))
        monkeypatch.setattr(
            inference,
            "reading_rates",
            lambda device, backend: {"fp32": 1e11, "bf16": reads[backend] * 1e11},
        )
        rates = {"fp32": 1e11, "bf16": trains * 1e11}
        monkeypatch.setattr(inference, "training_rates", lambda device: rates)

    return measured


def test_auto_is_the_precision_that_is_faster_in_the_backend_that_reads(
    measured: Callable[..., None],
) -> None:
    measured(torch_reads=0.5, openvino_reads=2.0, trains=0.5)
    assert choose_engine("torch") == Engine("cpu", "fp32")
    assert choose_engine("openvino") == Engine("cpu", "bf16", backend="openvino")
    assert choose_engine("torch", "bf16") == Engine("cpu", "bf16")  # as asked
    found = choose_engine("openvino", trains=True)
    assert (found.precision, found.training_precision) == ("bf16", "fp32")
    assert found.training() == Engine("cpu", "fp32")
    [note] = found.notes
    assert note == (
        "precision: auto is bf16 to read (openvino), 200 GFLOP/s in bf16 and 100 in fp32, and fp32 "
        "to train, 50 GFLOP/s in bf16 and 100 in fp32, measured on one thread of the cpu"
    )
    measured(torch_reads=1.29, openvino_reads=1.0, trains=3.0)  # not by a clear margin
    found = choose_engine("torch", trains=True)
    assert (found.precision, found.training().precision) == ("fp32", "bf16")


def test_nothing_is_measured_where_nothing_is_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise AssertionError("measured")

    monkeypatch.setattr(inference, "reading_rates", refuse)
    monkeypatch.setattr(inference, "training_rates", refuse)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(inference, "precisions", lambda device: ("fp32", "bf16"))
    for precision in ("fp32", "bf16"):
        assert choose_engine("torch", precision, trains=True).precision == precision
        assert choose_engine("torch", taken=precision).precision == precision
    assert choose_engine("onnxruntime").precision == "fp32"
    monkeypatch.setattr(inference, "precisions", lambda device: ("fp32",))
    found = choose_engine("torch", trains=True)
    assert found == Engine("cpu", "fp32")
    assert found.notes == ("precision: auto is fp32, since the cpu has no bf16",)
    assert choose_engine("torch", taken="bf16").precision == "fp32"  # taken on another machine


# --- vectors -------------------------------------------------------------------------------------


def test_embed_gives_the_vectors_of_sentence_transformers_in_order(
    tiny_encoder: Encoder, tiny_encoder_folder: Path, tokens: TokenStore
) -> None:
    from sentence_transformers import SentenceTransformer

    expected = SentenceTransformer(str(tiny_encoder_folder), device="cpu").encode(TEXTS)
    for budget in (1, 60, 100_000):
        found = embed(tiny_encoder, tokens, "passage", engine=Engine("cpu", "fp32", budget))
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_embed_of_some_positions(tiny_encoder: Encoder, tokens: TokenStore) -> None:
    every = embed(tiny_encoder, tokens, "query", engine=EXACT)
    some = embed(tiny_encoder, tokens, "query", engine=EXACT, positions=np.array([4, 0, 4]))
    np.testing.assert_allclose(some, every[[4, 0, 4]], atol=1e-6)
    none = embed(tiny_encoder, tokens, "query", engine=EXACT, positions=np.array([], dtype=int))
    assert none.shape == (0, 32)


def test_batches_follow_the_plan_and_give_the_same_bytes_again(
    tiny_encoder: Encoder, tokens: TokenStore
) -> None:
    plan = [np.array([5, 1]), np.array([0])]
    for engine in (EXACT, Engine("cpu", "bf16")):
        first = list(embed_batches(tiny_encoder, tokens, "query", plan, engine))
        assert [positions.tolist() for positions, _ in first] == [[5, 1], [0]]
        rest = list(embed_batches(tiny_encoder, tokens, "query", plan[1:], engine))
        assert first[1][1].tobytes() == rest[0][1].tobytes()  # a resumed run starts in the middle


def test_running_leaves_the_model_in_its_mode(tiny_encoder: Encoder, tokens: TokenStore) -> None:
    tiny_encoder.train()
    one = embed(tiny_encoder, tokens, "query", engine=EXACT)
    assert tiny_encoder.training
    np.testing.assert_array_equal(one, embed(tiny_encoder, tokens, "query", engine=EXACT))
    tiny_encoder.eval()
    np.testing.assert_array_equal(one, embed(tiny_encoder, tokens, "query", engine=EXACT))
    assert not tiny_encoder.training


def test_bf16_is_close_to_fp32(
    tiny_encoder: Encoder, tiny_ranker: Ranker, tokens: TokenStore
) -> None:
    half = Engine("cpu", "bf16")
    exact = embed(tiny_encoder, tokens, "query", engine=EXACT)
    rough = embed(tiny_encoder, tokens, "query", engine=half)
    assert not np.array_equal(exact, rough)
    assert (exact * rough).sum(axis=1).min() > 0.998
    one = score(tiny_ranker, tokens, tokens, PAIRS, engine=EXACT)
    other = score(tiny_ranker, tokens, tokens, PAIRS, engine=half)
    np.testing.assert_allclose(one, other, atol=0.1)


def test_progress_is_told(tiny_encoder: Encoder, tiny_ranker: Ranker, tokens: TokenStore) -> None:
    progress = Counted()
    embed(tiny_encoder, tokens, "query", engine=EXACT, progress=progress)
    embed(tiny_encoder, tokens, "passage", engine=EXACT, progress=progress)
    score(tiny_ranker, tokens, tokens, PAIRS, engine=EXACT, progress=progress)
    assert progress.tasks == {
        "Encoding queries (texts)": (6, 6),
        "Encoding passages (texts)": (6, 6),
        "Scoring pairs (pairs)": (5, 5),
    }


# --- scores --------------------------------------------------------------------------------------


def test_scores_are_those_of_sentence_transformers_in_order(
    tiny_ranker: Ranker, tiny_ranker_folder: Path, tokens: TokenStore
) -> None:
    from sentence_transformers import CrossEncoder

    theirs = CrossEncoder(str(tiny_ranker_folder), device="cpu")
    expected = theirs.predict(
        [(TEXTS[query], TEXTS[passage]) for query, passage in PAIRS],
        activation_fn=torch.nn.Identity(),
    )
    for budget in (1, 100, 100_000):
        found = score(tiny_ranker, tokens, tokens, PAIRS, engine=Engine("cpu", "fp32", budget))
        np.testing.assert_allclose(found, expected, atol=1e-5)


def test_pair_lengths_are_what_a_batch_is_padded_to(
    tiny_ranker: Ranker, tokens: TokenStore
) -> None:
    lengths = pair_lengths(tiny_ranker, tokens, tokens, PAIRS)
    for (query, passage), length in zip(PAIRS, lengths, strict=True):
        features = tiny_ranker.collator.pairs([tokens[query]], [tokens[passage]])
        assert features["input_ids"].shape == (1, length)


# --- refusals ------------------------------------------------------------------------------------


def test_vectors_that_are_not_finite_name_their_text(
    tiny_encoder: Encoder, tokens: TokenStore
) -> None:
    word = int(tokens[2][0])  # "cat", only in text 2
    with torch.no_grad():
        tiny_encoder.transformer.embeddings.word_embeddings.weight[word] = torch.nan
    with pytest.raises(ScoreError, match="not finite for passage 2"):
        embed(tiny_encoder, tokens, "passage", engine=EXACT)


def test_scores_that_are_not_finite_name_their_pair(
    tiny_ranker: Ranker, tokens: TokenStore
) -> None:
    word = int(tokens[2][0])
    with torch.no_grad():
        tiny_ranker.transformer.bert.embeddings.word_embeddings.weight[word] = torch.inf
    plan = [np.array([0, 3]), np.array([4, 1])]
    with pytest.raises(ScoreError, match="not finite for query 2 and passage 2"):
        list(score_batches(tiny_ranker, tokens, tokens, PAIRS, plan, EXACT))


def test_a_model_that_does_not_survive_bf16_is_refused(
    tiny_encoder: Encoder, tiny_ranker: Ranker, tokens: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = Engine("cpu", "bf16")
    monkeypatch.setattr(inference, "MIN_COSINE", {"fp32": 1.1, "bf16": 1.1})
    with pytest.raises(ScoreError, match=r"other vectors than in fp32 .* Use --precision fp32"):
        embed(tiny_encoder, tokens, "query", engine=half)
    embed(tiny_encoder, tokens, "query", engine=EXACT)
    monkeypatch.setattr(inference, "MAX_DIFFERENCE", {"bf16": 0.0})
    with pytest.raises(ScoreError, match=r"other scores than in fp32 .* Use --precision fp32"):
        score(tiny_ranker, tokens, tokens, PAIRS, engine=half)
    score(tiny_ranker, tokens, tokens, PAIRS, engine=EXACT)


# --- workers -------------------------------------------------------------------------------------


@pytest.fixture
def _no_workers_left() -> Iterator[None]:
    yield
    close_workers()


@pytest.mark.slow
@pytest.mark.usefixtures("_no_workers_left")
@pytest.mark.parametrize("backend", ["torch", "openvino", "onnxruntime"])
def test_any_number_of_workers_gives_the_same_bytes(
    backend: Backend, tiny_encoder: Encoder, tiny_ranker: Ranker, tokens: TokenStore
) -> None:
    """And those of one thread, which is what torch has in tests. A worker starts in seconds, so the
    other runtimes have the one number that puts batches out of order.
    """
    if backend == "onnxruntime":
        tiny_encoder, tiny_ranker = quickly_exported(tiny_encoder)
    vectors, scores = set(), set()
    for count in (None, 1, 3) if backend == "torch" else (None, 2):
        engine = Engine("cpu", "fp32", 30, backend, count)
        vectors.add(embed(tiny_encoder, tokens, "passage", engine=engine).tobytes())
        scores.add(score(tiny_ranker, tokens, tokens, PAIRS, engine=engine).tobytes())
    assert len(vectors) == len(scores) == 1


@pytest.mark.slow
@pytest.mark.usefixtures("_no_workers_left")
def test_workers_are_held_to_fp32_too(
    tiny_encoder: Encoder, tokens: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    half = Engine("cpu", "bf16", 30, workers=1)
    exact = embed(tiny_encoder, tokens, "query", engine=EXACT)
    assert (exact * embed(tiny_encoder, tokens, "query", engine=half)).sum(axis=1).min() > 0.998
    monkeypatch.setattr(inference, "MIN_COSINE", {"bf16": 1.1})
    with pytest.raises(ScoreError, match=r"In bf16 .* other vectors than in fp32"):
        embed(tiny_encoder, tokens, "query", engine=half)


def test_workers_that_cannot_be(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_engine("torch", "fp32", workers=4) == Engine("cpu", "fp32", workers=4)
    assert Engine("cpu", "fp32", workers=4).key() == EXACT.key()  # the bytes are the same
    with pytest.raises(ConfigError, match="--workers 0 is too few"):
        choose_engine(workers=0)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    with pytest.raises(ConfigError, match="here is a GPU"):
        choose_engine("torch", "fp32", workers=2)
    assert choose_engine("openvino", "fp32", workers=2).workers == 2


# --- openvino ------------------------------------------------------------------------------------


GRAPH = Engine("cpu", "fp32", 100, "openvino")


def test_openvino_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(inference, "openvino_installed", lambda: True)
    assert choose_engine("auto", "fp32", characters=3_999_999).backend == "torch"
    assert choose_engine("auto", "fp32", characters=4_000_000).backend == "openvino"
    assert choose_engine("torch", "fp32", characters=4_000_000).backend == "torch"
    monkeypatch.setattr(inference, "openvino_installed", lambda: False)
    assert choose_engine("auto", "fp32", characters=4_000_000).backend == "torch"
    monkeypatch.setattr(inference, "openvino_installed", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_engine("auto", "fp32", characters=4_000_000) == Engine("cuda", "fp32", 16384)
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"limbeck\[openvino\]"):
        choose_engine("openvino")


def test_onnxruntime_engines(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert choose_engine("onnxruntime") == Engine("cpu", "fp32", 2048, "onnxruntime")
    with pytest.raises(ConfigError, match="Use --precision fp32"):
        choose_engine("onnxruntime", "bf16")
    with pytest.raises(ConfigError, match="Choose auto, torch, openvino or onnxruntime"):
        choose_engine("tensorrt")
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"limbeck\[onnx\]"):
        choose_engine("onnxruntime")


def test_openvino_is_asked_for_on_the_processor(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    found = choose_engine("openvino", "fp32")
    assert found == Engine("cpu", "fp32", 2048, "openvino")
    assert found.training() == Engine("cpu", "fp32", 2048)


def test_an_engine_says_what_changes_the_numbers() -> None:
    keys = [Engine("cpu", "fp32", 1).key(), Engine("cpu", "bf16", 1).key(), GRAPH.key()]
    assert keys[0] == {"backend": "torch", "device": "cpu", "precision": "fp32"}
    assert len({tuple(key.items()) for key in keys}) == 3
    assert EXACT.key() == Engine("cpu", "fp32", 7).key()


@pytest.mark.slow
def test_openvino_gives_what_torch_gives(
    tiny_encoder: Encoder, tiny_ranker: Ranker, tokens: TokenStore
) -> None:
    for role in ("query", "passage"):
        exact = embed(tiny_encoder, tokens, role, engine=EXACT)
        np.testing.assert_allclose(
            embed(tiny_encoder, tokens, role, engine=GRAPH), exact, atol=1e-5
        )
    half = embed(tiny_encoder, tokens, "query", engine=Engine("cpu", "bf16", 100, "openvino"))
    assert (exact * half).sum(axis=1).min() > 0.998
    np.testing.assert_allclose(
        score(tiny_ranker, tokens, tokens, PAIRS, engine=GRAPH),
        score(tiny_ranker, tokens, tokens, PAIRS, engine=EXACT),
        atol=1e-4,
    )


@pytest.mark.slow
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_openvino_gives_the_same_bytes_again(
    precision: Literal["fp32", "bf16"], tiny_encoder: Encoder, tokens: TokenStore
) -> None:
    """Whatever ran before, beside it, and on however many threads: a plan fixes the bytes."""
    engine = Engine("cpu", precision, 100, "openvino")
    plan = [np.array([3]), np.array([5, 1]), np.array([0, 2, 4])]
    found = [
        [vectors.tobytes() for _, vectors in embed_batches(tiny_encoder, tokens, "query", some, e)]
        for some, e in ((plan, engine), (plan[1:], engine), (plan, engine))
    ]
    assert found[1] == found[0][1:]  # a resumed run starts in the middle
    assert found[2] == found[0]
    torch.set_num_threads(2)
    try:
        again = embed_batches(copy.deepcopy(tiny_encoder), tokens, "query", plan, engine)
        assert [vectors.tobytes() for _, vectors in again] == found[0]
    finally:
        torch.set_num_threads(1)


@pytest.mark.slow
def test_a_model_is_converted_once_for_its_weights(
    tiny_encoder: Encoder, tokens: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    with torch.no_grad():  # weights that no other test converts
        next(tiny_encoder.parameters()).mul_(1.01)
    converted: list[object] = []

    def counting(model: Encoder) -> object:
        converted.append(model)
        return to_openvino(model)

    monkeypatch.setattr(compiled, "to_openvino", counting)
    before = embed(tiny_encoder, tokens, "query", engine=GRAPH)
    embed(copy.deepcopy(tiny_encoder), tokens, "passage", engine=GRAPH)
    assert len(converted) == 1
    # a fused optimiser does not count its writes
    optimizer = torch.optim.AdamW(tiny_encoder.parameters(), lr=0.01, fused=True)
    for parameter in tiny_encoder.parameters():
        parameter.grad = torch.ones_like(parameter)
    optimizer.step()
    after = embed(tiny_encoder, tokens, "query", engine=GRAPH)
    assert len(converted) == 2
    assert not np.allclose(before, after, atol=1e-3)
    np.testing.assert_allclose(after, embed(tiny_encoder, tokens, "query", engine=EXACT), atol=1e-5)


@pytest.mark.slow
def test_compiled_models_do_not_pile_up(
    tiny_encoder: Encoder, tokens: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "MAX_KEPT", 1)
    monkeypatch.setattr(compiled, "_kept", OrderedDict())
    embed(tiny_encoder, tokens, "query", engine=GRAPH)
    embed(tiny_encoder, tokens, "query", engine=Engine("cpu", "bf16", 100, "openvino"))
    assert [key[2] for key in compiled._kept] == ["bf16"]


@pytest.mark.slow
def test_leaving_early_harms_nobody(tiny_encoder: Encoder, tokens: TokenStore) -> None:
    plan = [np.array([at]) for at in range(6)]
    batches = embed_batches(tiny_encoder, tokens, "query", plan, GRAPH)
    next(batches)
    batches.close()
    found = embed(tiny_encoder, tokens, "query", engine=GRAPH)
    np.testing.assert_allclose(found, embed(tiny_encoder, tokens, "query", engine=EXACT), atol=1e-5)


def test_nothing_is_embedded_in_openvino(tiny_encoder: Encoder, tokens: TokenStore) -> None:
    none = embed(tiny_encoder, tokens, "query", engine=GRAPH, positions=np.array([], dtype=int))
    assert none.shape == (0, 32)


@pytest.mark.slow
def test_onnxruntime_gives_what_torch_gives(
    tiny_encoder: Encoder, tokens: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    engine = Engine("cpu", "fp32", 100, "onnxruntime")
    tiny_encoder, tiny_ranker = quickly_exported(tiny_encoder)
    for role in ("query", "passage"):
        exact = embed(tiny_encoder, tokens, role, engine=EXACT)
        found = embed(tiny_encoder, tokens, role, engine=engine)
        np.testing.assert_allclose(found, exact, atol=1e-5)
    np.testing.assert_allclose(
        score(tiny_ranker, tokens, tokens, PAIRS, engine=engine),
        score(tiny_ranker, tokens, tokens, PAIRS, engine=EXACT),
        atol=1e-4,
    )
    monkeypatch.setattr(compiled, "_kept", OrderedDict())
    monkeypatch.setattr(inference, "MIN_COSINE", {"fp32": 1.1})
    with pytest.raises(ScoreError, match=r"In onnxruntime and fp32 .* Use --backend torch"):
        embed(tiny_encoder, tokens, "query", engine=engine)


@pytest.mark.slow
def test_a_model_that_turns_in_openvino_is_refused(
    tiny_encoder: Encoder, tiny_ranker: Ranker, tokens: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(compiled, "_kept", OrderedDict())
    monkeypatch.setattr(inference, "MIN_COSINE", {"fp32": 1.1, "bf16": 1.1})
    monkeypatch.setattr(inference, "MAX_DIFFERENCE", {"fp32": -1.0, "bf16": -1.0})
    for precision, advice in (("fp32", "--backend torch"), ("bf16", "--precision fp32")):
        engine = Engine("cpu", precision, 100, "openvino")
        said = rf"In OpenVINO and {precision} the \w+ gives other .* Use {advice}"
        with pytest.raises(ScoreError, match=said):
            embed(tiny_encoder, tokens, "query", engine=engine)
        with pytest.raises(ScoreError, match=said):
            score(tiny_ranker, tokens, tokens, PAIRS, engine=engine)


# What a token may see ends 4 to either side; or padding comes first and sees nothing at all.
LOCAL = {"architecture": "modernbert", "local_attention": 8}
CAUSAL = {
    "architecture": "qwen3",
    "pooling": "lasttoken",
    "side": "left",
    "num_key_value_heads": 4,
    "head_dim": 8,
}


@pytest.mark.slow
@pytest.mark.parametrize("made", [LOCAL, CAUSAL])
def test_a_model_that_openvino_breaks_beside_padding_is_refused_before_it_is_used(
    made: dict[str, Any], tmp_path: Path
) -> None:
    """Texts of one length show nothing: they are as torch has them, and come first in a plan."""
    encoder = encoder_of(**made, folder=tmp_path)
    alike = tokenize_here(["cat dog"], encoder.tokenizer)
    engine = Engine("cpu", "fp32", 96, "openvino")
    with pytest.raises(ScoreError, match=r"beside a longer text .* nan.* Use --backend torch"):
        embed(encoder, alike, "passage", engine=engine)


@pytest.mark.slow
def test_auto_stays_in_torch_for_a_model_that_openvino_breaks(
    tiny_encoder: Encoder, tiny_ranker: Ranker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    models = {"base": tiny_encoder, "ranker": tiny_ranker}
    enough = {"precision": "fp32", "characters": 4_000_000}
    found = choose_engine(**enough, models=models)
    assert (found.backend, found.notes) == ("openvino", ())
    local = encoder_of(**LOCAL, folder=tmp_path)
    found = choose_engine(**enough, models={**models, "teacher": local})
    assert found == Engine("cpu", "fp32")
    [note] = found.notes
    assert note.startswith("backend: auto is torch, since openvino fails the teacher. In OpenVINO")
    assert choose_engine("openvino", **enough, models={"teacher": local}).backend == "openvino"


@pytest.mark.slow
def test_padded_batches_are_checked_up_to_the_longest_that_was_asked_for(
    tiny_encoder: Encoder, tokens: TokenStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A longer text than half a batch goes alone; 48 tokens are the most that the model takes."""
    monkeypatch.setattr(compiled, "_kept", OrderedDict())
    for budget, longest in ((30, 15), (20, 15), (1000, 48)):
        embed(tiny_encoder, tokens, "passage", engine=replace(GRAPH, max_batch_tokens=budget))
        [graph] = compiled._kept.values()
        assert graph.padded_to == longest


@pytest.mark.slow
def test_what_is_not_finite_in_openvino_is_named(tiny_encoder: Encoder, tokens: TokenStore) -> None:
    word = int(tokens[2][0])
    with torch.no_grad():
        tiny_encoder.transformer.embeddings.word_embeddings.weight[word] = torch.nan
    with pytest.raises(ScoreError, match=r"not finite for passage 2.* or use --backend torch"):
        embed(tiny_encoder, tokens, "passage", engine=GRAPH)
