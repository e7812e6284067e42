import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator

import numpy as np
import pytest
import torch
from torch import Tensor

from limbeck.data.tokens import tokenize_here
from limbeck.errors import ConfigError
from limbeck.models import workers as module
from limbeck.models.encoder import Encoder
from limbeck.models.forward import forward
from limbeck.models.workers import Workers, close_workers, workers

pytestmark = pytest.mark.slow

TEXTS = ["list all users", "the moon and the sea " * 20, "cat", "red", "find a file", "one two"]


@pytest.fixture
def batches(tiny_encoder: Encoder) -> list[dict[str, Tensor]]:
    tokens = tokenize_here(TEXTS, tiny_encoder.tokenizer)
    return [tiny_encoder.collator("passage").singles([tokens[at]]) for at in range(len(TEXTS))]


@pytest.fixture(scope="module", autouse=True)
def _none_left() -> Iterator[None]:
    yield
    close_workers()


def processes(pool: Workers) -> list[int]:
    return [process.pid for process in pool._processes.values()]


def wait_for_end(pid: int) -> None:
    """Wait until a process is no more; whose child it is does not matter."""
    try:
        descriptor = os.pidfd_open(pid)
    except ProcessLookupError:
        return
    try:
        assert select.select([descriptor], [], [], 120)[0], f"process {pid} is still there"
    finally:
        os.close(descriptor)


def test_outputs_are_those_of_one_thread_in_order(
    tiny_encoder: Encoder, batches: list[dict[str, Tensor]]
) -> None:
    here = [
        forward(tiny_encoder, features, device="cpu", precision="bf16").tobytes()
        for features in batches
    ]
    tiny_encoder.train()  # a worker's copy has no dropout all the same
    with workers(3) as pool:
        pool.hold(tiny_encoder)
        assert [each.tobytes() for each in pool.run(batches, "bf16")] == here
        assert list(pool.run([], "bf16")) == []
    assert tiny_encoder.training


def test_workers_stay_and_take_the_next_model(
    tiny_encoder: Encoder, batches: list[dict[str, Tensor]]
) -> None:
    outputs = []
    pids = []
    for _ in range(2):
        with workers(2) as pool:
            pool.hold(tiny_encoder)
            outputs.append(np.concatenate(list(pool.run(batches, "fp32"))))
            pids.append(processes(pool))
        with torch.no_grad():
            for parameter in tiny_encoder.parameters():
                parameter.mul_(1.5)
    assert pids[0] == pids[1]
    assert not np.allclose(outputs[0], outputs[1], atol=1e-3)
    with workers(1) as pool:  # another number of them
        assert len(pool) == 1
    for pid in pids[0]:
        wait_for_end(pid)


def test_whoever_leaves_early_leaves_no_worker_behind(
    tiny_encoder: Encoder, batches: list[dict[str, Tensor]]
) -> None:
    def leave_after_one() -> Iterator[list[int]]:
        with workers(1) as pool:
            pool.hold(tiny_encoder)
            for _ in pool.run(batches, "fp32"):
                yield processes(pool)

    outputs = leave_after_one()
    [pid] = next(outputs)
    outputs.close()
    wait_for_end(pid)
    assert module._kept is None


def test_two_uses_at_a_time_do_not_meet() -> None:
    with workers(1) as outer:
        with workers(1) as inner:
            assert set(processes(inner)).isdisjoint(processes(outer))
        assert module._kept is inner
    assert module._kept is outer
    assert processes(inner) == []


def test_a_worker_that_is_killed_is_told_of(
    tiny_encoder: Encoder, batches: list[dict[str, Tensor]]
) -> None:
    def kill_one() -> None:
        with workers(1) as pool:
            pool.hold(tiny_encoder)
            outputs = pool.run(batches, "fp32")
            next(outputs)
            os.kill(processes(pool)[0], signal.SIGKILL)
            list(outputs)

    with pytest.raises(ConfigError, match=r"of --workers was killed by signal 9.* fewer --workers"):
        kill_one()
    with workers(1) as pool:
        pool.hold(tiny_encoder)
        assert len(list(pool.run(batches, "fp32"))) == len(batches)


def test_what_fails_in_a_worker_is_shown(tiny_encoder: Encoder) -> None:
    wrong = {"input_ids": torch.full((1, 3), 10**6)}

    def ask() -> None:
        with workers(1) as pool:
            pool.hold(tiny_encoder)
            list(pool.run([wrong], "fp32"))

    with pytest.raises(RuntimeError, match=r"A worker failed(.|\n)*Traceback"):
        ask()


BUSY = """
import torch
from toys import Sleeper
from limbeck.models.workers import workers

def batches(pool):
    for seconds in (0.0, 0.0, 3600.0):
        yield {"seconds": torch.tensor(seconds)}
    print(*(process.pid for process in pool._processes.values()), flush=True)
    yield {"seconds": torch.tensor(3600.0)}

with workers(2) as pool:
    pool.hold(Sleeper())
    list(pool.run(batches(pool), "fp32"))
"""


def test_workers_leave_with_the_process_that_is_killed() -> None:
    """In the middle of a batch: it would take an hour."""
    with subprocess.Popen(
        [sys.executable, "-c", BUSY],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        stdout=subprocess.PIPE,
    ) as parent:
        assert parent.stdout is not None
        pids = [int(word) for word in parent.stdout.readline().split()]
        parent.kill()
    assert len(pids) == 2
    for pid in pids:
        wait_for_end(pid)
