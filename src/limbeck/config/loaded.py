"""What stands in a config for an object that the caller has loaded?

A collection or a model is known by its name and the digest of its content, which `run.toml` keeps:
another object is another request. Classes are looked at here; libraries are loaded only when there
is such an object.
"""

from dataclasses import dataclass, field
from typing import Any

from limbeck.config.teacher_spec import TeacherSpec
from limbeck.errors import ConfigError

PREFIX = "loaded:"


@dataclass(frozen=True, slots=True)
class Loaded:
    """A loaded object; `str` is its form in a record."""

    name: str
    digest: str
    value: Any = field(repr=False, compare=False)

    def __str__(self) -> str:
        return f"{PREFIX}{self.name}@{self.digest[:16]}"


def loaded_collection(value: object) -> Loaded:
    """A collection that was read already.

    Raises:
        ConfigError: when it is none.
    """
    from limbeck.data.collection import Collection

    if not isinstance(value, Collection):
        raise ConfigError(
            f"data is a {type(value).__qualname__}. Give a path or name, or what "
            "limbeck.read_collection returned."
        )
    return Loaded(value.name, value.digest, value)


def loaded_encoder(value: object) -> Loaded:
    """An encoder to start a student from.

    Raises:
        ConfigError, ModelError: when it is no encoder, or one that cannot be read.
    """
    from limbeck.models.encoder import Encoder
    from limbeck.models.loaded import name_of_model, wrap
    from limbeck.teachers.teacher import model_digest

    encoder = wrap(value)
    if not isinstance(encoder, Encoder):
        raise ConfigError(
            f"student is a {type(value).__qualname__}; a student is an encoder. Give a "
            "SentenceTransformer, a folder or a hub name."
        )
    return Loaded(name_of_model(encoder), model_digest("dual", encoder), encoder)


def loaded_teacher(value: object) -> TeacherSpec:
    """A teacher that was loaded already, as a spec that carries it.

    Raises:
        ConfigError, ModelError: when it is no teacher, or one that cannot be read.
    """
    from limbeck.teachers import Teacher, teacher_of

    teacher = value if isinstance(value, Teacher) else teacher_of(value)
    if teacher.answers is not None:
        raise ConfigError(
            "teacher has scores of the pairs in a file, whose places belong to one collection. "
            "Give the file as scores:PATH."
        )
    return TeacherSpec(path=str(Loaded(teacher.name, teacher.digest, teacher)), loaded=teacher)
