"""Keeps torch out of programs that do not need it: libraries load it wherever it is installed, which takes seconds."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def torch_hidden() -> Iterator[None]:
    """Lets `import torch` fail inside a `with` block, unless torch has been loaded before."""
    if "torch" in sys.modules:
        yield
        return
    sys.modules["torch"] = None  # pyright: ignore[reportArgumentType] (what Python documents to make an import fail)
    try:
        yield
    finally:
        del sys.modules["torch"]


def load_libraries(config: object) -> None:
    """Loads the libraries that would load torch, without it; a program calls this before anything else.

    Afterwards this process can use tokenizers, and no model of transformers. Where code of the user's own may want one,
    transformers is left alone: the config names a Python file, or another job of a sweep may.
    """
    # transformers says at every start that it misses PyTorch.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    with torch_hidden():
        import tensorboardX  # noqa: F401

        if ".py" not in repr(config) and not {"-m", "--multirun"} & set(sys.argv):
            import transformers.models.auto.tokenization_auto  # noqa: F401
