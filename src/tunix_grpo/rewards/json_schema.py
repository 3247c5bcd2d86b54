"""The reward for JSON that is valid against a schema."""

import json
import re
from pathlib import Path
from typing import Any, Literal

from tunix_grpo.errors import UserError, one_line, shortened
from tunix_grpo.rewards.base import Failure, RewardFunction, Samples, Scored
from tunix_grpo.text.answers.finding import without_thinking
from tunix_grpo.text.tags import ANSWER_END, ANSWER_START
from tunix_grpo.workers import NoReplyError, WorkerPool

PROGRAM = "tunix_grpo.rewards.json_schema_program"
_NO_JSON = Scored(0.0, {"parsed": 0.0})
_LATE = Failure("timeout", "was not checked in time")
_FENCED = re.compile(r"```[A-Za-z0-9]*\n(.*)\n```", re.DOTALL)


def build_json_schema_reward(
    *,
    schema: dict[str, Any] | None,
    path: str | None,
    where: Literal["completion", "answer"],
    timeout_s: float,
    workers: int,
) -> RewardFunction:
    """Returns the reward: 1.0 for each completion whose JSON is valid against the schema, else 0.0.

    Its extra `parsed` is 1.0 where there is JSON at all, else 0.0. Thinking before the JSON does not count, nor does a
    code fence around it.

    Args:
        schema: the schema itself, draft 3 to 2020-12; None where it is in a file.
        path: a JSON file with the schema; None where it is given itself.
        where: the JSON is the whole completion, or what stands in its last answer tags.
        timeout_s: seconds that a completion may take, above 0; one that takes longer counts as not valid.
        workers: processes that check side by side, 1 or more.

    Raises:
        UserError: there is no schema, or two, or it is none.
    """
    pool = WorkerPool(PROGRAM, workers, timeout_s=timeout_s, metric="json_schema/unanswered")
    return _JsonSchema(json.dumps(_schema(schema, path)), where, pool)


class _JsonSchema:
    """The reward function."""

    limits_itself = True

    def __init__(self, schema: str, where: str, pool: WorkerPool) -> None:
        self._schema, self._where, self._pool = schema, where, pool

    def __call__(self, samples: Samples) -> list[Scored | Failure]:
        texts = [_json_text(completion, self._where) for completion in samples.completions]
        asked = [{"schema": self._schema, "text": text} for text in texts if text is not None]
        replies = iter(self._pool.ask_all(asked, samples.deadline))
        is_late = samples.seconds_left() == 0.0
        return [_NO_JSON if text is None else _scored(next(replies), is_late) for text in texts]


def _scored(reply: Any, is_late: bool) -> Scored | Failure:
    if isinstance(reply, NoReplyError):
        return _LATE if is_late else _NO_JSON
    parsed, valid = reply
    return Scored(float(valid), {"parsed": float(parsed)})


def _json_text(completion: str, where: str) -> str | None:
    """Returns the text that is to be JSON; None where there is none."""
    text = without_thinking(completion)
    if where == "answer":
        _, start, behind = text.rpartition(ANSWER_START)
        text, end, _ = behind.partition(ANSWER_END)
        if not start or not end:
            return None
    text = text.strip()
    fenced = _FENCED.fullmatch(text)
    return (fenced.group(1) if fenced else text) or None


def _schema(schema: dict[str, Any] | None, path: str | None) -> Any:
    """Returns the schema that the settings give."""
    if (schema is None) == (path is None):
        raise UserError(
            "reward.json_schema.schema and reward.json_schema.path: one of the two is needed, not both; give the "
            "schema itself, or a JSON file that holds it"
        )
    about = "reward.json_schema.schema" if path is None else f"reward.json_schema.path={path}"
    if path is not None:
        try:
            schema = json.loads(Path(path).read_text("utf-8"))
        except OSError as error:
            raise UserError(
                f"{about}: cannot be read ({error.strerror or one_line(error)}); give a JSON file"
            ) from error
        except (ValueError, RecursionError) as error:
            raise UserError(f"{about}: is not valid JSON ({one_line(error)}); give a JSON file") from error
    if problem := _schema_problem(schema):
        raise UserError(f"{about}: is no JSON schema ({problem}); mend it")
    return schema


def _schema_problem(schema: Any) -> str:
    """Returns what keeps a schema from being used; empty for nothing."""
    import jsonschema
    import referencing.exceptions

    from tunix_grpo.rewards.json_schema_program import unresolved, validator_class

    if not isinstance(schema, dict):
        return "it is not an object"
    if not isinstance(schema.get("$schema", ""), str):
        return f"its $schema is no text but {shortened(json.dumps(schema['$schema']), 60)}"
    try:
        validator_class(schema).check_schema(schema)
        missing = unresolved(schema)
    except jsonschema.SchemaError as error:
        return f"at {error.json_path}: {shortened(error.message, 200)}"
    except (referencing.exceptions.Unresolvable, RecursionError, ValueError) as error:
        return one_line(error)
    return f"it refers to {missing}, which is not in it" if missing else ""
