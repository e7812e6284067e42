import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from limbeck.data.tokens import tokenize_here
from limbeck.errors import ModelError
from limbeck.models.encoder import Encoder
from limbeck.models.loading import kind_of, load_encoder, load_ranker
from limbeck.models.prompts import missing_prompts, with_prompts
from limbeck.types import Role

TEXTS = ["find the old files", "cat"]
E5 = ("query: ", "passage: ")


def vectors(encoder: Encoder, role: Role) -> np.ndarray:
    tokens = tokenize_here(TEXTS, encoder.tokenizer, prompt=encoder.prompt(role))
    features = encoder.collator(role).singles([tokens[0], tokens[1]])
    found: np.ndarray = encoder.eval()(features).detach().numpy()
    return found


def test_prompts_are_kept_where_sentence_transformers_finds_them(
    tiny_encoder: Encoder, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    prompted = with_prompts(tiny_encoder, "query: ", "passage: ")
    assert tiny_encoder.prompt("query") == ""  # the encoder is left alone
    assert prompted.max_length == tiny_encoder.max_length
    prompted.save(tmp_path / "student", card="", stage="test")
    again = load_encoder(tmp_path / "student")
    theirs = SentenceTransformer(str(tmp_path / "student"), device="cpu")
    for role, encode in (("query", theirs.encode_query), ("passage", theirs.encode_document)):
        expected = encode(TEXTS, batch_size=2)
        np.testing.assert_allclose(vectors(again, role), expected, atol=1e-5)
        assert np.abs(vectors(tiny_encoder, role) - expected).max() > 1e-3


def test_one_prompt_leaves_the_other(tiny_encoder: Encoder) -> None:
    prompted = with_prompts(with_prompts(tiny_encoder, *E5), "search: ", None)
    assert [prompted.prompt(role) for role in ("query", "passage")] == ["search: ", "passage: "]


def test_prompts_that_the_pooling_leaves_out_are_refused(
    tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    folder = Path(shutil.copytree(tiny_encoder_folder, tmp_path / "model"))
    path = folder / "1_Pooling" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "include_prompt": False}))
    with pytest.raises(ModelError, match="leaves its prompts out of its pooling"):
        with_prompts(load_encoder(folder), *E5)


@pytest.mark.parametrize(
    ("name", "query"),
    [
        ("intfloat/e5-base-v2", "query: "),
        ("/models/multilingual-e5-small", "query: "),
        ("/models/multilingual-e5-large-instruct", None),
        ("BAAI/bge-small-en-v1.5", "Represent this sentence for searching relevant passages: "),
        ("/models/e5-base/my-own", None),  # of a folder only its own name counts
        ("BAAI/bge-m3", None),
        ("offline", None),
    ],
)
def test_who_was_trained_with_prompts_is_told_by_name(
    name: str, query: str | None, tiny_encoder: Encoder
) -> None:
    found = missing_prompts(name, tiny_encoder)
    assert (found and found[0]) == query
    assert missing_prompts(name, with_prompts(tiny_encoder, "q: ", None)) is None


def test_or_by_the_name_in_its_configuration(tiny_encoder_folder: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(tiny_encoder_folder, tmp_path / "mine"))
    path = folder / "config.json"
    config = json.loads(path.read_text()) | {"_name_or_path": "intfloat/e5-small-v2"}
    path.write_text(json.dumps(config))
    assert missing_prompts(str(folder), load_encoder(folder)) == E5


@pytest.mark.parametrize(
    ("task", "cls"),
    [("FEATURE_EXTRACTION", "FeatureExtraction"), ("SEQ_CLS", "SequenceClassification")],
)
def test_an_adapter_is_refused_with_how_to_merge_it(task: str, cls: str, tmp_path: Path) -> None:
    """The two files that peft writes, whatever stands beside them."""
    about = {"peft_type": "LORA", "base_model_name_or_path": "some/base", "task_type": task, "r": 8}
    (tmp_path / "adapter_config.json").write_text(json.dumps(about))
    (tmp_path / "adapter_model.safetensors").write_bytes(b"")
    for opened in (kind_of, load_encoder, load_ranker):
        with pytest.raises(
            ModelError, match=rf"\(LoRA\) to some/base.*AutoPeftModelFor{cls}"
        ) as caught:
            opened(tmp_path)
        assert "merge_and_unload" in str(caught.value)
