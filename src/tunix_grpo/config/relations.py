"""How settings relate: what cannot work together, and what is probably not meant."""

import importlib.util
from collections.abc import Callable, Iterator, Mapping
from typing import NamedTuple

from tunix_grpo.config import plugins
from tunix_grpo.config.sentences import show
from tunix_grpo.errors import UserError

MAX_TOKENS = "generation.max_generation_steps"
WEIGHTS = ("model.path", "model.hub_id", "model.kaggle_id")
NO_SIGNAL = "all completions of a prompt will be the same, so there is nothing to learn from"


class Relation(NamedTuple):
    """A rule on one or more settings; `check` gets their values and returns a problem or None."""

    keys: tuple[str, ...]
    check: Callable[..., str | None]


def assignments(keys: tuple[str, ...], values: Mapping[str, object]) -> str:
    """Returns settings as they are written on the command line, joined by `and`."""
    return " and ".join(f"{key}={show(values[key])}" for key in keys)


def weights_exist(path: str | None, hub_id: str | None, kaggle_id: str | None) -> str | None:
    """Checks that there is a model to start from."""
    if path is None and hub_id is None and kaggle_id is None:
        return "no model to start from; give model.path=DIRECTORY or model.hub_id=OWNER/NAME"
    return None


def step_of_a_run(step: str, run: str | None) -> str | None:
    """Checks that a step to start from is that of a run."""
    return "steps belong to a run; give its folder as model.run=DIR" if step != "latest" and run is None else None


def quantized_base_is_frozen(quantization: str | None, lora_rank: int | None) -> str | None:
    """Checks that quantized weights are not to be trained themselves."""
    if quantization is not None and lora_rank is None:
        return "quantized weights cannot be trained; give model.lora_rank=32, or model.quantization=null"
    return None


def custom_reward_complete(path: str | None, function: str | None) -> str | None:
    """Checks that a user's reward function is given in full."""
    dotted = function is not None and "." in function  # one that is installed
    if (path is None) != (function is None) and not (path is None and dotted):
        return "one is no use without the other; give the file and the function, or neither"
    return None


def data_exists(name: str, path: str | None, dataset: str | None) -> str | None:
    """Checks that GSM8K has a source."""
    if name == "gsm8k" and path is None and dataset is None:
        return "no questions; give task.dataset=openai/gsm8k or a local task.path=FOLDER"
    return None


def constant_schedule(name: str, final_ratio: float) -> str | None:
    """Checks that a constant learning rate is not told to end elsewhere."""
    if name == "constant" and final_ratio != 1:
        return "a constant rate ends at its peak; set scheduler.final_ratio=1 or scheduler=linear"
    return None


def delta_above_the_clip(delta: float | None, epsilon: float, epsilon_high: float | None) -> str | None:
    """Checks that the bound of a ratio lies above its clip range."""
    high = 1 + (epsilon if epsilon_high is None else epsilon_high)
    if delta is not None and delta <= high:
        return f"the bound must lie above the clip range, which ends at {high:g}; give a larger one, such as 4"
    return None


def penalty_fits(max_length: int | None, cache: int | None, max_tokens: int) -> str | None:
    """Checks that the penalty of long completions begins at a length above 0."""
    longest = max_tokens if max_length is None else max_length
    if cache is not None and cache > longest:
        return (
            f"the penalty would grow over more tokens than there are; set reward.overlong.cache={longest // 5} or null"
        )
    return None


def penalty_is_reached(max_length: int | None, max_tokens: int) -> str | None:
    """Notices that no completion can be as long as the penalty's end."""
    if max_length is not None and max_length > max_tokens:
        return "no completion gets so long; usual is reward.overlong.max_length=null"
    return None


def warm_enough(temperature: float) -> str | None:
    """Notices that the completions of a prompt will all be the same."""
    return f"{NO_SIGNAL}; usual is 1.0" if temperature == 0 else None


def wide_enough(top_k: int | None) -> str | None:
    """Notices that the completions of a prompt will all be the same."""
    return f"{NO_SIGNAL}; usual is null" if top_k == 1 else None


def revision_is_read(revision: str | None, path: str | None) -> str | None:
    """Notices that a revision was given for weights that do not come from the hub."""
    if revision is not None and path is not None:
        return "model.revision has no effect on a local directory; set model.path=null to use it"
    return None


def revision_is_of_the_hub(revision: str | None, kaggle_id: str | None) -> str | None:
    """Notices that a revision was given for weights that come from Kaggle."""
    if revision is not None and kaggle_id is not None:
        return "a revision belongs to model.hub_id; give the version of a Kaggle model as a part of its id"
    return None


def enough_heldout(num_evaluated: int, num_questions: int | None, fraction: float | None) -> str | None:
    """Notices that fewer questions are held out than an evaluation asks for."""
    if num_questions is None or fraction is None:
        return None
    heldout = round(num_questions * fraction)
    if num_evaluated > heldout:
        return f"only about {heldout} questions are held out; evaluations use those"
    return None


CUSTOM_REWARD = Relation(("reward.custom.path", "reward.custom.function"), custom_reward_complete)
# Of every run that trains, on whatever.
TRAINING = (
    Relation(WEIGHTS, weights_exist),
    Relation(("model.step", "model.run"), step_of_a_run),
    Relation(("model.quantization", "model.lora_rank"), quantized_base_is_frozen),
    Relation(("task.name", "task.path", "task.dataset"), data_exists),
    Relation(("scheduler.name", "scheduler.final_ratio"), constant_schedule),
)
ERRORS = (
    *TRAINING,
    CUSTOM_REWARD,
    Relation(("grpo.delta", "grpo.epsilon", "grpo.epsilon_high"), delta_above_the_clip),
    Relation(("reward.overlong.max_length", "reward.overlong.cache", MAX_TOKENS), penalty_fits),
)
TRAINING_REMARKS = (
    Relation(("model.revision", "model.path"), revision_is_read),
    Relation(("model.revision", "model.kaggle_id"), revision_is_of_the_hub),
    Relation(("evaluation.num_questions", "task.num_questions", "task.heldout_fraction"), enough_heldout),
)
WARNINGS = (
    Relation(("generation.temperature",), warm_enough),
    Relation(("generation.top_k",), wide_enough),
    Relation(("reward.overlong.max_length", MAX_TOKENS), penalty_is_reached),
    *TRAINING_REMARKS,
)


def check_relations(relations: tuple[Relation, ...], values: Mapping[str, object]) -> Iterator[str]:
    """Yields what the relations find; one whose settings could not all be read is left out."""
    for keys, check in relations:
        if all(key in values for key in keys):
            problem = check(*(values[key] for key in keys))
            if problem is not None:
                yield f"{assignments(keys, values)}: {problem}"


def check_rewards(values: Mapping[str, object]) -> Iterator[str]:
    """Yields what is wrong when the selected rewards give no signal at all."""
    if not any(key.startswith("reward.") for key in values):
        return  # the group could not be read, and has a sentence of its own
    weights = {
        key.removeprefix("reward.").removesuffix(".weight"): value
        for key, value in values.items()
        if key.startswith("reward.") and key.endswith(".weight")
    }
    if values.get("reward.custom.function") is None:
        weights.pop("custom", None)
    if not weights:
        yield (
            "reward=[]: no reward is selected, so there is nothing to learn from; "
            "give reward=[format,correctness] or reward.custom.path=FILE"
        )
    elif not any(weights.values()):
        named = " and ".join(f"reward.{name}.weight=0" for name in weights)
        yield f"{named}: nothing counts in the total; give at least one another weight"


def check_functions(values: Mapping[str, object]) -> Iterator[str]:
    """Yields what is wrong with the user's named functions."""
    for key, function in values.items():
        if key.startswith("reward.functions.") and key.endswith(".function"):
            path = values.get(f"{key.removesuffix('.function')}.path")
            if path is None and "." not in str(function):
                yield f"{key}={function}: it is in no file; give {key.removesuffix('function')}path=FILE"


def check_metric(values: Mapping[str, object]) -> Iterator[str]:
    """Yields what is wrong when evaluations are judged by a task that they do not have."""
    metric = str(values.get("evaluation.metric"))
    named = metric.split("/")[1] if metric.count("/") == 2 else None
    tasks = {key.split(".")[2] for key in values if key.startswith("evaluation.tasks.")}
    if named is not None and named not in tasks:
        there = f"there are {', '.join(sorted(tasks))}" if tasks else "there are none"
        way_out = f"add it with +task@evaluation.tasks.{named}=OPTION"
        yield f"evaluation.metric={metric}: no task of evaluation.tasks is called {named} ({there}); {way_out}"


def check_trackio(values: Mapping[str, object]) -> Iterator[str]:
    """Yields what is wrong when trackio is wanted and is not there."""
    if values.get("tracker.trackio") is True and importlib.util.find_spec("trackio") is None:
        yield "tracker.trackio=true: trackio is not installed; run pip install 'tunix-grpo[trackio]'"


def check_references(values: Mapping[str, object]) -> Iterator[str]:
    """Yields what keeps a part of the user's from being found: a tracker, a reward, an advantage, a ratio."""
    for key, value in values.items():
        function = key.startswith("reward.") and key.endswith(".function")
        outside_reward = function and not key.startswith(("reward.custom.", "reward.functions."))
        switch = key in ("grpo.advantage", "grpo.ratio") and plugins.is_outside(str(value))
        if value is not None and (outside_reward or switch or key == "tracker.custom"):
            try:
                plugins.resolve(str(value), key)
            except UserError as error:
                yield str(error)
