"""Checks JSON against a schema: a program of its own, run by `json_schema.py`.

On what a model wrote, a pattern of the schema may take very long, and a schema that refers to itself very deep.
"""

import functools
import json
from typing import Any

import jsonschema
import jsonschema.validators
import referencing
import referencing.exceptions
import referencing.jsonschema
from jsonschema.protocols import Validator
from jsonschema_specifications import REGISTRY


def main() -> None:
    """Answers {"schema": ..., "text": ...}, both JSON texts, with whether the text is JSON, and valid."""
    from tunix_grpo import workers

    workers.serve(lambda question: check(question["schema"], question["text"]))


def check(schema: str, text: str) -> tuple[bool, bool]:
    """Says whether a text is JSON, and whether it is valid against the schema."""
    try:
        instance = json.loads(text, parse_constant=_refuse)
    except (ValueError, RecursionError):  # an int of more than 4,300 digits is a ValueError too
        return False, False
    try:
        return True, _validator(schema).is_valid(instance)
    except RecursionError:
        return True, False


def validator_class(schema: Any) -> type[Validator]:
    """Returns the rules of the draft that a schema names; of the newest where it names none."""
    return jsonschema.validators.validator_for(schema, default=jsonschema.Draft202012Validator)


def unresolved(schema: Any) -> str:
    """Returns the first reference of a schema that leads nowhere; empty where all lead somewhere."""
    resource = _resource(schema)
    registry = REGISTRY.with_resource("", resource).crawl()
    return _unresolved(resource, registry.resolver_with_root(resource))


def _unresolved(resource: referencing.Resource[Any], resolver: Any) -> str:
    contents = resource.contents
    target = contents.get("$ref") if isinstance(contents, dict) else None
    if isinstance(target, str):
        try:
            resolver.lookup(target)
        except referencing.exceptions.Unresolvable:
            return target
    found = (_unresolved(inner, resolver.in_subresource(inner)) for inner in resource.subresources())
    return next(filter(None, found), "")


def _resource(schema: Any) -> referencing.Resource[Any]:
    return referencing.Resource.from_contents(schema, default_specification=referencing.jsonschema.DRAFT202012)


@functools.lru_cache(maxsize=8)
def _validator(schema: str) -> Validator:
    """Returns what checks values; it fetches nothing that a schema refers to."""
    content = json.loads(schema)
    return validator_class(content)(content, registry=REGISTRY)


def _refuse(constant: str) -> None:
    raise ValueError(f"{constant} is no JSON")


if __name__ == "__main__":
    main()
