"""Adapts a model to a patient: simulate, train on, blend with the base, compare, calibrate.

The folder of an adapted model holds ``patient.json`` (whose it is, and how it was adapted),
``run/`` (the training), ``checkpoint/`` and ``calibration.json`` (the adapted model), ``base/``
(the model it began with) and ``report.json``. An interrupted adaptation goes on where it stopped.
"""

from __future__ import annotations

import dataclasses
import json
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import trimesh

from e2r.adaptation.comparison import compare
from e2r.adaptation.patient_cases import PatientCases
from e2r.adaptation.report import REPORT_FILE, CurvePoint, Report, write_report
from e2r.adaptation.settings import OPEN_END, AdaptationConfig, patient_scenes, training_config
from e2r.config import TrainingConfig
from e2r.evaluation.calibration import CALIBRATION_FILE, save_calibration
from e2r.evaluation.calibration_fit import fit_calibration
from e2r.evaluation.fitted_cases import save_cases
from e2r.evaluation.models import BASE, Model, read_model
from e2r.evaluation.patient import PATIENT_FILE, level_sizes, read_patient
from e2r.geometry.lens_distortion import Lens
from e2r.runtime.atomic_files import atomic_write
from e2r.training import batches, checkpoints, held_out, loop, sources
from e2r.training.metrics_log import read_log
from e2r.training.trained_model import save_trained
from e2r.types import Params

RUN = "run"
"""In the folder of an adapted model: its training."""
MEASURED_STEPS = 20
"""Steps by which the time of one is measured; the fewest of an adaptation."""
STEPS_PER_FRAME = 5.0
"""A held-out frame takes about as long to compare as so many training steps."""
CURVE_POINTS = 4
"""Times at which the adaptation is watched on the held-out frames, beside the start."""


def adapt(
    base: Model,
    surfaces: Mapping[str, trimesh.Trimesh],
    output: Path,
    *,
    config: AdaptationConfig = AdaptationConfig(),
    lens: Lens | None = None,
) -> Model:
    """Adapts a model to a patient's vertebrae, or goes on with an adaptation.

    Args:
      base: the model to begin with; it is asked beside the adapted one.
      surfaces: level -> surface of the patient, mm; two levels or more.
      output: folder of the adapted model.
      config: of the adaptation.
      lens: of the room's camera.

    Returns:
      the adapted model, calibrated on the base's calibration cases and on frames of this patient.

    Raises:
      ValueError: the base is itself adapted, or keeps no calibration case with a wrong level; the
        surfaces cannot be simulated; the folder holds another adaptation or a model; another
        process trains in it.
      KeyboardInterrupt: the steps done are saved.
    """
    if base.patient is not None:
        raise ValueError("the model is adapted to a patient already; begin with its base")
    if all(case.safe for case in base.fitted):  # so nothing would show what is to be refused
        raise ValueError(
            "the model keeps no calibration case with a wrong level; calibrate it by "
            "experiments.calibrate first"
        )
    known = read_patient(output)
    if known is None and checkpoints.saved_steps(output / "checkpoint"):
        raise ValueError(f"{output}: holds another model, which would be lost; name a new folder")
    began = time.perf_counter()
    training = training_config(base.config, config)
    scenes = patient_scenes(base.config.scenes.simulation, config, lens)
    asked = _asked(base, surfaces, training, config=config, scenes=scenes)
    if known is not None:
        _require_same(known["settings"], asked, output)
    if known is not None and not _wants_more(known, config) and (output / REPORT_FILE).is_file():
        return read_model(output)
    cases = PatientCases(surfaces, scenes=scenes, base=base.config.scenes.simulation, config=config)
    bank = sources.from_cases(cases.to_train_on(), training, what="training scenes")
    unseen = cases.held_out()
    steps = batches.uniform_batches(training, bank)
    if known is None or _wants_more(known, config):
        known = {"settings": asked, "steps": config.steps or None, "minutes": config.minutes}
        known["sizes"] = level_sizes(surfaces)
        for stale in (REPORT_FILE, CALIBRATION_FILE):
            (output / stale).unlink(missing_ok=True)
        _write_patient(known, output)
    _write_base(base, output / BASE)
    inputs = loop.RunInputs(training, steps, source=asked["source"], initial_params=base.params)
    if known["steps"] is None:
        known["steps"] = _steps_that_fit(inputs, output / RUN, config, began=began)
        _write_patient(known, output)
    watched = held_out.watch(unseen, training, total=len(unseen))
    blended = _blend(base.params, config.share)
    state = loop.train(
        inputs,
        output / RUN,
        stop_after=known["steps"],
        log_options=loop.LogOptions(
            held_out=lambda params: watched(blended(params)),
            held_out_every=max(1, known["steps"] // CURVE_POINTS),
        ),
    )
    known["steps"] = int(state.step)  # a stop while measuring may have left more than asked
    params = jax.tree.map(np.asarray, blended(state.params))
    compared = compare(unseen, base, dataclasses.replace(base, params=params))
    known["believed"] = compared.believed
    _write_patient(known, output)
    if compared.believed == "base":
        params = base.params
    save_trained(training, params, output, step=int(state.step))
    fitted = (*base.fitted, *compared.fitted)
    save_cases(fitted, output)
    save_calibration(fit_calibration(fitted), output)
    start = watched(base.params)
    curve = [
        CurvePoint(0, 0.0, float(start.tre_mm), float(start.success_2mm)),
        *_curve(output / RUN, known["steps"]),
    ]
    seconds = time.perf_counter() - began
    report = Report(compared.rows, curve, known["steps"], seconds, compared.believed)
    write_report(report, output / REPORT_FILE)
    return read_model(output)


def _asked(
    base: Model,
    surfaces: Mapping[str, trimesh.Trimesh],
    training: TrainingConfig,
    *,
    config: AdaptationConfig,
    scenes: Any,
) -> dict[str, Any]:
    """What identifies an adaptation, as JSON values: all but the time that it may take."""
    chosen = dataclasses.asdict(config)
    del chosen["minutes"], chosen["steps"]
    digest = checkpoints.digest(base.params)[:12]
    shapes = level_sizes(surfaces)
    asked = {
        "source": f"a patient with {', '.join(surfaces)}, begun with the parameters {digest}",
        "sizes": {name: [round(size, 3) for size in sizes] for name, sizes in shapes.items()},
        "adaptation": chosen,
        "scenes": dataclasses.asdict(scenes),
        "network": dataclasses.asdict(training.network),
    }
    found: dict[str, Any] = json.loads(json.dumps(asked, default=str))
    return found


def _require_same(found: Mapping[str, Any], asked: Mapping[str, Any], output: Path) -> None:
    """Refuses a folder that holds the adaptation of other surfaces, or with other settings."""
    named = {"sizes": "surfaces", "source": "base model or levels"}
    for part in ("source", "sizes", "adaptation", "scenes", "network"):
        if found.get(part) != asked[part]:
            what = named.get(part, f"settings ({part})")
            raise ValueError(
                f"{output / PATIENT_FILE}: is an adaptation with other {what}; name another "
                "--output, or delete this folder"
            )


def _wants_more(known: Mapping[str, Any], config: AdaptationConfig) -> bool:
    """Whether more is asked for than the folder's adaptation had."""
    if known["steps"] is None:
        return config.steps > 0
    if config.steps:
        return config.steps > int(known["steps"])
    return config.minutes > float(known["minutes"])


def _write_patient(known: Mapping[str, Any], output: Path) -> None:
    """Writes whose the model is, and how it is adapted."""
    output.mkdir(parents=True, exist_ok=True)
    with atomic_write(output / PATIENT_FILE) as part:
        part.write_text(json.dumps(known, indent=1) + "\n")


def _steps_that_fit(
    inputs: loop.RunInputs, run: Path, config: AdaptationConfig, *, began: float
) -> int:
    """The number of steps for which there is time, by the time that the first of them take."""
    clock: list[float] = []
    end = loop.steps_done(inputs.config, run, source=inputs.source) + MEASURED_STEPS
    if end > OPEN_END:
        return OPEN_END
    options = loop.LogOptions(log_every=1, on_log=lambda _: clock.append(time.perf_counter()))
    loop.train(inputs, run, stop_after=end, log_options=options)
    seconds = float(np.median(np.diff(clock)))  # the first step compiled
    left = 60.0 * config.minutes - (clock[-1] - began)
    more = max(0, int(left / seconds - STEPS_PER_FRAME * config.held_out))
    return min(end + more, OPEN_END)


def _blend(base: Params, share: float) -> Callable[[Params], Params]:
    """The function that goes a share of the way from the base's parameters to trained ones.

    A blend keeps what the base knows of frames unlike the simulated ones (Wortsman et al., 2022).
    """
    return lambda trained: jax.tree.map(lambda a, b: a + share * (b - a), base, trained)


def _write_base(base: Model, folder: Path) -> None:
    """Keeps the base beside the adapted model, once."""
    if checkpoints.latest_step(folder) is not None:
        return
    folder.mkdir(parents=True, exist_ok=True)
    if base.calibration is not None:
        save_calibration(base.calibration, folder)
    save_cases(base.fitted, folder)
    # last, for it is what says that the base is there
    save_trained(base.config, base.params, folder, step=base.config.optimisation.steps)


def _curve(run: Path, steps: int) -> list[CurvePoint]:
    """The held-out figures along the training."""
    return [
        CurvePoint(
            int(line["step"]),
            float(line["seconds"]) / 60.0,
            float(line["held_out_tre_mm"]),
            float(line["held_out_success_2mm"]),
        )
        for line in read_log(run)
        if "held_out_tre_mm" in line and line["step"] <= steps
    ]
