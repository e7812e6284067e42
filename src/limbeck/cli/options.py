"""How are the values that several commands share written?

Durations carry a unit, settings are `key=value`, and every shared option has one wording, here.
This module knows what a value looks like, not what it is used for.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import typer

from limbeck.errors import ConfigError

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}


def parse_duration(text: str) -> float:
    """The seconds in a duration such as `90s`, `20m` or `1.5h`.

    Raises:
        typer.BadParameter: when the unit is missing, or the time is not above zero.

    Example:
        >>> parse_duration("20m"), parse_duration("1.5h")
        (1200.0, 5400.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip().lower())
    if found is None or float(found[1]) == 0:
        raise typer.BadParameter(f"{text!r} is not a time. Write it like 90s, 20m or 1.5h.")
    return float(found[1]) * _SECONDS[found[2]]


def parse_assignments(assignments: Sequence[str]) -> dict[str, str]:
    """The settings in `key=value` texts; of a repeated key the last one counts.

    Raises:
        ConfigError: when there is no `=`, or nothing before it.

    Example:
        >>> parse_assignments(["updates=200", "rate=2e-5"])
        {'updates': '200', 'rate': '2e-5'}
    """
    settings = {}
    for assignment in assignments:
        key, equals, value = assignment.partition("=")
        if not equals or not key.strip():
            raise ConfigError(f"--set {assignment!r} is not a setting. Write --set key=value.")
        settings[key.strip()] = value.strip()
    return settings


def parse_weights(text: str) -> tuple[float, ...]:
    """The numbers in a text such as `0.7,0.3`.

    Raises:
        ConfigError: when one is not a number.

    Example:
        >>> parse_weights("0.7, 0.3")
        (0.7, 0.3)
    """
    try:
        return tuple(float(part) for part in text.split(","))
    except ValueError as error:
        raise ConfigError(
            f"--teacher-weights {text!r} is not a list of numbers. Write it like 0.7,0.3."
        ) from error


def dotted(tables: Mapping[str, object]) -> dict[str, object]:
    """The settings of a TOML file with those in a table named by it, as `--set` names them.

    Example:
        >>> dotted({"updates": 200, "teacher_dual": {"updates": 60}})
        {'updates': 200, 'teacher_dual.updates': 60}
    """
    settings: dict[str, object] = {}
    for key, value in tables.items():
        if isinstance(value, Mapping):
            settings |= {f"{key}.{inner}": held for inner, held in dotted(value).items()}
        else:
            settings[key] = value
    return settings


Data = Annotated[
    str,
    typer.Argument(
        metavar="DATA",
        help="A folder in the layout of BEIR or MS MARCO, or with corpus.jsonl alone; training "
        "examples in .jsonl; `ir_datasets:NAME`, `hf:NAME`, or `pydocs`.",
    ),
]
Seed = Annotated[int, typer.Option(help="Where every random draw comes from.", min=0)]
Store = Annotated[
    Path | None,
    typer.Option(
        help="The folder of kept teacher scores.",
        show_default="$XDG_CACHE_HOME/limbeck, or ~/.cache/limbeck",
        file_okay=False,
    ),
]
Json = Annotated[bool, typer.Option("--json", help="Print the result as JSON.")]
Backend = Annotated[
    Literal["auto", "torch", "openvino", "onnxruntime"],
    typer.Option(
        help="What computes embeddings and scores; `auto` is OpenVINO for large collections on a "
        "processor, where the extra is installed."
    ),
]
Workers = Annotated[
    int | None,
    typer.Option(
        help="On a processor, encode and score with this many processes of one thread each; any "
        "number gives the same bytes.",
        show_default="none: this process, with all its threads",
        min=1,
    ),
]
Precision = Annotated[
    Literal["auto", "fp32", "bf16"],
    typer.Option(help="Numbers to compute with; `auto` takes bf16 where it is clearly faster."),
]
DropUnknownJudgements = Annotated[
    bool,
    typer.Option(
        "--drop-unknown-judgements",
        help="Leave out judgements of ids that are in no file, and count them, rather than refuse.",
    ),
]
KeepOwnPassage = Annotated[
    bool,
    typer.Option(
        "--keep-own-passage",
        help="Let a query that is a passage itself (same id, same text) find that passage.",
    ),
]
Language = Annotated[
    str,
    typer.Option(
        metavar="CODE",
        help="What the texts are written in, for BM25 and made queries: a code such as en, de or "
        "zh, or `auto`, which tells by scripts and function words.",
    ),
]
Place = Annotated[
    Path,
    typer.Argument(metavar="RUN", help="A run of `limbeck distill`, or the folder of an index."),
]
Reranker = Annotated[
    str | None,
    typer.Option(
        "--teacher",
        help="The model that re-ranks: a folder or hub name.",
        show_default="RUN/teacher, if the run fitted one",
    ),
]
TEACHER = "[NAME=]TEACHER"
Teacher = Annotated[
    list[str] | None,
    typer.Option(
        metavar=TEACHER,
        help="A model's folder or hub name, `kind:path` to say what it is, a file of scores "
        "(`scores:path`), or `train[:dual|cross|ensemble[:BASE]]` to fit one on the training "
        "judgements, from the student's base or another one; repeat it, and the mean of several "
        "teaches.",
        show_default="train",
    ),
]
TeacherWeights = Annotated[
    str | None,
    typer.Option(
        metavar="W,W,...",
        help="The weight of each --teacher, in their order.",
        show_default="all alike",
    ),
]
Student = Annotated[
    str | None,
    typer.Option(
        help="The encoder to start from: a folder or hub name.",
        show_default="the offline model, cut to 2 layers",
    ),
]
StudentLayers = Annotated[
    int | None, typer.Option(help="Keep this many of the student's layers.", min=1)
]
LayerChoice = Annotated[Literal["spread", "first"], typer.Option(help="Which layers to keep.")]
Dim = Annotated[int | None, typer.Option(help="Give the student vectors of this width.", min=1)]
QueryPrompt = Annotated[
    str | None,
    typer.Option(
        help="Put this before every query that the student reads; kept in its folder, where "
        "sentence-transformers finds it, too.",
        show_default="what its folder names, or nothing",
    ),
]
PassagePrompt = Annotated[
    str | None,
    typer.Option(
        help="The same before every passage.", show_default="what its folder names, or nothing"
    ),
]
Recipe = Annotated[
    str,
    typer.Option(
        metavar="NAME[:PRESET]",
        help="The method; `limbeck recipes` lists them, `limbeck recipes NAME` its presets.",
    ),
]
Assignments = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KEY=VALUE", help="A setting of the recipe; repeatable."),
]
SettingsFile = Annotated[
    Path | None,
    typer.Option("--settings", metavar="FILE", help="Settings in a TOML file; --set overrules it."),
]
Labels = Annotated[
    int | None,
    typer.Option(
        help="Use the judgements of only this many training queries, the same for every seed; "
        "the others count as unlabelled.",
        min=0,
    ),
]
Budget = Annotated[
    float | None,
    typer.Option(
        parser=parse_duration,
        metavar="TIME",
        help="Fit updates, list length and candidate depth to a time such as 90s, 20m or 1.5h.",
    ),
]
CandidateFiles = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="A TREC run, or other file of scored pairs, whose passages join the candidates of "
        "its training queries; repeatable.",
    ),
]
QueryModel = Annotated[
    Path | None,
    typer.Option(
        metavar="PATH",
        help="The folder of a seq2seq model, such as docT5query, that writes queries for a "
        "corpus without any.",
        show_default="they are made from the passages' words",
        file_okay=False,
    ),
]
ForceTeacher = Annotated[
    bool, typer.Option("--force-teacher", help="Use the teacher even if a check refuses it.")
]


def distil_arguments(
    *,
    teacher: Sequence[str] | None,
    teacher_weights: str | None,
    assignments: Sequence[str] | None,
    settings_file: Path | None,
    **given: Any,
) -> dict[str, Any]:
    """What `limbeck.pipeline.distill` and `plan` are called with; `given` goes there as it is.

    Raises:
        ConfigError: for weights, settings or a file of settings that cannot be read.
    """
    from limbeck.settings import read_toml

    settings = dotted(read_toml(settings_file)) if settings_file else {}
    return {
        **given,
        "teacher": (teacher[0] if len(teacher) == 1 else list(teacher)) if teacher else "train",
        "teacher_weights": parse_weights(teacher_weights) if teacher_weights else None,
        "settings": {**settings, **parse_assignments(assignments or [])},
    }
