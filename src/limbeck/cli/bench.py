"""`limbeck bench`: which recipe makes the best student at equal cost?

Parses, calls `limbeck.bench.bench` or `limbeck.bench.dry_run`, prints.
"""

from pathlib import Path
from typing import Annotated, Any

import typer

from limbeck.cli import options
from limbeck.cli.output import print_json
from limbeck.cli.progress import on_stderr


@options.run_options(
    *(
        "student",
        "student_layers",
        "image_size",
        "augment",
        "settings",
        "pairs",
        "labels",
        "store",
        "precision",
    ),
    *("drop_unknown_judgements", "keep_own_passage", "language"),
    settings="A setting of every recipe that has it; RECIPE.KEY=VALUE of one; repeatable.",
    store="The folder of kept teacher scores, instead of OUT/store.",
)
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
    run: dict[str, Any],
    seeds: Annotated[
        int, typer.Option(help="How many seeds each recipe is run with: 0, 1, ...", min=1)
    ] = 3,
    max_steps: Annotated[
        int, typer.Option(help="Steps of every recipe; --set max_steps=... says the same.", min=1)
    ] = 300,
    teacher: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]TEACHER",
            help="One teacher for all, as for `distill`: a model's folder or hub name, or "
            "`train[:dual|cross|ensemble[:BASE]]` to fit one, once; repeat it, and the mean of "
            "several teaches.",
            show_default="the first kind that its task fits, such as train:dual",
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            help="How many runs go at once, in processes of one thread each; more than one give "
            "the results of one after the other with OMP_NUM_THREADS=1.",
            min=1,
        ),
    ] = 1,
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
    from limbeck.bench import api as comparing

    arguments: dict[str, Any] = {
        **run,
        "out": out,
        "recipes": recipes.split(","),
        "seeds": range(seeds),
        "max_steps": max_steps,
        "teacher": teacher or None,
        "force": force,
        "jobs": jobs,
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
