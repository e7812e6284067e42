"""`limbeck store`: what has been kept of teachers' work, and can some of it go?

Parses, calls `limbeck.teachers.score_store.ScoreStore`, prints.
"""

from collections.abc import Sequence
from dataclasses import asdict
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from limbeck.cli import options
from limbeck.cli.output import print_json

if TYPE_CHECKING:  # the store imports torch
    from limbeck.teachers.score_store import Entry, ScoreStore

app = typer.Typer(help="List or prune the kept teacher scores and vectors.", no_args_is_help=True)


@app.command("list")
def list_entries(store: options.Store = None, as_json: options.Json = False) -> None:
    """List what is kept: per teacher, its digest, size and newest write."""
    opened = _open(store)
    _print(opened.list(), as_json=as_json, nothing=f"Nothing is kept in {opened.root}.")


@app.command("prune")
def prune(
    digests: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="DIGEST",
            help="Teachers to forget: digests from `limbeck store list`, or their first letters.",
        ),
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="Forget every teacher.")] = False,
    store: options.Store = None,
    as_json: options.Json = False,
) -> None:
    """Delete what is kept of some teachers; it is made again when needed."""
    if bool(digests) == everything:
        raise typer.BadParameter("Name digests from `limbeck store list`, or say --all.")
    opened = _open(store)
    wanted = sorted({entry.digest for entry in opened.list()}) if everything else digests or []
    gone = opened.prune(wanted)
    _print(gone, as_json=as_json, nothing=f"Nothing was kept in {opened.root}.")


def _open(store: Path | None) -> "ScoreStore":
    """The store in a folder, or the user's own."""
    from limbeck.teachers.score_store import ScoreStore

    return ScoreStore(store) if store else ScoreStore.default()


def _print(entries: "Sequence[Entry]", *, as_json: bool, nothing: str) -> None:
    """Entries, a line each, or as JSON with sizes in bytes and times in ISO 8601."""
    if as_json:
        print_json([asdict(entry) | {"used": _time(entry)} for entry in entries])
    elif not entries:
        typer.echo(nothing)
    for entry in () if as_json else entries:
        size = f"{entry.bytes / 2**20:9.1f} MiB"
        typer.echo(
            f"{entry.kind:<7}  {entry.digest[:12]}  {size}  {_time(entry)[:16]}  {entry.name}"
        )


def _time(entry: "Entry") -> str:
    """When the newest write was, local time with its offset."""
    return datetime.fromtimestamp(entry.used).astimezone().isoformat(timespec="seconds")
