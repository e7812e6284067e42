"""How little is measured of speeds and costs in tests: they need a figure, not a good one."""

import importlib

TIMED = {"TIMED_QUERIES": 2, "TIMED_RERANKINGS": 1, "TIMED_PASSAGES": 16}
MEASURED: dict[str, dict[str, object]] = {
    "limbeck.limit": {"PROBE_SECONDS": 0.01},
    "limbeck.tasks.retrieval.systems": TIMED,
    "limbeck.tasks.retrieval.rehearsal": TIMED,  # which foretells what those will take
    "limbeck.tasks.retrieval.costs": {
        "PROBED_BATCHES": 2,
        "PROBED_TOKENS": 512,
        "PROBED_PAIRS": 16,
    },
}


def measure_roughly() -> None:
    """For the rest of this process."""
    for module, values in MEASURED.items():
        for name, value in values.items():
            assert hasattr(importlib.import_module(module), name)
            setattr(importlib.import_module(module), name, value)
