import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from conftest import encoder_of
from limbeck.data.tokens import tokenize_here
from limbeck.errors import ConfigError, ModelError
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.graph import (
    OUTPUT,
    narrowing_products,
    onnx_session,
    openvino,
    to_onnx,
    to_openvino,
)

pytestmark = pytest.mark.slow

pytest.importorskip("openvino")
pytest.importorskip("onnxruntime")

TEXTS = ["list all users", "the moon and the sea " * 20, "cat"]
Run = Callable[[dict[str, Tensor]], np.ndarray]


def run(graph: Any, features: dict[str, Tensor]) -> np.ndarray:
    """What plain OpenVINO gives in fp32."""
    model = openvino().compile_model(graph, "CPU", {"INFERENCE_PRECISION_HINT": "f32"})
    return model({name: value.numpy() for name, value in features.items()})[OUTPUT]


def in_openvino(model: Encoder | Ranker, folder: Path) -> Run:
    return partial(run, to_openvino(model))


def in_onnxruntime(model: Encoder | Ranker, folder: Path) -> Run:
    to_onnx(model).save(str(folder / "model.onnx"))
    session = onnx_session(folder / "model.onnx")
    return lambda features: session.run(
        [OUTPUT], {name: value.numpy() for name, value in features.items()}
    )[0]


RUNTIMES = pytest.mark.parametrize("converted", [in_openvino, in_onnxruntime])


@RUNTIMES
def test_a_graph_takes_any_batch_and_length_and_leaves_the_model_in_its_mode(
    converted: Callable[..., Run], tiny_encoder: Encoder, tiny_ranker: Ranker, tmp_path: Path
) -> None:
    """The encoder is in training, and its graph has no dropout all the same."""
    tokens = tokenize_here(TEXTS, tiny_encoder.tokenizer)
    tiny_encoder.train()
    tiny_ranker.eval()
    encoder, ranker = converted(tiny_encoder, tmp_path), converted(tiny_ranker, tmp_path)
    assert tiny_encoder.training
    assert not tiny_ranker.training
    for rows in ([0], [2], [0, 1], [1, 1, 2, 0, 2]):
        texts = [tokens[row] for row in rows]
        features = tiny_encoder.collator("passage").singles(texts)
        pairs = tiny_ranker.collator.pairs(texts, texts[::-1])
        with torch.inference_mode():
            vectors = tiny_encoder.eval()(features).numpy()
            scores = tiny_ranker.eval()(pairs).numpy()
        np.testing.assert_allclose(encoder(features), vectors, atol=1e-5)
        np.testing.assert_allclose(ranker(pairs), scores, atol=1e-4)


def test_a_graph_keeps_its_own_weights(tiny_encoder: Encoder) -> None:
    features = tiny_encoder.collator("query").singles([np.array([70, 71, 72], dtype=np.int32)])
    graph = to_openvino(tiny_encoder)
    before = run(graph, features)
    with torch.no_grad():
        for parameter in tiny_encoder.parameters():
            parameter.fill_(0.5)
    np.testing.assert_array_equal(run(graph, features), before)


def test_a_file_tells_nothing_of_where_it_was_made(tmp_path: Path) -> None:
    encoder, files = encoder_of("bert", tmp_path, num_hidden_layers=1), []
    for name in ("one.onnx", "another.onnx"):
        to_onnx(encoder).save(str(tmp_path / name))
        files.append((tmp_path / name).read_bytes())
    assert files[0] == files[1]
    for told in (b"site-packages", b"limbeck", b"sentence_transformers", b"pkg.torch"):
        assert told not in files[0]


@RUNTIMES
@pytest.mark.parametrize("architecture", ["roberta", "distilbert", "mpnet", "modernbert"])
def test_other_architectures(
    converted: Callable[..., Run], architecture: str, tmp_path: Path
) -> None:
    layers = {"distilbert": {"n_layers": 1}, "modernbert": {}}  # its second layer is another one
    encoder = encoder_of(
        architecture, tmp_path, **layers.get(architecture, {"num_hidden_layers": 1})
    )
    tokens = tokenize_here(TEXTS, encoder.tokenizer)
    features = encoder.collator("passage").singles([tokens[at] for at in range(3)])
    with torch.inference_mode():
        vectors = encoder(features).numpy()
    found = converted(encoder, tmp_path)(features)
    assert (found * vectors).sum(axis=1).min() > 0.9999


class Odd(nn.Module):
    """A part that no graph can say."""

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        raise NotImplementedError("not in a trace")


def test_a_model_that_cannot_be_converted(tmp_path: Path) -> None:
    broken = encoder_of("bert", tmp_path, num_hidden_layers=1)
    broken.model.add_module("odd", Odd())
    with pytest.raises(ModelError, match=r"cannot be converted .* Use --backend torch"):
        to_openvino(broken)
    with pytest.raises(ModelError, match=r"cannot be converted .*not in a.* Use --backend torch"):
        to_onnx(broken)


def test_without_the_extra(tiny_encoder: Encoder, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "openvino", None)
    with pytest.raises(ConfigError, match=r"pip install 'limbeck\[openvino\]'"):
        to_openvino(tiny_encoder)
    monkeypatch.setitem(sys.modules, "onnxscript", None)
    with pytest.raises(ConfigError, match=r"onnxscript .* `pip install 'limbeck\[onnx\]'"):
        to_onnx(tiny_encoder)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    with pytest.raises(ConfigError, match=r"onnxruntime .* `pip install 'limbeck\[onnx\]'"):
        onnx_session(Path("model.onnx"))


def test_the_narrowing_products_are_the_second_of_each_feed_forward_block(
    tiny_encoder: Encoder,
) -> None:
    found = narrowing_products(to_openvino(tiny_encoder))
    layers = tiny_encoder.transformer.config.num_hidden_layers
    assert len(found) == layers
    for at, name in enumerate(sorted(found)):
        assert f"layer.{at}.output.dense" in name
