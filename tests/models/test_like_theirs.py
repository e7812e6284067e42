"""What Limbeck reads is what `encode_query` and `encode_document` of sentence-transformers read.

One case or more for every part that the installed sentence-transformers has, for every key of its
configuration, and for every argument of `SentenceTransformer`: each gives their vectors or is
refused by name. The parts are looked up in the package: a new one fails here until it has a case.
"""

import importlib
import inspect
import json
import pkgutil
import string
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from conftest import tiny_tokenizer
from limbeck.data.tokens import tokenize_here
from limbeck.errors import ModelError
from limbeck.models.encoder import Encoder
from limbeck.models.layers import with_dimension
from limbeck.models.loading import load_encoder, load_late, load_ranker, load_sparse
from limbeck.types import Role

TEXTS = ["Find the OLD files", "cat", "", "The moon and the sea, 3 fish. " * 12]
ROLES: tuple[Role, Role] = ("query", "passage")
FAMILIES = ("base", "sentence_transformer", "sparse_encoder", "multi_vector_encoder")
FAMILIES += ("cross_encoder",)
# Parts that no folder of a text encoder can have.
LEFT_OUT = {"LambdaTokenPooling": "it cannot be saved", "CLIPModel": "it reads images, too"}
# Keys of a Transformer that it reads from its file but does not list.
UNLISTED = {"max_seq_length", "do_lower_case"}


@dataclass(frozen=True)
class Case:
    """A model's parts, what of the library they try out, and whether it is refused."""

    name: str
    parts: Callable[[Path], list[nn.Module]]
    tries: dict[str, str]  # part -> its keys, as words
    kind: str = "encoder"
    model: dict[str, Any] = field(default_factory=dict)  # arguments of the model's class
    edits: dict[str, dict[str, Any]] = field(default_factory=dict)  # file -> keys to change
    refused: str = ""


def transformer(body: Path, **settings: Any) -> nn.Module:
    from sentence_transformers.base.modules import Transformer

    return Transformer(str(body), **({"max_seq_length": 48} | settings))


def dense(width: int = 16, **settings: Any) -> nn.Module:
    from sentence_transformers.base.modules import Dense

    return Dense(32, width, **settings)


def pooling(mode: Any = "mean", width: int = 32, **settings: Any) -> nn.Module:
    from sentence_transformers.sentence_transformer.modules import Pooling

    return Pooling(width, mode, **settings)


def normalize(**settings: Any) -> nn.Module:
    from sentence_transformers.base.modules import Normalize

    return Normalize(**settings)


def another(name: str, *arguments: Any, **settings: Any) -> nn.Module:
    """A part that is found by its class's name."""
    return installed_parts()[name](*arguments, **settings)


def installed_parts() -> dict[str, Any]:
    """Every part of the installed sentence-transformers, by its class's name."""
    from sentence_transformers.base.modules import Module

    found = {}
    for family in FAMILIES:
        package = importlib.import_module(f"sentence_transformers.{family}.modules")
        for each in pkgutil.iter_modules(package.__path__):
            module = importlib.import_module(f"{package.__name__}.{each.name}")
            for value in vars(module).values():
                ours = inspect.isclass(value) and value.__module__ == module.__name__
                if ours and issubclass(value, Module) and not inspect.isabstract(value):
                    found[value.__name__] = value
    return found


def routed(body: Path) -> list[nn.Module]:
    from sentence_transformers.base.modules import Router

    return [
        transformer(body),
        pooling(),
        Router.for_query_document([dense()], [dense()], default_route="document"),
    ]


def layered(body: Path) -> list[nn.Module]:
    first = transformer(body, config_kwargs={"output_hidden_states": True})
    weights = nn.Parameter(torch.tensor([0.2, 0.3, 0.5, 1.0]))
    settings = {"num_hidden_layers": 4, "layer_start": 1, "layer_weights": weights}
    return [first, another("WeightedLayerPooling", 32, **settings), pooling()]


def weighted(body: Path) -> list[nn.Module]:
    words = list(tiny_tokenizer().get_vocab())
    part = another("WordWeights", words, {"cat": 5.0, "moon": 3.0}, unknown_word_weight=0.5)
    return [transformer(body), part, pooling()]


def late(body: Path, *more: nn.Module, mask: Any = None, **settings: Any) -> list[nn.Module]:
    tokens = "token_embeddings"
    return [
        transformer(body, **settings),
        dense(bias=False, module_input_name=tokens),
        mask or another("MultiVectorMask", list(string.punctuation)),
        normalize(module_input_name=tokens),
        *more,
    ]


def chain(*made: Callable[[], nn.Module], **settings: Any) -> Callable[[Path], list[nn.Module]]:
    return lambda body: [transformer(body, **settings), *(make() for make in made)]


TOKENS = {"module_input_name": "token_embeddings"}
POOLER = {
    "modality_config": {"text": {"method": "forward", "method_output_name": "pooler_output"}},
    "module_output_name": "sentence_embedding",
}
CHAT = {
    name: {"method": "forward", "method_output_name": "last_hidden_state"}
    for name in ("text", "message")
}
PLAIN = chain(pooling)
SETTINGS = "sentence_bert_config.json"


def setting(**changes: Any) -> dict[str, dict[str, Any]]:
    return {SETTINGS: changes}


EXPANSION = {"strategy": "fixed", "attend": False, "length": 12}

CASES = [
    # what an encoder has of each part
    *(
        Case(f"pooling-{mode}", chain(lambda mode=mode: pooling(mode)), {"Pooling": "pooling_mode"})
        for mode in ("cls", "max", "mean", "mean_sqrt_len_tokens", "weightedmean", "lasttoken")
    ),
    Case(
        "several-poolings",
        chain(lambda: pooling(("cls", "max"))),
        {"Pooling": "embedding_dimension pooling_mode include_prompt"},
    ),
    Case(
        "dense",
        chain(pooling, lambda: dense(activation_function=nn.Sigmoid(), use_residual=True)),
        {"Dense": "in_features out_features bias activation_function use_residual"},
    ),
    Case(
        "dense-of-tokens",
        chain(lambda: dense(bias=False, **TOKENS), lambda: pooling(width=16)),
        {"Dense": "bias module_input_name"},
    ),
    Case(
        "dense-beside",
        chain(pooling, lambda: dense(module_output_name="other")),
        {"Dense": "module_output_name"},
        refused="Dense writes to other",
    ),
    Case(
        "normalized-tokens",
        chain(lambda: normalize(**TOKENS), pooling, normalize),
        {"Normalize": "module_input_name module_output_name"},
    ),
    Case(
        "layers",
        layered,
        {"WeightedLayerPooling": "embedding_dimension layer_start num_hidden_layers"},
    ),
    Case("words", weighted, {"WordWeights": "vocab word_weights unknown_word_weight"}),
    Case("dropout", chain(pooling, lambda: another("Dropout", 0.5)), {"Dropout": "dropout"}),
    Case("norm", chain(pooling, lambda: another("LayerNorm", 32)), {"LayerNorm": "dimension"}),
    Case(
        "convolution",
        chain(lambda: another("CNN", 32, 8, [1, 3], [1, 1]), lambda: pooling(width=16)),
        {"CNN": "in_embedding_dimension out_channels kernel_sizes stride_sizes"},
    ),
    Case("pooler", chain(**POOLER), {"Transformer": "modality_config module_output_name"}),
    Case("unpadded", chain(pooling, unpad_inputs=True), {"Transformer": "unpad_inputs"}),
    Case(
        "short", PLAIN, {"Transformer": "max_seq_length"}, edits={SETTINGS: {"max_seq_length": 7}}
    ),
    Case(
        "lower", PLAIN, {"Transformer": "do_lower_case"}, edits={SETTINGS: {"do_lower_case": True}}
    ),
    # what a SentenceTransformer says
    Case("cut", chain(pooling, normalize), {}, model={"truncate_dim": 8}),
    Case("cut-to-more", chain(pooling, normalize), {}, model={"truncate_dim": 800}),
    Case("dot", PLAIN, {}, model={"similarity_fn_name": "dot"}),
    Case("far", PLAIN, {}, model={"similarity_fn_name": "euclidean"}, refused="by euclidean"),
    Case(
        "prompts",
        PLAIN,
        {},
        model={
            "prompts": {"query": "query: ", "document": "passage: "},
            "default_prompt_name": "query",
        },
    ),
    # what an encoder must not have
    Case(
        "silent-prompts",
        chain(lambda: pooling(include_prompt=False)),
        {"Pooling": "include_prompt"},
        model={"prompts": {"query": "query: "}},
        refused="leaves its prompts out",
    ),
    Case(
        "routes",
        routed,
        {"Router": "default_route allow_empty_key route_mappings"},
        refused="a part Router",
    ),
    Case(
        "routes-at-once",
        lambda body: [another("Router", {"query": PLAIN(body), "document": PLAIN(body)})],
        {"Router": "route_mappings"},
        refused="first module is a Router",
    ),
    Case(
        "another-task",
        PLAIN,
        {"Transformer": "transformer_task"},
        edits=setting(transformer_task="fill-mask"),
        refused="",
    ),
    Case(
        "processing",
        chain(pooling, processing_kwargs={"text": {"max_length": 5}}),
        {"Transformer": "processing_kwargs"},
        refused=r"sets processing_kwargs\.text",
    ),
    *(
        Case(name, chain(pooling, **{name: 5}), {"Transformer": name}, refused=f"sets {name}")
        for name in ("query_length", "document_length")
    ),
    Case(
        "expansion",
        chain(pooling, query_expansion=EXPANSION),
        {"Transformer": "query_expansion"},
        refused="sets query_expansion",
    ),
    Case(
        "chat",
        PLAIN,
        {"Transformer": "modality_config"},
        edits=setting(modality_config=CHAT),
        refused="a chat template",
    ),
    Case(
        "recurrent",
        chain(lambda: another("LSTM", 32, 8), lambda: pooling(width=16)),
        {"LSTM": "embedding_dimension hidden_dim num_layers dropout bidirectional"},
        refused="a part LSTM",
    ),
    Case(
        "logits",
        chain(pooling, lambda: another("LogitScore", 1, 0)),
        {"LogitScore": "true_token_id false_token_id module_input_name"},
        refused="a part LogitScore",
    ),
    Case(
        "bag",
        lambda body: [another("BoW", ["cat", "moon"], {"cat": 2.0})],
        {"BoW": "vocab word_weights unknown_word_weight cumulative_term_frequency"},
        refused="first module is a BoW",
    ),
    Case(
        "static",
        lambda body: [another("StaticEmbedding", tiny_tokenizer(), embedding_dim=8)],
        {"StaticEmbedding": ""},
        refused="first module is a StaticEmbedding",
    ),
    Case(
        "vectors-of-words",
        lambda body: [
            another("WordEmbeddings", tiny_tokenizer(), np.ones((len(tiny_tokenizer()), 8))),
            pooling(width=8),
        ],
        {"WordEmbeddings": "tokenizer_class update_embeddings max_seq_length"},
        refused="first module is a WordEmbeddings",
    ),
    # late-interaction models
    Case(
        "late",
        lambda body: late(
            body, query_length=20, document_length=30, query_expansion=EXPANSION | {"length": 20}
        ),
        {"Transformer": "query_length document_length query_expansion", "MultiVectorMask": ""},
        kind="late",
    ),
    Case(
        "late-masks",
        lambda body: late(
            body,
            mask=another(
                "MultiVectorMask",
                ["the"],
                skiplist_tasks=["query", "document"],
                keep_only_token_ids=list(range(2, 200)),
            ),
        ),
        {"MultiVectorMask": "skiplist_words skiplist_tasks keep_only_token_ids"},
        kind="late",
    ),
    Case(
        "late-pooled",
        lambda body: late(
            body,
            another(
                "HierarchicalTokenPooling",
                2.0,
                num_protected_tokens=2,
                normalize_embeddings=False,
                tasks=["query", "document"],
            ),
        ),
        {"HierarchicalTokenPooling": "pool_factor num_protected_tokens normalize_embeddings tasks"},
        kind="late",
    ),
    # sparse encoders
    Case(
        "sparse",
        lambda body: [
            transformer(body, transformer_task="fill-mask"),
            another("SpladePooling", "sum", activation_function="log1p_relu"),
        ],
        {
            "SpladePooling": "pooling_strategy activation_function embedding_dimension",
            "Transformer": "transformer_task",
        },
        kind="sparse",
        model={"max_active_dims": 9},
    ),
    Case(
        "sparse-of-old",
        lambda body: [another("MLMTransformer", str(body)), another("SpladePooling")],
        {
            "MLMTransformer": "transformer_task modality_config module_output_name "
            "processing_kwargs unpad_inputs query_length document_length query_expansion"
        },
        kind="sparse",
    ),
    Case(
        "codes",
        lambda body: [
            transformer(body.parent / "dense"),
            pooling(),
            another("SparseAutoEncoder", 32, 64, k=6, k_aux=8, normalize=True, dead_threshold=3),
        ],
        {"SparseAutoEncoder": "input_dim hidden_dim k k_aux normalize dead_threshold"},
        kind="sparse",
    ),
    Case(
        "static-codes",
        lambda body: [another("SparseStaticEmbedding", tiny_tokenizer(), frozen=True)],
        {"SparseStaticEmbedding": "frozen"},
        kind="sparse",
        refused="first module is a SparseStaticEmbedding",
    ),
]


def test_every_part_and_key_of_the_installed_library_has_a_case() -> None:
    tried: dict[str, set[str]] = {}
    for case in CASES:
        for part, keys in case.tries.items():
            tried.setdefault(part, set()).update(keys.split())
    there = {
        name: set(part.config_keys) | (UNLISTED if name == "Transformer" else set())
        for name, part in installed_parts().items()
        if name not in {"InputModule", "Module", *LEFT_OUT}
    }
    assert tried == there
    pooling_modes = {case.name for case in CASES if case.name.startswith("pooling-")}
    assert pooling_modes == {f"pooling-{mode}" for mode in type(pooling()).POOLING_MODES}


def test_every_argument_of_their_class_that_shapes_a_vector_has_a_case() -> None:
    from sentence_transformers import SentenceTransformer

    shaping = {name for case in CASES if case.kind == "encoder" for name in case.model}
    where_from = {"model_name_or_path", "modules", "device", "cache_folder", "revision", "token"}
    where_from |= {"trust_remote_code", "local_files_only", "use_auth_token", "model_card_data"}
    how = {"self", "model_kwargs", "processor_kwargs", "config_kwargs", "backend"}
    signature = set(inspect.signature(SentenceTransformer.__init__).parameters)
    assert signature | {"self"} == shaping | where_from | how
    written = set(SentenceTransformer(modules=[pooling()], device="cpu")._get_model_config())
    assert written <= shaping | {"model_type", "__version__"}


@pytest.fixture(scope="session")
def bodies(
    tmp_path_factory: pytest.TempPathFactory,
    tiny_encoder_folder: Path,
    tiny_sparse_folder: Path,
    tiny_late_folder: Path,
) -> dict[str, Path]:
    """A bare transformer for each kind; beside that of sparse encoders stands an encoder's."""
    sparse = tiny_sparse_folder.parent / "body"
    beside = sparse.parent / "dense"
    if not beside.exists():
        beside.symlink_to(tiny_encoder_folder.parent / "body")
    return {
        "encoder": tiny_encoder_folder.parent / "body",
        "sparse": sparse,
        "late": tiny_late_folder.parent / "body",
    }


def saved(case: Case, body: Path, folder: Path) -> None:
    """A folder of sentence-transformers with the case's parts."""
    import sentence_transformers

    classes = {"encoder": "SentenceTransformer", "sparse": "SparseEncoder"}
    cls = getattr(sentence_transformers, classes.get(case.kind, "MultiVectorEncoder"))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        model = cls(modules=case.parts(body), device="cpu", **case.model)
    model.save_pretrained(str(folder), create_model_card=False)
    for name, changes in case.edits.items():
        value = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(value | changes))


def vectors(encoder: Encoder, role: Role) -> np.ndarray:
    tokens = tokenize_here(TEXTS, encoder.tokenizer, prompt=encoder.prompt(role))
    features = encoder.collator(role).singles([tokens[at] for at in range(len(TEXTS))])
    with torch.inference_mode():
        found: np.ndarray = encoder.eval()(features).numpy()
    return found


@pytest.mark.filterwarnings("ignore")  # of the library, about its older parts
@pytest.mark.parametrize("case", CASES, ids=lambda case: str(case.name))
def test_what_is_read_is_what_they_read_or_refused(
    case: Case, bodies: dict[str, Path], tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    saved(case, bodies[case.kind], folder)
    load: Any = {"encoder": load_encoder, "sparse": load_sparse, "late": load_late}[case.kind]
    if case.refused or case.name == "another-task":
        with pytest.raises(ModelError, match=case.refused) as caught:
            load(folder)
        assert str(folder) in str(caught.value)
        return
    ours = load(folder)
    theirs = type(ours.model)(str(folder), device="cpu")
    for role in ROLES:
        encode = theirs.encode_query if role == "query" else theirs.encode_document
        expected = encode(TEXTS, batch_size=len(TEXTS))
        if case.kind == "encoder":
            found = vectors(ours, role)
            assert found.shape == expected.shape == (len(TEXTS), ours.dimension)
            np.testing.assert_allclose(found, expected, atol=1e-5)
        elif case.kind == "late":
            for (rows,), wanted in zip(ours.read(TEXTS, role), expected, strict=True):
                torch.testing.assert_close(rows, torch.as_tensor(wanted), rtol=1e-5, atol=1e-5)
        else:
            for (at, rows), wanted in zip(ours.read(TEXTS, role), expected, strict=True):
                dense_row = torch.zeros(wanted.shape[-1]).index_put((at,), rows)
                torch.testing.assert_close(
                    dense_row, wanted.to_dense().float(), atol=1e-5, rtol=1e-5
                )


@pytest.mark.slow
def test_a_cut_is_kept_exported_and_part_of_the_digest(
    bodies: dict[str, Path], tmp_path: Path
) -> None:
    from sentence_transformers import SentenceTransformer

    case = next(case for case in CASES if case.name == "cut")
    saved(case, bodies["encoder"], tmp_path / "model")
    encoder = load_encoder(tmp_path / "model")
    encoder.save(tmp_path / "again", card="", stage="test")
    again = SentenceTransformer(str(tmp_path / "again"), device="cpu")
    assert again.encode_query(["cat"]).shape == (1, 8)
    assert load_encoder(tmp_path / "again").config_digest() == encoder.config_digest()
    wider = encoder.frozen()
    wider.model.truncate_dim = None
    assert wider.config_digest() != encoder.config_digest()
    # a student's own dimension takes the place of the cut
    assert vectors(with_dimension(encoder, 12, seed=0), "query").shape == (len(TEXTS), 12)
    pytest.importorskip("openvino")
    from limbeck.models.graph import to_openvino

    assert to_openvino(encoder).output(0).partial_shape[1].get_length() == 8


def test_a_ranker_whose_texts_are_read_otherwise_is_refused(
    tiny_ranker_folder: Path, tmp_path: Path
) -> None:
    import shutil

    folder = Path(shutil.copytree(tiny_ranker_folder, tmp_path / "model"))
    value = json.loads((folder / SETTINGS).read_text())
    value["processing_kwargs"] = {"text": {"max_length": 5}}
    (folder / SETTINGS).write_text(json.dumps(value))
    with pytest.raises(ModelError, match=r"ranker sets processing_kwargs\.text"):
        load_ranker(folder)
