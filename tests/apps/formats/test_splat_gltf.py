"""Gaussians in .glb files: what is written, what others may write, and accessors that lie."""

import json
import struct

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from splat_models import angles, colors, covariances, hundred_directions, matrices, model, same

from polyfield.apps.formats.splat_gltf import has_splats, read_splat_gltf, splat_gltf_bytes
from polyfield.apps.formats.spz import spz_bytes
from polyfield.cuda.errors import InputError
from polyfield.fields.similarity import Similarity
from polyfield.fields.splats import moved, of_degree, turned

EXTENSION = "KHR_gaussian_splatting"
WIDTHS = {"SCALAR": 1, "VEC3": 3, "VEC4": 4}
C0 = 0.28209479177387814


def written(splats, world="right-down-forward"):
    return b"".join(splat_gltf_bytes(splats, world))


def parts(content):
    """The document and the binary chunk, with every length checked on the way."""
    magic, version, length, json_length, kind = struct.unpack("<4sIII4s", content[:20])
    assert (magic, version, length, kind) == (b"glTF", 2, len(content), b"JSON")
    document, rest = json.loads(content[20 : 20 + json_length]), content[20 + json_length :]
    binary_length, kind = struct.unpack("<I4s", rest[:8])
    assert kind == b"BIN\0" and binary_length == len(rest) - 8 and json_length % 4 == 0
    return document, rest[8:]


def glb(document, binary):
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    binary += bytes(-len(binary) % 4)
    total = 12 + 8 + len(text) + 8 + len(binary)
    head = struct.pack("<4sII", b"glTF", 2, total) + struct.pack("<I4s", len(text), b"JSON")
    return head + text + struct.pack("<I4s", len(binary), b"BIN\0") + binary


def read(content, folder):
    path = folder / "a.glb"
    path.write_bytes(content)
    return read_splat_gltf(path, "a.glb")


def edited(content, edit):
    """The file with another document: edit(document, binary) changes both in place."""
    document, binary = parts(content)
    binary = bytearray(binary)
    edit(document, binary)
    document["buffers"][0]["byteLength"] = len(binary)
    return glb(document, bytes(binary))


def assert_same_look(a, b, atol=2e-5):
    torch.testing.assert_close(a.means, b.means, atol=atol, rtol=1e-6)
    torch.testing.assert_close(covariances(a), covariances(b), atol=1e-9, rtol=1e-4)
    directions = hundred_directions()
    torch.testing.assert_close(colors(a, directions), colors(b, directions), atol=atol, rtol=0)
    torch.testing.assert_close(a.opacity_logits, b.opacity_logits, atol=1e-4, rtol=0)


@settings(max_examples=20, deadline=None)
@given(
    st.integers(1, 300),
    st.integers(0, 3),
    st.sampled_from(["right-down-forward", "z-up"]),
    st.integers(0, 99),
)
def test_numbers_come_back_in_their_own_world(tmp_path_factory, count, degree, world, seed):
    splats = model(count, degree, seed)
    found = read(written(splats, world), tmp_path_factory.mktemp("a"))
    assert (found.world, found.frame, found.notes) == (world, "RDF", ())
    assert torch.equal(found.splats.means, splats.means)
    assert torch.equal(found.splats.harmonics, splats.harmonics)
    torch.testing.assert_close(found.splats.log_scales, splats.log_scales, atol=5e-7, rtol=0)
    torch.testing.assert_close(
        found.splats.opacity_logits, splats.opacity_logits, atol=1e-5, rtol=0
    )
    assert float(angles(found.splats.quaternions, splats.quaternions).max()) < 1e-4


def test_the_file_keeps_to_gltf():
    splats = model(33, 3)
    document, binary = parts(written(splats))
    assert document["extensionsUsed"] == [EXTENSION] and document["buffers"] == [
        {"byteLength": len(binary)}
    ]
    for accessor in document["accessors"]:
        view = document["bufferViews"][accessor["bufferView"]]
        size = {5126: 4, 5121: 1}[accessor["componentType"]] * WIDTHS[accessor["type"]]
        assert view["byteOffset"] % 4 == 0 and view["byteLength"] == 33 * size
        assert view["byteOffset"] + view["byteLength"] <= len(binary) and accessor["count"] == 33
    (primitive,) = document["meshes"][0]["primitives"]
    assert primitive["mode"] == 0 and primitive["extensions"][EXTENSION] == {
        "kernel": "ellipse",
        "colorSpace": "srgb_rec709_display",
    }
    attributes = primitive["attributes"]
    harmonics = [f"{EXTENSION}:SH_DEGREE_{d}_COEF_{n}" for d in range(4) for n in range(2 * d + 1)]
    own = [f"{EXTENSION}:{name}" for name in ("ROTATION", "SCALE", "OPACITY")]
    assert set(attributes) == {"POSITION", "COLOR_0", *own, *harmonics}
    position = document["accessors"][attributes["POSITION"]]
    assert position["min"] == splats.means.amin(0).tolist()
    assert position["max"] == splats.means.amax(0).tolist()

    def values(name, form="<f4"):
        accessor = document["accessors"][attributes[name]]
        view = document["bufferViews"][accessor["bufferView"]]
        data = binary[view["byteOffset"] :][: view["byteLength"]]
        return torch.from_numpy(np.frombuffer(data, form).reshape(33, -1).copy())

    torch.testing.assert_close(values(own[0])[:, [3, 0, 1, 2]], splats.quaternions)
    torch.testing.assert_close(values(own[1]), splats.log_scales.exp())
    torch.testing.assert_close(values(own[2])[:, 0], splats.opacity_logits.sigmoid())
    assert torch.equal(values(harmonics[6]), splats.harmonics[:, 6])
    # COLOR_0 is linear light.
    shown = (0.5 + C0 * splats.harmonics[:, 0]).clamp(0, 1).double()
    light = torch.where(shown <= 0.04045, shown / 12.92, ((shown + 0.055) / 1.055) ** 2.4)
    color = values("COLOR_0", "u1").double() / 255
    torch.testing.assert_close(color[:, :3], light, atol=1 / 509, rtol=0)


@pytest.mark.parametrize("world", ["right-down-forward", "z-up"])
def test_a_viewer_sees_y_up(tmp_path, world):
    document, _ = parts(written(model(3), world))
    matrix = np.array(document["nodes"][0]["matrix"]).reshape(4, 4).T
    up, front = {"z-up": ((0, 0, 1), (0, -1, 0)), "right-down-forward": ((0, -1, 0), (0, 0, 1))}[
        world
    ]
    assert (matrix[:3, :3] @ up).tolist() == [0, 1, 0]
    assert (matrix[:3, :3] @ front).tolist() == [0, 0, 1]
    assert np.linalg.det(matrix) == 1


def test_numbers_without_a_node_lie_in_gltfs_frame(tmp_path):
    splats = model(20, 3)

    def no_node(document, binary):
        del document["nodes"][0]["matrix"]

    content = edited(written(turned(splats, "RDF", "LUF")), no_node)
    found = read(content, tmp_path)
    assert found.world == "right-down-forward"
    assert torch.equal(found.splats.means, splats.means)
    assert torch.equal(found.splats.harmonics, splats.harmonics)
    assert_same_look(found.splats, splats)


def test_nodes_place_turn_and_scale_what_hangs_on_them(tmp_path):
    splats = model(15, 3)
    turn = torch.tensor([0.3, -0.4, 0.5, 0.7], dtype=torch.float64)  # x, y, z, w
    turn = turn / turn.norm()

    def nodes(document, binary):
        child = {"rotation": turn.tolist(), "scale": [2, 2, 2], "mesh": 0}
        document["nodes"] = [{"translation": [1, 2, 3], "children": [1]}, child,
                             {"mesh": 0, "translation": [0, 0, 9]}]  # fmt: skip
        document["scenes"][0]["nodes"] = [0, 2]

    found = read(edited(written(splats), nodes), tmp_path).splats
    assert found.count == 30
    luf = torch.diag(torch.tensor([-1.0, -1, 1], dtype=torch.float64))
    rotation = matrices(turn[None, [3, 0, 1, 2]])[0]
    shift = torch.tensor([1.0, 2, 3], dtype=torch.float64)
    first = moved(splats, Similarity(2.0, luf @ rotation, luf @ shift))
    second = moved(splats, Similarity(1.0, luf, luf @ torch.tensor([0.0, 0, 9]).double()))
    expected = torch.cat([first.means, second.means])
    torch.testing.assert_close(found.means, expected, atol=1e-5, rtol=0)
    directions = hundred_directions()
    torch.testing.assert_close(
        colors(found, directions)[:15], colors(first, directions), atol=1e-5, rtol=0
    )
    torch.testing.assert_close(covariances(found)[:15], covariances(first), atol=1e-6, rtol=1e-4)


@pytest.mark.parametrize(
    "place",
    [{"scale": [1, 1, 2]}, {"scale": [-1, 1, 1]}, {"scale": [0, 1, 1]},
     {"matrix": [1, 0, 0, 0, 0.3, 1, 0, 0, 0, 0, 1, 0, 0, 0, 0, 1]}],
)  # fmt: skip
def test_nodes_that_shear_or_mirror_are_refused(tmp_path, place):
    def nodes(document, binary):
        document["nodes"][0] = {"mesh": 0} | place

    with pytest.raises(InputError, match="^a.glb.*nodes.*a node that"):
        read(edited(written(model(3)), nodes), tmp_path)


def stored(document, binary, name, values, component, normalised, stride=0):
    """Put the values of an attribute into another type, `stride` bytes apart."""
    index = document["meshes"][0]["primitives"][0]["attributes"][name]
    width = values.dtype.itemsize * values.shape[1]
    rows = np.zeros((len(values), stride or width), np.uint8)
    rows[:, :width] = np.ascontiguousarray(values).view(np.uint8).reshape(len(values), -1)
    binary += bytes(-len(binary) % 4)
    view = {"buffer": 0, "byteOffset": len(binary), "byteLength": rows.size}
    binary += rows.tobytes()
    if stride:
        view["byteStride"] = stride
    document["bufferViews"].append(view)
    document["accessors"][index] |= {
        "bufferView": len(document["bufferViews"]) - 1,
        "componentType": component,
        "normalized": normalised,
    }


@pytest.mark.parametrize(
    ("name", "form", "component", "normalised"),
    [("ROTATION", "i1", 5120, True), ("ROTATION", "i2", 5122, True), ("SCALE", "u1", 5121, False),
     ("SCALE", "u1", 5121, True), ("SCALE", "u2", 5123, False), ("SCALE", "u2", 5123, True),
     ("OPACITY", "u1", 5121, True), ("OPACITY", "u2", 5123, True)],
)  # fmt: skip
@pytest.mark.parametrize("stride", [0, 12])
def test_integers_mean_what_gltf_says(tmp_path, name, form, component, normalised, stride):
    width = {"ROTATION": 4, "SCALE": 3, "OPACITY": 1}[name]
    limits = np.iinfo(form)
    random = np.random.default_rng(0)
    codes = random.integers(max(limits.min, -limits.max), limits.max, (20, width)).astype(form)
    codes[0], codes[1] = limits.min, limits.max
    content = edited(
        written(model(20, 0)),
        lambda document, binary: stored(
            document, binary, f"{EXTENSION}:{name}", codes, component, normalised, stride
        ),
    )
    found = read(content, tmp_path).splats
    value = torch.from_numpy(codes.astype(np.float64) / (limits.max if normalised else 1)).clamp(-1)
    if name == "ROTATION":
        got = found.quaternions[:, [1, 2, 3, 0]].double()
        torch.testing.assert_close(got.abs(), value.abs(), atol=1e-6, rtol=0)
    elif name == "SCALE":
        torch.testing.assert_close(found.log_scales.double().exp(), value, atol=1e-12, rtol=1e-5)
    else:
        got = found.opacity_logits.double().sigmoid()
        torch.testing.assert_close(got, value[:, 0].clamp(1e-6, 1 - 1e-6), atol=1e-6, rtol=0)


def test_an_accessor_without_bytes_is_zeros_and_sparse_ones_fill_in(tmp_path):
    splats = model(20, 1)

    def sparse(document, binary):
        attributes = document["meshes"][0]["primitives"][0]["attributes"]
        accessor = document["accessors"][attributes[f"{EXTENSION}:SH_DEGREE_1_COEF_1"]]
        del accessor["bufferView"]
        at = len(binary)
        binary += struct.pack("<2H6f", 3, 19, *range(1, 7))
        document["bufferViews"] += [
            {"buffer": 0, "byteOffset": at, "byteLength": 4},
            {"buffer": 0, "byteOffset": at + 4, "byteLength": 24},
        ]
        views = len(document["bufferViews"])
        accessor["sparse"] = {
            "count": 2,
            "indices": {"bufferView": views - 2, "componentType": 5123},
            "values": {"bufferView": views - 1},
        }

    found = read(edited(written(splats), sparse), tmp_path).splats.harmonics[:, 2]
    assert found[3].tolist() == [1, 2, 3] and found[19].tolist() == [4, 5, 6]
    assert not found[[i for i in range(20) if i not in (3, 19)]].any()


def with_spz(splats, **options):
    """A .glb whose accessors have no bytes: they lie in an SPZ."""
    packed = spz_bytes(turned(splats, "RDF", "RUB"), **options)

    def pack(document, binary):
        binary[:] = packed
        document["bufferViews"] = [{"buffer": 0, "byteOffset": 0, "byteLength": len(packed)}]
        for accessor in document["accessors"]:
            accessor.pop("bufferView")
        del document["nodes"][0]["matrix"]
        extension = document["meshes"][0]["primitives"][0]["extensions"][EXTENSION]
        extension["extensions"] = {"KHR_gaussian_splatting_compression_spz_2": {"bufferView": 0}}

    return edited(written(splats), pack)


@pytest.mark.parametrize("version", [3, 4])
def test_an_spz_inside_is_read_in_gltfs_frame(tmp_path, version):
    splats = model(50, 3, antialiased=True)
    found = read(with_spz(splats, version=version), tmp_path).splats
    assert found.antialiased and found.degree == 3
    torch.testing.assert_close(found.means, splats.means, atol=2**-12, rtol=0)
    directions = hundred_directions()
    error = (colors(found, directions) - colors(splats, directions)).abs()
    assert float(error.max()) < 0.25 and float(error.mean()) < 0.05
    assert float(angles(found.quaternions, splats.quaternions).max()) < 0.25


def test_degrees_beyond_3_are_cut_off(tmp_path):
    splats = model(5, 4)
    assert same(
        read(written(splats), tmp_path).splats, read(written(of_degree(splats, 3)), tmp_path).splats
    )


def test_only_a_glb_of_gaussians_has_some():
    content = written(model(2))
    assert has_splats(content) and not has_splats(content.replace(b"splatting", b"something"))
    assert not has_splats(b"KHR_gaussian_splatting")


SOUND = written(model(20, 1))


def change(path, value):
    """The sound file with another value in its document."""

    def edit(document, binary):
        *names, last = path
        for name in names:
            document = document[name]
        document[last] = value

    return edited(SOUND, edit)


def without(path):
    def edit(document, binary):
        *names, last = path
        for name in names:
            document = document[name]
        del document[last]

    return edited(SOUND, edit)


PRIMITIVE = ("meshes", 0, "primitives", 0)
FORGED = {
    "no glTF": (b"glTG" + SOUND[4:], "begins with"),
    "version 1": (SOUND[:4] + b"\1" + SOUND[5:], "version 1"),
    "cut off": (SOUND[:-1], "Copy it again"),
    "a chunk beyond the file": (SOUND[:12] + b"\xff\xff\xff\x7f" + SOUND[16:], "chunk of 21474"),
    "no JSON": (SOUND[:20] + b"[" + SOUND[21:], "no JSON"),
    "no Gaussians": (without((*PRIMITIVE, "extensions")), "no primitive"),
    "another kernel": (change((*PRIMITIVE, "extensions", EXTENSION, "kernel"), "box"), "kernel"),
    "no rotation": (without((*PRIMITIVE, "attributes", f"{EXTENSION}:ROTATION")), "ROTATION"),
    "no constant": (
        without((*PRIMITIVE, "attributes", f"{EXTENSION}:SH_DEGREE_0_COEF_0")), "DEGREE_0_COEF_0"),
    "half a degree": (
        without((*PRIMITIVE, "attributes", f"{EXTENSION}:SH_DEGREE_1_COEF_2")), "DEGREE_1_COEF_2"),
    "an accessor that is not there": (
        change((*PRIMITIVE, "attributes", f"{EXTENSION}:SCALE"), 99), "99 of"),
    "an accessor by a negative number": (
        change((*PRIMITIVE, "attributes", f"{EXTENSION}:SCALE"), -1), "-1 of"),
    "counts that differ": (change(("accessors", 2, "count"), 19), "count"),
    "counts beyond the bytes": (
        edited(SOUND, lambda d, b: [a.update(count=2000) for a in d["accessors"]]), "2000 el"),
    "counts without end": (
        edited(SOUND, lambda d, b: [a.update(count=10**9) for a in d["accessors"]]), "Gaussians"),
    "positions without bytes": (without(("accessors", 0, "bufferView")), "no bytes"),
    "a view beyond the buffer": (change(("bufferViews", 1, "byteLength"), 10**9), "its buffer"),
    "a view that begins beyond": (change(("bufferViews", 1, "byteOffset"), 10**9), "its buffer"),
    "a negative offset": (change(("bufferViews", 1, "byteOffset"), -4), "byteOffset"),
    "a stride within an element": (change(("bufferViews", 1, "byteStride"), 4), "4 bytes apart"),
    "elements beyond their view": (change(("accessors", 1, "byteOffset"), 4), "from 4 in 320"),
    "another type": (change(("accessors", 1, "type"), "VEC3"), "VEC4"),
    "a type of nobody's": (change(("accessors", 1, "componentType"), 5124), "type of glTF"),
    "a buffer elsewhere": (change(("buffers", 0, "uri"), "file:///etc/passwd"), "uri"),
    "a node that is its own child": (change(("nodes", 0, "children"), [0]), "two parents"),
    "a node that is not there": (change(("scenes", 0, "nodes"), [7]), "7 of 1"),
    "a matrix of text": (change(("nodes", 0, "matrix"), ["1"] * 16), "matrix"),
    "a turn of nothing": (change(("nodes", 0, "matrix"), [0] * 16), "flattens"),
    "an SPZ of others": (
        with_spz(model(20, 1)).replace(b'"count": 20', b'"count": 21'), "SPZ of 20 Gaussians"),
}  # fmt: skip


@pytest.mark.parametrize(("content", "message"), FORGED.values(), ids=FORGED)
def test_forged_documents_are_refused_by_name(tmp_path, content, message):
    with pytest.raises(InputError, match=f"^a.glb.*{message}"):
        read(content, tmp_path)
