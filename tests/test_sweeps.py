"""The folders in which the jobs of a sweep keep their checkpoints."""

import pytest

from tunix_grpo.config.sweeps import fixed_keys, job_name

SWEEP = ["model=tiny", "training.num_batches=10", "optimizer.learning_rate=1e-4,1e-3"]
JOB = ["model=tiny", "training.num_batches=10", "optimizer.learning_rate=0.001"]

FURTHER = "+task@evaluation.tasks.hard=arithmetic"


def named(job: list[str], sweep: list[str] = SWEEP) -> str:
    return job_name(job, fixed_keys(sweep))


@pytest.mark.parametrize(
    ("job", "name"),
    [
        (JOB, "optimizer.learning_rate=0.001,model=tiny"),
        (["training.num_batches=20", *JOB[:1], *JOB[2:]], "optimizer.learning_rate=0.001,model=tiny"),  # goes on
        ([*JOB, "tracker.wandb=false", "training.save_interval_steps=5"], "optimizer.learning_rate=0.001,model=tiny"),
        ([*JOB, FURTHER], "optimizer.learning_rate=0.001,model=tiny"),
        ([*JOB, "grpo.beta=0.1"], "optimizer.learning_rate=0.001,grpo.beta=0.1,model=tiny"),  # another training
        ([*JOB, "algorithm=dapo"], "optimizer.learning_rate=0.001,algorithm=dapo,model=tiny"),
        ([*JOB, "+experiment=demo"], "optimizer.learning_rate=0.001,experiment=demo,model=tiny"),
        (["training.seed=1"], "seed=1"),
        (["training.num_batches=1"], ""),
    ],
)
def test_the_name_has_what_decides_what_is_learned(job, name):
    sweep = [*SWEEP, "tracker.wandb=false", "training.save_interval_steps=5", "grpo.beta=0.1", "+experiment=demo"]
    sweep += ["algorithm=dapo", FURTHER]
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
