"""Which settings decide what is learned, and which a run may change at every start."""

# Groups that decide what is learned; all others say where and how a run computes and what it leaves behind.
COURSE = ("optimizer", "scheduler", "grpo", "generation", "reward", "task", "data")
_OF_DEMONSTRATIONS = ("file", "answer_form", "min_reward", "reward_column", "max_per_question", "prompt_texts")
_WHOLE_RUNS = ("model", "training", "experiment", "algorithm", "seed", *_OF_DEMONSTRATIONS)  # what else may decide it
# What of these groups a run may change at every start.
FREE = frozenset(
    {
        "task.validate",
        "task.max_unmatched",
        "task.grader_timeout_s",
        "reward.workers",
        "generation.max_rows",
        "training.num_batches",
        "training.num_epochs",
        "training.remat",
        "training.checkpoint_dir",
        "training.mirror",
        "training.save_interval_steps",
        "training.eval_interval_steps",
        "training.log_interval_steps",
        "training.max_to_keep",
        "training.max_failed_saves",
        "training.max_hours",
        "training.resume",
        "training.dry_run",
        "training.first_look",
        "training.max_bad_steps",
        "training.device",
    }
)
# What of any reward, and of reward.limits, it may change.
FREE_OF_A_REWARD = frozenset(
    {
        "time_limit",
        "workers",
        "isolate",
        "allow_unlimited",
        "concurrency",
        "request_timeout_s",
        "retries",
        "api_key_env",
        "cache_dir",
    }
)


def decides_the_course(key: str) -> bool:
    """Says whether a setting, or the choice of a group's option, may decide what is learned.

    Args:
        key: as it is written on the command line, a plus in front of it included.
    """
    key = key.lstrip("+")
    if key.startswith("reward.") and key.rpartition(".")[2] in FREE_OF_A_REWARD:
        return False
    return key.partition(".")[0] in (*COURSE, *_WHOLE_RUNS) and key not in FREE
