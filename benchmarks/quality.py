"""Which recipe makes the best student from one teacher, at equal updates?

What `limbeck bench` does, with results among those of the other benchmarks, and optionally with
models that read fewer tokens than they could.

    python benchmarks/quality.py DATA --work DIR --labels 500 --name nl2bash-500
    python benchmarks/quality.py DATA --work DIR --recipes ca_mkd --teacher a=PATH,b=PATH
"""

from __future__ import annotations

import sys
from typing import Any

from ledger import Bench, numbers, parser, write_results
from limbeck.bench import bench
from limbeck.cli.progress import on_stderr
from limbeck.errors import LimbeckError

RECIPES = "contrastive,embed,margin_mse,kl"


def main() -> int:
    asked = options()
    common = Bench.of(asked)
    with on_stderr() as progress:
        found = bench(
            common.data,
            out=common.work,
            recipes=asked.recipes.split(","),
            seeds=asked.seeds,
            teacher=asked.teacher.split(","),
            student=common.student,
            student_layers=common.student_layers,
            settings=common.settings,
            labels=common.labels,
            precision=common.precision,
            augment=asked.augment,
            jobs=asked.jobs,
            progress=progress,
        )
    name = asked.name or str(found.record["data"]["name"])
    write_results(asked.results, name, found.record, found.page)
    return 0


def options() -> Any:
    asked = parser(__doc__)
    asked.add_argument("--seeds", type=numbers, default=[0, 1, 2])
    asked.add_argument("--recipes", default=RECIPES)
    asked.add_argument("--augment", help="of images: none, crop or crop-flip")
    asked.add_argument("--jobs", type=int, default=1, help="arms at once, of one thread each")
    return asked.parse_args()


if __name__ == "__main__":
    try:
        sys.exit(main())
    except LimbeckError as error:
        sys.exit(str(error))
