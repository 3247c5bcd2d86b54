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


def load_libraries(*, own_code: bool) -> None:
    """Loads the libraries that would load torch, without torch; a program calls this function before anything else.

    Args:
        own_code: code of the user's own may run in this process. Such code may want a model of transformers, which a
            process can no longer have once transformers was loaded without torch; transformers is left alone then.
    """
    # transformers says at every start that it misses PyTorch.
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    with torch_hidden():
        import tensorboardX  # noqa: F401

        if not own_code:
            import transformers.models.auto.tokenization_auto  # noqa: F401
