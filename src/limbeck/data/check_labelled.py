"""Can this data of classes be used, and what should its owner know about it?

Errors are what reading the dataset refuses; warnings stop nothing. This module knows no model and
no recipe.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from limbeck.data.check import Problems, Report
from limbeck.data.labelled import Examples, Labelled, scan_labelled
from limbeck.errors import DataError


def check_labelled(data: str | Path, *, image_size: int | None = None) -> Report:
    """The report on a dataset of classes.

    Raises:
        ConfigError: when DATA is nothing that can be read.
    """
    problems = Problems()
    try:
        found = scan_labelled(data, problems, image_size=image_size)
    except DataError as error:  # nothing can be counted
        return Report(str(data), (*problems.lines(), str(error)), (), (), {})
    return Report(
        str(data),
        problems.lines(),
        tuple(_warnings(found)),
        found.notes,
        {found.form: _inputs(found), **{split: _split(found, split) for split in found.splits}},
    )


def _inputs(found: Labelled) -> dict[str, object]:
    """Number and sizes of the inputs."""
    inputs = found.parts["train"].inputs
    number = sum(map(len, found.parts.values()))
    about: dict[str, object] = {"number": number, "classes": len(found.classes)}
    if isinstance(inputs, np.ndarray):
        height, width, channels = inputs.shape[1:]
        return {**about, "size": f"{width} x {height} pixels", "channels": channels}
    words = sorted(len(text.split()) for text in inputs)
    return {**about, "median words": words[len(words) // 2], "max words": words[-1]}


def _split(found: Labelled, split: str) -> dict[str, object]:
    """Examples of each class, and those of none."""
    [labels] = [part.labels for name, part in found.parts.items() if name == split]
    counts = np.bincount(labels[labels >= 0], minlength=len(found.classes))
    return {
        "examples": len(labels),
        "unlabelled": int((labels < 0).sum()),
        "classes": dict(zip(found.classes, counts.tolist(), strict=True)),
    }


def _warnings(found: Labelled) -> list[str]:
    """Warnings on examples that are in two splits: training data would be measured on."""
    told = []
    seen: dict[bytes, str] = {}
    for split in found.splits:
        digests = _digests(found.parts[split])
        shared = [at for at, each in enumerate(digests) if seen.get(each, split) != split]
        if shared:
            ids = ", ".join(f'"{found.parts[split].ids[at]}"' for at in shared[:3])
            told.append(
                f"{len(shared):,} {found.form} of {split} are in an earlier split, too ({ids}"
                f"{', ...' if shared[3:] else ''})"
            )
        for each in digests:
            seen.setdefault(each, split)
    return told


def _digests(part: Examples) -> Sequence[bytes]:
    given = (
        each.tobytes() if isinstance(each, np.ndarray) else each.encode() for each in part.inputs
    )
    return [hashlib.sha256(each).digest() for each in given]
