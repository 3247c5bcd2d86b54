"""Writes docs/settings.md and the JSON schemas in docs/schema/ from the settings' types and their values in conf/.

    python tools/write_settings.py

An editor that knows JSON schemas completes and checks conf/**/*.yaml with them: the files name theirs in a comment.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import NoneType
from typing import Annotated, Any, Literal, get_args, get_origin, get_type_hints

from omegaconf import DictConfig, OmegaConf
from settings_schemas import PROGRAMS, Program, builder_descriptions, descriptions, schemas

from tunix_grpo.config import open_groups, plugins, rules
from tunix_grpo.config.composing import composed
from tunix_grpo.config.parts import RewardLimits
from tunix_grpo.config.rewards import Url, Variable
from tunix_grpo.config.schema import Config
from tunix_grpo.config.sentences import schema_entries, show

ROOT = Path(__file__).resolve().parent.parent
CONF = ROOT / "conf"
PAGE = Path("docs/settings.md")
HEAD = """\
# Settings

every setting of the six programs, with the value that it has when nobody says otherwise. Changed on the command line
with `KEY=VALUE`; `--cfg job` shows what a command would run with. The values are in `conf/`, and this page is written
from them and from the types in `src/tunix_grpo/config/` by `python tools/write_settings.py`.

In an editor with a YAML language server (VS Code: the extension "YAML" by Red Hat) the files in `conf/` complete and
check themselves: each names its JSON schema, one of [docs/schema/](schema/), in its first lines. An experiment of your
own does so with the line

    # yaml-language-server: $schema=PATH/TO/docs/schema/config.json
"""
TASK_HEAD = """\
`task.name` chooses the builder; the other keys are its own. `task.name=FILE.py:FUNCTION`, a builder of your own, brings
its own.
"""
REWARD_HEAD = """\
Selected with `reward=[NAME,...]`. A reward from outside the package is a file `reward/NAME.yaml` in a folder that is
given with `--config-dir`; it holds `NAME: {function: FILE.py:FUNCTION, weight: NUMBER}`. Every reward has the keys of
`reward.limits` as its own, too, as in `reward.math.time_limit`; a function of yours has all keys of `reward.custom`.
"""
LIMITS = frozenset(RewardLimits.__pydantic_fields__)  # pyright: ignore[reportAttributeAccessIssue]


_KINDS: dict[Any, str] = {
    rules.Whole: "whole number",
    rules.Number: "number",
    rules.Flag: "`true` or `false`",
    rules.Name: "text",
    rules.Date: "day, `YYYY-MM-DD`",
    rules.Path: "path",
    rules.Reference: "`FILE.py:NAME`",
    rules.Modules: "`all`, `attention`, `mlp` or a regular expression",
    rules.Step: "`latest`, `best` or a number",
    Url: "address",
    Variable: "name of an environment variable",
}


def kind_of(hint: Any) -> str:
    """Returns what values a type has, in words."""
    members = get_args(hint)
    if hint == rules.Values:
        return "names and values"
    if hint == rules.Band:
        return "two numbers"
    if get_origin(hint) is Literal:
        return ", ".join(f"`{word}`" for word in members)
    if get_origin(hint) is list:
        return "list"
    if NoneType in members:
        (inner,) = (member for member in members if member is not NoneType)
        return f"{kind_of(inner)} or `null`"
    if get_origin(hint) is Annotated:
        base, parts = hint.__origin__, hint.__metadata__
        if not isinstance(base, type):
            return kind_of(base)
        alike = [
            kind for kind in _KINDS if kind.__origin__ is base and kind.__metadata__ == parts[: len(kind.__metadata__)]
        ]
        return _KINDS[max(alike, key=lambda kind: len(kind.__metadata__))] if alike else "text"
    return "text"


# --- the page ---


def page() -> str:
    """Returns docs/settings.md."""
    parts = [HEAD]
    for program in PROGRAMS:
        values = composed([], [CONF], program.config_name)
        parts.append(f"## {program.door}\n\n{program.about}\n")
        parts += sections_of(program, values)
    return "\n".join(parts)


def sections_of(program: Program, values: DictConfig) -> Iterator[str]:
    """Yields the tables of a program: the keys that belong to no group, then group by group."""
    entries = dict(schema_entries(program.loader.schema))
    groups = {key: entry.type for key, entry in entries.items() if hasattr(entry.type, "__pydantic_fields__")}
    alone = [key for key in entries if "." not in key and key not in groups]
    yield table(rows(program.loader.schema, alone, values))
    for group, section in groups.items():
        if "." in group:
            continue
        own = [key for key in entries if key.startswith(f"{group}.") and key not in groups]
        if program.config_name != "config" and section is dict(schema_entries(Config))[group].type:
            same = all(show(select(values, key)) == show(select(TRAINING, key)) for key in own)
            if same:
                yield f"### {program.config_name}: {group}\n\nAs in [training](#{group}).\n"
                continue
        title = group if program.config_name == "config" else f"{program.config_name}: {group}"
        yield f"### {title}\n"
        if group in program.loader.open_groups:
            yield from open_group(group, section, own, values)
        else:
            yield table(rows(section, own, values, group))


def open_group(group: str, section: type, own: list[str], values: DictConfig) -> Iterator[str]:
    """Yields the tables of a group whose keys depend on what is chosen."""
    if group == "reward":
        yield REWARD_HEAD
        entries = dict(schema_entries(open_groups.REWARD.section({})))
        yield table(
            [
                *rows(section, ["reward.workers", "reward.functions"], values, "reward"),
                *rows_of_reward("limits", entries["limits"].type, values),
                *rows_of_reward("custom", entries["custom"].type, values),
            ]
        )
        for name in plugins.REWARDS:
            chosen = composed([f"reward=[{name}]"], [CONF], "config")
            yield f"#### reward=[{name}]\n"
            yield table(rows_of_reward(name, open_groups.reward_settings(name), chosen, left_out=LIMITS))
        return
    yield TASK_HEAD
    yield table(rows(section, own, values, group))
    for name, reference in plugins.TASKS.items():
        chosen = composed([f"task={name}"], [CONF], "config")
        texts = builder_descriptions(plugins.resolve(reference, "task.name"))
        keys = open_groups.builder_keys(reference)
        bounds = dict(schema_entries(open_groups.TASK.section({"name": name})))
        lines = [
            row(f"task.{key}", kind_and_bounds(each.annotation, bounds[key]), select(chosen, f"task.{key}"), texts[key])
            for key, each in keys.items()
        ]
        yield f"#### task={name}\n"
        yield table(lines)


def rows_of_reward(name: str, section: type, values: DictConfig, left_out: frozenset[str] = frozenset()) -> list[str]:
    """Returns the lines of a table for a part of the group `reward`."""
    keys = [f"reward.{name}.{key}" for key in section.__pydantic_fields__ if key not in left_out]
    return rows(section, keys, values, f"reward.{name}")


def rows(section: type, keys: list[str], values: DictConfig, prefix: str = "") -> list[str]:
    """Returns the lines of a table for keys of one section."""
    hints = get_type_hints(section, include_extras=True)
    entries, texts = dict(schema_entries(section)), descriptions(section)
    lines = []
    for key in keys:
        name = key.removeprefix(f"{prefix}.")
        lines.append(row(key, kind_and_bounds(hints[name], entries[name]), select(values, key), texts[name]))
    return lines


def kind_and_bounds(hint: Any, entry: Any) -> str:
    """Returns what values a key has, its bounds included."""
    bounds = entry.bounds()
    kind = kind_of(hint)
    return kind.replace("number", f"number, {bounds},", 1).removesuffix(",").replace(",,", ",") if bounds else kind


def row(key: str, kind: str, value: Any, text: str) -> str:
    """Returns a line of a table."""
    return f"| `{key}` | {kind} | `{show(value)}` | {text} |".replace("``", "").replace("\\|", "|")


def table(lines: list[str]) -> str:
    """Returns a table of settings."""
    return "\n".join(["| key | values | default | meaning |", "|---|---|---|---|", *lines, ""])


def select(values: DictConfig, key: str) -> Any:
    """Returns a value of a composed config as it is written there."""
    content = OmegaConf.to_container(values, resolve=False)
    for name in key.split("."):
        content = content.get(name) if isinstance(content, Mapping) else None
    return content


def files() -> dict[Path, str]:
    """Returns what this program writes: path in the repository -> content."""
    made = {path: json.dumps(schema, indent=1, sort_keys=True) + "\n" for path, schema in schemas().items()}
    return {PAGE: page(), **made}


TRAINING = composed([], [CONF], "config")

if __name__ == "__main__":
    for path, content in files().items():
        (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
        (ROOT / path).write_text(content)
