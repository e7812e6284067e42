"""`limbeck plan`: what would a run take, before it begins?

Parses, calls `limbeck.pipeline.plan`, prints.
"""

from pathlib import Path
from typing import Annotated

import typer

from limbeck.cli import options
from limbeck.cli.output import print_json
from limbeck.cli.progress import on_stderr


def plan(
    data: options.Data,
    out: Annotated[
        Path | None,
        typer.Option(
            help="The folder of the run to be; the plan is kept there, and the run is held "
            "against it.",
            file_okay=False,
        ),
    ] = None,
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
    as_json: options.Json = False,
) -> None:
    """Foretell time, memory and disk of a `distill` with the same options, from a short probe."""
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
    with on_stderr() as progress:
        found = pipeline.plan(data, out=out, **arguments, progress=progress)
    if as_json:
        print_json(found.as_json())
    else:
        typer.echo(found.text)
