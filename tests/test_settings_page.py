"""docs/settings.md and the JSON schemas say what the settings are, and every file in conf/ agrees with its schema."""

import json
import re
from pathlib import Path

import jsonschema
import pytest
from omegaconf import OmegaConf
from referencing import Registry, Resource
from settings_schemas import PROGRAMS, descriptions
from write_settings import ROOT, files

from tunix_grpo.config.sentences import schema_entries

CONF_FILES = sorted(file for file in (ROOT / "conf").rglob("*.yaml") if "hydra" not in file.parts)
SCHEMA_LINE = re.compile(r"^# yaml-language-server: \$schema=(\S+)$", re.MULTILINE)


def test_page_and_schemas_are_current():
    written = {path: (ROOT / path).read_text() for path in files()}
    assert written == files(), "run python tools/write_settings.py"
    assert {file.relative_to(ROOT) for file in (ROOT / "docs/schema").iterdir()} <= set(written)


@pytest.mark.parametrize("program", PROGRAMS, ids=lambda program: program.config_name)
def test_every_setting_is_described(program):
    sections = [entry.type for _, entry in schema_entries(program.loader.schema)]
    for section in [program.loader.schema, *(each for each in sections if hasattr(each, "__pydantic_fields__"))]:
        values = {key for key, entry in schema_entries(section) if not hasattr(entry.type, "__pydantic_fields__")}
        assert {key for key in values if "." not in key} <= set(descriptions(section)), section


def validator(schema: Path) -> jsonschema.Draft7Validator:
    """Returns a validator that finds the schemas beside the given one."""
    contents = {file.name: json.loads(file.read_text()) for file in schema.parent.iterdir()}
    registry = Registry().with_resources((name, Resource.from_contents(each)) for name, each in contents.items())
    return jsonschema.Draft7Validator(contents[schema.name], registry=registry)


@pytest.mark.parametrize("file", CONF_FILES, ids=lambda file: str(file.relative_to(ROOT / "conf")))
def test_every_config_file_agrees_with_the_schema_that_it_names(file):
    (named,) = SCHEMA_LINE.findall(file.read_text())
    schema = (file.parent / named).resolve()
    content = OmegaConf.to_container(OmegaConf.load(file), resolve=False)
    assert [error.message for error in validator(schema).iter_errors(content)] == []


@pytest.mark.parametrize(
    ("schema", "content", "message"),
    [
        ("training", {"micro_batch_size": 0}, "0 is less than the minimum of 1"),
        ("training", {"micro_batch_siz": 4}, "'micro_batch_siz' was unexpected"),
        ("config", {"optimizer": {"learning_rate": 0}}, "0 is less than or equal to the minimum of 0"),
        ("config", {"training": {"device": "gpu"}}, "'gpu' is not one of"),
        ("config", {"device": "${training.device}", "grpo": {"beta": True}}, "True is not of type 'number'"),
        ("model", {"lora_rank": "many"}, "'many' is not of type 'integer'"),
        ("task", {"name": "arithmetic", "dataset": "x"}, "'dataset' was unexpected"),
        ("reward", {"short": {"weight": 1, "file": "x.py"}}, "'file' was unexpected"),
        ("reward", {"functions": {"short": {"weigth": 1}}}, "'weigth' was unexpected"),
    ],
)
def test_a_schema_finds_what_is_wrong(schema, content, message):
    errors = list(validator(ROOT / "docs/schema" / f"{schema}.json").iter_errors(content))
    leaves = [leaf.message for error in errors for leaf in (error, *(error.context or []))]
    assert any(message in leaf for leaf in leaves), leaves


@pytest.mark.parametrize(
    ("schema", "content"),
    [
        ("task", {"name": "parity.py:build", "limit": 3}),
        ("reward", {"short": {"weight": 1, "function": "short.py:short"}}),
        ("reward", {"functions": {"short": {"weight": 1, "path": "short.py", "function": "short"}}}),
        ("tracker", {"run_name": 12, "custom": "notes.py:Notes"}),
        ("training", {"seed": "${oc.env:SEED}", "num_batches": None}),
    ],
)
def test_a_schema_lets_pass_what_is_right(schema, content):
    assert list(validator(ROOT / "docs/schema" / f"{schema}.json").iter_errors(content)) == []
