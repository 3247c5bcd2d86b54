"""The program that puts runs side by side."""

from __future__ import annotations

from pathlib import Path

from tunix_grpo import console
from tunix_grpo.config.compare import CompareConfig
from tunix_grpo.record.report.comparing import Found, Pair, find_runs, head_of, last_reward, pairs_of
from tunix_grpo.record.report.curves import evaluated
from tunix_grpo.record.report.differing import differing
from tunix_grpo.record.report.intervals import Share
from tunix_grpo.record.report.page import write_page, writing_to

_NOT_PAIRED = "no two of them were evaluated on the same questions; scripts/evaluate.py run=RUN, for each, does that"


def compare(config: CompareConfig) -> None:
    """Shows runs side by side in the terminal, and writes the page of it.

    Raises:
        UserError: there are fewer than two runs, a folder is not that of a run, or the page cannot be written.
    """
    found = find_runs([Path(folder) for folder in config.runs], config.most)
    pairs = pairs_of(found.runs)
    show(found, pairs)
    output = Path(config.output)
    with writing_to(output):
        write_page(output, "compare", head_of(found, pairs), {})
    console.print_lines([f"written: {output} ({console.format_bytes(output.stat().st_size)})"])


def show(found: Found, pairs: list[Pair]) -> None:
    """Prints the tables of a comparison."""
    runs = found.runs
    metrics = list(dict.fromkeys(name for _, run in runs for name in evaluated(run)))
    header = ["run", "step", *(f"{name} {when}" for name in metrics for when in ("before", "after")), "last rewards"]
    rows = []
    for label, run in runs:
        shares = evaluated(run)
        both = [shares.get(name, (None, None)) for name in metrics]
        cells = [_in_words(one[1]) if one is not None else "" for pair in both for one in pair]
        reward = last_reward(run)
        rows.append([label, f"{run.last_step:,}", *cells, "" if reward is None else f"{reward:.4g}"])
    console.table(header, rows, f"{len(runs)} runs" + (f", {found.left_out} left out" if found.left_out else ""))
    settings = differing([run.settings for _, run in runs])
    if settings:
        names = [label for label, _ in runs]
        console.table(["setting", *names], [[key, *values] for key, values in settings], "settings that differ")
    if pairs:
        header = ["task", "run", "against", "questions", "right", "difference", "p", ""]
        console.table(header, [_row(pair) for pair in pairs], "on the same questions, greedy")
    else:
        console.print_lines([_NOT_PAIRED])


def _in_words(share: Share) -> str:
    value = console.format_percent(share.value)
    if share.low is None or share.high is None:
        return value
    return f"{value} [{console.format_percent(share.low)}, {console.format_percent(share.high)}]"


def _row(pair: Pair) -> list[str]:
    difference = pair.difference
    points = [f"{100 * value:+.1f}" for value in (difference.value, difference.low, difference.high)]
    return [
        *(pair.task, pair.run, pair.other, f"{pair.questions:,}", f"{pair.right:,} : {pair.other_right:,}"),
        f"{points[0]} points [{points[1]}, {points[2]}]",
        f"{difference.p_value:.2g}",
        difference.verdict,
    ]
