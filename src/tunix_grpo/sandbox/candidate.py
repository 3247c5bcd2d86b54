"""Runs the code of a completion in its confined process: as a program, or as a module whose functions are called."""

from __future__ import annotations

import contextlib
import os
import sys
import types

from tunix_grpo.sandbox.values import CHANGEABLE, Line, Objects

TYPE_CHECKING = False
if TYPE_CHECKING:  # typing itself takes as long to load as all the rest
    from typing import Any

FILE = "solution.py"
FAILED, NO_PYTHON = 1, 3  # exit codes


def run_program(code: str) -> None:
    """Runs code as `python solution.py` does, on the open files 0, 1 and 2; does not return."""
    module = _new_module("__main__")
    sys.stdin = open(0, encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stdout = open(1, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    sys.stderr = open(2, "w", encoding="utf-8", errors="replace", closefd=False)  # noqa: SIM115
    end = FAILED
    try:
        try:
            program = compile(code, FILE, "exec")
        except (SyntaxError, ValueError):
            os._exit(NO_PYTHON)
        exec(program, module.__dict__)
        if "threading" in sys.modules:
            sys.modules["threading"]._shutdown()  # waits for its threads, as at every end of a program
        end = 0
    except SystemExit as error:
        end = 0 if error.code in (None, 0) else FAILED
    except BaseException:
        pass  # the exit code says it
    finally:
        with contextlib.suppress(BaseException):
            sys.stdout.flush()
        os._exit(end)


def serve(code: str, line: Line) -> None:
    """Runs code as a module and answers calls of what it defines until there are no more; does not return.

    Args:
        line: the connection to the judge.
    """
    sys.stdin = open(os.devnull)  # noqa: SIM115
    module = _new_module("solution")
    problem = None
    try:
        exec(compile(code, FILE, "exec"), module.__dict__)
    except BaseException as error:
        problem = _raised(error)
    server = _Server(module, problem)
    try:
        while True:
            line.send(server.answer(line.receive()))
    finally:
        os._exit(0)


class _Server:
    """Answers what the judge asks of a module; it gives values away and is given arguments, nothing else."""

    def __init__(self, module: types.ModuleType, problem: dict[str, Any] | None) -> None:
        self.module, self.problem = module, problem
        self.objects = Objects()

    def answer(self, question: dict[str, Any]) -> dict[str, Any]:
        try:
            return getattr(self, f"_{question.pop('ask')}")(**question)
        except BaseException as error:
            return _raised(error)

    def _names(self) -> dict[str, Any]:
        return self.problem or {"names": [name for name in self.module.__dict__ if not name.startswith("__")]}

    def _name(self, name: str) -> dict[str, Any]:
        return {"value": self.objects.encoded(self.module.__dict__[name])}

    def _attribute(self, of: Any, name: str) -> dict[str, Any]:
        return {"value": self.objects.encoded(getattr(self.objects.decoded(of), name))}

    def _set_attribute(self, of: Any, name: str, value: Any) -> dict[str, Any]:
        setattr(self.objects.decoded(of), name, self.objects.decoded(value))
        return {"value": None}

    def _method(self, of: Any, name: str, arguments: list[Any]) -> dict[str, Any]:
        target = self.objects.decoded(of)
        given = [self.objects.decoded(each) for each in arguments]
        method = getattr(type(target), name, None)
        if method is None:
            raise TypeError(f"it has no {name}")
        return {"value": self.objects.encoded(method(target, *given))}

    def _call(self, of: Any, arguments: list[Any], named: dict[str, Any]) -> dict[str, Any]:
        """Calls something; says, too, what it made of those arguments that it could change."""
        target = self.objects.decoded(of)
        given = [self.objects.decoded(each) for each in arguments]
        result = target(*given, **{key: self.objects.decoded(each) for key, each in named.items()})
        value = self.objects.encoded(result)
        after = [self.objects.encoded(each) if isinstance(each, CHANGEABLE) else None for each in given]
        changed = [[place, now] for place, now in enumerate(after) if now is not None and now != arguments[place]]
        return {"value": value, "changed": changed}


def _new_module(name: str) -> types.ModuleType:
    module = types.ModuleType(name)
    sys.modules[name] = module
    return module


def _raised(error: BaseException) -> dict[str, Any]:
    names = [kind.__name__ for kind in type(error).__mro__ if kind.__module__ == "builtins"]
    message = ""
    with contextlib.suppress(BaseException):
        message = str(error)[:1000]
    return {"raised": names, "message": message}
