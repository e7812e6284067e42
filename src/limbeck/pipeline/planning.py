"""How long would a run take, before it begins?

`plan` takes the options of `distill`, validates them in the same way, and estimates each part's
time, memory and disk from a probe of some seconds. It trains and keeps nothing.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from limbeck.config import RunConfig, takes_fields_of
from limbeck.errors import ConfigError
from limbeck.inference import choose_engine
from limbeck.pipeline.distilling import estimate_run, store_of
from limbeck.pipeline.plan_file import Plan, keep
from limbeck.pipeline.request import validate
from limbeck.record import open_folder, read_record
from limbeck.training import Run
from limbeck.types import Logged, Progress


@dataclass(frozen=True, kw_only=True)
class PlanCall(RunConfig):
    """The arguments of `plan`: the options of a run, and where the plan is kept."""

    out: str | Path | None = None
    progress: Progress | None = None


@takes_fields_of(PlanCall)
def plan(call: PlanCall) -> Plan:
    """Estimate the cost of `distill` with the same options on this machine.

    With `out`, the folder of a run that has not begun, the plan is kept there, and the run's notes
    and report will compare it with what the run took.

    Raises:
        ConfigError, DataError, ModelError: as `distill` would.
    """
    if call.out is not None:
        open_folder(Path(call.out))
        if read_record(Path(call.out)) is not None:
            raise ConfigError(f"--out {call.out} holds a run that has begun. Name a new folder.")
    request, progress = validate(call), call.progress or Logged()
    engine = choose_engine(
        call.backend,
        call.precision,
        characters=request.opened.size,
        workers=call.workers,
        models=request.opened.models,
        trains=True,
    )
    scores = store_of(call)
    for line in (*request.notes(request.opened.data), *engine.notes):
        progress.say(line)
    with TemporaryDirectory() as scratch:
        task = request.opened.start(Run(Path(scratch), call.seed, engine, progress), scores)
        _, found = estimate_run(request, task)
    if call.out is not None:
        keep(found, Path(call.out))
    return found
