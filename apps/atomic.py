"""Files that appear whole or not at all."""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


@contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """A temporary file beside path, of the same suffix, that takes its place when the block ends.

    If the block raises, path is as it was and the temporary file is gone. The content is on the
    disk before the name changes, so that a power cut leaves the old file or the new one. Missing
    folders are made; OSError where the place cannot be written to.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{path.stem}-", suffix=path.suffix, dir=path.parent)
    os.close(handle)
    try:
        yield Path(name)
        with open(name, "r+b") as written:
            os.fsync(written.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # what open() would have given; mkstemp's is private
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
