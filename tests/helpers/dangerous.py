"""What Python code can do with data that it should only read: finds calls that run it, by the syntax of a file."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from typing import NamedTuple

# Builtins that run text, or import what it names.
_BUILTINS = {"eval", "exec", "compile", "__import__", "execfile"}
# Names that run what they are given, wherever they come from.
_ANYWHERE = {
    "sympify",
    "parse_expr",
    "lambdify",
    "literal_eval",
    "instantiate",
    "import_module",
    "run_path",
    "run_module",
}
# Modules whose formats run code, or are shells.
_MODULES = {
    "pickle",
    "cPickle",
    "_pickle",
    "dill",
    "cloudpickle",
    "joblib",
    "shelve",
    "marshal",
    "code",
    "codeop",
    "jsonpickle",
}
_MODULES |= {"runpy", "imp", "hydra.utils.instantiate", "hydra.utils.call"}
# Functions of modules that do so in one of their ways.
_OF_MODULES = {
    *(
        "os.system",
        "os.popen",
        "os.startfile",
        "pandas.eval",
        "pd.eval",
        "numpy.load",
        "np.load",
        "jnp.load",
        "jax.numpy.load",
    ),
    *("torch.load", "pandas.read_pickle", "pd.read_pickle", "yaml.load", "yaml.unsafe_load", "yaml.full_load"),
    *("hydra.utils.get_class", "hydra.utils.get_method", "hydra.utils.get_object", "hydra.utils.call"),
    *("tarfile.extractall", "shutil.unpack_archive"),
}
# Arguments that switch such a way on.
_SWITCHES = {"trust_remote_code", "allow_pickle", "shell", "weights_only"}


class Found(NamedTuple):
    """A place: the line, and what stands there."""

    line: int
    name: str


def dangers(source: str) -> Iterator[Found]:
    """Yields everything in a file's source that may run data, switched off or not."""
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            yield from (Found(node.lineno, alias.name) for alias in node.names if alias.name in _MODULES)
        elif isinstance(node, ast.ImportFrom):
            names = [node.module or "", *(f"{node.module}.{alias.name}" for alias in node.names)]
            names += [alias.name for alias in node.names if alias.name in _ANYWHERE]
            yield from (Found(node.lineno, name) for name in names if name in _MODULES | _OF_MODULES | _ANYWHERE)
        elif isinstance(node, ast.Name) and node.id in _BUILTINS | _ANYWHERE:
            yield Found(node.lineno, node.id)
        elif isinstance(node, ast.Attribute):
            dotted = ast.unparse(node)
            if (
                node.attr in _ANYWHERE
                or dotted in _OF_MODULES
                or dotted.startswith("builtins.")
                and node.attr in _BUILTINS
            ):
                yield Found(node.lineno, dotted if dotted in _OF_MODULES else node.attr)
            elif node.attr == "_target_":
                yield Found(node.lineno, "_target_")
        elif isinstance(node, ast.Constant) and node.value == "_target_":
            yield Found(node.lineno, "_target_")
        elif isinstance(node, ast.keyword) and node.arg in _SWITCHES:
            yield Found(node.value.lineno, f"{node.arg}={ast.unparse(node.value)}")
