"""Settings that are younger than a run: its files are read with what was in effect when it was made."""

import functools
import tarfile

import pytest
import yaml
from omegaconf import OmegaConf

from helpers import golden
from tunix_grpo.config import Config
from tunix_grpo.config.history import BEFORE, load_recorded, read_run_config, with_former_entries
from tunix_grpo.config.sentences import value_keys
from tunix_grpo.errors import UserError

ARCHIVES = sorted((golden.FOLDER / "old_runs").glob("*.tar.xz"))


@pytest.fixture(params=ARCHIVES, ids=lambda file: file.name.removesuffix(".tar.xz"))
def old_config(request) -> dict:
    """The config.yaml of a run that an earlier version made."""
    with tarfile.open(request.param) as archive:
        return yaml.safe_load(archive.extractfile("run/config.yaml"))


def write(folder, content) -> None:
    (folder / "config.yaml").write_text(yaml.safe_dump(content))


def test_every_setting_that_is_younger_than_an_old_run_has_a_former_value(old_config):
    old = OmegaConf.create(old_config)
    younger = {key for key in value_keys(Config) if OmegaConf.select(old, key, default="lacks") == "lacks"}
    assert younger - set(BEFORE) == set()


def test_a_config_without_the_younger_settings_has_the_values_of_then(old_config, tmp_path):
    for key in BEFORE:
        *groups, name = key.split(".")
        functools.reduce(lambda inside, group: inside.get(group, {}), groups, old_config).pop(name, None)
    write(tmp_path, old_config)
    config = load_recorded(read_run_config(tmp_path))
    assert (config.model.kaggle_id, config.model.quantization, config.training.remat) == (None, None, "none")
    assert config.task.name == old_config["task"]["name"]


def test_a_run_is_read_when_the_files_of_its_own_parts_are_gone(old_config, tmp_path):
    old_config["task"] = {"name": "/gone/parity.py:build", "system_prompt": None, "limit": 30}
    old_config["reward"]["short"] = {"function": "/gone/short.py:short", "weight": 0.2}
    old_config["tracker"]["custom"] = "/gone/tracker.py:Tracker"
    write(tmp_path, old_config)
    config = load_recorded(read_run_config(tmp_path))
    assert (config.task.name, config.task.limit) == ("/gone/parity.py:build", 30)
    assert config.reward.short == {"function": "/gone/short.py:short", "weight": 0.2}


def test_what_an_old_config_says_itself_stays(old_config, tmp_path):
    old_config["training"]["remat"] = "full"
    write(tmp_path, old_config)
    assert load_recorded(read_run_config(tmp_path)).training.remat == "full"


def test_a_missing_setting_that_was_always_there_is_an_error(old_config, tmp_path):
    del old_config["grpo"]["beta"]
    write(tmp_path, old_config)
    assert load_recorded.examine(read_run_config(tmp_path)).problems == [
        "grpo.beta: has no value; give grpo.beta=VALUE, a number"
    ]


@pytest.mark.parametrize("content", [[1, 2], "text", None, {"model": {}}, {"model": 1, "training": {}}])
def test_what_is_no_config_of_a_run_is_refused(tmp_path, content):
    write(tmp_path, content)
    with pytest.raises(UserError, match="config.yaml: it is not the config of a run"):
        read_run_config(tmp_path)


def test_an_old_checkpoint_is_compared_with_what_was_in_effect_then():
    saved = {"seed": 42, "model.dtype": "auto"}
    wanted = ["seed", "model.quantization", "a new kind of digest"]
    assert with_former_entries(saved, wanted) == {"seed": 42, "model.dtype": "auto", "model.quantization": None}
