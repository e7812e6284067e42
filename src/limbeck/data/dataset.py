"""What does every dataset say of itself, whatever its task?

This module knows no task and reads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from limbeck.types import Split


class Dataset(Protocol):
    """What DATA holds, complete: with a dev split where there can be one, and the labels that
    count.
    """

    @property
    def name(self) -> str:
        """What people call it."""

    @property
    def digest(self) -> str:
        """The SHA-256 (hex) of its content."""

    @property
    def notes(self) -> tuple[str, ...]:
        """What was decided while it was read, a sentence each."""

    @property
    def synthetic(self) -> bool:
        """Whether nobody judged its units: they were made from the data."""

    @property
    def splits(self) -> Sequence[Split]:
        """The splits that can be trained or measured on."""

    @property
    def facts(self) -> Mapping[str, object]:
        """Its table in `run.toml` besides name and digest; `labelled` and `unlabelled` count units
        of training.
        """

    @property
    def labelled(self) -> Sequence[str]:
        """The training units whose answer is known."""

    @property
    def unlabelled(self) -> Sequence[str]:
        """The training units whose answer is not."""

    def shown(self, unit: str) -> str | None:
        """What a page shows of a unit; None when it is not there."""

    def alternative(self, name: str) -> str | None:
        """What a page shows of an alternative that a unit's row may have; None when not there."""

    def judged(self, split: Split, unit: str) -> Mapping[str, int]:
        """The grades of a unit's alternatives in a split; above 0 is right."""


def measured_split(data: Dataset) -> Split | None:
    """Where figures come from: test, or dev where there is no test."""
    order: tuple[Split, ...] = ("test", "dev")
    return next((split for split in order if split in data.splits), None)
