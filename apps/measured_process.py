"""A command of polyfield in a process of its own, and the memory that it took."""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

from polyfield.cuda.errors import PolyfieldError

# The child's own peak, and that of the largest process that it started and waited for.
_CHILD = """
import json, resource, sys
from pathlib import Path
from polyfield.apps.main import main
from polyfield.apps.memory import peak_resident_bytes

code = main(sys.argv[2:])
io = Path("/proc/self/io")
found = dict(line.split(": ") for line in io.read_text().splitlines()) if io.exists() else {}
others = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss
others *= 1 if sys.platform == "darwin" else 1024
measured = {
    "peak_bytes": peak_resident_bytes() + others,
    "written_bytes": max(int(found.get(key, -1)) for key in ("wchar", "write_bytes")),
}
Path(sys.argv[1]).write_text(json.dumps(measured))
sys.exit(code)
"""


class Measured(NamedTuple):
    """What a command took, and what it gave to --json."""

    peak_bytes: int
    """Resident memory, at most, of the process, and of the largest that it started."""
    written_bytes: int
    """To all files; -1 where the system does not count it."""
    result: dict


def run_measured(arguments: list[str]) -> Measured:
    """Runs `polyfield ARGUMENTS --json FILE`. PolyfieldError, with what it said, where it fails."""
    with tempfile.TemporaryDirectory() as folder:
        measured, result = Path(folder, "measured.json"), Path(folder, "result.json")
        command = [sys.executable, "-c", _CHILD, str(measured), *arguments, "--json", str(result)]
        child = subprocess.run(command, capture_output=True, text=True, check=False)
        if child.returncode != 0:
            said = child.stderr[-2000:]
            raise PolyfieldError(f"polyfield {arguments[0]} ended with {child.returncode}: {said}")
        process = json.loads(measured.read_text())
        return Measured(
            process["peak_bytes"], process["written_bytes"], json.loads(result.read_text())
        )
