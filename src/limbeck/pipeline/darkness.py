"""Would dark examples help a student of this teacher?

They do where the teacher puts them between right and wrong. `show_dark` asks it about some, and
draws where they are. How they are made is the task's business.
"""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Literal

from limbeck.config import RunConfig
from limbeck.errors import ConfigError
from limbeck.inference import choose_engine
from limbeck.pipeline.distilling import store_of
from limbeck.report.dark import dark_page
from limbeck.store import new_file
from limbeck.tasks.task import kind_reading
from limbeck.training import Run
from limbeck.types import Logged, Progress


def show_dark(
    data: str | Path,
    teacher: str,
    *,
    out: str | Path | None = None,
    seed: int = 0,
    store: str | Path | None = None,
    backend: Literal["auto", "torch", "openvino", "onnxruntime"] = "auto",
    precision: Literal["auto", "fp32", "bf16"] = "auto",
    workers: int | None = None,
    language: str = "auto",
    drop_unknown_judgements: bool = False,
    progress: Progress | None = None,
) -> Any:
    """Where a teacher puts dark examples of some training queries: its scores by role, in words and
    with a warning where they are out of order; `out` is a page with their histogram.

    Raises:
        ConfigError, DataError, ModelError: for input that cannot be used, before any work.
    """
    progress = progress or Logged()
    if out is not None and Path(out).suffix != ".html":
        raise ConfigError(f"--out {out} is to be a page. Name a file that ends in .html.")
    config = RunConfig(
        str(data),
        seed=seed,
        store=store,
        backend=backend,
        precision=precision,
        workers=workers,
        language=language,
        drop_unknown_judgements=drop_unknown_judgements,
    )
    kind = kind_reading(data)
    opened, asked = kind.open_model(teacher, kind.read(config), config)
    engine = choose_engine(
        backend, precision, characters=opened.size, workers=workers, models=opened.models
    )
    with TemporaryDirectory() as temporary:
        task = opened.start(Run(Path(temporary), seed, engine, progress), store_of(config))
        found = kind.place_dark(task, asked, seed)
    if out is not None:
        page = dark_page(
            opened.data.name, teacher, found.scores, words=found.lines(), warning=found.warning
        )
        with new_file(Path(out), stage="dark") as file:
            file.write_text(page, encoding="utf-8")
    return found
