"""Tiny models that every test may use: made from a config and a seed, never downloaded.

`tiny_encoder_folder`: a BERT `SentenceTransformer`, 4 layers, width 32, mean pooling, normalised.
`tiny_ranker_folder`: a BERT `CrossEncoder`, 3 layers, width 32, one label.
`tiny_other_folder`: another one, `larger`: 3 layers, width 48, a tokenizer of its own.
`tiny_encoder`, `tiny_ranker`: fresh copies of them as Limbeck loads them, which a test may change.
`tiny_sparse_folder`: a BERT `SparseEncoder` (SPLADE), 2 layers, width 32.
`tiny_late_folder`: a BERT `MultiVectorEncoder` (ColBERT), 2 layers, 16 numbers per token, queries
filled up to 12 tokens, punctuation of passages skipped.
`encoder_of`: an encoder of another architecture, 2 layers, width 32.
`tiny_writer_folder`: a T5 seq2seq model, 1 layer, width 16.
All others share one WordPiece tokenizer, which knows some words and every ASCII letter and digit.
"""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # before anything imports huggingface_hub
os.environ["TOKENIZERS_PARALLELISM"] = "false"

import copy
import string
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import torch

from roughly import measure_roughly

if TYPE_CHECKING:
    from limbeck.models.encoder import Encoder, Ranker


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files with slow tests come first, so that no process is left alone with one at the end."""
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


@pytest.fixture(scope="session", autouse=True)
def _without_waiting() -> Iterator[None]:
    """No test here pulls the plug, and a run flushes some three hundred files; and no test needs a
    good figure of what the machine can do, or of what a model costs to use, which runs measure.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("os.fsync", lambda handle: None)
        measure_roughly()
        yield


WORDS = """
the a an of to in is are and or not how what where which who why do does can with for from by on at
file files list print find copy remove sort count line lines name names size disk user users search
query passage cat dog bird fish sea sun moon star red green blue old new small large fast slow run
read write open close make show all each more less than one two three
"""


def tiny_tokenizer(words: list[str] | None = None) -> Any:
    from transformers import BertTokenizer

    characters = string.ascii_lowercase + string.digits
    vocabulary = [
        *["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"],
        *string.punctuation,
        *characters,
        *[f"##{character}" for character in characters],
        *[f"##{ending}" for ending in ("ing", "ed", "er", "ly")],
        *[word for word in words or WORDS.split() if len(word) > 1],
    ]
    return BertTokenizer(
        vocab={token: position for position, token in enumerate(vocabulary)}, model_max_length=64
    )


def bert_config(layers: int, **changes: Any) -> Any:
    from transformers import BertConfig

    settings: dict[str, Any] = {
        "vocab_size": len(tiny_tokenizer()),
        "hidden_size": 32,
        "num_hidden_layers": layers,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "max_position_embeddings": 64,
        "pad_token_id": 0,
        # ten times the usual spread, so that random layers and random texts differ visibly
        "initializer_range": 0.2,
    }
    return BertConfig(**(settings | changes))


@pytest.fixture(scope="session", autouse=True)
def _one_thread() -> None:
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def tiny_encoder_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Normalize,
        Pooling,
        Transformer,
    )
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("tiny-encoder")
    body = folder / "body"
    with torch.random.fork_rng():
        torch.manual_seed(1)
        BertModel(bert_config(4)).save_pretrained(body)
    tiny_tokenizer().save_pretrained(body)
    modules = [Transformer(str(body), max_seq_length=48), Pooling(32, "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="session")
def tiny_other_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import (
        Normalize,
        Pooling,
        Transformer,
    )
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("tiny-other")
    body, tokenizer = folder / "body", tiny_tokenizer(WORDS.split()[::2])
    config = bert_config(3, hidden_size=48, vocab_size=len(tokenizer))
    with torch.random.fork_rng():
        torch.manual_seed(5)
        BertModel(config).save_pretrained(body)
    tokenizer.save_pretrained(body)
    modules = [Transformer(str(body), max_seq_length=40), Pooling(48, "mean"), Normalize()]
    SentenceTransformer(modules=modules, device="cpu").save(str(folder / "larger"))
    return folder / "larger"


@pytest.fixture(scope="session")
def tiny_ranker_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sentence_transformers import CrossEncoder
    from transformers import BertForSequenceClassification

    folder = tmp_path_factory.mktemp("tiny-ranker")
    body = folder / "body"
    with torch.random.fork_rng():
        torch.manual_seed(2)
        BertForSequenceClassification(bert_config(3, num_labels=1)).save_pretrained(body)
    tiny_tokenizer().save_pretrained(body)
    CrossEncoder(str(body), device="cpu", max_length=64).save_pretrained(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="session")
def tiny_sparse_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sentence_transformers import SparseEncoder
    from sentence_transformers.sparse_encoder.modules import SpladePooling, Transformer
    from transformers import BertForMaskedLM

    folder = tmp_path_factory.mktemp("tiny-sparse")
    body = folder / "body"
    with torch.random.fork_rng():
        torch.manual_seed(3)
        BertForMaskedLM(bert_config(2)).save_pretrained(body)
    tiny_tokenizer().save_pretrained(body)
    reader = Transformer(str(body), transformer_task="fill-mask", max_seq_length=48)
    model = SparseEncoder(modules=[reader, SpladePooling("max")], device="cpu")
    model.save_pretrained(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="session")
def tiny_late_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from sentence_transformers import MultiVectorEncoder
    from sentence_transformers.base.modules import Dense, Normalize, Transformer
    from sentence_transformers.multi_vector_encoder.modules import MultiVectorMask
    from transformers import BertModel

    folder = tmp_path_factory.mktemp("tiny-late")
    body = folder / "body"
    with torch.random.fork_rng():
        torch.manual_seed(4)
        BertModel(bert_config(2)).save_pretrained(body)
        tiny_tokenizer().save_pretrained(body)
        tokens = "token_embeddings"
        modules = [
            Transformer(
                str(body),
                max_seq_length=48,
                query_expansion={"strategy": "fixed", "attend": False, "length": 12},
            ),
            Dense(32, 16, bias=False, activation_function=None, module_input_name=tokens),
            MultiVectorMask(skiplist_words=list(string.punctuation)),
            Normalize(module_input_name=tokens),
        ]
        prompts = {"query": "query ", "document": ""}
        model = MultiVectorEncoder(modules=modules, prompts=prompts, device="cpu")
    model.save_pretrained(str(folder / "model"))
    return folder / "model"


@pytest.fixture(scope="session")
def _encoder(tiny_encoder_folder: Path) -> "Encoder":
    from limbeck.models.loading import load_encoder

    return load_encoder(str(tiny_encoder_folder))


@pytest.fixture(scope="session")
def _ranker(tiny_ranker_folder: Path) -> "Ranker":
    from limbeck.models.loading import load_ranker

    return load_ranker(str(tiny_ranker_folder))


@pytest.fixture
def tiny_encoder(_encoder: "Encoder") -> "Encoder":
    return copy.deepcopy(_encoder)


@pytest.fixture
def tiny_ranker(_ranker: "Ranker") -> "Ranker":
    return copy.deepcopy(_ranker)


@pytest.fixture(scope="session")
def tiny_writer_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from transformers import T5Config, T5ForConditionalGeneration

    folder, tokenizer = tmp_path_factory.mktemp("writer"), tiny_tokenizer()
    torch.manual_seed(0)
    config = T5Config(
        vocab_size=len(tokenizer),
        d_model=16,
        d_kv=8,
        d_ff=16,
        num_layers=1,
        num_heads=2,
        pad_token_id=0,
        decoder_start_token_id=0,
        eos_token_id=3,
    )
    T5ForConditionalGeneration(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def encoder_of(
    architecture: str, folder: Path, *, pooling: str = "mean", side: str = "right", **more: Any
) -> "Encoder":
    """A tiny encoder of an architecture, with the tokenizer of the others; padded on a side."""
    from sentence_transformers import SentenceTransformer
    from sentence_transformers.sentence_transformer.modules import Normalize, Pooling, Transformer
    from transformers import AutoConfig, AutoModel

    from limbeck.models.encoder import Encoder

    names: dict[str, Any] = {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "intermediate_size": 64,
        "initializer_range": 0.2,
    }
    if architecture == "distilbert":
        names = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64, "initializer_range": 0.2}
    tokenizer = tiny_tokenizer()
    sizes = {"vocab_size": len(tokenizer), "max_position_embeddings": 64, "pad_token_id": 0}
    config = AutoConfig.for_model(architecture, **(sizes | names | more))
    with torch.random.fork_rng():
        torch.manual_seed(3)
        AutoModel.from_config(config).save_pretrained(folder / "body")
    tokenizer.model_input_names = ["input_ids", "attention_mask"]
    tokenizer.save_pretrained(folder / "body")
    modules = [
        Transformer(str(folder / "body"), max_seq_length=48),
        Pooling(32, pooling),
        Normalize(),
    ]
    encoder = Encoder(SentenceTransformer(modules=modules, device="cpu").eval())
    encoder.tokenizer.padding_side = side
    return encoder
