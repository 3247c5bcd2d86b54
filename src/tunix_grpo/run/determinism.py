"""The same numbers from the same numbers on a GPU too: what XLA is asked for, before jax starts.

Without it XLA times several kernels for a matrix product and takes the fastest, another one at another start, and
adds up in an order that depends on which thread comes first. On a CPU it does neither.
"""

from __future__ import annotations

import os

from tunix_grpo.errors import UserError

# The first has a deterministic kernel for all that has one, refuses what has none, and implies the second.
FLAGS = ("--xla_gpu_deterministic_ops=true", "--xla_gpu_autotune_level=0")
_started_without: list[str] = []  # the variable's value at starts without the flags


def ask_for_determinism(wanted: bool) -> None:
    """Sets XLA's flags for this process; called before jax starts, at each start of a run.

    Args:
        wanted: `training.deterministic`.

    Raises:
        UserError: an earlier run of this process has started jax without them.
    """
    now = os.environ.get("XLA_FLAGS", "")
    asked = now.endswith(" ".join(FLAGS))  # the last of two flags of one name counts
    if not wanted:
        if not asked:
            _started_without.append(now)
        return
    if _started_without:
        raise UserError(
            "training.deterministic=true: an earlier job of this process has started jax without it; start a program "
            "of its own for this job"
        )
    if not asked:
        os.environ["XLA_FLAGS"] = " ".join([now, *FLAGS]).strip()
