"""What does a model look like outside torch?

OpenVINO's own converter, or torch's ONNX exporter, turns an encoder or a ranker, its pooling and
normalisation inside, into a graph that takes batches of any size and length; nncf brings a graph of
OpenVINO to int8. A graph of OpenVINO holds copies of the weights: what happens to the model
afterwards does not reach it.

This module does not know what a graph is for, or how fast it runs.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.errors import ConfigError, ModelError
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.quiet import quiet

if TYPE_CHECKING:
    from numpy.typing import NDArray

OUTPUT = "output"  # the name of the vectors [B, D], or scores [B]
_EXAMPLES = ((1, 7), (3, 4))  # tokens of two texts, or pairs: the trace sees padding


def openvino_installed() -> bool:
    """Whether the extra `openvino` is there."""
    return find_spec("openvino") is not None


def openvino() -> Any:
    """The package openvino.

    Raises:
        ConfigError: when the extra is not installed.
    """
    try:
        import openvino
    except ImportError as error:
        raise ConfigError(
            "OpenVINO is not installed. Run `pip install 'limbeck[openvino]'`, or use --backend "
            "torch."
        ) from error
    return openvino


def onnxruntime() -> Any:
    """The package onnxruntime.

    Raises:
        ConfigError: when the extra `onnx` is not installed.
    """
    try:
        import onnxruntime
    except ImportError as error:
        raise ConfigError(
            "onnxruntime is not installed. Run `pip install 'limbeck[onnx]'`, or use --backend "
            "torch."
        ) from error
    return onnxruntime


def to_openvino(model: Encoder | Ranker) -> Any:
    """The `openvino.Model` whose output equals the model's in fp32.

    Shapes: inputs as a collator names them, each [B, T] long; output [B, D] or [B] fp32.

    Raises:
        ConfigError: when the extra `openvino` is not installed.
        ModelError: when the model cannot be converted.
    """
    package = openvino()
    example = _example(model)
    training = model.training
    traced = _Named(model, list(example)).eval()
    try:
        with quiet(), torch.inference_mode():
            graph = package.convert_model(
                traced,
                example_input=tuple(example.values()),
                input=[(package.PartialShape([-1, -1]), package.Type.i64) for _ in example],
                share_weights=False,
            )
        for port, name in zip(graph.inputs, example, strict=True):
            port.get_tensor().set_names({name})
        graph.output(0).get_tensor().set_names({OUTPUT})
    except Exception as error:  # the converter and torch's tracing raise many unrelated types
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"This model cannot be converted to OpenVINO ({type(error).__name__}: {reason}). Use "
            "--backend torch."
        ) from error
    finally:
        model.train(training)
    return graph


def to_onnx(model: Encoder | Ranker) -> Any:
    """The `torch.onnx.ONNXProgram` whose output equals the model's in fp32.

    By the exporter that has been torch's default since 2.9; the one that traces is on its way out.
    The program shares the model's weights until it is saved, where no more than they depends on
    the model: nothing tells paths or lines of code.

    Shapes: inputs as a collator names them, each [B, T] long; output [B, D] or [B] fp32.

    Raises:
        ConfigError: when the extra `onnx` is not installed.
        ModelError: when the model cannot be converted.
    """
    if find_spec("onnxscript") is None:
        raise ConfigError(
            "onnxscript is not installed. Run `pip install 'limbeck[onnx]'`, or use --backend "
            "torch."
        )
    example = _example(model)
    training = model.training
    named = _Named(model, list(example)).eval()
    try:
        with quiet(), torch.inference_mode():
            program = torch.onnx.export(
                named,
                tuple(example.values()),
                dynamo=True,
                input_names=list(example),
                output_names=[OUTPUT],
                dynamic_shapes=(tuple({0: "batch", 1: "tokens"} for _ in example),),
                verbose=False,
            )
    except Exception as error:  # the exporter wraps what torch raises, and that is of many types
        reason = str(error.__cause__ or error).strip().partition("\n")[0]
        raise ModelError(
            f"This model cannot be converted to ONNX ({type(error).__name__}: {reason}). Use "
            "--backend torch."
        ) from error
    finally:
        model.train(training)
    assert program is not None  # only without dynamo
    _forget_origin(program.model)
    return program


def onnx_session(path: Path) -> Any:
    """The `onnxruntime.InferenceSession` of a graph on the processor.

    A batch runs on the thread that asks for it: its bytes depend on nothing that runs beside it.

    Raises:
        ConfigError: when the extra `onnx` is not installed.
    """
    package = onnxruntime()
    options = package.SessionOptions()
    options.intra_op_num_threads = options.inter_op_num_threads = 1
    options.use_deterministic_compute = True
    options.log_severity_level = 3  # errors
    return package.InferenceSession(str(path), options, providers=["CPUExecutionProvider"])


def to_int8(
    graph: Any,
    calibration: Sequence[Mapping[str, NDArray[np.int64]]],
    *,
    spared: Sequence[str] = (),
) -> Any:
    """The graph with its matrix products in int8, their ranges those seen on `calibration`; but for
    those whose names are `spared`.

    Shapes: each item is one batch of inputs, [B, T] long, by name.

    Raises:
        ConfigError: when the extra `openvino` is not installed.
    """
    try:
        import nncf
    except ImportError as error:
        raise ConfigError(
            "nncf is not installed. Run `pip install 'limbeck[openvino]'`, or use --to openvino."
        ) from error
    nncf.set_log_level(logging.ERROR)
    with quiet():
        return nncf.quantize(
            graph,
            nncf.Dataset(calibration),
            model_type=nncf.ModelType.TRANSFORMER,
            subset_size=len(calibration),
            ignored_scope=nncf.IgnoredScope(names=list(spared)) if spared else None,
        )


def narrowing_products(graph: Any) -> list[str]:
    """The names of the matrix products with weights that give fewer numbers than they take: the
    second of each feed-forward block. What they take has a few very large numbers, which int8 can
    hold only by rounding the others.
    """
    found = []
    for node in graph.get_ops():
        if node.get_type_name() != "MatMul":
            continue
        shapes = [node.input(at).get_partial_shape() for at in (0, 1)]
        if shapes[1].rank.get_length() != 2 or not shapes[1].is_static:
            continue
        weight = sorted(int(size.get_length()) for size in shapes[1])
        taken = shapes[0][len(shapes[0]) - 1]
        if taken.is_static and taken.get_length() == weight[1] > weight[0]:
            found.append(node.get_friendly_name())
    return found


def _forget_origin(model: Any) -> None:
    """Remove from an `onnx_ir.Model` the source files and lines that it came from."""
    nodes = list(model.graph.all_nodes())
    values = [*model.graph.inputs, *model.graph.initializers.values()]
    values += [value for node in nodes for value in node.outputs]
    for part in (model, model.graph, *nodes, *values):
        part.metadata_props.clear()


class _Named(nn.Module):
    """The model with one argument per feature, as a trace wants it."""

    def __init__(self, model: Encoder | Ranker, names: Sequence[str]) -> None:
        super().__init__()
        self.model = model
        self.names = names

    def forward(self, *features: Tensor) -> Tensor:
        """The model's output for features in the order of `names`."""
        output: Tensor = self.model(dict(zip(self.names, features, strict=True)))
        return output


def _example(model: Encoder | Ranker) -> dict[str, Tensor]:
    """A batch of two texts, or pairs, of different lengths, made of any token."""
    token = int(model.tokenizer.unk_token_id or 0)
    first, second = (
        [np.full(length, token, dtype=np.int32) for length in lengths] for lengths in _EXAMPLES
    )
    if isinstance(model, Ranker):
        return model.collator.pairs(first, second)
    return model.collator("passage").singles(first)
