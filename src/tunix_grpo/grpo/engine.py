"""The host's side of the slots: which prompt goes into which row, and when.

A round looks at the rows, takes out what has ended, fills what is free, and sets the next tokens going; only then are
the completions of the round handed out, so that whoever scores them works while the device draws.

When nothing waits any more and a quarter of the rows is enough for what is left, the others are dropped. The programs
of a run are few, whatever the number of prompts: one fills rows, two draw, with all rows and with a quarter, for each
size of the cache (`cache_sizes`), and each change of size, of rows or of the cache, is one.
"""

from __future__ import annotations

import dataclasses
import functools
import itertools
import math
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple, TypeVar

import jax
import jax.numpy as jnp
import numpy as np

from tunix_grpo.decoder import layouts
from tunix_grpo.decoder.cache import Cache, cache_sizes, grown
from tunix_grpo.decoder.drawing import Drawn, DrawRule, Sampling
from tunix_grpo.decoder.joined import for_tokens
from tunix_grpo.decoder.layer import Weights
from tunix_grpo.decoder.platform import platform
from tunix_grpo.decoder.rows import left_padded
from tunix_grpo.decoder.slots import Newcomers, Slots, continued, free_slots, refilled
from tunix_grpo.model.layout import LeafTree
from tunix_grpo.model.model import ModelForm

Rows = TypeVar("Rows", Slots, Cache)
# Rows are filled by so many at once, as a part of all: a few waste little of a pass over prompts, many wait for others.
_FILLED_AT_ONCE = 8
# What is left is drawn in a part of the rows where it fits: one over this of so many rows or more.
_LAST_ROWS, _MANY_ROWS = 4, 16
# Tokens between two looks at the rows: with few, what has ended waits a shorter time; with many, the host asks less.
_ROUND = {"cpu": 4}
_ACCELERATOR_ROUND = 16


class Completion(NamedTuple):
    """A completion that has ended.

    Attributes:
        place: of its prompt in the list.
        tokens: int32[length], the stop token included.
        logps: float32[length].
        stopped: its last token is a stop token.
    """

    place: int
    tokens: np.ndarray
    logps: np.ndarray
    stopped: bool


@dataclasses.dataclass(frozen=True)
class Asked:
    """What is to be completed, in the order in which it goes into rows.

    Attributes:
        prompts: token ids; equal ones that follow one another are encoded once where they go into rows together.
        keys: uint32[N, ...] on the host, the data of each one's key.
        limits: int[N], tokens that each completion may have; None: as many as the sampling allows.
    """

    prompts: Sequence[Sequence[int]]
    keys: np.ndarray
    limits: np.ndarray | None = None


@dataclasses.dataclass(frozen=True, kw_only=True)
class Engine:
    """Rows of a model.

    Attributes:
        rows: completions that are drawn at once; the data-parallel devices share them evenly.
        prompt_width: tokens that prompts are padded to.
    """

    form: ModelForm
    mesh: jax.sharding.Mesh
    stop_ids: tuple[int, ...]
    pad_id: int
    rows: int
    prompt_width: int

    def completions(
        self, weights: tuple[LeafTree, Weights], asked: Asked, sampling: Sampling
    ) -> Iterator[list[Completion]]:
        """Yields at each look at the rows the completions that have ended since the last one, often none.

        Args:
            weights: the trained leaves and what stays, as `Model` holds them.
            sampling: `num_generations` is not read.
        """
        rule = DrawRule(dataclasses.replace(sampling, num_generations=1), self.stop_ids, self.pad_id)
        with layouts.on(self.mesh):
            drawing = _Drawing(self, weights, asked, rule)
        return drawing.completions()

    def largest_program(self, weights: tuple[LeafTree, Weights], sampling: Sampling) -> tuple[Any, tuple[Any, ...]]:
        """Returns what `jax.jit` has made of drawing in the largest cache, and its arguments: shapes for arrays."""
        rule = DrawRule(dataclasses.replace(sampling, num_generations=1), self.stop_ids, self.pad_id)
        size = (cache_sizes(sampling.max_tokens - 1) or [1])[-1]
        with layouts.on(self.mesh):
            slots = jax.eval_shape(lambda: _free(self.form, self.mesh, self.rows, self.prompt_width, size, rule))
            read = jax.eval_shape(lambda *held: self.form.token_weights(_made(self.form, *held), held[1]), *weights)
        return _continued, (self.form, self.mesh, read, slots, rule, tokens_of_round())


class _Drawing:
    """The rows of an engine while they work a list off."""

    def __init__(self, engine: Engine, weights: tuple[LeafTree, Weights], asked: Asked, rule: DrawRule):
        self._engine, self._weights, self._asked, self._rule = engine, weights, asked, rule
        self._programs = engine.form, engine.mesh  # what every program is compiled for
        self._newcomers = max(1, engine.rows // _FILLED_AT_ONCE)
        self._num_prompts = _prompts_at_once(asked.prompts, self._newcomers, engine.mesh.shape["fsdp"])
        self._round = tokens_of_round()
        self._token_weights = engine.form.token_weights(_made(engine.form, *weights), weights[1])
        self._sizes = cache_sizes(rule.config.max_tokens - 1) or [1]  # from the present one on
        self._slots = _free(*self._programs, engine.rows, engine.prompt_width, self._sizes[0], rule)
        self._next = 0  # of the list, what goes into a row next
        self._owner = np.full(engine.rows, -1)  # of each row the index in the list
        self._limit = np.zeros(engine.rows, np.int32)
        self._lengths = np.zeros(engine.rows, np.int32)

    def completions(self) -> Iterator[list[Completion]]:
        """Yields at each look the completions that have ended since the last one."""
        ended: list[Completion] = []
        while True:
            with layouts.on(self._engine.mesh):
                self._fill()
                if busy := bool(self._busy().any()):
                    self._drop_rows()
                    self._draw()
            yield ended
            if not busy:
                return
            ended = self._take_out()

    def _busy(self) -> np.ndarray:
        """Returns bool[R]."""
        return self._owner >= 0

    def _fill(self) -> None:
        """Puts what waits into free rows, as many at once as the program takes, or all that are left."""
        while left := len(self._asked.prompts) - self._next:
            count = min(left, self._newcomers)
            rows = np.flatnonzero(~self._busy())[:count]
            if len(rows) < count:
                return
            indices = np.arange(self._next, self._next + count)
            most, limits = self._rule.config.max_tokens, self._asked.limits
            self._owner[rows], self._lengths[rows] = indices, 1
            self._limit[rows] = most if limits is None else np.minimum(limits[indices], most)
            new = self._on_their_way(indices, rows)
            self._slots = _refilled(*self._programs, *self._weights, self._slots, new, self._rule)
            self._next += count

    def _on_their_way(self, indices: np.ndarray, rows: np.ndarray) -> Newcomers:
        """Returns what goes into the rows, filled up to what the program takes."""
        distinct: list[Sequence[int]] = []
        place = []
        for prompt in self._asked.prompts[indices[0] : indices[-1] + 1]:
            if not distinct or prompt != distinct[-1]:
                distinct.append(prompt)
            place.append(len(distinct) - 1)
        distinct += distinct[-1:] * (self._num_prompts - len(distinct))
        texts = left_padded(distinct, self._engine.prompt_width, self._engine.pad_id)
        missing = self._newcomers - len(indices)
        tokens, valid = layouts.put(texts, _by_rows(self._engine.mesh))
        return Newcomers(
            tokens,
            valid,
            jnp.array(place + [0] * missing, jnp.int32),
            jnp.array([*rows, *[self._engine.rows] * missing], jnp.int32),
            jax.random.wrap_key_data(jnp.array(np.pad(self._asked.keys[indices], ((0, missing), (0, 0))))),
            jnp.array(np.pad(self._limit[rows], (0, missing))),
        )

    def _drop_rows(self) -> None:
        """Goes on with a part of the rows where nothing waits and the others are free."""
        rows = self._engine.rows
        devices = self._engine.mesh.shape["fsdp"]
        fewer = math.ceil(rows / _LAST_ROWS / devices) * devices
        whole = len(self._owner) == rows and rows >= _MANY_ROWS and self._next == len(self._asked.prompts)
        if whole and self._busy().sum() <= fewer:
            kept = np.argsort(~self._busy(), kind="stable")[:fewer]
            self._slots = _with_rows(self._engine.mesh, self._slots, kept)
            self._owner, self._limit, self._lengths = self._owner[kept], self._limit[kept], self._lengths[kept]

    def _draw(self) -> None:
        """Sets the next tokens of all rows going, in a cache that has room for them."""
        longest = int(self._lengths[self._busy()].max())
        while longest + self._round - 1 > self._sizes[0] and len(self._sizes) > 1:
            self._sizes.pop(0)
            cache = _with_room(*self._programs, self._slots.cache, self._sizes[0])
            self._slots = self._slots._replace(cache=cache)
        self._slots = _continued(*self._programs, self._token_weights, self._slots, self._rule, self._round)

    def _take_out(self) -> list[Completion]:
        """Waits for the tokens that are on their way; frees the rows that have ended, and returns what is in them."""
        self._lengths, ended = taken_out(self._slots.drawn, self._owner, self._limit)
        return ended


def tokens_of_round() -> int:
    """Returns the tokens between two looks at the rows, as they suit the device."""
    return _ROUND.get(platform(), _ACCELERATOR_ROUND)


def taken_out(drawn: Drawn, owner: np.ndarray, limits: np.ndarray) -> tuple[np.ndarray, list[Completion]]:
    """Waits for the tokens that are on their way; returns int[R], the rows' lengths, and what has ended.

    Args:
        drawn: R rows.
        owner: int[R], the place of each row's prompt; -1 of a row that is free, which those that have ended become.
        limits: int[R], tokens that a row may have.
    """
    lengths, stopped = (np.array(each) for each in layouts.fetched((drawn.lengths, drawn.stopped)))
    rows = np.flatnonzero((owner >= 0) & (stopped | (lengths >= limits)))
    ended: list[Completion] = []
    if len(rows):
        tokens, logps = layouts.fetched((drawn.tokens, drawn.logps))
        for row in rows:
            length = lengths[row]
            ended.append(Completion(int(owner[row]), tokens[row, :length], logps[row, :length], bool(stopped[row])))
    owner[rows] = -1
    return lengths, ended


def _prompts_at_once(prompts: Sequence[Sequence[int]], newcomers: int, data_parallel: int) -> int:
    """Returns how many prompts are encoded at once: as many as differ among new rows at the most.

    A power of two where that is enough, so that lists of one kind share a program, and evenly over the devices. A list
    that is shorter than the new rows says nothing of its kind.
    """
    most = newcomers
    if len(prompts) > newcomers > 1:
        changes = np.array([a != b for a, b in itertools.pairwise(prompts)], int)
        within = np.convolve(changes, np.ones(newcomers - 1, int))
        most = min(1 << int(within.max()).bit_length(), newcomers)
    return math.ceil(most / data_parallel) * data_parallel


def _by_rows(mesh: jax.sharding.Mesh) -> jax.sharding.NamedSharding:
    return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))


def _spread(mesh: jax.sharding.Mesh, rows: Rows) -> Rows:
    """Returns the rows shared by the devices, in every program alike, so that none is compiled twice."""
    return jax.lax.with_sharding_constraint(rows, _by_rows(mesh))


# Of the module, not of an engine, so that all evaluations of a process share what is compiled.
@functools.partial(jax.jit, static_argnums=(0, 1, 2, 3, 4, 5))
def _free(form: ModelForm, mesh: jax.sharding.Mesh, rows: int, width: int, size: int, rule: DrawRule) -> Slots:
    return _spread(mesh, free_slots(form.spec, rows, width, size, rule, form.dtype))


@functools.partial(jax.jit, static_argnames="form")
def _made(form: ModelForm, trained: LeafTree, frozen: Weights) -> Weights:
    return form.made_for_tokens(for_tokens(form.spec, form.decoder_weights(trained, frozen), form.copies))


@functools.partial(jax.jit, static_argnames=("form", "mesh", "rule"), donate_argnames="slots")
def _refilled(
    form: ModelForm,
    mesh: jax.sharding.Mesh,
    trained: LeafTree,
    frozen: Weights,
    slots: Slots,
    new: Newcomers,
    rule: DrawRule,
) -> Slots:
    weights = form.decoder_weights(trained, frozen)
    return _spread(mesh, refilled(form.spec, weights, slots, new, rule, form.attention_form))


@functools.partial(jax.jit, static_argnames=("form", "mesh", "rule", "tokens"), donate_argnames="slots")
def _continued(
    form: ModelForm, mesh: jax.sharding.Mesh, weights: Weights, slots: Slots, rule: DrawRule, tokens: int
) -> Slots:
    return _spread(mesh, continued(form.spec, weights, slots, rule, tokens))


@functools.partial(jax.jit, static_argnames="mesh")
def _with_rows(mesh: jax.sharding.Mesh, slots: Slots, rows: np.ndarray) -> Slots:
    return _spread(mesh, jax.tree.map(lambda array: array[rows], slots))


@functools.partial(jax.jit, static_argnames=("form", "mesh", "size"))
def _with_room(form: ModelForm, mesh: jax.sharding.Mesh, cache: Cache, size: int) -> Cache:
    return _spread(mesh, grown(form.spec, cache, size))
