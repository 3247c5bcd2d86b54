"""What the tasks that a run is only evaluated on have of the run's own."""

from omegaconf import DictConfig, OmegaConf

from tunix_grpo.config.open_groups import FURTHER_TASKS


def with_common_keys(cfg: DictConfig) -> DictConfig:
    """Returns the composed config with the keys that every task has, in each of `evaluation.tasks`.

    `max_unmatched` is the run's own where nothing is said: no option of the group `task` has it. `system_prompt` is the
    run's own where it is missing or `default`: a model is evaluated in the form that it is trained in.
    """
    tasks, own = OmegaConf.select(cfg, FURTHER_TASKS), OmegaConf.select(cfg, "task")
    if not (isinstance(tasks, DictConfig) and isinstance(own, DictConfig)):
        return cfg  # a file of the user's; the check of the types says what is wrong
    cfg = cfg.copy()
    for name, inside in tasks.items():
        if not isinstance(inside, DictConfig):
            continue
        group = f"{FURTHER_TASKS}.{name}"
        if inside.get("system_prompt", "default") == "default" and "system_prompt" in own:
            OmegaConf.update(cfg, f"{group}.system_prompt", own.system_prompt, force_add=True)
        if "max_unmatched" not in inside and "max_unmatched" in own:
            OmegaConf.update(cfg, f"{group}.max_unmatched", own.max_unmatched, force_add=True)
    return cfg
