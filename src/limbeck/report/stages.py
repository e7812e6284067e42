"""How did a run's stages go: loss and dev over the steps, time, and share of the limit?

From what every stage left when it finished. This module knows no recipe: parts of a loss are names.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from markupsafe import Markup

from limbeck.report.charts import averaged, curve
from limbeck.report.page import Cell, Table
from limbeck.store import Inputs, Written, formed, read_done, read_json

_OWN = ("models", "teacher", "collection")  # digests among a stage's settings


class _Curves(Written):
    losses: list[dict[str, float]]
    measured: list[tuple[float, float]]  # update, value


class _Training(Written):
    """Counts of a training stage."""

    updates: int
    seconds: float


class _Settings(Written):
    """Settings of a training stage."""

    settings: dict[str, Any]
    clip: Any
    updates: Any


@dataclass(frozen=True, slots=True)
class TrainingCurves:
    """Curves of a training stage: one per part of its loss, dev's, and its settings."""

    name: str
    told: str
    pictures: Sequence[Markup]
    settings: Table


def trained_stages(run: Path, measure: str) -> list[TrainingCurves]:
    """The stages of a run that trained, in the order in which they were finished."""
    return [_trained(path.parent, measure) for path in _finished(run, "train-*")]


def all_stages(run: Path) -> Table:
    """Table of every finished stage of a run: its time, its memory and the digest of its inputs."""
    rows: list[list[Cell]] = []
    for path in _finished(run, "*"):
        done = read_done(path.parent)
        metrics, took = done.metrics, done.took  # not in older runs
        speed = metrics.get("speed") or {}
        seconds = took.seconds if took else metrics.get("seconds", speed.get("seconds"))
        peak = took.peak_bytes if took else None
        inputs = read_json(path.parent / "inputs.json", Inputs).digest
        rows.append(
            [
                path.parent.name,
                inputs[:16],
                _figure(seconds, ",.1f"),
                _figure(peak and peak / 1e6, ",.0f"),
                _figure(metrics.get("updates"), ",d"),
                _figure(speed.get("tokens"), ",.0f"),
                _figure(speed.get("tokens_per_second"), ",.0f"),
                _figure(speed.get("share_of_limit"), ".0%"),
            ]
        )
    headings = ["stage", "made from", "seconds", "MB of memory", "steps", "tokens", "tokens/s"]
    return Table([*headings, "of the limit"], rows, words=2)


def _finished(run: Path, names: str) -> list[Path]:
    """The `done.json` of finished stages, in order; older runs have them in that of their names."""

    def place(path: Path) -> int:
        return read_done(path.parent).place

    return sorted(sorted(run.glob(f"stages/{names}/done.json")), key=place)


def estimated_parts(parts: Sequence[Mapping[str, Any]]) -> Table:
    """Table of the estimated and the actual time of each part of a run."""
    rows = [
        [
            part["stage"],
            part["what"],
            _figure(part["seconds"], ",.1f"),
            _figure(part["actual_seconds"], ",.1f"),
        ]
        for part in parts
    ]
    return Table(["part", "what", "estimated seconds", "seconds taken"], rows, words=2)


def _trained(folder: Path, measure: str) -> TrainingCurves:
    curves = read_json(folder / "curves.json", _Curves)
    trained = formed(folder / "done.json", read_done(folder).metrics, _Training)
    losses = curves.losses
    pictures, size = [], 1
    for part in dict.fromkeys(name for each in losses for name in each):
        points = [(float(n), each[part]) for n, each in enumerate(losses, 1) if part in each]
        shown, size = averaged(points)
        pictures.append(curve(f"Loss: {part}", shown, x="step", y="loss"))
    dev = curves.measured
    if dev:
        title = f"{measure} on dev"
        pictures.append(curve(title, dev, x="step", y=measure, marked=True))
    told = [f"{trained.updates:,} steps in {trained.seconds:,.0f} seconds."]
    if size > 1:
        told.append(f"A point of a loss is the mean of {size} steps.")
    if not dev:
        told.append("Dev was not measured while it trained.")
    return TrainingCurves(folder.name, " ".join(told), pictures, _settings(folder))


def _settings(folder: Path) -> Table:
    path = folder / "inputs.json"
    made = formed(path, read_json(path, Inputs).inputs, _Settings)
    found = {**made.settings, "clip": made.clip, "max_steps": made.updates}
    rows = [[key, _said(value)] for key, value in sorted(found.items()) if key not in _OWN]
    return Table(["setting", "value"], rows, words=2)


def _said(value: object) -> str:
    return "none" if value is None else str(value)


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
