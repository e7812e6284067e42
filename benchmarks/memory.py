"""Does the number of queries cost memory beyond the result itself?

Mines by words, mines by vectors and searches by vectors at 1,000 and at 50,000 queries, each in a
fresh process, and compares the peaks of resident memory. The larger may exceed the smaller by 10 %
and the size of its output; the exit status is 0 when it stays within that.

    python benchmarks/memory.py
"""

from __future__ import annotations

import json
import platform
import resource
import subprocess
import sys
import tempfile
from dataclasses import fields
from pathlib import Path

FEW, MANY = 1_000, 50_000
PASSAGES, WIDTH, DEPTH, WORDS = 20_000, 384, 50, 5_000
ALLOWED = 1.10


def measure(kind: str, queries: int) -> None:
    """In the child process: make the inputs, do the work, print peak and sizes in bytes."""
    import numpy as np

    from limbeck.candidates import Candidates, mine_dense, mine_lexical
    from limbeck.data.collection import Collection, Texts
    from limbeck.search import search_dense

    random = np.random.default_rng(0)

    def texts(prefix: str, count: int, length: int) -> Texts:
        words = random.integers(0, WORDS, (count, length)).tolist()
        names = [f"{prefix}{i}" for i in range(count)]
        return Texts(names, [" ".join(f"w{word}" for word in row) for row in words])

    # Inputs are of one size in both runs: what differs is how many of the queries are asked.
    collection = Collection("random", texts("p", PASSAGES, 40), texts("q", MANY, 8), {})
    passage_vectors = random.standard_normal((PASSAGES, WIDTH), dtype=np.float32)
    query_vectors = random.standard_normal((MANY, WIDTH), dtype=np.float32)[:queries]
    asked = np.arange(queries, dtype=np.int32)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "mine"
        if kind == "search by vectors":
            arrays = list(search_dense(query_vectors, passage_vectors, DEPTH))
        else:
            mined = (
                mine_lexical(collection, asked, depth=DEPTH, folder=folder)
                if kind == "mine by words"
                else mine_dense(
                    collection,
                    asked,
                    query_vectors,
                    passage_vectors,
                    source="random",
                    depth=DEPTH,
                    folder=folder,
                )
            )
            arrays = [getattr(mined, field.name) for field in fields(Candidates)[1:]]
    print(json.dumps({"peak": peak_bytes(), "output": sum(array.nbytes for array in arrays)}))


def peak_bytes() -> int:
    """The peak of resident memory of this process (Linux counts in KiB, macOS in bytes)."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def main() -> int:
    print(f"{platform.machine()}, {platform.system()}, Python {platform.python_version()}")
    print(f"{PASSAGES:,} passages, {WIDTH} dimensions, depth {DEPTH}; MiB")
    print(f"{'':20}{FEW:>10,}{MANY:>10,}{'output':>10}{'ratio':>8}   ratio without output")
    fits = True
    for kind in ("mine by words", "mine by vectors", "search by vectors"):
        few, many = (
            json.loads(
                subprocess.run(
                    [sys.executable, __file__, kind, str(queries)],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout
            )
            for queries in (FEW, MANY)
        )
        net = (many["peak"] - many["output"]) / few["peak"]
        fits = fits and net < ALLOWED
        sizes = [few["peak"], many["peak"], many["output"]]
        print(
            f"{kind:20}"
            + "".join(f"{size / 2**20:10.0f}" for size in sizes)
            + f"{many['peak'] / few['peak']:8.2f}   {net:.3f}"
        )
    print("within" if fits else "NOT within", f"{ALLOWED - 1:.0%} and the size of the output")
    return 0 if fits else 1


if __name__ == "__main__":
    if len(sys.argv) == 3:
        measure(sys.argv[1], int(sys.argv[2]))
    else:
        sys.exit(main())
