"""What may be cut from an encoder, put on it, or seen inside it?

A student is an encoder with fewer layers or a narrower vector; a fitted ranker starts from an
encoder's body. Everything here returns a new model and leaves its argument alone.

This module knows which attribute of an architecture holds its layers, and no method that uses them.
"""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import reduce
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor, nn

from limbeck.errors import ConfigError, ModelError
from limbeck.models.encoder import Encoder, Ranker, WrappedModel
from limbeck.models.loading import load_ranker
from limbeck.models.quiet import quiet

LayerChoice = Literal["spread", "first"]

# model_type of transformers -> where the list of layers is, below the model
LAYER_LISTS = {
    "bert": "encoder.layer",
    "camembert": "encoder.layer",
    "distilbert": "transformer.layer",
    "electra": "encoder.layer",
    "modernbert": "layers",
    "mpnet": "encoder.layer",
    "roberta": "encoder.layer",
    "xlm-roberta": "encoder.layer",
}


def layer_count(encoder: Encoder) -> int:
    """Number of layers of the encoder, the embedding layer not counted.

    Raises:
        ModelError: when the architecture is not one of `LAYER_LISTS`.
    """
    return len(_layers(encoder))


def chosen_layers(available: int, count: int, choice: LayerChoice) -> list[int]:
    """The layers that a cut keeps: the first `count`, or as many spread evenly, first and last
    among them.

    Source: spread gives the 6 of 12 that DistilBERT took from BERT (0, 2, 4, 7, 9, 11), Sanh et
    al. 2019, arXiv:1910.01108.

    Raises:
        ConfigError: when there are not that many layers.

    Example:
        >>> chosen_layers(6, 2, "spread"), chosen_layers(6, 3, "spread")
        ([0, 5], [0, 3, 5])
    """
    if not 1 <= count <= available:
        raise ConfigError(
            f"Cannot keep {count} layers: the encoder has {available}. Choose from 1 to "
            f"{available}."
        )
    if choice == "first" or count == 1:
        return list(range(count))
    gaps = count - 1
    return [(2 * kept * (available - 1) + gaps) // (2 * gaps) for kept in range(count)]


def cut_layers(encoder: Encoder, count: int, choice: LayerChoice = "spread") -> Encoder:
    """The encoder with only `count` of its layers, weights kept.

    Raises:
        ModelError: when the architecture is not one of `LAYER_LISTS`.
        ConfigError: when there are not that many layers.
    """
    kept = chosen_layers(layer_count(encoder), count, choice)
    cut = copy.deepcopy(encoder)
    layers = _layers(cut)
    for index in reversed(range(len(layers))):
        if index not in kept:
            del layers[index]
    config = cut.transformer.config
    config.num_hidden_layers = count
    if getattr(config, "layer_types", None):  # architectures whose layers differ: local, global
        config.layer_types = [config.layer_types[index] for index in kept]
    return cut


def with_dimension(encoder: Encoder, dimension: int, seed: int) -> Encoder:
    """The encoder with vectors of `dimension` numbers: a linear map before its normalisation, if it
    has one.

    The map starts as a random orthogonal one, which keeps inner products in expectation.

    Raises:
        ConfigError: when the dimension is not positive.
    """
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Dense, Normalize

    if dimension < 1:
        raise ConfigError(
            f"A vector of {dimension} numbers is none. Choose a dimension of at least 1."
        )
    old = copy.deepcopy(encoder.model)
    old.truncate_dim = None  # the map takes the place of the cut
    width = int(old.get_embedding_dimension())
    weight = torch.empty(dimension, width)
    nn.init.orthogonal_(weight, generator=torch.Generator().manual_seed(seed))
    dense = Dense(
        width,
        dimension,
        bias=False,
        activation_function=nn.Identity(),
        init_weight=weight,
    )
    parts = list(old)
    at = next((i for i, part in enumerate(parts) if isinstance(part, Normalize)), len(parts))
    with quiet():
        model = SentenceTransformer(
            modules=[*parts[:at], dense, *parts[at:]],
            device=str(old.device),
            prompts=dict(old.prompts),
            default_prompt_name=old.default_prompt_name,
            similarity_fn_name=old.similarity_fn_name,
        )
    projected = Encoder(model)
    projected.max_length = encoder.max_length
    return projected


def ranker_from_encoder(encoder: Encoder, seed: int) -> Ranker:
    """A ranker with the encoder's body and a fresh head, the same for the same seed.

    A pair is cut to the encoder's own maximum length, query and passage together.
    """
    with fresh_head(encoder, seed) as folder:
        return load_ranker(f"CrossEncoder:{folder}")


@contextmanager
def fresh_head(encoder: Encoder, seed: int, classes: Sequence[str] | None = None) -> Iterator[Path]:
    """The folder of a model with the encoder's body and a fresh head, as long as the context lasts:
    of one label, or of named classes. The same for the same seed.

    Raises:
        ModelError: when the encoder's body cannot stand under a head.
    """
    from transformers import AutoModelForSequenceClassification

    body = encoder.transformer
    config = copy.deepcopy(body.config)
    config.num_labels = 1
    if classes is not None:
        config.id2label = dict(enumerate(classes))
        config.label2id = {name: at for at, name in enumerate(classes)}
    with quiet(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = AutoModelForSequenceClassification.from_config(config)
        own = getattr(model, model.base_model_prefix)
        weights = body.state_dict()
        names = own.state_dict().keys()
        missing = [name for name in names - weights.keys() if "pooler." not in name]
        if missing:
            raise ModelError(
                "A ranker or classifier cannot start from this encoder: its body lacks "
                f"{', '.join(sorted(missing)[:3])}. Name one with --teacher, or another encoder."
            )
        own.load_state_dict({name: weights[name] for name in names & weights.keys()}, strict=False)
        with tempfile.TemporaryDirectory() as folder:
            tokenizer = copy.deepcopy(encoder.tokenizer)
            tokenizer.model_max_length = encoder.max_length
            # of several processes only the first would write, and each needs a ranker of its own
            model.should_save_on_this_rank = lambda is_main_process: is_main_process
            model.save_pretrained(folder)
            tokenizer.save_pretrained(folder)
            yield Path(folder)


def depth_of(model: WrappedModel) -> int:
    """Number of layers that a model has states of, of any architecture."""
    return int(model.transformer.config.num_hidden_layers)


def vectors_by_layer(
    encoder: Encoder, features: dict[str, Tensor]
) -> tuple[Tensor, Sequence[Tensor]]:
    """The vectors of a batch [B, D], and the states after each layer [B, width], pooled as the
    encoder pools its last but neither projected nor normalised: all from one forward.

    Raises:
        ModelError: when the encoder has no pooling.
    """
    from sentence_transformers.sentence_transformer.modules import Pooling

    pooling = next((part for part in encoder.model if isinstance(part, Pooling)), None)
    if pooling is None:
        raise ModelError("The encoder has no pooling to apply to its layers. Name another model.")
    vectors, states = _with_states(encoder, features)
    pooled = [
        pooling({**features, "token_embeddings": state})["sentence_embedding"].float()
        for state in states
    ]
    return vectors, pooled


def logits_by_layer(ranker: Ranker, features: dict[str, Tensor]) -> tuple[Tensor, Sequence[Tensor]]:
    """The raw logits of a batch of pairs [B], and those that the same head gives for the states
    after each layer [B]: the body runs once, and all that comes after it once for each layer.
    """
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    logits, states = _with_states(ranker, features)
    body = ranker.transformer.base_model
    pooler = getattr(body, "pooler", None)
    found = []
    for state in states:
        known = BaseModelOutputWithPooling(state, None if pooler is None else pooler(state))
        with _answering(body, known):
            found.append(ranker(features))
    return logits, found


def _with_states(
    model: Encoder | Ranker, features: dict[str, Tensor]
) -> tuple[Tensor, Sequence[Tensor]]:
    """A model's output for a batch, and the states [B, T, D] after each of its layers."""
    states: list[Tensor] = []
    config = model.transformer.config
    hook = model.model[0].register_forward_hook(
        lambda module, given, output: states.extend(output["all_layer_embeddings"])
    )
    before, config.output_hidden_states = config.output_hidden_states, True
    try:
        output: Tensor = model(features)
    finally:
        config.output_hidden_states = before
        hook.remove()
    states = states[-depth_of(model) :]  # without what the first layer reads
    norm = getattr(model.transformer.base_model, "final_norm", None)  # of ModernBERT
    if norm is not None:  # the last states went through it, as those of every layer would as last
        states[:-1] = [norm(state) for state in states[:-1]]
    return output, states


@contextmanager
def _answering(module: nn.Module, output: object) -> Iterator[None]:
    """A module that gives the same output whatever it is asked, as long as the context lasts."""
    module.forward = lambda *given, **named: output
    try:
        yield
    finally:
        del module.forward


def _layers(encoder: Encoder) -> Any:
    """The encoder's `nn.ModuleList` of layers."""
    architecture = str(encoder.transformer.config.model_type)
    if architecture not in LAYER_LISTS:
        raise ModelError(
            f"The layers of a {architecture} model cannot be taken apart; those of "
            f"{', '.join(LAYER_LISTS)} can. Use the encoder whole, or name one of these."
        )
    return reduce(getattr, LAYER_LISTS[architecture].split("."), encoder.transformer)
