"""The floors of the library: imports go strictly down, and the lower ones know nothing of jax."""

import ast
import functools
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "tunix_grpo"

# From the ground up; a room (a folder, or a module beside them) imports from the floors below its own, never from its
# neighbours.
FLOORS = (
    ("errors", "seeds", "files", "hub_cache", "without_torch"),
    ("config", "console", "hosts", "json_fields", "sandbox", "workers"),
    ("decoder", "text"),
    ("model", "tasks"),
    ("rewards", "run"),
    ("export", "grpo"),
    ("benchmark", "preflight", "programs", "record", "sweeps", "tiny"),
    ("cli", "sft", "train", "tunix_plugin"),
    ("commands",),
)
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
WITHOUT_JAX = (*FLOORS[0], *FLOORS[1], "text", "tasks", "rewards", "sweeps", "cli", "commands")
DOORS = [ROOT / "run_training.py", *sorted((ROOT / "scripts").glob("*.py"))]
FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")
# Other programs, which only a benchmark starts, in processes of their own.
PEERS = sorted((PACKAGE / "benchmark").glob("peer_*.py"))
OURS = [file for file in FILES if file not in PEERS]


def module_of(file: Path) -> str:
    """Returns the first part of a file's name in the package: `config` for config/rules.py."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


@functools.cache
def imported(file: Path) -> list[str]:
    """Returns the full dotted name of everything that a file imports, anywhere in it."""
    names = []
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            names += [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            names += [f"{node.module}.{alias.name}" for alias in node.names]
    return names


def imports_of(file: Path) -> str:
    """Returns what a file imports, by statement or by a name in a string, a line each."""
    named = re.findall(r"import_module\(f?[\"']([\w.]+)", file.read_text())
    return "\n".join([*imported(file), *named])


def own_imports(file: Path) -> set[str]:
    """Returns the modules of the package that a file imports."""
    names = (name.split(".") for name in imported(file))
    return {parts[1] for parts in names if parts[0] == "tunix_grpo" and len(parts) > 1}


def test_every_module_is_on_a_floor():
    assert {module_of(file) for file in FILES} - set(FLOOR_OF) == set()


def test_imports_go_strictly_down():
    for file in FILES:
        module = module_of(file)
        # The errors import nothing of ours, so that their neighbours may raise them.
        others = own_imports(file) - {module, "errors", "__version__"}
        assert [other for other in others if FLOOR_OF[other] >= FLOOR_OF[module]] == [], file


@pytest.mark.parametrize("package", sorted({file.parent for file in FILES} - {PACKAGE}), ids=lambda path: path.name)
def test_the_parts_of_a_module_do_not_import_in_a_circle(package):
    prefix = "tunix_grpo." + ".".join(package.relative_to(PACKAGE).parts)
    needs = {}
    for file in package.glob("*.py"):
        parts = {name[len(prefix) + 1 :].split(".")[0] for name in imported(file) if name.startswith(prefix + ".")}
        needs[file.stem] = {part for part in parts if (package / f"{part}.py").exists()}
    while needs:
        free = {part for part, needed in needs.items() if not needed & set(needs)}
        assert free, f"{sorted(needs)} import each other in a circle"
        needs = {part: needed for part, needed in needs.items() if part not in free}


def test_lower_floors_never_load_jax():
    """Nor does a door: a wrong setting is reported before anything heavy is imported."""
    names = [
        ".".join(file.relative_to(PACKAGE).with_suffix("").parts) for file in FILES if module_of(file) in WITHOUT_JAX
    ]
    imports = "; ".join(f"import tunix_grpo.{name.removesuffix('.__init__')}" for name in names)
    program = f"import sys; {imports}; print([m for m in ('jax', 'tunix', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


@pytest.mark.long
def test_heavy_libraries_are_loaded_where_they_are_used():
    """Not by importing a module of ours: torch takes 2 s, tunix brings pandas and all of its trainers."""
    # A program around reasoning_gym, which loads matplotlib.
    others = {PACKAGE / "tasks" / "make_entries.py", PACKAGE / "tunix_plugin.py", *PEERS}
    names = [".".join(file.relative_to(PACKAGE).with_suffix("").parts) for file in FILES if file not in others]
    imports = "; ".join(f"import tunix_grpo.{name.removesuffix('.__init__')}" for name in names)
    program = f"import sys; {imports}; print([m for m in ('torch', 'matplotlib', 'tunix') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_the_doorstep_holds_no_code():
    """An `__init__` says what is inside and may pass on names; a definition belongs into a module."""
    for file in PACKAGE.rglob("__init__.py"):
        kinds = {type(node) for node in ast.parse(file.read_text()).body}
        assert kinds <= {ast.Expr, ast.ImportFrom, ast.Assign}, file


# What is longer, and why.
LONG = {
    "train_on": "a run reads top to bottom in one function",
    "train_on_demonstrations": "the same",
    "generate": "the loop over tokens, whose parts close over the prompts and the weights",
    "forward": "layers in stacks in periods, each a function inside the other",
}


def test_modules_and_functions_are_small():
    """300 lines a module, 60 a function: what is longer is two ideas."""
    for file in FILES:
        source = file.read_text()
        assert len(source.splitlines()) <= 300, file
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.name not in LONG:
                assert node.end_lineno - node.lineno < 60, f"{file}: {node.name}"


def test_tunix_stands_at_three_doors():
    speakers = {
        str(file.relative_to(PACKAGE)) for file in FILES if re.search(r"\btunix\b(?!_grpo)[.\w]*", imports_of(file))
    }
    assert speakers <= {"model/tunix_modules.py", "tunix_plugin.py", "benchmark/peer_tunix.py"}


def test_torch_is_never_imported():
    assert [file for file in OURS if any(n.split(".")[0] == "torch" for n in imported(file))] == []


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_doors_are_short(door):
    assert len(door.read_text().splitlines()) <= 40
