"""Inputs as people really have them: right, or one sentence; never an accepted pose that is wrong.

A property-based test makes variants of every kind of input from simulated patients, whose truth is
known. Each goes the way a user goes: ``e2r convert``, then a registration.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import shutil
import traceback
from collections import Counter
from dataclasses import replace
from pathlib import Path

import hypothesis.strategies as st
import jax
import numpy as np
import pytest
from camera_variants import camera_file, depth_camera
from conftest import TINY
from hypothesis import HealthCheck, Phase, assume, given, settings
from label_map_variants import label_map
from model_variants import model
from PIL import Image
from scene_variants import cloud, depth_picture
from variants import Patient, Variant, convert, reading_error, write_frame

import e2r
from e2r.cli import main
from e2r.formats import meshes
from e2r.geometry import surface_cache, surfaces
from e2r.simulation import simulator

KINDS = (
    *[camera_file] * 4,
    *[depth_picture] * 4,
    *[cloud] * 4,
    *[model] * 5,
    *[label_map] * 3,
    depth_camera,
)
RIGHT_MM = 5.0
KNOWN_GAPS = ("cropped by 5 pixels", "moved by 10 pixels", "5 % too long")
"""Mistakes that move or stretch the whole frame a little, and that no check finds in 96x72 pixels.

They count as wrong; a run of the large test that meets only these is an expected failure."""
INPUTS = Path(__file__).resolve().parents[2].parent / "shared" / "inputs"


def tries(count: int):
    """This number of variants, the same in every run; all are tried, whatever some do."""
    return settings(
        max_examples=count,
        deadline=None,
        derandomize=True,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )


def simulated_patients(count: int, factory: pytest.TempPathFactory) -> list[Patient]:
    """Specimens, a frame of each."""
    groups = simulator.simulate_specimens(
        jax.random.key(2300), TINY.scenes.simulation, specimens=count, frames=1, prefix="patient"
    )
    found = []
    for (case,) in groups:
        folder = factory.mktemp("patient") / "model"
        meshes.write_meshes(case.model, folder)
        found.append(Patient(case, folder))
    return found


@pytest.fixture(scope="module")
def patients(tmp_path_factory) -> list[Patient]:
    return simulated_patients(4, tmp_path_factory)


@pytest.fixture(scope="module")
def two_patients(tmp_path_factory) -> list[Patient]:
    return simulated_patients(2, tmp_path_factory)


def say(words: tuple[str, ...]) -> tuple[int, str]:
    """The exit code of a command, and what it says on stderr."""
    heard = io.StringIO()
    with contextlib.redirect_stderr(heard), contextlib.redirect_stdout(io.StringIO()):
        code = main(list(words))
    return code, heard.getvalue()


def one_sentence(said: str, folder: Path) -> str | None:
    """What is wrong with a refusal; None if it is one sentence of a file or an option."""
    lines = [line for line in said.splitlines() if not line.startswith("e2r: note: ")]
    if len(lines) != 1 or not lines[0].startswith("e2r: ") or "Traceback" in said:
        return f"is not one sentence: {said!r}"
    if not any(text in lines[0] for text in (str(folder), str(INPUTS), "--", "patient")):
        return f"names no file: {lines[0]}"
    return None if len(lines[0]) > 40 else f"says too little: {lines[0]}"


def read(variant: Variant, folder: Path) -> tuple[str | None, str]:
    """Runs the commands.

    Returns:
      How they fail the user, if they do; and the refusal, if any.
    """
    for words in variant.commands:
        try:
            code, said = say(words)
        except BaseException:
            return f"a traceback: {traceback.format_exc()}", ""
        if code:
            wrong = one_sentence(said, folder)
            return (wrong if code == 2 else f"exit code {code}: {said}"), said
    return None, ""


def draw_variant(data, folder: Path, patients: list[Patient]) -> tuple[Variant, Patient]:
    """A fresh folder with a variant of any kind, of any patient."""
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    at = data.draw(st.integers(0, len(patients) - 1))
    patient, other = patients[at], patients[(at + 1) % len(patients)]
    make = data.draw(st.sampled_from(KINDS))
    return make(data.draw, folder, patient, other), patient


def register(variant: Variant, patient: Patient, made: Path, trained: e2r.Model) -> dict:
    """The outcome of a read case, and the figures behind it."""
    case = e2r.read_case(made)
    try:
        result = e2r.register(replace(case, folder=None), trained)
    except ValueError as error:
        return {"outcome": "refused", "said": str(error)}
    errors = patient.level_errors(variant, result.poses)
    worst = max(errors.values(), default=float("inf"))
    verdict = "not accepted"
    if result.accepted:
        verdict = "accepted, right" if worst <= RIGHT_MM else "accepted, wrong"
    scale = result.details.scales["learnt"]
    figures = {"worst_mm": worst, "lateral": scale.lateral, "depth": scale.depth}
    return {"outcome": verdict, "expected_mm": result.expected_tre_mm, **figures}


def try_variants(
    count: int, patients: list[Patient], folder: Path, trained: e2r.Model | None, *, most: int = 0
) -> list[dict]:
    """Reads this number of variants, and registers those that are read, up to ``most``.

    With ``E2R_VARIANT_ROWS``, each row is added to that file at once.
    """
    rows: list[dict] = []
    seen: set[tuple[str, ...]] = set()
    kept = os.environ.get("E2R_VARIANT_ROWS")

    @tries(count)
    @given(st.data())
    def check(data):
        variant, patient = draw_variant(data, folder, patients)
        key = (patient.case.id, variant.kind, variant.how)
        assume(key not in seen)
        seen.add(key)
        wrong, refusal = read(variant, folder)
        about = {"patient": patient.case.id, "kind": variant.kind, "how": variant.how}
        row: dict = {**about, "right": variant.right}
        made = folder / "made"
        if wrong:
            row |= {"outcome": "broken", "said": wrong}
        elif refusal:
            row |= {"outcome": "refused", "said": refusal}
        elif variant.right and (far := reading_error(patient, variant, e2r.read_case(made))):
            row |= {"outcome": "broken", "said": far}
        elif trained and sum("worst_mm" in row for row in rows) < most:
            try:
                row |= register(variant, patient, made, trained)
                row["known gap"] = any(words in variant.how for words in KNOWN_GAPS)
            except Exception:
                row |= {"outcome": "broken", "said": traceback.format_exc()}
        else:
            row |= {"outcome": "read"}
        rows.append(row)
        if kept:
            with Path(kept).open("a") as file:
                file.write(json.dumps(row) + "\n")

    check()
    return rows


def complaints(rows: list[dict], *, known: bool = False) -> str:
    bad = [row for row in rows if row["outcome"] in ("broken", "accepted, wrong")]
    return "\n".join(json.dumps(row) for row in bad if row.get("known gap", False) == known)


@pytest.fixture
def shared_surfaces(monkeypatch):
    """Most variants share their surface."""
    build, kept = surfaces.build_surface, {}

    def build_once(model, **settings):
        key = surface_cache.fingerprint(model)
        if key not in kept:
            kept[key] = build(model, **settings)
            while len(kept) > 8:
                kept.pop(list(kept)[4])  # the first ones are the patients' own
        return kept[key]

    monkeypatch.setattr(surfaces, "build_surface", build_once)


def test_every_variant_is_read_right_or_refused_in_one_sentence(two_patients, tmp_path):
    """What means something in its program is read as it means."""
    rows = try_variants(40, two_patients, tmp_path / "case", None)
    assert not complaints(rows), complaints(rows)
    counts = Counter(row["outcome"] for row in rows)
    assert min(counts["refused"], counts["read"]) > 10, counts


def shared_inputs() -> list[Path]:
    """Files of cameras, clouds and label maps, and folders of pictures and surfaces."""
    return [path for kind in sorted(INPUTS.glob("*/")) for path in sorted(kind.iterdir())]


def with_shared_input(sample: Path, folder: Path, patient: Patient) -> Variant:
    """A patient's frame with a sample's model or camera, or a sample's frame of his model."""
    kind, frame, made = sample.parent.name, folder / "frame", folder / "model"
    commands: tuple[tuple[str, ...], ...] = (convert(frame, made),)
    if kind in ("label_maps", "models"):
        write_frame(frame, patient)
        read_model = ("convert", "ct", str(sample), str(made))
        commands = (convert(frame, sample),) if kind == "models" else (read_model, *commands)
    elif kind == "intrinsics":  # they are of pictures of 128x96
        frame.mkdir(parents=True)
        larger = [
            np.asarray(Image.fromarray(part).resize((128, 96), Image.Resampling.NEAREST))
            for part in (patient.image.color, np.round(patient.image.depth * 50).astype(np.uint16))
        ]
        Image.fromarray(larger[0]).save(frame / "color.png")
        Image.fromarray(larger[1]).save(frame / "depth.png")
        shutil.copy(sample, frame / "intrinsics.json")
        commands = (convert(frame, patient.model),)
    else:
        path = folder / f"frame{sample.suffix}"
        (shutil.copytree if sample.is_dir() else shutil.copy)(sample, path)
        unit = ("--unit", "m") if sample.name.endswith("_m") else ()
        commands = (convert(path, patient.model, *unit),)
    return Variant(sample.parent.name, sample.name, commands, model_places=None)


@pytest.mark.skipif(not INPUTS.is_dir(), reason="no shared inputs beside the project")
def test_every_shared_input_is_read_or_refused_in_one_sentence(two_patients, tmp_path):
    samples = shared_inputs()
    assert len(samples) >= 19
    for sample in samples:
        folder = tmp_path / sample.name
        folder.mkdir()
        wrong, refusal = read(with_shared_input(sample, folder, two_patients[0]), tmp_path)
        assert wrong is None, (sample, wrong)
        assert refusal or e2r.read_case(folder / "made").points.size, sample


@pytest.mark.slow
@pytest.mark.usefixtures("shared_surfaces")
@pytest.mark.skipif(not INPUTS.is_dir(), reason="no shared inputs beside the project")
def test_no_shared_input_ends_in_an_accepted_pose(patients, tmp_path):
    """They are toys, or other patients than the one whose frame or model stands beside them."""
    trained, outcomes = e2r.load_model(), Counter()
    for sample in shared_inputs():
        folder = tmp_path / sample.name
        folder.mkdir()
        variant = with_shared_input(sample, folder, patients[0])
        _, refusal = read(variant, folder)
        outcome = "refused"
        if not refusal:
            outcome = register(variant, patients[0], folder / "made", trained)["outcome"]
        assert not outcome.startswith("accepted"), sample
        outcomes[outcome] += 1
    print(json.dumps(outcomes))
    assert min(outcomes["refused"], outcomes["not accepted"]) > 3, outcomes


@pytest.mark.slow
@pytest.mark.usefixtures("shared_surfaces")
def test_no_variant_ends_in_an_accepted_pose_that_is_wrong(patients, tmp_path):
    """Three hundred variants, the packaged model, one compiled program."""
    rows = try_variants(300, patients, tmp_path / "case", e2r.load_model(), most=300)
    assert len(rows) == 300
    counts = Counter(row["outcome"] for row in rows)
    print(json.dumps(counts))
    assert not complaints(rows), complaints(rows)
    assert min(counts["refused"], counts["accepted, right"], counts["not accepted"]) > 20, counts
    if gaps := complaints(rows, known=True):
        pytest.xfail(f"mistakes that no check finds yet end in accepted poses:\n{gaps}")
