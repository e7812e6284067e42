"""What is in a run's plan, and was it right?

`plan.json` in a run's folder holds the estimate of each part; every finished stage records what it
took. This module reads and writes files alone; how estimates are made is not known here.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from limbeck.evaluation.table import aligned
from limbeck.store import Written, read_done, read_json, write_json
from limbeck.tasks.estimate import StageEstimate

PLAN = "plan.json"
TOKENS = "tokens"  # made when they are first needed, within other stages


@dataclass(frozen=True, slots=True)
class Plan:
    """Estimate of a run: its parts in order, and its peak memory in bytes."""

    parts: Sequence[StageEstimate]
    peak_bytes: int
    notes: Sequence[str]

    @property
    def seconds(self) -> float:
        """Seconds of the whole run."""
        return sum(part.seconds for part in self.parts)

    @property
    def text(self) -> str:
        """The plan for people: a line per part, and sums."""
        heads = ["part", "time", "MB on disk", "teacher is asked for", "what"]
        cells = [
            [
                part.stage,
                duration(part.seconds),
                f"{part.megabytes:,.0f}",
                f"{part.asked:,}" if part.asked else "",
                part.what,
            ]
            for part in self.parts
        ]
        megabytes = sum(part.megabytes for part in self.parts)
        asked = sum(part.asked for part in self.parts)
        total = ["all", duration(self.seconds), f"{megabytes:,.0f}", f"{asked:,}", ""]
        lines = [aligned([heads, *cells, total], words=1)]
        lines.append(f"memory at most: about {self.peak_bytes / 1e6:,.0f} MB")
        return "\n".join([*lines, *self.notes])

    def as_json(self) -> dict[str, Any]:
        """The stable JSON form."""
        return {
            "parts": [part.as_json() for part in self.parts],
            "seconds": self.seconds,
            "peak_bytes": self.peak_bytes,
            "notes": list(self.notes),
        }


class _Kept(Written):
    """Fields read from `plan.json`."""

    parts: list[StageEstimate]
    peak_bytes: float


def keep(plan: Plan, out: Path) -> None:
    """Write a plan into a run's folder, where the run will compare it with the actual costs."""
    write_json(out / PLAN, plan.as_json(), stage="plan")


def compared(out: Path) -> list[dict[str, Any]]:
    """The estimate of each part of a run, and the `actual_seconds` of its finished stages, in
    the plan's order; empty without a plan. Stages belong to the part with the longest
    name that theirs begins with.
    """
    path = out / PLAN
    if not path.exists():
        return []
    parts = [part.as_json() for part in read_json(path, _Kept).parts]
    taken = dict.fromkeys((part["stage"] for part in parts), 0.0)
    for done in sorted((out / "stages").rglob("done.json")):
        took = read_done(done.parent).took
        mine = [name for name in taken if done.parent.name.startswith(name)]
        if took and mine:
            taken[max(mine, key=len)] += took.seconds
    return [{**part, "actual_seconds": round(taken[part["stage"]], 3)} for part in parts]


def peak_bytes(out: Path) -> int:
    """The most memory that a process had when it finished a stage of a run; 0 when none did."""
    stages = [read_done(done.parent) for done in (out / "stages").rglob("done.json")]
    return max((each.took.peak_bytes for each in stages if each.took), default=0)


def as_notes(out: Path) -> list[str]:
    """Estimated and actual in words, a line per part; empty without a plan."""
    lines = [
        f"plan: {part['stage']} {duration(part['seconds'])} estimated, "
        f"{duration(part['actual_seconds'])} taken"
        for part in compared(out)
        if part["stage"] != TOKENS
    ]
    if lines:
        estimated = read_json(out / PLAN, _Kept).peak_bytes
        lines.append(
            f"plan: memory {estimated / 1e6:,.0f} MB estimated, "
            f"{peak_bytes(out) / 1e6:,.0f} MB taken"
        )
    return lines


def duration(seconds: float) -> str:
    """A time in words.

    Example:
        >>> duration(7.26), duration(75), duration(4000)
        ('7.3 s', '1 min 15 s', '1 h 6 min')
    """
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, left = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {left} s"
    return f"{minutes // 60} h {minutes % 60} min"
