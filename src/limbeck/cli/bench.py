"""`limbeck bench`: which recipe makes the best student at equal cost?

Parses, calls `limbeck.bench.bench` or `limbeck.bench.dry_run`, prints.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from limbeck.cli import options
from limbeck.cli.output import print_json
from limbeck.cli.progress import on_stderr


def bench(
    data: options.Data,
    out: Annotated[
        Path,
        typer.Option(
            help="The folder of all runs, one for each recipe and seed, and of the results.",
            file_okay=False,
        ),
    ],
    recipes: Annotated[
        str,
        typer.Option(
            metavar="NAME[:PRESET],...",
            help="What is compared, beside `contrastive` and `kl`; presets name ablations.",
        ),
    ],
    seeds: Annotated[
        int, typer.Option(help="How many seeds each recipe is run with: 0, 1, ...", min=1)
    ] = 3,
    updates: Annotated[
        int, typer.Option(help="Updates of every recipe; --set updates=... says the same.", min=1)
    ] = 300,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            metavar=options.TEACHER,
            help="One teacher for all, as for `distill`: a model's folder or hub name, or "
            "`train[:dual|cross|ensemble[:BASE]]` to fit one, once; repeat it, and the mean of "
            "several teaches.",
            show_default="train:dual",
        ),
    ] = None,
    student: options.Student = None,
    student_layers: options.StudentLayers = None,
    assignments: Annotated[
        list[str] | None,
        typer.Option(
            "--set",
            metavar="KEY=VALUE",
            help="A setting of every recipe that has it; RECIPE.KEY=VALUE of one; repeatable.",
        ),
    ] = None,
    labels: options.Labels = None,
    store: Annotated[
        Path | None,
        typer.Option(
            help="The folder of kept teacher scores.", show_default="OUT/store", file_okay=False
        ),
    ] = None,
    precision: options.Precision = "auto",
    drop_unknown_judgements: options.DropUnknownJudgements = False,
    keep_own_passage: options.KeepOwnPassage = False,
    language: options.Language = "auto",
    force: Annotated[
        bool,
        typer.Option(
            "--force",
            help="Go on although versions, processor or thread count differ from the arms'.",
        ),
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Print the arms and leave.")] = False,
    as_json: options.Json = False,
) -> None:
    """Compare recipes fairly: same data, teacher and budget, several seeds, paired tests."""
    from limbeck import bench as comparing

    arguments: dict[str, Any] = {
        "out": out,
        "recipes": recipes.split(","),
        "seeds": range(seeds),
        "updates": updates,
        "teacher": teacher or "train:dual",
        "student": student,
        "student_layers": student_layers,
        "settings": options.parse_assignments(assignments or []),
        "labels": labels,
        "store": store,
        "precision": precision,
        "drop_unknown_judgements": drop_unknown_judgements,
        "keep_own_passage": keep_own_passage,
        "language": language,
        "force": force,
    }
    if dry_run:
        plan = comparing.dry_run(data, **arguments)
        if as_json:
            print_json(plan.as_json())
        else:
            typer.echo("\n".join(plan.lines()))
        return
    with on_stderr() as progress:
        found = comparing.bench(data, **arguments, progress=progress)
    if as_json:
        print_json(dict(found.record))
    else:
        typer.echo(f"{found.text}\n\nCosts and conditions: {out / 'bench.html'}")
