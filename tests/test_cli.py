"""What the door does with good and bad command lines: exit codes, messages, folders."""

import logging
import re
import resource
import subprocess
import sys
from pathlib import Path

import pytest

from tunix_grpo.cli import exit_code
from tunix_grpo.config import load
from tunix_grpo.config.composing import checked_command_line, composed, run_folder_problems
from tunix_grpo.config.overrides import list_groups
from tunix_grpo.console.output import LogFile
from tunix_grpo.errors import ConfigError, UserError

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"

# A door whose program prints a few settings, or fails in the way that its run name says.
DOOR = f"""
import logging, os, sys
from pathlib import Path
from tunix_grpo.cli import run
from tunix_grpo.config import load
from tunix_grpo.console.output import print_lines
from tunix_grpo.errors import NotContinued, UserError

def main(config):
    if config.tracker.run_name == "user":
        raise UserError("the folder is full; empty it")
    if config.tracker.run_name == "other run":
        ways = {{"go on": ["training.resume=changed"], "start afresh": ["checkpoint_dir=/x"]}}
        raise NotContinued("the checkpoint is another one", ways)
    if config.tracker.run_name == "bug":
        raise ZeroDivisionError("a bug")
    if config.tracker.run_name == "ctrl-c":
        raise KeyboardInterrupt
    if config.tracker.run_name == "talks":
        import time
        for number in range(300):
            print_lines(["printed"])
            logging.getLogger("tunix_grpo.train").info("said %s", number)
            time.sleep(0.001)
    if config.tracker.run_name == "paths":
        print(config.checkpoint_dir, config.reward.custom.path)
        print(getattr(config.task, "path", None), os.getcwd())
    logging.getLogger("tunix_grpo.train").info("seed %s", config.seed)
    logging.getLogger("elsewhere").info("chatter")
    logging.getLogger("elsewhere").warning("trouble")
    assert "jax" not in sys.modules

sys.exit(run(main, config_dir=Path({str(CONF)!r}), load=load))
"""


@pytest.fixture
def door(tmp_path):
    """Runs the door above in a process, in an empty folder of its own."""
    (tmp_path / "door.py").write_text(DOOR)
    start = tmp_path / "start"
    start.mkdir()

    def run_door(*words: str) -> subprocess.CompletedProcess:
        command = [sys.executable, str(tmp_path / "door.py"), *words]
        return subprocess.run(command, cwd=start, capture_output=True, text=True, timeout=60)

    run_door.start = start
    return run_door


def test_a_run_leaves_its_log_in_its_folder(door):
    done = door("seed=7", "training.eval_interval_steps=10", "hydra.run.dir=here")
    assert done.returncode == 0
    assert done.stdout.splitlines() == [
        "warning: training.eval_interval_steps=10: outside the usual range 100 to 5000; going on with it",
        "seed 7",
        "warning: trouble",
    ]
    assert done.stderr == ""
    log = (door.start / "here" / "train.log").read_text().splitlines()
    assert [line.split(": ", 1)[1] for line in log][1:] == ["seed 7", "trouble"]
    assert " INFO    tunix_grpo.train: seed 7" in log[1]


@pytest.mark.parametrize("chdir", ["false", "true"])
def test_relative_paths_are_where_the_command_was_started(door, chdir):
    """Also where Hydra starts the job in the run's folder."""
    paths = ["checkpoint_dir=ckpts", "reward.custom.path=a.py", "reward.custom.function=f"]
    paths += ["task=jsonl", "task.path=data.jsonl"]
    done = door(*paths, "tracker.run_name=paths", f"hydra.job.chdir={chdir}", "hydra.run.dir=here")
    place = door.start / "here" if chdir == "true" else door.start
    wanted = {f"{door.start}/ckpts {door.start}/a.py", f"{door.start}/data.jsonl {place}"}
    assert wanted <= set(done.stdout.splitlines())


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["tracker.run_name=user"], 1, "error: the folder is full; empty it\n"),
        (["tracker.run_name=ctrl-c"], 130, "error: stopped by Ctrl-C\n"),
    ],
)
def test_errors_of_the_program_have_no_traceback(door, words, code, message):
    done = door(*words)
    assert (done.returncode, done.stderr) == (code, message)


def test_a_bug_has_its_traceback(door):
    done = door("tracker.run_name=bug")
    assert done.returncode == 1
    assert "Traceback" in done.stderr and "ZeroDivisionError: a bug" in done.stderr


def test_wrong_settings_leave_nothing_behind(door):
    done = door("grpo.num_generations=1", "training.micro_batch_size=0", "trianing.seed=1")
    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.splitlines() == [
        "error: 3 settings are wrong:",
        "  trianing.seed=1: unknown setting; did you mean training.seed?",
        "  training.micro_batch_size=0: must be at least 1",
        "  grpo.num_generations=1: must be at least 2; an advantage is relative to the other "
        "completions of the same prompt",
    ]
    assert list(door.start.iterdir()) == []


@pytest.mark.long
def test_multirun_gives_every_job_its_folder(door):
    done = door("--multirun", "seed=1,2", "hydra.sweep.dir=sweep")
    assert done.returncode == 0
    logs = [(door.start / "sweep" / job / "train.log").read_text() for job in "01"]
    assert ["seed 1" in logs[0], "seed 2" in logs[1]] == [True, True]


@pytest.mark.long
def test_every_job_of_a_sweep_has_its_checkpoints(door):
    """Also below a folder that is given, and where Hydra starts the job elsewhere."""
    words = ("--multirun", "seed=1,2", "optimizer.learning_rate=1e-4", "tracker.run_name=paths")
    for where in ([], ["checkpoint_dir=mine", "hydra.job.chdir=true"]):
        done = door(*words, *where)
        base = f"{door.start}/mine" if where else f"{door.start}/checkpoints/ckpts"
        for seed in (1, 2):
            assert f"{base}/sweeps/seed={seed},optimizer.learning_rate=0.0001 None" in done.stdout.splitlines()
    one = door("seed=1", "tracker.run_name=paths")
    assert f"{door.start}/checkpoints/ckpts None" in one.stdout.splitlines()


def test_a_refusal_shows_the_commands_that_do_what_is_meant(door):
    done = door("tracker.run_name=other run", "seed=7", "training.resume=auto")
    assert done.returncode == 1
    program = f"{sys.executable} {door.start.parent}/door.py 'tracker.run_name=other run'"
    assert done.stderr.splitlines() == [
        "error: the checkpoint is another one",
        "To go on:",
        f"    {program} seed=7 training.resume=changed",
        "To start afresh:",
        f"    {program} seed=7 training.resume=auto checkpoint_dir=/x",
    ]


@pytest.mark.long
def test_one_failing_job_does_not_stop_the_others(door):
    done = door("--multirun", "tracker.run_name=user,fine", "hydra.sweep.dir=sweep")
    assert done.returncode == 1
    assert "error: the folder is full; empty it" in done.stderr
    assert "seed 42" in (door.start / "sweep" / "1" / "train.log").read_text()


def test_help_explains_the_groups(door):
    done = door("--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert "  task         the questions: arithmetic custom gsm8k jsonl reasoning_gym" in done.stdout
    for group, options in list_groups([CONF]).items():
        if group != "hydra":
            assert re.search(rf"^ +{group} .*(\n .*)?: ?\n? *{' '.join(options)}$", done.stdout, re.MULTILINE), group
    assert "micro_batch_size: 4" in done.stdout
    assert list(door.start.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "problem"),
    [
        (["--multirun", "seed=1,-2"], "training.seed=-2: must be at least 0"),
        (["seed=1,2"], "Ambiguous value for argument 'training.seed=1,2'"),
        (
            ["reward=[format]", "reward.correctness.weight=2"],
            "reward.correctness.weight: the reward correctness is not selected; add it",
        ),
        (["--config-name", "nowhere"], "Cannot find primary config 'nowhere'"),
        (["--config-dir", "/nowhere"], "/nowhere"),
        (["--cfg", "job", "model=nothing"], "there is no model nothing"),
        (["hydra.run.dir=/dev/null/run"], "/dev/null is not a folder that can be written to; choose"),
        (["seed=1" + "0" * 5000], "seed=10000000000000000000000000...: cannot be read (Exceeds the limit"),
        (["-x", "seed=1"], "-x: unknown option; --help lists what there is"),
    ],
)
def test_command_lines_that_cannot_run(words, problem):
    with pytest.raises(ConfigError) as caught:
        checked_command_line(words, CONF, "config")
    assert len(caught.value.problems) == 1
    assert problem in caught.value.problems[0]
    assert "\n" not in caught.value.problems[0]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (
            "training: {num_batchs: 3}",
            "training.num_batchs: unknown setting; did you mean training",
        ),
        ("training: {num_batches: 0}", "training.num_batches=0: must be at least 1"),
        ("experiment: {seed: 3}", "begins with the line # @package _global_"),
        ("training: [", "mine.yaml"),
        ("defaults:\n  - override /modle: tiny", "modle"),
    ],
)
def test_problems_of_a_users_own_experiment(tmp_path, content, problem):
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text(f"# @package _global_\n{content}\n")
    with pytest.raises(ConfigError) as caught:
        checked_command_line(["--config-dir", str(tmp_path), "+experiment=mine"], CONF, "config")
    assert problem in str(caught.value)


def test_wrong_words_do_not_hide_what_cannot_be_composed():
    with pytest.raises(ConfigError) as caught:
        checked_command_line(["learning_rate=1", "reward=[format]", "reward.correctness.weight=2"], CONF, "config")
    assert [problem.split(":")[0] for problem in caught.value.problems] == [
        "learning_rate=1",
        "reward.correctness.weight",
    ]


def test_good_command_lines_come_back_in_hydras_form(monkeypatch):
    monkeypatch.setenv("HOME", "/home/someone")
    words = ["checkpoint_dir=~/x", "--cfg", "job", "seed=3"]
    assert checked_command_line(words, CONF, "config") == [
        "training.checkpoint_dir=/home/someone/x",
        "training.seed=3",
        "--cfg",
        "job",
    ]


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UserError("no space"), 1, "no space"),
        (ConfigError(["a=1: bad"]), 2, "a=1: bad"),
        (
            ConfigError(["a=1: bad", "b=2: worse"]),
            2,
            "2 settings are wrong:\n  a=1: bad\n  b=2: worse",
        ),
    ],
)
def test_exit_codes(error, code, message):
    reported = []

    def fail():
        raise error

    assert exit_code(fail, report=reported.append) == code
    assert reported == [message]
    assert exit_code(lambda: None, report=reported.append) == 0


def leave_after_one_line(door, *words: str, timeout_s: float = 60) -> tuple[str, str, int]:
    """Starts the door, reads one line of its standard output and closes the pipe; returns line, errors, exit code."""
    command = [sys.executable, str(door.start.parent / "door.py"), *words]
    how = {"cwd": door.start, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, **how) as process:
        line = process.stdout.readline()
        process.stdout.close()
        return line, process.stderr.read(), process.wait(timeout_s)


@pytest.mark.parametrize("words", [["--help"], ["--cfg", "job"]])
def test_a_reader_who_has_seen_enough_is_no_error(door, words):
    """As in `run_training.py --help | head -1`."""
    line, errors, code = leave_after_one_line(door, *words)
    assert line.strip()
    assert (errors, code) == ("", 0)


def test_a_run_goes_on_when_nobody_reads_it_any_more(door):
    line, errors, code = leave_after_one_line(door, "tracker.run_name=talks", "hydra.run.dir=here")
    assert line.strip()
    assert (errors, code) == ("", 0)
    log = [line.split(": ", 1)[1] for line in (door.start / "here" / "train.log").read_text().splitlines()]
    assert [line for line in log if line.startswith("said ")] == [f"said {number}" for number in range(300)]
    assert "what is printed goes to nowhere from here on ([Errno 32] Broken pipe); this log has the rest" in log


def test_output_that_a_full_disk_refuses_is_said_once(door):
    """/dev/full refuses everything that is written to it."""
    command = [sys.executable, str(door.start.parent / "door.py"), "tracker.run_name=talks", "hydra.run.dir=here"]
    with open("/dev/full", "w") as full:
        done = subprocess.run(command, cwd=door.start, stdout=full, stderr=subprocess.PIPE, text=True)
    warning = "warning: what is printed goes to nowhere from here on ([Errno 28] No space left on device)\n"
    assert (done.stderr, done.returncode) == (warning, 0)
    assert "said 299" in (door.start / "here" / "train.log").read_text()


def test_a_log_that_a_full_disk_refuses_is_said_once(tmp_path, capsys):
    """The log file is /dev/full, which refuses everything that is written to it."""
    log = LogFile("/dev/full")
    for number in range(3):
        log.handle(logging.makeLogRecord({"msg": f"line {number}"}))
    assert capsys.readouterr().err == "warning: /dev/full cannot be written ([Errno 28] No space left on device)\n"


def test_a_run_folder_on_a_full_disk_is_refused_before_hydra_makes_it(tmp_path):
    """No file may grow beyond half of what a run writes at its start."""
    allowed = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1 << 15, allowed[1]))
    try:
        problems = run_folder_problems(str(tmp_path / "new"))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, allowed)
    assert problems == [
        f"hydra.run.dir={tmp_path}/new: {tmp_path} cannot be written to (File too large); make room or choose another"
    ]
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "sides"),
    [
        (["algorithm=dapo"], (0.2, 0.28)),
        (["algorithm=dapo", "grpo.epsilon=0.1"], (0.1, 0.1)),
        (["grpo.epsilon=0.1", "algorithm=dapo"], (0.1, 0.1)),
        (["grpo.epsilon=0.1", "algorithm=dapo", "grpo.epsilon_high=0.5"], (0.1, 0.5)),
        (["algorithm=gspo", "grpo.epsilon_low=0.1"], (0.1, 4e-4)),
        (["grpo.epsilon=0.1"], (0.1, 0.1)),
    ],
)
def test_epsilon_on_the_command_line_wins_over_the_sides_of_an_algorithm(words, sides):
    grpo = load(composed(words, [CONF], "config")).grpo
    assert (grpo.low, grpo.high) == sides


def test_the_command_line_wins_over_wandbs_variables_and_they_over_conf(tmp_path, monkeypatch):
    """Also over an experiment of the user's, which is a file like those in conf/."""
    monkeypatch.setenv("WANDB_PROJECT", "by variable")
    monkeypatch.setenv("WANDB_ENTITY", "team")
    monkeypatch.setenv("WANDB_NAME", "")
    (tmp_path / "experiment").mkdir()
    (tmp_path / "experiment" / "mine.yaml").write_text("# @package _global_\ntracker: {project: by file}\n")
    for words, project in (
        ([], "by variable"),
        (["+experiment=mine"], "by variable"),
        (["+experiment=mine", "tracker.project=by hand"], "by hand"),
    ):
        tracker = load(composed(words, [CONF, tmp_path], "config")).tracker
        assert (tracker.project, tracker.entity, tracker.run_name) == (project, "team", None)
    monkeypatch.delenv("WANDB_PROJECT")
    assert load(composed([], [CONF], "config")).tracker.project == "tunix-grpo"
