"""Compiles a training for a device, which need not be there, and says whether it fits and what a step costs."""

from __future__ import annotations

import functools
import json
import logging
import sys
from typing import Any

from jax.sharding import Mesh

from tunix_grpo import console
from tunix_grpo.config import Config
from tunix_grpo.config.preflight import PreflightConfig
from tunix_grpo.decoder.platform import traced_for
from tunix_grpo.errors import UserError
from tunix_grpo.grpo.limits import Ceilings, Limits, Work
from tunix_grpo.grpo.training_limits import limits_of
from tunix_grpo.model.abstract import abstract_model
from tunix_grpo.model.model import Model
from tunix_grpo.model.sources import config_directory
from tunix_grpo.preflight.collectives import collectives, traffic
from tunix_grpo.preflight.compiling import Needs, Program, compiled
from tunix_grpo.preflight.fitting import first_that_fits
from tunix_grpo.preflight.host_transfers import host_transfers_in_loops
from tunix_grpo.preflight.targets import TARGETS, Target, ask_no_device, described_mesh, present
from tunix_grpo.preflight.training_programs import Programs

_NOT_COUNTED = "the device's own context, cuDNN's workspaces, what its allocator loses, and what autotuning chooses"
_PARTS = ("step", "rollout", "reference", "update")
_SIZES = ("peak", "beside", "total", "sent")
_log = logging.getLogger(__name__)


def preflight(asked: PreflightConfig, config: Config) -> None:
    """Prints what the programs of a training need on a device.

    Args:
        config: of the training.

    Raises:
        UserError: it does not fit, and which settings would make it fit; or the target cannot be compiled for.
    """
    if asked.target == "this":
        target, mesh = present(config)
    else:
        target = TARGETS[asked.target]
        mesh = described_mesh(asked.target, target, config.mesh)
        ask_no_device()
    show_needs(config, target, mesh, as_json=asked.json)


def show_needs(config: Config, target: Target, mesh: Mesh, *, as_json: bool = False) -> dict[str, Any]:
    """Prints what the programs of a training need, and returns the figures.

    Raises:
        UserError: it does not fit, and which settings would make it fit.
    """
    with traced_for(target.described):
        model = abstract_model(config.model, config_directory(config.model), mesh)
        programs = Programs(config, model, mesh)
        needs = [_compiled(program) for program in programs.all()]
        figures = _figures(config, target, mesh, model, programs, needs)
        _show(figures, as_json)
        if not figures["fits"]:
            fits, remat = functools.partial(_fits, target, mesh), programs.pass_form.remat
            words = first_that_fits(config, remat, needs, target.memory or 0, fits)
            raise UserError(_does_not_fit(needs, target, words))
        return figures


def _compiled(program: Program) -> Needs:
    needs = compiled(program)
    _log.info("%s: compiled in %s", program.name, console.format_duration(needs.seconds))
    return needs


def _fits(target: Target, mesh: Mesh, config: Config, first: list[str]) -> bool:
    """Says whether all programs of changed settings fit; those that did not are compiled first."""
    programs = Programs(config, abstract_model(config.model, config_directory(config.model), mesh), mesh)
    in_order = sorted(programs.all(), key=lambda program: program.name not in first)
    return all(_is_in(_compiled(program), target) for program in in_order)


def _is_in(needs: Needs, target: Target) -> bool:
    return not needs.refusal and (target.memory is None or needs.total <= target.memory)


def _figures(
    config: Config, target: Target, mesh: Mesh, model: Model, programs: Programs, needs: list[Needs]
) -> dict[str, Any]:
    """Returns all that is reported, by name."""
    sent = {each.name: traffic(collectives(each.text)) if mesh.size > 1 and each.text else 0 for each in needs}
    figures: dict[str, Any] = {
        "device": target.about,
        "devices": target.count,
        "memory_bytes": target.memory,
        "dtype": str(model.dtype),
        "attention": model.attention_form,
        "remat": programs.pass_form.remat,
        "resident_bytes": programs.resident,
        "saved_bytes": programs.saved,
        "fits": all(_is_in(each, target) for each in needs),
        "programs": [
            {
                "name": each.name,
                "peak_bytes": each.peak,
                "beside_bytes": each.beside,
                "total_bytes": each.total,
                "sent_bytes": sent[each.name],
                "host_transfers_in_loops": host_transfers_in_loops(each.text) if each.text else None,
                "compile_s": each.seconds,
                "refusal": each.refusal or None,
            }
            for each in needs
        ],
    }
    if target.ceilings is not None:
        limits = _limits(config, mesh, model, target.ceilings)
        figures |= {f"{part}_limit_s": getattr(limits, part) for part in _PARTS}
    return figures


def _limits(config: Config, mesh: Mesh, model: Model, ceilings: Ceilings) -> Limits:
    """Returns the least seconds of a step at the device's rates, each completion as long as it may be."""
    work = Work(
        prompts=config.prompts_per_step(mesh.shape["fsdp"]),
        generations=config.grpo.num_generations,
        prompt_tokens=config.generation.max_prompt_length,
        completion_tokens=config.generation.max_generation_steps,
    )
    return limits_of(config, model, mesh, work, ceilings)


def _show(figures: dict[str, Any], as_json: bool) -> None:
    if as_json:
        json.dump(figures, sys.stdout, indent=2)
        print()
        return
    memory = figures["memory_bytes"]
    header = ("program", "at its highest", "beside it", "in all", "of the device", "sent")
    rows = []
    for each in figures["programs"]:
        peak, beside, total, sent = (console.format_bytes(each[f"{name}_bytes"]) for name in _SIZES)
        share = "" if memory is None else f"{100 * each['total_bytes'] / memory:.0f} %"
        if each["refusal"]:
            peak, total, share = "refused", "more than there is", ""
        rows.append([each["name"], peak, beside, total, share, sent if figures["devices"] > 1 else "nothing"])
    has = "" if memory is None else f", {console.format_bytes(memory)}"
    console.table(header, rows, f"{figures['device']}{has}; {figures['dtype']}, {figures['attention']} attention")
    lines = [("remat", figures["remat"]), ("host transfers", _host_transfers(figures["programs"]))]
    lines.append(("not counted", _NOT_COUNTED))
    if "step_limit_s" in figures:
        step, *parts = (f"{part} {console.format_duration(figures[f'{part}_limit_s'])}" for part in _PARTS)
        lines.append(("a step", f"at least {step.partition(' ')[2]} at its rates ({', '.join(parts)})"))
    if figures["fits"]:
        lines.append(("fits", "not known: the device does not tell its memory" if memory is None else "yes"))
    console.start_table(lines, "preflight")


def _host_transfers(programs: list[dict[str, Any]]) -> str:
    """Returns what loops hold of them; what was refused has no text to read."""
    found = {each["name"]: each["host_transfers_in_loops"] for each in programs}
    parts = [f"{name}: {', '.join(transfers)}" for name, transfers in found.items() if transfers]
    unread = [name for name, transfers in found.items() if transfers is None]
    return ("; ".join(parts) or "none in loops") + (f", not known of {', '.join(unread)}" if unread else "")


def _does_not_fit(needs: list[Needs], target: Target, words: list[str] | None) -> str:
    memory = console.format_bytes(target.memory or 0)
    parts = [
        f"{each.name} "
        + ("is refused by its compiler" if each.refusal else f"needs {console.format_bytes(each.total)}")
        for each in needs
        if not _is_in(each, target)
    ]
    way_out = f"with {' '.join(words)} it fits" if words else "take a smaller model or a larger device"
    return f"does not fit: {target.about} has {memory}, and {', '.join(parts)}; {way_out}"
