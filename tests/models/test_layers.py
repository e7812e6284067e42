import string
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import normalize

from limbeck.data.tokens import tokenize_here
from limbeck.errors import ConfigError, ModelError
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.layers import (
    chosen_layers,
    cut_layers,
    depth_of,
    layer_count,
    logits_by_layer,
    ranker_from_encoder,
    vectors_by_layer,
    with_dimension,
)
from limbeck.models.loading import load_encoder, load_ranker

TEXTS = ["how to find the largest files", "cat", "the moon"]


def layer_states(encoder: Encoder, features: dict[str, torch.Tensor]) -> torch.Tensor:
    return torch.stack(list(vectors_by_layer(encoder, features)[1]), dim=1)


def features_of(encoder: Encoder) -> dict[str, torch.Tensor]:
    tokens = tokenize_here(TEXTS, encoder.tokenizer)
    return encoder.collator("query").singles([tokens[i] for i in range(len(tokens))])


def vectors(encoder: Encoder) -> np.ndarray:
    with torch.inference_mode():
        found: np.ndarray = encoder(features_of(encoder)).numpy()
    return found


@pytest.mark.parametrize(
    ("available", "count", "spread"),
    [
        (6, 1, [0]),
        (6, 2, [0, 5]),
        (6, 3, [0, 3, 5]),
        (6, 6, [0, 1, 2, 3, 4, 5]),
        (12, 6, [0, 2, 4, 7, 9, 11]),  # DistilBERT's own
        (12, 4, [0, 4, 7, 11]),
    ],
)
def test_spread_layers_go_from_the_first_to_the_last(
    available: int, count: int, spread: list[int]
) -> None:
    assert chosen_layers(available, count, "spread") == spread
    assert chosen_layers(available, count, "first") == list(range(count))


@pytest.mark.parametrize("count", [0, -1, 7])
def test_a_cut_keeps_what_there_is(count: int) -> None:
    with pytest.raises(ConfigError, match="the encoder has 6"):
        chosen_layers(6, count, "spread")


def test_cutting_keeps_the_weights_of_the_chosen_layers(tiny_encoder: Encoder) -> None:
    before = tiny_encoder.weights_digest()
    cut = cut_layers(tiny_encoder, 2)
    assert (layer_count(cut), layer_count(tiny_encoder)) == (2, 4)
    assert tiny_encoder.weights_digest() == before
    old, new = tiny_encoder.transformer, cut.transformer
    for kept, source in enumerate([0, 3]):
        for name, value in new.encoder.layer[kept].state_dict().items():
            assert torch.equal(value, old.encoder.layer[source].state_dict()[name])
    assert torch.equal(new.embeddings.word_embeddings.weight, old.embeddings.word_embeddings.weight)
    assert new.embeddings.word_embeddings.weight.data_ptr() != (
        old.embeddings.word_embeddings.weight.data_ptr()
    )


def test_keeping_every_layer_changes_nothing(tiny_encoder: Encoder) -> None:
    assert cut_layers(tiny_encoder, 4).weights_digest() == tiny_encoder.weights_digest()


def test_a_cut_encoder_is_the_first_layers_of_the_whole(tiny_encoder: Encoder) -> None:
    """Two first layers give what the whole encoder holds after its second layer."""
    whole = layer_states(tiny_encoder, features_of(tiny_encoder))[:, 1]
    found = vectors(cut_layers(tiny_encoder, 2, "first"))
    np.testing.assert_allclose(found, normalize(whole, dim=1).detach().numpy(), atol=1e-6)


def test_a_cut_encoder_is_saved_whole(tiny_encoder: Encoder, tmp_path: Path) -> None:
    from sentence_transformers import SentenceTransformer

    cut = cut_layers(tiny_encoder, 2)
    cut.save(tmp_path / "cut", card="", stage="test")
    assert load_encoder(tmp_path / "cut").weights_digest() == cut.weights_digest()
    plain = SentenceTransformer(str(tmp_path / "cut"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(plain, vectors(cut), atol=1e-5)


def test_layer_states_end_with_the_encoder_s_own_vector(tiny_encoder: Encoder) -> None:
    states = layer_states(tiny_encoder, features_of(tiny_encoder))
    assert states.shape == (3, 4, 32)
    last = normalize(states[:, -1], dim=1).detach().numpy()
    np.testing.assert_allclose(last, vectors(tiny_encoder), atol=1e-6)
    states.sum().backward()
    assert tiny_encoder.transformer.encoder.layer[0].output.dense.weight.grad is not None


def test_a_layers_logits_are_those_of_a_ranker_that_ends_there(tiny_ranker: Ranker) -> None:
    tokens = tokenize_here(TEXTS, tiny_ranker.tokenizer)
    pairs = tiny_ranker.collator.pairs([tokens[0], tokens[1]], [tokens[1], tokens[2]])
    before = tiny_ranker.config_digest(), tiny_ranker.weights_digest()
    logits, by_layer = logits_by_layer(tiny_ranker, pairs)
    assert torch.equal(logits, tiny_ranker(pairs))
    assert (tiny_ranker.config_digest(), tiny_ranker.weights_digest()) == before
    by_layer[0].sum().backward()
    layers = tiny_ranker.transformer.bert.encoder.layer
    assert layers[0].output.dense.weight.grad is not None
    assert layers[1].output.dense.weight.grad is None
    for depth in (3, 2, 1):
        torch.testing.assert_close(by_layer[depth - 1], tiny_ranker(pairs))
        del layers[depth - 1]


def test_vectors_beside_layers_are_the_encoders_own(tiny_encoder: Encoder) -> None:
    features = features_of(tiny_encoder)
    before = tiny_encoder.config_digest()
    vectors, states = vectors_by_layer(tiny_encoder, features)
    assert torch.equal(vectors, tiny_encoder(features))
    assert len(states) == depth_of(tiny_encoder) == 4
    assert tiny_encoder.config_digest() == before


def test_another_dimension_is_a_linear_map_before_the_normalisation(
    tiny_encoder: Encoder, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    tiny_encoder.max_length = 20
    narrow = with_dimension(tiny_encoder, 8, seed=3)
    assert (narrow.dimension, tiny_encoder.dimension, narrow.max_length) == (8, 32, 20)
    weight = narrow.model[2].linear.weight.detach()
    torch.testing.assert_close(weight @ weight.T, torch.eye(8), atol=1e-5, rtol=0)
    pooled = layer_states(tiny_encoder, features_of(tiny_encoder))[:, -1].detach()
    expected = normalize(pooled @ weight.T, dim=1).numpy()
    np.testing.assert_allclose(vectors(narrow), expected, atol=1e-6)

    assert with_dimension(tiny_encoder, 8, seed=3).weights_digest() == narrow.weights_digest()
    assert with_dimension(tiny_encoder, 8, seed=4).weights_digest() != narrow.weights_digest()
    narrow.save(tmp_path / "narrow", card="", stage="test")
    plain = SentenceTransformer(str(tmp_path / "narrow"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(plain, expected, atol=1e-5)
    assert load_encoder(tmp_path / "narrow").config_digest() == narrow.config_digest()


def test_no_dimension_is_refused(tiny_encoder: Encoder) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        with_dimension(tiny_encoder, 0, seed=0)


def test_a_ranker_starts_from_the_encoder_s_body(tiny_encoder: Encoder, tmp_path: Path) -> None:
    from sentence_transformers import CrossEncoder

    torch.manual_seed(1)
    ranker = ranker_from_encoder(tiny_encoder, seed=5)
    torch.manual_seed(2)
    assert ranker_from_encoder(tiny_encoder, seed=5).weights_digest() == ranker.weights_digest()
    assert ranker_from_encoder(tiny_encoder, seed=6).weights_digest() != ranker.weights_digest()
    assert ranker.max_length == tiny_encoder.max_length
    body = ranker.transformer.bert.state_dict()
    for name, value in tiny_encoder.transformer.state_dict().items():
        assert torch.equal(body[name], value), name
    ranker.save(tmp_path / "ranker", card="", stage="test")
    assert load_ranker(tmp_path / "ranker").weights_digest() == ranker.weights_digest()
    assert np.isfinite(CrossEncoder(str(tmp_path / "ranker")).predict([("cat", "the cat")])).all()


# --- other architectures -------------------------------------------------------------------------


def encoder_of(architecture: str, folder: Path) -> Encoder:
    """A tiny encoder of another architecture, with a byte-level tokenizer made here."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
    from transformers import AutoConfig, AutoModel, PreTrainedTokenizerFast

    specials = ["<s>", "<pad>", "</s>", "<unk>", "<mask>"]
    words = [*specials, *string.ascii_letters, *string.punctuation, "Ġ"]
    backend = Tokenizer(
        models.BPE({word: i for i, word in enumerate(words)}, [], unk_token="<unk>")
    )
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>",
        pair="<s> $A </s> </s> $B </s>",
        special_tokens=[("<s>", 0), ("</s>", 2)],
    )
    PreTrainedTokenizerFast(
        tokenizer_object=backend,
        bos_token="<s>",
        eos_token="</s>",
        cls_token="<s>",
        sep_token="</s>",
        pad_token="<pad>",
        unk_token="<unk>",
        mask_token="<mask>",
        model_input_names=["input_ids", "attention_mask"],
    ).save_pretrained(folder)
    settings: dict[str, Any] = {
        "vocab_size": len(words),
        "hidden_size": 16,
        "num_hidden_layers": 3,
        "num_attention_heads": 2,
        "intermediate_size": 24,
        "max_position_embeddings": 34,
        "pad_token_id": 1,
        "initializer_range": 0.2,
    }
    if architecture == "distilbert":
        settings = {"vocab_size": len(words), "dim": 16, "n_layers": 3, "n_heads": 2}
        settings |= {"hidden_dim": 24, "max_position_embeddings": 34, "pad_token_id": 1}
    if architecture == "modernbert":
        settings |= {"bos_token_id": 0, "eos_token_id": 2, "cls_token_id": 0, "sep_token_id": 2}
        settings |= {"global_attn_every_n_layers": 3, "local_attention": 4}
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = AutoModel.from_config(AutoConfig.for_model(architecture, **settings))
    model.save_pretrained(folder)
    return load_encoder(f"SentenceTransformer:{folder}")


@pytest.mark.parametrize(
    ("architecture", "longest"),
    [
        ("camembert", 32),
        ("distilbert", 34),
        ("electra", 34),
        ("modernbert", 34),
        ("mpnet", 32),
        ("roberta", 32),  # positions 0 and 1 are not used
        ("xlm-roberta", 32),
    ],
)
def test_other_architectures_are_cut_saved_and_ranked_with(
    architecture: str, longest: int, tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    encoder = encoder_of(architecture, tmp_path / "whole")
    assert encoder.max_length == longest
    long_text = tokenize_here(["a" * 90], encoder.tokenizer)
    encoder(encoder.collator("query").singles([long_text[0]]))  # the positions suffice
    states = layer_states(encoder, features_of(encoder))
    assert states.shape[:2] == (3, 3)
    assert torch.allclose(states[:, -1], encoder(features_of(encoder)), atol=1e-5)

    cut = cut_layers(encoder, 2)
    assert layer_count(cut) == 2
    cut.save(tmp_path / "cut", card="", stage="test")
    plain = SentenceTransformer(str(tmp_path / "cut"), device="cpu").encode(TEXTS)
    np.testing.assert_allclose(plain, vectors(cut), atol=1e-5)

    ranker = ranker_from_encoder(cut, seed=0)
    tokens = tokenize_here(TEXTS, ranker.tokenizer)
    pair = ranker.collator.pairs([tokens[0]], [tokens[1]])
    logits, by_layer = logits_by_layer(ranker, pair)
    assert torch.equal(logits, ranker(pair))
    assert [each.shape for each in by_layer] == [(1,)] * depth_of(ranker) == [(1,)] * 2
    assert torch.allclose(by_layer[-1], logits, atol=1e-5)
    assert not torch.equal(by_layer[0], logits)


def test_an_architecture_that_is_not_known_is_refused(tiny_encoder: Encoder) -> None:
    tiny_encoder.transformer.config.model_type = "strange"
    with pytest.raises(ModelError, match="layers of a strange model cannot be taken apart"):
        cut_layers(tiny_encoder, 2)
