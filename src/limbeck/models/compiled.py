"""How does a model's graph run on this processor?

In OpenVINO a graph is compiled for one precision, with as many streams as batches are to run at a
time; onnxruntime is called from as many threads. Each batch runs on one thread. So it gives the
same bytes whatever their number and whatever runs beside it.

This module does not know what a batch holds.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from torch import Tensor

from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.exported import ExportedEncoder, ExportedRanker, Runtime
from limbeck.models.graph import OUTPUT, onnx_session, openvino, to_onnx, to_openvino

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_KEPT = 4  # compiled models in memory, each with a copy of its weights
SHAPE_CACHE = 512  # entries, of which a shape of batch takes a few
_HINTS = {"fp32": "f32", "bf16": "bf16"}

_kept: OrderedDict[tuple[str, Runtime, str, int], Compiled] = OrderedDict()


class Compiled(ABC):
    """A graph, ready to run.

    `checked` and `padded_to` are for who compares it with the model it came from: whether that was
    done, and up to what length beside padding.
    """

    def __init__(self, at_a_time: int) -> None:
        self.checked = False
        self.padded_to = 0
        self._at_a_time = at_a_time

    def run(self, batches: Iterable[dict[str, Tensor]]) -> Iterator[NDArray[np.float32]]:
        """The output of each batch, in order; the next ones are under way meanwhile."""
        working: deque[Any] = deque()
        try:
            for features in batches:
                if len(working) == self._at_a_time:
                    yield self._finish(working.popleft())
                working.append(self._start(features))
            while working:
                yield self._finish(working.popleft())
        finally:
            for task in working:  # whoever asked went away
                self._finish(task)

    @abstractmethod
    def _start(self, features: dict[str, Tensor]) -> Any:
        """Start a batch; the task under way."""

    @abstractmethod
    def _finish(self, task: Any) -> NDArray[np.float32]:
        """Wait for a batch; its output."""


class InOpenvino(Compiled):
    """An `openvino.Model`, compiled."""

    def __init__(self, graph: Any, precision: Literal["fp32", "bf16"], at_a_time: int) -> None:
        super().__init__(at_a_time)
        self._names = [port.get_any_name() for port in graph.inputs]
        # All said: the defaults depend on the version and on the processor.
        self._model = openvino().compile_model(
            graph,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _HINTS[precision],
                "PERFORMANCE_HINT": "THROUGHPUT",
                "NUM_STREAMS": at_a_time,
                "INFERENCE_NUM_THREADS": at_a_time,
                "ENABLE_CPU_PINNING": False,  # other processes may run on the same cores
                # what is prepared for a shape of batch is kept, by default without end
                "CPU_RUNTIME_CACHE_CAPACITY": SHAPE_CACHE,
            },
        )
        self._idle: list[Any] = []

    def _start(self, features: dict[str, Tensor]) -> Any:
        request = self._idle.pop() if self._idle else self._model.create_infer_request()
        request.start_async({name: features[name].numpy() for name in self._names})
        return request

    def _finish(self, task: Any) -> NDArray[np.float32]:
        task.wait()
        output: NDArray[np.float32] = task.get_output_tensor(0).data.astype(np.float32)
        self._idle.append(task)
        return output


class InOnnxruntime(Compiled):
    """An `onnxruntime.InferenceSession`, which any thread may call."""

    def __init__(self, session: Any, at_a_time: int) -> None:
        super().__init__(at_a_time)
        self._session = session
        self._names = [port.name for port in session.get_inputs()]
        self._threads = ThreadPoolExecutor(at_a_time, thread_name_prefix="onnxruntime")

    def _start(self, features: dict[str, Tensor]) -> Any:
        inputs = {name: features[name].numpy() for name in self._names}
        return self._threads.submit(self._session.run, [OUTPUT], inputs)

    def _finish(self, task: Any) -> NDArray[np.float32]:
        output: NDArray[np.float32] = task.result()[0]
        return output


def compiled(
    model: Encoder | Ranker,
    runtime: Runtime,
    precision: Literal["fp32", "bf16"],
    *,
    at_a_time: int,
) -> Compiled:
    """The model, converted and compiled when no model of the same weights was before.

    `at_a_time` counts the batches that run at the same time. onnxruntime computes in fp32 only. An
    exported model is one for this runtime.

    Raises:
        ConfigError: when the runtime's extra is not installed.
        ModelError: when the model cannot be converted.
    """
    key = (model.content_digest(), runtime, precision, at_a_time)
    if key not in _kept:
        if isinstance(model, (ExportedEncoder, ExportedRanker)):
            _kept[key] = _compiled(model.model.graph, runtime, precision, at_a_time)
            _kept[key].checked = True  # when it was exported; there are no other weights
            _kept[key].padded_to = model.max_length
        else:
            graph = to_openvino(model) if runtime == "openvino" else _session(model)
            _kept[key] = _compiled(graph, runtime, precision, at_a_time)
        if len(_kept) > MAX_KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    return _kept[key]


def _compiled(
    graph: Any, runtime: Runtime, precision: Literal["fp32", "bf16"], at_a_time: int
) -> Compiled:
    """A graph in its runtime."""
    if runtime == "openvino":
        return InOpenvino(graph, precision, at_a_time)
    return InOnnxruntime(graph, at_a_time)


def _session(model: Encoder | Ranker) -> Any:
    """The model in onnxruntime, by way of a file: in memory a graph may have 2 GB at most."""
    with TemporaryDirectory() as folder:
        to_onnx(model).save(f"{folder}/model.onnx")
        return onnx_session(Path(folder) / "model.onnx")
