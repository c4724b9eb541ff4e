import errno
import os
from pathlib import Path

import pytest
import torch
import trimesh

from polyfield.apps.formats.mesh_files import read_mesh, write_mesh
from polyfield.cuda.errors import InputError
from polyfield.extract.marching_cubes import marching_cubes
from polyfield.extract.mesh import Mesh
from polyfield.extract.mesh_checks import enclosed_volume, is_closed_and_oriented

SUFFIXES = (".ply", ".glb", ".obj")


def blob(dressed=True, seed=0):
    generator = torch.Generator().manual_seed(seed)
    values = torch.nn.functional.pad(torch.randn(4, 5, 6, generator=generator), (1,) * 6, value=-1)
    vertices, faces = marching_cubes(values, 0.0)
    mesh = Mesh(vertices.float() * 0.37 + torch.tensor([1.0, -2.0, 3.0]), faces)
    if not dressed:
        return mesh
    colors = torch.rand(len(vertices), 3, generator=generator)
    return Mesh(mesh.vertices, mesh.faces, colors, mesh.vertex_normals())


@pytest.mark.parametrize("dressed", [True, False])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_what_is_written_is_read_again(tmp_path, suffix, dressed):
    mesh, path = blob(dressed), tmp_path / f"mesh{suffix}"
    write_mesh(path, mesh)
    got = read_mesh(path)
    assert torch.equal(got.faces, mesh.faces)
    atol = 1e-8 if suffix == ".obj" else 0
    torch.testing.assert_close(got.vertices, mesh.vertices, atol=atol, rtol=0)
    assert is_closed_and_oriented(got.faces)
    assert enclosed_volume(got.vertices, got.faces) > 0
    if dressed:
        torch.testing.assert_close(got.normals, mesh.normals, atol=1e-6, rtol=0)
        atol = 1e-6 if suffix == ".glb" else 0.5 / 255 + 1e-6
        torch.testing.assert_close(got.colors, mesh.colors, atol=atol, rtol=0)
    else:
        assert got.normals is None and got.colors is None


def test_ply_is_binary_with_byte_colors_and_normals_in_the_users_frame(tmp_path):
    write_mesh(tmp_path / "mesh.ply", blob())
    header, _, body = (tmp_path / "mesh.ply").read_bytes().partition(b"end_header\n")
    assert b"format binary_little_endian 1.0" in header
    names = [line.split()[1:] for line in header.decode().splitlines() if "property" in line]
    expected = [["float", name] for name in ("x", "y", "z", "nx", "ny", "nz")]
    assert names[:9] == expected + [["uchar", name] for name in ("red", "green", "blue")]
    first = torch.frombuffer(bytearray(body[:24]), dtype=torch.float32)
    assert torch.equal(first, torch.cat([blob().vertices[0], blob().normals[0]]))


def test_glb_stands_upright_for_other_readers(tmp_path):
    """Another reader that applies the nodes sees (x, z, -y), oriented as before."""
    mesh = blob()
    write_mesh(tmp_path / "mesh.glb", mesh)
    (other,) = trimesh.load_scene(tmp_path / "mesh.glb", process=False).dump()
    x, y, z = mesh.vertices.unbind(1)
    seen = torch.tensor(other.vertices).float()
    assert torch.equal(seen, torch.stack([x, z, -y], 1))
    assert enclosed_volume(seen, torch.tensor(other.faces)) > 0


def test_parts_placed_and_mirrored_by_nodes_come_back_as_one_oriented_mesh(tmp_path):
    box = trimesh.creation.box((1, 2, 3))
    scene = trimesh.Scene()
    mirror = torch.diag(torch.tensor([-1.0, 1, 1, 1])).numpy()
    moved = torch.eye(4)
    moved[0, 3] = 5
    scene.add_geometry(box, node_name="a", transform=mirror)
    scene.add_geometry(box, node_name="b", transform=moved.numpy())
    (tmp_path / "two.glb").write_bytes(scene.export(file_type="glb"))
    mesh = read_mesh(tmp_path / "two.glb")
    assert len(mesh.faces) == 24
    low, high = mesh.vertices.amin(0), mesh.vertices.amax(0)
    # The boxes lie in glTF's world, +Y up; ours has +Z up: (x, y, z) -> (x, -z, y).
    torch.testing.assert_close(low, torch.tensor([-0.5, -1.5, -1.0]))
    torch.testing.assert_close(high, torch.tensor([5.5, 1.5, 1.0]))
    for half in (mesh.faces[:12], mesh.faces[12:]):
        assert enclosed_volume(mesh.vertices, half) == pytest.approx(6)


def test_normals_stay_at_right_angles_where_a_node_stretches_and_turns(tmp_path):
    corners = torch.tensor([[0.0, 0, 0], [1, 0, 0.5], [0, 1, 0.3]])
    flat = Mesh(corners, torch.tensor([[0, 1, 2]]))
    part = trimesh.Trimesh(
        corners.numpy(), [[0, 1, 2]], vertex_normals=flat.vertex_normals().numpy(), process=False
    )
    transform = torch.eye(4, dtype=torch.float64)
    transform[:3, :3] = torch.tensor([[0.0, -3, 0], [1, 0, 0], [0, 0, 0.5]])
    scene = trimesh.Scene()
    scene.add_geometry(part, transform=transform.numpy())
    (tmp_path / "flat.glb").write_bytes(scene.export(file_type="glb", include_normals=True))
    mesh = read_mesh(tmp_path / "flat.glb")
    torch.testing.assert_close(mesh.normals, mesh.vertex_normals(), atol=1e-6, rtol=0)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_colors_out_of_range_are_cut_and_never_wrap(tmp_path, suffix):
    mesh = blob()
    wild = Mesh(mesh.vertices, mesh.faces, 3 * mesh.colors - 1, mesh.normals)
    write_mesh(tmp_path / f"mesh{suffix}", wild)
    got = read_mesh(tmp_path / f"mesh{suffix}").colors
    torch.testing.assert_close(got, wild.colors.clamp(0, 1), atol=0.5 / 255 + 1e-6, rtol=0)


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("failing", ["fsync", "replace"])
def test_a_failure_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, suffix, failing):
    path = tmp_path / f"mesh{suffix}"
    write_mesh(path, blob())
    before = path.read_bytes()

    def full(*arguments):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, failing, full)
    with pytest.raises(InputError, match="No space left on device"):
        write_mesh(path, blob(seed=1))
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_the_name_appears_only_when_everything_is_on_disk(tmp_path, monkeypatch):
    path, seen = tmp_path / "mesh.ply", []
    sync = os.fsync

    def watched(descriptor):
        seen.append((path.exists(), os.fstat(descriptor).st_size))
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", watched)
    write_mesh(path, blob())
    assert seen[0] == (False, path.stat().st_size)


def test_a_mesh_is_as_readable_as_any_new_file(tmp_path):
    write_mesh(tmp_path / "mesh.ply", blob())
    (tmp_path / "other").touch()
    assert (tmp_path / "mesh.ply").stat().st_mode == (tmp_path / "other").stat().st_mode


def test_unknown_suffixes_are_refused_by_name(tmp_path):
    for action in (lambda p: write_mesh(p, blob()), read_mesh):
        with pytest.raises(InputError, match=r"mesh\.fbx: suffix '\.fbx'; expected one of \.ply"):
            action(tmp_path / "mesh.fbx")
    with pytest.raises(InputError, match=r"suffix '\.stl'"):
        write_mesh(tmp_path / "mesh.stl", blob())
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("suffix", [".off", ".stl"])
def test_formats_that_are_only_read_bring_the_same_triangles(tmp_path, suffix):
    mesh = blob()
    part = trimesh.Trimesh(mesh.vertices.numpy(), mesh.faces.numpy(), process=False)
    part.export(tmp_path / f"mesh{suffix}")
    found = read_mesh(tmp_path / f"mesh{suffix}")
    corners = found.vertices[found.faces], mesh.vertices[mesh.faces]
    torch.testing.assert_close(*corners, atol=1e-5, rtol=0)


def test_no_file_that_a_mesh_names_is_opened(tmp_path, monkeypatch):
    write_mesh(tmp_path / "mesh.obj", blob())
    text = (tmp_path / "mesh.obj").read_text()
    (tmp_path / "mesh.obj").write_text("mtllib ../secret.mtl\nusemtl a\n" + text)
    opened = []
    monkeypatch.setattr("builtins.open", lambda name, *rest, **more: opened.append(name))
    assert len(read_mesh(tmp_path / "mesh.obj").faces) == len(blob().faces)
    assert opened == []


def test_a_mesh_without_faces_or_with_a_nan_is_not_written(tmp_path):
    empty = Mesh(torch.zeros(3, 3), torch.zeros(0, 3, dtype=torch.int64))
    broken = Mesh(torch.full((3, 3), torch.nan), torch.tensor([[0, 1, 2]]))
    for mesh in (empty, broken):
        with pytest.raises(InputError, match="at least one face"):
            write_mesh(tmp_path / "mesh.ply", mesh)
    assert list(tmp_path.iterdir()) == []


def test_a_folder_that_does_not_exist_is_named(tmp_path):
    with pytest.raises(InputError, match="nowhere/mesh.ply: cannot be written .No such file"):
        write_mesh(tmp_path / "nowhere" / "mesh.ply", blob())


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_missing_and_broken_files_are_refused_in_one_sentence(tmp_path, suffix):
    path: Path = tmp_path / f"mesh{suffix}"
    with pytest.raises(InputError, match="mesh"):
        read_mesh(path)
    write_mesh(path, blob())
    whole = path.read_bytes()
    for content in (b"", b"not a mesh at all", whole[: len(whole) // 3]):
        path.write_bytes(content)
        if suffix == ".obj" and content:
            continue  # text cut at a line is still an OBJ
        with pytest.raises(InputError, match=f"mesh\\{suffix}"):
            read_mesh(path)
