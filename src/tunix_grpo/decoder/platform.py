"""The kind of device that programs are traced for: the one that is there, or one that is only described."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import NamedTuple

import jax


class Described(NamedTuple):
    """A device that is not there.

    Attributes:
        platform: gpu or tpu.
        memory: its bytes.
        longest_head: head_dim up to which its flash attention is taken to be right, since nothing can be tried.
    """

    platform: str
    memory: int
    longest_head: int = 0


_described: list[Described] = []


def platform() -> str:
    """Returns cpu, gpu or tpu."""
    return _described[-1].platform if _described else jax.default_backend()


def described() -> Described | None:
    """Returns the device that programs are traced for, if it is not there."""
    return _described[-1] if _described else None


def memory() -> int | None:
    """Returns the bytes that a program may use on one device, all programs together; None where it does not tell."""
    if _described:
        return _described[-1].memory
    return (jax.local_devices()[0].memory_stats() or {}).get("bytes_limit")


@contextlib.contextmanager
def traced_for(device: Described | None) -> Iterator[None]:
    """Has programs traced for a device that is not there; what is compiled within is for nothing else.

    Args:
        device: None is the one that is there.
    """
    if device is None:
        yield
        return
    _described.append(device)
    try:
        yield
    finally:
        _described.pop()
