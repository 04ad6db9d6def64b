"""Broken checkpoints are reported and passed over, and never read wrongly."""

import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from e2r.training import checkpoints


def state_of(step):
    return {"weights": jnp.arange(300.0) * step, "more": (jnp.int32(step), jnp.ones((3, 4)) / step)}


def abstract_state(settings, stored):
    assert stored["weights"].shape == (300,)
    assert settings == {"name": "one"}
    return jax.eval_shape(lambda: state_of(1))


@pytest.fixture
def folder(tmp_path):
    with checkpoints.open_writer(tmp_path / "run" / "checkpoint", keep=2) as writer:
        for step in (3, 6, 9):
            checkpoints.save(writer, step, state_of(step), {"name": "one"})
    return tmp_path / "run"


def truncated(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def flipped(path):
    data = bytearray(path.read_bytes() or b"x")
    data[len(data) // 2] ^= 0x10
    path.write_bytes(bytes(data))


def deleted(path):
    path.unlink()


def test_the_newest_checkpoint_is_read_and_older_ones_are_dropped(folder, capfd):
    saved = checkpoints.restore(folder, abstract_state)
    assert (saved.step, saved.settings) == (9, {"name": "one"})
    for a, b in zip(jax.tree.leaves(saved.state), jax.tree.leaves(state_of(9)), strict=True):
        np.testing.assert_array_equal(a, b)
    assert sorted(path.name for path in (folder / "checkpoint").iterdir()) == ["6", "9"]
    assert checkpoints.latest_step(folder) == 9
    assert capfd.readouterr().err == ""


@pytest.mark.parametrize("spoil", [truncated, emptied, flipped, deleted])
def test_a_checkpoint_with_any_file_broken_is_passed_over(folder, spoil, tmp_path, capfd):
    newest = folder / "checkpoint" / "9"
    files = [path.relative_to(newest) for path in newest.rglob("*") if path.is_file()]
    assert len(files) > 5
    for number, name in enumerate(files):
        copy = shutil.copytree(folder, tmp_path / f"copy{number}")
        spoil(copy / "checkpoint" / "9" / name)
        saved = checkpoints.restore(copy, abstract_state)
        # Only the checksums may be missing: the state's own digest is then checked.
        unharmed = spoil is deleted and name.name == checkpoints.CHECKSUMS
        assert saved.step == (9 if unharmed else 6), name
        np.testing.assert_array_equal(saved.state["weights"], state_of(saved.step)["weights"])
        err = capfd.readouterr().err
        assert err.count("\n") == (0 if unharmed else 1), (name, err)
        assert unharmed or "step 6 before it is tried" in err
        assert checkpoints.latest_step(copy) == saved.step
        checkpoints.set_aside(copy / "checkpoint", saved.step)
        assert checkpoints.latest_step(copy) == saved.step


def test_a_state_with_another_digest_is_refused(folder):
    """The whole files of another checkpoint do not pass for this one."""
    newest, other = (folder / "checkpoint" / name for name in ("9", "6"))
    (newest / checkpoints.CHECKSUMS).unlink()
    shutil.rmtree(newest / "state")
    shutil.copytree(other / "state", newest / "state")
    assert checkpoints.restore(folder, abstract_state).step == 6


def test_a_run_without_a_whole_checkpoint_is_refused(folder):
    for path in (folder / "checkpoint").glob("*/state/_METADATA"):
        path.unlink()
    with pytest.raises(ValueError, match=r"checkpoint/6: cannot be used, it is broken"):
        checkpoints.restore(folder, abstract_state)
    with pytest.raises(ValueError, match="holds no checkpoint"):
        checkpoints.restore(folder.parent, abstract_state)


def test_a_full_disk_leaves_earlier_checkpoints_whole(folder, capfd):
    """One sentence reports it, although closing the writer fails again."""

    def full(*_, **__):
        raise ValueError("RESOURCE_EXHAUSTED: No space left on device")

    with (
        pytest.raises(OSError, match=r"12: .*disk is full; that of step 9 is whole\. Make room"),
        checkpoints.open_writer(folder / "checkpoint", keep=2) as writer,
    ):
        writer.save = full
        checkpoints.save(writer, 12, state_of(12), {"name": "one"})
    assert checkpoints.restore(folder, abstract_state).step == 9
    assert capfd.readouterr().err == ""
