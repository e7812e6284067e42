"""Readers score as plain sentence-transformers does, and open whole or not at all."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import safetensors.torch
import torch

from limbeck.errors import ModelError, ScoreError
from limbeck.models.loading import kind_of, load_late, load_sparse
from limbeck.models.reading import LateReader, Reader, SparseReader

QUERIES = ["find the old files", "cat dog", "", "sea " * 30]
PASSAGES = ["red sun, moon. list files!", "a", "bird fish cat dog sea star " * 12]


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.fixture(params=["sparse", "late"])
def reader(request: Any, tiny_sparse_folder: Path, tiny_late_folder: Path) -> Reader:
    if request.param == "sparse":
        return load_sparse(tiny_sparse_folder)
    return load_late(tiny_late_folder)


def scores_of(reader: Reader) -> torch.Tensor:
    """All queries with all passages, by the reader: [4, 3]."""
    queries, passages = reader.read(QUERIES, "query"), reader.read(PASSAGES, "passage")
    return torch.stack([torch.from_numpy(reader.scores(queries, each)) for each in passages], dim=1)


def scores_there(model: Any) -> torch.Tensor:
    """The same by plain sentence-transformers, a text at a time."""
    queries = [model.encode_query([text]) for text in QUERIES]
    passages = [model.encode_document([text]) for text in PASSAGES]
    rows = [torch.cat([model.similarity(one, other) for other in passages], 1) for one in queries]
    return torch.cat(rows)


def test_scores_are_those_of_sentence_transformers(reader: Reader) -> None:
    expected = scores_there(reader.model)
    assert expected.std() > 0.1
    torch.testing.assert_close(scores_of(reader), expected, rtol=1e-5, atol=1e-4)


@pytest.mark.filterwarnings("ignore:Sparse invariant checks")  # of torch, in the comparison
@pytest.mark.parametrize(("kind", "name"), [("sparse", "cosine"), ("late", "meanmaxsim")])
def test_and_so_they_are_where_they_lie_between_minus_one_and_one(
    kind: str, name: str, tiny_sparse_folder: Path, tiny_late_folder: Path, tmp_path: Path
) -> None:
    folders = {"sparse": tiny_sparse_folder, "late": tiny_late_folder}
    folder = Path(shutil.copytree(folders[kind], tmp_path / "model"))
    edit(folder / "config_sentence_transformers.json", similarity_fn_name=name)
    reader = load_sparse(folder) if kind == "sparse" else load_late(folder)
    assert reader.score_unit == name
    found = scores_of(reader)
    torch.testing.assert_close(found, scores_there(reader.model), rtol=1e-5, atol=1e-5)
    assert found.abs().max() <= 1 + 1e-5


def test_a_sparse_encoder_of_another_similarity_is_refused(
    tiny_sparse_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_sparse_folder, tmp_path / "model"))
    edit(folder / "config_sentence_transformers.json", similarity_fn_name="euclidean")
    with pytest.raises(ModelError, match="compares texts by euclidean"):
        load_sparse(folder)


def test_late_readings_have_the_tokens_that_count(tiny_late_folder: Path) -> None:
    """Queries are filled up to 12 tokens; of a passage punctuation is skipped (here , . and !)."""
    reader = load_late(tiny_late_folder)
    assert [len(rows) for (rows,) in reader.read(["cat", "sea sun"], "query")] == [12, 12]
    with_marks, without = reader.read(["red sun, moon. list!", "red sun moon list"], "passage")
    assert len(with_marks[0]) == len(without[0]) == 2 + 4


def test_a_passage_of_which_nothing_counts_has_no_score(tiny_late_folder: Path) -> None:
    reader = load_late(tiny_late_folder)
    mask = reader.model[2]
    mask.skiplist_words = [*mask.skiplist_words, "[CLS]", "[SEP]"]
    mask.resolve_with_tokenizer(reader.tokenizer)
    [empty, other] = reader.read(["...", "cat ..."], "passage")
    queries = reader.read(["cat"], "query")
    assert len(reader.scores(queries, other)) == 1
    with pytest.raises(ScoreError, match="skips every token"):
        reader.scores(queries, empty)


def test_saved_is_reloaded_and_equal(reader: Reader, tmp_path: Path) -> None:
    before = reader.config_digest()
    expected = scores_of(reader)
    assert reader.config_digest() == before  # reading leaves no trace
    again = []
    for name in ("one", "two"):
        reader.save(tmp_path / name, card="# A teacher\n", stage="teacher")
        load = load_sparse if reader.kind == "sparse" else load_late
        again.append(load(tmp_path / name))
        reader = again[-1]
    for each in again:
        assert each.config_digest() == before
        assert each.weights_digest() == reader.weights_digest()
        assert torch.equal(scores_of(each), expected)
    files = [path for path in (tmp_path / "one").rglob("*") if path.is_file()]
    for path in files:
        there = tmp_path / "two" / path.relative_to(tmp_path / "one")
        assert path.read_bytes() == there.read_bytes()


def test_the_digest_follows_what_shapes_a_score(
    tiny_late_folder: Path, tiny_sparse_folder: Path
) -> None:
    late = load_late(tiny_late_folder)
    digests = {late.config_digest()}
    late.model[0].query_expansion = None
    digests.add(late.config_digest())
    late.model[2].skiplist_words = []
    digests.add(late.config_digest())
    late.model.similarity_fn_name = "meanmaxsim"
    digests.add(late.config_digest())
    sparse = load_sparse(tiny_sparse_folder)
    digests.add(sparse.config_digest())
    sparse.model.max_active_dims = 8
    digests.add(sparse.config_digest())
    assert len(digests) == 6


# --- what opens ----------------------------------------------------------------------------------


def test_a_bare_language_model_is_a_sparse_encoder_when_the_user_says_so(
    tiny_sparse_folder: Path,
) -> None:
    reader = load_sparse(f"SparseEncoder:{tiny_sparse_folder.parent / 'body'}")
    assert isinstance(reader, SparseReader)
    assert reader.weights_digest() == load_sparse(tiny_sparse_folder).weights_digest()


def test_a_folder_that_pylate_saved_opens(tiny_late_folder: Path, tmp_path: Path) -> None:
    """Its parts end at the projection, and the rest stands in the config."""
    folder = Path(shutil.copytree(tiny_late_folder, tmp_path / "model"))
    modules = json.loads((folder / "modules.json").read_text())[:2]
    modules[1]["type"] = "pylate.models.Dense.Dense"
    (folder / "modules.json").write_text(json.dumps(modules))
    said = {"model_type": "ColBERT", "similarity_fn_name": "MaxSim", "query_prefix": "query "}
    edit(folder / "config_sentence_transformers.json", **said)
    assert kind_of(folder) == "MultiVectorEncoder"
    reader = load_late(folder)
    assert isinstance(reader, LateReader)
    assert reader.weights_digest() == load_late(tiny_late_folder).weights_digest()
    torch.testing.assert_close(scores_of(reader), scores_there(reader.model))


def test_parts_that_would_be_random_are_refused(
    tiny_late_folder: Path, tiny_sparse_folder: Path, tiny_encoder_folder: Path
) -> None:
    body = tiny_late_folder.parent / "body"
    with pytest.raises(ModelError, match="its Dense are not in the folder and would be random"):
        load_late(f"MultiVectorEncoder:{body}")
    with pytest.raises(ModelError, match="its SparseAutoEncoder are not in the folder"):
        load_sparse(f"SparseEncoder:{body}")
    # the folder says what it is, whatever the user says
    for spec, load, found in (
        (f"MultiVectorEncoder:{tiny_encoder_folder}", load_late, "SentenceTransformer"),
        (f"SparseEncoder:{tiny_late_folder}", load_sparse, "MultiVectorEncoder"),
        (f"MultiVectorEncoder:{tiny_sparse_folder}", load_late, "SparseEncoder"),
    ):
        with pytest.raises(ModelError, match=f"is a {found}; a"):
            load(spec)


def test_weights_that_are_missing_are_refused(
    tiny_late_folder: Path, tiny_sparse_folder: Path, tmp_path: Path
) -> None:
    sparse = Path(shutil.copytree(tiny_sparse_folder, tmp_path / "sparse"))
    weights = safetensors.torch.load_file(sparse / "model.safetensors")
    weights = {name: value for name, value in weights.items() if "transform.dense" not in name}
    safetensors.torch.save_file(weights, sparse / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match="are not in the file and would be random"):
        load_sparse(sparse)
    late = Path(shutil.copytree(tiny_late_folder, tmp_path / "late"))
    (late / "1_Dense" / "model.safetensors").unlink()
    with pytest.raises(ModelError, match="cannot be opened as a model"):
        load_late(late)
