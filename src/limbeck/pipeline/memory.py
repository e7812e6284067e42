"""What does a verb leave in memory when it is done?

Models of sentence-transformers hold themselves in reference cycles, through their model cards, and
Python looks for such cycles by the count of objects, of which a model is few, however large. So the
models of one run would stay beside those of the next ones.

This module knows no model and no run.
"""

from __future__ import annotations

import ctypes
import gc
from collections.abc import Callable
from contextlib import suppress
from functools import wraps
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def frees_memory(verb: Callable[P, T]) -> Callable[P, T]:
    """The verb, after which the memory that nobody holds any more is given back."""

    @wraps(verb)
    def freed(*args: P.args, **kwargs: P.kwargs) -> T:
        try:
            return verb(*args, **kwargs)
        finally:
            gc.collect()
            with suppress(OSError, AttributeError):  # only glibc keeps what was freed
                ctypes.CDLL(None).malloc_trim(0)

    return freed
