"""How are a student's feature maps compared with those of nets of other sizes?

This module knows no loss.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional


class MapAdapters(nn.Module):
    """Feature maps with so many `channels`, brought to each of some sizes (channels, height,
    width): pooled or interpolated to height and width, then mapped by a 1 x 1 convolution and ReLU.

    Source: the regressors of Romero et al. 2015 (FitNets), arXiv:1412.6550, section 2.2.
    """

    def __init__(self, channels: int, sizes: Sequence[tuple[int, int, int]]) -> None:
        super().__init__()
        self.sizes = [(height, width) for _, height, width in sizes]
        self.convolutions = nn.ModuleList([nn.Conv2d(channels, size[0], 1) for size in sizes])

    def forward(self, maps: Tensor) -> list[Tensor]:
        """Maps [R, channels, h, w] in every size, each from the maps as they were given."""
        found = []
        for size, convolution in zip(self.sizes, self.convolutions, strict=True):
            resized = maps
            if maps.shape[2] > size[0]:
                resized = functional.adaptive_avg_pool2d(maps, size)
            elif maps.shape[2] < size[0]:
                resized = functional.interpolate(maps, size, mode="bilinear", align_corners=False)
            found.append(torch.relu(convolution(resized)))
        return found
