# ---
# jupyter:
#   jupytext:
#     text_representation: {extension: .py, format_name: percent}
#   kernelspec: {display_name: Python 3, language: python, name: python3}
# ---

# %% [markdown]
# # Your own data
#
# One surface a vertebra (STL, PLY, OBJ) or a CT label map; one frame (colour and depth, or a
# coloured cloud); that is all. This page makes a case of loose files, registers it, and shows what
# can be wrong with files, since something always is.

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

from e2r.config import EvaluationConfig, InitialPose
from e2r.datasets import case_folder, ct, meshes, ply
from e2r.datasets.case import true_pose
from e2r.evaluation import runner
from e2r.evaluation.calibration import load_calibration
from e2r.evaluation.predictions import prediction_line
from e2r.geometry import poses
from e2r.registration.schedule import Schedule
from e2r.runtime.compile_cache import enable_cache
from e2r.simulation import simulator
from e2r.training.trained_model import PACKAGED, load_trained
from e2r.visualisation import figures as draw

SMALL = bool(os.environ.get("E2R_SMALL"))
enable_cache()  # compiled once, for all notebooks
figures = {}

# %% [markdown]
# ## Your files
# Put your own paths here. Without any, files are made of a simulated frame, as three people would
# hand them over: the radiologist's surfaces, the camera's two pictures, a calibration on a piece of
# paper.

# %%
SURFACES = None  # a folder with L1.stl, L2.stl, ..., mm, all in one frame: that of the CT
COLOUR = None  # 8-bit PNG
DEPTH = None  # 16-bit PNG, as large; 0 where there is none
CAMERA = {"fx": 0.0, "fy": 0.0, "cx": 0.0, "cy": 0.0, "depth_scale": 1.0}  # pixels; steps a mm

folder = Path(tempfile.mkdtemp(prefix="e2r_own_"))
if SURFACES is None:
    specimen = simulator.procedural_specimen(jax.random.key(4), "patient")
    settings = simulator.SimulationConfig(wound_fraction=(0.3, 0.8), min_bone_fraction=0.05)
    (handed,) = simulator.simulate_frames(jax.random.key(6), specimen, settings, count=1)
    SURFACES, COLOUR, DEPTH = folder / "surfaces", folder / "rgb.png", folder / "d.png"
    ct.write(handed.model, SURFACES)
    case_folder.write_images(handed.image, COLOUR, DEPTH, depth_scale=50.0)
    CAMERA = {name: getattr(handed.image, name) for name in ("fx", "fy", "cx", "cy")}
    CAMERA["depth_scale"] = 50.0
print(sorted(path.name for path in folder.rglob("*.*")))

# %% [markdown]
# A CT label map instead of surfaces? `python -m e2r convert ct SEGMENTATION.nii.gz CASE/model`, or
# here `ct.write(ct.read_labels(path), folder)`.
#
# ## A case folder
# The one format that every tool of e2r reads. Four files and the surfaces; nothing more.

# %%
own = folder / "cases" / "patient_01"
(own / "model").mkdir(parents=True)
meshes = meshes.read_meshes(SURFACES)
for path in sorted(SURFACES.iterdir()):
    shutil.copy(path, own / "model" / path.name)
shutil.copy(COLOUR, own / "color.png")
shutil.copy(DEPTH, own / "depth.png")
with Image.open(COLOUR) as picture:
    width, height = picture.size
(own / "camera.json").write_text(json.dumps({"width": width, "height": height, **CAMERA}))
about = {"id": "patient_01", "levels": list(meshes), "unit": "mm", "source": "patient_01"}
(own / "case.json").write_text(json.dumps(about))

case = case_folder.read_case(own)
print(f"{case.id}: {len(case.points)} points, {len(case.model)} levels")
print(f"depth {np.quantile(case.points[:, 2], [0.05, 0.95]).round()} mm: is that your distance?")

# %% [markdown]
# Look before you register: is the cloud upright, the colour on the right points, the depth right?

# %%
figures["cloud"] = draw.scene_figure(case.points, case.colors)
figures["cloud"]

# %% [markdown]
# The surfaces, where the CT has them: one closed vertebra each, none mirrored, all in one frame.

# %%
thin = {name: draw.thinned(mesh, 2000) for name, mesh in case.model.items()}
corners = np.concatenate([np.asarray(mesh.vertices)[::20] for mesh in thin.values()])
figures["model"] = draw.scene_figure(corners, surfaces=thin)
for name, mesh in case.model.items():
    print(f"{name}: {mesh.extents.round()} mm, {'closed' if mesh.is_watertight else 'open'}")
figures["model"]

# %% [markdown]
# ## Register it
# On the command line:
#
# ```
# python -m e2r register patient_01
# python -m e2r export patient_01 --output out     # for ITK, 3D Slicer, mesh viewers
# ```
#
# The same from Python. `auto` needs no start. In the small setting of the tests the start is a
# rough pose in a file instead, as one would give that of the frame before.

# %%
config, params = load_trained(PACKAGED)
if SMALL:
    rough = poses.perturb(
        jax.random.key(0), true_pose(handed), case.points.mean(0), degrees=1.0, mm=1.0
    )
    (folder / "start.json").write_text(json.dumps(poses.to_matrix(rough).tolist()))
    job = EvaluationConfig(
        start=InitialPose(str(folder / "start.json")),
        batch=1,
        num_samples=1,
        per_level=False,
        schedule=Schedule(steps=10),
    )
else:
    job = EvaluationConfig(batch=1)
(result,) = runner.run([case], config, params, job)
line = prediction_line(result, job.head, load_calibration(PACKAGED))
found = {name: poses.from_matrix(matrix, name) for name, matrix in line["T_camera_model"].items()}
print(f"accepted: {line['accepted']}; expected TRE: {line['expected_tre_mm']}")
print(np.array2string(np.array(next(iter(line["T_camera_model"].values()))), precision=3))

# %%
mask = result.weights[job.head]
rows = result.rows
figures["registered"] = draw.scene_figure(
    case.points[rows[rows >= 0]],
    case.colors[rows[rows >= 0]],
    weights=mask[rows >= 0],
    surfaces=thin,
    poses=found,
)
figures["registered"]

# %% [markdown]
# A simulated hand-over knows the truth, so this one can be checked; yours cannot, unless you add a
# `truth.json`. Then `expected TRE` and `accepted` are what there is, and the picture above.

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
# ## A cloud instead of pictures
# `scene.ply` with x y z in mm (camera frame: x right, y down, z forward) and red green blue. Where
# a frame is there as well, the frame wins.

# %%
other = folder / "cases" / "patient_01_cloud"
shutil.copytree(own / "model", other / "model")
(other / "case.json").write_text(json.dumps({**about, "id": "patient_01_cloud"}))
ply.write_cloud(case, other / "scene.ply")
same = case_folder.read_case(other)
print(f"{len(same.points)} points, as far as {np.abs(same.points - case.points).max():.1e} mm off")

# %% [markdown]
# ## What can be wrong
# Each of these is caught when the case is read, in one sentence. Not caught can be what is no
# contradiction: a camera matrix of another resolution, levels named one off, a mirrored CT. Hence
# the pictures above.

# %%


def attempt(title, change):
    """Breaks a copy of the case, and prints what reading it says."""
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
    ply.write_cloud(replace(same, points=-same.points), broken / "scene.ply")


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
# Fill in the paths at the top. Several frames of one patient? One case folder each; the model's
# search lattice is kept in `CASE/model/surface.npz`. A start from the frame before: `--start
# predictions.jsonl`. Does it fail on your data? `python -m experiments.train base --cases FOLDER`
# learns from cases with a `truth.json`.
