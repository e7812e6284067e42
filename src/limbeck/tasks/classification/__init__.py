"""Classification: which of some classes is an image or a text of?"""

from limbeck.tasks.classification.kind import ClassificationKind
from limbeck.tasks.classification.task import Classification, ClassTeacher

KIND = ClassificationKind()

__all__ = ["KIND", "ClassTeacher", "Classification"]
