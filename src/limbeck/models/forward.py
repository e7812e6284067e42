"""What does a model give for a batch in torch?

This module does not know what a batch holds, or which processes run it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

import torch
from torch import Tensor, nn

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def forward(
    model: nn.Module,
    features: dict[str, Tensor],
    *,
    device: str,
    precision: Literal["fp32", "bf16"],
) -> NDArray[np.float32]:
    """The model's output for a batch, computed in a precision on a device, as fp32 on the CPU."""
    moved = {name: value.to(device) for name, value in features.items()}
    with (
        torch.inference_mode(),
        torch.autocast(device, torch.bfloat16, enabled=precision == "bf16"),
    ):
        output: NDArray[np.float32] = model(moved).float().cpu().numpy()
    return output
