import json
import resource
import signal
from dataclasses import replace
from pathlib import Path

import numpy as np
import polars as pl
import pytest
import torch

from limbeck.data.collection import Texts
from limbeck.errors import ScoreError, StageError, StoreError
from limbeck.inference import Engine, embed
from limbeck.store import StageFolder, read_tensors
from limbeck.teachers import CrossTeacher, DualTeacher, EnsembleTeacher, load_teacher
from limbeck.teachers.score_store import ScoreStore
from limbeck.teachers.scoring import embed_collection, score_pairs
from processes import Coded

ALL_PAIRS = np.array([[query, passage] for query in range(12) for passage in range(0, 40, 3)])


@pytest.fixture
def cross(tiny_ranker):
    return CrossTeacher("cross", tiny_ranker)


@pytest.fixture
def dual(tiny_encoder):
    return DualTeacher("dual", tiny_encoder)


@pytest.fixture
def store(tmp_path):
    return ScoreStore(tmp_path / "shared")


@pytest.fixture
def ask(tmp_path, collection, tokens, engine):
    """Scores pairs in a new or named stage folder, and what the stage counted."""

    def asked(teacher, pairs=ALL_PAIRS, *, store=None, at="score", **changes):
        folder = StageFolder(tmp_path / "stages" / at, {})
        settings = {"engine": engine, "shard_batches": 1, "tokens": tokens} | changes
        told = settings.pop("collection", collection)
        scores = score_pairs(teacher, told, pairs, folder=folder, store=store, **settings)
        return scores, folder.metrics

    return asked


@pytest.fixture
def encode(tmp_path, collection, tokens, engine):
    """Embeds texts in a new or named stage folder, and what the stage counted."""

    def encoded(teacher, role, positions, *, store=None, at="embed", **changes):
        folder = StageFolder(tmp_path / "stages" / at, {})
        settings = {"engine": engine, "shard_batches": 1} | changes
        vectors = embed_collection(
            teacher, collection, role, positions, tokens, folder=folder, store=store, **settings
        )
        return vectors, folder.metrics

    return encoded


def plain_scores(ranker, collection, pairs):
    """The oracle: the ranker's own tokenizer and forward, one pair at a time."""
    ranker.eval()
    found = []
    for query, passage in pairs:
        features = ranker.tokenizer(
            collection.queries.texts[query],
            collection.passages.texts[passage],
            truncation=True,
            max_length=ranker.max_length,
            return_tensors="pt",
        )
        with torch.inference_mode():
            found.append(float(ranker(dict(features))))
    return np.array(found, dtype=np.float32)


def test_cross_scores_are_the_rankers_in_the_order_asked(ask, cross, collection):
    pairs = np.random.default_rng(0).permutation(ALL_PAIRS)[:50]
    scores, metrics = ask(cross, pairs)
    np.testing.assert_allclose(scores, plain_scores(cross.ranker, collection, pairs), atol=1e-5)
    assert scores.dtype == np.float32
    assert metrics["hits"] == 0


def test_equal_pairs_are_asked_once(ask, cross):
    # Passage 39 has the text of passage 0, query 11 that of query 0: six pairs, one question.
    pairs = np.array([[0, 0], [0, 39], [11, 0], [11, 39], [0, 0], [11, 0]])
    scores, metrics = ask(cross, pairs)
    assert len(set(scores.tolist())) == 1
    assert metrics["pairs_scored"] == metrics["teacher_forwards"] == 1


def test_dual_scores_are_the_similarity_of_vectors(ask, encode, dual, tokens, engine):
    scores, metrics = ask(dual)
    queries = encode(dual, "query", np.arange(12), at="queries")[0]
    passages = encode(dual, "passage", np.arange(40), at="passages")[0]
    tokens_of_passages = tokens(dual.encoder.tokenizer, "passage", dual.encoder.prompt("passage"))
    oracle = embed(dual.encoder, tokens_of_passages, "passage", engine=engine)
    np.testing.assert_allclose(passages, oracle, atol=1e-5)
    in_batch = queries @ passages.T  # the tiny encoder's vectors have unit length
    np.testing.assert_allclose(scores, in_batch[ALL_PAIRS[:, 0], ALL_PAIRS[:, 1]], atol=1e-5)
    # 11 distinct queries; of the passages 0, 3, ..., 39 the last repeats the first: 13.
    assert metrics["texts_embedded"] == metrics["teacher_forwards"] == 11 + 13


def test_ensemble_adds_standardised_members(ask, cross, dual):
    one, other = ask(cross, at="one")[0], ask(dual, at="other")[0]
    both = EnsembleTeacher.fitted("both", [cross, dual], [1, 3], [one, other])
    scores, metrics = ask(both, at="both")
    expected = (one - one.mean()) / one.std() + 3 * (other - other.mean()) / other.std()
    np.testing.assert_allclose(scores, expected, atol=1e-4)
    assert metrics["pairs_scored"] == 11 * 13
    assert metrics["texts_embedded"] == 24


def test_a_dual_ensembles_vectors_give_its_scores(ask, encode, dual, tiny_encoder):
    with torch.no_grad():
        for weight in tiny_encoder.parameters():
            weight.mul_(1.1)
    other = DualTeacher("other", tiny_encoder)
    members = [dual, other]
    scores = [ask(member, at=f"alone-{at}")[0] for at, member in enumerate(members)]
    both = EnsembleTeacher.fitted("both", members, [1, 0.5], scores)
    assert both.in_batch
    queries = encode(both, "query", np.arange(12), at="queries")[0]
    passages = encode(both, "passage", np.arange(40), at="passages")[0]
    assert both.similarity == "dot"
    in_batch = (queries @ passages.T)[ALL_PAIRS[:, 0], ALL_PAIRS[:, 1]]
    np.testing.assert_allclose(in_batch, ask(both, at="both")[0], atol=1e-4)


def test_only_dual_teachers_have_vectors(encode, cross, dual):
    mixed = EnsembleTeacher("mixed", (dual, cross), (1, 1), (0, 0), (1, 1))
    for at, teacher in enumerate((cross, mixed)):
        assert not teacher.in_batch
        with pytest.raises(StageError, match="no vectors"):
            encode(teacher, "passage", np.arange(3), at=f"none-{at}")


@pytest.mark.parametrize("kind", ["cross", "dual", "ensemble"])
def test_a_second_run_asks_the_teacher_nothing(ask, store, tokens, cross, dual, kind):
    ensemble = EnsembleTeacher("both", (cross, dual), (1, 1), (0, 0), (1, 1))
    teacher = {"cross": cross, "dual": dual, "ensemble": ensemble}[kind]
    first, metrics = ask(teacher, store=store, at="first")
    asked = metrics["teacher_forwards"]
    assert asked > 0
    calls = tokens.calls
    second, metrics = ask(teacher, store=store, at="second")
    assert metrics["teacher_forwards"] == 0
    assert metrics["hits"] == asked
    assert tokens.calls == calls  # not even tokenised
    assert second.tobytes() == first.tobytes()


@pytest.mark.parametrize("kind", ["cross", "ensemble"])
def test_speed_counts_what_was_computed(ask, store, collection, cross, dual, kind):
    ensemble = EnsembleTeacher("both", (cross, dual), (1, 1), (0, 0), (1, 1))
    teacher = {"cross": cross, "ensemble": ensemble}[kind]
    known = ALL_PAIRS[:13]  # all of query 0
    limit = {"engine": Engine("cpu", "fp32", 64, matmul_rate=1e9)}
    first = ask(teacher, known, store=store, at="known", **limit)[1]["speed"]
    found = ask(teacher, store=store, at="whole", **limit)[1]["speed"]
    asked, answered = (
        [len(text.split()) for text in field.texts]
        for field in (collection.queries, collection.passages)
    )
    rest = [(query, passage) for query in range(1, 11) for passage in range(0, 37, 3)]
    pairs = [asked[query] + answered[passage] + 3 for query, passage in rest]
    texts = [asked[query] + 2 for query in range(1, 11)] if kind == "ensemble" else []
    flops = cross.ranker.forward_flops(pairs) + dual.encoder.forward_flops(texts)
    assert found["tokens"] == sum(pairs) + sum(texts)
    assert found["useful_flops"] == pytest.approx(flops)
    assert found["share_of_limit"] == pytest.approx(flops / found["seconds"] / 1e9, rel=1e-3)
    assert 0 < first["tokens"] < found["tokens"]
    nothing = ask(teacher, store=store, at="again", **limit)[1]["speed"]
    assert nothing["tokens"] == nothing["seconds"] == 0
    assert nothing["tokens_per_second"] is nothing["share_of_limit"] is None


def test_what_is_stored_is_used_for_part_of_a_request(ask, encode, store, cross, dual):
    half = ask(cross, ALL_PAIRS[:13], store=store, at="half")[0]
    whole, metrics = ask(cross, store=store, at="whole")
    assert metrics["hits"] == 13
    assert whole[:13].tolist() == half.tolist()
    np.testing.assert_allclose(whole, ask(cross, at="alone")[0], atol=1e-5)
    few = encode(dual, "passage", np.arange(5, 15), store=store, at="few")[0]
    every, metrics = encode(dual, "passage", np.arange(40), store=store, at="every")
    assert metrics["hits"] == 10
    assert every[5:15].tolist() == few.tolist()
    np.testing.assert_allclose(
        every, encode(dual, "passage", np.arange(40), at="alone")[0], atol=1e-5
    )


def test_another_teacher_or_precision_finds_nothing(ask, store, engine, cross):
    ask(cross, store=store, at="first")
    exact = replace(engine, precision="bf16")
    assert ask(cross, store=store, at="bf16", engine=exact)[1]["hits"] == 0
    with torch.no_grad():
        next(iter(cross.ranker.parameters())).mul_(1.01)
    changed = CrossTeacher("cross", cross.ranker)  # a digest is taken once per teacher
    assert ask(changed, store=store, at="changed")[1]["hits"] == 0


def test_without_a_store_nothing_is_shared(ask, tmp_path, monkeypatch, cross, dual):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    for teacher in (cross, dual):
        assert ask(teacher, at=f"{teacher.kind}-1")[1]["teacher_forwards"] > 0
        assert ask(teacher, at=f"{teacher.kind}-2")[1]["hits"] == 0
    assert not (tmp_path / "cache").exists()


def test_a_finished_stage_is_read_back(ask, tokens, cross, collection, tmp_path):
    first, metrics = ask(cross)
    calls = tokens.calls
    again, same = ask(cross)
    assert (again.tobytes(), same, tokens.calls) == (first.tobytes(), metrics, calls)
    table = pl.read_parquet(tmp_path / "stages" / "score" / "scores.parquet")
    assert table["query_id"].to_list() == [f"q{query}" for query in ALL_PAIRS[:, 0]]
    assert table["passage_id"].to_list() == [f"p{passage}" for passage in ALL_PAIRS[:, 1]]
    assert table["score"].to_list() == first.tolist()


def test_a_stage_planned_for_other_work_is_refused(ask, collection, cross):
    ask(cross)
    with pytest.raises(StoreError, match="other texts"):
        ask(cross, ALL_PAIRS[:5])
    texts = [*collection.passages.texts[:-1], "a text that was not there"]
    changed = replace(collection, passages=Texts(collection.passages.ids, texts))
    with pytest.raises(StoreError, match="other texts"):
        ask(cross, collection=changed)


def test_no_pair_and_no_text_are_no_work(ask, encode, cross, dual):
    for teacher in (cross, dual):
        scores, metrics = ask(teacher, np.empty((0, 2), dtype=np.int64), at=teacher.kind)
        assert scores.shape == (0,)
        assert metrics["teacher_forwards"] == 0
    assert encode(dual, "query", np.empty(0, dtype=np.int64))[0].shape == (0, 32)


def test_a_score_that_is_not_finite_names_its_pair(ask, cross, dual, collection, tmp_path):
    # Only pairs with the word "moon" fail: its embedding is made NaN.
    with torch.no_grad():
        for model in (cross.ranker, dual.encoder):
            moon = model.tokenizer.convert_tokens_to_ids("moon")
            model.transformer.get_input_embeddings().weight[moon] = float("nan")
    bad = next(
        at for at, text in enumerate(collection.passages.texts) if text.split().count("moon")
    )
    clean = next(
        at for at, text in enumerate(collection.queries.texts) if "moon" not in text.split()
    )
    pairs = np.array([[clean, 0], [clean, bad], [clean, 1]])
    with pytest.raises(ScoreError, match=rf"query 'q{clean}' and passage 'p{bad}'"):
        ask(cross, pairs)
    with pytest.raises(ScoreError, match=rf"passage 'p{bad}'"):
        ask(dual, pairs, at="dual")
    kept = {path.parent.name for path in (tmp_path / "stages").rglob("shard-*")}
    assert kept == {"queries"}  # the rest was refused before it was kept


@pytest.mark.parametrize("kind", ["cross", "dual"])
def test_a_truncated_shard_is_named(ask, cross, dual, tmp_path, kind):
    teacher = {"cross": cross, "dual": dual}[kind]
    ask(teacher)
    stage = tmp_path / "stages" / "score"
    (stage / "done.json").unlink()  # as a kill would have left it
    shard = sorted(stage.rglob("shard-*"))[1]
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(StoreError, match=shard.name):
        ask(teacher)
    shard.unlink()  # what the message advises
    metrics = ask(teacher)[1]
    assert 0 < metrics["teacher_forwards"] < 24


def test_a_truncated_shard_of_the_store_is_named(ask, store, cross):
    ask(cross, store=store, at="first")
    shard = next(store.root.rglob("*.parquet"))
    shard.write_bytes(shard.read_bytes()[:-10])
    with pytest.raises(StoreError, match=shard.name):
        ask(cross, store=store, at="second")


@pytest.mark.parametrize("kind", ["cross", "dual"])
@pytest.mark.parametrize("room", [100, 700])  # bytes per file: not the plan; not the scores
def test_a_full_disk_is_said_and_what_was_done_is_kept(ask, store, cross, dual, kind, room):
    teacher = {"cross": cross, "dual": dual}[kind]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    folder = StageFolder(store.root.parent / "stages" / "score", {})
    resource.setrlimit(resource.RLIMIT_FSIZE, (room, limits[1]))
    try:
        with pytest.raises(StoreError, match="Cannot write"):
            ask(teacher, store=store)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert not folder.complete
    scores = ask(teacher, store=store)[0]
    assert scores.tolist() == ask(teacher, store=store, at="again")[0].tolist()


ASK = """
import json, sys
from pathlib import Path
import numpy as np
from limbeck.data.collection import Collection, Texts
from limbeck.data.tokens import tokenize_here
from limbeck.inference import Engine
from limbeck.store import StageFolder, read_tensors
from limbeck.teachers.score_store import ScoreStore
from limbeck.teachers.scoring import score_pairs
from limbeck.teachers import load_teacher
told = json.loads(sys.argv[1])
collection = Collection(
    "made-up", *(Texts(*told["texts"][role]) for role in ("passage", "query")), qrels={}
)
def tokens(tokenizer, role, prompt):
    return tokenize_here(told["texts"][role][1], tokenizer, prompt=prompt)
folder = StageFolder(Path(told["folder"]), {})
score_pairs(
    load_teacher(told["model"]), collection, np.array(told["pairs"]), tokens, folder=folder,
    store=ScoreStore(Path(told["store"])), engine=Engine("cpu", told["precision"], 64),
    shard_batches=1,
)
print(json.dumps(folder.metrics))
"""


@pytest.fixture
def process(tmp_path, collection, models):
    """Starts the same scoring in a process of its own."""

    def started(kind, at, *, store, kill_at="", precision="fp32"):
        told = {
            "texts": {
                "passage": [collection.passages.ids, collection.passages.texts],
                "query": [collection.queries.ids, collection.queries.texts],
            },
            "folder": str(tmp_path / at),
            "store": str(tmp_path / store),
            "model": str(models[kind]),
            "pairs": ALL_PAIRS.tolist(),
            "precision": precision,
        }
        log = tmp_path / f"{at.replace('/', '-')}.log"
        return Coded(ASK, json.dumps(told), log=log, kill_at=kill_at)

    return started


def content(folder: Path) -> dict[str, bytes]:
    """Every file of a stage but what a kill leaves over and what counts who did what."""
    names = {path: path.relative_to(folder) for path in sorted(folder.rglob("*")) if path.is_file()}
    return {
        str(name): path.read_bytes()
        for path, name in names.items()
        if name.name != "done.json" and not any(part.startswith(".") for part in name.parts)
    }


def rows(shard: Path) -> int:
    """How many pairs or texts a shard answers."""
    if shard.suffix == ".parquet":
        return len(pl.read_parquet(shard))
    return len(read_tensors(shard)["vectors"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("kind", "precision", "kill_at", "shards_left"),
    [
        ("cross", "fp32", "score:2", 0),  # writing the plan
        ("cross", "bf16", "score:5", 2),  # writing the third shard, after it reached the store
        ("cross", "fp32", "store:3", 1),  # the store's second shard: about.json is its first write
        ("dual", "fp32", "score:7", 3),  # the second shard of the passages
    ],
)
def test_a_killed_stage_resumes_to_the_same_bytes(
    process, ask, models, engine, tmp_path, kind, precision, kill_at, shards_left
):
    killed = process(kind, "stages/killed/score", store="one", precision=precision, kill_at=kill_at)
    assert killed.ended() == -signal.SIGKILL, killed.log.read_text()
    left = sorted((tmp_path / "stages" / "killed").rglob("shard-*"))
    assert len(left) == shards_left
    kept = sum(map(rows, left))

    teacher, engine = load_teacher(str(models[kind])), replace(engine, precision=precision)
    stores = [ScoreStore(tmp_path / name) for name in ("one", "other")]
    resumed = ask(teacher, store=stores[0], at="killed/score", engine=engine)[1]
    straight = ask(teacher, store=stores[1], at="whole/score", engine=engine)[1]
    found = [content(tmp_path / "stages" / at / "score") for at in ("killed", "whole")]
    assert found[0] == found[1]
    # Nothing whole was asked again, and what the store learned since the plan changes nothing.
    assert resumed["teacher_forwards"] == straight["teacher_forwards"] - kept
    assert resumed["answers"] == straight["answers"] == straight["teacher_forwards"]
    assert resumed["hits"] == straight["hits"] == 0
    assert [entry.shards for entry in stores[0].list()] == [
        entry.shards for entry in stores[1].list()
    ]


@pytest.mark.slow
def test_two_runs_write_one_store_at_once(process, ask, models, tmp_path):
    runs = [process("cross", f"stages/{at}", store="store") for at in ("one", "other")]
    assert [run.ended() for run in runs] == [0, 0]
    counted = [json.loads(run.log.read_text().splitlines()[-1]) for run in runs]
    assert all(count["teacher_forwards"] + count["hits"] == 11 * 13 for count in counted)
    teacher, store = load_teacher(str(models["cross"])), ScoreStore(tmp_path / "store")
    third, metrics = ask(teacher, store=store, at="third")
    assert metrics["teacher_forwards"] == 0
    for at in ("one", "other"):
        table = pl.read_parquet(tmp_path / "stages" / at / "scores.parquet")
        np.testing.assert_allclose(table["score"].to_numpy(), third, atol=1e-5)
