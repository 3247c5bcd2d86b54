"""The program that looks after saved steps: what it shows, what it never deletes, what it copies."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tunix_grpo.commands import CONF
from tunix_grpo.config.checkpoints import load
from tunix_grpo.config.composing import checked_command_line, composed
from tunix_grpo.config.short_words import named
from tunix_grpo.errors import UserError
from tunix_grpo.programs.checkpoints import checkpoints
from tunix_grpo.record.run_config import write_config
from tunix_grpo.run.step_files import MANIFEST, SavedFiles, step_fault, write_manifest

SCORES = {0: 0.1, 2: 0.5, 4: 0.75, 6: 0.5, 8: 0.25}  # of steps, saved or not


@pytest.fixture
def folder(tmp_path) -> Path:
    """A checkpoint folder with steps 2, 4, 6, 8 and 10, of which 4 is the best and 10 was not evaluated."""
    for step in (2, 4, 6, 8, 10):
        place = tmp_path / "ck" / "actor" / str(step)
        (place / "params").mkdir(parents=True)
        (place / "params" / "d").write_bytes(bytes([step]) * 1000)
        write_manifest(place)
    rows = [{"step": step, "eval/accuracy": score, "eval/reward": -score} for step, score in SCORES.items()]
    (tmp_path / "ck" / "history.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return tmp_path / "ck"


@pytest.fixture
def program(monkeypatch, capfd, folder):
    """Runs the program on a command line; returns (exit code, what it printed, its error)."""

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.chdir(folder.parent)
        capfd.readouterr()
        code, said = 0, ""
        try:
            words = checked_command_line(named(words, ("folder", "action")), CONF, "checkpoints", load)
            checkpoints(load(composed(words, [CONF], "checkpoints")))
        except UserError as error:
            code, said = error.exit_code, str(error)
        return code, capfd.readouterr().out, said

    return run


def damage(folder: Path, step: int) -> None:
    file = folder / "actor" / str(step) / "params" / "d"
    file.write_bytes(file.read_bytes()[:-1] + b"!")


def steps(folder: Path) -> list[int]:
    return SavedFiles(folder).steps()


# --- the command line ---


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["DIR"], ["folder=DIR"]),
        (["DIR", "verify", "json=true"], ["folder=DIR", "action=verify", "json=true"]),
        (["folder=DIR", "verify"], ["folder=DIR", "verify"]),
        (["my dir", "--cfg", "job"], ["folder='my dir'", "--cfg", "job"]),
        (["a", "b", "c"], ["folder=a", "action=b", "c"]),
        (["--help"], ["--help"]),
    ],
)
def test_the_first_words_need_no_names(words, wanted):
    assert named(words, ("folder", "action")) == wanted


# --- list, verify ---


def test_list_shows_steps_sizes_and_scores(program, folder):
    (folder / "actor" / "6" / MANIFEST).unlink()
    damage(folder, 8)  # looking reads no bytes
    code, shown, said = program("ck")
    assert (code, said) == (0, "")
    rows = {line.split()[0]: line.split()[1:] for line in shown.splitlines()[2:]}
    assert rows["2"] == ["1.1", "kB", "0.5", "complete"]
    assert rows["4"] == ["1.1", "kB", "0.75", "complete", "best"]
    assert rows["6"][3:] == ["it", "was", "not", "finished:", "no", "manifest.json"]
    assert rows["8"] == ["1.1", "kB", "0.25", "complete"]
    assert rows["10"] == ["1.1", "kB", "-", "complete", "newest"]


def test_verify_reads_every_byte(program, folder):
    damage(folder, 4)
    damage(folder, 10)
    code, shown, said = program("ck", "verify", "json=true")
    found = json.loads(shown)
    faults = {row["step"]: row["fault"] for row in found["steps"]}
    assert faults == {2: None, 4: "params/d is damaged", 6: None, 8: None, 10: "params/d is damaged"}
    assert (found["best"], found["newest"], found["read"]) == (6, 8, True)
    assert code == 1
    assert said.startswith(f"{folder}/actor: not usable: 4, 10; a run goes on from the newest valid step")
    assert program("ck", "list", "json=true")[0] == 0


def test_a_run_s_folder_names_its_checkpoints(program, folder, compose):
    run = folder.parent / "run"
    run.mkdir()
    write_config(compose("model=tiny", "task=arithmetic", f"checkpoint_dir={folder}"), str(run))
    (run / "metrics.jsonl").write_text('{"step": 10, "eval/accuracy": 0.875}\n')  # versions up to 0.1 log only here
    found = json.loads(program("run", "json=true")[1])
    assert (found["folder"], found["best"], len(found["steps"])) == (str(folder), 10, 5)


# --- prune ---


@pytest.mark.parametrize(
    ("keep", "damaged", "left"),
    [
        (1, [], [4, 10]),
        (2, [], [4, 8, 10]),
        (9, [], [2, 4, 6, 8, 10]),
        (1, [10], [4, 8]),  # the newest valid one stays, and so does the best
        (2, [10, 6], [2, 4, 8][1:]),
        (1, [4], [6, 10]),  # the best of those that are valid: of equals the later
        (1, [2, 4, 6, 8], [10]),
    ],
)
def test_prune_leaves_the_newest_valid_steps_and_the_best(program, folder, keep, damaged, left):
    for step in damaged:
        damage(folder, step)
    code, shown, _ = program("ck", "prune", f"keep={keep}")
    assert (code, steps(folder)) == (0, left)
    assert shown.splitlines()[0].startswith("deleted ")


def test_the_best_is_by_the_metric_that_is_asked_for(program, folder):
    assert program("ck", "prune", "keep=1", "metric=eval/reward")[0] == 0
    assert steps(folder) == [8, 10]


def test_nothing_is_deleted_where_nothing_is_valid(program, folder):
    for step in steps(folder):
        damage(folder, step)
    code, _, said = program("ck", "prune", "keep=1")
    assert (code, len(steps(folder))) == (1, 5)
    assert said.endswith("no step is valid; nothing is deleted")


# --- copy ---


@pytest.mark.parametrize(
    ("words", "damaged", "step"),
    [([], [], 10), ([], [10], 8), (["step=best"], [], 4), (["step=best"], [4], 6), (["step=2"], [], 2)],
)
def test_a_copy_is_a_checkpoint_folder_with_what_was_logged_up_to_it(program, folder, words, damaged, step):
    for each in damaged:
        damage(folder, each)
    copied = folder.parent / "new" / "place"
    assert program("ck", "copy", "to=new/place", *words)[0] == 0
    assert steps(copied) == [step]
    assert step_fault(copied / "actor" / str(step)) is None
    logged = [json.loads(line)["step"] for line in (copied / "history.jsonl").read_text().splitlines()]
    assert logged == [at for at in SCORES if at <= step]
    assert steps(folder) == [2, 4, 6, 8, 10]


# --- mistakes ---


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        ([], 2, "folder: has no value"),
        (["nowhere"], 1, "actor holds no checkpoint; give a run's checkpoint folder"),
        (["ck", "lst"], 2, "action=lst: must be one of list, verify, prune, copy"),
        (["ck", "prune"], 2, "give keep=N"),
        (["ck", "prune", "keep=0"], 2, "keep=0: must be at least 1"),
        (["ck", "keep=1"], 2, "only prune keeps; leave out keep="),
        (["ck", "copy"], 2, "give to=DIR"),
        (["ck", "verify", "to=x"], 2, "only copy writes; leave out to="),
        (["ck", "copy", "to=ck"], 1, "there is something already; give a folder that does not exist yet"),
        (["ck", "copy", "to=x", "step=3"], 1, "step=3 was not saved"),
        (["ck", "copy", "to=x", "step=8"], 1, "none of 8 in"),
        (["ck", "copy", "to=x", "step=best", "metric=eval/no"], 1, "has a recorded eval/no; give step=latest"),
        (["sweep"], 1, "the jobs of a sweep are below"),
        (["ck", "copy", "to=ck/history.jsonl/x"], 1, "cannot be written (Not a directory); choose another folder"),
    ],
)
def test_a_mistake_is_one_sentence_and_leaves_nothing(program, folder, words, code, message):
    damage(folder, 8)
    (folder.parent / "sweep" / "sweeps" / "seed=1" / "actor").mkdir(parents=True)
    before = sorted(folder.parent.rglob("*"))
    found, shown, said = program(*words)
    assert (found, shown) == (code, "")
    assert message in said
    assert "\n" not in said
    assert sorted(folder.parent.rglob("*")) == before
