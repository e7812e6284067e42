"""What can go wrong, as a small tree of exceptions.

    LimbeckError
    ├── ConfigError       a setting, flag or name that cannot be used        (exit 2)
    ├── DataError         a file, line, id or text that cannot be used       (exit 2)
    ├── ModelError        a folder that is no model, or the wrong kind       (exit 2)
    ├── ScoreError        a teacher's scores that cannot be used (NaN, ...)  (exit 2)
    ├── StageError        a stage that asks for what it does not have        (exit 2)
    ├── StoreError        an artefact that is damaged, foreign or unwritable (exit 2)
    ├── ArmsFailed        runs of a bench that failed; the others are kept   (exit 2)
    └── TeacherRefused    a teacher that would not help; every artefact kept (exit 3)

Every message says what was found, where (file:line, query id, field) and what to do next.
Only `limbeck.cli` turns these into exit codes.
"""


class LimbeckError(Exception):
    """Anything that Limbeck refuses, with a message meant for the user."""

    exit_code = 2


class ConfigError(LimbeckError):
    """A setting, flag or name cannot be used."""


class DataError(LimbeckError):
    """A data file, line, id or text cannot be used."""


class ModelError(LimbeckError):
    """A folder or hub name is no model, or a model of the wrong kind."""


class ScoreError(LimbeckError):
    """A teacher's scores cannot be used."""


class StageError(LimbeckError):
    """A training stage asks for a signal or player that it does not have."""


class StoreError(LimbeckError):
    """An artefact is damaged, belongs to another run, or cannot be written."""


class ArmsFailed(LimbeckError):
    """Some runs of a comparison failed; the others are finished and kept."""


class TeacherRefused(LimbeckError):
    """The teacher failed a check that says it would not help; every artefact is kept."""

    exit_code = 3
