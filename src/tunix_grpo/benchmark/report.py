"""What came out of a benchmark: one flat object of figures, and the table that a person reads."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from tunix_grpo.benchmark.growth import PARTS
from tunix_grpo.benchmark.job import About
from tunix_grpo.config.benchmark import BenchmarkConfig
from tunix_grpo.console import format_bytes, format_duration

Measurements = Sequence[Mapping[str, float]]


def figures(
    about: About, config: BenchmarkConfig, own: Measurements, peer: Measurements | None = None
) -> dict[str, Any]:
    """Returns all that is reported, by name; times are medians over the timed steps.

    Args:
        about: what our own program said of the work, its ceilings and limits.
        own: of each step of our own program, the first one and the warm-up included.
        peer: of each step of the peer.
    """
    work, timed = about["work"], own[1 + config.warmup :]
    result: dict[str, Any] = {
        "model": about["model"],
        "device": about["device"],
        "dtype": about["dtype"],
        "lora_rank": config.model.lora_rank,
        "quantization": config.model.quantization,
        **work,
        "micro_batch_size": config.training.micro_batch_size,
        "remat": about["remat"],
        "steps": len(timed),
        "bandwidth_bytes_per_s": about["ceilings"]["bandwidth"],
        "arithmetic_flop_per_s": about["ceilings"]["arithmetic"],
    }
    for part in PARTS:
        if part == "reference" and config.grpo.beta == 0:
            continue
        seconds, limit = statistics.median(m[f"{part}_s"] for m in timed), about["limits"][part]
        result |= {f"{part}_s": seconds, f"{part}_limit_s": limit, f"{part}_percent": 100 * limit / seconds}
    rows, tokens = work["prompts"] * work["generations"], timed[-1]["tokens"]  # every step has as many
    longest = max(m["longest"] for m in timed)
    result |= {
        "lengths": config.lengths,
        "length_mean": tokens / rows,
        "length_max": longest,
        "step_s_min": min(m["step_s"] for m in timed),
        "step_s_max": max(m["step_s"] for m in timed),
        "rollout_ms_per_token": 1000 * result["rollout_s"] / longest,
        "rollout_limit_ms_per_token": 1000 * result["rollout_limit_s"] / longest,
        "tokens_per_s": tokens / result["rollout_s"],
        "tokens_limit_per_s": tokens / result["rollout_limit_s"],
        "samples_per_s": rows / result["step_s"],
        "samples_limit_per_s": rows / result["step_limit_s"],
        "completion_tokens_per_s": tokens / result["step_s"],
        "completion_tokens_limit_per_s": tokens / result["step_limit_s"],
        "steps_per_hour": 3600 / result["step_s"],
        "steps_limit_per_hour": 3600 / result["step_limit_s"],
        "compile_s": max(0.0, own[0]["step_s"] - result["step_s"]),
        "compilations": own[0]["compilations"],
        "recompilations": sum(m["compilations"] for m in own[1:]),
        "peak_bytes": own[-1]["peak_bytes"],
    }
    if peer is not None:
        result |= _comparison(config, timed, peer, rows)
    return result


def _comparison(config: BenchmarkConfig, own: Measurements, peer: Measurements, rows: int) -> dict[str, Any]:
    """Returns the figures of the peer; a ratio is ours / the peer's, so below 1 ours is faster."""
    own_seconds = [m["step_s"] for m in own]
    seconds = [m["step_s"] for m in peer[1 + config.warmup :]]
    ratios = [ours / theirs for ours, theirs in zip(own_seconds, seconds, strict=True)]
    step_s, tokens = statistics.median(seconds), own[-1]["tokens"]
    counted = {"peer_length_mean": peer[-1]["tokens"] / rows} if config.lengths == "real" else {}
    return counted | {
        "peer": config.peer,
        "peer_step_s": step_s,
        "peer_step_s_min": min(seconds),
        "peer_step_s_max": max(seconds),
        "peer_samples_per_s": rows / step_s,
        "peer_completion_tokens_per_s": tokens / step_s,
        "peer_peak_bytes": peer[-1]["peak_bytes"],
        "step_ratio": statistics.median(own_seconds) / step_s,
        "step_ratio_min": min(ratios),
        "step_ratio_max": max(ratios),
    }


def evaluation_figures(about: Mapping[str, Any], rounds: Measurements) -> dict[str, Any]:
    """Returns what is reported of an evaluation; a ratio is slots / batches, so below 1 the slots are faster."""
    result = dict(about)
    for side in ("batches", "slots"):
        result[f"{side}_s"] = statistics.median(one[f"{side}_s"] for one in rounds)
        result[f"{side}_tokens_per_s"] = about["tokens"] / result[f"{side}_s"]
    ratios = [one["slots_s"] / one["batches_s"] for one in rounds]
    equal = min(one["equal_answers"] for one in rounds)
    recompilations = sum(one["compilations"] for one in rounds)
    of_cpu = statistics.median(one["slots_cpu_s"] / one["batches_cpu_s"] for one in rounds)
    ratio = {
        "ratio": statistics.median(ratios),
        "ratio_min": min(ratios),
        "ratio_max": max(ratios),
        "cpu_ratio": of_cpu,
    }
    return result | ratio | {"equal_answers": equal, "recompilations": recompilations}


def print_evaluation(result: Mapping[str, Any]) -> None:
    """Prints the figures of an evaluation for a person."""
    rows = [("", "time", "tokens/s")]
    for side in ("batches", "slots"):
        rows.append((side, shown_seconds(result[f"{side}_s"]), f"{result[f'{side}_tokens_per_s']:,.0f}"))
    mean = result["tokens"] / result["questions"]
    lines = [
        f"{result['model']}, {result['dtype']}, on {result['device']}",
        f"{result['questions']} answers of {result['shortest']} to {result['longest']} tokens, {mean:.0f} in the mean, "
        f"to prompts of {result['prompt_tokens']}; {result['rows']} at once, medians of {result['rounds']} rounds",
        "",
        *aligned(rows),
        f"ratio        {_spread(result, 'ratio', '{:.2f}'.format)}",
        f"processor    {result['cpu_ratio']:.2f} of the processor's time",
        f"same tokens  {result['equal_answers']} of {result['questions']} answers",
        f"compilation  {result['recompilations']} programs after the start",
        "",
    ]
    sys.stdout.write("\n".join(lines))
    sys.stdout.flush()


def print_json(result: Mapping[str, Any]) -> None:
    """Prints the figures as one object on one line."""
    sys.stdout.write(json.dumps(result) + "\n")
    sys.stdout.flush()


def print_table(result: Mapping[str, object]) -> None:
    """Prints the figures for a person."""
    sys.stdout.write("\n".join([*_heading(result), "", *_against_limits(result), "", *_others(result), ""]))
    sys.stdout.flush()


def _heading(result: Mapping[str, Any]) -> list[str]:
    prompts, generations = result["prompts"], result["generations"]
    tokens = f"{result['completion_tokens']} tokens"
    if result["lengths"] == "real":
        tokens = f"{result['length_mean']:.0f} tokens in the mean and {result['length_max']} at most"
    return [
        what_is_timed(result),
        f"{prompts} prompts x {generations} completions of {result['prompt_tokens']} + {tokens}, "
        f"{result['micro_batch_size']} prompts at once, medians of {result['steps']} steps",
        rates(result),
    ]


def what_is_timed(result: Mapping[str, Any], model: str | None = None) -> str:
    """Returns a line on the model, or several in its place, what is trained of it, and where."""
    trained = "all weights" if result["lora_rank"] is None else f"LoRA rank {result['lora_rank']}"
    base = "" if result["quantization"] is None else f" on {result['quantization']}"
    return f"{model or result['model']}, {result['dtype']}, {trained}{base}, on {result['device']}"


def rates(result: Mapping[str, Any]) -> str:
    """Returns a line on what the device can do."""
    arithmetic = result["arithmetic_flop_per_s"] / 1e9
    return f"this device: {format_bytes(result['bandwidth_bytes_per_s'])}/s, {arithmetic:,.0f} GFLOP/s"


def _against_limits(result: Mapping[str, Any]) -> list[str]:
    rows = [("", "measured", "limit", "of the limit")]
    for part in PARTS:
        if f"{part}_s" not in result:
            continue
        percent = f"{result[f'{part}_percent']:.0f} %"
        rows.append((part, shown_seconds(result[f"{part}_s"]), shown_seconds(result[f"{part}_limit_s"]), percent))
        if part == "rollout":
            token, limit = result["rollout_ms_per_token"], result["rollout_limit_ms_per_token"]
            rows.append(("  a token of all rows", f"{token:.3g} ms", f"{limit:.3g} ms", ""))
            rows.append(("  tokens/s", f"{result['tokens_per_s']:,.0f}", f"{result['tokens_limit_per_s']:,.0f}", ""))
    samples, tokens = result["samples_limit_per_s"], result["completion_tokens_limit_per_s"]
    rows.append(("  samples/s", f"{result['samples_per_s']:.3g}", f"{samples:.3g}", ""))
    rows.append(("  completion tokens/s", f"{result['completion_tokens_per_s']:,.0f}", f"{tokens:,.0f}", ""))
    rows.append(("steps/hour", f"{result['steps_per_hour']:,.0f}", f"{result['steps_limit_per_hour']:,.0f}", ""))
    return aligned(rows)


def _others(result: Mapping[str, Any]) -> list[str]:
    lines = [
        f"compilation  {format_duration(result['compile_s'])}, {result['compilations']} programs, "
        f"{result['recompilations']} again after the first step",
        f"memory       {format_bytes(result['peak_bytes'])} at most",
    ]
    if "peer" in result:
        ours = _spread(result, "step_s", shown_seconds)
        theirs = _spread(result, "peer_step_s", shown_seconds)
        lines += [
            "",
            f"step, ours   {ours}, {format_bytes(result['peak_bytes'])}",
            f"step, {result['peer']:<6} {theirs}, {format_bytes(result['peer_peak_bytes'])}",
            f"ratio        {_spread(result, 'step_ratio', '{:.2f}'.format)}",
        ]
    return lines


def _spread(result: Mapping[str, Any], name: str, shown: Callable[[float], str]) -> str:
    return f"{shown(result[name])} ({shown(result[f'{name}_min'])} to {shown(result[f'{name}_max'])})"


def shown_seconds(value: float) -> str:
    """Shows a time span in full digits, since differences of a few percent matter here."""
    if value < 0.1:
        return f"{1000 * value:.3g} ms"
    return f"{value:.3g} s" if value < 100 else f"{value:.0f} s"


def aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Returns the rows with their first column to the left, the others to the right."""
    first, *others = (max(map(len, column)) for column in zip(*rows, strict=True))

    def line(name: str, *cells: str) -> str:
        return "  ".join([name.ljust(first), *(c.rjust(w) for c, w in zip(cells, others, strict=True))]).rstrip()

    return [line(*row) for row in rows]
