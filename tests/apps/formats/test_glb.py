import io
import json
import struct

import numpy as np
import pytest
import torch
import trimesh
from PIL import Image

from polyfield.apps.formats.glb import Y_UP, Texture, glb_bytes
from polyfield.extract.mesh import Mesh

CORNERS = torch.tensor([[0.5, 0, 0], [1, 0, 0], [0, 2, 0], [0, 0, 3]])
FACES = torch.tensor([[0, 2, 1], [0, 1, 3], [0, 3, 2], [1, 2, 3]])


def parts(content):
    """The document and the binary chunk, with every length checked on the way."""
    magic, version, length, json_length, kind = struct.unpack("<4sIII4s", content[:20])
    assert (magic, version, length, kind) == (b"glTF", 2, len(content), b"JSON")
    document, rest = json.loads(content[20 : 20 + json_length]), content[20 + json_length :]
    binary_length, kind = struct.unpack("<I4s", rest[:8])
    assert kind == b"BIN\0" and binary_length == len(rest) - 8 and json_length % 4 == 0
    assert document["buffers"] == [{"byteLength": binary_length}]
    return document, rest[8:]


def mesh():
    colors = torch.tensor([[0.5, 0.0, 1.0], [0.2, 0.01, 0.7], [1, 1, 1], [0, 0, 0]])
    plain = Mesh(CORNERS, FACES)
    return Mesh(CORNERS, FACES, colors, plain.vertex_normals())


def test_every_view_lies_in_the_buffer_and_holds_what_its_accessor_says():
    document, binary = parts(glb_bytes(mesh()))
    (primitive,) = document["meshes"][0]["primitives"]
    width = {"VEC3": 12, "SCALAR": 4}
    for accessor in document["accessors"]:
        view = document["bufferViews"][accessor["bufferView"]]
        assert view["byteLength"] == accessor["count"] * width[accessor["type"]]
        assert view["byteOffset"] % 4 == 0
        assert view["byteOffset"] + view["byteLength"] <= len(binary)
    assert [document["bufferViews"][i]["target"] for i in range(4)] == [34962] * 3 + [34963]

    def values(index, kind, dtype):
        assert document["accessors"][index]["componentType"] == kind
        view = document["bufferViews"][index]
        start = view["byteOffset"]
        return torch.frombuffer(
            bytearray(binary[start : start + view["byteLength"]]), dtype=dtype
        ).reshape(-1, 3)

    attributes = primitive["attributes"]
    assert torch.equal(values(attributes["POSITION"], 5126, torch.float32), CORNERS)
    assert torch.equal(values(attributes["NORMAL"], 5126, torch.float32), mesh().normals)
    assert torch.equal(values(primitive["indices"], 5125, torch.int32).long(), FACES)
    colors = values(attributes["COLOR_0"], 5126, torch.float32)
    assert colors[0].tolist() == pytest.approx([0.214, 0, 1], abs=5e-4)
    position = document["accessors"][attributes["POSITION"]]
    assert position["min"] == [0, 0, 0] and position["max"] == [1, 2, 3]


def test_one_root_node_turns_up_from_z_to_y():
    document, _ = parts(glb_bytes(mesh()))
    (node,) = document["nodes"]
    assert document["scenes"][document["scene"]]["nodes"] == [0]
    matrix = torch.tensor(node["matrix"]).reshape(4, 4).T
    assert (matrix @ torch.tensor([1.0, 2, 3, 1])).tolist() == [1, 3, -2, 1]
    assert torch.linalg.det(Y_UP) == 1


def test_baked_colors_need_no_light():
    document, _ = parts(glb_bytes(mesh()))
    (material,) = document["materials"]
    assert "KHR_materials_unlit" in material["extensions"]
    assert document["extensionsUsed"] == ["KHR_materials_unlit"]
    assert material["pbrMetallicRoughness"]["metallicFactor"] == 0
    assert material["doubleSided"] is True


def test_a_bare_mesh_has_positions_only():
    document, _ = parts(glb_bytes(Mesh(CORNERS, FACES)))
    assert list(document["meshes"][0]["primitives"][0]["attributes"]) == ["POSITION"]


def test_a_texture_takes_the_place_of_colours_and_is_read_where_it_lies():
    image = np.random.default_rng(0).integers(0, 256, (5, 7, 3), dtype=np.uint8)
    coordinates = torch.tensor([[0.0, 0.0], [1.0, 0.0], [0.0, 1.0], [0.25, 0.75]])
    content = glb_bytes(mesh(), Texture(coordinates, image))
    document, binary = parts(content)
    (primitive,) = document["meshes"][0]["primitives"]
    assert set(primitive["attributes"]) == {"POSITION", "NORMAL", "TEXCOORD_0"}
    accessor = document["accessors"][primitive["attributes"]["TEXCOORD_0"]]
    assert (accessor["type"], accessor["count"]) == ("VEC2", 4)
    (picture,) = document["images"]
    view = document["bufferViews"][picture["bufferView"]]
    begin = view["byteOffset"]
    png = binary[begin : begin + view["byteLength"]]
    assert "target" not in view and begin % 4 == 0 and picture["mimeType"] == "image/png"
    assert np.array_equal(np.asarray(Image.open(io.BytesIO(png))), image)
    (material,) = document["materials"]
    assert material["pbrMetallicRoughness"]["baseColorTexture"] == {"index": 0}
    assert document["textures"] == [{"source": 0, "sampler": 0}]
    (sampler,) = document["samplers"]
    assert sampler == {"magFilter": 9729, "minFilter": 9987, "wrapS": 33071, "wrapT": 33071}
    loaded = trimesh.load_scene(io.BytesIO(content), file_type="glb", process=False)
    (other,) = loaded.geometry.values()
    assert np.array_equal(np.asarray(other.visual.material.baseColorTexture), image)
    # trimesh counts v from below.
    flipped = torch.stack([coordinates[:, 0], 1 - coordinates[:, 1]], 1)
    torch.testing.assert_close(torch.from_numpy(other.visual.uv).float(), flipped)
