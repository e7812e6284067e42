"""What is in the folder of an exported model, and how is it opened again?

    openvino_model.xml .bin     the graph: tokens in, vectors or scores out; or
    model.onnx                  the same for onnxruntime, with model.onnx.data when above 1.5 GB
    tokenizer.json ...          as transformers writes them
    limbeck.json                what kind of model it was, its prompts and lengths
    limbeck-manifest.json       the checksums of these files; older versions wrote none
    README.md                   how to use it without Limbeck

An exported model embeds or scores as the one it came from, but only in the runtime it was exported
for, and it cannot be trained. This module does not know how a graph was made, or whether it is any
good.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, Self, get_args

from pydantic import PositiveInt, model_validator
from torch import Tensor, nn

from limbeck.errors import ConfigError, ModelError
from limbeck.limit import Lengths
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.graph import onnx_session, openvino
from limbeck.models.quiet import quiet
from limbeck.models.whole import refuse_foreign_tokenizer
from limbeck.store import (
    Written,
    check_whole,
    checksums,
    digest,
    digest_file,
    files_below,
    read_json,
    read_manifest,
    write_json,
    write_manifest,
)

Format = Literal["openvino", "openvino-int8", "onnx"]
Runtime = Literal["openvino", "onnxruntime"]
FORMATS: tuple[Format, ...] = get_args(Format)
GRAPHS: dict[Runtime, str] = {"openvino": "openvino_model.xml", "onnxruntime": "model.onnx"}

_ABOUT = "limbeck.json"
_AGAIN = "Export the model again, or copy the whole folder again."


class _About(Written):
    """Contents of `limbeck.json`."""

    kind: Literal["SentenceTransformer", "CrossEncoder"]
    format: str
    max_length: PositiveInt
    prompts: dict[str, str]
    similarity: str | None
    dimension: int | None
    parameters: int

    @model_validator(mode="after")
    def _encodes(self) -> Self:
        if self.kind == "SentenceTransformer":
            if self.dimension is None or self.similarity is None:
                raise ValueError("an encoder has a dimension and a similarity")
            if missing := {"query", "document"} - set(self.prompts):
                raise ValueError(f"prompts: there is none for {min(missing)}")
        return self


def is_exported(path: str | Path) -> bool:
    """Whether a folder holds an exported model."""
    return (Path(path).expanduser() / _ABOUT).is_file()


def exported_class(path: str | Path) -> str:
    """The sentence-transformers class of the model that was exported into a folder.

    Raises:
        StoreError, ModelError: when the folder is damaged, or written by a later version.
    """
    kind: str = _about(Path(path).expanduser())["kind"]
    return kind


def runtime_of(path: str | Path) -> Runtime:
    """Runtime of the exported model in a folder.

    Raises:
        StoreError, ModelError: when the folder is damaged, or written by a later version.
    """
    folder = Path(path).expanduser()
    return _runtime(_about(folder)["format"], folder)


def write_exported(model: Encoder | Ranker, graph: Any, folder: Path, to: Format) -> None:
    """Write a model's graph, its tokenizer and its `limbeck.json` into an empty folder.

    `graph` is what `to_openvino`, `to_int8` or `to_onnx` gave.
    """
    if to == "onnx":
        graph.save(str(folder / GRAPHS["onnxruntime"]))
    else:
        # As converted: by default the weights would be written in 16 bits.
        openvino().save_model(graph, str(folder / GRAPHS["openvino"]), compress_to_fp16=False)
    model.save_tokenizer(folder)
    encodes = isinstance(model, Encoder)
    about = {
        "kind": "SentenceTransformer" if encodes else "CrossEncoder",
        "format": to,
        "max_length": model.max_length,
        "prompts": {"query": model.prompt("query"), "document": model.prompt("passage")}
        if isinstance(model, Encoder)
        else {},
        "similarity": model.similarity if isinstance(model, Encoder) else None,
        "dimension": model.dimension if isinstance(model, Encoder) else None,
        "parameters": model.parameter_count(),
    }
    write_json(folder / _ABOUT, about, stage="export")
    write_manifest(
        folder,
        checksums(folder, files_below(folder)),
        advice=_AGAIN,
        stage="export",
    )


def load_exported(path: str | Path) -> ExportedEncoder | ExportedRanker:
    """The model in a folder that `limbeck export` wrote.

    Raises:
        ConfigError: when its runtime's extra is not installed.
        StoreError, ModelError: when the folder is damaged.
    """
    folder = Path(path).expanduser()
    check_whole(folder, anew=True)
    about = _about(folder)
    graph = _Graph(folder, about)
    if about["kind"] == "SentenceTransformer":
        return ExportedEncoder(graph)
    return ExportedRanker(graph)


def _about(folder: Path) -> dict[str, Any]:
    """Read the `limbeck.json` of a folder.

    Raises:
        StoreError: when that is damaged.
    """
    return read_json(folder / _ABOUT, _About, advice=_AGAIN).model_dump()


class _Graph(nn.Module):
    """An exported folder, with the attributes of a wrapped model of sentence-transformers."""

    def __init__(self, folder: Path, about: dict[str, Any]) -> None:
        from transformers import AutoTokenizer

        super().__init__()
        self.runtime = _runtime(about["format"], folder)
        path = folder / GRAPHS[self.runtime]
        try:
            with quiet():
                self.tokenizer = AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
            refuse_foreign_tokenizer(self.tokenizer, folder, None)
            self.graph = (
                openvino().Core().read_model(str(path))
                if self.runtime == "openvino"
                else onnx_session(path)
            )
        except ConfigError:  # its runtime is not installed
            raise
        except ModelError as error:
            raise ModelError(f"{folder}: {error}") from error
        except Exception as error:  # the libraries raise many unrelated types for a damaged folder
            reason = str(error).strip().partition("\n")[0]
            raise ModelError(
                f"{folder} cannot be opened as an exported model ({type(error).__name__}: "
                f"{reason}). Export the model again."
            ) from error
        self.about = about
        self.prompts = about["prompts"]
        self.similarity_fn_name = about["similarity"]
        # openvino_model.xml and .bin, or model.onnx and, of large models, .onnx.data
        files = sorted(folder.glob(f"{path.stem}.*"))
        self.size_bytes = sum(file.stat().st_size for file in files if file.suffix != ".xml")
        found = read_manifest(folder)  # whose digests were just checked
        known = {} if found is None else {name: each.sha256 for name, each in found[1].items()}
        self.digest = digest([known.get(file.name) or digest_file(file) for file in files])

    def get_embedding_dimension(self) -> int:
        """Dimension of the vectors."""
        return int(self.about["dimension"])

    def forward(self, features: dict[str, Tensor]) -> dict[str, Tensor]:
        """A graph is not torch's to run."""
        raise _only(self.runtime)


class _Exported(nn.Module):
    """Base class of exported encoders and rankers."""

    model: _Graph

    def __init__(self, graph: _Graph) -> None:
        nn.Module.__init__(self)  # the class of the wrapped model would ask it for its parts
        self.model = graph
        self.max_length = int(graph.about["max_length"])

    def weights_digest(self) -> str:
        """The SHA-256 of the graph's files."""
        return self.model.digest

    def config_digest(self) -> str:
        """The SHA-256 of all that shapes a score besides the graph and the tokenizer."""
        return digest(self.model.about)

    def parameter_count(self) -> int:
        """Number of parameters before the model was exported."""
        return int(self.model.about["parameters"])

    def size_bytes(self) -> int:
        """Size of the weights in bytes."""
        return self.model.size_bytes

    def forward_flops(self, lengths: Lengths) -> float | None:
        """FLOPs are not known: a graph does not tell which transformer it came from."""
        return None


class ExportedEncoder(_Exported, Encoder):
    """An encoder whose vectors come from a graph."""

    @property
    def shorter_dimensions(self) -> Sequence[int]:
        """None: an export keeps nothing of the configuration that would tell."""
        return ()


class ExportedRanker(_Exported, Ranker):
    """A ranker whose scores come from a graph."""


def check_runs_in(model: Encoder | Ranker, backend: str) -> None:
    """Refuse an exported model in anything but its runtime.

    Raises:
        ModelError: naming what it runs in.
    """
    if isinstance(model, (ExportedEncoder, ExportedRanker)) and backend != model.model.runtime:
        raise _only(model.model.runtime)


def _only(runtime: Runtime) -> ModelError:
    """The error for anything but the runtime of an exported model."""
    return ModelError(
        f"An exported model runs in what it was exported for only, here {runtime}, and cannot be "
        f"trained. Use --backend {runtime}, or name the folder that it was exported from."
    )


def _runtime(written: str, folder: Path) -> Runtime:
    """Runtime of a format."""
    if written not in FORMATS:
        raise ModelError(
            f"{folder} was exported as {written!r}, which this version of Limbeck does not know "
            f"(it knows {', '.join(FORMATS)}). Export the model again."
        )
    return "onnxruntime" if written == "onnx" else "openvino"
