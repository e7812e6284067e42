"""Which words does a person type, and what do they get back?

Every command parses, calls one public function, and prints: results on stdout, progress and errors
on stderr. This is the only place that turns `limbeck.errors` into exit codes:

    0 done    2 input that cannot be used    3 a teacher that was refused    130 interrupted

Nothing heavy is imported before a command runs, so `--help` answers at once and needs no extra.
This package knows no method, model or file format.
"""

import os
import sys
import warnings
from io import TextIOWrapper
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from limbeck.cli import (
    bench,
    compare,
    data,
    demo,
    distill,
    evaluate,
    export,
    index,
    plan,
    predict,
    recipes,
    search,
    serve,
    store,
)
from limbeck.errors import LimbeckError

__all__ = ["main"]


class Commands(TyperGroup):
    """The root command: says what went wrong in one message and leaves by its exit code."""

    def invoke(self, ctx: Any) -> Any:
        """Run the command that was asked for."""
        try:
            return super().invoke(ctx)
        except LimbeckError as error:
            typer.echo(f"limbeck: {error}", err=True)
            raise typer.Exit(error.exit_code) from error
        except KeyboardInterrupt as error:
            typer.echo(
                "limbeck: interrupted. Finished work is kept: the same command resumes.", err=True
            )
            raise typer.Exit(130) from error


app = typer.Typer(
    cls=Commands,
    help="Distil strong, slow models into small, fast retrievers, on your own documents.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)
app.command("distill")(distill.distill)
app.command("plan")(plan.plan)
app.command("evaluate")(evaluate.evaluate)
app.command("predict")(predict.predict)
app.command("compare")(compare.compare)
app.command("bench")(bench.bench)
app.command("export")(export.export)
app.command("search")(search.search)
app.command("serve")(serve.serve)
app.command("demo")(demo.demo)
app.command("recipes")(recipes.recipes)
app.add_typer(index.app, name="index")
app.add_typer(data.app, name="data")
app.add_typer(store.app, name="store")


def _print_version(wanted: bool) -> None:
    """Print the version and leave, if it was asked for."""
    if wanted:
        from importlib.metadata import version

        typer.echo(f"limbeck {version('limbeck')}")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool,
        typer.Option(
            "--version",
            help="Print the version and leave.",
            callback=_print_version,
            is_eager=True,
        ),
    ] = False,
) -> None:
    """Distil strong, slow models into small, fast retrievers, on your own documents."""


def main() -> None:
    """The `limbeck` command."""
    _quieten_libraries()
    if os.environ.get("RANK", "0") != "0":  # of several processes (torchrun) the first prints
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115
    if isinstance(sys.stdout, TextIOWrapper):  # a passage may hold what the terminal cannot show
        sys.stdout.reconfigure(errors="backslashreplace")
    app()


def _quieten_libraries() -> None:
    """Keep other libraries' bars and warnings off the terminal, unless they are asked for."""
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
