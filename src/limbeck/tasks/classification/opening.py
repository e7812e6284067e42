"""Can a run make a classifier of what was asked of it?

Data and models are loaded, and all is refused that can be before any expensive work.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, cast

import numpy as np

from limbeck.config import Loaded, RunConfig
from limbeck.config.teacher_spec import TeacherSpec
from limbeck.data.labelled import Labelled, read_labelled
from limbeck.errors import ConfigError, ModelError
from limbeck.models.classifier import ConvNet, TextClassifier, load_classifier
from limbeck.models.encoder import Encoder
from limbeck.models.layers import cut_layers
from limbeck.models.loading import OFFLINE, load_encoder
from limbeck.tasks.classification.rehearsal import ClassificationProbe
from limbeck.tasks.classification.task import Classification, ClassTeacher, Net
from limbeck.tasks.task import Method, Opened, Teachers, teachers_of, weights_of
from limbeck.teachers.score_store import ScoreStore
from limbeck.training import Run

STUDENT, TEACHER = "cnn-4", "cnn-32"  # of images, where nothing is said
STUDENT_LAYERS = 2  # of the offline model, where texts are read
_CNN = re.compile(r"cnn(?:-(\d+))?")


@dataclass(frozen=True)
class ClassificationRequest(Opened):
    """A request to make a classifier. `bases`, by name, are what teachers are fitted from."""

    config: RunConfig
    data: Labelled
    student: Net
    teachers: Teachers
    given: ClassTeacher | None
    notes: tuple[str, ...]
    bases: Mapping[str | None, Net]

    @property
    def models(self) -> Mapping[str, Any]:
        """None that another backend could compute."""
        return {}

    @property
    def size(self) -> int:
        """Nothing: models are read by torch, however much there is."""
        return 0

    def stages(self) -> list[str]:
        """What is read."""
        data = self.data
        labelled, unlabelled = len(data.labelled), len(data.unlabelled)
        what = f"{labelled:,} labelled and {unlabelled:,} unlabelled {data.form}"
        return [f"read {what} of {len(data.classes)} classes"]

    def probe(self, task: Classification, *, fits: bool) -> ClassificationProbe:
        """A task on which some steps of every stage are timed."""
        return ClassificationProbe(task)

    def start(self, run: Run, store: ScoreStore | None) -> Classification:
        """The request in a run."""
        return Classification(self.data, run, self.bases)


def open_request(config: RunConfig, method: Method) -> ClassificationRequest:
    """The request of a run, with everything refused that can be without computing.

    Raises:
        ConfigError, DataError, ModelError: for what cannot be used.
    """
    if config.backend not in ("auto", "torch"):
        raise ConfigError(f"--backend {config.backend}: classifiers are read by torch alone.")
    if config.workers is not None:
        raise ConfigError("--workers share out texts of retrieval. Leave it out.")
    weights_of(config)
    data = read_data(config)
    specs = teachers_of(config, method)
    if len(specs) > 1:
        raise ConfigError(
            f"{len(specs)} teachers are given; of classes one can teach yet. Name one --teacher."
        )
    student = _student(config, data)
    if not specs:
        notes = (f"teacher: none, {method.name} learns from labels alone",)
        return ClassificationRequest(config, data, student, Teachers(), None, notes, {})
    [spec] = specs
    given = None if spec.path is None else open_teacher(spec, data)
    names = (spec.name or "teacher",)
    return ClassificationRequest(
        config,
        data,
        student,
        Teachers(specs, names, (given,), (1.0,)),
        given,
        (),
        {} if given is not None else {spec.base: _base(spec.base, config, data)},
    )


def read_data(config: RunConfig) -> Labelled:
    """The dataset of a config.

    Raises:
        ConfigError, DataError: when it cannot be read.
    """
    if isinstance(config.data, Loaded):
        raise ConfigError(f"{config.data.name} is a collection of passages, not data of classes.")
    return read_labelled(cast(str, config.data), labels=config.labels, image_size=config.image_size)


def open_teacher(spec: TeacherSpec, data: Labelled) -> ClassTeacher:
    """A teacher that is given, of the same classes, in whatever order it has them.

    Raises:
        ConfigError, ModelError: when it cannot teach on this data.
    """
    if spec.loaded is not None:
        raise ConfigError("A loaded model cannot teach classes yet. Give its folder.")
    model = load_classifier(str(spec.path))
    check_reads(model, data, str(spec.path))
    return ClassTeacher("teacher", model)


def check_reads(model: Net, data: Labelled, where: str) -> None:
    """Refuse a model of other classes, or that reads something else than the data holds.

    Raises:
        ModelError: saying what differs.
    """
    own, there = set(model.classes), set(data.classes)
    if own != there:
        odd = sorted(own ^ there)
        raise ModelError(
            f"{where} knows {len(own)} classes and {data.name} has {len(there)}; "
            f"{', '.join(map(repr, odd[:3]))}{' ...' if odd[3:] else ''} "
            f"{'is' if len(odd) == 1 else 'are'} in one of them alone. Name a model of the same "
            "classes; their order does not matter."
        )
    try:
        model.read(data.parts["train"].at(np.arange(1)).inputs)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error


def _student(config: RunConfig, data: Labelled) -> Net:
    """The student, new or on an encoder's body.

    Raises:
        ConfigError, ModelError: when there is no such model.
    """
    if data.form == "images":
        if config.student_layers is not None:
            raise ConfigError("--student-layers says nothing about a cnn. Use --student cnn-WIDTH.")
        if isinstance(config.student, Loaded):
            raise ConfigError("A loaded encoder reads texts, not images. Use --student cnn-WIDTH.")
        return _convnet(str(config.student or STUDENT), data, config.seed, "--student")
    encoder = (
        config.student.value
        if isinstance(config.student, Loaded)
        else load_encoder(str(config.student or OFFLINE))
    )
    layers = config.student_layers
    if layers is None and config.student is None:
        layers = STUDENT_LAYERS
    if layers is not None:
        encoder = cut_layers(encoder, layers, config.layer_choice)
    return TextClassifier.of(encoder, data.classes, config.seed)


def _base(base: str | None, config: RunConfig, data: Labelled) -> Net:
    """What a teacher is fitted from: a wide cnn, or the whole encoder.

    Raises:
        ConfigError, ModelError: when there is no such model.
    """
    if data.form == "images":
        return _convnet(base or TEACHER, data, config.seed, "--teacher train:classifier:")
    if base is None and isinstance(config.student, Loaded):
        encoder: Encoder = config.student.value
    else:
        encoder = load_encoder(base or str(config.student or OFFLINE))
    return TextClassifier.of(encoder, data.classes, config.seed)


def _convnet(name: str, data: Labelled, seed: int, option: str) -> ConvNet:
    found = _CNN.fullmatch(name)
    if found is None or found[1] == "0":
        raise ConfigError(
            f"{option} {name!r}: images are read by a cnn. Write cnn, or cnn-WIDTH with a "
            f"multiple of 4, as in {STUDENT}."
        )
    images = data.parts["train"].inputs
    assert isinstance(images, np.ndarray)
    width = int(found[1] or STUDENT.partition("-")[2])
    return ConvNet.fresh(width, images.shape[1:], data.classes, seed)
