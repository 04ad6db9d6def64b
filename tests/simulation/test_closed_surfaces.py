"""Open surfaces: their holes are closed before baking, so that no point is on the wrong side."""

import igl
import numpy as np
import pytest
import trimesh

from e2r.formats import meshes
from e2r.simulation import bone_grids
from e2r.simulation.closed_surfaces import close_surface

vtk = pytest.importorskip("vtk")
NODES = 20_000


def vtk_surface(mesh):
    """The mesh in VTK."""
    from vtkmodules.util.numpy_support import numpy_to_vtk, numpy_to_vtkIdTypeArray

    points = vtk.vtkPoints()
    points.SetData(numpy_to_vtk(np.ascontiguousarray(mesh.vertices, np.float64), deep=True))
    rows = np.ascontiguousarray(np.insert(np.asarray(mesh.faces, np.int64), 0, 3, axis=1))
    cells = vtk.vtkCellArray()
    cells.SetCells(len(rows), numpy_to_vtkIdTypeArray(rows.ravel(), deep=True))
    surface = vtk.vtkPolyData()
    surface.SetPoints(points)
    surface.SetPolys(cells)
    return surface


def vtk_distance(mesh, points):
    """Signed distance to a closed mesh by VTK, negative inside."""
    distance = vtk.vtkImplicitPolyDataDistance()
    distance.SetInput(vtk_surface(mesh))
    return np.array([distance.EvaluateFunction(point) for point in points])


def igl_distance(mesh, points):
    """Signed distance by libigl, which takes the surface as it is."""
    kind = igl.SIGNED_DISTANCE_TYPE_FAST_WINDING_NUMBER
    faces = np.ascontiguousarray(mesh.faces, np.int64)
    return igl.signed_distance(points, np.array(mesh.vertices), faces, sign_type=kind)[0]


def nodes_of(grid):
    values, low, spacing = grid
    axes = [low[a] + spacing * np.arange(values.shape[a]) for a in range(3)]
    return np.stack(np.meshgrid(*axes, indexing="ij"), -1).reshape(-1, 3)


def without(mesh, centres, radius):
    """The mesh with a round hole at each of these triangles."""
    far = np.ones(len(mesh.faces), bool)
    for centre in centres:
        far &= (
            np.linalg.norm(mesh.triangles_center - mesh.triangles_center[centre], axis=1) > radius
        )
    torn = mesh.copy()
    torn.update_faces(far)
    return torn


@pytest.fixture(scope="module")
def vertebra(anatomy):
    return meshes.read_mesh(anatomy / "visible_human" / "L3.stl")


HOLES = {"one": ([100], 4.0), "three": ([100, 3000, 7000], 5.0), "a large one": ([4000], 9.0)}


@pytest.mark.parametrize("holes", HOLES)
def test_the_sides_of_a_torn_vertebra_are_those_of_the_whole_one(vertebra, holes, caplog):
    centres, radius = HOLES[holes]
    torn = without(vertebra, centres, radius)
    closed = close_surface(torn, "L3")
    grid = bone_grids._mesh_grid(closed, NODES)
    points = nodes_of(grid)
    right = vtk_distance(vertebra, points)
    sure = np.abs(right) > 1.0  # the cap differs from the bone that was there
    assert ((grid[0].ravel() < 0) == (right < 0))[sure].mean() > 0.9995
    same = vtk_distance(closed, points[::7])
    np.testing.assert_allclose(grid[0].ravel()[::7], same, rtol=0.01, atol=0.01)
    assert np.abs(igl_distance(torn, points[::7]) - same).max() > 0.5  # so wrong is it
    assert f"L3: has {len(centres)} holes" in caplog.text


@pytest.mark.parametrize("share", [0.05, 0.2, 0.5])
def test_no_side_is_wrong_where_a_ball_is_cut_flat(share):
    """The cap of a flat cut is exact."""
    whole = trimesh.creation.icosphere(3, 20.0)
    height = 20.0 - 40.0 * share
    whole.vertices[:, 2] = np.minimum(whole.vertices[:, 2], height)
    cut = whole.copy()
    cut.update_faces(whole.triangles[:, :, 2].min(axis=1) < height)
    grid = bone_grids._mesh_grid(close_surface(cut, "L3"), NODES)
    right = vtk_distance(whole, nodes_of(grid))
    np.testing.assert_allclose(grid[0].ravel(), right, rtol=0.01, atol=0.01)
    assert np.abs(igl_distance(cut, nodes_of(grid)) - right).max() > 1.0


def test_baking_closes_the_holes_and_leaves_whole_surfaces_alone(vertebra, anatomy):
    other = meshes.read_mesh(anatomy / "visible_human" / "L4.stl")
    assert close_surface(vertebra, "L3") is vertebra
    whole, _ = bone_grids.bake_meshes({"L3": vertebra, "L4": other}, nodes=NODES)
    grid = bone_grids._mesh_grid(vertebra, NODES)
    same = igl_distance(vertebra, nodes_of(grid)).astype(np.float32)
    np.testing.assert_array_equal(grid[0].ravel(), same)  # packaged results depend on it
    torn, _ = bone_grids.bake_meshes(
        {"L3": without(vertebra, [100], 5.0), "L4": other}, nodes=NODES
    )
    size = int(np.prod(whole.shape[1]))
    np.testing.assert_array_equal(whole.cells[1, :size], torn.cells[1, :size])
    assert ((whole.cells[0] < 0) != (torn.cells[0] < 0)).mean() < 5e-4


def test_sheets_are_refused():
    ball = trimesh.creation.icosphere(3, 20.0)
    dish = ball.copy()
    dish.update_faces(ball.triangles_center[:, 2] > 8.0)
    with pytest.raises(ValueError, match="L3: is an open sheet"):
        close_surface(dish, "L3")
    ball.invert()
    ball.update_faces(ball.triangles_center[:, 2] > -18.0)
    with pytest.raises(ValueError, match="L3: bounds no bone"):
        close_surface(ball, "L3")


def test_the_distance_is_right_where_two_pieces_overlap():
    balls = [trimesh.creation.icosphere(3, 20.0) for _ in range(2)]
    balls[1].apply_translation([15.0, 0.0, 0.0])
    both = trimesh.util.concatenate(balls)
    grid = bone_grids._mesh_grid(close_surface(both, "L3"), NODES)
    points = nodes_of(grid)
    apart = np.abs([np.linalg.norm(points - [x, 0, 0], axis=1) - 20.0 for x in (0, 15)]).min(0)
    inside = np.min([np.linalg.norm(points - [x, 0, 0], axis=1) for x in (0, 15)], 0) < 20.0
    np.testing.assert_allclose(grid[0].ravel(), np.where(inside, -apart, apart), atol=0.35)


def test_a_surface_of_two_sides_is_refused():
    ball = trimesh.creation.icosphere(2, 20.0)
    other = ball.copy()
    other.invert()
    with pytest.raises(ValueError, match="L3: encloses no bone"):
        close_surface(trimesh.util.concatenate([ball, other]), "L3")
