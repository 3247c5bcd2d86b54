"""What a model family is: how its config.json is read, which module of Tunix it is, and where its weights live.

A new family is one file beside this one, with a line in `__init__.py` and variants in the parity tests; or a file of
the user's own, named by `model.family=FILE.py:NAME`.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import NamedTuple

from tunix_grpo.decoder.spec import DecoderSpec
from tunix_grpo.files import Json
from tunix_grpo.json_fields import Fields

# How a leaf holds what the files hold as matrices [out, in].
SAME = "same"  # as it is: vectors and the embedding
TRANSPOSED = "transposed"  # [in, out], with one of them split into heads
HEADS = "heads"  # [heads, D, H]
STACKED_HEADS = "stacked heads"  # several projections in front: [projections, heads, D, H]


class Row(NamedTuple):
    """A row of the layout table: one leaf of Tunix's module, and what it is elsewhere.

    Attributes:
        path: of the leaf, its parts joined by dots; `*` is the number of the layer.
        names: of the Hugging Face tensors that it is made of, `*` as in path.
        roles: of each of them in the decoder: embed, head, final_norm, the projections q k v o gate up down, their
            biases (`q.bias`), and the norms attention_norm, post_attention_norm, mlp_norm, post_mlp_norm, q_norm,
            k_norm.
        kind: SAME, TRANSPOSED, HEADS or STACKED_HEADS.
    """

    path: str
    names: tuple[str, ...]
    roles: tuple[str, ...]
    kind: str = SAME


class TunixModule(NamedTuple):
    """Which class of Tunix holds the weights: `tunix.models.<package>.model.<name>`, and the fields of its config."""

    package: str
    name: str
    fields: Mapping[str, object]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """A model family.

    Attributes:
        model_types: what config.json calls it.
        read: the values of config.json (of a multimodal model its text part) -> what the decoder computes.
        rows: the layout table of a model, in the order in which weights are drawn and written.
        tunix: the module of Tunix that holds a model.
        text_model: what config.json calls the text model of a multimodal one when it is written alone.
    """

    model_types: tuple[str, ...]
    read: Callable[[Fields], DecoderSpec]
    rows: Callable[[DecoderSpec], tuple[Row, ...]]
    tunix: Callable[[DecoderSpec], TunixModule]
    text_model: Mapping[str, Json] = dataclasses.field(default_factory=dict)
