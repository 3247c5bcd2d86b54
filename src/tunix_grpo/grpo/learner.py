"""What every trainer holds: the trained parameters and the optimizer's state."""

from __future__ import annotations

import functools

import jax
import optax

from tunix_grpo.grpo.updates import applying, laid_out
from tunix_grpo.model.layout import LeafTree
from tunix_grpo.model.model import Model


class Learner:
    """Holds the trained parameters and the optimizer's state between steps.

    Attributes:
        params: the trained parameters, as `Model.trained` holds them.
        optimizer_state: as optax makes it.
    """

    def __init__(self, model: Model, optimizer: optax.GradientTransformation, mesh: jax.sharding.Mesh):
        self._model, self._frozen = model, model.frozen
        # Laid out for good, so that an update can reuse their memory and is compiled once.
        self.params, params_layout = laid_out(model.trained, mesh)
        self.optimizer_state, optimizer_layout = laid_out(optimizer.init(self.params), mesh)
        self._apply = functools.partial(applying(params_layout, optimizer_layout), optimizer)

    def restore(self, params: LeafTree, optimizer_state: optax.OptState) -> None:
        """Continues from saved parameters and optimizer state."""
        self.params, self.optimizer_state = params, optimizer_state

    def parameter_counts(self) -> tuple[int, int]:
        """Returns (trained, all) parameters; adapters count in both."""
        trained, frozen = (sum(leaf.size for leaf in jax.tree.leaves(tree)) for tree in (self.params, self._frozen))
        return trained, trained + frozen
