"""A model folder of which something is missing is refused, whatever the class that opens it."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from conftest import bert_config, tiny_tokenizer
from limbeck.errors import LimbeckError, ModelError
from limbeck.generation import load_writer
from limbeck.models.exported import load_exported, write_exported
from limbeck.models.graph import to_openvino
from limbeck.models.loading import (
    load_encoder,
    load_late,
    load_ranker,
    load_sparse,
    offline_model,
)
from limbeck.models.whole import refuse_foreign_tokenizer

Opened = tuple[Path, Callable[[Path], Any]]  # a folder that may be damaged, and what opens it


@pytest.fixture(params=["encoder", "ranker", "sparse", "late", "writer", "exported"])
def opened(request: pytest.FixtureRequest, tmp_path: Path) -> Opened:
    folder = tmp_path / "model"
    if request.param == "exported":
        pytest.importorskip("openvino")
        folder.mkdir()
        encoder = load_encoder(request.getfixturevalue("tiny_encoder_folder"))
        write_exported(encoder, to_openvino(encoder), folder, "openvino")
        return folder, load_exported
    shutil.copytree(request.getfixturevalue(f"tiny_{request.param}_folder"), folder)
    return folder, {
        "encoder": load_encoder,
        "ranker": load_ranker,
        "sparse": load_sparse,
        "late": load_late,
        "writer": load_writer,
    }[request.param]


def edit_tokenizer(folder: Path, change: Callable[[Any], None]) -> None:
    path = folder / "tokenizer.json"
    value = json.loads(path.read_text())
    change(value)
    path.write_text(json.dumps(value))


def test_without_its_vocabulary_no_model_opens(opened: Opened) -> None:
    folder, load = opened
    load(folder)
    (folder / "tokenizer.json").unlink()
    with pytest.raises(LimbeckError, match=r"tokenizer\.json") as caught:
        load(folder)
    assert str(folder) in str(caught.value)


def test_without_a_special_token_no_model_opens(opened: Opened) -> None:
    def forget(value: Any) -> None:
        value["model"]["vocab"].pop("[SEP]")
        value["added_tokens"] = [
            token for token in value["added_tokens"] if token["content"] != "[SEP]"
        ]

    folder, load = opened
    edit_tokenizer(folder, forget)
    with pytest.raises(LimbeckError, match=r"tokenizer\.json"):
        load(folder)


def test_the_vocabulary_of_another_model_is_refused(tmp_path: Path) -> None:
    """Half the words, or every number moved by one: seen on all-MiniLM-L6-v2, of 30,522 tokens."""

    def halve(value: Any) -> None:
        words = value["model"]["vocab"]
        value["model"]["vocab"] = {word: at for word, at in words.items() if at < 15_000}

    def move(value: Any) -> None:
        words = value["model"]["vocab"]
        value["model"]["vocab"] = {word: at + (at > 1000) for word, at in words.items()}

    for number, (change, match) in enumerate(
        (
            (halve, r"tokenizer\.json knows 15,000 tokens, but the weights .* of 30,522"),
            (move, r"tokenizer\.json numbers its tokens up to 30,522, but the weights"),
        )
    ):
        folder = Path(shutil.copytree(offline_model(), tmp_path / str(number)))
        edit_tokenizer(folder, change)
        with pytest.raises(ModelError, match=match):
            load_encoder(folder)


def test_a_vocabulary_in_its_older_file_is_one(tmp_path: Path) -> None:
    folder = Path(shutil.copytree(offline_model(), tmp_path / "model"))
    (folder / "tokenizer.json").unlink()
    assert len(load_encoder(folder).tokenizer) == 30_522
    (folder / "vocab.txt").write_text("[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\na\n")
    with pytest.raises(ModelError, match=r"vocab\.txt knows 6 tokens"):
        load_encoder(folder)


@pytest.mark.parametrize(
    ("spare", "fits"), [(0, True), (64, True), (128, True), (129, False), (-1, False)]
)
def test_a_table_may_be_padded_but_not_far_longer_or_shorter(
    spare: int, fits: bool, tmp_path: Path
) -> None:
    from transformers import BertModel

    tokenizer = tiny_tokenizer()
    tokenizer.save_pretrained(tmp_path)
    with torch.random.fork_rng():
        model = BertModel(bert_config(1, vocab_size=len(tokenizer) + spare))
    if fits:
        refuse_foreign_tokenizer(tokenizer, tmp_path, model)
    else:
        with pytest.raises(ModelError, match="the weights have embeddings of"):
            refuse_foreign_tokenizer(tokenizer, tmp_path, model)


def test_a_mask_token_that_no_text_has_needs_no_embedding(tmp_path: Path) -> None:
    """transformers adds BERT's mask to a vocabulary without one, after its last number."""
    from transformers import AutoTokenizer, BertModel

    tiny_tokenizer().save_pretrained(tmp_path)

    def forget(value: Any) -> None:
        words = [word for word in value["model"]["vocab"] if word != "[MASK]"]
        value["model"]["vocab"] = {word: at for at, word in enumerate(words)}
        value["added_tokens"] = [
            token for token in value["added_tokens"] if token["content"] != "[MASK]"
        ]
        value["post_processor"]["special_tokens"] = {
            "[CLS]": {"id": "[CLS]", "ids": [2], "tokens": ["[CLS]"]},
            "[SEP]": {"id": "[SEP]", "ids": [3], "tokens": ["[SEP]"]},
        }

    edit_tokenizer(tmp_path, forget)
    tokenizer = AutoTokenizer.from_pretrained(tmp_path)
    rows = tokenizer.backend_tokenizer.get_vocab_size(with_added_tokens=False)
    assert tokenizer.mask_token_id == rows
    with torch.random.fork_rng():
        model = BertModel(bert_config(1, vocab_size=rows))
    refuse_foreign_tokenizer(tokenizer, tmp_path, model)


@pytest.mark.parametrize(
    "name",
    ["config_sentence_transformers.json", "sentence_bert_config.json", "tokenizer_config.json"],
)
def test_files_that_the_library_would_do_without_are_missed(
    name: str, tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_encoder_folder, tmp_path / "model"))
    (folder / name).unlink()
    with pytest.raises(ModelError, match=f"is not whole: {name} is missing"):
        load_encoder(f"SentenceTransformer:{folder}")
