"""How did a run's stages go: loss and dev over the updates, time, and share of the limit?

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
from limbeck.store import read_object

_OWN = ("models", "teacher", "collection")  # digests among a stage's settings


@dataclass(frozen=True, slots=True)
class Trained:
    """A stage that trained: a curve per part of its loss, dev's, and what it was set to."""

    name: str
    told: str
    pictures: Sequence[Markup]
    settings: Table


def trained_stages(run: Path) -> list[Trained]:
    """The stages of a run that trained, in the order in which they were finished."""
    return [_trained(path.parent) for path in _finished(run, "train-*")]


def all_stages(run: Path) -> Table:
    """What every finished stage of a run took, and was made from."""
    rows: list[list[Cell]] = []
    for path in _finished(run, "*"):
        done = read_object(path, "metrics")
        metrics, took = done["metrics"], done.get("took", {})  # not in older runs
        speed = metrics.get("speed") or {}
        seconds = took.get("seconds", metrics.get("seconds", speed.get("seconds")))
        peak = took.get("peak_bytes")
        inputs = read_object(path.parent / "inputs.json", "digest")["digest"]
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
    headings = ["stage", "made from", "seconds", "MB of memory", "updates", "tokens", "tokens/s"]
    return Table([*headings, "of the limit"], rows, words=2)


def _finished(run: Path, names: str) -> list[Path]:
    """The `done.json` of finished stages, in order; older runs have them in that of their names."""

    def place(path: Path) -> int:
        found: int = read_object(path, "metrics").get("place", 0)
        return found

    return sorted(sorted(run.glob(f"stages/{names}/done.json")), key=place)


def foretold_parts(parts: Sequence[Mapping[str, Any]]) -> Table:
    """What was foretold of each part of a run, and what it took."""
    rows = [
        [
            part["stage"],
            part["what"],
            _figure(part["seconds"], ",.1f"),
            _figure(part["actual_seconds"], ",.1f"),
        ]
        for part in parts
    ]
    return Table(["part", "what", "seconds foretold", "seconds taken"], rows, words=2)


def _trained(folder: Path) -> Trained:
    curves = read_object(folder / "curves.json", "losses", "measured")
    metrics = read_object(folder / "done.json", "metrics")["metrics"]
    losses: list[dict[str, float]] = curves["losses"]
    pictures, size = [], 1
    for part in dict.fromkeys(name for each in losses for name in each):
        points = [(float(n), each[part]) for n, each in enumerate(losses, 1) if part in each]
        shown, size = averaged(points)
        pictures.append(curve(f"Loss: {part}", shown, x="update", y="loss"))
    dev = [(float(update), float(value)) for update, value in curves["measured"]]
    if dev:
        title = "nDCG@10 on dev"
        pictures.append(curve(title, dev, x="update", y="nDCG@10", marked=True))
    told = [f"{metrics['updates']:,} updates in {metrics['seconds']:,.0f} seconds."]
    if size > 1:
        told.append(f"A point of a loss is the mean of {size} updates.")
    if not dev:
        told.append("Dev was not measured while it trained.")
    return Trained(folder.name, " ".join(told), pictures, _settings(folder))


def _settings(folder: Path) -> Table:
    inputs: dict[str, Any] = read_object(folder / "inputs.json", "inputs")["inputs"]
    found = {**inputs["settings"], "clip": inputs["clip"], "updates": inputs["updates"]}
    rows = [[key, _said(value)] for key, value in sorted(found.items()) if key not in _OWN]
    return Table(["setting", "value"], rows, words=2)


def _said(value: object) -> str:
    return "none" if value is None else str(value)


def _figure(value: float | None, form: str) -> str:
    return "" if value is None else format(value, form)
