"""What would the stages of a run take?

The words for it that every task shares: seconds, updates, questions to a teacher, room on the disk
and memory. Where the numbers come from is not known here.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import asdict, dataclass, field
from typing import Any

_NUMBER = 4  # bytes of a float32


@dataclass(frozen=True, slots=True)
class StageEstimate:
    """Estimate of the stages whose names begin with `stage`: their work in words, seconds, updates,
    texts or pairs asked of a teacher, and megabytes that stay on the disk.
    """

    stage: str
    what: str
    seconds: float
    updates: int = 0
    asked: int = 0
    megabytes: float = 0.0

    def as_json(self) -> dict[str, Any]:
        """The estimate as JSON, for a file."""
        return asdict(self)


@dataclass(slots=True)
class StageCounts:
    """Counts of the work of such stages: updates made, examples and texts read, pairs scored and
    queries searched by words; the texts and pairs of these that a teacher is `asked` for; the
    numbers of four bytes that they leave.
    """

    seconds: float = 0.0
    updates: int = 0
    examples: int = 0
    queries: int = 0
    passages: int = 0
    pairs: int = 0
    searched: int = 0
    asked: int = 0
    kept: float = 0.0

    @property
    def what(self) -> str:
        """The work, in words."""
        if self.updates:
            return f"{self.updates:,} steps"
        if self.searched:
            return f"{self.searched:,} queries searched by words"
        if self.examples:
            return f"{self.examples:,} examples"
        parts = [f"scores of {self.pairs:,} pairs"] if self.pairs else []
        if self.passages or self.queries:
            parts.append(f"{self.passages:,} passages and {self.queries:,} queries")
        return ", ".join(parts) or "searches that are timed"


@dataclass(slots=True)
class RunEstimate:
    """Estimate of a rehearsed run: its work by the beginnings of its stages' names, in order of
    first use, and the bytes that the largest step takes at once, beside what the process had.
    """

    stages: defaultdict[str, StageCounts] = field(default_factory=lambda: defaultdict(StageCounts))
    peak_bytes: int = 0

    @property
    def seconds(self) -> float:
        """Seconds of all stages."""
        return sum(counts.seconds for counts in self.stages.values())

    def takes_at_once(self, size: float) -> None:
        """Note a step that takes this many bytes."""
        self.peak_bytes = max(self.peak_bytes, int(size))

    def parts(self) -> list[StageEstimate]:
        """The stages that take time."""
        return [
            StageEstimate(
                name,
                counts.what,
                counts.seconds,
                counts.updates,
                asked=counts.asked,
                megabytes=_NUMBER * counts.kept / 1e6,
            )
            for name, counts in self.stages.items()
            if counts.seconds
        ]
