"""Where the last full step goes when a run ends in an error."""

from contextlib import closing
from pathlib import Path

import jax.numpy as jnp
import pytest

from tunix_grpo.errors import UserError
from tunix_grpo.run.checkpoints import Checkpoints, NotSavedError
from tunix_grpo.run.rescue import save_where_possible

ERRORS = {
    "reward": UserError("the reward fails"),
    "disk": NotSavedError("no room in the usual folder"),
}


@pytest.mark.parametrize(
    ("error", "full", "saved", "words"),
    [
        ("reward", [], "usual", ""),
        ("reward", ["usual"], "run/checkpoints", "; no room in {usual}{way_out}; {rescued}"),
        ("reward", ["usual", "run/checkpoints"], None, "; no room in {usual}{way_out}"),
        ("disk", ["usual"], "run/checkpoints", "; {rescued}"),
        ("disk", ["usual", "run/checkpoints"], None, ""),
    ],
)
def test_the_last_step_is_saved_where_there_is_room(tmp_path: Path, error, full, saved, words):
    """A folder in `full` is on a disk without room."""

    def save(checkpoints: Checkpoints) -> None:
        if checkpoints.root in [tmp_path / name / "actor" for name in full]:
            raise NotSavedError(f"no room in {checkpoints.root}")
        checkpoints.save(3, {"w": jnp.ones(2)}, {"count": jnp.int32(3)}, {"state": {"step": 3}})

    with closing(Checkpoints(tmp_path / "usual", None)) as usual:
        added = save_where_possible(ERRORS[error], save, usual, tmp_path / "run")
    place = tmp_path / "run" / "checkpoints"
    rescued = f"the last full step is saved in {place}, from where checkpoint_dir={place} goes on"
    way_out = "; make room and start the same command again"
    assert added == words.format(usual=tmp_path / "usual" / "actor", rescued=rescued, way_out=way_out)
    assert [path.name for path in tmp_path.glob("*/**/3")] == (["3"] if saved else [])
    if saved:
        assert (tmp_path / saved / "actor" / "3" / "manifest.json").is_file()
    assert place.exists() == (saved == "run/checkpoints")
