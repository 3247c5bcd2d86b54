"""The tests themselves: each stands alone, and its name says what it is about."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

TESTS = Path(__file__).resolve().parent
PACKAGE = TESTS.parent / "src" / "tunix_grpo"
FILES = sorted(TESTS.glob("test_*.py"))
# About no module or folder of the package: what it promises as a whole, and its pages.
OF_THE_WHOLE = {
    "accelerators",
    "built_in_rewards",
    "docs",
    "fuzz",
    "gguf",
    "golden",
    "launch",
    "layers",
    "long_run",
    "messages",
    "old_runs",
    "recipes",
    "reference_page",
    "report_page",
    "security",
    "services",
    "settings_page",
    "suite",
    "trl_loss",
}


def imported(file: Path) -> Iterator[str]:
    """Yields the name of every module that a file imports, anywhere in it."""
    for node in ast.walk(ast.parse(file.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            yield node.module


def test_no_test_is_imported():
    """What several tests use stands in tests/helpers/."""
    for file in [*FILES, *(TESTS / "helpers").glob("*.py")]:
        assert [name for name in imported(file) if name.split(".")[0].startswith("test_")] == [], file


def test_a_file_is_named_after_what_it_tests():
    """By a module or a folder of the package: test_rollout.py for grpo/rollout.py, test_console.py for console/."""
    rooms = {path.stem for path in PACKAGE.rglob("*") if path.suffix in ("", ".py")}
    assert {file.stem.removeprefix("test_") for file in FILES} - rooms == OF_THE_WHOLE


def test_pages_name_tests_that_exist():
    pages = [
        TESTS.parent / "README.md",
        TESTS.parent / "CONTRIBUTING.md",
        *sorted((TESTS.parent / "docs").glob("*.md")),
    ]
    named = {name for page in pages for name in re.findall(r"test_\w+\.py", page.read_text())}
    assert named - {file.name for file in FILES} == set()
