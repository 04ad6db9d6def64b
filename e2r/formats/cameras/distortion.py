"""Lens distortion in any spelling: a model and its coefficients, or a refusal; never ignored."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any, Literal, TypeAlias, cast

import numpy as np

from e2r.formats import notices
from e2r.formats.cameras.fields import Field, Fields, as_array, numbers, plain, shown
from e2r.formats.file_checks import PathLike
from e2r.geometry.lens_distortion import COEFFICIENTS, MORE_COEFFICIENTS, Model

LIST_NAMES = (
    "distortion",
    "distortioncoefficients",
    "distortioncoefficient",
    "distortioncoeffs",
    "distortioncoeff",
    "distortioncoefs",
    "distortionparameters",
    "distortionparams",
    "distortionvector",
    "lensdistortion",
    "distcoeffs",
    "distcoeff",
    "distcoefs",
    "distcoefficients",
    "dist",
    "coeffs",
    "coefficients",
    "d",
    "kc",
)
"""Plain names of all coefficients in one list."""
MODEL_NAMES = ("distortionmodel", "distmodel", "distortiontype", "cameramodel", "lensmodel")
VAGUE_MODEL_NAMES = ("model", "type", "projection", "modeltype", "cameratype")
"""Plain names that may tell a lens model, or the name of a device."""
ALL_NAMES = (*COEFFICIENTS, *MORE_COEFFICIENTS)
LIST_LENGTHS = (4, 5, 8, 12, 14)
"""Numbers of coefficients that OpenCV writes."""
MAX_COEFFICIENT = 1e4
LARGE_TANGENTIAL = 0.05
"""Lenses have about 0.001; a radial coefficient in its place is larger."""
LOOKS_LIKE_DISTORTION = re.compile(
    r"dist(?!anc)|coef|radial|tangential|prism|kappa|poly|^tau|^[bdkpsq]\d{1,2}$|^d$|^[xy]i$"
)
REMEDY = "give distortion as k1 k2 p1 p2 k3 of OpenCV, or undistort the picture"

Meaning: TypeAlias = Literal["pinhole", "none", "rational"] | Model
_MEANINGS: Mapping[Meaning, str] = {
    "pinhole": "pinhole perspective simplepinhole linear",
    "none": "none nodistortion undistorted rectified ideal",
    "brown_conrady": (
        "plumbbob radtan radialtangential brown brownconrady opencv pinholeradtan "
        "lensdistortionmodelbrownconrady"
    ),
    "rational": (
        "rational rationalpolynomial fullopencv thinprism thinprismrational tilted radtan8 "
        "pinholeradtan8"
    ),
    "modified_brown_conrady": "modifiedbrownconrady inversebrownconrady",
    "equidistant": (
        "equidistant equi kannalabrandt kannalabrandt4 kannalabrandt8 kb4 kb fisheye opencvfisheye "
        "pinholeequi fisheye4 pinholeequidistant"
    ),
    "fov": "fov ftheta",
}
MEANINGS: dict[str, Meaning] = {
    word: meaning for meaning, words in _MEANINGS.items() for word in words.split()
}
REALSENSE_MODELS: tuple[Meaning, ...] = (
    "none",
    "modified_brown_conrady",
    "modified_brown_conrady",
    "fov",
    "brown_conrady",
    "equidistant",
)
"""librealsense's numbers of its models; its *inverse* is computed as its *modified* one."""


def read_distortion(fields: Fields) -> tuple[Model, tuple[float, ...]]:
    """Takes the distortion out of the fields of a camera.

    Args:
      fields: of one camera.

    Returns:
      The model and its coefficients, as :class:`e2r.geometry.lens_distortion.Lens` holds them.

    Raises:
      ValueError: a model that is unknown, a number of coefficients that it does not have, or a
        field that looks like distortion and is unknown.
    """
    path = fields.path
    _open_dictionaries(fields)
    vague = [field for name in VAGUE_MODEL_NAMES if (field := fields.take(name)) is not None]
    meaning = _meaning(fields)
    listed = fields.take(*LIST_NAMES)
    named = _named(fields, path)
    for field in fields.left():
        _refuse_unknown(field, path, inside=False)
    values = [] if listed is None else _listed(listed, path)
    bent = any(values) or any(named.values())
    meaning = _with_vague(meaning, vague, bent=bent, path=path)
    flat = _taken_out(fields)
    if bent and (meaning == "none" or flat):
        raise ValueError(
            f"{path}: says that there is no distortion ({flat or 'none'}), yet gives coefficients; "
            "leave one of them out"
        )
    if (
        named.get("k4")
        and not (named.get("k5") or named.get("k6"))
        and (meaning in (None, "pinhole", "brown_conrady"))
    ):
        raise ValueError(
            f"{path}: has k4 without k5 and k6, which has several meanings; "
            "add a distortion_model, such as equidistant or rational_polynomial"
        )
    ordinary = meaning in (None, "none", "pinhole", "rational")
    model: Model = "brown_conrady" if ordinary else cast(Model, meaning)
    label = listed.label if listed else "distortion"
    if listed is not None and values:
        from_list = _by_name(values, model, label=label, path=path)
        for name, value in named.items():
            if not np.isclose(from_list.get(name, 0.0), value, rtol=1e-6, atol=1e-9):
                raise ValueError(f"{path}: {label} and {name} differ; leave the wrong one out")
        named = from_list
    return model, _in_order(named, model, path=path)


# Models -------------------------------------------------------------------------------------------


def _meaning(fields: Fields) -> Meaning | None:
    """The model that the fields name for certain."""
    found: list[Meaning] = []
    for name in MODEL_NAMES:
        field = fields.take(name)
        if field is not None and str(field.value).strip():
            meaning = _look_up(field.value)
            if meaning is None:
                raise ValueError(
                    f"{fields.path}: {field.label} {shown(field.value)!r} is unknown; {REMEDY}"
                )
            found.append(meaning)
    for name in ("fisheye", "fisheyemodel", "isfisheye"):
        field = fields.take(name)
        if field is not None and field.value:
            found.append("equidistant")
    certain = {meaning for meaning in found if meaning != "pinhole"}
    if len(certain) > 1:
        raise ValueError(
            f"{fields.path}: names the lens models {' and '.join(sorted(certain))}; leave one out"
        )
    return certain.pop() if certain else ("pinhole" if found else None)


def _look_up(value: Any) -> Meaning | None:
    if isinstance(value, int | float) and not isinstance(value, bool):
        known = value in range(len(REALSENSE_MODELS))
        return REALSENSE_MODELS[int(value)] if known else None
    word = re.sub(r"^(rs2)?(distortion|calibration)", "", plain(value))
    return MEANINGS.get(word)


def _with_vague(
    meaning: Meaning | None, vague: list[Field], *, bent: bool, path: PathLike
) -> Meaning | None:
    """Adds what ``model`` or ``type`` tells, which may name a device as well."""
    for field in vague:
        found = _look_up(field.value)
        odd = re.search(r"fish|omni|equi|panoram|spher|mei|eucm|scara", str(field.value).lower())
        if found is None and (odd or (bent and meaning is None)):
            raise ValueError(
                f"{path}: {field.label} {shown(field.value)!r} is an unknown model; {REMEDY}"
            )
        if found not in (None, "pinhole") and meaning not in (None, "pinhole", found):
            raise ValueError(
                f"{path}: names the lens models {meaning} and {found}; leave one of them out"
            )
        meaning = found if meaning in (None, "pinhole") and found is not None else meaning
    return meaning


def _taken_out(fields: Fields) -> str:
    """The field that says that the picture has no distortion any more."""
    for name in ("undistorted", "isundistorted", "rectified", "isrectified"):
        field = fields.take(name)
        if field is not None and field.value not in (False, 0, "false", "no"):
            return field.label
    return ""


# Coefficients -------------------------------------------------------------------------------------


def _open_dictionaries(fields: Fields) -> None:
    """Puts what a dictionary of coefficients holds beside the other fields."""
    for name in LIST_NAMES:
        field = fields.take(name)
        if field is None:
            continue
        if not isinstance(field.value, dict) or "data" in field.value:
            fields.add({field.label: field.value})
            continue
        fields.add(field.value)
        known = Fields(field.value, fields.path)
        known.take(*MODEL_NAMES), known.take(*VAGUE_MODEL_NAMES)
        for each in (*ALL_NAMES, *LIST_NAMES, "radial", "tangential"):
            known.take(plain(each))
        for left in known.left():
            _refuse_unknown(left, fields.path, inside=True)


def _listed(field: Field, path: PathLike) -> list[float]:
    try:
        count = as_array(field.value).size
    except (TypeError, ValueError, OverflowError, KeyError):
        if not isinstance(field.value, list):
            raise ValueError(
                f"{path}: {field.label} must be a list of numbers, not {shown(field.value)}"
            ) from None
        count = max(len(field.value), 1)
    if count == 0:
        return []
    values = numbers(field.value, count, path=path, name=field.label)
    return _checked([float(value) for value in values], field.label, path)


def _checked(values: list[float], label: str, path: PathLike) -> list[float]:
    if max(map(abs, values), default=0.0) > MAX_COEFFICIENT:
        raise ValueError(f"{path}: {label} is {max(map(abs, values)):g}, no distortion; {REMEDY}")
    return values


def _named(fields: Fields, path: PathLike) -> dict[str, float]:
    """Coefficients by name, and MATLAB's two short lists."""
    found: dict[str, float] = {}
    for name in ALL_NAMES:
        field = fields.take(plain(name))
        if field is not None:
            value = float(numbers(field.value, 0, path=path, name=field.label)[0])
            found[name] = _checked([value], field.label, path)[0]
    for part, names in (("radial", ("k1", "k2", "k3")), ("tangential", ("p1", "p2"))):
        field = fields.take(
            part,
            f"{part}distortion",
            f"{part}coefficients",
            f"{part}coeffs",
            f"{part}distortioncoefficients",
        )
        if field is None:
            continue
        values = _listed(field, path)
        if len(values) not in (0, 2, len(names)):
            raise ValueError(
                f"{path}: {field.label} has {len(values)} numbers; give {' '.join(names)}"
            )
        for name, value in zip(names, values, strict=False):
            if found.setdefault(name, value) != value:
                raise ValueError(
                    f"{path}: {field.label} and {name} differ; leave the wrong one out"
                )
    return found


def _by_name(values: list[float], model: Model, *, label: str, path: PathLike) -> dict[str, float]:
    """The coefficients of a list by name."""
    names: tuple[str, ...] = ALL_NAMES
    allowed: tuple[int, ...] = LIST_LENGTHS
    if model == "equidistant":
        names, allowed = ("k1", "k2", "k3", "k4"), (4,)
    elif model == "fov":
        names, allowed = ("k1",), (1,)
    elif model == "modified_brown_conrady":
        allowed = (4, 5)
    if model in ("equidistant", "fov") and len(values) == 5:  # librealsense pads with zeros
        padding = values[len(names) :]
        values = values[: len(names)] if not any(padding) else values
    if len(values) not in allowed:
        wanted = "k1 k2 p1 p2 k3 k4 k5 k6" if names is ALL_NAMES else " ".join(names)
        raise ValueError(
            f"{path}: {label} has {len(values)} numbers; the model {model} has {wanted}"
        )
    return dict(zip(names, values, strict=False))


def _in_order(named: dict[str, float], model: Model, *, path: PathLike) -> tuple[float, ...]:
    """The coefficients as a lens holds them."""
    orders: dict[Model, tuple[str, ...]] = {
        "brown_conrady": ALL_NAMES,
        "modified_brown_conrady": COEFFICIENTS[:5],
        "equidistant": ("k1", "k2", "k3", "k4"),
        "fov": ("k1",),
    }
    order = orders[model]
    strange = [name for name, value in named.items() if value and name not in order]
    if strange:
        raise ValueError(f"{path}: {strange[0]} is no coefficient of the model {model}; {REMEDY}")
    if model in ("equidistant", "fov") and not named:
        raise ValueError(f"{path}: names the lens model {model}, but no coefficients; add them")
    values = tuple(named.get(name, 0.0) for name in order)
    if model == "fov" and not 0 <= values[0] < np.pi:
        raise ValueError(f"{path}: {values[0]:g} is no angle of the model fov; {REMEDY}")
    large = [name for name in ("p1", "p2") if abs(named.get(name, 0.0)) > LARGE_TANGENTIAL]
    if large:
        notices.say(
            path,
            f"{large[0]} is {named[large[0]]:g}, which is large; "
            "check that the coefficients are in the order k1 k2 p1 p2 k3",
        )
    if model == "brown_conrady" and not any(values[len(COEFFICIENTS) :]):
        return values[: len(COEFFICIENTS)]
    return values


def _refuse_unknown(field: Field, path: PathLike, *, inside: bool) -> None:
    """Refuses a field that looks like distortion, or lies among distortion, and holds something."""
    if (inside or LOOKS_LIKE_DISTORTION.search(plain(field.label))) and _holds(field.value):
        if plain(field.label) in ("undistorted", "isundistorted"):
            return
        raise ValueError(f"{path}: {field.label} looks like distortion, but is unknown; {REMEDY}")
    if isinstance(field.value, dict):
        for label, value in field.value.items():
            _refuse_unknown(Field(shown(label), value), path, inside=inside)


def _holds(value: Any) -> bool:
    """Whether there is a number other than 0, or a text, in a value."""
    if isinstance(value, dict):
        return any(map(_holds, value.values()))
    if isinstance(value, list | tuple):
        return any(map(_holds, value))
    return value not in (None, 0, False, "")
