"""Pictures, film and page of a track: surfaces lie where they project, in the right colour."""

from dataclasses import replace

import made_up_track
import numpy as np
import pytest
from PIL import Image, ImageColor
from scipy import ndimage

from e2r.datasets.recordings import open_recording
from e2r.formats import meshes
from e2r.tracking.track_files import read_track
from e2r.visualisation import film, track_page
from e2r.visualisation.colors import line_color
from e2r.visualisation.track_pictures import NOT_ACCEPTED_RGB, coarse_surfaces, draw_track, shrink

TEXT_ROWS = 30
"""Rows of a picture that the text may fill."""


@pytest.fixture(scope="module")
def track(tmp_path_factory):
    recording, folder = made_up_track.write(tmp_path_factory.mktemp("track"))
    surfaces = meshes.read_meshes(recording / "model")
    return open_recording(recording), read_track(folder), surfaces


def where(track, number, image):
    """The pixels of each level."""
    return {
        name: ndimage.binary_closing(
            made_up_track.pixels_of(pose, track[2][name], image, image.color.shape[:2]),
            iterations=2,
        )
        for name, pose in made_up_track.poses_of(number).items()
    }


@pytest.mark.parametrize("width", [160, 120])
def test_the_surfaces_are_drawn_where_they_project(track, width):
    _, lines, surfaces = track
    image = made_up_track.image_of(2)
    picture = draw_track(image, lines[1], coarse_surfaces(surfaces), width=width)
    small = shrink(image, width)
    assert picture.shape == small.color.shape and picture.shape[1] == width
    changed = (picture != small.color).any(-1)
    places = where(track, 2, small)
    union = np.logical_or.reduce(list(places.values()))
    inner = ndimage.binary_erosion(union, iterations=3)
    assert inner.sum() > 150 and changed[inner].mean() > 0.999
    outer = ~ndimage.binary_dilation(union, iterations=3)
    outer[:TEXT_ROWS] = False
    assert not changed[outer].any()
    for i, name in enumerate(surfaces):
        own = ndimage.binary_erosion(places[name], iterations=3)
        own[:TEXT_ROWS] = False
        tint = picture[own].mean(0) - small.color[own].mean(0)
        expected = np.array(ImageColor.getrgb(line_color(i)), float) - 255
        cosine = tint @ expected / np.linalg.norm(tint) / np.linalg.norm(expected)
        assert cosine > 0.9  # tinted in its own colour


def test_what_is_not_accepted_is_grey_and_what_is_lost_is_not_drawn(track):
    _, lines, surfaces = track
    image = made_up_track.image_of(1)
    grey = draw_track(image, lines[0], surfaces, width=160)[TEXT_ROWS:]
    changed = (grey != 200).any(-1)
    assert changed.sum() > 500 and (np.ptp(grey[changed].astype(int), axis=1) == 0).all()
    assert (grey[changed] == NOT_ACCEPTED_RGB).all(-1).any()  # the outlines
    lost = draw_track(image, lines[3], surfaces, width=160)
    assert (lost[TEXT_ROWS:] == 200).all() and (lost[:TEXT_ROWS] != 200).any()


def test_the_film_shows_the_levels_as_they_move(track, tmp_path):
    recording, lines, surfaces = track
    path = tmp_path / "track.webp"
    assert film.write_film(path, recording, lines, surfaces) == 4
    with Image.open(path) as pictures:
        assert pictures.n_frames == 4 and pictures.size == (160, 120)
        shown, times = [], []
        for number in range(4):
            pictures.seek(number)
            shown.append(np.asarray(pictures.convert("RGB"))[TEXT_ROWS:].astype(int))
            times.append(pictures.info["duration"])
    assert times == [100, 100, 100, 1000]
    columns = np.arange(160)
    middles = []
    for picture in shown[:3]:
        drawn = np.abs(picture - 200).max(-1) > 25
        middles.append((drawn.sum(0) * columns).sum() / drawn.sum())
    pixels = made_up_track.STEP_MM * 200.0 / 400.0  # focal length over distance
    np.testing.assert_allclose(np.diff(middles), pixels, atol=0.5)
    assert (np.abs(shown[3] - 200) < 25).mean() > 0.99  # lost: nothing is drawn
    assert not list(tmp_path.glob("*.part"))
    written = path.read_bytes()
    gone = replace(recording, read_frames=lambda _: iter(()))
    assert film.write_film(path, gone, lines, surfaces) == 0
    assert path.read_bytes() == written  # the film of before stays


def line(number, seconds, state="tracking", **more):
    known = {"number": number, "seconds": seconds, "state": state, "accepted": True, "levels": {}}
    return known | {"agreeing": 0.9, "covered": 0.0, "latency_ms": 1.0} | more


@pytest.mark.parametrize(("seconds", "rate", "count"), [(20, 30, 200), (600, 30, 300), (4, 5, 20)])
def test_a_film_has_few_pictures_from_all_of_the_track(seconds, rate, count):
    lines = [line(n, n / rate) for n in range(seconds * rate)]
    lines.insert(3, {"number": -1, "seconds": 0.0, "error": "x"})
    chosen = film.film_lines(lines)
    assert abs(len(chosen) - count) <= 1 and chosen[0]["number"] == 0
    assert all("error" not in one for one in chosen)
    gaps = np.diff([one["seconds"] for one in chosen])
    assert gaps.max() <= gaps.min() + 1.01 / rate and chosen[-1]["seconds"] > seconds - 2.1
    assert film.film_lines([]) == []


def test_a_film_does_not_hurry_after_a_pause():
    seconds = [*np.arange(30) / 30, *(10.0 + np.arange(60) / 30)]
    chosen = film.film_lines([line(n, second) for n, second in enumerate(seconds)])
    gaps = np.diff([one["seconds"] for one in chosen])
    assert gaps.min() > 0.5 / film.MAX_RATE and 28 <= len(chosen) <= 32


def test_poses_that_are_held_are_no_worst_moments():
    held = {"L1": {"tre_mm": 60.0, "expected_tre_mm": None}}
    seen = {"L1": {"tre_mm": 0.5, "expected_tre_mm": 1.0}}
    lines = [line(n, n / 30, levels=seen) for n in range(60)]
    lines += [line(60 + n, 2 + n / 30, "occluded", levels=held) for n in range(60)]
    found = track_page.worst_moments(lines)
    assert found and all(moment.number < 60 for moment in found)


def test_the_worst_moments_are_spread():
    tre = np.interp(np.arange(300), [0, 50, 60, 200, 210, 299], [0.5, 0.5, 8.0, 0.5, 4.0, 0.5])
    lines = []
    for n in range(300):
        lost = 100 <= n < 110 or 102 <= n < 120
        levels = {"L1": {"tre_mm": float(tre[n]), "expected_tre_mm": 1.0}, "L2": {}}
        lines.append(line(n, n / 30, "lost" if lost else "tracking", levels={} if lost else levels))
    numbers = [moment.number for moment in track_page.worst_moments(lines)]
    assert len(numbers) == 6 and sorted(numbers) == numbers
    assert {60, 100} <= set(numbers)  # the largest error and the loss
    errors = [number for number in numbers if number != 100]
    assert np.diff(errors).min() >= 30
    texts = {moment.number: moment.text for moment in track_page.worst_moments(lines)}
    assert texts[60] == "2.0 s, tracking: TRE 8.00 mm (L1)"
    assert texts[100] == "3.3 s, lost: 90% agrees, 0% covered"


def test_without_a_truth_the_worst_moments_are_those_where_least_agrees():
    lines = [line(n, n / 10, agreeing=0.4 if n == 33 else 0.9) for n in range(60)]
    moments = {one.number: one.text for one in track_page.worst_moments(lines)}
    assert moments[33] == "3.3 s, tracking: 40% agrees, 0% covered"
    assert track_page.worst_moments([{"number": 1, "seconds": 0.0, "error": "x"}]) == []


def test_the_page_shows_the_worst_moments(track):
    recording, lines, surfaces = track
    page = track_page.track_page("a <track>", recording, lines, surfaces)
    assert page.count("data:image/jpeg;base64,") == 2 and "a &lt;track&gt;" in page
    # L3 is not seen, so its error does not count.
    assert "0.3 s, lost" in page and "0.2 s, tracking: TRE 0.75 mm (L1)" in page
