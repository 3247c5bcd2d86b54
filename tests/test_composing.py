"""What people who know Hydra expect of a program: search paths, own main configs, sweeps, searches, launchers."""

from __future__ import annotations

import csv
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from tunix_grpo.config.hydra_options import hydra_options

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"

# A program whose result is a function of a setting, so that sweeps cost nothing; seed 13 cannot be trained.
DOOR = f"""
import math, sys
from pathlib import Path
from tunix_grpo.cli import Outcome, run
from tunix_grpo.config import load
from tunix_grpo.errors import UserError

def main(config):
    if config.seed == 13:
        raise UserError("no luck with seed 13")
    print("notes", config.notes, "model", config.model.name, "batches", config.training.num_batches)
    distance = abs(math.log10(config.optimizer.learning_rate) + 4)
    return Outcome(config.evaluation.metric, None if config.seed == 7 else 1 - distance)

if __name__ == "__main__":
    sys.exit(run(main, config_dir=Path({str(CONF)!r}), load=load))
"""


@pytest.fixture
def door(tmp_path):
    """Runs the program above in a process, in a folder of its own."""
    (tmp_path / "door.py").write_text(DOOR)

    def run_door(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, "door.py", *words]
        return subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=120)

    return run_door


def leaderboard(folder: Path) -> list[dict[str, str]]:
    with (folder / "leaderboard.csv").open() as file:
        return list(csv.DictReader(file))


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["seed=1"], {"multirun": False, "words": ["seed=1"], "only_shown": False, "of_hydra": False}),
        (["-m", "seed=1,2"], {"multirun": True, "words": ["seed=1,2"]}),
        (["hydra.mode=MULTIRUN"], {"multirun": True}),
        (["hydra.mode=RUN"], {"multirun": False}),
        (["--cfg", "job", "a=1"], {"only_shown": True, "words": ["a=1"]}),
        (["a=1", "--help"], {"only_shown": True}),
        (["--info"], {"of_hydra": True}),
        (["-i", "searchpath"], {"of_hydra": True, "words": []}),
        (["-sc", "install=bash"], {"of_hydra": True}),
        (["--config-dir", "d", "-cn", "mine"], {"config_dir": "d", "config_name": "mine"}),
        (["hydra.searchpath=[file://a,pkg://b]"], {"searchpath": ["file://a", "pkg://b"]}),
        (["--wrong", "a=1"], {"words": ["--wrong", "a=1"]}),
        # Between options Hydra 1.3 takes only settings of one place.
        (["a=1", "-m", "b=1,2", "-r", "c=3"], {"arguments": ["a=1", "b=1,2", "c=3", "-m", "-r"]}),
        (["a=1", "-cd", "d", "b=2"], {"arguments": ["a=1", "b=2", "-cd", "d"], "problem": ""}),
        (["--resolve"], {"problem": "--resolve: it says how settings are shown; add --cfg job"}),
        (["--resolve", "--cfg", "job"], {"problem": ""}),
        (
            ["-m", "-c", "job"],
            {"problem": "--multirun and --cfg: Hydra does one of them at a time; leave out the others"},
        ),
        (["-m", "-c", "job", "--help"], {"problem": ""}),
    ],
)
def test_the_options_of_hydra_are_read(words, expected):
    assert {key: getattr(hydra_options(words), key) for key in expected} == expected


@pytest.fixture
def mine(tmp_path) -> Path:
    """A folder with a main config, an experiment and a model of the user's own."""
    folder = tmp_path / "mine"
    (folder / "experiment").mkdir(parents=True)
    (folder / "model").mkdir()
    (folder / "mine.yaml").write_text(
        "defaults:\n  - config\n  - override model: tiny\n  - _self_\nnotes: {machine: laptop}\n"
        "training: {num_batches: 11}\n"
    )
    (folder / "experiment" / "fast.yaml").write_text("# @package _global_\ntraining: {num_batches: 12}\n")
    (folder / "model" / "mini.yaml").write_text(
        "# @package _global_\ndefaults: [base@model, _self_]\nmodel: {name: mini, path: 'bundled:tiny'}\n"
    )
    return folder


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "line"),
    [
        (["--config-dir", "mine", "--config-name", "mine"], "notes {'machine': 'laptop'} model tiny batches 11"),
        (["--config-dir", "mine", "+experiment=fast", "model=tiny"], "notes {} model tiny batches 12"),
        (["hydra.searchpath=[file://mine]", "model=mini"], "model mini"),
        (["hydra.searchpath=[mine]", "model=mini", "+experiment=fast"], "model mini batches 12"),
        (["model=tiny", "+notes.a=1", "notes.b.c=[2,x]"], "notes {'a': 1, 'b': {'c': [2, 'x']}}"),
    ],
)
def test_own_configs(door, mine, words, line):
    done = door(*words)
    assert done.returncode == 0, done.stderr
    assert line in done.stdout


def test_a_main_config_names_further_places(door, mine):
    text = (mine / "mine.yaml").read_text()
    (mine.parent / "other" / "model").mkdir(parents=True)
    (mine / "model" / "mini.yaml").rename(mine.parent / "other" / "model" / "mini.yaml")
    (mine / "mine.yaml").write_text(text + f"hydra:\n  searchpath: ['file://{mine.parent}/other']\n")
    done = door("--config-dir", "mine", "--config-name", "mine", "model=mini")
    assert done.returncode == 0, done.stderr
    assert "model mini batches 11" in done.stdout


@pytest.mark.long
@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["hydra.searchpath=[file:///nowhere]"], "hydra.searchpath=[file:///nowhere]: there is no such folder"),
        (["--info", "grpo.beta=1"], "argument --info/-i: invalid choice: 'grpo.beta=1'"),
        (["--cfg"], "argument --cfg/-c: expected one argument"),
        (["--resolve"], "--resolve: it says how settings are shown; add --cfg job"),
        (["hydra.searchpath=[pkg://no.such]"], "hydra.searchpath=[pkg://no.such]: there is no such folder"),
        (["--config-path", "conf"], "--config-path conf: must be an absolute folder"),
        (
            ["-m", "optimizer.learning_rate=interval(1e-5,1e-3)"],
            "an interval has no end of values; add +hparams_search",
        ),
        (["-m", "optimizer.learning_rate=tag(fast,choice(1e-4,-1))"], "optimizer.learning_rate=-1.0: must be above 0"),
        (["-m", "model=glob(nothing*)"], "model=glob(nothing*): none of "),
        (["hydra.mode=MULTIRUN", "seed=1,-2"], "training.seed=-2: must be at least 0"),
        (["+hparams_search=optuna"], "+hparams_search=optuna: nothing is to be searched; span a setting"),
        (["hparams_search=optuna", "seed=1"], "a search is added with a plus"),
        (["+hparams_search=optuna", "grpo.beta=interval(1,0)"], "the second end must be above the first"),
        (
            ["+hparams_search=optuna", "optimizer.learning_rate=interval(-1,1e-3)"],
            "learning_rate=-1.0: must be above 0",
        ),
    ],
)
def test_wrong_sweeps_and_places_are_sentences(door, tmp_path, words, problem):
    done = door("model=tiny", *words)
    assert done.returncode == 2
    assert problem in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["door.py"]


@pytest.mark.long
@pytest.mark.parametrize("how", [["--multirun"], ["hydra.mode=MULTIRUN"]])
def test_a_sweep_ends_with_a_leaderboard(door, tmp_path, how):
    """From the best to the worst; what came to no number, and what failed, last; the exit code tells of the failure."""
    words = ["optimizer.learning_rate=1e-5,1e-4", "seed=1,7,13", "model=tiny", "hydra.sweep.dir=sweep"]
    done = door(*how, *words)
    assert done.returncode == 1
    assert "error: no luck with seed 13" in done.stderr
    rows = leaderboard(tmp_path / "sweep")
    assert [(row["eval/accuracy"], row["optimizer.learning_rate"], row["training.seed"]) for row in rows][:3] == [
        ("1", "0.0001", "1"),
        ("0", "1e-05", "1"),
        ("", "1e-05", "7"),
    ]
    assert [row["exit_code"] for row in rows] == ["0", "0", "0", "1", "0", "1"]
    assert {row["folder"] for row in rows} == set("012345")
    alone = next(line for line in done.stdout.splitlines() if line.startswith("the best alone: "))
    assert alone.removeprefix("the best alone: ").split(" ", 1)[1] == (
        "door.py optimizer.learning_rate=0.0001 training.seed=1 model=tiny"
    )


@pytest.mark.long
def test_a_sweep_over_the_options_of_a_group(door, tmp_path):
    done = door("-m", "scheduler=glob(*,exclude=linear)", "model=tiny", "hydra.sweep.dir=sweep")
    assert done.returncode == 0, done.stderr
    assert {row["scheduler"] for row in leaderboard(tmp_path / "sweep")} == {"constant", "warmup_cosine"}


@pytest.mark.long
def test_optuna_searches(door, tmp_path):
    """Near the best value after 12 trials, the same ones for the same seed; a failed trial does not end the search."""
    words = ["+hparams_search=optuna", "optimizer.learning_rate=interval(1e-6,1e-2)", "seed=choice(1,13)", "model=tiny"]
    tried = []
    for name in ("a", "b"):
        done = door(*words, "hydra.sweeper.n_trials=12", "hydra.sweeper.seed=3", f"hydra.sweep.dir={name}")
        rows = leaderboard(tmp_path / name)
        assert len(rows) == 12
        assert done.returncode == (1 if any(row["exit_code"] == "1" for row in rows) else 0)
        tried.append(rows)
    assert tried[0] == tried[1]
    assert {row["training.seed"] for row in tried[0]} == {"1", "13"}
    best = yaml.safe_load((tmp_path / "a" / "optimization_results.yaml").read_text())
    assert best["best_value"] == pytest.approx(float(tried[0][0]["eval/accuracy"]), abs=1e-5)
    assert best["best_value"] > 0.5
    assert float(best["best_params"]["optimizer.learning_rate"]) == float(tried[0][0]["optimizer.learning_rate"])


@pytest.mark.slow
def test_a_stored_study_goes_on(door, tmp_path):
    words = ["+hparams_search=optuna", "optimizer.learning_rate=interval(1e-6,1e-2)", "model=tiny"]
    store = ["hydra.sweeper.storage='sqlite:///study.db'", "hydra.sweeper.study_name=mine"]
    for trials, folder in (("2", "a"), ("3", "b")):
        done = door(*words, *store, f"hydra.sweeper.n_trials={trials}", f"hydra.sweep.dir={folder}")
        assert done.returncode == 0, done.stderr
    assert (len(leaderboard(tmp_path / "a")), len(leaderboard(tmp_path / "b"))) == (2, 1)


@pytest.mark.long
@pytest.mark.parametrize("launcher", ["joblib", "submitit_local"])
def test_exit_codes_and_results_survive_launchers_of_processes(door, tmp_path, launcher):
    more = ["hydra.launcher.timeout_min=2"] if launcher == "submitit_local" else ["hydra.launcher.n_jobs=2"]
    done = door("-m", f"hydra/launcher={launcher}", *more, "seed=1,13", "model=tiny", "hydra.sweep.dir=sweep")
    assert done.returncode == 1
    assert [row["exit_code"] for row in leaderboard(tmp_path / "sweep")] == ["0", "1"]


COMPLETED = """
eval "$(python run_training.py -sc install=bash)"
COMP_LINE="python run_training.py model="; COMP_POINT=${#COMP_LINE}; COMP_CWORD=2
hydra_bash_completion
printf '%s\\n' "${COMPREPLY[@]}"
"""


def test_bash_completes_settings():
    environment = os.environ | {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    done = subprocess.run(["bash", "-c", COMPLETED], cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.stderr == ""
    assert {"model=tiny", "model=hf", "model=gemma3_1b"} <= set(done.stdout.split())


@pytest.mark.parametrize("words", [["--info", "searchpath"], ["--hydra-help"], ["--version"]])
def test_hydra_speaks_for_itself(door, words):
    done = door(*words)
    assert done.returncode == 0, done.stderr
    assert "ydra" in done.stdout
