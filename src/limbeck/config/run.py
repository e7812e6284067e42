"""What may be asked of a run?

Every option of a run is one field of `RunConfig`: its type, default, description and bounds are
written here alone. The command line, `distill`, `plan` and `bench` take their options from these
fields, and `run.toml` keeps what was asked in its table `asked`.

This module does not know what an option does, and loads no library: a command's help reads it.
"""

import difflib
import functools
import inspect
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import KW_ONLY, Field, dataclass, field, fields
from pathlib import Path
from typing import (
    TYPE_CHECKING,
    Any,
    Literal,
    ParamSpec,
    TypeAlias,
    TypeVar,
    cast,
    get_args,
    get_origin,
)

from limbeck.config.loaded import Loaded, loaded_collection, loaded_encoder, loaded_teacher
from limbeck.config.teacher_spec import FITTED, TeacherSpec, parse_specs
from limbeck.errors import ConfigError

if TYPE_CHECKING:
    from sentence_transformers import (
        CrossEncoder,
        MultiVectorEncoder,
        SentenceTransformer,
        SparseEncoder,
    )

    from limbeck.data.collection import Collection
    from limbeck.models.encoder import Encoder, WrappedModel
    from limbeck.settings import Settings
    from limbeck.teachers import Teacher

    OneTeacher: TypeAlias = (
        str
        | Path
        | TeacherSpec
        | SentenceTransformer
        | CrossEncoder
        | SparseEncoder
        | MultiVectorEncoder
        | WrappedModel
        | Teacher
    )

_SECONDS = {"s": 1.0, "m": 60.0, "h": 3600.0}

P = ParamSpec("P")
C = TypeVar("C")
R = TypeVar("R")


@dataclass(frozen=True, slots=True)
class Option:
    """The command-line option of a field, and the values that it may have.

    `flag` is its name there where that is not the field's. `type` is how it is written there where
    that is not the field's type. `parse` reads it from one text, or a mapping from several flags.
    `minimum` bounds a number. Results do not depend on an option that is not `recorded`, and
    `run.toml` does not have it.
    """

    help: str
    flag: str = ""
    metavar: str | None = None
    default_shown: str | None = None
    type: Any = None
    parse: Callable[[str], Any] | None = None
    minimum: int | None = None
    recorded: bool = True


def parse_duration(text: str) -> float:
    """The seconds in a duration such as `90s`, `20m` or `1.5h`.

    Raises:
        ConfigError: when the unit is missing, or the time is not above zero.

    Example:
        >>> parse_duration("20m"), parse_duration("1.5h")
        (1200.0, 5400.0)
    """
    found = re.fullmatch(r"(\d+(?:\.\d+)?)\s*([smh])", text.strip().lower())
    if found is None or float(found[1]) == 0:
        raise ConfigError(f"{text!r} is not a time. Write it like 90s, 20m or 1.5h.")
    return float(found[1]) * _SECONDS[found[2]]


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


def _option(words: str, **more: Any) -> dict[str, Option]:
    """The metadata of a field."""
    return {"option": Option(words, **more)}


@dataclass(frozen=True)
class RunConfig:
    """Configuration of a run: the options of `limbeck distill`, checked one by one.

    A collection, a student, teachers and settings may be loaded objects. They are known by name and
    the digest of their content.

    Whether they fit together, the data and the models is what `limbeck.pipeline.request` validates.

    Raises:
        ConfigError: for a value that a field cannot have.
    """

    data: "str | Path | Collection | Loaded" = field(
        metadata=_option(
            "A folder in the layout of BEIR or MS MARCO, or with corpus.jsonl alone; training "
            "examples in .jsonl; `ir_datasets:NAME`, `hf:NAME`, or `pydocs`. For classes: texts "
            "with labels in .jsonl, .csv or .parquet, a folder of pictures for each class, or "
            "`digits`.",
            metavar="DATA",
        )
    )
    _: KW_ONLY
    teacher: "OneTeacher | Sequence[OneTeacher]" = field(
        default=FITTED,
        metadata=_option(
            "A model's folder or hub name, `kind:path` to say what it is, a file of scores "
            "(`scores:path`), or `train[:dual|cross|ensemble[:BASE]]` to fit one on the training "
            "judgements, from the student's base or another one; repeat it, and the mean of "
            "several teaches.",
            metavar="[NAME=]TEACHER",
            default_shown=FITTED,
            type=list[str],
        ),
    )
    teacher_weights: Sequence[float] | None = field(
        default=None,
        metadata=_option(
            "The weight of each --teacher, in their order.",
            metavar="W,W,...",
            default_shown="all alike",
            parse=parse_weights,
        ),
    )
    student: "str | Path | SentenceTransformer | Encoder | Loaded | None" = field(
        default=None,
        metadata=_option(
            "The encoder to start from: a folder or hub name.",
            default_shown="the offline model, cut to 2 layers",
            type=str,
        ),
    )
    student_layers: int | None = field(
        default=None, metadata=_option("Keep this many of the student's layers.", minimum=1)
    )
    layer_choice: Literal["spread", "first"] = field(
        default="spread", metadata=_option("Which layers to keep.")
    )
    image_size: int | None = field(
        default=None,
        metadata=_option(
            "Resize images to so many pixels in width and height.",
            default_shown="the size that all of them have",
            minimum=1,
        ),
    )
    augment: Literal["none", "crop", "crop-flip"] | None = field(
        default=None,
        metadata=_option(
            "How training images are varied: cut from the padded image, and mirrored.",
            default_shown="crop-flip for colour images, else none",
        ),
    )
    dim: int | None = field(
        default=None, metadata=_option("Give the student vectors of this width.", minimum=1)
    )
    query_prompt: str | None = field(
        default=None,
        metadata=_option(
            "Put this before every query that the student reads; kept in its folder, where "
            "sentence-transformers finds it, too.",
            default_shown="what its folder names, or nothing",
        ),
    )
    passage_prompt: str | None = field(
        default=None,
        metadata=_option(
            "The same before every passage.",
            default_shown="what its folder names, or nothing",
        ),
    )
    recipe: str = field(
        default="auto",
        metadata=_option(
            "The method; `limbeck recipes` lists them, `limbeck recipes NAME` its presets.",
            metavar="NAME[:PRESET]",
        ),
    )
    settings: "Mapping[str, object] | Settings" = field(
        default_factory=dict,
        metadata=_option("A setting of the recipe; repeatable.", flag="--set", metavar="KEY=VALUE"),
    )
    labels: int | None = field(
        default=None,
        metadata=_option(
            "Use the judgements of only this many training queries, the same for every seed; "
            "the others count as unlabelled.",
            minimum=1,
        ),
    )
    seed: int = field(default=0, metadata=_option("Random seed.", minimum=0))
    budget_seconds: float | None = field(
        default=None,
        metadata=_option(
            "Fit steps, list length and candidates per query to a time such as 90s, 20m or 1.5h.",
            flag="--budget",
            metavar="TIME",
            parse=parse_duration,
        ),
    )
    store: str | Path | None = field(
        default=None,
        metadata=_option(
            "The folder of kept teacher scores.",
            default_shown="$XDG_CACHE_HOME/limbeck, or ~/.cache/limbeck",
            type=Path,
            recorded=False,
        ),
    )
    backend: Literal["auto", "torch", "openvino", "onnxruntime"] = field(
        default="auto",
        metadata=_option(
            "What computes embeddings and scores; `auto` is OpenVINO for large collections on a "
            "processor, where the extra is installed.",
        ),
    )
    precision: Literal["auto", "fp32", "bf16"] = field(
        default="auto",
        metadata=_option("Numbers to compute with; `auto` takes bf16 where it is clearly faster."),
    )
    workers: int | None = field(
        default=None,
        metadata=_option(
            "On a processor, encode and score with this many processes of one thread each; any "
            "number gives the same bytes.",
            default_shown="none: this process, with all its threads",
            minimum=1,
            recorded=False,
        ),
    )
    candidates: Sequence[str | Path] = field(
        default=(),
        metadata=_option(
            "A TREC run, or other file of scored pairs, whose passages join the candidates of "
            "its training queries; repeatable.",
            metavar="FILE",
            type=list[Path],
        ),
    )
    pairs: str | Path | None = field(
        default=None,
        metadata=_option(
            "Weak pairs of texts to learn from before any judgement, in .jsonl or .tsv, for "
            "recipes that do.",
            metavar="FILE",
            default_shown="they are made from titles, first sentences and key phrases",
            type=Path,
        ),
    )
    query_model: str | Path | None = field(
        default=None,
        metadata=_option(
            "The folder of a seq2seq model, such as docT5query, that writes queries for a "
            "corpus without any.",
            metavar="PATH",
            default_shown="they are made from the passages' words",
            type=Path,
        ),
    )
    force_teacher: bool = field(
        default=False, metadata=_option("Use the teacher even if a check refuses it.")
    )
    drop_unknown_judgements: bool = field(
        default=False,
        metadata=_option(
            "Leave out judgements of ids that are in no file, and count them, rather than refuse.",
        ),
    )
    keep_own_passage: bool = field(
        default=False,
        metadata=_option(
            "Let a query that is a passage itself (same id, same text) find that passage."
        ),
    )
    language: str = field(
        default="auto",
        metadata=_option(
            "The language of the texts, for BM25 and made queries: a code such as en, de or zh, or "
            "`auto`, which detects it from scripts and function words.",
            metavar="CODE",
        ),
    )

    def __post_init__(self) -> None:
        for each in fields(RunConfig):
            _check(each, getattr(self, each.name))
        # loaded objects once, and then as names with digests
        if not isinstance(self.data, str | Path | Loaded):
            object.__setattr__(self, "data", loaded_collection(self.data))
        if not isinstance(self.student, str | Path | Loaded | None):
            object.__setattr__(self, "student", loaded_encoder(self.student))
        object.__setattr__(self, "teacher", _parsed(self.teacher))
        if isinstance(self.data, Loaded):
            self._refuse_how_to_read()

    def _refuse_how_to_read(self) -> None:
        """Refuse options that say how to read data that was read already.

        Raises:
            ConfigError: naming the first of them.
        """
        for name in ("drop_unknown_judgements", "keep_own_passage", "language"):
            if getattr(self, name) != getattr(RunConfig, name):
                raise ConfigError(
                    f"{name} says how data is read, and a loaded collection was read already. "
                    f"Give it to limbeck.read_collection."
                )

    @property
    def teachers(self) -> tuple[TeacherSpec, ...]:
        """The teachers, in the order in which they were asked for; at least one."""
        return cast(tuple[TeacherSpec, ...], self.teacher)

    @property
    def settings_given(self) -> Mapping[str, object]:
        """The settings that were given, by name: of a `Settings` object those that it sets."""
        if isinstance(self.settings, Mapping):
            return self.settings
        return self.settings.model_dump(exclude_unset=True)

    def read_data(self) -> "Collection":
        """The collection as it is given, without a dev split or queries of our making.

        Raises:
            ConfigError, DataError: when it cannot be read.
        """
        from limbeck.data.reading import read_as_given

        if isinstance(self.data, Loaded):
            collection: Collection = self.data.value
            return collection
        return read_as_given(
            cast(str | Path, self.data),
            drop_unknown_judgements=self.drop_unknown_judgements,
            keep_own_passage=self.keep_own_passage,
            language=self.language,
        )

    def options(self) -> dict[str, Any]:
        """The fields by name, as `distill` and `plan` take them."""
        return {each.name: getattr(self, each.name) for each in fields(RunConfig)}

    def asked(self) -> dict[str, object]:
        """The table `asked` of `run.toml`: the options that results depend on, None where one was
        not given.
        """
        from limbeck.language import chosen

        values = {
            each.name: _plain(getattr(self, each.name))
            for each in fields(RunConfig)
            if option_of(each).recorded
        }
        specs = [str(spec) for spec in self.teachers]
        values["teacher"] = specs[0] if len(specs) == 1 else specs
        if self.teacher_weights is not None:
            values["teacher_weights"] = [float(weight) for weight in self.teacher_weights]
        if not isinstance(self.settings, Mapping):
            from limbeck.settings import written

            values["settings"] = {key: written(each) for key, each in self.settings_given.items()}
        values["keep_own_passage"] = self.keep_own_passage or None
        values["language"] = chosen(self.language)
        return values

    @classmethod
    def of_record(cls, asked: Mapping[str, Any]) -> "RunConfig":
        """The config that a table `asked` keeps, of this version of Limbeck or an older one."""
        return cls(**{each.name: asked[each.name] for each in fields(cls) if each.name in asked})


@dataclass(frozen=True, slots=True, repr=False)
class _AsWritten:
    """An annotation for people to read, of classes that are not loaded."""

    text: str

    def __repr__(self) -> str:
        return self.text


def options() -> dict[str, Option]:
    """The command-line option of each field of `RunConfig`, in order."""
    return {each.name: option_of(each) for each in fields(RunConfig)}


def option_of(of: "Field[Any]") -> Option:
    """The command-line option of a field."""
    found: Option = of.metadata["option"]
    return found


def flag_of(name: str) -> str:
    """The name of a field on the command line.

    Example:
        >>> flag_of("student_layers"), flag_of("budget_seconds")
        ('--student-layers', '--budget')
    """
    return options()[name].flag or f"--{name.replace('_', '-')}"


def takes_fields_of(
    config: Callable[P, C],
) -> Callable[[Callable[[C], R]], Callable[P, R]]:
    """Let a function of one config be called with the fields of that config instead.

    Example:
        >>> @takes_fields_of(RunConfig)
        ... def seed_of(config: RunConfig) -> int:
        ...     return config.seed
        >>> seed_of("docs", seed=3)
        3
    """

    def decorate(function: Callable[[C], R]) -> Callable[P, R]:
        @functools.wraps(function)
        def called(*args: P.args, **kwargs: P.kwargs) -> R:
            return function(config(*args, **kwargs))

        own, given = inspect.signature(function), inspect.signature(config)
        parameters = [
            each.replace(annotation=_AsWritten(each.annotation))
            if isinstance(each.annotation, str)
            else each
            for each in given.parameters.values()
        ]
        called.__signature__ = given.replace(  # type: ignore[attr-defined]
            parameters=parameters, return_annotation=own.return_annotation
        )
        return called

    return decorate


def _check(of: "Field[Any]", value: object) -> None:
    """Refuse a value that a field cannot have.

    Raises:
        ConfigError: naming the option and what it may be.
    """
    kinds = get_args(of.type) if type(None) in get_args(of.type) else (of.type,)
    if value is None and type(None) in kinds:
        return
    option, flag, kind = option_of(of), flag_of(of.name), kinds[0]
    if get_origin(kind) is Literal:
        if value not in get_args(kind):
            near = difflib.get_close_matches(str(value), get_args(kind), n=1)
            hint = f"; did you mean {near[0]!r}?" if near else "."
            raise ConfigError(
                f"{flag} {value!r} cannot be used{hint} Choose {' or '.join(get_args(kind))}."
            )
    elif kind is bool or kind is int or kind is float:
        allowed = (int, float) if kind is float else (kind,)
        if not isinstance(value, allowed) or (kind is not bool and isinstance(value, bool)):
            raise ConfigError(f"{flag} must be of type {kind.__name__} (got {value!r}).")
        if option.minimum is not None and not value >= option.minimum:
            raise ConfigError(f"{flag} must be at least {option.minimum} (got {value!r}).")


def _parsed(given: Any) -> tuple[TeacherSpec, ...]:
    """The teachers that texts and loaded objects stand for."""
    several = [given] if not isinstance(given, list | tuple) else given
    return parse_specs(
        [
            each
            if isinstance(each, TeacherSpec)
            else str(each)
            if isinstance(each, str | Path)
            else loaded_teacher(each)
            for each in several
        ]
    )


def _plain(value: Any) -> Any:
    """A value as `run.toml` has it; nothing given is None."""
    if isinstance(value, Path | Loaded):
        return str(value)
    if isinstance(value, Mapping):
        return {key: str(each) for key, each in value.items()}
    if isinstance(value, Sequence) and not isinstance(value, str):
        return [_plain(each) for each in value] or None
    return value
