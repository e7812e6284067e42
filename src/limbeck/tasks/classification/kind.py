"""What is classification, to whoever runs any task?

Its layouts, measures, baselines, options and cards. What a run of it does is not known here.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, ClassVar, cast

from limbeck.config import RunConfig
from limbeck.data.check import Report
from limbeck.data.check_labelled import check_labelled
from limbeck.data.labelled import LAYOUTS, Labelled, holds_labelled
from limbeck.errors import ConfigError, DataError
from limbeck.evaluation.statistics import Mean, Measures
from limbeck.evaluation.table import Details
from limbeck.inference import Engine
from limbeck.models.classifier import TextClassifier, load_classifier
from limbeck.record import RECORD, read_record
from limbeck.tasks.classification.details import details
from limbeck.tasks.classification.opening import (
    ClassificationRequest,
    check_reads,
    open_request,
    read_data,
)
from limbeck.tasks.classification.predicting import is_classifier, predict
from limbeck.tasks.classification.task import ACCURACY, UNIT, UNITS
from limbeck.tasks.classification.teachers import ClassTeacher, Net
from limbeck.tasks.fit import FEWEST_STEPS, SPARE, BudgetPlan, steps_within
from limbeck.tasks.task import Layout, Method, TaskKind, Teachers
from limbeck.types import Progress


class ClassificationKind(TaskKind):
    """Examples that belong to one of some classes."""

    name = "classification"
    measures = Measures(unit=UNIT, units=UNITS, measures=(Mean(name=ACCURACY),))
    alternatives = ("class", "classes")
    layouts = (Layout("labelled", LAYOUTS, holds_labelled),)
    auto = "kd"
    baselines = ("supervised", "kd")
    fits: ClassVar = {"classifier": ()}
    options = frozenset({"student_layers", "layer_choice", "image_size", "augment"})
    budget = ("max_steps", "batch_size")
    has_rows = True

    def open(self, config: RunConfig, method: Method) -> ClassificationRequest:
        """A run's request, with everything refused that can be without computing."""
        return open_request(config, method)

    def read(self, config: RunConfig) -> Labelled:
        """The dataset, with a dev split."""
        return read_data(config)

    def check(self, config: RunConfig) -> Report:
        """Counts of classes in splits, and every kind of problem with examples."""
        return check_labelled(cast(str, config.data), image_size=config.image_size)

    def open_model(
        self, model: str, data: Labelled, config: RunConfig
    ) -> tuple[ClassificationRequest, ClassTeacher]:
        """A request to measure a classifier of the same classes, or the student of a run."""
        folder = Path(model).expanduser()
        found = self.load(folder / "student" if (folder / RECORD).is_file() else folder)
        check_reads(found, data, model)
        opened = ClassificationRequest(config, data, found, Teachers(), None, (), {}, "none")
        return opened, ClassTeacher("model", found)

    def data_of(self, run: Path) -> Labelled:
        """The data of a run, read again."""
        record = read_record(run)
        if record is None:
            raise ConfigError(f"{run} holds no run: it has no {RECORD}. Name the folder of a run.")
        data = read_data(RunConfig.of_record(record["asked"]))
        if data.digest != record["data"]["digest"]:
            raise DataError(
                f"{data.name} is not what {run} learned from: examples or labels have changed."
            )
        return data

    def load(self, student: Path) -> Net:
        """An `ImageClassifier`, or a `TextClassifier`."""
        return load_classifier(student)

    def fit_budget(
        self,
        choices: Sequence[tuple[str, ...]],
        estimate: Callable[[BudgetPlan], float],
        seconds: float,
    ) -> BudgetPlan:
        """The largest number of steps that fits."""
        steps = steps_within(seconds, lambda steps: estimate(BudgetPlan(steps, steps)))
        if not steps:
            least = estimate(BudgetPlan(FEWEST_STEPS, FEWEST_STEPS)) / SPARE
            raise ConfigError(
                f"--budget {seconds:.0f}s is too short: this data needs about {least:.0f}s for "
                "the smallest useful run."
            )
        return BudgetPlan(steps, steps if choices[0] else None)

    def knows(self, model: object) -> bool:
        """Whether it is a classifier, in a folder or loaded."""
        if isinstance(model, str | Path):
            return is_classifier(Path(model).expanduser())
        return isinstance(model, Net)

    def predict(
        self, model: Net, inputs: Any, *, top: int, engine: Engine, progress: Progress
    ) -> list[dict[str, object]]:
        """`label` and `probability` of the most probable class; `top` has some more of them."""
        return predict(model, inputs, top=top, engine=engine, progress=progress)

    def details(self, run: Path, measures: Measures) -> Details:
        """Precision, recall and F1 of each class, and confusions."""
        return details(run, measures)

    def card(self, model: Any, how: str, teacher: str | None = None) -> str:
        """A card that shows how the folder is used, by itself and by transformers."""
        net = model.model if isinstance(model, ClassTeacher) else model
        reads_texts = isinstance(net, TextClassifier)
        head = "library_name: transformers\npipeline_tag: text-classification\n"
        what = "A small classifier" if teacher is None else "A teacher"
        return (
            f"---\n{head if reads_texts else ''}tags:\n- limbeck\n---\n\n"
            f"# {what}\n\nMade by [Limbeck](https://pypi.org/project/limbeck/): {how}.\n\n"
            f"{_OF_TEXTS if reads_texts else _OF_IMAGES}"
        )


_LOAD = '```python\nimport limbeck\n\nmodel = limbeck.load("path/to/this/folder")\n'
_OF_TEXTS = f"""{_LOAD}print(limbeck.predict(model, ["a text"]))
```

Without Limbeck:

```python
from transformers import pipeline

classify = pipeline("text-classification", model="path/to/this/folder")
print(classify(["a text"], truncation=True))
```
"""
_OF_IMAGES = f"""{_LOAD}print(limbeck.predict(model, "digits"))  # or an array of images
```
"""
