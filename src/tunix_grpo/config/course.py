"""Which settings decide what is learned, and which a run may change at every start."""

# Groups that decide what is learned; all others say where and how a run computes and what it leaves behind.
COURSE = ("optimizer", "scheduler", "grpo", "generation", "reward", "task")
_WHOLE_RUNS = ("model", "training", "experiment", "seed")  # what else may decide it: a model, batches, the seed
_FREE = (
    "num_batches",
    "num_epochs",
    "remat",
    "checkpoint_dir",
    "save_interval_steps",
    "eval_interval_steps",
    "log_interval_steps",
    "max_to_keep",
    "resume",
    "device",
)


def decides_the_course(key: str) -> bool:
    """Says whether a setting, or the choice of a group's option, may decide what is learned.

    Args:
        key: as it is written on the command line, a plus in front of it included.
    """
    group, _, name = key.lstrip("+").partition(".")
    return group in COURSE or (group in _WHOLE_RUNS and not (group == "training" and name in _FREE))
