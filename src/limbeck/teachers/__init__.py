"""Who teaches, what do they think, and should they be believed?"""

from limbeck.teachers.cross import CrossTeacher
from limbeck.teachers.dual import DualTeacher
from limbeck.teachers.ensemble import EnsembleTeacher
from limbeck.teachers.readers import ReaderTeacher
from limbeck.teachers.registry import kind_named, load_teacher, teacher_of
from limbeck.teachers.scores_file import ScoresTeacher
from limbeck.teachers.teacher import Teacher

__all__ = [
    "CrossTeacher",
    "DualTeacher",
    "EnsembleTeacher",
    "ReaderTeacher",
    "ScoresTeacher",
    "Teacher",
    "kind_named",
    "load_teacher",
    "teacher_of",
]
