import json
from pathlib import Path

from .conftest import FakePipeline, Invoke


def test_every_option_reaches_the_pipeline(invoke: Invoke, pipeline: FakePipeline) -> None:
    result = invoke(
        *["evaluate", "model", "docs", "--split", "dev", "--out", "there", "--seed", "3"],
        *["--backend", "torch", "--precision", "bf16", "--workers", "2"],
        *["--drop-unknown-judgements", "--keep-own-passage"],
    )
    assert result.exit_code == 0, result.stderr
    assert pipeline.data == ("model", "docs")
    given = {key: value for key, value in pipeline.arguments.items() if key != "progress"}
    assert given == {
        "split": "dev",
        "out": Path("there"),
        "seed": 3,
        "backend": "torch",
        "precision": "bf16",
        "workers": 2,
        "drop_unknown_judgements": True,
        "keep_own_passage": True,
        "language": "auto",
        "image_size": None,
    }
    assert result.stdout.startswith("model    nDCG@10\n")


def test_json(invoke: Invoke, pipeline: FakePipeline) -> None:
    printed = json.loads(invoke("evaluate", "model", "docs", "--json").stdout)
    assert printed["rows"] == pipeline.result.rows
    assert printed["out"] == str(pipeline.result.out)


def test_json_without_a_folder(invoke: Invoke, pipeline: FakePipeline) -> None:
    pipeline.result.out = None
    assert json.loads(invoke("evaluate", "model", "docs", "--json").stdout)["out"] is None


def test_an_unknown_split_is_refused(invoke: Invoke, pipeline: FakePipeline) -> None:
    result = invoke("evaluate", "model", "docs", "--split", "validation")
    assert result.exit_code == 2
    assert pipeline.called is None
