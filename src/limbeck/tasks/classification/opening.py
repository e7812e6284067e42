"""Can a run make a classifier of what was asked of it?

Data and models are loaded, and all is refused that can be before any expensive work.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np

from limbeck.config import Loaded, RunConfig
from limbeck.config.teacher_spec import TeacherSpec
from limbeck.data.augmentation import Augment
from limbeck.data.labelled import Labelled, read_labelled
from limbeck.errors import ConfigError, ModelError
from limbeck.models.classifier import TextClassifier, load_classifier
from limbeck.models.encoder import Encoder
from limbeck.models.image_classifier import (
    NAMES,
    ImageClassifier,
    Shape,
    fresh_image_classifier,
)
from limbeck.models.layers import cut_layers
from limbeck.models.loading import OFFLINE, load_encoder
from limbeck.models.pretrained_images import PretrainedImages
from limbeck.tasks.classification.rehearsal import ClassificationProbe
from limbeck.tasks.classification.task import Classification
from limbeck.tasks.classification.teachers import AnyTeacher, ClassTeacher, MixtureTeacher, Net
from limbeck.tasks.task import Method, Opened, Teachers, teachers_of, weights_of
from limbeck.teachers.score_store import ScoreStore
from limbeck.training import Run, has_batch_statistics
from limbeck.training.distributed import current_group

STUDENT, TEACHER = "cnn-4", "cnn-32"  # of images, where nothing is said
DATA_FREE_STUDENT = "wrn-10-1"
STUDENT_LAYERS = 2  # of the offline model, where texts are read


@dataclass(frozen=True)
class ClassificationRequest(Opened):
    """A request to make a classifier. `bases`, by name, are the models that teachers are fitted
    from.
    """

    config: RunConfig
    data: Labelled
    student: Net
    teachers: Teachers
    given: AnyTeacher | None
    notes: tuple[str, ...]
    bases: Mapping[str | None, Net]
    augment: Augment

    @property
    def models(self) -> Mapping[str, Any]:
        """None that another backend could compute."""
        return {}

    @property
    def size(self) -> int:
        """Nothing: models are read by torch, however much there is."""
        return 0

    def stages(self) -> list[str]:
        """Stages before training: reading the data."""
        data = self.data
        labelled, unlabelled = len(data.labelled), len(data.unlabelled)
        what = f"{labelled:,} labelled and {unlabelled:,} unlabelled {data.form}"
        return [f"read {what} of {len(data.classes)} classes"]

    def probe(self, task: Classification, *, fits: bool) -> ClassificationProbe:
        """A task on which some steps of every stage are timed."""
        return ClassificationProbe(task)

    def start(self, run: Run, store: ScoreStore | None) -> Classification:
        """The request in a run."""
        return Classification(self.data, run, self.bases, self.augment)


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
    data = read_data(config, learned=not method.data_free)
    if "maps" in method.needs and data.form != "images":
        raise ConfigError(
            f"{method.name} would learn from feature maps, and models of texts have none. Set "
            "feature_weight=0."
        )
    specs = teachers_of(config, method)
    if method.data_free:
        return _without_data(config, data, method, specs)
    student, augment = _student(config, data), _augment(config, data)
    if not specs:
        notes = (f"teacher: none, {method.name} learns from labels alone",)
        return ClassificationRequest(config, data, student, Teachers(), None, notes, {}, augment)
    names = _names(specs)
    given = tuple(
        None if spec.path is None else open_teacher(spec, data, name)
        for spec, name in zip(specs, names, strict=True)
    )
    known = [each for each in given if each is not None]
    weights = weights_of(config)
    mixture = MixtureTeacher("mixture", tuple(known), weights) if len(known) > 1 else None
    return ClassificationRequest(
        config,
        data,
        student,
        Teachers(specs, names, given, weights),
        (mixture or known[0]) if len(known) == len(specs) else None,
        (),
        {spec.base: _base(spec.base, config, data) for spec in specs if spec.fitted},
        augment,
    )


def _without_data(
    config: RunConfig, data: Labelled, method: Method, specs: Sequence[TeacherSpec]
) -> ClassificationRequest:
    """The request of a run whose training reads no data.

    Raises:
        ConfigError: when there is no teacher that remembers some.
    """
    if len(specs) != 1 or specs[0].path is None:
        raise ConfigError(
            f"{method.name} learns from one given teacher and from no data. Name its folder with "
            "--teacher; a wide residual net is fitted with --recipe supervised --student wrn-16-1."
        )
    teacher = open_teacher(specs[0], data, specs[0].name or "teacher")
    model = teacher.model
    if not isinstance(model, ImageClassifier) or not has_batch_statistics(model):
        raise ConfigError(
            f"{method.name} learns from what BatchNorm keeps of the data, and {specs[0].path} has "
            "none. Give a net of images that has, such as wrn-16-1."
        )
    name = str(config.student or DATA_FREE_STUDENT)
    student = _of_images(name, data, config.seed, "--student", model.reads)
    teachers = Teachers(tuple(specs), (teacher.name,), (teacher,), (1.0,))
    notes = (f"training examples: {method.name} reads none",)
    return ClassificationRequest(config, data, student, teachers, teacher, notes, {}, "none")


def read_data(config: RunConfig, *, learned: bool = True) -> Labelled:
    """The dataset of a config, which may lack training examples where none is `learned` from.

    Raises:
        ConfigError, DataError: when it cannot be read.
    """
    if isinstance(config.data, Loaded):
        raise ConfigError(f"{config.data.name} is a collection of passages, not data of classes.")
    return read_labelled(
        cast(str, config.data),
        labels=config.labels,
        image_size=config.image_size,
        learned=learned,
    )


def _names(specs: Sequence[TeacherSpec]) -> tuple[str, ...]:
    """Names of teachers: their places, from 1, where nobody named them."""
    if len(specs) == 1:
        return (specs[0].name or "teacher",)
    return tuple(spec.name or str(at) for at, spec in enumerate(specs, start=1))


def open_teacher(spec: TeacherSpec, data: Labelled, name: str) -> ClassTeacher:
    """A teacher that is given, of the same classes, in whatever order it has them.

    Raises:
        ConfigError, ModelError: when it cannot teach on this data.
    """
    if spec.loaded is not None:
        raise ConfigError("A loaded model cannot teach classes yet. Give its folder.")
    model = load_classifier(str(spec.path))
    check_reads(model, data, str(spec.path))
    return ClassTeacher(name, model)


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
        part = data.parts[data.splits[0]]
        model.read(part.at(np.arange(1)).inputs)
    except ModelError as error:
        raise ModelError(f"{where}: {error}") from error


def _student(config: RunConfig, data: Labelled) -> Net:
    """The student, new or on an encoder's body.

    Raises:
        ConfigError, ModelError: when there is no such model.
    """
    if data.form == "images":
        if config.student_layers is not None:
            raise ConfigError(
                f"--student-layers says nothing about a net of images. Use --student {NAMES}."
            )
        if isinstance(config.student, Loaded):
            raise ConfigError(f"A loaded encoder reads texts, not images. Use --student {NAMES}.")
        return _of_images(str(config.student or STUDENT), data, config.seed, "--student")
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
    """Model that a teacher is fitted from: a wide net, or the whole encoder.

    Raises:
        ConfigError, ModelError: when there is no such model.
    """
    if data.form == "images":
        return _of_images(base or TEACHER, data, config.seed, "--teacher train:classifier:")
    if base is None and isinstance(config.student, Loaded):
        encoder: Encoder = config.student.value
    else:
        encoder = load_encoder(base or str(config.student or OFFLINE))
    return TextClassifier.of(encoder, data.classes, config.seed)


def _of_images(
    name: str, data: Labelled, seed: int, option: str, shape: Shape | None = None
) -> ImageClassifier:
    """A new net by its name, of a shape (else that of the training images), or one of a folder.

    Raises:
        ConfigError, ModelError: when there is none, or it cannot be used.
    """
    if Path(name).expanduser().is_dir():
        found = load_classifier(name)
        if isinstance(found, PretrainedImages) and set(found.classes) != set(data.classes):
            found = found.with_classes(data.classes, seed)
        check_reads(found, data, name)
        assert isinstance(found, ImageClassifier)  # it reads images
        return _alone(found, name)
    if shape is None:
        images = data.parts["train"].inputs
        assert isinstance(images, np.ndarray)
        shape = Shape.of(images, data.classes)
    return _alone(fresh_image_classifier(name, shape, seed, option), name)


def _alone(found: ImageClassifier, name: str) -> ImageClassifier:
    """A net that is to be trained.

    Raises:
        ConfigError: when several processes would share out what it normalises.
    """
    processes = current_group().size
    if processes > 1 and has_batch_statistics(found):
        raise ConfigError(
            f"{name} normalises by its batch, which {processes} processes would cut into parts. "
            "Run it in one process, or take a cnn."
        )
    return found


def _augment(config: RunConfig, data: Labelled) -> Augment:
    """The augmentation of training images.

    Raises:
        ConfigError: when texts should be.
    """
    shape = data.image_shape
    if shape is None:
        if config.augment is not None:
            raise ConfigError(f"--augment {config.augment} varies images, and these are texts.")
        return "none"
    return config.augment or ("crop-flip" if shape[2] == 3 else "none")
