"""The surfaces of what a run has learned, in the user's frame."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import normalize

from polyfield.apps.shown import Shown
from polyfield.apps.trained import Trained, orbit_cameras
from polyfield.cuda.errors import InputError
from polyfield.cuda.nearest import center_tree, nearest
from polyfield.extract.density_surface import extract_surface, painted, surface_level
from polyfield.extract.dual_contouring import dual_contour
from polyfield.extract.floaters import CHUNK, remove_floaters, seen_components
from polyfield.extract.fusion import fused_mesh
from polyfield.extract.marching_cubes import distance_mesh
from polyfield.extract.mesh import Mesh
from polyfield.extract.opacity import half_depths, opacity_mesh
from polyfield.extract.texture import Color
from polyfield.extract.trimmed import trimmed
from polyfield.extract.visibility import Project, color_in_views, seen_in_depth_maps
from polyfield.fields.field import SurfaceField, TrainableField
from polyfield.render.cameras import Cameras
from polyfield.render.cones import density_of
from polyfield.render.samplers import place_samples
from polyfield.render.surface_losses import slope_and_curvature

RAYS = 4096  # that decide the level; and at once
LOOKS = 64  # training views, at most, that decide what is seen
LOOK_SIDE = 256  # pixels of their longer side, at most
STEEPEST = 3.0  # that learned distances change, where those of a surface change by 1


@torch.no_grad()
def surface_of(
    trained: Trained,
    resolution: int = 256,
    level: float | None = None,
    keep_unseen: bool = False,
    sharp: bool = False,
    tolerance: float = 0.0,
) -> tuple[Mesh, float]:
    """The mesh of a field in the user's frame, and the density it was cut at, or the distance 0.

    Of the surface, what a training camera sees; all but loose bits if keep_unseen. tolerance, in
    the user's unit: of what is sharp, see `dual_contour`.
    """
    field, grid = trained.field, trained.grid
    device = grid.bits.device

    def density(x: Tensor) -> Tensor:
        # As rendered: rays skip the cells that are off.
        found, on = x.new_zeros(len(x)), grid.holds(x)
        found[on] = field.density(x[on])[0]
        return found

    color = partial(_color, field)
    if isinstance(field, SurfaceField):
        return _zero_surface(trained, field, color, resolution, keep_unseen, sharp, tolerance), 0.0
    if level is None:
        origins, directions = _training_rays(trained, device)
        level = surface_level(density, origins, directions)
    visible = None if keep_unseen else _seen(trained, 2 / (resolution - 1))
    mesh = extract_surface(
        density,
        color,
        trained.to_field,
        level,
        resolution=resolution,
        visible=visible,
        device=device,
    )
    return mesh, level


@torch.no_grad()
def fused_surface(trained: Shown, resolution: int, keep_unseen: bool = False) -> Mesh:
    """The surface of the depth that training views show, in the user's frame.

    As `surface_of`, whatever kind of field it is. InputError where the views show nothing.
    """
    views = _depth_maps(trained)
    mesh = fused_mesh(views.project, views.depth, resolution)
    return _seen_surface(trained, mesh, views, keep_unseen, 1 / resolution)


@torch.no_grad()
def opacity_surface(trained: Trained, resolution: int, keep_unseen: bool = False) -> Mesh:
    """The surface at which the clearest training view has lost half its light, in the user's frame.

    As `fused_surface`.
    """
    views = _half_depth_maps(trained)
    mesh = opacity_mesh(views.project, views.depth, resolution)
    return _seen_surface(trained, mesh, views, keep_unseen, 1 / resolution)


def _seen_surface(trained: Shown, mesh: Mesh, views: Views, keep_unseen: bool, cell: float) -> Mesh:
    found = views.project, views.depth
    visible = None if keep_unseen else seen_in_depth_maps(*found, 2 * cell)
    mesh = remove_floaters(mesh, visible)
    if not len(mesh.faces):
        raise InputError("the field", "no view shows a surface", "one", "Train longer.")
    if isinstance(trained, Trained):
        color: Color = partial(_color, trained.field)
    else:
        color = color_in_views(*found, views.color, views.origins, 2 * cell)
    mesh = painted(mesh, color, mesh.vertex_normals())
    return mesh.transformed(trained.to_field.inverse())


def _color(field: TrainableField, x: Tensor, directions: Tensor) -> Tensor:
    """Seen along the directions; of a sheet, which has one colour in files, from both its sides."""
    features = field.density(x.contiguous())[1]
    ways = [directions]
    if isinstance(field, SurfaceField) and field.ends:
        ways.append(-directions)
    seen = [field.color(features, field.encode_directions(way.contiguous())) for way in ways]
    return torch.stack(seen).mean(0)


def users_color(trained: Trained) -> Color:
    """The field's colour of points and directions in the user's frame."""
    rotation = trained.to_field.rotation

    def color(points: Tensor, directions: Tensor) -> Tensor:
        turned = (directions.double() @ rotation.T.to(directions.device)).float()
        return _color(trained.field, trained.to_field.apply(points.float()), turned)

    return color


def colors_of(mesh: Mesh) -> Color:
    """The colours that a mesh has, at the nearest of its vertices; for one that has fewer."""
    vertices, colors = mesh.vertices, mesh.colors
    tree = center_tree(vertices)

    def color(points: Tensor, directions: Tensor) -> Tensor:
        near = nearest(points.float().contiguous(), tree, 1)[:, 0].long()
        return points.new_full((len(points), 3), 0.5) if colors is None else colors[near]

    return color


def _zero_surface(
    trained: Trained,
    field: SurfaceField,
    color: Callable[..., Tensor],
    resolution: int,
    keep_unseen: bool,
    sharp: bool,
    tolerance: float,
) -> Mesh:
    """Where a field's distance is 0, in the user's frame, with normals from its slope: closed, or
    cut off at the rim where its surface may end.

    Of its components those go, as wholes, that no training camera sees, unless keep_unseen.
    """
    device = trained.grid.bits.device

    def across(x: Tensor) -> Tensor:
        return field.signed_distances(x)[:, 0]

    def slope(x: Tensor) -> Tensor:
        return slope_and_curvature(across, x, 0.5 / resolution)[0]

    if sharp:
        off = tolerance * trained.to_field.scale
        mesh = dual_contour(across, slope, resolution, STEEPEST, device=device, tolerance=off)
    else:
        mesh = distance_mesh(across, resolution, STEEPEST, device=device)
    if field.ends and len(mesh.faces):
        mesh = trimmed(mesh, _beyond(field, mesh.vertices, resolution))
    if len(mesh.faces) and not keep_unseen:
        mesh = mesh.with_faces(seen_components(mesh, _seen(trained, 2 / (resolution - 1))))
    # Where flat parts have few faces, their number says nothing.
    mesh = remove_floaters(mesh, by_area=tolerance > 0)
    if not len(mesh.faces):
        raise InputError("the field", "no surface that a camera sees", "one", "Train longer.")
    slopes = [
        slope_and_curvature(across, part, 1 / resolution)[0] for part in mesh.vertices.split(CHUNK)
    ]
    normals = normalize(torch.cat(slopes), dim=1)
    return painted(mesh, color, normals).transformed(trained.to_field.inverse())


def _beyond(field: SurfaceField, vertices: Tensor, resolution: int) -> Tensor:
    """How far beyond the rim of a sheet, or nearly out of the unit cube, vertices lie.

    Where the surface leaves the cube there is nothing but the wall that closed its mesh.
    """
    beyond = [field.signed_distances(part)[:, 1] for part in vertices.split(CHUNK)]
    wall = (vertices - 0.5).abs().amax(1) - (0.5 - 0.5 / resolution)
    return torch.maximum(torch.cat(beyond), wall)


def _seen(trained: Trained, tolerance: float) -> Callable[[Tensor], Tensor]:
    """A test for points of the unit cube: whether a training camera sees them."""
    views = _depth_maps(trained)
    return seen_in_depth_maps(views.project, views.depth, tolerance)


class Views(NamedTuple):
    """What some training views show, as `color_in_views` takes it."""

    project: Project
    depth: Float[Tensor, "views height width"]
    """Distances along rays, infinite where nothing is."""
    color: Float[Tensor, "views height width 3"]
    origins: Float[Tensor, "views 3"]


def _depth_maps(trained: Shown) -> Views:
    """Mean depths, where a view is more opaque than not."""
    cameras, project = _views(trained)
    maps, colors = [], []
    for index in range(len(cameras)):
        view = trained.view(cameras, index)
        maps.append(torch.where(view.opacity >= 0.5, view.depth, torch.inf))
        colors.append(view.color)
    origins = cameras.camera_to_world[:, :, 3]
    return Views(project, torch.stack(maps), torch.stack(colors), origins)


def _half_depth_maps(trained: Trained) -> Views:
    """As `_depth_maps`, where rays have lost half their light; through the middles of pixels."""
    cameras, project = _views(trained)
    maps = []
    for index in range(len(cameras)):
        width, height = int(cameras.width[index]), int(cameras.height[index])
        place = torch.arange(width * height, device=trained.grid.bits.device)
        middle = torch.stack([place % width, place // width], 1) + 0.5
        sampling = trained.sampling_of(cameras, index)
        found = []
        for part in middle.split(RAYS):
            rays = cameras.rays(torch.full_like(place[: len(part)], index), part)
            samples = place_samples(trained.field, trained.guide, *rays, sampling)
            density = [
                density_of(
                    trained.field,
                    samples.position[begin : begin + CHUNK],
                    None if samples.extent is None else samples.extent[begin : begin + CHUNK],
                )[0]
                for begin in range(0, len(samples.position), CHUNK)
            ]
            none = samples.distance[:0]  # where all rays miss what is there
            found.append(half_depths(torch.cat([none, *density]), samples))
        maps.append(torch.cat(found).view(height, width))
    depth = torch.stack(maps)
    colors = depth.new_zeros(*depth.shape, 3)  # the field itself has them
    return Views(project, depth, colors, cameras.camera_to_world[:, :, 3])


def _views(trained: Shown) -> tuple[Cameras, Project]:
    """Some training views, of few pixels, and how points of the unit cube come to lie in them."""
    poses = torch.tensor(trained.settings.orbit["camera_to_world"])
    chosen = torch.linspace(0, len(poses) - 1, min(LOOKS, len(poses))).round().long()
    width, height = trained.settings.orbit["size"]
    smaller = min(1.0, LOOK_SIDE / max(width, height))
    size = max(1, round(width * smaller)), max(1, round(height * smaller))
    cameras = orbit_cameras(trained.settings, poses[chosen], size).to(trained.device)

    def project(camera: Tensor, points: Tensor) -> tuple[Tensor, Tensor]:
        pixels, depth = cameras.project(camera, points)
        distance = (points - cameras.camera_to_world[camera, :, 3]).norm(dim=1)
        return pixels, torch.where(depth > 0, distance, -distance)

    return cameras, project


def _training_rays(trained: Trained, device: torch.device) -> tuple[Tensor, Tensor]:
    poses = torch.tensor(trained.settings.orbit["camera_to_world"])
    width, height = trained.settings.orbit["size"]
    cameras = orbit_cameras(trained.settings, poses, (width, height)).to(device)
    random = torch.Generator().manual_seed(0)
    which = torch.randint(len(poses), (RAYS,), generator=random)
    pixels = torch.rand(RAYS, 2, generator=random) * torch.tensor([width, height])
    return cameras.rays(which.to(device), pixels.to(device))
