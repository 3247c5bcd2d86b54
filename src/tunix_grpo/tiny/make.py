"""Makes the bundled tiny model: a Gemma 3 that knows how to calculate but answers carelessly.

It imitates demonstrations. In the smaller part of them the working is written out and the answer is
mostly right; in the larger part the working is skipped as `easy` and the answer is what a careless
person gives: the carry, the borrow, the hundred or the sign is forgotten. Imitation copies both
habits in that proportion, so that the greedy answer is mostly careless while sampling finds the
right one often, for every kind of question: what reinforcement learning needs to start from.

Held-out questions of the task `arithmetic` are never shown.
"""

from __future__ import annotations

from pathlib import Path

from tunix_grpo.model.config_json import spec_from_config
from tunix_grpo.tiny.directory import CONFIG, write_directory
from tunix_grpo.tiny.imitation import warm_start
from tunix_grpo.tiny.tokenizer import build_tokenizer

NUM_STEPS = 2500


def make_tiny_model(directory: Path, *, num_steps: int = NUM_STEPS, seed: int = 0) -> None:
    """Makes the model from nothing and writes its Hugging Face directory.

    Args:
        directory: is made if it is not there; files of the same names are replaced.
        num_steps: updates of the warm start.
        seed: of the random weights and the demonstrations.
    """
    tokenizer = build_tokenizer()
    spec = spec_from_config(CONFIG)
    params = warm_start(spec, tokenizer, num_steps, seed)
    write_directory(directory, tokenizer, spec, params)
