"""Where does a teacher put dark examples, as a page?

Made from scores by role, and from the words of whoever asked. Nothing is computed here but bins.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from limbeck.report.charts import histogram
from limbeck.report.page import render
from limbeck.report.teacher import BINS


def dark_page(
    data: str,
    teacher: str,
    scores: Mapping[str, NDArray[np.float32]],
    *,
    words: Sequence[str],
    warning: str | None,
) -> str:
    """The page, as HTML; `scores` are the teacher's raw ones by role, NaN where it has none."""
    known = {role: each[~np.isnan(each)].astype(np.float64) for role, each in scores.items()}
    every = np.concatenate(list(known.values()))
    low, high = float(every.min()), float(every.max())
    edges = np.linspace(low, high if high > low else low + 1.0, BINS + 1)
    groups = {
        f"{role} ({len(own):,})": (np.histogram(own, edges)[0] / len(own)).tolist()
        for role, own in known.items()
        if len(own)
    }
    return render(
        "dark.html",
        title=f"dark examples on {data}",
        facts=[("data", data), ("teacher", teacher)],
        picture=histogram("The teacher's raw scores", edges.tolist(), groups, x="score"),
        words=words,
        warning=warning,
    )
