"""Whether depth lies on the colour: aligned pictures are not suspected, shifted ones are."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from e2r.geometry import picture_alignment

RENDERED = Path(__file__).resolve().parents[2].parent / "shared" / "data" / "rendered" / "frames"
SHIFTS = [(12, 0), (-20, 0), (0, 15), (30, -10), (-40, 5)]


def moved(depth, right, down):
    """The depth as a camera beside the colour's sees it; 0 where nothing comes from."""
    result = np.roll(depth, (down, right), (0, 1))
    rows, columns = np.indices(depth.shape)
    inside = (rows - down >= 0) & (rows - down < len(depth))
    inside &= (columns - right >= 0) & (columns - right < depth.shape[1])
    return np.where(inside, result, 0.0)


@pytest.fixture
def frame(rng):
    """Blocks at several depths, each in its own colour, on speckled ground."""
    height, width = 240, 320
    depth = np.full((height, width), 600.0)
    color = np.full((height, width, 3), 120.0)
    for _ in range(25):
        top, left = rng.integers(0, height - 30), rng.integers(0, width - 40)
        tall, wide = rng.integers(12, 30), rng.integers(12, 40)
        place = np.s_[top : top + tall, left : left + wide]
        depth[place], color[place] = rng.uniform(480, 570), rng.uniform(0, 255, 3)
    depth[50:60, 100:130] = 0.0
    color = color + 12 * rng.normal(size=color.shape)
    return np.clip(color, 0, 255).astype(np.uint8), depth + 0.5 * rng.normal(size=depth.shape)


def test_an_aligned_picture_is_not_suspected(frame):
    shift = picture_alignment.find_shift(*frame)
    assert not shift.is_certain and max(abs(shift.right), abs(shift.down)) <= 2
    assert shift.score == shift.score_at_rest > 10


@pytest.mark.parametrize(("right", "down"), SHIFTS)
def test_a_shift_is_measured(frame, right, down):
    color, depth = frame
    shift = picture_alignment.find_shift(color, moved(depth, right, down))
    assert shift.is_certain
    assert abs(shift.right + right) <= 1 and abs(shift.down + down) <= 1


@pytest.mark.parametrize("scale", [0.7, 1.15, 1.43])
def test_a_depth_of_a_wider_or_narrower_camera_is_found(frame, scale):
    """The raw depth of the same size as the colour, but of another focal length."""
    color, depth = frame
    rows, columns = np.indices(depth.shape)
    rows = np.rint((rows - 119.5) * scale + 119.5).astype(int)
    columns = np.rint((columns - 159.5) * scale + 159.5).astype(int)
    inside = (rows >= 0) & (rows < 240) & (columns >= 0) & (columns < 320)
    other = np.where(inside, depth[np.clip(rows, 0, 239), np.clip(columns, 0, 319)], 0.0)
    shift = picture_alignment.find_shift(color, other)
    assert shift.is_certain and abs(shift.scale / scale - 1) < 0.03


def test_a_large_picture_is_measured_in_its_own_pixels(frame):
    color, depth = (np.repeat(np.repeat(a, 6, 0), 6, 1) for a in frame)
    shift = picture_alignment.find_shift(color, moved(depth, 60, 0))
    assert shift.is_certain and abs(shift.right + 60) <= 6 and abs(shift.down) <= 6


def test_pictures_that_say_nothing_are_not_suspected(frame, rng):
    color, depth = frame
    assert picture_alignment.find_shift(color, np.full(depth.shape, 500.0)) is None  # no edge
    assert picture_alignment.find_shift(color[:60, :60], depth[:60, :60]) is None  # too small
    assert picture_alignment.find_shift(np.zeros_like(color), depth) is None  # no colour
    noise = rng.integers(0, 256, color.shape).astype(np.uint8)
    assert not picture_alignment.find_shift(noise, moved(depth, 20, 0)).is_certain


@pytest.mark.skipif(not RENDERED.is_dir(), reason="the rendered frames are not there")
def test_rendered_frames_are_told_from_shifted_ones():
    """Every twelfth of 47 frames; none is suspected as it is, most are when moved by 20 pixels."""
    suspected, found = [], []
    for folder in sorted(RENDERED.iterdir())[::12]:
        color = np.array(Image.open(folder / "color.png"))[..., :3]
        depth = np.array(Image.open(folder / "depth.png")).astype(float)
        suspected.append(picture_alignment.find_shift(color, depth).is_certain)
        found.append(picture_alignment.find_shift(color, moved(depth, 20, 0)).is_certain)
    assert not any(suspected)
    assert np.mean(found) > 0.8
