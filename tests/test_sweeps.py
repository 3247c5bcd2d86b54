"""The folders in which the jobs of a sweep keep their checkpoints, and the commands that a refusal shows."""

import shlex

import pytest

from tunix_grpo.config.overrides import assignment, normalise
from tunix_grpo.config.sweeps import command_with, fixed_keys, job_name

SWEEP = ["model=tiny", "training.num_batches=10", "optimizer.learning_rate=1e-4,1e-3"]
JOB = ["model=tiny", "training.num_batches=10", "optimizer.learning_rate=0.001"]


def named(job: list[str], sweep: list[str] = SWEEP) -> str:
    return job_name(job, fixed_keys(sweep))


@pytest.mark.parametrize(
    ("job", "name"),
    [
        (JOB, "model=tiny,optimizer.learning_rate=0.001"),
        (["training.num_batches=20", *JOB[:1], *JOB[2:]], "model=tiny,optimizer.learning_rate=0.001"),  # goes on
        ([*JOB, "tracker.wandb=false", "training.save_interval_steps=5"], "model=tiny,optimizer.learning_rate=0.001"),
        ([*JOB, "grpo.beta=0.1"], "grpo.beta=0.1,model=tiny,optimizer.learning_rate=0.001"),  # another training
        ([*JOB, "+experiment=demo"], "experiment=demo,model=tiny,optimizer.learning_rate=0.001"),
        (["training.seed=1"], "seed=1"),
        (["training.num_batches=1"], ""),
    ],
)
def test_the_name_has_what_decides_what_is_learned(job, name):
    sweep = [*SWEEP, "tracker.wandb=false", "training.save_interval_steps=5", "grpo.beta=0.1", "+experiment=demo"]
    assert named(job, sweep) == name


def test_what_is_swept_is_in_the_name_whatever_it_is():
    sweep = ["training.num_batches=1,2", "tracker.wandb=true,false", "training.micro_batch_size=choice(1,2)"]
    job = ["training.num_batches=1", "tracker.wandb=true", "training.micro_batch_size=2"]
    assert named(job, sweep) == "tracker.wandb=true,training.micro_batch_size=2,training.num_batches=1"
    assert named(["grpo.beta=0.5"], []) == "grpo.beta=0.5"  # hydra.sweeper.params, or another sweeper's own


def test_names_are_legal_bounded_and_of_one_job():
    jobs = [
        ["task.path=a/b"],
        ["task.path=a-b"],
        ["task.path=../../etc"],
        ["task.path='a,b'"],
        ["task.path=a", "b"],
        ["reward=[format]"],
        ["reward=(format)"],
        ["model.name=A"],
        ["model.name=a"],
        ["task.system_prompt=" + "ä" * 300],
        ["task.system_prompt=" + "ä" * 301],
        ["model.name=" + "x" * 300],
        ["model.name=" + "x" * 301],
    ]
    names = [named(job, []) for job in jobs]
    assert len({name.lower() for name in names}) == len(jobs)
    for name in names:
        assert len(name.encode()) <= 200 and "/" not in name and not name.startswith("."), name
        assert name.isascii() and name.isprintable()


@pytest.mark.parametrize(
    ("command", "words", "shown"),
    [
        (["python", "run_training.py"], ["a.b=1"], "python run_training.py a.b=1"),
        (
            ["python", "run_training.py", "seed=1", "+experiment=demo", "checkpoint_dir=x"],
            ["training.checkpoint_dir=y", "seed=2"],
            "python run_training.py +experiment=demo training.checkpoint_dir=y seed=2",
        ),
        (
            ["python", "my folder/run_training.py", "task.system_prompt='Be brief.'"],
            ["checkpoint_dir='a b'"],
            """python 'my folder/run_training.py' 'task.system_prompt='"'"'Be brief.'"'"'' 'checkpoint_dir='"'"'a b'"'"''""",
        ),
    ],
)
def test_commands_for_a_shell(command, words, shown):
    assert command_with(command, words) == shown
    assert shlex.split(shown)[-1] == words[-1]


@pytest.mark.parametrize(
    "value", ["/a/b-2", "/with space/x", "it's", "${x}", "a,b", "Ä", "~", "x=1", "a\\", None, 4, 0.5]
)
def test_an_assignment_is_read_back(compose, value):
    """Through a shell and through Hydra."""
    (word,) = shlex.split(command_with([], [assignment("model.name", value)]))
    expected = {None: "null"}.get(value, str(value))
    assert compose(*normalise([word])).model.name == expected if value is not None else word == "model.name=null"
