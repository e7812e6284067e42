"""`limbeck distill`: one command from files to a small retriever, with proof of what it keeps.

Parses, calls `limbeck.pipeline.distill` or `limbeck.pipeline.dry_run`, prints.
"""

from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from limbeck.cli import options
from limbeck.cli.output import as_dict, print_json, print_result
from limbeck.cli.progress import on_stderr


def distill(
    data: options.Data,
    out: Annotated[
        Path, typer.Option(help="The run's folder; the result is OUT/student.", file_okay=False)
    ],
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            help="A model's folder or hub name, `kind:path` to say what it is, a file of scores "
            "(`scores:path`), or `train[:dual|cross|ensemble]` to fit one on the training "
            "judgements; repeat it, and the mean of several teaches.",
            show_default="train",
        ),
    ] = None,
    teacher_weights: Annotated[
        str | None,
        typer.Option(
            metavar="W,W,...",
            help="The weight of each --teacher, in their order.",
            show_default="all alike",
        ),
    ] = None,
    student: Annotated[
        str | None,
        typer.Option(
            help="The encoder to start from: a folder or hub name.",
            show_default="the offline model, cut to 2 layers",
        ),
    ] = None,
    student_layers: Annotated[
        int | None, typer.Option(help="Keep this many of the student's layers.", min=1)
    ] = None,
    layer_choice: Annotated[
        Literal["spread", "first"], typer.Option(help="Which layers to keep.")
    ] = "spread",
    dim: Annotated[
        int | None, typer.Option(help="Give the student vectors of this width.", min=1)
    ] = None,
    recipe: Annotated[
        str,
        typer.Option(
            metavar="NAME[:PRESET]",
            help="The method; `limbeck recipes` lists them, `limbeck recipes NAME` its presets.",
        ),
    ] = "auto",
    assignments: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="KEY=VALUE", help="A setting of the recipe; repeatable."),
    ] = None,
    settings_file: Annotated[
        Path | None,
        typer.Option(
            "--settings", metavar="FILE", help="Settings in a TOML file; --set overrules it."
        ),
    ] = None,
    labels: Annotated[
        int | None,
        typer.Option(
            help="Use the judgements of only this many training queries, the same for every seed; "
            "the others count as unlabelled.",
            min=0,
        ),
    ] = None,
    budget: Annotated[
        float | None,
        typer.Option(
            parser=options.parse_duration,
            metavar="TIME",
            help="Fit updates, list length and candidate depth to a time such as 90s, 20m or 1.5h.",
        ),
    ] = None,
    seed: options.Seed = 0,
    store: options.Store = None,
    backend: options.Backend = "auto",
    precision: options.Precision = "auto",
    workers: options.Workers = None,
    candidates: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="FILE",
            help="A TREC run, or other file of scored pairs, whose passages join the candidates of "
            "its training queries; repeatable.",
        ),
    ] = None,
    query_model: Annotated[
        Path | None,
        typer.Option(
            metavar="PATH",
            help="The folder of a seq2seq model, such as docT5query, that writes queries for a "
            "corpus without any.",
            show_default="they are made from the passages' words",
            file_okay=False,
        ),
    ] = None,
    force_teacher: Annotated[
        bool, typer.Option("--force-teacher", help="Use the teacher even if a check refuses it.")
    ] = False,
    drop_unknown_judgements: options.DropUnknownJudgements = False,
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Resume although versions, processor or thread count differ from the run's.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the stages and leave.")] = False,
    as_json: options.Json = False,
) -> None:
    """Mine, score, train, evaluate and report; the same command resumes a run that was stopped."""
    from limbeck import pipeline
    from limbeck.settings import read_toml

    given = options.dotted(read_toml(settings_file)) if settings_file else {}
    arguments: dict[str, Any] = {
        "out": out,
        "teacher": (teacher[0] if len(teacher) == 1 else teacher) if teacher else "train",
        "teacher_weights": options.parse_weights(teacher_weights) if teacher_weights else None,
        "student": student,
        "student_layers": student_layers,
        "layer_choice": layer_choice,
        "dim": dim,
        "recipe": recipe,
        "settings": {**given, **options.parse_assignments(assignments or [])},
        "labels": labels,
        "seed": seed,
        "budget_seconds": budget,
        "store": store,
        "backend": backend,
        "precision": precision,
        "workers": workers,
        "candidates": candidates or [],
        "query_model": query_model,
        "force_teacher": force_teacher,
        "drop_unknown_judgements": drop_unknown_judgements,
        "force": force,
    }
    with on_stderr() as progress:
        if dry_run:
            stages = pipeline.dry_run(data, **arguments, progress=progress)
        else:
            result = pipeline.distill(data, **arguments, progress=progress)
    if dry_run and as_json:
        print_json({"stages": stages})
    elif dry_run:
        typer.echo("\n".join(stages))
    elif as_json:
        print_json(as_dict(result))
    else:
        print_result(result)
        typer.echo(f"\nStudent: {out / 'student'}\nReport: {out / 'report.html'}")
