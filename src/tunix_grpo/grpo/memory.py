"""How much of a step runs at once: what the settings say, and less where the device has no room for it.

An allocation that fails (`RESOURCE_EXHAUSTED`) halves what failed, whole groups of a micro batch or the rows of a
rollout, and the caller begins again. Neither changes the result, beyond rounding: an update is normalised as a whole,
and each completion is drawn from a key of its own.
"""

from __future__ import annotations

import gc
import logging
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import jax

from tunix_grpo.config import TrainerConfig
from tunix_grpo.errors import NoRoomError, one_line
from tunix_grpo.files import Json
from tunix_grpo.run.devices import device_memory_bytes

Result = TypeVar("Result")
# What XLA says, and in errors of another kind what CUDA says.
_NO_ROOM = re.compile("RESOURCE_EXHAUSTED|out[ _]of[ _]memory", re.IGNORECASE)
_log = logging.getLogger(__name__)


class Memory:
    """What runs at once in one run, on devices that share it evenly.

    Attributes:
        micro_batch: prompts per device whose completions pass through the model at once.
        rows: completions of a rollout that are drawn at once, on all devices; None: all of them.
    """

    def __init__(
        self, config: TrainerConfig, mesh: jax.sharding.Mesh, remat: str, remat_of_pieces: str, *, quantized: bool
    ):
        """Begins with what the settings say.

        Args:
            remat: that updates run with: none, block or full.
            remat_of_pieces: the same, where rows are cut by length.
            quantized: the weights that stay are.
        """
        self._training, self._devices, self._several_hosts = config.training, mesh.shape["fsdp"], mesh.is_multi_process
        self.micro_batch, self.rows = config.training.micro_batch_size, config.generation.max_rows
        self._asked = self._sizes()
        kind = f"{mesh.size} x {mesh.devices.flat[0].device_kind}"
        self._under: dict[str, Json] = {"device": kind, "remat": remat, "asked": dict(self._asked)}
        self._said: list[str] = []
        self._to_draw = ["a smaller generation.max_generation_steps"]
        if not quantized:
            self._to_draw.append("model.quantization=nf4 model.lora_rank=32")
        fewer = f"grpo.num_generations below {config.grpo.num_generations}"
        self._to_pass = ["training.remat=full"] * ({remat, remat_of_pieces} != {"full"}) + [fewer, *self._to_draw]

    @property
    def prompts(self) -> int:
        """Prompts of a micro batch, on all devices."""
        return self.micro_batch * self._devices

    def saved(self) -> dict[str, Json]:
        """Returns what `recall` takes; nothing where there is room for what the settings say."""
        sizes = self._sizes()
        return {} if sizes == self._asked else {"sizes": dict(sizes), "under": self._under}

    def recall(self, saved: Mapping[str, Any]) -> None:
        """Goes on with the sizes of an earlier start, unless the device is another one or the settings of them are."""
        if saved and saved["under"] == self._under:
            self.micro_batch, self.rows = saved["sizes"]["micro_batch_size"], saved["sizes"]["max_rows"]
            settings = self._in_settings()
            smaller = [settings[name] for name, size in self._sizes().items() if size != self._asked[name]]
            _log.info("memory ran out in an earlier step: this run goes on as under %s", " ".join(smaller))

    def metrics(self) -> dict[str, float]:
        """Returns the sizes that the device has made smaller, by the names of `record.metrics.METRICS`."""
        sizes = self._sizes().items()
        return {f"memory/{name}": float(size) for name, size in sizes if size and size != self._asked[name]}

    def take_notes(self) -> list[str]:
        """Returns a sentence for each time that memory ran out since the last call."""
        said, self._said = self._said, []
        return said

    def passing(self, what: str, run: Callable[[], Result], needs: Callable[[], int | None]) -> Result:
        """Returns what `run` returns, which is called with ever smaller micro batches until they fit.

        Args:
            what: runs, in words.
            run: reads `prompts`; it waits until what it returns has been computed.
            needs: returns bytes of the largest program of a micro batch, where the compiler says that.

        Raises:
            NoRoomError: there is no room for one prompt on each device.
        """

        def halve(reason: str) -> None:
            before = self.micro_batch
            if before == 1 or self._several_hosts:  # the other hosts have not run out, and go on
                what_failed = f"{what} of {before} prompt(s) per device ({self._in_settings()['micro_batch_size']})"
                raise self._no_room(what_failed, reason, needs, self._to_pass)
            # The next size divides this one: micro batches of one size share their programs.
            self.micro_batch = next(size for size in range(before // 2, 0, -1) if before % size == 0)
            change = f"micro batches of {self.micro_batch} prompt(s) per device in the place of {before}"
            self._say(what, change, "micro_batch_size")

        return _until_there_is_room(run, halve)

    def drawing(self, count: int, run: Callable[[int | None], Result], needs: Callable[[int], int | None]) -> Result:
        """Returns what `run` returns, which is called with ever fewer rows until they fit.

        Args:
            count: completions of the rollout.
            run: draws so many rows at once at the most, None: all.
            needs: rows -> bytes of the program that draws in them, where the compiler says that.

        Raises:
            NoRoomError: there is no room for one completion on each device.
        """

        def halve(reason: str) -> None:
            before = min(self.rows or count, count)
            if before <= self._devices or self._several_hosts:
                what = f"a rollout of {before // self._devices} completion(s) per device (generation.max_rows={before})"
                raise self._no_room(what, reason, lambda: needs(before), self._to_draw)
            self.rows = max(1, before // 2 // self._devices) * self._devices
            change = f"{self.rows} completion(s) drawn at once in the place of {before}"
            self._say("the rollout", change, "max_rows")

        return _until_there_is_room(lambda: run(self.rows), halve)

    def _sizes(self) -> dict[str, int | None]:
        return {"micro_batch_size": self.micro_batch, "max_rows": self.rows}

    def _in_settings(self) -> dict[str, str]:
        """Returns for each size the settings that say it."""
        prompts = self._training.micro_batch_size * self._training.gradient_accumulation_steps
        steps = f"training.gradient_accumulation_steps={prompts // self.micro_batch}"
        passes = f"training.micro_batch_size={self.micro_batch} {steps}"
        return {"micro_batch_size": passes, "max_rows": f"generation.max_rows={self.rows}"}

    def _say(self, what: str, change: str, size: str) -> None:
        as_settings = self._in_settings()[size]
        sentence = f"memory ran out in {what}, which begins again with {change}, as under {as_settings}"
        _log.warning("%s", sentence)
        self._said.append(sentence)

    def _no_room(self, what: str, reason: str, needs: Callable[[], int | None], ways: Sequence[str]) -> NoRoomError:
        """Returns the error that ends a run."""
        try:
            needed = needs()
        except jax.errors.JaxRuntimeError:  # the compiler itself finds no room
            needed = None
        program = reason if needed is None else f"its program needs {needed / 1e9:.3g} GB"
        size = f"the device has {device_memory_bytes() / 1e9:.3g} GB"
        return NoRoomError(f"memory ran out in {what}: {program}, {size}; give {', or '.join(ways)}")


def ran_out(error: Exception) -> bool:
    """Says whether an error of JAX's is about memory."""
    return _NO_ROOM.search(str(error)) is not None


def _until_there_is_room(run: Callable[[], Result], halve: Callable[[str], None]) -> Result:
    while True:
        try:
            return run()
        except jax.errors.JaxRuntimeError as error:
            if not ran_out(error):
                raise
            reason = one_line(error)
        gc.collect()  # the error is gone, and with it what its frames held on the device
        halve(reason)
