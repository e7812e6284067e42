import io
import re
import sys
import time

import pytest
from rich.console import Console
from rich.progress import Progress, Task

from limbeck.cli.progress import Bars, Lines, on_stderr, state


def task_after(done: list[int], *, total: int, seconds: float) -> Task:
    """A task that was advanced by each of `done`, evenly over a time."""
    now = 0.0
    progress = Progress(disable=True, get_time=lambda: now, speed_estimate_period=120.0)
    identity = progress.add_task("Mine", total=total, unit="queries")
    for count in done:
        now += seconds / len(done)
        progress.advance(identity, count)
    return progress.tasks[0]


def test_rate_and_time_left_by_hand() -> None:
    """10 updates of 20 queries in 10 s: 20 a second; the other 800 take 40 s."""
    task = task_after([20] * 10, total=1000, seconds=10)
    assert state(task) == "200/1,000 queries, 20/s, 0:40 left"


def test_one_slow_unit_is_enough_for_an_estimate() -> None:
    """1 of 121 after 60 s: 0.0167 a second; 120 more minutes are two hours."""
    assert state(task_after([1], total=121, seconds=60)) == "1/121 queries, 0.0167/s, 2:00:00 left"


def test_work_found_done_on_resuming_is_no_speed() -> None:
    """500 found at once, then 10 in each of 9 seconds: the 410 left take 41 s."""
    task = task_after([500] + [10] * 9, total=1000, seconds=10)
    assert state(task) == "590/1,000 queries, 10/s, 0:41 left"


def test_nothing_to_do_is_done() -> None:
    assert state(task_after([], total=0, seconds=0)).startswith("0/0 queries")


def test_a_log_gets_the_first_and_the_last_state(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines() as lines:
        lines.say("3 passages")
        with lines.task("Mine", 2, "queries") as done:
            done(1)
            done(1)
    captured = capsys.readouterr()
    assert captured.out == ""
    first, begun, ended = captured.err.splitlines()
    assert (first, begun) == ("3 passages", "Mine: 0/2 queries")
    assert ended.startswith("Mine: 2/2 queries, ")


def test_a_log_is_never_silent_for_long(capsys: pytest.CaptureFixture[str]) -> None:
    with Lines(silence=0.05) as lines:
        lines.say("Loading the model")
        time.sleep(0.3)
        with lines.task("Train", 10, "updates") as done:
            done(3)
            time.sleep(0.3)
    printed = capsys.readouterr().err
    assert "Loading the model (0:00 so far)" in printed
    assert len(re.findall(r"Train: 3/10 updates, .* left", printed)) >= 2


def test_a_failing_task_is_closed_and_the_error_passes(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with pytest.raises(KeyError), Lines(silence=0.05) as lines, lines.task("Mine", 2, "queries"):
        raise KeyError
    assert capsys.readouterr().err.count("Mine") == 2


def test_bars_show_label_counts_and_lines_said() -> None:
    output = io.StringIO()
    console = Console(file=output, force_terminal=True, width=100)
    with Bars(console) as bars:
        bars.say("3 [passages]")
        with bars.task("Mine", 2, "queries") as done:
            done(2)
    printed = output.getvalue()
    assert "3 [passages]" in printed
    assert "Mine" in printed
    assert "2/2 queries" in printed


def test_many_bars_do_not_hide_the_living_one() -> None:
    """Of 12 finished tasks the oldest two have become lines; 10 bars are left."""
    output = io.StringIO()
    with Bars(Console(file=output, force_terminal=True, width=100)) as bars:
        for number in range(12):
            with bars.task(f"Mine {number}", 1, "queries") as done:
                done(1)
        left = [task.description for task in bars._progress.tasks]
    assert left == [f"Mine {number}" for number in range(2, 12)]
    lines = re.findall(r"Mine \d+: 1/1 queries", output.getvalue())
    assert lines == ["Mine 0: 1/1 queries", "Mine 1: 1/1 queries"]


@pytest.mark.parametrize(("terminal", "kind"), [(True, Bars), (False, Lines)])
def test_stderr_decides(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, kind: type[object]
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("FORCE_COLOR", "1")  # colour in a log is no reason for moving bars
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    with on_stderr() as progress:
        assert isinstance(progress, kind)
