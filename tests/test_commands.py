"""The programs of an installed package: the commands, with `conf/` inside, in a folder that has no checkout."""

from __future__ import annotations

import importlib
import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tunix_grpo.commands import CONF

ROOT = Path(__file__).resolve().parent.parent
SCRIPTS = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]


def test_a_checkout_has_one_conf():
    assert CONF == ROOT / "conf"


@pytest.mark.parametrize("command", SCRIPTS)
def test_every_command_shows_its_settings(command, capfd, monkeypatch, tmp_path):
    module, function = SCRIPTS[command].split(":")
    monkeypatch.setattr(sys, "argv", [command, "--cfg", "job"])
    monkeypatch.chdir(tmp_path)
    assert getattr(importlib.import_module(module), function)() == 0
    assert re.search("^(jax_cache|reward|folder|output|target):", capfd.readouterr().out, re.MULTILINE)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_a_wheel_works_in_another_place(tmp_path):
    """Built and installed as `pip install .` does, without what it depends on, which is there."""
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "wheel", "--no-deps", "--wheel-dir", tmp_path / "wheel", ROOT], check=True)
    (wheel,) = (tmp_path / "wheel").iterdir()
    place = tmp_path / "place"
    subprocess.run([*pip, "install", "--no-deps", "--target", place, wheel], check=True)
    run = tmp_path / "run"
    run.mkdir()
    words = ["+experiment=quick_test", "training.device=cpu", "hydra.run.dir=here", "evaluation.num_questions=4"]

    def done(*words: str | Path) -> str:
        environment = os.environ | {"PYTHONPATH": str(place)}
        found = subprocess.run([sys.executable, *words], cwd=run, env=environment, capture_output=True, text=True)
        assert found.returncode == 0, found.stderr
        return found.stdout

    assert "Training finished" in done(place / "bin" / "tunix-grpo", *words)
    shown = done("-c", "import tunix_grpo.commands as c; print(c.CONF)")
    assert shown.strip() == str(place / "tunix_grpo" / "conf")
