"""What may be asked of a run, and how is it written?

Nothing here loads a model, data or a library, so that a command's help answers at once.
"""

from limbeck.config.loaded import Loaded
from limbeck.config.run import RunConfig, flag_of, option_of, options, takes_fields_of
from limbeck.config.teacher_spec import FITTED, TeacherSpec

__all__ = [
    "FITTED",
    "Loaded",
    "RunConfig",
    "TeacherSpec",
    "flag_of",
    "option_of",
    "options",
    "takes_fields_of",
]
