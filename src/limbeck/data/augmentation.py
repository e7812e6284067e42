"""How are training images varied? By a crop of the padded image, and a mirror image.

The variation of an image is a function of the seed, the update and its place there: it is the same
for every model that reads the update, and in a run that goes on after a kill. This module knows no
model and no task.
"""

from __future__ import annotations

from typing import Literal

import numpy as np
import torch
from torch import Tensor

Augment = Literal["none", "crop", "crop-flip"]


class Augmentation:
    """The variations of the `count` images of one update.

    Each image is padded with zeros by an eighth of its height on all sides, cut to its size again
    anywhere, and, where `how` says so, mirrored left to right with a chance of a half.
    """

    def __init__(self, how: Augment, count: int, height: int, *, seed: int, update: int) -> None:
        random = np.random.default_rng([seed, update])
        self.pad = 0 if how == "none" else max(1, height // 8)
        self.offsets = random.integers(2 * self.pad + 1, size=(count, 2))
        self.mirrored = (random.random(count) < 0.5) & (how == "crop-flip")

    def __call__(self, images: Tensor, places: np.ndarray) -> Tensor:
        """Images [b, channels, height, width] that have these places in the update."""
        if not self.pad:
            return images
        height, width = images.shape[2:]
        padded = torch.nn.functional.pad(images, [self.pad] * 4)
        varied = torch.empty_like(images)
        for at, place in enumerate(places.tolist()):
            top, left = self.offsets[place].tolist()
            cut = padded[at, :, top : top + height, left : left + width]
            varied[at] = cut.flip(2) if self.mirrored[place] else cut
        return varied
