"""Rewards in a cluster: each completion is scored once, by one of its processes, and all of them get all values.

So a reward that answers differently on every call, as a judge does, cannot drive the processes apart.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from tunix_grpo.files import Json
from tunix_grpo.hosts.cluster import Hosts
from tunix_grpo.rewards.ahead import Early
from tunix_grpo.rewards.base import Failure, Reward, Samples, Scored
from tunix_grpo.rewards.scoring import RewardTable, score_completions


def score_together(
    hosts: Hosts, rewards: Sequence[Reward], samples: Samples, early: Early | None = None
) -> RewardTable:
    """Returns what completions are worth; each process scores whole groups.

    Args:
        early: values that this process's rewards have given already, by row.

    Raises:
        UserError: a reward fails whose failures stop the run; all processes say the same.
    """
    if hosts.count == 1:
        return score_completions(rewards, samples, early)
    own: Json = None
    with hosts.together():
        rows = hosts.part(len(samples), samples.num_generations)
        if rows:
            known = {name: _moved(values, rows) for name, values in (early or {}).items()}
            own = _as_json(score_completions(rewards, samples.rows(rows), known))
    return _joined([_of_json(part) for part in hosts.gather(own) if isinstance(part, dict)])


def _moved(values: Mapping[int, Scored | Failure], rows: range) -> dict[int, Scored | Failure]:
    """Returns the values of some rows, counted from the first of them."""
    return {row - rows.start: value for row, value in values.items() if row in rows}


def _as_json(table: RewardTable) -> Json:
    fields: dict[str, Json] = dataclasses.asdict(table)
    fields["skipped"] = list(sorted(table.skipped))
    return fields


def _of_json(part: Mapping[str, Json]) -> RewardTable:
    fields: Any = dict(part)
    fields["skipped"] = frozenset(fields["skipped"])
    return RewardTable(**fields)


def _joined(tables: Sequence[RewardTable]) -> RewardTable:
    """Returns the rows of several tables, one behind the other; what was counted since the start is added up."""
    sizes = [len(table.total) for table in tables]
    skipped = {sum(sizes[:place]) + row for place, table in enumerate(tables) for row in table.skipped}
    events = {name: sum(table.events.get(name, 0) for table in tables) for table in tables for name in table.events}
    return RewardTable(
        [value for table in tables for value in table.total],
        _columns([table.parts for table in tables], sizes),
        _columns([table.extras for table in tables], sizes),
        frozenset(skipped),
        events,
    )


def _columns(tables: Sequence[Mapping[str, list[float | None]]], sizes: Sequence[int]) -> dict[str, list[float | None]]:
    """Returns the columns of all tables; one that a table lacks is None there."""
    names = dict.fromkeys(name for table in tables for name in table)
    pairs = list(zip(tables, sizes, strict=True))
    return {name: [value for table, size in pairs for value in table.get(name, [None] * size)] for name in names}
