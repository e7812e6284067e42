"""Which queries were made for a corpus that came without, and where does a run keep them?

Made from words, they are there as soon as the corpus is read, and the run keeps a copy to look at;
a model takes its time, so its queries are a stage that is resumed. This module makes none itself.
"""

from __future__ import annotations

from pathlib import Path

from limbeck.data.collection import DATA_SEED, Collection
from limbeck.data.made_queries import drawn, queries_of_words
from limbeck.data.reading import complete
from limbeck.generation import Writer, write_queries
from limbeck.training import Run

FOLDER = "stages/made-queries"


def with_kept_queries(
    read: Collection, data: Collection, writer: Writer | None, run: Run, *, labels: int | None
) -> Collection:
    """The data with the queries that a model wrote; made ones are kept in the run's folder.

    `read` is the collection as it was given. One that came with queries is left as it is.
    """
    if not data.synthetic:
        return data
    folder = run.folder / FOLDER
    if writer is None:
        if run.group.rank == 0:
            stage = run.stage(Path(FOLDER).name, {"passages": data.digest})
            if not stage.complete:
                made = queries_of_words(read.passages, DATA_SEED, read.language)
                made.write(folder / "queries.parquet", stage="queries")
                stage.finish(queries=len(made.frame))
        return data
    made = run.first(
        lambda: write_queries(
            writer,
            read.passages,
            drawn(read.passages, DATA_SEED),
            seed=DATA_SEED,
            folder=folder,
            device=run.engine.device,
            progress=run.progress,
        )
    )
    return complete(read, labels=labels, made=made)
