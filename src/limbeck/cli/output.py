"""How does a result look on stdout?

For people: the table, then what to know about it. With `--json`: one object whose keys stay as they
are. This module computes nothing.
"""

import json
from typing import TYPE_CHECKING, Any

import typer
from rich.cells import cell_len, chop_cells

if TYPE_CHECKING:  # the pipeline is imported by the command that runs it
    from limbeck.pipeline import Result


def print_result(result: "Result") -> None:
    """Print a run's or an evaluation's table, then notes and advice, a line each."""
    paragraphs = [result.table.rstrip(), "\n".join(result.notes), "\n".join(result.advice)]
    typer.echo("\n\n".join(text for text in paragraphs if text))


def as_dict(result: "Result") -> dict[str, Any]:
    """The stable JSON form of a result: `out`, `rows`, `notes`, `advice`."""
    return {
        "out": None if result.out is None else str(result.out),
        "rows": result.rows,
        "notes": list(result.notes),
        "advice": list(result.advice),
    }


def print_json(value: object) -> None:
    """Print a value as JSON, text unescaped."""
    typer.echo(json.dumps(value, indent=1, ensure_ascii=False))


def one_line(text: str, width: int = 88) -> str:
    """The beginning of a passage on one line, at most `width` columns of a terminal."""
    flat = " ".join(text.split())
    return flat if cell_len(flat) <= width else chop_cells(flat, width - 1)[0] + "…"
