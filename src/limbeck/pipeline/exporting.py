"""How does a model leave for OpenVINO or onnxruntime, and is what arrives as good?

What was written is opened again and compared with the model before it takes its place. In int8 the
ranges of numbers are taken from texts of the user's own collection, and the result has to pass a
gate instead: the first measure on dev may fall by `MAX_LOST` of what the model reaches in the same
engine. Where it falls by more, the products that suffer most from int8 are left in floats, and it
is measured once more.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import numpy as np

from limbeck.config import RunConfig
from limbeck.data.collection import Collection
from limbeck.data.tokens import tokenize_here
from limbeck.errors import ConfigError, DataError, ModelError
from limbeck.inference import (
    LONGEST_EXPORTED,
    Engine,
    check_converted,
    check_same,
    choose_engine,
)
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.exported import (
    FORMATS,
    GRAPHS,
    Format,
    is_exported,
    load_exported,
    write_exported,
)
from limbeck.models.graph import (
    OUTPUT,
    narrowing_products,
    onnxruntime,
    to_int8,
    to_onnx,
    to_openvino,
)
from limbeck.pipeline.predicting import kind_of_model
from limbeck.record import FIRST_TASK
from limbeck.search import BM25
from limbeck.store import new_folder
from limbeck.tasks.task import TaskKind, kind_reading
from limbeck.teachers import load_teacher
from limbeck.training import Run
from limbeck.types import Logged, Progress

if TYPE_CHECKING:
    from numpy.typing import NDArray

MAX_LOST = 0.005  # of the first measure on dev, relative, before int8 is refused
CALIBRATION_TEXTS = 300  # as nncf's own default
_SAMPLES = ("a short text", "Texts of another length, one of them longer than the other.", "")


@dataclass(frozen=True, slots=True)
class Exported:
    """Result of an export: its folder, and for int8 the quality on dev beside the model's."""

    out: Path
    format: Format
    before: float | None = None
    after: float | None = None
    measure: str | None = None  # which one

    @property
    def lost(self) -> float | None:
        """The share of the measure that int8 lost; below 0 when it gained."""
        if self.before is None or self.after is None:
            return None
        return (self.before - self.after) / max(self.before, 1e-9)


def export(
    model: str,
    *,
    to: str,
    out: str | Path,
    data: str | None = None,
    precision: str = "auto",
    drop_unknown_judgements: bool = False,
    force: bool = False,
    progress: Progress | None = None,
) -> Exported:
    """Write a retriever or ranker as an OpenVINO or ONNX graph, pooling and normalisation inside.

    `to` is `openvino`, `openvino-int8` or `onnx`; int8 is calibrated on the texts of `data` and
    measured on its dev queries, in `precision` for what is not int8. `force` writes it although it
    loses too much.

    Raises:
        ConfigError, DataError, ModelError: for input that cannot be used, or int8 that loses too
            much.
        ScoreError: when the graph does not give what the model gives.
    """
    out, progress = Path(out), progress or Logged()
    if to not in FORMATS:
        raise ConfigError(f"There is no format {to!r}. Choose one of {', '.join(FORMATS)}.")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ConfigError(f"--out {out} is not empty. Name a new folder.")
    if to == "openvino-int8" and data is None:
        raise ConfigError("int8 is calibrated and measured on your own texts. Add --data DATA.")
    if is_exported(model):
        raise ConfigError(f"{model} is exported already. Name the model that it came from.")
    kind, _ = kind_of_model(model)
    if kind is not None and kind.name != FIRST_TASK:
        raise ConfigError(
            f"{model} is a model of {kind.name}; only encoders and rankers of {FIRST_TASK} are "
            "exported. Use it as it is, with `limbeck predict`."
        )
    if to == "onnx":
        onnxruntime()  # refused now when it is not there; the converters ask for themselves
    teacher = load_teacher(model)
    if len(teacher.leaves()) > 1:
        raise ModelError(f"{model} is an ensemble. Export one of its members.")
    own = next(iter(teacher.backend_models().values()), None)
    if own is None:
        raise ModelError(
            f"{model} is neither an encoder nor a ranker, which alone can be exported."
        )
    progress.say("Converting the model, and comparing it with what it came from")
    if to == "onnx" or to == "openvino":
        with new_folder(out, stage="export") as temporary:
            write_exported(own, to_onnx(own) if to == "onnx" else to_openvino(own), temporary, to)
            check_same(own, load_exported(temporary), _SAMPLES)
            (temporary / "README.md").write_text(_card(own, Exported(out, to)), encoding="utf-8")
        return Exported(out, to)
    config = RunConfig(str(data), drop_unknown_judgements=drop_unknown_judgements)
    kind = kind_reading(config.data)
    collection = kind.read(config)
    if not isinstance(collection, Collection):
        raise DataError(f"{collection.name} holds no passages and queries to calibrate int8 on.")
    if "dev" not in collection.qrels:
        raise DataError(
            f"{collection.name} has no dev split to measure int8 on. Add qrels/dev.tsv, or use "
            "--to openvino."
        )
    engine = choose_engine("openvino", precision)
    check_converted(own, replace(engine, max_batch_tokens=2 * LONGEST_EXPORTED))
    graph = to_openvino(own)
    calibration = _calibration(own, collection)
    for spared in ([], narrowing_products(graph)):
        but = " but for the feed-forward blocks' second products" if spared else ""
        progress.say(f"Quantising with {CALIBRATION_TEXTS} texts of {collection.name}{but}")
        small = to_int8(to_openvino(own), calibration, spared=spared)
        with TemporaryDirectory() as trial:
            write_exported(own, small, Path(trial), "openvino-int8")
            before, after = _on_dev(kind, collection, config, (model, trial), engine, progress)
        found = Exported(out, "openvino-int8", before, after, kind.measures.first.name)
        lost = found.lost or 0.0
        if lost <= MAX_LOST or force:
            break
    else:
        raise ModelError(
            f"In int8 {found.measure} on dev falls from {before:.4f} to {after:.4f} ({lost:.1%}, "
            f"at most {MAX_LOST:.1%} allowed); nothing was written. Use --to openvino, or "
            "--force."
        )
    with new_folder(out, stage="export") as temporary:
        write_exported(own, small, temporary, "openvino-int8")
        (temporary / "README.md").write_text(_card(own, found), encoding="utf-8")
    return found


def _calibration(
    model: Encoder | Ranker, collection: Collection
) -> list[dict[str, NDArray[np.int64]]]:
    """Inputs as the model will meet them, one text or pair each, spread over the collection.

    An encoder sees as many queries as passages; a ranker sees queries with what BM25 finds first.
    """
    queries = _spread(collection.queries.texts, CALIBRATION_TEXTS // 2)
    if isinstance(model, Encoder):
        passages = _spread(collection.passages.texts, CALIBRATION_TEXTS - len(queries))
        asked = tokenize_here(queries, model.tokenizer, prompt=model.prompt("query"))
        answers = tokenize_here(passages, model.tokenizer, prompt=model.prompt("passage"))
        items = [model.collator("query").singles([asked[at]]) for at in range(len(asked))]
        items += [model.collator("passage").singles([answers[at]]) for at in range(len(answers))]
    else:
        words = BM25.build(collection.passages.texts, language=collection.language)
        found, _ = words.search(queries, 2)
        texts = [collection.passages.texts[at] for at in found.clip(min=0).ravel()]
        asked = tokenize_here(queries, model.tokenizer)
        answers = tokenize_here(texts, model.tokenizer)
        items = [
            model.collator.pairs([asked[at // 2]], [answers[at]]) for at in range(len(answers))
        ]
    return [{name: value.numpy() for name, value in item.items()} for item in items]


def _spread(texts: Sequence[str], count: int) -> list[str]:
    """Some of the texts, evenly spread."""
    places = np.linspace(0, len(texts) - 1, min(count, len(texts)))
    return [texts[at] for at in np.unique(places.astype(np.int64))]


def _on_dev(
    kind: TaskKind,
    collection: Collection,
    config: RunConfig,
    models: tuple[str, str],
    engine: Engine,
    progress: Progress,
) -> tuple[float, float]:
    """Quality of a model and of its export on dev, both in OpenVINO."""
    figures = []
    with TemporaryDirectory() as scratch:
        for name, model in zip(("model", "int8"), models, strict=True):
            opened, system = kind.open_model(model, collection, config)
            task = opened.start(Run(Path(scratch), 0, engine, progress), None)
            measured = task.measure(name, system, "dev").per_query
            figures.append(task.measures.first.of(measured))
    return figures[0], figures[1]


def _card(model: Encoder | Ranker, found: Exported) -> str:
    """Model card: how to use the folder without Limbeck; no times, dates or paths."""
    if isinstance(model, Encoder):
        what, inputs, gives = "retriever", "[prompt + text for text in texts]", "vectors [n, D]"
        prompts = (
            f"Before queries comes the prompt {model.prompt('query')!r}, before passages "
            f"{model.prompt('passage')!r}. Vectors are compared by {model.similarity}.\n\n"
        )
        given = 'texts, prompt = ["a text", "another"], ""\n'
    else:
        what, inputs, gives, prompts = "ranker", "queries, passages", "raw scores [n]", ""
        given = 'queries, passages = ["a question"], ["a passage"]\n'
    quality = ""
    if found.after is not None:
        quality = (
            f"Its matrix products are in int8: {found.measure} on dev {found.after:.4f}, "
            f"{found.before:.4f} before.\n\n"
        )
    if found.format == "onnx":
        runtime, package = "onnxruntime", "onnxruntime"
        opened = (
            f'providers = ["CPUExecutionProvider"]\n'
            f'path = f"{{folder}}/{GRAPHS["onnxruntime"]}"\n'
            "model = onnxruntime.InferenceSession(path, providers=providers)\n"
        )
        run = f'[output] = model.run(["{OUTPUT}"], {{**tokens}})'
    else:
        runtime, package = "OpenVINO", "openvino"
        opened = (
            'hints = {"INFERENCE_PRECISION_HINT": "f32"}  # said, because the default may be bf16\n'
            f'path = f"{{folder}}/{GRAPHS["openvino"]}"\n'
            'model = openvino.compile_model(path, "CPU", hints)\n'
        )
        run = f'output = model({{**tokens}})["{OUTPUT}"]'
    return (
        f"# A {what} for {runtime}\n\n"
        "Exported by [Limbeck](https://pypi.org/project/limbeck/), pooling and normalisation "
        f"inside the graph.\n\n{quality}{prompts}"
        f"```python\nimport {package}\nfrom transformers import AutoTokenizer\n\n"
        'folder = "path/to/this/folder"\n'
        "tokenizer = AutoTokenizer.from_pretrained(folder)\n"
        f"{opened}{given}"
        f'tokens = tokenizer({inputs}, padding=True, truncation=True, return_tensors="np")\n'
        f"{run}  # {gives}\n```\n"
    )
