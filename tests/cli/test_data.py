import json
import sys
from types import SimpleNamespace

import pytest

from .conftest import Invoke


@pytest.fixture
def report(monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    report = SimpleNamespace(errors=[], lines=["3 passages"], to_json=lambda: {"passages": 3})
    fake = SimpleNamespace(check=lambda data: report)
    monkeypatch.setitem(sys.modules, "limbeck.data.check", fake)
    return report


def test_usable_data_exits_0(invoke: Invoke, report: SimpleNamespace) -> None:
    result = invoke("data", "check", "docs")
    assert (result.exit_code, result.stdout) == (0, "3 passages\n")
    assert json.loads(invoke("data", "check", "docs", "--json").stdout) == {"passages": 3}


def test_what_distill_refuses_exits_2(invoke: Invoke, report: SimpleNamespace) -> None:
    report.errors = ["corpus.jsonl:7: no `text`."]
    assert invoke("data", "check", "docs").exit_code == 2
    assert invoke("data", "check", "docs", "--json").exit_code == 2
