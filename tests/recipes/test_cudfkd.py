"""Distillation without data: statistics, curricula, and runs on folders that have none to learn."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from limbeck import pipeline
from limbeck.data.labelled import read_labelled
from limbeck.errors import ConfigError, DataError
from limbeck.models.classifier import load_classifier
from limbeck.models.image_classifier import (
    ImageClassifier,
    Shape,
    fresh_image_classifier,
    with_statistics,
)
from limbeck.objectives.data_free import statistics_distance
from limbeck.recipes.cudfkd import CuDFKDSettings, _risen
from limbeck.store import read_json

DIGITS = tuple("0123456789")
FEW = {"max_steps": 6, "batch_size": 8, "generator_channels": 4, "eval_steps": 3, "save_steps": 2}
FEW |= {"generator_every": 2}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A wide residual net that has seen digits, for its statistics."""
    out = tmp_path_factory.mktemp("taught") / "run"
    settings = {"max_steps": 30, "batch_size": 32, "eval_steps": 0}
    asked: dict[str, Any] = {"recipe": "supervised", "student": "wrn-10-1", "settings": settings}
    pipeline.distill("digits", out=out, precision="fp32", **asked)
    return out / "student"


def distance(net: ImageClassifier, images: torch.Tensor) -> float:
    with torch.no_grad():
        found = with_statistics(net, {"images": images})
    seen = {}
    for layer in net.kept_statistics():
        mean = found[f"mean/{layer}"].mean(dim=0)
        seen[layer] = mean, found[f"square/{layer}"].mean(dim=0) - mean.square()
    return float(statistics_distance(seen, net.kept_statistics()))


def test_data_are_nearer_to_what_was_kept_of_them_than_noise(teacher: Path) -> None:
    net = load_classifier(teacher)
    assert isinstance(net, ImageClassifier)
    images = np.asarray(read_labelled("digits").parts["train"].inputs)[:200]
    data = torch.from_numpy(images).permute(0, 3, 1, 2)
    torch.manual_seed(0)
    assert distance(net, data) < 0.5 * distance(net, torch.rand_like(data))


def test_the_statistics_of_a_batch_are_put_together_of_its_images() -> None:
    net = fresh_image_classifier("wrn-10-1", Shape((8, 8, 1), (0.5,), (0.5,), DIGITS), 0, "")
    given: list[torch.Tensor] = []
    first = next(m for m in net.modules() if isinstance(m, torch.nn.BatchNorm2d))
    first.register_forward_pre_hook(lambda _, maps: given.append(maps[0]))
    found = with_statistics(net.eval(), {"images": torch.rand(5, 1, 8, 8)})
    name = next(key for key in found if key.startswith("mean/"))
    mean = found[name].mean(dim=0)
    variance = found[name.replace("mean", "square")].mean(dim=0) - mean.square()
    assert torch.allclose(mean, given[0].mean(dim=(0, 2, 3)), atol=1e-6)
    assert torch.allclose(variance, given[0].var(dim=(0, 2, 3), unbiased=False), atol=1e-5)


def test_images_become_hard_between_a_quarter_and_three_quarters() -> None:
    settings = CuDFKDSettings(adversarial_weight=62.0)
    risen = [_risen(share, settings) for share in (0.0, 0.24, 0.25, 0.5, 0.75, 1.0)]
    assert risen == [0.0, 0.0, 0.0, 31.0, 62.0, 62.0]
    constant = CuDFKDSettings(adversarial_from=0.0, adversarial_to=0.0)
    assert _risen(1e-3, constant) == constant.adversarial_weight


def without_training(folder: Path) -> Path:
    """A folder of a test split alone."""
    Image = pytest.importorskip("PIL.Image")
    test = read_labelled("digits").parts["test"]
    pixels = np.rint(np.asarray(test.inputs)[..., 0] * 255).astype(np.uint8)
    for at in range(60):
        place = folder / "test" / str(test.labels[at])
        place.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels[at]).save(place / f"{at}.png")
    return folder


def test_a_folder_without_training_is_enough_and_a_killed_run_ends_with_the_same_bytes(
    teacher: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    data = without_training(tmp_path / "digits")
    asked = {"recipe": "cudfkd", "teacher": str(teacher), "settings": FEW, "precision": "fp32"}
    before = (teacher / "model.safetensors").read_bytes()
    result = pipeline.distill(data, out=tmp_path / "whole", **asked)
    assert [row["model"] for row in result.rows] == ["undistilled", "teacher", "student"]
    assert any("cudfkd reads none" in note for note in result.notes)
    curves = read_json(tmp_path / "whole" / "stages" / "train-cudfkd" / "curves.json")
    assert {"unsure", "statistics", "balance", "adversarial", "logits"} == set(curves["losses"][0])
    assert set(curves["losses"][1]) == {"logits"}  # the generator has its turn in every second step
    assert (teacher / "model.safetensors").read_bytes() == before
    calls, forward = [], ImageClassifier.forward

    def killed(self: ImageClassifier, features: dict[str, torch.Tensor]) -> torch.Tensor:
        calls.append(self.training)
        if sum(calls) == 5:
            raise KeyboardInterrupt
        return forward(self, features)

    with monkeypatch.context() as patch:
        patch.setattr(ImageClassifier, "forward", killed)
        with pytest.raises(KeyboardInterrupt):
            pipeline.distill(data, out=tmp_path / "killed", **asked)
    pipeline.distill(data, out=tmp_path / "killed", **asked)
    weights = [tmp_path / name / "student" / "model.safetensors" for name in ("whole", "killed")]
    assert weights[0].read_bytes() == weights[1].read_bytes()


def test_what_it_cannot_learn_from_is_refused(teacher: Path, tmp_path: Path) -> None:
    data = without_training(tmp_path / "digits")
    shape = Shape((8, 8, 1), (0.5,), (0.5,), DIGITS)
    fresh_image_classifier("cnn-4", shape, 0, "").save(tmp_path / "cnn", card="", stage="test")

    def refused(error: type[Exception], says: str, **asked: Any) -> None:
        with pytest.raises(error, match=says):
            pipeline.distill(data, out=tmp_path / "run", **asked)

    refused(ConfigError, "BatchNorm keeps", recipe="cudfkd", teacher=str(tmp_path / "cnn"))
    refused(ConfigError, "one given teacher", recipe="cudfkd")
    refused(DataError, "none to learn from", recipe="supervised")
