"""Is all of a model in its folder, and does it belong together?

The libraries open a folder that lacks its vocabulary, its lengths or some of its weights: they make
up a tokenizer of five words, read longer texts, or draw weights at random, and every number after
that is nonsense. Here such a folder is refused, naming the file. A table of embeddings may be
somewhat longer than the vocabulary (many are padded to a multiple of 64 or 1024).

This module knows neither what kind a model is nor what it is for.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from limbeck.errors import ModelError

TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
_ADDED = "added_tokens.json"  # of older versions of transformers
_ANOTHER = "The tokenizer belongs to another model, or is damaged. Copy the whole folder again."

# A table of embeddings is whole when no more than so many of its rows have no token: models in use
# leave 1,000 of 250,000 rows, or 905 of 51,200, and tiny ones are padded to 128.
SPARE_ROWS = 128
SPARE_SHARE = 10  # a tenth

# Heads of pre-training, or of reading out answers: a kind in front of the path says that only the
# body is wanted. By who writes them: BERT and DeBERTa; RoBERTa, MPNet and T5; DistilBERT; ELECTRA;
# XLM; ModernBERT; ELECTRA's discriminator; ALBERT; DeBERTa-v3; every question answering.
PRETRAINING_HEADS = (
    *("cls.", "lm_head.", "vocab_", "generator_", "mlm_", "head.", "decoder."),
    *("discriminator_predictions.", "predictions.", "sop_classifier."),
    *("lm_predictions.", "mask_predictions.", "qa_outputs."),
)


def refuse_missing_files(folder: Path, body: Path, parts: list[str]) -> None:
    """Refuse a folder without a file that the libraries replace by their defaults.

    `parts`: the classes of `modules.json`, as they are written there. Versions of
    sentence-transformers that write `base.modules` write each of these files, too; older ones may
    not have.

    Raises:
        ModelError: naming the file.
    """
    if not parts or not parts[0].startswith("sentence_transformers.base.modules."):
        return
    for path in (
        folder / "config_sentence_transformers.json",  # prompts and similarity
        body / "sentence_bert_config.json",
        body / SETTINGS,  # the longest input
    ):
        if not path.is_file():
            raise ModelError(
                f"{folder} is not whole: {path.relative_to(folder)} is missing. Copy the whole "
                "folder again."
            )


def refuse_incomplete(
    part: Any, folder: Path, *, unused_pooler: bool, heads_dropped: bool = False
) -> None:
    """Refuse a transformer that was opened from a folder in which something of it is missing.

    `part` is sentence-transformers' Transformer.

    Raises:
        ModelError: naming the weights, or the file of the tokenizer.
    """
    _refuse_partial_weights(part.model, folder, unused_pooler, heads_dropped)
    refuse_foreign_tokenizer(part.tokenizer, folder, part.model)


def refuse_foreign_tokenizer(tokenizer: Any, folder: Path, model: Any) -> None:
    """Refuse a tokenizer that was not opened from a vocabulary in the folder, or whose vocabulary
    is not that of the model of transformers (None: a graph, whose embeddings cannot be counted).

    Raises:
        ModelError: naming the file.
    """
    names = dict.fromkeys([TOKENIZER, *getattr(tokenizer, "vocab_files_names", {}).values()])
    vocabulary = next((name for name in names if (folder / name).is_file()), None)
    if vocabulary is None:
        raise ModelError(
            f"It has no vocabulary: there is none of {', '.join(names)}. Copy the whole folder "
            "again."
        )
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # not a fast one, which is refused for that
        return
    around = backend.encode("", "")  # special tokens, and nothing else
    if (rows := _embedding_rows(model)) is not None:
        known = backend.get_vocab_size(with_added_tokens=True)
        if rows - known > max(SPARE_ROWS, rows // SPARE_SHARE):
            raise ModelError(
                f"{vocabulary} knows {known:,} tokens, but the weights have embeddings of "
                f"{rows:,}. {_ANOTHER}"
            )
        used = [*around.ids, tokenizer.pad_token_id, tokenizer.unk_token_id]
        numbers = [*backend.get_vocab(with_added_tokens=False).values(), *used]
        highest = max((number for number in numbers if number is not None), default=0)
        if highest >= rows:
            raise ModelError(
                f"{vocabulary} numbers its tokens up to {highest:,}, but the weights have "
                f"embeddings of {rows:,}. {_ANOTHER}"
            )
    unknown = [token for token in around.tokens if backend.model.token_to_id(token) is None]
    if unknown and (missing := set(unknown) - _added_tokens(folder)):
        raise ModelError(
            f"{vocabulary} does not know the special tokens {', '.join(sorted(missing))}, which "
            f"are put around every text. {_ANOTHER}"
        )


def _added_tokens(folder: Path) -> set[str]:
    """The tokens that the files of a tokenizer add to its vocabulary."""
    found: set[str] = set()
    if (folder / TOKENIZER).is_file():
        listed = json.loads((folder / TOKENIZER).read_text(encoding="utf-8"))
        found |= {str(token["content"]) for token in listed.get("added_tokens") or ()}
    if (folder / SETTINGS).is_file():
        settings = json.loads((folder / SETTINGS).read_text(encoding="utf-8"))
        decoded = settings.get("added_tokens_decoder") or {}
        found |= {str(token["content"]) for token in decoded.values()}
    if (folder / _ADDED).is_file():
        found |= set(json.loads((folder / _ADDED).read_text(encoding="utf-8")))
    return found


def _embedding_rows(model: Any) -> int | None:
    """Number of tokens that a model has embeddings of; None when it does not tell."""
    try:
        table = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    weight = getattr(table, "weight", None)
    return None if weight is None else int(weight.shape[0])


def _refuse_partial_weights(
    model: Any, folder: Path, unused_pooler: bool, heads_dropped: bool
) -> None:
    """Refuse weights that the file lacks, or that the class has no place for.

    Read a second time because only transformers' own call knows which names of a file mean which
    weights.
    """
    _, info = type(model).from_pretrained(
        folder, config=model.config, output_loading_info=True, use_safetensors=True
    )
    excused: tuple[str, ...] = PRETRAINING_HEADS if heads_dropped else ()

    def counts(name: str) -> bool:
        return not (unused_pooler and "pooler." in name)

    shapes = sorted(str(key[0]) for key in info["mismatched_keys"])
    missing = sorted(name for name in info["missing_keys"] if counts(name))
    dropped = sorted(
        name for name in info["unexpected_keys"] if counts(name) and not name.startswith(excused)
    )
    for names, what in (
        (missing, "are not in the file and would be random"),
        (shapes, "have another shape in the file and would be random"),
        (dropped, "are in the file and would be dropped"),
    ):
        if names:
            listed = ", ".join(names[:3]) + (f" and {len(names) - 3} more" if names[3:] else "")
            raise ModelError(
                f"It is not a whole {type(model).__name__}: the weights {listed} {what}. Name a "
                "model of the right kind, or copy the whole folder again."
            )
