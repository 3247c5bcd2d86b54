"""Secrets stay out of what is written: by the names of settings, by the content of variables, in Hydra's files."""

from __future__ import annotations

import pytest
import yaml

from tunix_grpo.config.overrides import command_with
from tunix_grpo.config.secrets import mask_files, masked_word, without_secrets

TOKEN = "hf_0123456789abcdefgh"


@pytest.mark.parametrize(
    ("plain", "public"),
    [
        ({"hub_token": "hf_x", "tokenizer": "dir"}, {"hub_token": "***", "tokenizer": "dir"}),
        ({"wandb": {"api_key": "k", "project": "p"}}, {"wandb": {"api_key": "***", "project": "p"}}),
        ({"password": None, "secret": ""}, {"password": None, "secret": "***"}),
        ({"a": [{"SECRET-KEY": 1}], "keys": [1]}, {"a": [{"SECRET-KEY": "***"}], "keys": [1]}),
        ({"num_tokens": 3, "keyboard": 1}, {"num_tokens": 3, "keyboard": 1}),
        ({"api_key_env": "JUDGE_KEY"}, {"api_key_env": "JUDGE_KEY"}),  # the name of a variable
        ({"notes": {"a": f"it is {TOKEN}."}, "b": [TOKEN]}, {"notes": {"a": "it is ***."}, "b": ["***"]}),
        ({"path": "/home/of/a/person/model", "b": "short"}, {"path": "/home/of/a/person/model", "b": "short"}),
    ],
)
def test_secrets_are_masked(plain: dict, public: dict, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setenv("SSH_KEY", "/home/of/a/person")
    monkeypatch.setenv("A_PASSWORD", "short")
    assert without_secrets(plain) == public


@pytest.mark.parametrize(
    ("word", "shown"),
    [
        ("+notes.hub_token=abc", "+notes.hub_token=***"),
        ("notes.key='a b'", "notes.key=***"),
        ("notes.key=null", "notes.key=null"),
        (f"notes.mine=x{TOKEN}", "notes.mine=x***"),
        ("reward.judge.api_key_env=JUDGE_KEY", "reward.judge.api_key_env=JUDGE_KEY"),
        ("seed=7", "seed=7"),
        ("--multirun", "--multirun"),
    ],
)
def test_words_of_a_command_line(word, shown, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    assert masked_word(word) == shown
    assert command_with(["python", word], []).replace("'", "") == f"python {shown}"


def test_hydra_s_files_keep_everything_else(tmp_path):
    words = ["notes.api_key='my key'", "seed=7"]
    (tmp_path / "overrides.yaml").write_text("- notes.api_key='my key'\n- seed=7\n")
    (tmp_path / "config.yaml").write_text("seed: 7\nnotes:\n  api_key: my key\n  name: ${seed}\n")
    (tmp_path / "hydra.yaml").write_text("hydra:\n  job:\n    override_dirname: notes.api_key=my key,seed=7\n")
    mask_files(tmp_path, words)
    read = {file.stem: yaml.safe_load(file.read_text()) for file in tmp_path.iterdir()}
    assert read == {
        "overrides": ["notes.api_key='***'", "seed=7"],
        "config": {"seed": 7, "notes": {"api_key": "***", "name": "${seed}"}},
        "hydra": {"hydra": {"job": {"override_dirname": "notes.api_key=***,seed=7"}}},
    }


def test_files_without_secrets_are_left_as_they_are(tmp_path):
    text = "seed:   7  # as Hydra has written it\n"
    (tmp_path / "config.yaml").write_text(text)
    mask_files(tmp_path, ["seed=7"])
    assert (tmp_path / "config.yaml").read_text() == text
