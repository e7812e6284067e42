"""`limbeck index`: passages as vectors on disk, for searching and serving.

Parses, calls `limbeck.indexing`, prints.
"""

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperGroup

from limbeck.cli import options
from limbeck.cli.output import print_json
from limbeck.cli.progress import on_stderr
from limbeck.errors import StoreError

if TYPE_CHECKING:
    from limbeck.indexing import Changed


class DefaultToBuild(TyperGroup):
    """Commands of which `build` may be left out: `limbeck index RUN DATA` is the common one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """The words, with `build` before them where they name no command."""
        if args and args[0] not in {*self.commands, "--help"}:
            args = ["build", *args]
        return super().parse_args(ctx, args)


app = typer.Typer(
    cls=DefaultToBuild,
    help="Keep passages as vectors, to search or serve them. `build` may be left out.",
    no_args_is_help=True,
)

Folder = Annotated[
    Path, typer.Argument(metavar="INDEX", help="The folder of an index, or a run that has one.")
]


@app.callback()
def root() -> None:
    """Keep passages as vectors, to search or serve them. `build` may be left out."""


@app.command("build")
@options.run_options("backend", "precision", "workers", "language")
def build(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL", help="A run's folder, or an encoder: a folder or hub name."
        ),
    ],
    data: options.Data,
    run: dict[str, Any],
    out: Annotated[
        Path | None,
        typer.Option(help="The index's folder.", show_default="RUN/index", file_okay=False),
    ] = None,
    kind: Annotated[
        Literal["exact", "hnsw", "ivf"],
        typer.Option(help="`exact`, or approximate: `hnsw` or `ivf`, which need the extra faiss."),
    ] = "exact",
    recall: Annotated[
        float,
        typer.Option(
            help="Of an approximate index: the share of the ten best passages to be found.",
            min=0.5,
            max=1.0,
        ),
    ] = 0.99,
    as_json: options.Json = False,
) -> None:
    """Encode the passages of a collection into an index; the same command resumes."""
    from limbeck import indexing
    from limbeck.data import read_collection

    with on_stderr() as progress:
        indexing.check_searchable(model)
        found = indexing.build(
            model,
            # only passages are needed
            read_collection(data, drop_unknown_judgements=True, language=run.pop("language")),
            out,
            kind=kind,
            least_recall=recall,
            **run,
            progress=progress,
        )
    card = found.card
    if as_json:
        print_json({"index": str(found.folder), "found": len(found), **card})
        return
    about = f"{len(found):,} passages, {card['width']} numbers each, {card['similarity']}"
    typer.echo(f"Index: {found.folder} ({card['kind']}; {about})")
    if (made := card["approximate"]) is not None:
        typer.echo(
            f"It finds {made['recall@10']:.1%} of the 10 best and {made['recall@100']:.1%} of the "
            f"100 best, measured on {made['measured_on']} (effort {made['effort']})"
        )


@app.command("add")
def add(
    index: Folder,
    file: Annotated[
        Path, typer.Argument(metavar="FILE", help='Passages, one {"_id", "title", "text"} a line.')
    ],
    as_json: options.Json = False,
) -> None:
    """Add passages to an index; one whose id is there takes the old one's place."""
    from limbeck import indexing

    with on_stderr() as progress:
        _say(indexing.add(index, file, progress=progress), as_json)


@app.command("delete")
def delete(
    index: Folder,
    ids: Annotated[list[str], typer.Argument(metavar="ID...", help="Ids of passages.")],
    as_json: options.Json = False,
) -> None:
    """Take passages out of an index."""
    from limbeck import indexing

    _say(indexing.delete(index, ids), as_json)


@app.command("check")
def check(index: Folder, as_json: options.Json = False) -> None:
    """Read every byte of an index; exits 2 when something is not what was written."""
    from limbeck import indexing

    with on_stderr() as progress:
        found = indexing.check(index, progress=progress)
    if as_json:
        print_json(asdict(found) | {"folder": str(found.folder)})
    else:
        size = f"{found.files:,} files, {found.bytes / 2**20:,.1f} MiB"
        typer.echo(f"{found.folder}: {found.passages:,} passages; {size} compared by SHA-256")
        if found.unrecorded:
            typer.echo(
                f"No SHA-256 is recorded of {', '.join(found.unrecorded)}: an older version wrote "
                "that. What it holds was looked at instead."
            )
        for line in (*(f"Damaged: {why}" for why in found.faults), *found.advice):
            typer.echo(line)
        if not found.faults:
            typer.echo("Nothing is damaged.")
    if found.faults:
        raise typer.Exit(StoreError.exit_code)


def _say(changed: "Changed", as_json: bool) -> None:
    """Print what changed."""
    if as_json:
        print_json(asdict(changed))
        return
    done = [
        f"{count:,} {what}"
        for what, count in asdict(changed).items()
        if count and what != "passages"
    ]
    typer.echo(
        f"{', '.join(done) or 'nothing changed'}; the index has {changed.passages:,} passages"
    )
