import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from limbeck import pipeline
from limbeck.data.tokens import tokenize_here
from limbeck.errors import ConfigError, DataError, ModelError
from limbeck.inference import Engine, embed, score
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.exported import load_exported
from limbeck.pipeline import exporting

pytest.importorskip("nncf")

from collections_here import made_up

TEXTS = ["list all users", "the moon and the sea " * 20, "cat"]
GRAPH = Engine("cpu", "fp32", 100, "openvino")


@pytest.fixture(scope="module")
def exported(tiny_encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "encoder"
    found = pipeline.export(str(tiny_encoder_folder), to="openvino", out=out)
    assert (found.out, found.format, found.lost) == (out, "openvino", None)
    return out


@pytest.fixture(scope="module")
def exported_ranker(tiny_ranker_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("exported") / "ranker"
    pipeline.export(str(tiny_ranker_folder), to="openvino", out=out)
    return out


def readme(folder: Path) -> dict[str, object]:
    """What is left after the README's code ran as it stands, but for the folder's name."""
    text = (folder / "README.md").read_text()
    [code] = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    left: dict[str, object] = {}
    exec(code.replace("path/to/this/folder", str(folder)), left)
    return left


def test_plain_openvino_gives_the_vectors_of_the_model(
    exported: Path, tiny_encoder: Encoder
) -> None:
    left = readme(exported)
    tokens = tokenize_here(left["texts"], tiny_encoder.tokenizer)
    exact = embed(tiny_encoder, tokens, "passage", engine=Engine("cpu", "fp32"))
    np.testing.assert_allclose(left["output"], exact, atol=1e-5)


def test_plain_openvino_gives_the_scores_of_the_model(
    exported_ranker: Path, tiny_ranker: Ranker
) -> None:
    left = readme(exported_ranker)
    queries = tokenize_here(left["queries"], tiny_ranker.tokenizer)
    passages = tokenize_here(left["passages"], tiny_ranker.tokenizer)
    pairs = np.zeros((1, 2), dtype=np.int64)
    exact = score(tiny_ranker, queries, passages, pairs, engine=Engine("cpu", "fp32"))
    np.testing.assert_allclose(left["output"], exact, atol=1e-4)


def test_texts_are_cut_where_the_model_cuts_them(exported: Path, tiny_encoder: Encoder) -> None:
    from transformers import AutoTokenizer

    long = AutoTokenizer.from_pretrained(exported)("cat " * 100, truncation=True)
    assert len(long["input_ids"]) == tiny_encoder.max_length == 48


def test_an_exported_model_is_read_back(
    exported: Path, exported_ranker: Path, tiny_encoder: Encoder, tiny_ranker: Ranker
) -> None:
    tokens = tokenize_here(TEXTS, tiny_encoder.tokenizer)
    encoder, ranker = load_exported(exported), load_exported(exported_ranker)
    assert isinstance(encoder, Encoder)
    assert isinstance(ranker, Ranker)
    assert encoder.similarity == tiny_encoder.similarity
    assert encoder.dimension == tiny_encoder.dimension
    assert encoder.parameter_count() == tiny_encoder.parameter_count()
    assert encoder.size_bytes() > 0
    assert encoder.weights_digest() != tiny_encoder.weights_digest()
    np.testing.assert_allclose(
        embed(encoder, tokens, "query", engine=GRAPH),
        embed(tiny_encoder, tokens, "query", engine=Engine("cpu", "fp32")),
        atol=1e-5,
    )
    pairs = np.array([[0, 1], [2, 0]])
    np.testing.assert_allclose(
        score(ranker, tokens, tokens, pairs, engine=GRAPH),
        score(tiny_ranker, tokens, tokens, pairs, engine=Engine("cpu", "fp32")),
        atol=1e-4,
    )
    with pytest.raises(ModelError, match="Use --backend openvino"):
        embed(encoder, tokens, "query", engine=Engine("cpu", "fp32"))


def test_an_exported_model_is_evaluated_like_its_origin(
    exported: Path, tiny_encoder_folder: Path, data: Path
) -> None:
    own = pipeline.evaluate(str(tiny_encoder_folder), data, precision="fp32").rows[1]
    row = pipeline.evaluate(str(exported), data, precision="fp32").rows[1]
    for key in ("nDCG@10", "RR@10", "R@100", "queries", "parameters"):
        assert row[key] == own[key]
    with pytest.raises(ModelError, match="Use --backend openvino"):
        pipeline.evaluate(str(exported), data, backend="torch")


def test_int8_passes_the_gate_or_is_not_written(
    tiny_encoder_folder: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out = tmp_path / "int8"

    def export(**changes: object) -> exporting.Exported:
        return pipeline.export(
            str(tiny_encoder_folder),
            **{
                "to": "openvino-int8",
                "out": out,
                "data": str(data),
                "precision": "fp32",
                **changes,
            },
        )

    monkeypatch.setattr(exporting, "CALIBRATION_TEXTS", 20)
    monkeypatch.setattr(exporting, "MOST_LOST", -2.0)  # nothing passes
    with pytest.raises(ModelError, match=r"nothing was written. Use --to openvino, or --force"):
        export()
    assert not out.exists()
    assert [path.name for path in tmp_path.iterdir()] == ["data"]
    found = export(force=True)
    assert found.lost == (found.before - found.after) / found.before
    assert "in int8: nDCG@10 on dev" in (out / "README.md").read_text()
    assert "i8" in (out / "openvino_model.xml").read_text()
    row = pipeline.evaluate(str(out), data, split="dev", precision="fp32").rows[1]
    assert row["nDCG@10"] == pytest.approx(found.after)


def test_a_ranker_in_int8(
    tiny_ranker_folder: Path,
    tiny_encoder: Encoder,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(exporting, "CALIBRATION_TEXTS", 20)
    monkeypatch.setattr(exporting, "load_encoder", lambda name: tiny_encoder)
    out = tmp_path / "int8"
    found = pipeline.export(
        str(tiny_ranker_folder), to="openvino-int8", out=out, data=str(data), force=True
    )
    assert found.before is not None
    assert json.loads((out / "limbeck.json").read_text())["kind"] == "CrossEncoder"


def test_lost_by_hand() -> None:
    """(0.80 - 0.79) / 0.80 = 0.0125."""
    lost = exporting.Exported(Path(), "openvino-int8", before=0.80, after=0.79).lost
    assert lost == pytest.approx(0.0125)


def test_what_cannot_be_exported(exported: Path, tiny_encoder_folder: Path, tmp_path: Path) -> None:
    name, out = str(tiny_encoder_folder), tmp_path / "out"
    for error, match, changes in (
        (ConfigError, "no format 'morse'", {"to": "morse"}),
        (ConfigError, "Add --data", {"to": "openvino-int8"}),
        (ConfigError, "not empty", {"out": exported}),
        (ConfigError, "exported already", {"model": str(exported)}),
    ):
        asked = {"model": name, "to": "openvino", "out": out, **changes}
        with pytest.raises(error, match=match):
            pipeline.export(asked.pop("model"), **asked)
    unjudged = made_up(labelled=4, splits=()).write(tmp_path / "unjudged")
    with pytest.raises(DataError, match="no dev split to measure int8 on"):
        pipeline.export(name, to="openvino-int8", out=out, data=str(unjudged))
    assert not out.exists()


def test_a_damaged_export_is_refused(exported: Path, tmp_path: Path) -> None:
    import shutil

    folder = tmp_path / "damaged"
    shutil.copytree(exported, folder)
    (folder / "openvino_model.xml").write_text("<net")
    with pytest.raises(ModelError, match="Export the model again"):
        load_exported(folder)


def test_an_exported_model_trains_nothing(exported: Path) -> None:
    encoder = load_exported(exported)
    assert list(encoder.parameters()) == []
    with pytest.raises(ModelError, match="cannot be trained"):
        encoder({"input_ids": torch.zeros(1, 2, dtype=torch.long)})
