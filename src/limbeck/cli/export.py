"""`limbeck export`: take a model to another runtime.

Parses, calls `limbeck.pipeline.export`, prints.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from limbeck.cli import options
from limbeck.cli.output import print_json
from limbeck.cli.progress import on_stderr


@options.run_options("precision", "drop_unknown_judgements")
def export(
    model: Annotated[
        str,
        typer.Argument(
            metavar="MODEL",
            help="A retriever or ranker: a folder or hub name, `kind:path` to say what it is.",
        ),
    ],
    to: Annotated[
        Literal["openvino", "openvino-int8", "onnx"],
        typer.Option(help="What to write; int8 needs --data and has to pass a gate on dev."),
    ],
    out: Annotated[Path, typer.Option(help="A new folder.", file_okay=False)],
    run: dict[str, Any],
    data: Annotated[
        str | None,
        typer.Option(
            metavar="DATA",
            help="The collection whose texts calibrate int8 and whose dev queries measure it.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Write int8 although it loses too much on dev.")
    ] = False,
    as_json: options.Json = False,
) -> None:
    """Write a model for OpenVINO or onnxruntime, pooling and normalisation inside its graph."""
    from limbeck import pipeline

    with on_stderr() as progress:
        found = pipeline.export(
            model,
            to=to,
            out=out,
            data=data,
            **run,
            force=force,
            progress=progress,
        )
    if as_json:
        figures = {f"{found.measure}_before": found.before, f"{found.measure}_after": found.after}
        print_json({"out": str(found.out), "format": found.format, **figures})
        return
    if found.before is not None and found.after is not None:
        typer.echo(f"{found.measure} on dev: {found.before:.4f} before, {found.after:.4f} in int8")
    typer.echo(f"Exported: {found.out}")
