"""Which precision is taken, and that every way of computing runs; which is faster is not tested."""

from pathlib import Path

import pytest
import torch

from limbeck.models import probing


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        ("fpu avx512f avx512_bf16", ("fp32", "bf16")),
        ("fpu amx_bf16 amx_tile", ("fp32", "bf16")),
        ("fpu avx2 avx512f", ("fp32",)),
        ("", ("fp32",)),
    ],
)
def test_bf16_is_measured_where_the_processor_has_it(
    flags: str, expected: tuple[str, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("platform.system", lambda: "Linux")
    monkeypatch.setattr(Path, "read_text", lambda *_, **__: f"processor: 0\nflags\t: {flags}\n")
    assert probing.precisions("cpu") == expected
    monkeypatch.setattr("platform.system", lambda: "Plan 9")
    assert probing.precisions("cpu") == ("fp32",)


def test_each_precision_reads_and_trains(monkeypatch: pytest.MonkeyPatch) -> None:
    pytest.importorskip("openvino")
    monkeypatch.setattr(probing, "precisions", lambda device: ("fp32", "bf16"))
    monkeypatch.setattr(probing, "SIZES", {"cpu": (4, 8, 16)})
    monkeypatch.setattr(probing, "SECONDS", 0.0)
    random, threads = torch.random.get_rng_state(), torch.get_num_threads()
    for rates in (
        probing.reading_rates.__wrapped__("cpu", "torch"),
        probing.reading_rates.__wrapped__("cpu", "openvino"),
        probing.training_rates.__wrapped__("cpu"),
    ):
        assert set(rates) == {"fp32", "bf16"}
        assert min(rates.values()) > 0
    assert torch.get_num_threads() == threads
    assert torch.equal(torch.random.get_rng_state(), random)  # nothing was drawn
