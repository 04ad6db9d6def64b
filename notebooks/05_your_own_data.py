# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Your own data
#
# A case needs one surface a vertebra (STL, PLY, OBJ) or a CT label map, and one frame (colour and
# depth, or a coloured cloud). This page makes a case of loose files and registers it. Then it shows
# what can be wrong with files.

# %%
import json
import os
import shutil
import tempfile
from dataclasses import replace
from pathlib import Path

import jax
import numpy as np
import trimesh
from PIL import Image

from e2r.config import EvaluationConfig
from e2r.datasets import case_folder
from e2r.datasets.case import true_pose
from e2r.evaluation import runner
from e2r.evaluation.calibration import load_calibration
from e2r.evaluation.models import Model
from e2r.evaluation.predictions import make_prediction
from e2r.formats import meshes, ply
from e2r.geometry import poses
from e2r.pipeline import ProgramConfig
from e2r.registration.schedule import Schedule
from e2r.runtime.compile_cache import enable_cache
from e2r.simulation import simulator, specimens
from e2r.training.trained_model import PACKAGED, load_trained
from e2r.visualisation import figures as draw

SMALL = bool(os.environ.get("E2R_SMALL"))
enable_cache()  # all notebooks share compiled programs
plots = {}

# %% [markdown]
# ## Your files
# Put your own paths here. Without them, this page makes files of a simulated frame: surfaces as a
# radiologist would give them, the camera's two images, and a calibration on a piece of paper.

# %%
SURFACES = None  # a folder with L1.stl, L2.stl, ..., mm, all in the CT's coordinates
COLOUR = None  # 8-bit PNG
DEPTH = None  # 16-bit PNG of the same size; 0 where there is no depth
CAMERA = {
    "fx": 0.0,
    "fy": 0.0,
    "cx": 0.0,
    "cy": 0.0,
    "depth_scale": 1.0,
}  # pixels; depth steps in a mm

folder = Path(tempfile.mkdtemp(prefix="e2r_own_"))
if SURFACES is None:
    specimen = specimens.procedural_specimen(jax.random.key(4), "patient")
    settings = simulator.SimulationConfig(wound_fraction=(0.3, 0.8), min_bone_fraction=0.05)
    (handed,) = simulator.simulate_frames(jax.random.key(6), specimen, settings, count=1)
    SURFACES, COLOUR, DEPTH = folder / "surfaces", folder / "rgb.png", folder / "d.png"
    meshes.write_meshes(handed.model, SURFACES)
    case_folder.write_images(handed.image, COLOUR, DEPTH, depth_scale=50.0)
    CAMERA = {name: getattr(handed.image, name) for name in ("fx", "fy", "cx", "cy")}
    CAMERA["depth_scale"] = 50.0
print(sorted(path.name for path in folder.rglob("*.*")))

# %% [markdown]
# A CT label map instead of surfaces? `e2r convert ct SEGMENTATION.nii.gz CASE/model`, or
# here `meshes.write_meshes(ct.read_labels(path), folder)`.
#
# ## A case folder
# Every tool of e2r reads this format. It has four files and the surfaces.

# %%
own = folder / "cases" / "patient_01"
(own / "model").mkdir(parents=True)
surfaces = meshes.read_meshes(SURFACES)
for path in sorted(SURFACES.iterdir()):
    shutil.copy(path, own / "model" / path.name)
shutil.copy(COLOUR, own / "color.png")
shutil.copy(DEPTH, own / "depth.png")
with Image.open(COLOUR) as picture:
    width, height = picture.size
(own / "camera.json").write_text(json.dumps({"width": width, "height": height, **CAMERA}))
about = {"id": "patient_01", "levels": list(surfaces), "unit": "mm", "source": "patient_01"}
(own / "case.json").write_text(json.dumps(about))

case = case_folder.read_case(own)
print(f"{case.id}: {len(case.points)} points, {len(case.model)} levels")
print(f"depth {np.quantile(case.points[:, 2], [0.05, 0.95]).round()} mm: is that your distance?")

# %% [markdown]
# Look before you register. Is the cloud upright? Is the colour on the right points? Is the depth
# right?

# %%
plots["cloud"] = draw.scene_figure(case.points, case.colors)
plots["cloud"]

# %% [markdown]
# The surfaces in the CT's coordinates. Each should be one closed vertebra, and none should be
# mirrored.

# %%
thin = {name: draw.simplify_mesh(mesh, 2000) for name, mesh in case.model.items()}
corners = np.concatenate([np.asarray(mesh.vertices)[::20] for mesh in thin.values()])
plots["model"] = draw.scene_figure(corners, surfaces=thin)
for name, mesh in case.model.items():
    print(f"{name}: {mesh.extents.round()} mm, {'closed' if mesh.is_watertight else 'open'}")
plots["model"]

# %% [markdown]
# ## Register it
# On the command line:
#
# ```
# python -m e2r register patient_01
# python -m e2r export patient_01 --output out     # for ITK, 3D Slicer, mesh viewers
# ```
#
# The same from Python. No initial pose is needed. In the small setting of the tests, a file gives a
# rough initial pose, as one would give the pose of the frame before.

# %%
config, params = load_trained(PACKAGED)
if SMALL:
    rough = poses.perturb(
        jax.random.key(0), true_pose(handed), case.points.mean(0), degrees=1.0, mm=1.0
    )
    (folder / "start.json").write_text(json.dumps(poses.to_matrix(rough).tolist()))
    job = EvaluationConfig(
        ProgramConfig(num_samples=1, per_level=False, schedule=Schedule(steps=10)),
        start=str(folder / "start.json"),
        batch=1,
    )
else:
    job = EvaluationConfig(batch=1)
(result,) = runner.run([case], Model(config, params), job=job)
prediction = make_prediction(result, job.primary_mask, load_calibration(PACKAGED))
found = prediction.poses
print(f"accepted: {prediction.accepted}; expected TRE: {prediction.expected_tre_mm}")
print(np.array2string(poses.to_matrix(next(iter(found.values()))), precision=3))

# %%
mask = result.weights[job.primary_mask]
rows = result.rows
plots["registered"] = draw.scene_figure(
    case.points[rows[rows >= 0]],
    case.colors[rows[rows >= 0]],
    weights=mask[rows >= 0],
    surfaces=thin,
    poses=found,
)
plots["registered"]

# %% [markdown]
# The simulated frame has a true pose, so its result can be checked. Yours has none, unless you add
# a `truth.json`. Without it, judge by `expected TRE`, by `accepted`, and by the plot above.

# %%
if case.truth is None and "handed" in globals():
    apart = [
        np.linalg.norm(
            np.asarray(poses.apply(found[name], points.astype(np.float32)))
            - np.asarray(poses.apply(handed.truth[name], points.astype(np.float32))),
            axis=1,
        ).mean()
        for name, points in handed.targets.items()
    ]
    error = float(np.mean(apart))
    print(f"TRE: {error:.2f} mm")

# %% [markdown]
# ## A cloud instead of images
# `scene.ply` holds x y z in mm (camera frame: x right, y down, z forward) and red green blue. If
# the folder has images too, e2r reads the images.

# %%
other = folder / "cases" / "patient_01_cloud"
shutil.copytree(own / "model", other / "model")
(other / "case.json").write_text(json.dumps({**about, "id": "patient_01_cloud"}))
ply.write_cloud(case.scene, other / "scene.ply")
same = case_folder.read_case(other)
print(f"{len(same.points)} points, as far as {np.abs(same.points - case.points).max():.1e} mm off")

# %% [markdown]
# ## What can be wrong
# Reading a case finds each of these errors and explains it in one sentence. It cannot find an error
# that contradicts nothing: a camera matrix of another resolution, levels named one off, a mirrored
# CT. A registration checks size and mirror image; for the rest, look at the plots above.

# %%


def attempt(title, change):
    """Breaks a copy of the case, and prints the error that reading it raises."""
    broken = folder / "broken"
    shutil.rmtree(broken, ignore_errors=True)
    shutil.copytree(other, broken)
    change(broken)
    try:
        case_folder.read_case(broken)
    except ValueError as problem:
        print(f"{title}:\n    {str(problem).replace(str(folder), '...')}")
        return str(problem)
    return ""


first = next(iter(case.model))


def in_metres(broken):
    small = trimesh.load(broken / "model" / f"{first}.stl")
    small.apply_scale(0.001).export(broken / "model" / f"{first}.stl")


def behind(broken):
    ply.write_cloud(replace(same, points=-same.points).scene, broken / "scene.ply")


def mirrored(broken):
    matrix = np.diag([1.0, 1.0, -1.0, 1.0]).tolist()
    (broken / "truth.json").write_text(json.dumps({"T_camera_model": {first: matrix}}))


said = [
    attempt("a surface in metres", in_metres),
    attempt("a level without a surface", lambda at: (at / "model" / f"{first}.stl").unlink()),
    attempt("a camera that looks the other way", behind),
    attempt("a mirrored pose", mirrored),
    attempt("no scene", lambda at: (at / "scene.ply").unlink()),
    attempt("a file that is not JSON", lambda at: (at / "case.json").write_text("levels: L1")),
]
shutil.rmtree(folder)

# %% [markdown]
# ## Your turn
# Fill in the paths at the top. If you have several frames of one patient, make one case folder for
# each. e2r keeps the model's search structure in `CASE/model/surface.npz`. To begin at the pose of
# the frame before, save its 4x4 matrix and give `--start POSE.json`. If e2r fails on your data,
# `python -m experiments.train base --cases FOLDER` learns from cases with a `truth.json`.
