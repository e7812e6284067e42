"""Image classifiers of transformers: as teachers, as students, and saved as transformers opens."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limbeck import pipeline
from limbeck.data.labelled import read_labelled
from limbeck.errors import ModelError
from limbeck.models.classifier import load_classifier
from limbeck.models.pretrained_images import PROCESSOR, PretrainedImages

DIGITS = tuple("0123456789")
FEW = {"max_steps": 4, "batch_size": 8, "eval_steps": 2}


def saved(folder: Path, kind: str, classes: tuple[str, ...]) -> Path:
    """A tiny model as transformers writes it, with a processor for images of 16 x 16 pixels."""
    from transformers import (
        ResNetConfig,
        ResNetForImageClassification,
        ViTConfig,
        ViTForImageClassification,
    )

    names = {
        "id2label": dict(enumerate(classes)),
        "label2id": {c: i for i, c in enumerate(classes)},
    }
    model: Any
    with torch.random.fork_rng():
        torch.manual_seed(0)
        if kind == "vit":
            sizes = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
            config = ViTConfig(image_size=16, patch_size=8, intermediate_size=16, **sizes, **names)
            model = ViTForImageClassification(config)
        else:
            sizes = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 1]}
            model = ResNetForImageClassification(ResNetConfig(**sizes, **names))
    model.save_pretrained(folder)
    about = {"size": {"height": 16, "width": 16}, "image_mean": [0.5] * 3, "image_std": [0.25] * 3}
    (folder / PROCESSOR).write_text(json.dumps(about))
    return folder


@pytest.mark.parametrize("kind", ["vit", "resnet"])
def test_it_gives_what_transformers_gives(tmp_path: Path, kind: str) -> None:
    from transformers import AutoModelForImageClassification

    folder = saved(tmp_path / kind, kind, DIGITS)
    found = load_classifier(folder)
    theirs = AutoModelForImageClassification.from_pretrained(folder).eval()
    pixels = torch.rand(3, 3, 16, 16)
    with torch.no_grad():
        own = found({"images": pixels})
        assert torch.allclose(own, theirs(pixel_values=(pixels - 0.5) / 0.25).logits, atol=1e-5)
    found.save(tmp_path / "again", card="# card", stage="test")
    again = load_classifier(tmp_path / "again")
    assert again.content_digest() == found.content_digest()
    assert again.image_shape == (16, 16, 3)


def test_images_of_other_sizes_and_one_channel_are_read(tmp_path: Path) -> None:
    found = load_classifier(saved(tmp_path / "vit", "vit", DIGITS))
    digits = np.asarray(read_labelled("digits").parts["test"].inputs)[:2]
    assert found(found.read(digits).collate(np.arange(2))).shape == (2, 10)
    with pytest.raises(ModelError, match="not texts"):
        found.read(["a cat"])


def test_one_teaches_and_one_of_other_classes_learns(tmp_path: Path) -> None:
    """A residual net, whose BatchNorm counts, learns under a fresh head."""
    teacher = saved(tmp_path / "vit", "vit", DIGITS[::-1])
    student = saved(tmp_path / "resnet", "resnet", ("cat", "dog"))
    result = pipeline.distill(
        "digits",
        out=tmp_path / "run",
        recipe="kd",
        teacher=str(teacher),
        student=str(student),
        settings=FEW,
        labels=100,
        precision="fp32",
        force_teacher=True,
    )
    assert isinstance(result.student, PretrainedImages)
    assert result.student.classes == DIGITS
    assert len(pipeline.predict(tmp_path / "run", np.zeros((2, 8, 8, 1)))) == 2


def test_what_is_not_whole_is_refused(tmp_path: Path) -> None:
    folder = saved(tmp_path / "vit", "vit", DIGITS)
    (folder / PROCESSOR).write_text('{"size": {"height": "x"}, "image_mean": [0.5]}')
    with pytest.raises(ModelError, match=r"preprocessor_config.json does not say"):
        load_classifier(folder)
    weights = folder / "model.safetensors"
    weights.rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match="cannot be opened"):
        load_classifier(folder)
