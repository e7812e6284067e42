import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from limbeck.data.tokens import tokenize_here
from limbeck.errors import StoreError
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.loading import load_encoder, load_ranker, offline_model
from limbeck.store import digest_folder

TEXTS = [
    "how to find the largest files on disk",
    "cat",
    "",
    "The moon and the sea; 😀 größe. " * 20,  # longer than the model reads
]


def vectors(encoder: Encoder, texts: list[str]) -> np.ndarray:
    tokens = tokenize_here(texts, encoder.tokenizer, prompt=encoder.prompt("query"))
    features = encoder.collator("query").singles([tokens[i] for i in range(len(texts))])
    with torch.inference_mode():
        found: np.ndarray = encoder(features).numpy()
    return found


def digest_of(model: Encoder | Ranker, folder: Path) -> str:
    model.save(folder, card="# A model\n", stage="test")
    found = digest_folder(folder)
    shutil.rmtree(folder)
    return found


def test_what_an_encoder_says_of_itself(tiny_encoder: Encoder) -> None:
    assert tiny_encoder.dimension == 32
    assert tiny_encoder.similarity == "cosine"
    assert tiny_encoder.max_length == 48
    assert tiny_encoder.collator("passage").max_length == 48


def test_vectors_are_those_of_sentence_transformers(
    tiny_encoder: Encoder, tiny_encoder_folder: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(tiny_encoder_folder), device="cpu")
    expected = theirs.encode(TEXTS, batch_size=len(TEXTS))
    np.testing.assert_allclose(vectors(tiny_encoder, TEXTS), expected, atol=1e-5)


def test_the_offline_model_gives_the_vectors_of_sentence_transformers() -> None:
    from sentence_transformers import SentenceTransformer

    theirs = SentenceTransformer(str(offline_model()), device="cpu")
    expected = theirs.encode(TEXTS, batch_size=len(TEXTS))
    np.testing.assert_allclose(vectors(load_encoder("offline"), TEXTS), expected, atol=1e-5)


def test_prompts_are_those_of_encode_query(tiny_encoder_folder: Path, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    prompted = SentenceTransformer(
        str(tiny_encoder_folder), device="cpu", prompts={"query": "search query: "}
    )
    prompted.save(str(tmp_path / "model"))
    found = vectors(load_encoder(tmp_path / "model"), TEXTS)
    expected = prompted.encode_query(TEXTS, batch_size=len(TEXTS))
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert np.abs(found - prompted.encode(TEXTS)).max() > 1e-3


def test_a_ranker_gives_the_raw_logits(tiny_ranker: Ranker, tiny_ranker_folder: Path) -> None:
    from sentence_transformers import CrossEncoder

    pairs = [(query, passage) for query in TEXTS[:2] for passage in TEXTS]
    theirs = CrossEncoder(str(tiny_ranker_folder), device="cpu")
    expected = theirs.predict(pairs, activation_fn=torch.nn.Identity(), batch_size=len(pairs))
    queries = tokenize_here([query for query, _ in pairs], tiny_ranker.tokenizer)
    passages = tokenize_here([passage for _, passage in pairs], tiny_ranker.tokenizer)
    features = tiny_ranker.collator.pairs(
        [queries[i] for i in range(len(pairs))], [passages[i] for i in range(len(pairs))]
    )
    with torch.inference_mode():
        logits = tiny_ranker(features)
    assert logits.shape == (len(pairs),)
    np.testing.assert_allclose(logits.numpy(), expected, atol=1e-5)


def test_saved_is_reloaded_by_us_and_by_sentence_transformers(
    tiny_encoder: Encoder, tiny_ranker: Ranker, tmp_path: Path
) -> None:
    from sentence_transformers import CrossEncoder, SentenceTransformer

    tiny_encoder.save(tmp_path / "encoder", card="# An encoder\n", stage="test")
    assert (tmp_path / "encoder" / "README.md").read_text() == "# An encoder\n"
    again = load_encoder(tmp_path / "encoder")
    assert again.weights_digest() == tiny_encoder.weights_digest()
    assert again.config_digest() == tiny_encoder.config_digest()
    plain = SentenceTransformer(str(tmp_path / "encoder"), device="cpu")
    assert plain.similarity_fn_name == "cosine"
    np.testing.assert_allclose(
        plain.encode(TEXTS, batch_size=4), vectors(tiny_encoder, TEXTS), atol=1e-5
    )

    tiny_ranker.save(tmp_path / "ranker", card="# A ranker\n", stage="test")
    ranker = load_ranker(tmp_path / "ranker")
    assert ranker.weights_digest() == tiny_ranker.weights_digest()
    assert ranker.config_digest() == tiny_ranker.config_digest()
    scores = CrossEncoder(str(tmp_path / "ranker"), device="cpu").predict([("cat", "the dog")])
    assert isinstance(ranker.model.activation_fn, torch.nn.Identity)
    tokens = tokenize_here(["cat", "the dog"], ranker.tokenizer)
    with torch.inference_mode():
        expected = ranker(ranker.collator.pairs([tokens[0]], [tokens[1]]))
    np.testing.assert_allclose(scores, expected, atol=1e-5)  # no sigmoid over our raw scores


def test_equal_models_give_equal_bytes(
    tiny_encoder: Encoder, tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    expected = digest_of(tiny_encoder, tmp_path / "a")
    used = load_encoder(shutil.copytree(tiny_encoder_folder, tmp_path / "elsewhere"))
    used.tokenizer(
        TEXTS, truncation=True, padding="max_length", max_length=8, stride=2, pad_to_multiple_of=4
    )
    used.model.encode(TEXTS)
    used.tokenizer.backend_tokenizer.enable_truncation(5)
    used.tokenizer.backend_tokenizer.enable_padding(length=12)
    used.tokenizer.model_max_length = 11
    used.tokenizer.init_kwargs |= {"max_length": 9, "name_or_path": "/home/someone", "stride": 1}
    used.transformer.config._name_or_path = "/home/someone"
    used.train()
    assert digest_of(used, tmp_path / "b") == expected
    used.save(tmp_path / "c", card="# A model\n", stage="test")
    again = load_encoder(tmp_path / "c")
    assert digest_of(again, tmp_path / "d") == expected  # a second round changes nothing more


def test_equal_rankers_give_equal_bytes(
    tiny_ranker: Ranker, tiny_ranker_folder: Path, tmp_path: Path
) -> None:
    expected = digest_of(tiny_ranker, tmp_path / "a")
    assert digest_of(load_ranker(tiny_ranker_folder.parent / "model"), tmp_path / "b") == expected
    tiny_ranker.save(tmp_path / "c", card="# A model\n", stage="test")
    assert digest_of(load_ranker(tmp_path / "c"), tmp_path / "d") == expected


def test_saved_files_tell_no_time_path_or_version(tiny_encoder: Encoder, tmp_path: Path) -> None:
    import sentence_transformers
    import transformers

    folder = tmp_path / "saved"
    tiny_encoder.save(folder, card="# A model\n", stage="test")
    for path in folder.rglob("*.json"):
        text = path.read_text()
        for word in (
            *(transformers.__version__, sentence_transformers.__version__, torch.__version__),
            *("_version", "__version__", "name_or_path", "/tmp", str(tmp_path)),
        ):
            assert word not in text, f"{path.name} holds {word}"


def test_digests_tell_models_apart(tiny_encoder: Encoder) -> None:
    other = tiny_encoder.frozen()
    assert other.weights_digest() == tiny_encoder.weights_digest()
    assert other.config_digest() == tiny_encoder.config_digest()
    with torch.no_grad():
        next(other.parameters())[0, 0] += 1
    assert other.weights_digest() != tiny_encoder.weights_digest()
    other.max_length = 20
    assert other.config_digest() != tiny_encoder.config_digest()


def test_a_lower_maximum_length_is_kept(tiny_encoder: Encoder, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    tiny_encoder.max_length = 10
    tiny_encoder.save(tmp_path / "short", card="", stage="test")
    assert load_encoder(tmp_path / "short").max_length == 10
    expected = SentenceTransformer(str(tmp_path / "short"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(vectors(tiny_encoder, TEXTS), expected, atol=1e-5)


def test_frozen_is_a_copy_without_gradients(tiny_encoder: Encoder) -> None:
    tiny_encoder.train()
    frozen = tiny_encoder.frozen()
    assert not frozen.training
    assert not any(parameter.requires_grad for parameter in frozen.parameters())
    assert tiny_encoder.training
    assert all(parameter.requires_grad for parameter in tiny_encoder.parameters())
    assert next(frozen.parameters()).data_ptr() != next(tiny_encoder.parameters()).data_ptr()


def test_forward_leaves_its_input_alone_and_takes_gradients(tiny_encoder: Encoder) -> None:
    tokens = tokenize_here(TEXTS[:2], tiny_encoder.tokenizer)
    features = tiny_encoder.collator("query").singles([tokens[0], tokens[1]])
    names = set(features)
    tiny_encoder(features).sum().backward()
    assert set(features) == names
    assert any(parameter.grad is not None for parameter in tiny_encoder.parameters())


def test_an_unwritable_place_is_told(tiny_encoder: Encoder, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="Cannot write"):
        tiny_encoder.save(tmp_path / "file" / "model", card="", stage="test")
