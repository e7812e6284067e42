"""Which net makes images from noise?

It is trained beside a student and not kept. This module knows no loss and no training.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

SCALE = 4  # of the first maps to the image


class ImageGenerator(nn.Module):
    """Images [B, channels, height, width] in [0, 1] of noise [B, size]: a linear map to small
    feature maps, then twice doubled in height and width, convolved and normalised by the batch.

    Source: the generator of Fang et al. 2021 (CMI), which Li et al. 2022, arXiv:2208.13648, use.
    """

    def __init__(self, size: int, channels: int, image: tuple[int, int, int], seed: int) -> None:
        super().__init__()
        self.height, self.width, colours = image
        self.first = -(-self.height // SCALE), -(-self.width // SCALE)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            self.start = nn.Linear(size, 2 * channels * self.first[0] * self.first[1])
            self.layers = nn.Sequential(
                nn.BatchNorm2d(2 * channels),
                nn.Upsample(scale_factor=2),
                nn.Conv2d(2 * channels, 2 * channels, 3, padding=1),
                nn.BatchNorm2d(2 * channels),
                nn.LeakyReLU(0.2),
                nn.Upsample(scale_factor=2),
                nn.Conv2d(2 * channels, channels, 3, padding=1),
                nn.BatchNorm2d(channels),
                nn.LeakyReLU(0.2),
                nn.Conv2d(channels, colours, 3, padding=1),
                nn.Sigmoid(),
            )
            for module in self.modules():
                if isinstance(module, nn.Conv2d | nn.Linear):
                    nn.init.normal_(module.weight, 0.0, 0.02)

    def forward(self, features: dict[str, Tensor]) -> Tensor:
        """The images of a batch of `noise`."""
        noise = features["noise"]
        maps = self.start(noise).reshape(len(noise), -1, *self.first)
        images: Tensor = self.layers(maps)
        return images[:, :, : self.height, : self.width]
