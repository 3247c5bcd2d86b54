"""Prints the tables of docs/models.md: how far our logits are from transformers', per variant and dtype.

python tools/parity_table.py

With TUNIX_GRPO_SMOLLM2=DIR also that of SmolLM2's real weights.
"""

from __future__ import annotations

import os
import sys
import tempfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))

from helpers.logits import left_padded_tokens, logits_at_once, reference_logits, smollm2_distances  # noqa: E402
from helpers.models import VARIANTS, load, write_model  # noqa: E402


def main() -> None:
    print("| variant | float32, largest | bfloat16, mean | transformers' own bfloat16, mean |")
    print("|---|---|---|---|")
    tokens, valid = left_padded_tokens()
    for variant in VARIANTS:
        with tempfile.TemporaryDirectory() as folder:
            theirs = write_model(variant, Path(folder))
            exact = reference_logits(theirs, tokens, valid)
            float32 = np.abs(logits_at_once(load(Path(folder)), tokens, valid) - exact)[valid].max()
            bfloat16 = np.abs(logits_at_once(load(Path(folder), dtype="bfloat16"), tokens, valid) - exact)[valid].mean()
            own = np.abs(reference_logits(theirs.bfloat16(), tokens, valid) - exact)[valid].mean()
        print(f"| {variant} | {float32:.1e} | {bfloat16:.4f} | {own:.4f} |", flush=True)
    if "TUNIX_GRPO_SMOLLM2" in os.environ:
        print("\n| SmolLM2-135M-Instruct, float32 | a token in the middle | largest difference |\n|---|---|---|")
        for name, distances in smollm2_distances(Path(os.environ["TUNIX_GRPO_SMOLLM2"]))[0].items():
            print(f"| {name} | {distances.typical:.1e} | {distances.largest:.1e} |")


if __name__ == "__main__":
    main()
