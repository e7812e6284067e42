"""What is an encoder, and what is a ranker?

An encoder turns one text into one vector; a ranker turns a query and a passage into one raw score.
Both wrap a class of sentence-transformers, take the tensors that a collator makes, and save to a
folder that plain `SentenceTransformer(path)` or `CrossEncoder(path)` opens. The bytes of that
folder depend on the model alone: no times, paths, versions, or traces of how its tokenizer was
used.

This module knows no training, no teacher and no collection.
"""

from __future__ import annotations

import copy
import json
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Self
from weakref import WeakKeyDictionary

from torch import Tensor, nn

from limbeck.data.collate import Collator, collator_for
from limbeck.data.tokens import tokenizer_digest
from limbeck.errors import ModelError
from limbeck.limit import Lengths, forward_flops
from limbeck.models.quiet import quiet
from limbeck.store import digest, digest_tensors, new_folder
from limbeck.types import Role

# The parts of sentence-transformers that may follow the Transformer of an encoder: each turns what
# the part before gave into something else, the same for queries and passages.
ENCODER_PARTS = (
    *("CNN", "Dense", "Dropout", "LayerNorm", "Normalize", "Pooling"),
    *("WeightedLayerPooling", "WordWeights"),
)
_GIVEN = ("sentence_embedding", "token_embeddings")  # what such parts hand on
# What a Transformer's configuration may say of how texts become tokens; here a tokenizer says it.
_READING_KEYS = ("query_length", "document_length", "query_expansion")

SEEN = 64  # numbers of a tensor that tell whether it is still the same

_digests: WeakKeyDictionary[nn.Module, tuple[object, str]] = WeakKeyDictionary()

# What says how a folder came to be, not what the model is.
_VOLATILE = {
    "config.json": ("_name_or_path", "transformers_version", "sentence_transformers"),
    "config_sentence_transformers.json": ("__version__",),
    "tokenizer.json": ("truncation", "padding"),
    "tokenizer_config.json": (
        *("name_or_path", "tokenizer_file", "vocab_file", "special_tokens_map_file", "cache_dir"),
        *("is_local", "local_files_only", "token", "revision", "subfolder", "trust_remote_code"),
        *("max_length", "stride", "truncation", "truncation_strategy", "padding"),
        *("pad_to_multiple_of", "pad_token_type_id", "files_loaded", "backend"),
    ),
}


class WrappedModel(nn.Module):
    """Base class of models: a class of sentence-transformers, its tokenizer, digests and folder."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        if not getattr(self.tokenizer, "is_fast", False):
            raise ModelError(
                f"The tokenizer {type(self.tokenizer).__name__} has no fast form "
                "(tokenizer.json). Name another model."
            )
        self.max_length = _longest_input(model)  # tokens, special ones included; may be lowered

    @property
    def tokenizer(self) -> Any:
        """The tokenizer, a fast one of transformers."""
        return self.model.tokenizer

    @property
    def transformer(self) -> Any:
        """The model of transformers inside."""
        return self.model[0].model

    def frozen(self) -> Self:
        """A copy in eval mode that takes no gradient: a former self."""
        return copy.deepcopy(self).eval().requires_grad_(False)

    @contextmanager
    def plain_attention(self) -> Iterator[None]:
        """Attention as three plain products while training on a CPU, where texts are short.

        There the backward pass of torch's fused attention takes longer than everything else in a
        layer together; on a GPU the model keeps what it came with.
        """
        transformer = self.transformer
        before = transformer.config._attn_implementation
        if next(self.parameters()).device.type != "cpu":
            yield
            return
        transformer.set_attn_implementation("eager")
        try:
            yield
        finally:
            transformer.set_attn_implementation(before)

    def weights_digest(self) -> str:
        """The SHA-256 of all weights, by name."""
        return digest_tensors(self.state_dict())

    def config_digest(self) -> str:
        """The SHA-256 of all that shapes a score besides weights and tokenizer."""
        config = self.transformer.config.to_dict()
        for name in _VOLATILE["config.json"]:
            config.pop(name, None)
        parts = [
            {"type": type(part).__name__, "config": part.get_config_dict()} for part in self.model
        ]
        shaping = [config, parts, self.model.prompts, self.max_length, self._kind_of_score()]
        return digest(shaping + self._cut_to())

    def digests(self) -> list[str]:
        """Digests of everything its outputs depend on besides weights and texts: its config, its
        tokenizer.
        """
        return [self.config_digest(), tokenizer_digest(self.tokenizer)]

    def content_digest(self) -> str:
        """Both digests in one, taken again only when a look says that weights changed.

        The look is at some numbers of every tensor, too: fused optimisers write without counting.
        """
        looks = []
        for value in self.state_dict().values():
            some = value.flatten()[:: max(1, value.numel() // SEEN)]
            looks.append((value.data_ptr(), value._version, some.cpu().numpy().tobytes()))
        if self not in _digests or _digests[self][0] != looks:
            _digests[self] = (looks, digest([self.weights_digest(), self.config_digest()]))
        return _digests[self][1]

    def parameter_count(self) -> int:
        """Number of parameters."""
        return sum(parameter.numel() for parameter in self.parameters())

    def size_bytes(self) -> int:
        """Size of the weights in bytes."""
        return sum(each.numel() * each.element_size() for each in self.parameters())

    def forward_flops(self, lengths: Lengths) -> float | None:
        """FLOP of the layers for inputs of these lengths, in tokens; None when that is not known.

        Nothing is counted for padding.
        """
        return forward_flops(self.transformer.config, lengths)

    @abstractmethod
    def _kind_of_score(self) -> str:
        """Unit of this model's scores: cosine, dot, logit, maxsim or meanmaxsim."""

    def _cut_to(self) -> list[int]:
        """Dimension that vectors are cut to, if they are."""
        return []

    def save_tokenizer(self, folder: Path) -> None:
        """Write the tokenizer alone into a folder that is there, as `save` would."""
        self.tokenizer.save_pretrained(str(folder))
        for path in sorted(folder.glob("tokenizer*.json")):
            _rewrite(path, max_length=self.max_length)

    def save(self, folder: Path, *, card: str, stage: str) -> None:
        """Write the model to `folder`, with `card` as its README.md; equal models give equal bytes.

        Raises:
            StoreError: when the file system refuses; what was there before stays.
        """
        with new_folder(folder, stage=stage) as temporary:
            with quiet():
                self.model.save_pretrained(str(temporary), create_model_card=False)
            for path in sorted(temporary.rglob("*.json")):
                _rewrite(path, max_length=self.max_length)
            (temporary / "README.md").write_text(card, encoding="utf-8")


class Encoder(WrappedModel):
    """One text in, one vector out: a `SentenceTransformer` whose first module is a Transformer.

    Its vectors are those of sentence-transformers' `encode_query` and `encode_document`.

    Raises:
        ModelError: when its similarity is neither cosine nor dot product, or it has a part or a
            setting that is not honoured here.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        if model.similarity_fn_name not in ("cosine", "dot"):
            raise ModelError(
                f"The encoder compares vectors by {model.similarity_fn_name}; Limbeck knows "
                "cosine and dot. Name another model."
            )
        _refuse_other_readings(model, "encoder", ENCODER_PARTS)
        leaves_out = any(getattr(part, "include_prompt", True) is False for part in model)
        if leaves_out and any(model.prompts.values()):
            raise ModelError(
                "The encoder leaves its prompts out of its pooling, which Limbeck does not do. "
                "Name another model."
            )

    @property
    def dimension(self) -> int:
        """Dimension of the vectors."""
        return int(self.model.get_embedding_dimension())

    @property
    def shorter_dimensions(self) -> Sequence[int]:
        """Dimensions to which a vector may be cut, keeping its first numbers, as Matryoshka
        training allows.

        As its config.json says: `matryoshka_dimensions`, or any number with `is_matryoshka`.
        """
        config = self.transformer.config
        if dimensions := getattr(config, "matryoshka_dimensions", None):
            return sorted(each for each in dimensions if each < self.dimension)
        return range(1, self.dimension) if getattr(config, "is_matryoshka", False) else ()

    @property
    def similarity(self) -> Literal["cosine", "dot"]:
        """Similarity by which its vectors are to be compared."""
        return "dot" if self.model.similarity_fn_name == "dot" else "cosine"

    def prompt(self, role: Role) -> str:
        """The text put before every query or passage; often empty."""
        return str(self.model.prompts.get("query" if role == "query" else "document") or "")

    def collator(self, role: Role) -> Collator:
        """Collator that turns token ids of a role into the tensors of `forward`."""
        return collator_for(self.tokenizer, max_length=self.max_length, prompt=self.prompt(role))

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """The vectors of a batch, [B, D], fp32."""
        vectors: Tensor = self.model(dict(features))["sentence_embedding"]
        cut = self.model.truncate_dim
        return (vectors if cut is None else vectors[:, :cut]).float()

    def _kind_of_score(self) -> str:
        return self.similarity

    def _cut_to(self) -> list[int]:
        cut = self.model.truncate_dim
        return [] if cut is None else [int(cut)]


class Ranker(WrappedModel):
    """A query and a passage in, one raw score out: a `CrossEncoder` with one label.

    Raises:
        ModelError: when it has several labels, or puts a prompt before its inputs.
    """

    def __init__(self, model: Any) -> None:
        super().__init__(model)
        if model.num_labels != 1:
            raise ModelError(
                f"The model has {model.num_labels} labels; one score per pair is needed. It is a "
                "classifier, not a ranker: name another model."
            )
        if model.default_prompt_name and model.prompts.get(model.default_prompt_name):
            raise ModelError(
                f"The ranker puts a prompt before its inputs ({model.default_prompt_name}), which "
                "Limbeck does not do. Name another model."
            )
        _refuse_other_readings(model, "ranker", ())

    @property
    def collator(self) -> Collator:
        """Collator that turns token ids of queries and passages into the tensors of `forward`."""
        return collator_for(self.tokenizer, max_length=self.max_length)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """The raw logits of a batch of pairs, [B], fp32."""
        logits: Tensor = self.model(dict(features))["scores"]
        return logits.reshape(-1).float()

    def _kind_of_score(self) -> str:
        return "logit"


def _refuse_other_readings(model: Any, what: str, known: tuple[str, ...]) -> None:
    """Refuse parts and settings by which sentence-transformers reads texts otherwise than by a
    tokenizer and a forward pass that is the same for queries and passages.
    """
    first, *others = model
    for part in others:
        if type(part).__name__ not in known:
            raise ModelError(
                f"The {what} has a part {type(part).__name__}, which Limbeck does not know how to "
                "run for queries and passages. Name another model, or score pairs with "
                "sentence-transformers and give the file as --teacher scores:PATH."
            )
    for part in others:
        written = getattr(part, "module_output_name", _GIVEN[0])
        if written not in _GIVEN:
            raise ModelError(
                f"The {what}'s {type(part).__name__} writes to {written}, which nothing reads. "
                "Take the part out of modules.json, or name another model."
            )
    asked = [name for name in _READING_KEYS if getattr(first, name, None)]
    asked += [
        f"processing_kwargs.{name}"
        for name in ("common", "text")
        if name in first.processing_kwargs
    ]
    if "message" in first.modality_config:
        asked.append("a chat template (modality_config.message)")
    if asked:
        raise ModelError(
            f"The {what} sets {', '.join(asked)}: its texts would be read otherwise than by its "
            "tokenizer alone, which Limbeck does not do. Name another model, or, where it is not "
            "wanted, take it out of sentence_bert_config.json."
        )


def _longest_input(model: Any) -> int:
    """Maximum length of inputs: the config's, or the number of position embeddings when that is
    less.

    RoBERTa and its kin leave the positions up to the padding index unused.
    """
    longest = int(model.max_seq_length)
    for part in model[0].model.modules():
        table = getattr(part, "position_embeddings", None)
        if isinstance(table, nn.Embedding):
            unused = 0 if table.padding_idx is None else table.padding_idx + 1
            longest = min(longest, table.num_embeddings - unused)
    return longest


def _rewrite(path: Path, *, max_length: int) -> None:
    """Rewrite a JSON file of a model folder without the keys that tell how it came to be, its keys
    in order.
    """
    value = json.loads(path.read_text(encoding="utf-8"))
    for name in _VOLATILE.get(path.name, ()):
        value.pop(name, None)
    if path.name == "tokenizer.json":
        value |= {"truncation": None, "padding": None}  # its reader asks for both
    if path.name == "tokenizer_config.json":
        value["model_max_length"] = max_length
    ordered = path.name != "tokenizer.json"  # the order of a vocabulary is its own
    text = json.dumps(value, indent=1, sort_keys=ordered, ensure_ascii=False)
    path.write_text(text + "\n", encoding="utf-8")
