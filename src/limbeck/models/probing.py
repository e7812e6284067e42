"""Which precision is faster on this machine, to read and to train?

A feed-forward block of a small encoder is computed in fp32 and in bf16, in turns: forwards in the
backend that reads, forwards and backwards in torch, which trains. On a processor each has one
thread, and the time that counts is what the process computed for, so that other work on the machine
slows both alike. The flags of a processor do not tell: there are some that have instructions for
bf16 and are half as fast in it.

This module knows no model and no text.
"""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor, nn

from limbeck.limit import TRAINED, rates_in_turns
from limbeck.models.graph import openvino

Precision = Literal["fp32", "bf16"]
PRECISIONS: tuple[Precision, ...] = ("fp32", "bf16")

# bf16 is taken where it is so many times as fast: what is chosen decides bytes, and should be the
# same whatever else the machine does. Processors that gain from bf16 gain twofold and more.
CLEARLY = 1.3

SIZES = {"cpu": (512, 384, 1536), "cuda": (8192, 1024, 4096)}  # tokens, width, inner width
SECONDS = 0.1  # for both precisions, on a machine that does nothing else


def precisions(device: str) -> tuple[Precision, ...]:
    """The precisions in which a device multiplies matrices, rather than imitating it."""
    return PRECISIONS if _computes_bf16(device) else PRECISIONS[:1]


@cache
def reading_rates(device: str, backend: Literal["torch", "openvino"]) -> dict[Precision, float]:
    """FLOP/s of a forward in each precision of a device; measured once in a process."""
    block, inputs = _block(device)
    found = precisions(device)
    if backend == "openvino":
        works: dict[Precision, Callable[[], object]] = {
            each: _in_openvino(block, inputs, each) for each in found
        }
    else:
        works = {each: partial(_forward, block, inputs, each) for each in found}
    return _rates(works, device, _flops(device))


@cache
def training_rates(device: str) -> dict[Precision, float]:
    """FLOP/s of a forward and its backward in each precision; measured once in a process."""
    block, inputs = _block(device)
    inputs.requires_grad_(True)
    works: dict[Precision, Callable[[], object]] = {
        each: partial(_update, block, inputs, each) for each in precisions(device)
    }
    return _rates(works, device, TRAINED * _flops(device))


def faster(rates: Mapping[Precision, float]) -> Precision:
    """The precision to take: bf16 where it is clearly faster.

    Example:
        >>> faster({"fp32": 100.0, "bf16": 129.0}), faster({"fp32": 100.0, "bf16": 131.0})
        ('fp32', 'bf16')
    """
    return "bf16" if rates.get("bf16", 0.0) >= CLEARLY * rates["fp32"] else "fp32"


def _rates(
    works: Mapping[Precision, Callable[[], object]], device: str, flops: float
) -> dict[Precision, float]:
    """The rates of some works of so many FLOP each; torch's threads are put back afterwards."""
    if len(works) == 1:  # nothing to choose from
        return dict.fromkeys(works, 0.0)
    threads = torch.get_num_threads()
    on_cpu = torch.device(device).type == "cpu"
    try:
        if on_cpu:
            torch.set_num_threads(1)
        clock = time.process_time if on_cpu else time.perf_counter
        return rates_in_turns(works, flops, seconds=SECONDS, clock=clock)
    finally:
        torch.set_num_threads(threads)


def _block(device: str) -> tuple[nn.Sequential, Tensor]:
    """A feed-forward block, and its input [T, D]; no random number is drawn."""
    tokens, width, inner = SIZES[torch.device(device).type]
    block = nn.Sequential(
        nn.Linear(width, inner, device="meta"), nn.GELU(), nn.Linear(inner, width, device="meta")
    ).to_empty(device=device)
    with torch.no_grad():
        for parameter in block.parameters():
            parameter.fill_(0.01)
    return block, torch.ones(tokens, width, device=device)


def _flops(device: str) -> float:
    """FLOP of one forward of the block."""
    tokens, width, inner = SIZES[torch.device(device).type]
    return 4.0 * tokens * width * inner


def _forward(block: nn.Sequential, inputs: Tensor, precision: Precision) -> None:
    device = inputs.device.type
    with (
        torch.inference_mode(),
        torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"),
    ):
        block(inputs)
    _wait(device)


def _update(block: nn.Sequential, inputs: Tensor, precision: Precision) -> None:
    device = inputs.device.type
    with torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"):
        output = block(inputs)
    torch.autograd.backward(output, torch.ones_like(output))
    block.zero_grad()
    inputs.grad = None
    _wait(device)


def _wait(device: str) -> None:
    """Wait until a GPU is done; a processor is."""
    if device == "cuda":
        torch.cuda.synchronize()


def _in_openvino(block: nn.Sequential, inputs: Tensor, precision: Precision) -> Callable[[], Any]:
    """The block, compiled for one thread."""
    package = openvino()
    graph = package.opset13
    state = package.op.Parameter(package.Type.f32, package.PartialShape([-1, inputs.shape[1]]))
    output = state
    for part in block:
        if isinstance(part, nn.Linear):
            weight, bias = (each.detach().numpy() for each in (part.weight, part.bias))
            output = graph.matmul(output, graph.constant(weight), False, True)
            output = graph.add(output, graph.constant(bias))
        else:
            output = graph.gelu(output, "erf")
    hints = {
        "INFERENCE_PRECISION_HINT": {"fp32": "f32", "bf16": "bf16"}[precision],
        "PERFORMANCE_HINT": "THROUGHPUT",
        "NUM_STREAMS": 1,
        "INFERENCE_NUM_THREADS": 1,
        "ENABLE_CPU_PINNING": False,
    }
    model = package.Model([output], [state], "block")
    request = package.compile_model(model, "CPU", hints).create_infer_request()
    array: np.ndarray[Any, Any] = inputs.detach().numpy()
    return partial(request.infer, [array])


def _computes_bf16(device: str) -> bool:
    """Whether the device has instructions for bf16."""
    if device == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    if platform.system() != "Linux":
        return False
    about = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    flags = next((line for line in about.splitlines() if line.startswith("flags")), "").split()
    return not {"avx512_bf16", "amx_bf16"}.isdisjoint(flags)
