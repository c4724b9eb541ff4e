"""One hostile folder out of a sample: which file, and what is done to it."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from random import Random

from polyfield.apps import checkpoint
from polyfield.apps.fuzz_bytes import odd_array, odd_bytes, odd_image, odd_tensors
from polyfield.apps.fuzz_trees import Odd, Tree
from polyfield.apps.fuzz_values import odd_json, odd_text
from polyfield.cuda.errors import InputError

_IMAGES = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif")
_TEXTS = (".txt", ".jsonl")
_SPARSE = (1 << 20, 1 << 26, 1 << 30, 1 << 34, 1 << 40)  # bytes


def hostile(tree: Tree, main: tuple[str, ...], random: Random) -> tuple[Tree, str]:
    """The tree with one to three files changed, and what was done. main: files that matter most."""
    changed, said = dict(tree), []
    for _ in range(random.choice((1, 1, 1, 2, 3))):
        sound = [name for name in tree if changed.get(name) is tree[name]]
        names = [name for name in main if name in sound]
        if not names or random.random() < 0.25:
            names = sound
        if not names:
            break
        name = random.choice(names)
        if random.random() < 0.06:
            said.append(_odd_entry(changed, name, random))
            continue
        content = changed[name]
        if isinstance(content, bytes):
            changed[name], what = _odd_content(name, content, random)
            said.append(f"{name}: {what}")
    return changed, "; ".join(said)


def _odd_content(name: str, content: bytes, random: Random) -> tuple[bytes, str]:
    suffix = name[name.rfind(".") :].lower()
    if suffix == ".json" and random.random() < 0.92:
        return odd_json(content, random)
    if suffix in _TEXTS or b"format ascii" in content[:40]:
        return odd_text(content, random) if random.random() < 0.85 else odd_bytes(content, random)
    if suffix == ".ply" and random.random() < 0.5:
        head, end, data = content.partition(b"end_header\n")
        new, said = odd_text(head + end, random)
        return new + data, said
    if suffix in _IMAGES:
        return odd_image(content, random)
    if suffix in (".npy", ".npz"):
        return odd_array(content, random)
    if suffix == ".safetensors":
        # A checksum that fits takes what is wrong past the first door.
        return (
            _odd_metadata(content, random)
            if random.random() < 0.6
            else odd_tensors(content, random)
        )
    return odd_bytes(content, random)


def _odd_metadata(content: bytes, random: Random) -> tuple[bytes, str]:
    """A checkpoint with other metadata, whose checksum is right."""
    with tempfile.TemporaryDirectory() as place:
        path = Path(place) / "checkpoint"
        path.write_bytes(content)
        try:
            tensors, metadata = checkpoint.read(path)
            text, said = odd_json(json.dumps(metadata).encode(), random)
            checkpoint.write(path, tensors, json.loads(text))
        except (InputError, ValueError, RecursionError):  # what JSON or we cannot write
            return odd_bytes(content, random)
        return path.read_bytes(), f"metadata {said}"


def _odd_entry(tree: dict[str, bytes | Odd], name: str, random: Random) -> str:
    """Put something else than the file, or than a folder of it, into its place."""
    content = tree[name]
    start = content if isinstance(content, bytes) else b""
    parts = name.split("/")
    what = random.randrange(9)
    if what == 0:
        del tree[name]
        return f"{name} taken away"
    if what == 1:
        tree[name] = b""
        return f"{name} empty"
    if what == 2:
        tree[name] = Odd("folder")
        return f"{name} a folder"
    if what == 3:
        tree[name] = Odd("pipe")
        return f"{name} a pipe"
    if what == 4:
        target = random.choice(
            (parts[-1], "/etc/passwd", "/dev/zero", "..", "nowhere", "a\nb", "/proc/self/fd/0")
        )
        tree[name] = Odd("link", target=target)
        return f"{name} a link to {target!r}"
    if what == 5 and len(parts) > 1:
        for other in [other for other in tree if other.startswith(parts[0] + "/")]:
            del tree[other]
        target = random.choice((parts[0], ".", "..", "/", "/proc/self", "nowhere"))
        tree[parts[0]] = Odd("link", target=target)
        return f"{parts[0]} a link to {target!r}"
    if what == 6:
        strange = random.choice(("a\nb", "\udcff", "é" * 60, "-", " ", "*", "\u202e", "#"))
        del tree[name]
        place = "/".join([*parts[:-1], strange + parts[-1]])
        tree[place] = content
        return f"{name} called {place!r}"
    size = random.choice(_SPARSE)
    tree[name] = Odd("sparse", size=max(size, len(start)), start=start if what == 7 else b"")
    return f"{name} of {size} bytes, its own first: {what == 7}"
