"""In what order are examples seen? Every epoch shuffles all of them once.

Positions depend on nothing but (seed, epoch), so a source can be asked for any update at any time.
"""

from __future__ import annotations

from functools import lru_cache

import numpy as np


def update_positions(count: int, size: int, *, seed: int, update: int) -> np.ndarray:
    """Positions of the examples, of `count`, in an update of `size`: [size] positions and their
    epochs.

    Epochs follow each other without a gap: an update may end one and begin the next, so every
    example is seen once before any is seen twice. Returns [size, 2]: position, epoch.

    Example:
        >>> seen = [update_positions(4, 2, seed=0, update=n)[:, 0].tolist() for n in range(2)]
        >>> sorted(sum(seen, []))
        [0, 1, 2, 3]
    """
    places = np.arange(update * size, (update + 1) * size)
    epochs = places // count
    return np.stack(
        [
            np.array(
                [
                    _shuffled(count, seed, int(epoch))[place % count]
                    for place, epoch in zip(places, epochs, strict=True)
                ],
                dtype=np.int64,
            ),
            epochs,
        ],
        axis=1,
    )


@lru_cache(maxsize=4)
def _shuffled(count: int, seed: int, epoch: int) -> np.ndarray:
    """All positions in the order of one epoch."""
    return np.random.default_rng([seed, epoch]).permutation(count)
