"""How does a model run in OpenVINO on this processor?

A graph is compiled for one precision, with as many streams as torch has threads: each stream works
on a batch of its own, on one thread. So a batch gives the same bytes whatever the number of threads
and whatever runs beside it.

This module does not know what a batch holds.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.exported import ExportedEncoder, ExportedRanker
from limbeck.models.graph import openvino, to_openvino
from limbeck.store import digest

if TYPE_CHECKING:
    from numpy.typing import NDArray

MOST_KEPT = 4  # compiled models in memory, each with a copy of its weights
SEEN = 64  # numbers of a tensor that tell whether it is still the same
_HINTS = {"fp32": "f32", "bf16": "bf16"}

_kept: OrderedDict[tuple[str, str, int], Compiled] = OrderedDict()
_digests: WeakKeyDictionary[nn.Module, tuple[object, str]] = WeakKeyDictionary()


class Compiled:
    """A graph, ready to run; `checked` is for who compares it with the model it came from."""

    def __init__(self, graph: Any, precision: Literal["fp32", "bf16"], streams: int) -> None:
        self.checked = False
        self._streams = streams
        self._names = [port.get_any_name() for port in graph.inputs]
        # All said: the defaults depend on the version and on the processor.
        self._model = openvino().compile_model(
            graph,
            "CPU",
            {
                "INFERENCE_PRECISION_HINT": _HINTS[precision],
                "PERFORMANCE_HINT": "THROUGHPUT",
                "NUM_STREAMS": streams,
                "INFERENCE_NUM_THREADS": streams,
                "ENABLE_CPU_PINNING": False,  # other processes may run on the same cores
            },
        )
        self._idle: list[Any] = []

    def run(self, batches: Iterable[dict[str, Tensor]]) -> Iterator[NDArray[np.float32]]:
        """The output of each batch, in order; the next ones are under way meanwhile."""
        working: deque[Any] = deque()
        try:
            for features in batches:
                if len(working) == self._streams:
                    yield self._finished(working.popleft())
                request = self._idle.pop() if self._idle else self._model.create_infer_request()
                request.start_async({name: features[name].numpy() for name in self._names})
                working.append(request)
            while working:
                yield self._finished(working.popleft())
        finally:
            for request in working:  # whoever asked went away
                request.wait()

    def _finished(self, request: Any) -> NDArray[np.float32]:
        """What a request found, once it is done; the request is free again."""
        request.wait()
        output: NDArray[np.float32] = request.get_output_tensor(0).data.astype(np.float32)
        self._idle.append(request)
        return output


def compiled(model: Encoder | Ranker, precision: Literal["fp32", "bf16"]) -> Compiled:
    """The model, converted and compiled when no model of the same weights was before.

    Raises:
        ConfigError: when the extra `openvino` is not installed.
        ModelError: when the model cannot be converted.
    """
    streams = torch.get_num_threads()
    key = (_digest(model), precision, streams)
    if key not in _kept:
        if isinstance(model, (ExportedEncoder, ExportedRanker)):
            _kept[key] = Compiled(model.model.graph, precision, streams)
            _kept[key].checked = True  # when it was exported; there are no other weights
        else:
            _kept[key] = Compiled(to_openvino(model), precision, streams)
        if len(_kept) > MOST_KEPT:
            _kept.popitem(last=False)
    _kept.move_to_end(key)
    return _kept[key]


def _digest(model: Encoder | Ranker) -> str:
    """What the graph of a model depends on; taken again only when a look says that weights changed.

    The look is at some numbers of every tensor, too: fused optimisers write without counting it.
    """
    looks = []
    for value in model.state_dict().values():
        some = value.flatten()[:: max(1, value.numel() // SEEN)]
        looks.append((value.data_ptr(), value._version, some.cpu().numpy().tobytes()))
    if model not in _digests or _digests[model][0] != looks:
        _digests[model] = (looks, digest([model.weights_digest(), model.config_digest()]))
    return _digests[model][1]
