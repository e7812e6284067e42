import json
import re
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from limbeck import pipeline
from limbeck.data.tokens import tokenize_here
from limbeck.errors import ConfigError, DataError, ModelError, ScoreError, StoreError
from limbeck.inference import Engine, check_same, embed, score
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.exported import GRAPHS, load_exported, runtime_of
from limbeck.models.graph import to_onnx
from limbeck.pipeline import exporting
from limbeck.store import MANIFEST
from limbeck.teachers import load_teacher

pytest.importorskip("nncf")
pytest.importorskip("onnxruntime")

from collections_here import made_up
from conftest import encoder_of

pytestmark = pytest.mark.slow

TEXTS = ["list all users", "the moon and the sea " * 20, "cat"]
WORDS = ["moon", "sea and sun", "red", "blue and green", "find the file", "one two", "a fish"]


@pytest.fixture(scope="module", params=["openvino", "onnx"])
def format_(request: pytest.FixtureRequest) -> str:
    return request.param


@pytest.fixture(scope="module")
def exported(
    format_: str, tiny_encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("exported") / "encoder"
    found = pipeline.export(str(tiny_encoder_folder), to=format_, out=out)
    assert (found.out, found.format, found.lost) == (out, format_, None)
    return out


@pytest.fixture(scope="module")
def exported_ranker(
    format_: str, tiny_ranker_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    out = tmp_path_factory.mktemp("exported") / "ranker"
    pipeline.export(str(tiny_ranker_folder), to=format_, out=out)
    return out


def readme(folder: Path) -> dict[str, object]:
    """What is left after the README's code ran as it stands, but for the folder's name."""
    text = (folder / "README.md").read_text()
    [code] = re.findall(r"^```python\n(.*?)^```$", text, re.MULTILINE | re.DOTALL)
    left: dict[str, object] = {}
    exec(code.replace("path/to/this/folder", str(folder)), left)
    return left


def test_its_runtime_alone_gives_the_vectors_of_the_model(
    exported: Path, tiny_encoder: Encoder
) -> None:
    left = readme(exported)
    tokens = tokenize_here(left["texts"], tiny_encoder.tokenizer)
    exact = embed(tiny_encoder, tokens, "passage", engine=Engine("cpu", "fp32"))
    np.testing.assert_allclose(left["output"], exact, atol=1e-5)


def test_its_runtime_alone_gives_the_scores_of_the_model(
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
    runtime = runtime_of(exported)
    graph = Engine("cpu", "fp32", 100, runtime)
    assert isinstance(encoder, Encoder)
    assert isinstance(ranker, Ranker)
    assert encoder.similarity == tiny_encoder.similarity
    assert encoder.dimension == tiny_encoder.dimension
    assert encoder.parameter_count() == tiny_encoder.parameter_count()
    assert encoder.size_bytes() > 0
    assert encoder.weights_digest() != tiny_encoder.weights_digest()
    np.testing.assert_allclose(
        embed(encoder, tokens, "query", engine=graph),
        embed(tiny_encoder, tokens, "query", engine=Engine("cpu", "fp32")),
        atol=1e-5,
    )
    pairs = np.array([[0, 1], [2, 0]])
    np.testing.assert_allclose(
        score(ranker, tokens, tokens, pairs, engine=graph),
        score(tiny_ranker, tokens, tokens, pairs, engine=Engine("cpu", "fp32")),
        atol=1e-4,
    )
    other = "openvino" if runtime == "onnxruntime" else "onnxruntime"
    for backend in ("torch", other):
        with pytest.raises(ModelError, match=f"Use --backend {runtime}"):
            embed(encoder, tokens, "query", engine=Engine("cpu", "fp32", backend=backend))


def test_a_batch_has_the_same_bytes_whatever_runs_beside_it(
    exported: Path, tiny_encoder: Encoder
) -> None:
    encoder, runtime = load_exported(exported), runtime_of(exported)
    tokens = tokenize_here([*TEXTS, *WORDS], tiny_encoder.tokenizer)
    found = {
        embed(encoder, tokens, "query", engine=Engine("cpu", "fp32", 20, runtime, n)).tobytes()
        for n in (None, 1, 2, 5)
    }
    assert len(found) == 1


def test_what_is_not_the_model_is_refused(
    exported: Path, exported_ranker: Path, tiny_encoder: Encoder, tiny_ranker: Ranker
) -> None:
    for model, folder in ((tiny_encoder, exported), (tiny_ranker, exported_ranker)):
        check_same(model, load_exported(folder), TEXTS)
        with torch.no_grad():
            for parameter in model.parameters():
                parameter.mul_(1.5)
        with pytest.raises(
            ScoreError, match=rf"In \w+ and fp32 the {type(model).__name__.lower()}"
        ):
            check_same(model, load_exported(folder), TEXTS)


def test_what_is_another_model_beside_padding_is_not_exported(tmp_path: Path, data: Path) -> None:
    """Its local attention leaves padding nothing to see, which OpenVINO answers with nan."""
    folder, out = tmp_path / "local", tmp_path / "out"
    local = encoder_of("modernbert", tmp_path, local_attention=8)
    local.save(folder, card="", stage="test")
    for to in ("openvino", "openvino-int8"):
        with pytest.raises(ScoreError, match="gives other vectors than in fp32"):
            pipeline.export(str(folder), to=to, out=out, data=str(data), precision="fp32")
        assert not out.exists()
    pipeline.export(str(folder), to="onnx", out=out)


def test_an_exported_model_is_evaluated_like_its_origin(
    exported: Path, tiny_encoder_folder: Path, data: Path
) -> None:
    own = pipeline.evaluate(str(tiny_encoder_folder), data, precision="fp32").rows[1]
    row = pipeline.evaluate(str(exported), data, precision="fp32").rows[1]
    for key in ("nDCG@10", "RR@10", "R@100", "queries", "parameters"):
        assert row[key] == own[key]
    with pytest.raises(ModelError, match=f"Use --backend {runtime_of(exported)}"):
        pipeline.evaluate(str(exported), data, backend="torch")


def test_an_exported_model_cannot_be_trained_as_a_teacher(
    exported: Path, tiny_encoder_folder: Path, data: Path
) -> None:
    with pytest.raises(ConfigError, match="lead trains its teacher, and one that was exported"):
        pipeline.plan(data, recipe="lead", teacher=str(exported), student=str(tiny_encoder_folder))


def test_an_exported_ranker_is_evaluated_like_its_origin(
    exported_ranker: Path,
    tiny_ranker_folder: Path,
    tiny_encoder: Encoder,
    data: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("limbeck.tasks.retrieval.kind.load_encoder", lambda name: tiny_encoder)
    own = pipeline.evaluate(str(tiny_ranker_folder), data, precision="fp32").rows[1]
    row = pipeline.evaluate(str(exported_ranker), data, precision="fp32").rows[1]
    for key in ("nDCG@10", "RR@10", "R@100", "queries"):
        assert row[key] == own[key]


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
    monkeypatch.setattr(exporting, "MAX_LOST", -2.0)  # nothing passes
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
    monkeypatch.setattr("limbeck.tasks.retrieval.kind.load_encoder", lambda name: tiny_encoder)
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
    """As older versions left it."""
    folder = tmp_path / "damaged"
    shutil.copytree(exported, folder, ignore=shutil.ignore_patterns(MANIFEST))
    (folder / GRAPHS[runtime_of(folder)]).write_text("<net")
    with pytest.raises(ModelError, match="Export the model again"):
        load_exported(folder)
    about = json.loads((folder / "limbeck.json").read_text())
    (folder / "limbeck.json").write_text(json.dumps({**about, "format": "morse"}))
    with pytest.raises(ModelError, match="exported as 'morse', which this version"):
        load_exported(folder)


@pytest.mark.parametrize("kind", ["graph", "weights", "tokenizer_config.json", "limbeck.json"])
def test_a_flipped_bit_of_an_export_is_noticed_when_it_is_opened(
    exported: Path, tmp_path: Path, kind: str
) -> None:
    folder = tmp_path / "flipped"
    shutil.copytree(exported, folder)
    graph = GRAPHS[runtime_of(folder)]
    name = {"graph": graph, "weights": graph.replace(".xml", ".bin")}.get(kind, kind)
    content = bytearray((folder / name).read_bytes())
    content[len(content) // 2] ^= 1
    (folder / name).write_bytes(content)
    says = rf"the SHA-256 of {name} is not the recorded one.*Export the model again"
    with pytest.raises(StoreError, match=says):
        load_exported(folder)
    (folder / name).unlink()
    with pytest.raises(StoreError, match=rf"{name} is missing"):
        load_teacher(str(folder))


def test_one_runtime_does_without_the_other(
    exported: Path, tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    runtime = runtime_of(exported)
    monkeypatch.setitem(sys.modules, next(each for each in GRAPHS if each != runtime), None)
    check_same(tiny_encoder, load_exported(exported), TEXTS)


def test_without_the_extra(
    exported: Path,
    format_: str,
    tiny_encoder_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    runtime = runtime_of(exported)
    monkeypatch.setitem(sys.modules, runtime, None)
    extra = {"openvino": "openvino", "onnxruntime": "onnx"}[runtime]
    with pytest.raises(ConfigError, match=rf"pip install 'limbeck\[{extra}\]'"):
        load_exported(exported)
    with pytest.raises(ConfigError, match=rf"pip install 'limbeck\[{extra}\]'"):
        pipeline.export(str(tiny_encoder_folder), to=format_, out=tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_weights_may_lie_in_a_file_of_their_own(
    exported: Path, format_: str, tiny_encoder: Encoder, tmp_path: Path
) -> None:
    """As they do in ONNX above 1.5 GB, and in OpenVINO always."""
    folder = tmp_path / "large"
    shutil.copytree(exported, folder, ignore=shutil.ignore_patterns(MANIFEST))
    if format_ == "onnx":
        to_onnx(tiny_encoder).save(str(folder / "model.onnx"), external_data=True)
    encoder = load_exported(folder)
    check_same(tiny_encoder, encoder, TEXTS)
    parameters = sum(map(torch.numel, tiny_encoder.parameters()))
    assert encoder.size_bytes() > 3 * parameters  # 4 each, but for those that no vector needs
    [weights] = [*folder.glob("*.data"), *folder.glob("*.bin")]
    changed = bytearray(weights.read_bytes())
    changed[len(changed) // 2] ^= 1
    weights.write_bytes(changed)
    assert load_exported(folder).weights_digest() != encoder.weights_digest()


def test_an_exported_model_trains_nothing(exported: Path) -> None:
    encoder = load_exported(exported)
    assert list(encoder.parameters()) == []
    with pytest.raises(ModelError, match="cannot be trained"):
        encoder({"input_ids": torch.zeros(1, 2, dtype=torch.long)})
