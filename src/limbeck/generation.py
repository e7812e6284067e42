"""What would a model ask of each passage?

A seq2seq model such as docT5query reads a passage and writes questions that it answers. Three are
sampled for each (from the 10 likeliest tokens at each step), which gives more different ones than a
beam search does. Every draw comes from the seed and the place of the batch, and batches are written
in shards, so a killed run goes on after the last shard with the same bytes.

This module knows no collection and no split.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import polars as pl
import torch

from limbeck.data.collection import Texts
from limbeck.data.derived import SCHEMA, DerivedTexts
from limbeck.errors import ModelError
from limbeck.models.quiet import quiet
from limbeck.models.whole import refuse_foreign_tokenizer
from limbeck.store import StageFolder, digest, digest_folder
from limbeck.types import Progress

PER_PASSAGE = 3
BATCH = 16  # passages
SHARD = 256  # passages: at most so many are written of again after a kill
READ_TOKENS = 384  # of a passage; docT5query was trained on no more than 512
WRITTEN_TOKENS = 64
LIKELIEST = 10  # tokens that are sampled from


@dataclass(frozen=True)
class Writer:
    """A seq2seq model and its tokenizer, from a folder."""

    folder: Path
    model: Any
    tokenizer: Any

    @cached_property
    def digest(self) -> str:
        """The SHA-256 (hex) of all files of the folder."""
        return digest_folder(self.folder)


def load_writer(folder: Path) -> Writer:
    """The seq2seq model in a folder; its weights must be safetensors, and its code is never run.

    Raises:
        ModelError: when there is no such folder, or it holds no whole seq2seq model.
    """
    if not folder.is_dir():
        raise ModelError(
            f"--query-model {folder}: there is no such folder. Download a seq2seq model such as "
            "docT5query, and give its folder."
        )
    from transformers import AutoModelForSeq2SeqLM, AutoTokenizer

    options = {"local_files_only": True, "trust_remote_code": False}
    try:
        with quiet():
            tokenizer = AutoTokenizer.from_pretrained(folder, **options)
            model, info = AutoModelForSeq2SeqLM.from_pretrained(
                folder,
                use_safetensors=True,
                dtype=torch.float32,
                output_loading_info=True,
                **options,
            )
    except Exception as error:  # the libraries raise many unrelated types
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"--query-model {folder} cannot be opened as a seq2seq model with safetensors "
            f"({type(error).__name__}: {reason}). Name another folder, or save it again."
        ) from error
    if info["missing_keys"]:
        raise ModelError(
            f"--query-model {folder}: the weight {min(info['missing_keys'])} is not in the file "
            "and would be random. Name a folder that holds the whole model."
        )
    try:
        refuse_foreign_tokenizer(tokenizer, folder, model)
    except ModelError as error:
        raise ModelError(f"--query-model {folder}: {error}") from error
    return Writer(folder, model.eval(), tokenizer)


def write_queries(
    writer: Writer,
    passages: Texts,
    positions: list[int],
    *,
    seed: int,
    folder: Path,
    device: str,
    progress: Progress,
) -> DerivedTexts:
    """Up to three queries of each passage at `positions`, kept in `folder`; empty ones are left
    out.

    Raises:
        StoreError: when the folder belongs to other inputs, is damaged or cannot be written.
    """
    inputs = {
        "passages": digest([[passages.ids[at], passages.texts[at]] for at in positions]),
        "model": writer.digest,
        "seed": seed,
        "device": device,
        "settings": [PER_PASSAGE, BATCH, SHARD, READ_TOKENS, WRITTEN_TOKENS, LIKELIEST],
    }
    stage = StageFolder(folder, inputs)
    shards = {
        folder / f"shard-{start // SHARD:05d}.parquet": positions[start : start + SHARD]
        for start in range(0, len(positions), SHARD)
    }
    if not stage.complete:
        missing = {path: places for path, places in shards.items() if not path.exists()}
        writer.model.to(device)
        count = sum(map(len, missing.values()))
        with progress.task("write queries", count, "passages") as advance:
            for path, places in missing.items():
                made: dict[tuple[str, int], str] = {}
                for start in range(0, len(places), BATCH):
                    batch = places[start : start + BATCH]
                    texts = [passages.texts[at] for at in batch]
                    for at, queries in zip(
                        batch, _written(writer, texts, [seed, passages.ids[batch[0]]]), strict=True
                    ):
                        made |= {
                            (passages.ids[at], draw): query
                            for draw, query in enumerate(queries)
                            if query
                        }
                    advance(len(batch))
                DerivedTexts.of("seq2seq", made).write(path, stage="queries")
        found = [DerivedTexts.read(path).frame for path in shards]
        stage.finish(passages=len(positions), queries=sum(map(len, found)))
    frames = [DerivedTexts.read(path).frame for path in shards]
    return DerivedTexts(pl.concat(frames) if frames else pl.DataFrame(schema=SCHEMA))


def _written(writer: Writer, texts: list[str], drawn_from: list[object]) -> list[list[str]]:
    """`PER_PASSAGE` queries of each text; `drawn_from` alone decides the draws."""
    model, device = writer.model, writer.model.device
    read = writer.tokenizer(
        texts, return_tensors="pt", padding=True, truncation=True, max_length=READ_TOKENS
    ).to(device)
    with (
        quiet(),
        torch.inference_mode(),
        torch.random.fork_rng(devices=[device] if device.type == "cuda" else []),
    ):
        torch.manual_seed(int(digest(drawn_from)[:15], 16))
        written = model.generate(
            input_ids=read["input_ids"],
            attention_mask=read["attention_mask"],
            do_sample=True,
            top_k=LIKELIEST,
            num_beams=1,
            num_return_sequences=PER_PASSAGE,
            max_new_tokens=WRITTEN_TOKENS,
        )
    found = writer.tokenizer.batch_decode(written, skip_special_tokens=True)
    queries = [" ".join(text.split()) for text in found]
    return [queries[at : at + PER_PASSAGE] for at in range(0, len(queries), PER_PASSAGE)]
