"""What does every dataset say of itself, whatever its task?

This module knows no task and reads nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Protocol

from limbeck.types import Split


class Dataset(Protocol):
    """The data of a run as it is used: with a dev split where possible, and only the labels that
    were asked for.
    """

    @property
    def name(self) -> str:
        """Its name for people."""

    @property
    def digest(self) -> str:
        """The SHA-256 (hex) of its content."""

    @property
    def notes(self) -> tuple[str, ...]:
        """Decisions made while it was read, a sentence each."""

    @property
    def synthetic(self) -> bool:
        """Whether its units were made from the data itself, so that nobody judged them."""

    @property
    def splits(self) -> Sequence[Split]:
        """The splits that can be trained or measured on."""

    @property
    def facts(self) -> Mapping[str, object]:
        """Facts for its table in `run.toml`, besides name and digest. They must include `labelled`
        and `unlabelled`, the numbers of training units with and without a known answer.
        """

    @property
    def labelled(self) -> Sequence[str]:
        """Ids of the training units whose answer is known."""

    @property
    def unlabelled(self) -> Sequence[str]:
        """Ids of the training units whose answer is not known."""

    def shown(self, unit: str) -> str | None:
        """The text that a report shows for a unit; None when it has none."""

    def picture(self, unit: str) -> bytes | None:
        """The PNG that a report shows for a unit; None when it is no image."""

    def alternative(self, name: str) -> str | None:
        """The text that a report shows for an alternative (`TaskKind.alternatives`); None when it
        has none.
        """

    def judged(self, split: Split, unit: str) -> Mapping[str, int]:
        """The grades of a unit's judged alternatives in a split; above 0 is right."""


def measured_split(data: Dataset) -> Split | None:
    """The split that figures come from: test, or dev where there is no test."""
    order: tuple[Split, ...] = ("test", "dev")
    return next((split for split in order if split in data.splits), None)
