"""sentence-transformers in its OpenVINO set-up, in an environment of its own, at speed.py's beck.

Its OpenVINO backend needs packages that exclude the versions used here, so speed.py starts this
file with another Python (`--best-python`), and the two talk in lines: this one says `ready` and its
versions as JSON once the model is compiled, then answers each `go` with `done`. Float models run in
the precision that OpenVINO takes by itself; int8 is sentence-transformers' own static quantisation.

    python theirs.py encode MODEL texts.json
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
from sentence_transformers import CrossEncoder, SentenceTransformer

PACKAGES = ("sentence-transformers", "transformers", "optimum-intel", "openvino", "nncf", "torch")
CALIBRATION_TEXTS = 300  # as many as ours


def main() -> int:
    work, model, given = sys.argv[1:]
    answers = os.fdopen(os.dup(1), "w")  # what libraries print goes to stderr instead
    os.dup2(2, 1)
    texts: Any = json.loads(Path(given).read_text(encoding="utf-8"))
    with tempfile.TemporaryDirectory() as scratch:
        run = encode_int8(model, texts, scratch) if work == "encode_int8" else float_(work, model)
        run(texts)
        versions = {name: version(name) for name in PACKAGES}
        print(json.dumps({"ready": versions}), file=answers, flush=True)
        for line in sys.stdin:
            if line.strip() == "go":
                run(texts)
                print("done", file=answers, flush=True)
    return 0


def float_(work: str, model: str) -> Any:
    """Encode or score with the float model."""
    if work == "score":
        return CrossEncoder(model, backend="openvino").predict
    return SentenceTransformer(model, backend="openvino").encode


def encode_int8(model: str, texts: list[str], scratch: str) -> Any:
    """Encode with the model quantised on texts of the collection."""
    from datasets import Dataset
    from optimum.intel import OVQuantizationConfig
    from sentence_transformers import export_static_quantized_openvino_model

    places = np.linspace(0, len(texts) - 1, min(CALIBRATION_TEXTS, len(texts))).astype(int)
    data = Path(scratch) / "calibration"
    data.mkdir()
    Dataset.from_dict({"text": [texts[at] for at in places]}).to_parquet(data / "train.parquet")
    encoder = SentenceTransformer(model, backend="openvino")
    encoder.save_pretrained(scratch)
    export_static_quantized_openvino_model(
        encoder,
        OVQuantizationConfig(num_samples=len(places)),
        scratch,
        dataset_name=str(data),
        dataset_config_name="default",
        dataset_split="train",
        column_name="text",
    )
    name = {"file_name": "openvino/openvino_model_qint8_quantized.xml"}
    return SentenceTransformer(scratch, backend="openvino", model_kwargs=name).encode


if __name__ == "__main__":
    sys.exit(main())
