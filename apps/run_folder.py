"""A run's folder: config.json, metrics.jsonl, checkpoints/, renders/, report.html; one writer."""

import io
import json
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import BinaryIO

from polyfield.apps.files import (
    make_folder,
    parse_json,
    plain,
    read_plain,
    refusal,
    remove_partial,
    replacing,
    write_json,
)
from polyfield.apps.formats.json_fields import shown
from polyfield.cuda.errors import InputError

CONFIG_VERSION = 1
_MOST_RECORDS = 1 << 16  # a hundred times what a run writes
_MOST_COUNTED = 1e12  # steps or seconds, in a record


@dataclass
class RunFolder:
    """Paths and records of one run. Use as a context manager; leaving it gives up the lock."""

    path: Path
    _lock: BinaryIO | None = field(default=None, repr=False)

    @classmethod
    def create(cls, path: Path, config: dict, *, replace: bool = False) -> "RunFolder":
        """Make the folder, lock it for writing and put `config` (what JSON can hold) into it.

        With `replace` a run that lies there is removed first: its checkpoints, metrics, renders and
        report, nothing else. Raises InputError if a run lies there and `replace` is not given, if
        something of these names lies there that is no run's, if another process writes to it, or if
        the place cannot be written.
        """
        run = cls(path)
        make_folder(path)
        run._lock = _locked(path)
        try:
            if os.path.lexists(run.config_path):
                run.config()  # refuses to touch a config.json that is not ours
                if not replace:
                    raise InputError(
                        str(path),
                        "holds a run already",
                        "a new folder",
                        "Go on with it by --resume, or name another folder with --out.",
                    )
                run._clear()
            else:
                run._refuse_others()
            run.write_config(config)
            for folder in (run.checkpoints, run.renders):
                folder.mkdir(exist_ok=True)
        except OSError as error:
            run.close()
            raise refusal(path, error) from error
        except BaseException:
            run.close()
            raise
        return run

    @classmethod
    def open(cls, path: Path, *, writing: bool = False) -> "RunFolder":
        """A run that exists; `writing` locks it and clears away what a killed writer left.

        Raises InputError if `path` holds no run, or if it is to be written and another process
        already does.
        """
        run = cls(path)
        run.config()
        if writing:
            run._lock = _locked(path)
            try:
                for folder in (path, run.checkpoints, run.renders):
                    folder.mkdir(exist_ok=True)
                    remove_partial(folder)
            except OSError as error:
                run.close()
                raise refusal(path, error) from error
        return run

    @property
    def config_path(self) -> Path:
        """config.json: what the run is to do."""
        return self.path / "config.json"

    @property
    def metrics_path(self) -> Path:
        """metrics.jsonl: one JSON object a line."""
        return self.path / "metrics.jsonl"

    @property
    def checkpoints(self) -> Path:
        """Folder of the checkpoints, see `checkpoint.step_path`."""
        return self.path / "checkpoints"

    @property
    def renders(self) -> Path:
        """Folder of images and videos."""
        return self.path / "renders"

    @property
    def report_path(self) -> Path:
        """report.html: self-contained."""
        return self.path / "report.html"

    def config(self) -> dict:
        """What `write_config` was given last. Raises InputError if this is no run of ours."""
        return read_config(self.config_path)

    def write_config(self, config: dict) -> None:
        """Replace config.json, atomically. Raises InputError where the system refuses."""
        write_json(self.config_path, {"config_version": CONFIG_VERSION} | config)

    def append(self, record: dict) -> None:
        """Add a line to metrics.jsonl; numbers that are not finite become null.

        Every record has "step", the number of steps done. Raises InputError on a full disk.
        """
        line = json.dumps(plain(record), allow_nan=False) + "\n"
        try:
            with open(self.metrics_path, "ab", buffering=0) as file:
                file.write(line.encode())
        except OSError as error:
            raise refusal(self.metrics_path, error) from error

    def records(self) -> list[dict]:
        """All lines of metrics.jsonl. A last line that a killed writer left half is passed over.

        Raises InputError for any other line that is no JSON object.
        """
        parsed: list[dict] = []
        bad = 0
        for number, line in enumerate(self._lines(), start=1):
            # At once: a file of nothing but bad lines is not read to its end.
            if bad:
                raise InputError(
                    f"{self.metrics_path}: line {bad}", "is no JSON object", "one record a line"
                )
            record = _record(line)
            if record is None:
                bad = number
            else:
                parsed.append(record)
        return parsed

    def forget_after(self, step: int) -> int:
        """Drop the records of later steps and lines that cannot be read; how many went.

        Afterwards curves over the step are functions again, although the steps are run anew.
        """
        kept, dropped = [], 0
        for line in self._lines():
            record = _record(line)
            if record is not None and record.get("step", 0) <= step:
                kept.append(record)
            else:
                dropped += 1
        with replacing(self.metrics_path) as file:
            file.writelines(json.dumps(record).encode() + b"\n" for record in kept)
        return dropped

    def close(self) -> None:
        """Give up the lock. A second call does nothing."""
        if self._lock is not None:
            self._lock.close()
            self._lock = None

    def __enter__(self) -> "RunFolder":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _lines(self) -> Iterator[bytes]:
        try:
            content = read_plain(self.metrics_path)
        except FileNotFoundError:
            return
        except OSError as error:
            got = f"cannot be read ({error.strerror})"
            raise InputError(str(self.metrics_path), got, "one record a line") from error
        for number, line in enumerate(io.BytesIO(content)):
            if number == _MOST_RECORDS:
                got = f"more than {_MOST_RECORDS:,} lines"
                raise InputError(str(self.metrics_path), got, "the records of a run")
            yield line

    def _refuse_others(self) -> None:
        """Whoever has no config.json but a folder `checkpoints` keeps something else there."""
        for path in (self.checkpoints, self.renders, self.metrics_path, self.report_path):
            if path.is_file() or (path.is_dir() and any(path.iterdir())):
                raise InputError(
                    str(self.path),
                    f"holds {path.name!r} and no config.json: no run of ours",
                    "a folder without, for a new run",
                    "Name another folder with --out.",
                )

    def _clear(self) -> None:
        for folder in (self.checkpoints, self.renders):
            if folder.is_dir() and not folder.is_symlink():
                shutil.rmtree(folder)
        for path in (self.metrics_path, self.report_path):
            path.unlink(missing_ok=True)
        remove_partial(self.path)


def read_config(path: Path) -> dict:
    """What a run's config.json holds. Raises InputError if it is none of ours."""
    where, expected = str(path), "a run's config.json"
    try:
        config = parse_json(read_plain(path))
    except (FileNotFoundError, NotADirectoryError) as error:
        got = f"holds no {path.name}"
        raise InputError(str(path.parent), got, "a folder that `polyfield train` wrote") from error
    except OSError as error:
        raise InputError(where, f"cannot be read ({error.strerror})", expected) from error
    except (ValueError, RecursionError) as error:
        raise InputError(where, f"is no JSON ({error})", expected) from error
    version = config.get("config_version") if isinstance(config, dict) else None
    if type(version) is not int or version != CONFIG_VERSION:
        got = f"config_version {shown(version)}"
        raise InputError(where, got, f"version {CONFIG_VERSION} in {expected}")
    return {key: value for key, value in config.items() if key != "config_version"}


def _record(line: bytes) -> dict | None:
    """A line of metrics.jsonl; None if it is no object, or counts steps or seconds in no number."""
    try:
        record = parse_json(line)
        step, seconds = record.get("step", 0), record.get("seconds") or 0
        sound = type(step) is int and all(0 <= count < _MOST_COUNTED for count in (step, seconds))
        return record if sound else None
    except (ValueError, RecursionError, AttributeError, TypeError):
        return None


def _locked(folder: Path) -> BinaryIO:
    """The folder's lock, held until the file is closed or the process dies, however it dies."""
    path = folder / ".lock"
    try:
        # A link is not followed: whatever it leads to would be cut to nothing.
        file = open(path, "a+b", opener=_without_links)
    except OSError as error:
        raise refusal(path, error) from error
    try:
        _exclusive_lock()(file.fileno())
    except (BlockingIOError, PermissionError) as error:
        file.seek(1)
        holder = file.read(20).decode(errors="replace").strip() or "unknown"
        file.close()
        raise InputError(
            str(folder),
            f"is in use by another process (number {holder})",
            "a run that nobody else writes to",
            "Wait for it, or name another folder with --out.",
        ) from error
    except OSError as error:
        file.close()
        raise InputError(
            str(folder),
            f"cannot be locked ({error.strerror})",
            "a file system with locks",
            "Name a folder on a local disk with --out.",
        ) from error
    # For people only. The first byte stays out of it: Windows locks bytes against reading too.
    file.truncate(0)
    file.write(f"\n{os.getpid()}\n".encode())
    file.flush()
    return file


def _without_links(path: str, flags: int) -> int:
    return os.open(path, flags | getattr(os, "O_NOFOLLOW", 0), 0o666)


def _exclusive_lock() -> Callable[[int], None]:
    """How this system locks an open file without waiting; it raises OSError if it is locked."""
    if sys.platform == "win32":
        import msvcrt  # it locks a number of bytes from the file's position on

        def lock_byte(handle: int) -> None:
            os.lseek(handle, 0, os.SEEK_SET)
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)

        return lock_byte
    import fcntl

    return lambda handle: fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
