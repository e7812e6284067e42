import os
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from limbeck.errors import ConfigError, StoreError
from limbeck.teachers.score_store import ScoreStore, text_keys
from processes import Coded


@pytest.fixture
def store(tmp_path):
    return ScoreStore(tmp_path / "shared")


QUERIES = text_keys(["a", "a", "b"])
PASSAGES = text_keys(["x", "y", "x"])
SCORES = np.array([1.5, -2.0, 0.25], dtype=np.float32)


def test_key_is_128_bits_of_blake2b_over_utf8():
    [key] = text_keys(["abc"])
    assert key.hex() == "cf4ab791c62b8d2b2109c90275287816"
    assert len(set(text_keys(["", "\u00e9", "e\u0301", "漢", "\udc80"]))) == 5


def test_scores_come_back_and_only_for_their_pair_and_teacher(store):
    assert np.isnan(store.scores_of("t1", QUERIES, PASSAGES)).all()
    store.add_scores("t1", "one", QUERIES, PASSAGES, SCORES)
    assert store.scores_of("t1", QUERIES, PASSAGES).tolist() == SCORES.tolist()
    assert np.isnan(store.scores_of("t2", QUERIES, PASSAGES)).all()
    mixed = store.scores_of("t1", text_keys(["b", "b", "a"]), text_keys(["y", "x", "y"]))
    assert np.isnan(mixed[0])
    assert mixed[1:].tolist() == [0.25, -2.0]


def test_a_pair_is_not_its_mirror(store):
    store.add_scores("t", "t", text_keys(["a"]), text_keys(["x"]), SCORES[:1])
    assert np.isnan(store.scores_of("t", text_keys(["x"]), text_keys(["a"]))).all()


def test_vectors_come_back_for_every_place_of_a_text(store):
    rows = np.arange(6, dtype=np.float32).reshape(3, 2)
    store.add_vectors("t", "t", text_keys(["a", "b", "c"]), rows)
    store.add_vectors("t", "t", text_keys(["d"]), rows[:1] + 10)
    positions, vectors = store.vectors_of("t", text_keys(["c", "?", "a", "c", "d"]))
    assert positions.tolist() == [0, 2, 3, 4]
    assert vectors.tolist() == [[4, 5], [0, 1], [4, 5], [10, 11]]
    positions, vectors = store.vectors_of("t", text_keys(["?"]))
    assert len(positions) == 0
    assert len(vectors) == 0


def test_shards_that_disagree_are_read_alike_whoever_wrote_first(tmp_path):
    found = []
    for name, order in (("one", (1.0, 2.0)), ("other", (2.0, 1.0))):
        store = ScoreStore(tmp_path / name)
        for score in order:
            store.add_scores("t", "t", QUERIES[:1], PASSAGES[:1], np.float32([score]))
            store.add_vectors("t", "t", QUERIES[:1], np.float32([[score]]))
        vectors = store.vectors_of("t", QUERIES[:2])[1]
        assert len({float(value) for value in vectors[:, 0]}) == 1
        found.append((store.scores_of("t", QUERIES[:1], PASSAGES[:1]).tolist(), vectors.tolist()))
    assert found[0] == found[1]


def test_the_same_shard_twice_is_one_file(store):
    for _ in range(2):
        store.add_scores("t", "t", QUERIES, PASSAGES, SCORES)
    assert store.list()[0].shards == 1


@pytest.mark.parametrize("kind", ["scores", "vectors"])
@pytest.mark.parametrize("harm", ["truncate", "flip"])
def test_a_damaged_shard_is_named(store, kind, harm):
    store.add_scores("t", "t", QUERIES, PASSAGES, SCORES)
    store.add_vectors("t", "t", QUERIES[1:], np.ones((2, 4), dtype=np.float32))
    [shard] = [path for path in (store.root / kind / "t").iterdir() if path.name != "about.json"]
    content = bytearray(shard.read_bytes())
    if harm == "truncate":
        content = content[: len(content) // 2]
    else:
        content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    read = partial(store.scores_of, passages=PASSAGES) if kind == "scores" else store.vectors_of
    with pytest.raises(StoreError, match=shard.name):
        read("t", QUERIES)


def test_list_and_prune(store):
    assert store.list() == []
    store.add_scores("a" * 64, "cross-teacher", QUERIES, PASSAGES, SCORES)
    store.add_vectors("b" * 64, "dual-teacher", QUERIES[1:], np.ones((2, 4), dtype=np.float32))
    listed = store.list()
    assert [(entry.kind, entry.name, entry.shards) for entry in listed] == [
        ("scores", "cross-teacher", 1),
        ("vectors", "dual-teacher", 1),
    ]
    assert all(entry.bytes > 0 for entry in listed)
    with pytest.raises(ConfigError, match="store list"):
        store.prune(["c" * 64])
    with pytest.raises(ConfigError, match="6 letters"):
        store.prune(["a"])
    assert len(store.list()) == 2
    assert [entry.digest for entry in store.prune(["aaaaaa", "a" * 64])] == ["a" * 64]
    assert [entry.kind for entry in store.list()] == ["vectors"]
    assert np.isnan(store.scores_of("a" * 64, QUERIES, PASSAGES)).all()


def test_default_place_follows_the_cache_folder(monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", "/somewhere")
    assert ScoreStore.default().root == Path("/somewhere/limbeck")
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", "/home/of")
    assert ScoreStore.default().root == Path("/home/of/.cache/limbeck")


WRITER = """
import sys
import time
from functools import partial
from pathlib import Path
import numpy as np
from limbeck.teachers.score_store import ScoreStore, text_keys
store, me = ScoreStore(Path(sys.argv[1])), int(sys.argv[2])
for shard in range(20):
    # Half of what the two say is the same, half is their own.
    queries = text_keys([f"q{shard}", f"q{shard} of {me}"])
    scores = np.array([shard, shard + me], dtype=np.float32)
    store.add_scores("t", "t", queries, text_keys(["p", "p"]), scores)
    store.add_scores("t", "t", queries[:1], text_keys(["p"]), scores[:1])
    store.add_vectors("t", "t", queries, np.repeat(scores[:, None], 3, axis=1))
    store.scores_of("t", queries, text_keys(["p", "p"]))
"""


def test_two_writers_at_once(store, tmp_path):
    writers = [Coded(WRITER, store.root, me, log=tmp_path / f"log-{me}") for me in (1, 2)]
    assert [writer.ended() for writer in writers] == [0, 0]
    for me in (1, 2):
        names = [text for shard in range(20) for text in (f"q{shard}", f"q{shard} of {me}")]
        expected = [float(score) for shard in range(20) for score in (shard, shard + me)]
        found = store.scores_of("t", text_keys(names), text_keys(["p"] * len(names)))
        assert found.tolist() == expected
        assert store.vectors_of("t", text_keys(names))[1][:, 0].tolist() == expected
    assert not list(store.root.rglob(".tmp-*"))


PRUNER = """
import sys
import time
from pathlib import Path
from limbeck.errors import ConfigError
from limbeck.teachers.score_store import ScoreStore
store = ScoreStore(Path(sys.argv[1]))
print("begun", flush=True)
while not Path(sys.argv[2]).exists():
    try:
        store.prune(["t" * 64])
    except ConfigError:
        pass  # nothing is stored just now
"""


def test_pruning_beside_a_reader_and_a_writer_costs_what_was_pruned_and_nothing_else(
    store, tmp_path
):
    digest, stop = "t" * 64, tmp_path / "stop"
    command = [sys.executable, "-c", PRUNER, str(store.root), str(stop)]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as pruner:
        try:
            pruner.stdout.readline()
            for at in range(100):
                queries = text_keys([f"q{at}", f"r{at}"])
                scores = np.array([at, at + 0.5], dtype=np.float32)
                store.add_scores(digest, "t", queries, PASSAGES[:2], scores)
                store.add_vectors(digest, "t", queries, scores[:, None])
                found = store.scores_of(digest, queries, PASSAGES[:2])
                assert np.isnan(found).all() or found.tolist() == scores.tolist()
                vectors = store.vectors_of(digest, queries)[1]
                assert vectors.ravel().tolist() in ([], scores.tolist())
                assert store.known_texts(digest, queries) in (0, 2)
                assert all(entry.digest == digest for entry in store.list())
        finally:
            stop.touch()
    assert pruner.returncode == 0


def test_what_a_killed_writer_left_goes_when_nobody_wrote_to_it_for_a_day(store):
    store.add_scores("t" * 64, "t", QUERIES, PASSAGES, SCORES)
    folder = store.root / "scores" / ("t" * 64)
    for name, hours in ((".tmp-9-x.parquet", 25), (".tmp-10-y.parquet", 23)):
        (folder / name).write_bytes(b"half")
        os.utime(folder / name, times=(time.time() - hours * 3600,) * 2)
    ScoreStore(store.root).add_scores("t" * 64, "t", QUERIES[:1], PASSAGES[:1], SCORES[:1])
    assert [path.name for path in folder.glob(".tmp-*")] == [".tmp-10-y.parquet"]
    os.utime(folder / ".tmp-10-y.parquet", times=(0, 0))
    store.add_scores("u" * 64, "u", QUERIES, PASSAGES, SCORES)
    store.prune(["u" * 64])  # whatever is pruned
    assert not list(store.root.rglob(".tmp-*"))
