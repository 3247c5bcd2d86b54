"""The rollout engine: prompts in, completions out, on the decoder that also trains.

It fills the rollout slot of Tunix's RLCluster; `decoding.generate` does the work, in one compiled program. Row i of
step s draws from key (seed, stream, s, i), so that two runs with one seed are equal and a resumed run continues with
the same numbers.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np
from flax import nnx
from tunix.rl.rollout import base_rollout

from tunix_grpo import decoding
from tunix_grpo.config import Config
from tunix_grpo.data import Completions, left_padded
from tunix_grpo.decoding import Sampling

_STREAM = 2  # keeps this use of the seed apart from all others


def train_sampling(config: Config) -> Sampling:
    """Returns how training completions are drawn."""
    generation = config.generation
    return Sampling(
        num_generations=config.grpo.num_generations,
        max_tokens=generation.max_generation_steps,
        temperature=generation.temperature,
        top_p=generation.top_p,
        top_k=generation.top_k,
    )


def greedy_sampling(config: Config) -> Sampling:
    """Returns how evaluation answers are drawn."""
    return Sampling(num_generations=1, max_tokens=config.generation.max_generation_steps, temperature=0.0)


@dataclasses.dataclass(frozen=True)
class Rollout:
    """Completions of P prompts, G of each.

    Attributes:
        batch: token ids and lengths, on the device.
        lengths: int[B] on the host, the stop token included.
        truncated: bool[B], no stop token within max_tokens.
        texts: the completions without special tokens.
        logps: float32[B, T] on the device, what the sampler thought of its tokens.
    """

    batch: Completions
    lengths: np.ndarray
    truncated: np.ndarray
    texts: list[str]
    logps: jax.Array


def row_keys(seed: int, step: int, rows: int) -> jax.Array:
    """Returns key[rows]: what row i of a step draws its tokens from."""
    key = jax.random.fold_in(jax.random.fold_in(jax.random.key(seed), _STREAM), step)
    return jax.vmap(jax.random.fold_in, (None, 0))(key, jnp.arange(rows))


class RolloutEngine(base_rollout.BaseRollout):
    """Generates with the actor's current weights."""

    def __init__(
        self, rollout_actor, tokenizer, mesh, rollout_config, *, model, text, score, prompt_width: int, seed: int
    ):
        """
        Args:
            rollout_actor: the module whose weights are sampled from; Tunix passes the trained one.
            tokenizer: Tunix's adapter around `text`, unused.
            mesh: the rollout's mesh.
            rollout_config: Tunix's, unused; each call carries its own.
            model: knows how to read decoder weights out of the module.
            text: our tokenizer.
            score: Completions -> log-probabilities under the actor, for Tunix's get_per_token_logps.
            prompt_width: prompts are padded to this many tokens, so that one program serves all.
            seed: of the run.
        """
        del tokenizer, rollout_config
        self.mesh = mesh
        self._actor = rollout_actor
        self._model = model
        self._text = text
        self._score = score
        self._width = prompt_width
        self._seed = seed
        self._generate = jax.jit(self._drawn, static_argnames="config")

    def sample(self, prompts: Sequence[Sequence[int]], sampling_config: Sampling, step: int) -> Rollout:
        """Draws completions.

        Args:
            prompts: token ids, each at most `prompt_width` long.
            sampling_config: how to draw.
            step: the step that the random numbers belong to.
        """
        tokens, valid = left_padded(prompts, self._width, self._text.pad_id())
        sharding = jax.sharding.NamedSharding(self.mesh, jax.sharding.PartitionSpec("fsdp"))
        tokens, valid = jax.device_put((tokens, valid), sharding)
        rows = len(prompts) * sampling_config.num_generations
        keys = row_keys(self._seed, step, rows)
        trainable, frozen = nnx.state(self._actor, self._model.trainable, ...)
        drawn = self._generate(nnx.as_pure(trainable), nnx.as_pure(frozen), tokens, valid, keys, config=sampling_config)
        host_tokens, lengths, stopped = jax.device_get((drawn.tokens, drawn.lengths, drawn.stopped))
        # The stop token is trained, but it is not text.
        ends = lengths - stopped
        texts = [self._text.decode(row[:end]) for row, end in zip(host_tokens, ends, strict=True)]
        return Rollout(Completions(tokens, valid, drawn.tokens, drawn.lengths), lengths, ~stopped, texts, drawn.logps)

    def _drawn(self, trainable, frozen, tokens, valid, keys, *, config: Sampling) -> decoding.Drawn:
        return decoding.generate(
            self._model.spec,
            self._model.decoder_weights(nnx.merge_state(trainable, frozen)),
            tokens,
            valid,
            keys,
            config,
            stop_ids=self._text.stop_ids,
            pad_id=self._text.pad_id(),
            attention_form=self._model.attention_form,
        )

    # --- Tunix's interface ---

    def generate(self, prompts: list[str], rollout_config: base_rollout.RolloutConfig, **kwargs):
        """Serves RLCluster.generate: one completion per prompt text. `rollout_config.seed` is the step (default 0)."""
        del kwargs
        config = Sampling(
            num_generations=1,
            max_tokens=rollout_config.max_tokens_to_generate,
            temperature=rollout_config.temperature,
            top_p=1.0 if rollout_config.top_p is None else rollout_config.top_p,
            top_k=rollout_config.top_k,
        )
        rollout = self.sample([self._text.encode(p) for p in prompts], config, int(rollout_config.seed or 0))
        tokens, logps = jax.device_get((rollout.batch.tokens, rollout.logps))
        return base_rollout.RolloutOutput(
            text=rollout.texts,
            logits=None,
            tokens=[row[:n] for row, n in zip(tokens, rollout.lengths, strict=True)],
            left_padded_prompt_tokens=np.asarray(rollout.batch.prompt_tokens),
            logprobs=[row[:n] for row, n in zip(logps, rollout.lengths, strict=True)],
        )

    def get_per_token_logps(self, prompt_tokens, completion_tokens):
        """Returns float32[B, T], the trainer's log-probabilities; one prompt row per completion."""
        pad = self._text.pad_id()
        lengths = jnp.sum(completion_tokens != pad, axis=1)
        return self._score(Completions(prompt_tokens, prompt_tokens != pad, completion_tokens, lengths))

    def update_params(self, params, filter_types=None) -> None:
        """Takes new weights; the actor is shared with the trainer, so there is nothing to copy in colocated runs."""
        del filter_types
        nnx.update(self._actor, params)

    def pad_id(self) -> int:
        return self._text.pad_id()

    def eos_id(self) -> int:
        return self._text.eos_id()

    def model(self):
        return self._actor
