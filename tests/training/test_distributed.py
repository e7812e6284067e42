"""Two processes make the update that one makes."""

import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from collections_here import made_up
from limbeck import pipeline
from limbeck.errors import ConfigError
from limbeck.store import read_json
from limbeck.training.distributed import current_group
from processes import Coded, in_processes, launched

pytestmark = pytest.mark.slow

SCRIPT = Path(__file__).parent / "two_processes.py"
STAGES = ("dual", "cross", "parts")


@pytest.fixture(scope="module")
def both(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """What one process and what two processes left."""
    one, two = tmp_path_factory.mktemp("one"), tmp_path_factory.mktemp("two")
    code = SCRIPT.read_text()
    assert Coded(code, one, log=one / "log").ended() == 0
    found = in_processes(code, two, log=two / "log")
    assert found.codes == [0, 0], found.said
    return one, two


def test_the_group_has_two_members_and_each_ran_its_half(both: tuple[Path, Path]) -> None:
    one, two = both
    alone = read_json(one / "0.json")
    assert (alone["size"], alone["world"]) == (1, False)
    ranks = [read_json(two / f"{rank}.json") for rank in (0, 1)]
    for rank in ranks:
        assert (rank["size"], rank["world"]) == (2, True)
    for stage in STAGES:
        shares = [rank["items"][stage] for rank in ranks]
        assert sum(shares) == alone["items"][stage]
    for stage in ("dual", "parts"):  # even counts: half each
        assert ranks[0]["items"][stage] == ranks[1]["items"][stage] > 0
    # one query, three passages and three pairs: 1 + 2 + 2 and 0 + 1 + 1
    assert [rank["items"]["cross"] for rank in ranks] == [20 * 5, 20 * 2]


@pytest.mark.parametrize("stage", STAGES)
def test_every_loss_is_that_of_one_process(both: tuple[Path, Path], stage: str) -> None:
    curves = [
        read_json(folder / "run" / "stages" / f"train-{stage}" / "curves.json")["losses"]
        for folder in both
    ]
    assert len(curves[0]) == len(curves[1]) == 20
    for alone, together in zip(*curves, strict=True):
        assert together.keys() == alone.keys()
        assert sum(together.values()) == pytest.approx(sum(alone.values()), rel=1e-5)


@pytest.mark.parametrize("stage", STAGES)
def test_every_summed_gradient_is_that_of_one_process(both: tuple[Path, Path], stage: str) -> None:
    """As whole vectors, one per update: single parameters may have a gradient of nought."""
    alone = load_file(both[0] / "0.safetensors")
    mine = [name for name in alone if name.startswith(f"{stage}/")]
    for rank in (0, 1):
        together = load_file(both[1] / f"{rank}.safetensors")
        assert together.keys() == alone.keys()  # also what has none: no zeros for an unused layer
        for update in range(20):
            names = [name for name in mine if name.split("/")[2] == f"{update:02d}"]
            wanted = torch.cat([alone[name].reshape(-1) for name in names])
            found = torch.cat([together[name].reshape(-1) for name in names])
            assert (found - wanted).norm() <= 1e-5 * wanted.norm(), update


def test_all_processes_end_with_the_same_bytes(both: tuple[Path, Path]) -> None:
    first, second = (load_file(both[1] / f"{rank}.states.safetensors") for rank in (0, 1))
    assert first.keys() == second.keys()
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_whole_run_in_two_processes_is_that_of_one(
    tmp_path: Path, tiny_encoder_folder: Path
) -> None:
    """Teachers fitted, candidates mined, lists scored, the student trained and all measured."""
    data = made_up(passages=40).write(tmp_path / "data")
    small = {
        "max_steps": 6,
        "batch_size": 8,
        "list_length": 3,
        "candidates_per_query": 8,
        "eval_steps": 6,
    }
    asked = {
        "teacher": "train:cross",
        "student": str(tiny_encoder_folder),
        "student_layers": 2,
        "precision": "fp32",
    }
    settings = {
        f"{of}{k}": v for of in ("", "teacher_dual.", "teacher_cross.") for k, v in small.items()
    }
    words = [f"--{name.replace('_', '-')}={value}" for name, value in asked.items()]
    words += [f"--set={key}={value}" for key, value in settings.items()]
    words += [f"--out={tmp_path / 'two'}", f"--store={tmp_path / 'b'}", "--force-teacher"]
    limbeck = str(Path(sys.executable).parent / "limbeck")
    found = launched(limbeck, "distill", str(data), *words, processes=2)
    assert found.returncode == 0, found.stderr
    assert found.stdout.count("Student: ") == 1  # one of them speaks
    pipeline.distill(
        data,
        out=tmp_path / "one",
        store=tmp_path / "a",
        settings=settings,
        force_teacher=True,
        **asked,
    )
    stages = sorted(path.name for path in tmp_path.glob("one/stages/train-*"))
    assert stages == ["train-kl", "train-teacher_cross", "train-teacher_dual"]
    for stage in stages:
        one, two = (
            read_json(tmp_path / out / "stages" / stage / "curves.json")["losses"]
            for out in ("one", "two")
        )
        for alone, together in zip(one, two, strict=True):
            assert sum(together.values()) == pytest.approx(sum(alone.values()), rel=1e-5)
    done = read_json(tmp_path / "two" / "stages" / "train-kl" / "done.json")["metrics"]
    assert done["processes"] == 2
    rows = [read_json(tmp_path / out / "metrics.json")["rows"] for out in ("one", "two")]
    assert [row["model"] for row in rows[0]] == [row["model"] for row in rows[1]]
    for alone, together in zip(*rows, strict=True):
        assert together["nDCG@10"] == pytest.approx(alone["nDCG@10"], abs=0.02)


def test_a_group_of_one_where_several_are_announced_is_refused(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 1)
    with pytest.raises(ConfigError, match="WORLD_SIZE is 2 but the process group has one member"):
        current_group()
