"""What has already been done, and is it whole?

Every artefact is a readable file or folder, written beside its place, flushed to disk and renamed
into it, so a kill at any moment leaves either the old state or the new one. Folders of a stage
carry a digest of the stage's inputs and, once finished, the size and SHA-256 of every file;
reading checks them.

Folders that stay behind when the work is over, such as a run or an export, have the checksums of
their files in a manifest, which is written last. Checking is cheap: a file that has not moved since
it was last found right is not read again. What was seen of it is kept in a file of its own beside
the manifest, which may be deleted, and is no part of what the folder holds.

`LIMBECK_KILL_AT=stage:n` in the environment sends SIGKILL at the n-th durable write of a kind of
stage (`mine`, `score`, `train`: what comes before the first dash of its name), before the rename:
the hardest moment there is. Tests of resuming use it.

This module knows no model, no collection and no method.
"""

from __future__ import annotations

import errno
import fcntl
import hashlib
import json
import os
import re
import resource
import shutil
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar, cast, overload

import polars as pl
import safetensors
import safetensors.torch
import torch
from pydantic import BaseModel, ConfigDict, TypeAdapter, ValidationError

from limbeck.errors import StoreError

LEFT = (".tmp-", ".old-")  # how names begin of what a killed writer left behind
ABANDONED = 24 * 3600  # seconds without a write, after which such a file or folder has no writer
MANIFEST = "limbeck-manifest.json"  # the checksums of a folder's files
SEEN = ".limbeck-seen.json"  # which were found right, and what the file system said of them then
AGAIN = "Delete it and run the same command again."

_MOST_ABOVE = 3  # RUN/teacher/member-0/model.safetensors
_SETTLED_NS = 2_000_000_000  # a younger file may change again within a tick of its clock

T = TypeVar("T")

_seen_here: dict[Path, dict[str, _Sight]] = {}  # by this process, by folder
_writes: Counter[str] = Counter()
_MAXRSS_BYTES = 1 if sys.platform == "darwin" else 1024  # the unit of ru_maxrss


def digest(value: object) -> str:
    """The SHA-256 (hex) of a JSON-able value, the same for equal values whatever their key order.

    Example:
        >>> digest({"a": 1, "b": 2}) == digest({"b": 2, "a": 1})
        True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), ensure_ascii=False)
    return hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def digest_file(path: Path) -> str:
    """The SHA-256 (hex) of a file's bytes."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest_folder(path: Path) -> str:
    """The SHA-256 (hex) of every file below a folder and its relative name."""
    files = sorted(file for file in path.rglob("*") if file.is_file() and file.name != SEEN)
    return digest({str(file.relative_to(path)): digest_file(file) for file in files})


def digest_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """The SHA-256 (hex) of named tensors: names, types, shapes and bytes."""
    hasher = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        hasher.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}\n".encode())
        hasher.update(
            tensor.view(-1).view(torch.uint8).numpy().tobytes() if tensor.numel() else b""
        )
    return hasher.hexdigest()


@contextmanager
def new_file(path: Path, *, stage: str) -> Iterator[Path]:
    """A temporary path to write to; on leaving it is flushed and renamed to `path`.

    Raises:
        StoreError: when the file system refuses (full disk, read-only); what was there stays.
    """
    temporary = path.parent / f".tmp-{os.getpid()}-{path.name}"
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        _flush(temporary)
        _count_write(stage)
        temporary.replace(path)
        _flush(path.parent)
    except (OSError, safetensors.SafetensorError) as error:
        _remove_file(temporary)
        raise _unwritable(path, error) from error
    except BaseException:
        _remove_file(temporary)
        raise


@contextmanager
def new_folder(path: Path, *, stage: str) -> Iterator[Path]:
    """A temporary folder to fill; on leaving it is flushed, file by file, and renamed to `path`.

    A folder already at `path` is replaced; a kill between the two renames that this takes leaves
    the old one beside it, in a name that begins with `.old-`, and the same command makes it anew.
    What was left by a writer of `path` that was killed a day ago or more is deleted first.

    Raises:
        StoreError: when the file system refuses; what was there before stays.
    """
    temporary = path.parent / f".tmp-{os.getpid()}-{path.name}"
    old = path.parent / f".old-{os.getpid()}-{path.name}"
    try:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
        clear_abandoned(path.parent, path.name)
        yield temporary
        for found in sorted(temporary.rglob("*")):
            _flush(found)
        _flush(temporary)
        _count_write(stage)
        if path.exists():
            path.replace(old)
        temporary.replace(path)
        _flush(path.parent)
        shutil.rmtree(old, ignore_errors=True)
    except (OSError, safetensors.SafetensorError) as error:
        shutil.rmtree(temporary, ignore_errors=True)
        raise _unwritable(path, error) from error
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise


@contextmanager
def lock_folder(folder: Path) -> Iterator[None]:
    """Lock a folder for this process, and delete the remains of a killed one.

    The kernel holds the lock and releases it when the process ends, however it ends.

    Raises:
        StoreError: when another process is working there.
    """
    handle = os.open(folder, os.O_RDONLY)
    try:
        for pause in (0.01, 0.05, 0.1, None):  # `is_locked` may have it for a moment
            if _locked(handle):
                break
            if pause is None:
                raise StoreError(
                    f"Another process is working in {folder}. Wait for it, or choose another."
                )
            time.sleep(pause)
        for left in [path for prefix in LEFT for path in folder.rglob(f"{prefix}*")]:
            _remove(left)
        yield
    finally:
        os.close(handle)


def is_locked(folder: Path) -> bool:
    """Whether another process keeps a folder by `lock_folder`."""
    try:
        handle = os.open(folder, os.O_RDONLY)
    except OSError:
        return False
    try:
        return not _locked(handle)  # else let go at once
    finally:
        os.close(handle)


def clear_abandoned(folder: Path, name: str | None = None) -> None:
    """Delete files that killed writers of a file or folder, or of any, left in a folder.

    A writer may be alive on another machine, where neither its process nor its lock can be seen, so
    only what nobody wrote to for a day goes. A folder that a process holds is left to it.
    """
    left = [path for path in _left_in(folder, name) if _is_abandoned(path)]
    if not left:
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        if _locked(handle):
            for path in left:
                _remove(path)
    finally:
        os.close(handle)


def write_text(path: Path, text: str, *, stage: str) -> None:
    """Write a text file atomically."""
    with new_file(path, stage=stage) as temporary:
        temporary.write_text(text, encoding="utf-8")


def write_json(path: Path, value: object, *, stage: str) -> None:
    """Write a JSON file atomically, keys sorted."""
    text = json.dumps(value, indent=1, sort_keys=True, ensure_ascii=False) + "\n"
    write_text(path, text, stage=stage)


def write_parquet(path: Path, frame: pl.DataFrame, *, stage: str) -> None:
    """Write a table atomically."""
    with new_file(path, stage=stage) as temporary, temporary.open("wb") as file:
        frame.write_parquet(file)


def write_tensors(
    path: Path,
    tensors: Mapping[str, torch.Tensor],
    *,
    stage: str,
    metadata: Mapping[str, str] | None = None,
) -> None:
    """Write named tensors as safetensors atomically."""
    content = safetensors.torch.save(
        {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
        dict(metadata) if metadata else None,
    )
    with new_file(path, stage=stage) as temporary:
        temporary.write_bytes(content)


class Written(BaseModel):
    """Base class for the contents of JSON files of ours: keys of later versions are passed over."""

    model_config = ConfigDict(frozen=True, strict=True, extra="ignore")


@overload
def read_json(path: Path, *, advice: str = AGAIN) -> Any: ...


@overload
def read_json(path: Path, form: type[T], *, advice: str = AGAIN) -> T: ...


def read_json(path: Path, form: Any = Any, *, advice: str = AGAIN) -> Any:
    """The value of a JSON file, which must have this form: a `Written`, or what pydantic knows.

    `advice` says what to do about a file that is damaged.

    Raises:
        StoreError: when it is missing, damaged or of another form.
    """
    try:
        return _adapter(form).validate_json(path.read_bytes())
    except (FileNotFoundError, NotADirectoryError) as error:
        raise StoreError(f"{path} is missing. Run the command that makes it first.") from error
    except OSError as error:
        raise damaged(path, error.strerror or str(error), advice) from error
    except ValidationError as error:
        raise damaged(path, _first_fault(error), advice) from error


def formed(path: Path, value: object, form: type[T], *, advice: str = AGAIN) -> T:
    """A value that was read from a file, which must have this form.

    Raises:
        StoreError: when it has not.
    """
    try:
        found: T = _adapter(cast(Any, form)).validate_python(value)
    except ValidationError as error:
        raise damaged(path, _first_fault(error), advice) from error
    return found


@lru_cache
def _adapter(form: Any) -> TypeAdapter[Any]:
    return TypeAdapter(form)


def _first_fault(error: ValidationError) -> str:
    """Place and reason of the first fault, where a value has not the form that it should have."""
    fault = error.errors(include_url=False, include_input=False)[0]
    where = ".".join(map(str, fault["loc"]))
    if fault["type"] == "missing":
        return f"it has no {where!r}"
    return f"{where}: {fault['msg']}" if where else str(fault["msg"])


def read_parquet(
    path: Path,
    columns: Mapping[str, type[pl.DataType] | None] | None = None,
    *,
    others: type[pl.DataType] | None = None,
) -> pl.DataFrame:
    """The table in a parquet file, which must have these columns, of any type where none is named;
    the `others`, if a type is named for them, are all of that.

    Raises:
        StoreError: when it is missing, damaged or another table.
    """
    if not path.is_file():
        raise StoreError(f"{path} is missing. Run the command that makes it first.")
    try:
        frame = pl.read_parquet(path)
    except Exception as error:  # polars raises several unrelated types for a damaged file
        raise damaged(path, str(error)) from error
    wanted = dict(columns or {})
    for name in [*wanted, *(name for name in frame.columns if name not in wanted)]:
        kind = wanted.get(name) if name in wanted else others
        if name not in frame.columns:
            raise damaged(path, f"it has no column {name!r}")
        if kind is not None and frame.schema[name] != kind:
            raise damaged(path, f"its column {name!r} holds {frame.schema[name]}, not {kind}")
    return frame


def read_tensors(path: Path, *names: str) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file, these among them, in memory of their own.

    Raises:
        StoreError: when it is missing or damaged.
    """
    try:
        found = safetensors.torch.load(path.read_bytes())
    except FileNotFoundError as error:
        raise StoreError(f"{path} is missing. Run the command that makes it first.") from error
    except safetensors.SafetensorError as error:
        raise damaged(path, str(error)) from error
    for name in names:
        if name not in found:
            raise damaged(path, f"it has no tensor {name!r}")
    return found


def damaged(path: Path, why: str, advice: str = AGAIN) -> StoreError:
    """The error for an artefact that cannot be read back."""
    return StoreError(f"{path} is damaged ({why}). {advice}")


class Checksum(Written):
    """A file's size and the SHA-256 (hex) of its bytes."""

    bytes: int
    sha256: str


class _Sight(Written):
    """Size and times of a file when its SHA-256 was computed."""

    bytes: int
    modified: int
    changed: int
    sha256: str


class _Manifest(Written):
    advice: str
    files: dict[str, Checksum]
    digest: str


def checksum(path: Path) -> Checksum:
    """A file's checksum."""
    return Checksum(bytes=path.stat().st_size, sha256=digest_file(path))


def checksums(folder: Path, names: Iterable[str]) -> dict[str, Checksum]:
    """The checksums of files in a folder, by their names relative to it.

    Raises:
        StoreError: when one cannot be read.
    """
    try:
        return {name: checksum(folder / name) for name in sorted(names)}
    except OSError as error:
        raise damaged(folder, f"{error.filename} cannot be read: {error.strerror}") from error


def files_below(folder: Path, *parts: str) -> list[str]:
    """The names, relative to a folder, of its files but for its manifest; where `parts` of it are
    named, files or folders, of those alone.
    """
    roots = [folder / part for part in parts] or [folder]
    found = [path for root in roots for path in [root, *root.rglob("*")] if path.is_file()]
    return sorted({str(path.relative_to(folder)) for path in found} - {MANIFEST, SEEN})


def faults(folder: Path, files: Mapping[str, Checksum], *, anew: bool = False) -> dict[str, str]:
    """Faults of files in a folder, by name: a sentence without its full stop; nothing for those
    that are as listed.

    A file of the right size is read only when it may have changed since it was last found right;
    with `anew`, always.
    """
    known = {} if anew else {**_seen(folder), **_seen_here.get(folder, {})}
    found, sights = {}, {}
    for name, expected in files.items():
        try:
            about = (folder / name).stat()
            if about.st_size != expected.bytes:
                found[name] = f"{name} has {about.st_size} bytes, {expected.bytes} expected"
                continue
            sight = _Sight(
                bytes=about.st_size,
                modified=about.st_mtime_ns,
                changed=about.st_ctime_ns,
                sha256=expected.sha256,
            )
            if known.get(name) == sight:
                continue
            if digest_file(folder / name) != expected.sha256:
                found[name] = f"the SHA-256 of {name} is not the recorded one"
            elif time.time_ns() - max(sight.modified, sight.changed) > _SETTLED_NS:
                sights[name] = sight
        except FileNotFoundError:
            found[name] = f"{name} is missing"
        except OSError as error:
            found[name] = f"{name} cannot be read: {error.strerror}"
    if sights and not anew:
        _seen_here.setdefault(folder, {}).update(sights)
        told = {name: sight.model_dump() for name, sight in {**known, **sights}.items()}
        with suppress(StoreError):  # a folder that may not be written is read by every process
            write_json(folder / SEEN, told, stage="seen")
    return found


def write_manifest(folder: Path, files: Mapping[str, Checksum], *, advice: str, stage: str) -> None:
    """Write the checksums of a folder's files, after all of them.

    `advice` says what to do when one of them is damaged.
    """
    listing = {name: each.model_dump() for name, each in files.items()}
    found = {"advice": advice, "files": listing, "digest": digest([advice, listing])}
    write_json(folder / MANIFEST, found, stage=stage)


def read_manifest(folder: Path) -> tuple[str, dict[str, Checksum]] | None:
    """Read a folder's manifest: advice for when a file is damaged, and the checksums of its files;
    None for a folder without a manifest, as older versions left it.

    Raises:
        StoreError: when the manifest itself is damaged.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None
    advice = (
        f"Make {folder} again with the command that made it, or delete that file to open the "
        "folder unchecked."
    )
    found = read_json(path, _Manifest, advice=advice)
    listing = {name: each.model_dump() for name, each in found.files.items()}
    if digest([found.advice, listing]) != found.digest:
        raise damaged(path, "it is not what was written", advice)
    return found.advice, found.files


def check_whole(path: Path, *, anew: bool = False) -> None:
    """Refuse a file or folder that is not as a manifest has it, in that folder or above.

    What no manifest lists passes. `anew` is as in `faults`.

    Raises:
        StoreError: naming a file that is missing or damaged, with the manifest's advice.
    """
    path = path.resolve()
    for folder in [path, *path.parents[:_MOST_ABOVE]]:
        if (found := read_manifest(folder)) is None:
            continue
        advice, files = found
        below = {
            name: expected
            for name, expected in files.items()
            if (folder / name).is_relative_to(path)
        }
        for fault in faults(folder, below, anew=anew).values():
            raise damaged(folder, fault, advice)


def _seen(folder: Path) -> dict[str, _Sight]:
    """Read the recorded sizes and times of a folder's files; nothing when gone or damaged."""
    try:
        return read_json(folder / SEEN, dict[str, _Sight])
    except StoreError:
        return {}


def _link(source: str, target: str) -> None:
    """A second name for a file, or a copy where there can be none."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


class Took(Written):
    """Seconds of a stage, without the stages within it, and the peak memory of its process."""

    seconds: float
    peak_bytes: int


class Done(Written):
    """Record of a finished stage; older runs have less of it."""

    files: dict[str, Checksum]
    metrics: dict[str, Any]
    took: Took | None = None
    place: int = 0


class Inputs(Written):
    """Inputs of a stage, and their digest."""

    digest: str
    inputs: dict[str, Any]


def read_done(stage: Path) -> Done:
    """Read the record of a finished stage from its folder.

    Raises:
        StoreError: when it is missing, or not what was written.
    """
    path = stage / "done.json"
    found = read_json(path, dict[str, Any])
    claimed = found.pop("digest", None)  # older runs have none
    if claimed is not None and claimed != digest(found):
        raise damaged(path, "it is not what was written")
    return formed(path, found, Done)


class StageFolder:
    """One stage's folder in a run: its inputs, its files, and whether it is finished.

    `inputs` is a JSON-able description of everything the stage depends on. A folder made from other
    inputs is refused rather than reused.
    """

    def __init__(self, path: Path, inputs: Mapping[str, object]) -> None:
        self.path = path
        self.name = path.name
        self.inputs_digest = digest(inputs)
        self._began, self._within = time.perf_counter(), _Spent.seconds
        found = path / "inputs.json"
        if not found.exists():
            write_json(found, {"digest": self.inputs_digest, "inputs": inputs}, stage=self.name)
        elif (made_from := read_json(found, Inputs)).digest != self.inputs_digest:
            differs = sorted(
                key
                for key in {*made_from.inputs, *inputs}
                if digest(made_from.inputs.get(key)) != digest(inputs.get(key))
            )
            raise StoreError(
                f"{path} was made from other inputs ({', '.join(differs)} differ). "
                "Use another --out, or delete that folder to make it again."
            )

    def take(self, other: Path) -> bool:
        """Whether this stage, of which nothing is done, was taken from another run's folder of it:
        finished, and made from the same inputs. The files are the same ones where the file system
        can do that, since nothing here writes into a file that is there.
        """
        if not (other / "done.json").exists() or any(
            file.name != "inputs.json" for file in self.path.iterdir()
        ):
            return False
        if read_json(other / "inputs.json", Inputs).digest != self.inputs_digest:
            return False
        with new_folder(self.path, stage=self.name) as folder:
            shutil.copytree(other, folder, dirs_exist_ok=True, copy_function=_link)
        return True

    def waits_for(self, other: Path) -> bool:
        """Whether this stage, of which nothing is done, was begun in another run's folder of it,
        from the same inputs, and is not finished there.
        """
        return (
            (other / "inputs.json").exists()
            and not (other / "done.json").exists()
            and all(file.name == "inputs.json" for file in self.path.iterdir())
            and read_json(other / "inputs.json", Inputs).digest == self.inputs_digest
        )

    @property
    def complete(self) -> bool:
        """Whether the stage finished; if so, every file is checked against its size and digest.

        Raises:
            StoreError: naming the first file that is missing or damaged.
        """
        if not (self.path / "done.json").exists():
            return False
        for fault in faults(self.path, read_done(self.path).files, anew=True).values():
            raise damaged(self.path, fault)
        return True

    @property
    def metrics(self) -> dict[str, Any]:
        """Metrics that the stage recorded when it finished."""
        return read_done(self.path).metrics

    def finish(self, **metrics: object) -> None:
        """Seal the folder: record size and digest of every file, the metrics given, the time and
        memory of this process for it (seconds, without those of stages within it, and its memory at
        most), and how many stages beside it were finished before.

        What a killed writer left behind is deleted first.
        """
        for left in [*self.path.rglob(".tmp-*"), *self.path.rglob(".old-*")]:
            _remove(left)
        files = sorted(
            file for file in self.path.rglob("*") if file.is_file() and file.name != "done.json"
        )
        listing = {
            str(file.relative_to(self.path)): {
                "bytes": file.stat().st_size,
                "sha256": digest_file(file),
            }
            for file in files
        }
        elapsed = time.perf_counter() - self._began
        own = elapsed - (_Spent.seconds - self._within)
        _Spent.seconds = self._within + elapsed
        took = {"seconds": round(own, 3), "peak_bytes": resident_bytes()}
        place = sum(1 for _ in self.path.parent.glob("*/done.json"))
        done = {"files": listing, "metrics": metrics, "took": took, "place": place}
        done["digest"] = digest(json.loads(json.dumps(done)))
        write_json(self.path / "done.json", done, stage=self.name)


def resident_bytes() -> int:
    """The most memory that this process has had."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * _MAXRSS_BYTES


def _locked(handle: int) -> bool:
    """Whether an open folder is now this process's; False when another one has it.

    In a file system without locks two writers in one folder are the user's to avoid.
    """
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        return error.errno not in (errno.EWOULDBLOCK, errno.EACCES)
    return True


def _left_in(folder: Path, name: str | None) -> list[Path]:
    """Temporary files that writers of a name, or of any, have in a folder."""
    try:
        found = list(folder.iterdir())
    except FileNotFoundError:
        return []
    wanted = ".+" if name is None else re.escape(name)
    written = re.compile(rf"\.(tmp|old)-\d+-{wanted}", re.DOTALL)
    return [each for each in found if written.fullmatch(each.name)]


def _is_abandoned(path: Path) -> bool:
    """Whether nobody wrote to a file, or to anything in a folder, for a day."""
    try:
        newest = max(each.stat().st_mtime for each in [path, *path.rglob("*")])
    except FileNotFoundError:  # its writer is at work
        return False
    return time.time() - newest > ABANDONED


class _Spent:
    """Seconds of all stages that this process finished."""

    seconds = 0.0


def _remove(path: Path) -> None:
    """Delete a file or a folder that a writer left, if it is still there and can be."""
    if path.is_dir():
        shutil.rmtree(path, ignore_errors=True)
    else:
        _remove_file(path)


def _remove_file(path: Path) -> None:
    """Delete the remains of a failed write, if possible: the error that is on its way says more."""
    with suppress(OSError):
        path.unlink()


def _flush(path: Path) -> None:
    """Force a file's or folder's content to disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _count_write(stage: str) -> None:
    """Count a durable write of a kind of stage, and die there when the environment asks for it."""
    kind = stage.partition("-")[0]
    _writes[kind] += 1
    wanted, _, number = os.environ.get("LIMBECK_KILL_AT", "").rpartition(":")
    if wanted == kind and number == str(_writes[kind]):
        os.kill(os.getpid(), signal.SIGKILL)


def _unwritable(path: Path, error: OSError | safetensors.SafetensorError) -> StoreError:
    """The error for a file system that refuses a write; safetensors tells only in words why."""
    if not isinstance(error, OSError):
        told = re.search(r"os error (\d+)", str(error))
        if told is None:
            raise error
        error = OSError(int(told[1]), os.strerror(int(told[1])))
    advice = {
        errno.ENOSPC: "Free some space and run the same command again: finished work is kept.",
        errno.EFBIG: "The file-size limit (ulimit -f) is too low; raise it and run again.",
        errno.EROFS: "The file system is read-only; choose another --out.",
        errno.EACCES: "The folder is not writable; choose another --out.",
    }.get(error.errno or 0, "Check the path and run the same command again.")
    return StoreError(f"Cannot write {path}: {error.strerror or error}. {advice}")
