"""`limbeck distill`: one command from files to a small retriever, with proof of what it keeps.

Parses, calls `limbeck.pipeline.distill` or `limbeck.pipeline.dry_run`, prints.
"""

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli import options
from limbeck.cli.output import as_dict, print_json, print_result
from limbeck.cli.progress import on_stderr


def distill(
    data: options.Data,
    out: Annotated[
        Path, typer.Option(help="The run's folder; the result is OUT/student.", file_okay=False)
    ],
    teacher: options.Teacher = None,
    teacher_weights: options.TeacherWeights = None,
    student: options.Student = None,
    student_layers: options.StudentLayers = None,
    layer_choice: options.LayerChoice = "spread",
    dim: options.Dim = None,
    query_prompt: options.QueryPrompt = None,
    passage_prompt: options.PassagePrompt = None,
    recipe: options.Recipe = "auto",
    assignments: options.Assignments = None,
    settings_file: options.SettingsFile = None,
    labels: options.Labels = None,
    budget: options.Budget = None,
    seed: options.Seed = 0,
    store: options.Store = None,
    backend: options.Backend = "auto",
    precision: options.Precision = "auto",
    workers: options.Workers = None,
    candidates: options.CandidateFiles = None,
    query_model: options.QueryModel = None,
    force_teacher: options.ForceTeacher = False,
    drop_unknown_judgements: options.DropUnknownJudgements = False,
    keep_own_passage: options.KeepOwnPassage = False,
    language: options.Language = "auto",
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

    arguments = options.distil_arguments(
        teacher=teacher,
        teacher_weights=teacher_weights,
        student=student,
        student_layers=student_layers,
        layer_choice=layer_choice,
        dim=dim,
        query_prompt=query_prompt,
        passage_prompt=passage_prompt,
        recipe=recipe,
        assignments=assignments,
        settings_file=settings_file,
        labels=labels,
        seed=seed,
        budget_seconds=budget,
        store=store,
        backend=backend,
        precision=precision,
        workers=workers,
        candidates=candidates or [],
        query_model=query_model,
        force_teacher=force_teacher,
        drop_unknown_judgements=drop_unknown_judgements,
        keep_own_passage=keep_own_passage,
        language=language,
    )
    arguments |= {"out": out, "force": force}
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
