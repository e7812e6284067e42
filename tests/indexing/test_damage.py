"""Whatever happens to a file of an index: it is refused with what to do, or gives what it gave."""

import json
import random
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from typer.testing import CliRunner, Result

from limbeck import indexing
from limbeck.cli import app
from limbeck.data.collection import Collection
from limbeck.errors import ConfigError, LimbeckError, StoreError
from limbeck.indexing import check, open_index
from limbeck.indexing.building import model_of
from limbeck.indexing.files import read_card
from limbeck.store import read_json, write_json

QUERIES = np.random.default_rng(0).standard_normal((3, 32)).astype(np.float32)
TRIALS = 120


@pytest.fixture(scope="module")
def changed(
    collection: Collection, tiny_encoder_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """An approximate index of two segments to which was added, and from which was deleted."""
    folder = tmp_path_factory.mktemp("changed") / "index"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("limbeck.indexing.building.SEGMENT", 40)
        build(folder, collection, tiny_encoder_folder, kind="hnsw")
    more = folder.parent / "more.jsonl"
    more.write_text('{"_id": "p3", "text": "moon star"}\n{"_id": "new", "text": "zebra"}\n')
    indexing.add(folder, more, precision="fp32")
    indexing.delete(folder, ["p7"])
    return folder


def build(folder: Path, collection: Collection, model: Path, **asked: Any) -> None:
    indexing.build(str(model), collection, folder, precision="fp32", **asked)


def made_older(index: Path, folder: Path) -> Path:
    """A copy of an index as earlier versions left it, without checksums."""
    shutil.copytree(index, folder)
    card = read_card(folder)
    del card["model"]["files"]
    for entry in (*card["segments"], card["deleted"], card["approximate"]):
        del entry["checksum"]
    write_json(folder / "index.json", card, stage="x")
    for path in folder.glob("*/segment.json"):
        about = read_json(path)
        sizes = {name: each["bytes"] for name, each in about.pop("files").items()}
        del about["lengths"]
        write_json(path, about | {"bytes": sizes}, stage="x")
    return folder


def flipped(content: bytes, draw: random.Random) -> bytes:
    found = bytearray(content)
    found[draw.randrange(len(found))] ^= 1 << draw.randrange(8)
    return bytes(found)


def zeroed(content: bytes, draw: random.Random) -> bytes:
    start = draw.randrange(len(content))
    size = min(len(content) - start, 128)
    return content[:start] + bytes(size) + content[start + size :]


def without_a_key(content: bytes, draw: random.Random) -> bytes:
    """JSON without one of its keys, at any depth; other content halved."""
    try:
        value = json.loads(content)
    except ValueError:
        return content[: len(content) // 2]
    places = [value] if isinstance(value, dict) else []
    for place in places:
        below = [*place.values(), *(each for v in place.values() if type(v) is list for each in v)]
        places += [each for each in below if isinstance(each, dict) and each]
    if not places:
        return b""
    place = draw.choice(places)
    del place[draw.choice(sorted(place))]
    return json.dumps(value).encode()


def another_shape(content: bytes, draw: random.Random) -> bytes:
    """The header of an array file with another number or type in it, JSON of another shape."""
    if not content.startswith(b"\x93NUMPY"):
        return draw.choice([b"[]", b"{}", b"null", b"7", b'"text"'])
    old, new = draw.choice([(b"<i8", b"<f8"), (b"<f4", b"|O "), (b"False", b"True "), (b"(", b" ")])
    return content.replace(old, new, 1) if old in content[:128] else content[:-8]


HARMS: list[Callable[[bytes, random.Random], bytes]] = [
    flipped,
    flipped,
    zeroed,
    without_a_key,
    another_shape,
    lambda content, draw: content[: draw.randrange(len(content))],
    lambda content, draw: b"",
]


def found_in(folder: Path) -> tuple[Any, ...]:
    index = open_index(folder)
    rows, scores = index.search(QUERIES, 5)
    return rows.tolist(), scores.tolist(), list(index.passages()), index.rows_of(["p9"])


def tried(look: Callable[[], Any]) -> tuple[Any, str]:
    """What was found, or with which words it was refused."""
    try:
        return look(), ""
    except LimbeckError as error:
        return None, str(error)


@pytest.mark.parametrize("older", [False, True])
def test_a_damaged_file_is_refused_with_what_to_do_or_changes_nothing_that_is_opened(
    changed: Path, tmp_path: Path, older: bool
) -> None:
    folder = made_older(changed, tmp_path / "index") if older else changed
    draw = random.Random(older)
    whole = found_in(folder)
    assert check(folder).faults == ()
    files = sorted(
        path
        for path in folder.rglob("*")
        if path.is_file() and not path.name.startswith(".") and path.parent.name != "model"
    )
    # faiss ends the process for some damage that no checksum tells of
    files = [path for path in files if not (older and path.suffix == ".faiss")]
    for trial in range(TRIALS):
        path = files[trial % len(files)]
        content = path.read_bytes()
        harmed = draw.choice(HARMS)(content, draw)
        if harmed == content:
            continue
        path.write_bytes(harmed)
        told = f"trial {trial}: {path.relative_to(folder)}"
        found, refused = tried(lambda: found_in(folder))
        if refused:
            assert "ut back a copy" in refused or "Repeat the" in refused, (told, refused)
        else:
            read_on_demand = path.suffix == ".jsonl" or path.name == "vectors.npy" or older
            assert found == whole or read_on_demand, told
        if not older:
            checked, refused = tried(lambda: check(folder))
            assert path.name == "index.json" if refused else checked.faults, told
        path.write_bytes(content)
    assert found_in(folder) == whole


def test_a_missing_file_is_named(changed: Path, tmp_path: Path) -> None:
    folder = Path(shutil.copytree(changed, tmp_path / "index"))
    for path in sorted(path for path in changed.rglob("*") if path.is_file()):
        if path.name == "index.json" or path.name.startswith("."):
            continue
        copy = folder / path.relative_to(changed)
        copy.unlink()
        assert [why for why in check(folder).faults if path.name in why], path
        in_the_model = "model" in path.relative_to(changed).parts
        with pytest.raises(StoreError, match=path.name):
            model_of(folder, read_card(folder)) if in_the_model else open_index(folder)
        shutil.copy2(path, copy)


def test_damage_of_the_same_size_is_noticed(folder: Path) -> None:
    """A zeroed vector, an exponent flipped in one, and rows below zero, which numpy counts from the
    end.
    """
    path = folder / "segment-000000" / "vectors.npy"
    content = path.read_bytes()
    vectors = np.load(path)

    def stored(row: int, place: int | slice, value: float) -> None:
        path.write_bytes(content)
        harmed = vectors.copy()
        harmed[row, place] = value
        np.save(path, harmed)

    stored(4, slice(None), 0)
    with pytest.raises(StoreError, match=r"row 4 of segment-000000/vectors.npy has length 0"):
        open_index(folder)
    stored(5, 2, 3e36)
    with pytest.raises(StoreError, match=r"row 5 of .* has length inf"):
        open_index(folder)
    path.write_bytes(content)
    indexing.delete(folder, ["p1", "p2"])
    np.save(folder / "deleted-000001.npy", np.array([-2, -1]))
    with pytest.raises(StoreError, match=r"SHA-256 of deleted-000001\.npy"):
        open_index(folder)
    card = read_card(folder)
    del card["deleted"]["checksum"]
    write_json(folder / "index.json", card, stage="x")
    with pytest.raises(StoreError, match="names rows that the index does not have"):
        open_index(folder)
    write_json(
        folder / "index.json", read_card(folder) | {"deleted": None, "digest": "0"}, stage="x"
    )
    with pytest.raises(StoreError, match=r"index\.json is not what was written"):
        open_index(folder)


def test_a_score_that_no_vector_can_have_is_refused_where_lengths_are_not_all_looked_at(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = folder / "segment-000000" / "vectors.npy"
    vectors = np.load(path)
    vectors[7, 3] = 3e36
    np.save(path, vectors)
    monkeypatch.setattr("limbeck.indexing.files.MEASURED_BYTES", 0)
    monkeypatch.setattr("limbeck.indexing.files.MEASURED_ROWS", 2)
    index = open_index(folder)
    with pytest.raises(StoreError, match=r"row 7 of segment-000000/vectors.npy scores .*e\+3"):
        index.search(np.eye(32, dtype=np.float32)[3:4], 3)
    vectors[7, 3] = np.nan
    np.save(path, vectors)
    with pytest.raises(StoreError, match=r"vectors\.npy holds numbers that are none"):
        open_index(folder).search(np.eye(32, dtype=np.float32)[3:4], 3)
    assert check(folder).faults == (
        "the SHA-256 of segment-000000/vectors.npy is not the recorded one",
    )


def test_what_is_advised_restores_the_index(
    changed: Path,
    collection: Collection,
    tiny_encoder_folder: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("limbeck.indexing.building.SEGMENT", 40)
    folder = Path(shutil.copytree(changed, tmp_path / "index"))
    whole = found_in(folder)
    # what can be made from the vectors, and the model: the same command, and nothing is lost
    card = read_card(folder)
    (folder / card["approximate"]["file"]).write_bytes(b"")
    (folder / "model" / "model.safetensors").write_bytes(b"")
    assert len(check(folder).faults) == len(check(folder).advice) == 2
    build(folder, collection, tiny_encoder_folder, kind="hnsw")
    assert check(folder).faults == ()
    assert found_in(folder)[2:] == whole[2:]
    # vectors: without index.json the same command keeps whole segments; changes are made again
    harmed = folder / "segment-000001" / "vectors.npy"
    content = harmed.read_bytes()
    harmed.write_bytes(content[:203] + bytes([content[203] ^ 64]) + content[204:])
    kept = (folder / "segment-000000" / "vectors.npy").stat().st_mtime_ns
    with pytest.raises(StoreError, match=r"delete its index\.json and repeat"):
        open_index(folder)
    (folder / "index.json").unlink()
    build(folder, collection, tiny_encoder_folder, kind="hnsw")
    assert (folder / "segment-000000" / "vectors.npy").stat().st_mtime_ns == kept
    assert harmed.read_bytes() == content
    indexing.add(folder, changed.parent / "more.jsonl", precision="fp32")
    indexing.delete(folder, ["p7"])
    assert check(folder).faults == ()
    assert found_in(folder)[2:] == whole[2:]


def test_an_index_of_an_older_version_is_opened_and_changed(changed: Path, tmp_path: Path) -> None:
    folder = made_older(changed, tmp_path / "index")
    checked = check(folder)
    assert checked.faults == ()
    assert checked.unrecorded[:2] == ("segment-000000", "segment-000001")
    indexing.delete(folder, ["p9"])
    assert "p9" not in [id_ for _, id_, _ in open_index(folder).passages()]
    assert check(folder).faults == ()


def test_the_command_says_what_is_damaged_and_what_restores_it(folder: Path) -> None:
    def invoke(*arguments: object) -> Result:
        return CliRunner().invoke(app, [str(argument) for argument in arguments])

    indexing.delete(folder, ["p3"])
    whole = invoke("index", "check", folder)
    assert (whole.exit_code, whole.stdout.splitlines()[1]) == (0, "Nothing is damaged.")
    (folder / "deleted-000001.npy").write_bytes(b"")
    for command in (["search", folder, "cat"], ["index", "delete", folder, "p4"]):
        answer = invoke(*command)
        assert answer.exit_code == 2
        assert "deleted-000001.npy has 0 bytes, 136 expected" in answer.stderr
        assert "Put back a copy of the folder" in answer.stderr
    told = invoke("index", "check", folder, "--json")
    assert told.exit_code == 2
    assert json.loads(told.stdout)["faults"] == [
        "deleted-000001.npy has 0 bytes, 136 expected",
    ]


def test_there_is_nothing_to_check_without_an_index(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="is no index"):
        check(tmp_path)
