import json
from pathlib import Path

from .conftest import FakePipeline, Invoke


def test_every_option_reaches_the_pipeline(invoke: Invoke, pipeline: FakePipeline) -> None:
    options = "--to openvino-int8 --out there --data docs --precision fp32 --force"
    result = invoke("export", "m", *options.split(), "--drop-unknown-judgements")
    assert result.exit_code == 0, result.stderr
    assert pipeline.data == ("m",)
    given = {key: value for key, value in pipeline.arguments.items() if key != "progress"}
    assert given == {
        "to": "openvino-int8",
        "out": Path("there"),
        "data": "docs",
        "precision": "fp32",
        "drop_unknown_judgements": True,
        "force": True,
    }
    assert result.stdout == ("nDCG@10 on dev: 0.5000 before, 0.4990 in int8\nExported: there\n")


def test_json(invoke: Invoke, pipeline: FakePipeline) -> None:
    result = invoke("export", "m", "--to", "openvino", "--out", "there", "--json")
    assert json.loads(result.stdout) == {
        "out": "there",
        "format": "openvino",
        "nDCG@10_before": 0.5,
        "nDCG@10_after": 0.499,
    }


def test_a_format_that_there_is_not(invoke: Invoke, pipeline: FakePipeline) -> None:
    result = invoke("export", "m", "--to", "morse", "--out", "there")
    assert result.exit_code == 2
    assert pipeline.called is None
