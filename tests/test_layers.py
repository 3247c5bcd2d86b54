"""The floors of the library: imports go strictly down, and the lower ones know nothing of jax."""

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
PACKAGE = ROOT / "src" / "tunix_grpo"

# From the ground up; a module may import from the floors below its own. Modules of one floor do not
# import each other; what two of them need is on a floor of its own below (errors, tasks, spec).
FLOORS = (
    ("errors", "tags"),
    ("config",),
    ("answers", "prompts"),
    ("tasks",),
    ("rewards",),
    ("spec",),
    ("attention", "products"),
    (
        "checkpoints",
        "console",
        "curves",
        "data",
        "decoder",
        "devices",
        "models",
        "optimizers",
        "publishing",
        "sampling",
        "stopping",
        "tokenizers",
        "trackers",
    ),
    ("joining", "losses", "resuming", "scoring"),
    ("decoding",),
    ("rollout",),
    ("learner", "saved_runs", "streaming"),
    ("model_card", "reporting"),
    ("benchmark", "evaluate", "export", "generate", "tiny", "train"),
    ("cli",),
)
FLOOR_OF = {module: floor for floor, modules in enumerate(FLOORS) for module in modules}
WITHOUT_JAX = [module for floor in FLOORS[:5] for module in floor]
DOORS = [ROOT / "run_training.py", *sorted((ROOT / "scripts").glob("*.py"))]
FILES = sorted(file for file in PACKAGE.rglob("*.py") if file != PACKAGE / "__init__.py")
# Other programs, which only a benchmark starts, in processes of their own.
PEERS = sorted((PACKAGE / "benchmark").glob("peer_*.py"))
OURS = [file for file in FILES if file not in PEERS]


def module_of(file: Path) -> str:
    """Returns the first part of a file's name in the package: `config` for config/rules.py."""
    return file.relative_to(PACKAGE).parts[0].removesuffix(".py")


def imported(file: Path) -> Iterator[str]:
    """Yields the full dotted name of everything that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{file}: relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def own_imports(file: Path) -> set[str]:
    """Returns the modules of the package that a file imports."""
    names = (name.split(".") for name in imported(file))
    return {parts[1] for parts in names if parts[0] == "tunix_grpo" and len(parts) > 1}


def test_every_module_is_on_a_floor():
    assert {module_of(file) for file in FILES} - set(FLOOR_OF) == set()


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(PACKAGE)))
def test_imports_go_strictly_down(file):
    module = module_of(file)
    others = own_imports(file) - {module, "__version__"}
    assert [other for other in others if FLOOR_OF[other] >= FLOOR_OF[module]] == []


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
    present = [module for module in WITHOUT_JAX if module in {module_of(file) for file in FILES}]
    imports = "; ".join(f"import tunix_grpo.{module}" for module in [*present, "cli"])
    program = f"import sys; {imports}; print([m for m in ('jax', 'tunix', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("[]\n", "")


def test_only_rollout_and_learner_speak_tunix_rl():
    speakers = {module_of(file) for file in OURS if any(f"{name}.".startswith("tunix.rl.") for name in imported(file))}
    assert speakers <= {"rollout", "learner"}


def test_only_models_rollout_and_learner_import_tunix():
    speakers = {module_of(file) for file in OURS if any(name.split(".")[0] == "tunix" for name in imported(file))}
    assert speakers <= {"models", "rollout", "learner"}


def test_torch_is_never_imported():
    assert [file for file in OURS if any(n.split(".")[0] == "torch" for n in imported(file))] == []


@pytest.mark.parametrize("door", DOORS, ids=lambda door: door.name)
def test_doors_are_short(door):
    assert len(door.read_text().splitlines()) <= 40
