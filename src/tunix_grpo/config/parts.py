"""The settings of the parts that are chosen by name or are the user's own: the task, the rewards, the trackers."""

from dataclasses import fields
from typing import Any, Literal

from pydantic.dataclasses import dataclass

from tunix_grpo.config import plugins, rules
from tunix_grpo.config.rules import (
    GROUP,
    Count,
    Date,
    Flag,
    Name,
    NameOrReference,
    Number,
    Path,
    Reference,
    Text,
    Values,
    Whole,
)

# Of the group `reward`, what is no reward.
_NOT_A_REWARD = ("normalisation", "limits", "workers", "custom", "functions")
Policy = Literal["stop", "zero", "skip_group"]


@dataclass(kw_only=True, slots=True, config=GROUP)
class AskedTask:
    """What every task has, one that is only evaluated too."""

    name: NameOrReference
    """A task of the package, by the name of its option, or FILE.py:FUNCTION, a builder of your own."""
    system_prompt: Text | None
    """System message before every question; `default` asks for reasoning and answer tags; null is
    none."""
    max_unmatched: Number = rules.number(minimum=0, maximum=1, hint="1 takes all data")
    """Share of the data's answers that no completion can match, 0 to 1; where it is larger the data is refused."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class TaskConfig(AskedTask):
    """The questions: which task, and the keys that its builder takes; see `open_groups.py`."""

    validate: Flag
    """Shows which answers of the data can be matched by completions, and trains nothing."""
    date: Date | None
    """Day, YYYY-MM-DD, that chat templates which write today's date are told; null is the day of the run's
    first start."""
    template_variables: Values | None = rules.hint("give names and values, as in {enable_thinking: false}, or null")
    """Variables of the model's chat template, such as {enable_thinking: false}; null is none."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class FurtherTasks:
    """The tasks that a run is evaluated on beside its own: a key for each."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class RewardLimits:
    """What is done with a reward that hangs or fails."""

    time_limit: Number | None = rules.number(above=0, hint="null is no limit")
    """Seconds that a batch of completions may take, above 0; null is no limit."""
    on_error: Policy
    """What an error in the reward does: stop ends the run, zero gives its completions 0, skip_group leaves their
    groups out of the update."""
    on_timeout: Policy
    """What a batch beyond the time limit does: stop, zero or skip_group, as with an error."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class WeightedReward(RewardLimits):
    """A reward of the package: what all of them have."""

    weight: Number = rules.number()
    """Factor of this reward in the total; any finite number, 0 only records it."""

    def bounds(self) -> tuple[float, float] | None:
        """Returns the smallest and the largest value that the reward has before its weight; None where unknown."""
        return 0.0, 1.0


@dataclass(kw_only=True, slots=True, config=GROUP)
class MathReward(WeightedReward):
    """The reward of math-verify."""

    timeout_s: Number = rules.number(above=0)
    """Seconds that a judgement may take, above 0; a longer one counts as wrong."""
    workers: Count
    """Processes that judge side by side, 1 or more."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class UserReward(WeightedReward):
    """A reward function of the user's own."""

    per: Literal["auto", "completion", "group", "batch"]
    """What a call gets: a completion, the completions of a question, or all of a batch; auto is completion for a
    function with a parameter `completion`, else batch."""
    messages: Flag
    """Gives prompts and completions as lists of messages, as TRL does for conversational data; false gives text."""
    isolate: Flag
    """Calls the function in processes of its own, which are killed when it hangs or crashes."""

    def bounds(self) -> None:
        """Returns None: the function is the user's."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class CustomReward(UserReward):
    """A reward function of the user's own, active when `function` is set."""

    path: Path | None = rules.hint("give a Python file, or null")
    """Python file; null where `function` is a dotted path."""
    function: Name | None = rules.hint("give the function's name in reward.custom.path, or null")
    """Name of the function in that file, or the dotted path of one that is installed, package.module.function."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class NamedFunction(UserReward):
    """One of several functions of the user's own; what it leaves out, the weight aside, is as of reward.custom."""

    path: Path | None = None
    """Python file; null where `function` is a dotted path."""
    function: Name
    """Name of the function in that file, or the dotted path of one that is installed, package.module.function."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class NamedFunctions:
    """The user's named functions: a key for each."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class OutsideReward(UserReward):
    """A reward from outside the package, selected like the package's own."""

    function: Reference
    """FILE.py:FUNCTION."""


@dataclass(kw_only=True, slots=True, config=GROUP)
class RewardsConfig:
    """The rewards: the user's own function, and those that are selected by name; see `open_groups.py`."""

    limits: RewardLimits
    """The limits of every reward that has none of its own."""
    normalisation: Literal["sum", "per_reward"]
    """What is normalised within a group: the weighted sum of the rewards, or each reward by itself, whose advantages
    are then weighted, summed and standardised over the step (GDPO)."""
    workers: Count
    """Processes in which a reward that may hang or crash runs, 1 or more for each such reward."""
    custom: CustomReward
    """The user's own function."""
    functions: Values = rules.hint("give +reward.functions.NAME.path=FILE, .function=NAME and .weight=NUMBER")
    """More functions of your own, by name, each with the keys of reward.custom; a weight must be given, and what else
    is left out is as of reward.custom."""


def _fields(functions: Any) -> dict[str, Any]:
    """Returns the named functions; their section is made for the names that there are."""
    return {each.name: getattr(functions, each.name) for each in fields(functions)}


def selected_rewards(config: RewardsConfig) -> dict[str, WeightedReward]:
    """Returns the selected rewards by name: the package's in its order, those from outside, the user's functions.

    `reward.custom`, the last, has the name of its setting.
    """
    own = [name for name in plugins.REWARDS if hasattr(config, name)]
    outside = [each.name for each in fields(config) if each.name not in (*own, *_NOT_A_REWARD)]
    selected = {name: getattr(config, name) for name in (*own, *outside)} | _fields(config.functions)
    if config.custom.function is not None:
        selected["custom"] = config.custom
    return {name: settings for name, settings in selected.items() if settings is not None}


def further_tasks(tasks: Values | FurtherTasks) -> dict[str, AskedTask]:
    """Returns the tasks of `evaluation.tasks` by name, the keys of their builders among their fields."""
    return _fields(tasks) if isinstance(tasks, FurtherTasks) else tasks


@dataclass(kw_only=True, slots=True, config=GROUP)
class TrackerConfig:
    """Where metrics go besides metrics.jsonl and completions.jsonl."""

    tensorboard: Flag
    """Writes TensorBoard files into the run's folder."""
    wandb: Flag
    """Logs to Weights & Biases; without a key, offline."""
    trackio: Flag
    """Logs to trackio, on this machine; `pip install 'tunix-grpo[trackio]'` brings it."""
    project: Name = rules.hint("it names the project of Weights & Biases and trackio")
    """Project of Weights & Biases and trackio."""
    entity: Name | None = rules.hint("give a user or team, or null for your default")
    """Weights & Biases user or team; null is the account's default."""
    run_name: Name | None = rules.hint("give a name, or null for the run folder's")
    """Name of the run there; null is the run folder's."""
    num_completions: Whole = rules.number(minimum=0)
    """Completions per logged step shown in TensorBoard, Weights & Biases and trackio, 0 or more."""
    show: Whole = rules.number(minimum=0)
    """Groups per logged step whose best and worst completion the terminal and train.log show, 0 or more."""
    custom: Reference | None
    """FILE.py:NAME, a tracker of your own: NAME(output_dir, config) returns it; null is none."""
    report: Flag
    """Writes report.html into the run's folder when the run ends: curves and completions, for a browser."""
