"""Answers of recorded lengths, timed: in batches, as long as their longest answers, and in rows that are filled again.

Both sides draw greedily, with one model and in one process, and turn tokens into text; the batches as evaluations did
before there were slots, the next one on its way while the texts of one are made.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
import time
from collections.abc import Iterator, Mapping

import jax
import jax.numpy as jnp
import numpy as np

from tunix_grpo.benchmark.lengths import SHORTEST, answer_lengths
from tunix_grpo.benchmark.link import Link
from tunix_grpo.benchmark.own import make_prompts
from tunix_grpo.benchmark.questions import EndlessTokenizer, NumberTokenizer
from tunix_grpo.config.benchmark import TimedConfig, from_values
from tunix_grpo.decoder.drawing import Drawn, Sampling
from tunix_grpo.decoder.rows import left_padded
from tunix_grpo.grpo.answering import Request, answer_keys
from tunix_grpo.grpo.at_once import completions_drawn
from tunix_grpo.grpo.engine import Asked, Engine
from tunix_grpo.model.config_json import read_spec
from tunix_grpo.model.gathering import form_of_rollout
from tunix_grpo.model.model import Model, ModelForm, load_model
from tunix_grpo.model.sources import resolve_directory
from tunix_grpo.run.devices import CompilationCounter, open_devices
from tunix_grpo.run.joining import refuse_several


def serve(settings: Mapping[str, object], link: Link) -> None:
    """Loads the model, compiles, and answers as asked.

    Args:
        settings: of the benchmark, by dotted key.
        link: gets what is timed, then the measurement of each round.

    Raises:
        UserError: something that the user can mend.
    """
    asked = from_values(settings)
    count = asked.evaluation.num_questions
    refuse_several("benchmark")
    devices = open_devices(asked.device, asked.mesh, asked.jax_cache)
    compilations = CompilationCounter()
    config = asked.on(jax.default_backend())
    directory = resolve_directory(config.model)
    spec = read_spec(directory, config.model.family)
    prompts, tokenizer = make_prompts(config, spec, directory, count)
    model = load_model(config.model, directory, devices.mesh, config.seed)
    limits = answer_lengths(count, config.generation.max_generation_steps, config.seed)
    rows = math.ceil(asked.evaluation.batch_size / devices.data_parallel) * devices.data_parallel
    sides = _Sides(config, model, devices.mesh, tokenizer, prompts.ids, limits, rows)
    sides.compile()
    link.send(
        model=config.model.name,
        device=devices.kind,
        dtype=model.dtype.name,
        questions=len(limits),
        prompt_tokens=round(np.mean([len(ids) for ids in sides.prompts])),
        tokens=int(limits.sum()),
        shortest=int(limits.min()),
        longest=int(limits.max()),
        rows=rows,
        rounds=config.steps,
    )
    while True:
        number = link.receive()["round"]
        before = compilations.count
        # In turns first and second: a machine's speed drifts.
        order = (sides.in_batches, sides.in_slots) if number % 2 else (sides.in_slots, sides.in_batches)
        answers, measured = {}, {}
        for side in order:
            name, start, used = side.__name__.removeprefix("in_"), time.perf_counter(), time.process_time()
            answers[name] = dict(side(range(len(limits))))
            measured[f"{name}_s"] = time.perf_counter() - start
            measured[f"{name}_cpu_s"] = time.process_time() - used
        equal = sum(answers["batches"][place] == text for place, text in answers["slots"].items())
        link.send(**measured, equal_answers=equal, compilations=compilations.count - before)


@dataclasses.dataclass(frozen=True)
class _Sides:
    """Two ways to the same answers.

    Attributes:
        limits: int[N], the tokens of each answer.
        rows: answers that are drawn at once.
    """

    config: TimedConfig
    model: Model
    mesh: jax.sharding.Mesh
    tokenizer: EndlessTokenizer | NumberTokenizer
    prompts: list[list[int]]
    limits: np.ndarray
    rows: int

    def compile(self) -> None:
        """Answers a little more questions than there are rows, in a few tokens."""
        few = [place % len(self.limits) for place in range(self.rows + 1)]
        short = dataclasses.replace(self, limits=np.minimum(self.limits, SHORTEST))
        for _ in (*short.in_batches(few), *short.in_slots(few)):
            pass
        self._keys(range(len(self.limits)))  # the one program whose size goes by the number of questions

    @functools.cached_property  # reads the device's memory, which is not to be timed
    def form(self) -> ModelForm:
        """As a run would draw: without copies of the weights where there is no memory for them."""
        return form_of_rollout(self.model, self.mesh)

    @property
    def sampling(self) -> Sampling:
        """One greedy answer."""
        most = self.config.generation.max_generation_steps
        return Sampling(num_generations=1, max_tokens=most, temperature=0.0)

    def in_batches(self, places: range | list[int]) -> Iterator[tuple[int, str]]:
        """Yields the answers to the questions at these places, each with its place."""
        batches = [places[start : start + self.rows] for start in range(0, len(places), self.rows)]
        following = self._batch(batches[0])
        for batch, after in zip(batches, [*batches[1:], None], strict=True):
            drawn = following
            tokens, lengths = jax.device_get((drawn.tokens, drawn.lengths))
            if after is not None:
                following = self._batch(after)
            for place, row, length in zip(batch, tokens, lengths, strict=False):  # the last batch was filled up
                yield place, self.tokenizer.decode(row[:length].tolist())

    def _batch(self, places: range | list[int]) -> Drawn:
        filled = [*places, *[places[-1]] * (self.rows - len(places))]
        width, pad_id = self.config.generation.max_prompt_length, self.tokenizer.pad_id()
        by_rows = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec("fsdp"))
        inputs = jax.device_put(left_padded([self.prompts[place] for place in filled], width, pad_id), by_rows)
        keys = jax.random.wrap_key_data(jnp.asarray(self._keys(filled)))
        weights = self.model.trained, self.model.frozen
        limits = jnp.asarray(self.limits[filled].astype(np.int32))
        form, sampling = self.form, self.sampling
        return completions_drawn(form, *weights, *inputs, keys, sampling, stop_ids=(), pad_id=pad_id, limits=limits)

    def in_slots(self, places: range | list[int]) -> Iterator[tuple[int, str]]:
        """Yields the answers to the questions at these places, each with its place."""
        engine = Engine(
            form=self.form,
            mesh=self.mesh,
            stop_ids=(),
            pad_id=self.tokenizer.pad_id(),
            rows=self.rows,
            prompt_width=self.config.generation.max_prompt_length,
        )
        asked = Asked([self.prompts[place] for place in places], self._keys(places), self.limits[list(places)])
        looks = engine.completions((self.model.trained, self.model.frozen), asked, self.sampling)
        for done in itertools.chain.from_iterable(looks):
            yield places[done.place], self.tokenizer.decode(done.tokens.tolist())

    def _keys(self, places: range | list[int]) -> np.ndarray:
        return answer_keys(self.config.seed, [Request(place, 0, ()) for place in places])
