"""Costs are counted from what stages recorded, the student's apart from its teachers'."""

import json
from pathlib import Path

import pytest

from limbeck.bench.arms import TeacherCost, TrainingCost, base_cost, teacher_cost, training_cost


@pytest.fixture
def out(tmp_path: Path) -> Path:
    stages = {
        "train-prod-1": {"updates": 10, "padded_tokens": 100, "seconds": 2.0},
        "train-prod-2": {"updates": 5, "padded_tokens": 50, "seconds": 1.0},
        "train-prod-teacher-1": {"updates": 7, "padded_tokens": 900, "seconds": 4.0},
        "train-ar2-ranker-1": {"updates": 7, "padded_tokens": 900, "seconds": 8.0},
        "train-teacher_dual": {"updates": 7, "padded_tokens": 900, "seconds": 16.0},
        "score-teacher-1": {"teacher_forwards": 3, "hits": 4, "answers": 9},  # 2 were killed
        "encode-dual-1": {"teacher_forwards": 1, "hits": 1},  # before answers were recorded
        "encode-base-1": {"teacher_forwards": 20, "hits": 30, "answers": 50},
        "mine-bm25": {},
    }
    for name, metrics in stages.items():
        (tmp_path / "stages" / name).mkdir(parents=True)
        done = {"files": {}, "metrics": metrics}
        (tmp_path / "stages" / name / "done.json").write_text(json.dumps(done))
    (tmp_path / "stages" / "train-prod-3").mkdir()  # not finished
    return tmp_path


def test_updates_and_tokens_are_the_students_and_seconds_everyones(out: Path) -> None:
    """10 + 5 updates, 100 + 50 tokens; 2 + 1 + 4 + 8 + 16 seconds."""
    assert training_cost(out) == TrainingCost(15, 150, 31.0)


def test_frozen_players_and_teachers_do_not_read_for_the_student(tmp_path: Path) -> None:
    """A former self and a ranker read 70 + 80 tokens beside the student's 60."""
    players = [
        {"name": "student", "makes": "student", "padded_tokens": 60},
        {"name": "reference", "makes": None, "padded_tokens": 70},
        {"name": "ranker", "makes": None, "padded_tokens": 80},
    ]
    fitted = [{"name": "student", "makes": "teacher", "padded_tokens": 500}]
    for name, found in (("train-ranker", players), ("train-other", fitted)):
        metrics = {"updates": 4, "padded_tokens": 210, "seconds": 1.0, "players": found}
        (tmp_path / "stages" / name).mkdir(parents=True)
        done = {"files": {}, "metrics": metrics}
        (tmp_path / "stages" / name / "done.json").write_text(json.dumps(done))
    assert training_cost(tmp_path) == TrainingCost(4, 60, 2.0)


def test_what_was_asked_of_the_teacher_and_of_the_base(out: Path) -> None:
    """Of the teacher 3 + 1 forwards, 4 + 1 spared, 9 + (1 + 1) answers."""
    assert teacher_cost(out) == TeacherCost(4, 5, 11)
    assert base_cost(out) == TeacherCost(20, 30, 50)
