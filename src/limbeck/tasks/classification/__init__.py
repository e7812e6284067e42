"""Classification: which of some classes is an image or a text of?"""

from limbeck.tasks.classification.kind import ClassificationKind
from limbeck.tasks.classification.task import Classification
from limbeck.tasks.classification.teachers import ClassTeacher

KIND = ClassificationKind()

__all__ = ["KIND", "ClassTeacher", "Classification"]
