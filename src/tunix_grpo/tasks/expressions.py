"""Which answers are harmless to those scorers of reasoning_gym that evaluate them as code."""

import ast
import math

LARGEST_VALUE = 1e100
LARGEST_EXPONENT = 100.0
FUNCTIONS = frozenset(
    ("sin", "cos", "tan", "sec", "csc", "cot", "asin", "acos", "atan", "sinh", "cosh", "tanh")
    + ("exp", "log", "ln", "sqrt", "Abs")
)
CONSTANTS = frozenset({"pi"})
# Where a wrong antiderivative shows; away from the poles and zeros of common functions.
SAMPLE_POINTS = (0.37, 1.73, 2.61)

# What parsing hostile text can raise.
PARSE_ERRORS = (SyntaxError, ValueError, RecursionError, MemoryError)


class _NotHarmlessError(ValueError):
    """The expression has a part that is not arithmetic, or a value that is too large."""


def is_literal(text: str) -> bool:
    """Says whether a text is a Python number, string, list or the like, which `eval` only reads."""
    try:
        ast.literal_eval(text)
    except (*PARSE_ERRORS, TypeError):
        return False
    return True


def is_formula(text: str) -> bool:
    """Says whether a text is arithmetic on numbers, single letters and well-known functions.

    Nothing else can be called or reached by evaluating it, and no number in it grows beyond
    `LARGEST_VALUE`, which rules out `9**9**9`.
    """
    if not text.isascii():
        return False
    try:
        return _bound(ast.parse(text.strip(), mode="eval").body) <= LARGEST_VALUE
    except (*PARSE_ERRORS, OverflowError):
        return False


def is_antiderivative(text: str, variable: str, integrand: str) -> bool:
    """Says whether a formula's derivative agrees with the integrand at a few points.

    A scorer that simplifies the difference of the two symbolically takes minutes over some wrong
    answers; at a point they show at once.
    """
    if not is_formula(text):  # sympy evaluates what it parses
        return False
    import sympy

    symbol = sympy.Symbol(variable)
    names = {variable: symbol, "C": sympy.Symbol("C")}
    try:
        derivative = sympy.diff(sympy.parse_expr(text, local_dict=names), symbol)
        difference = derivative - sympy.parse_expr(integrand, local_dict=names)
        values = [difference.evalf(12, subs={symbol: point}) for point in SAMPLE_POINTS]
        return all(abs(complex(value)) < 1e-6 for value in values)
    except (*PARSE_ERRORS, ArithmeticError, AttributeError, TypeError):
        return False


def _bound(node: ast.expr) -> float:
    """Returns an upper bound, 1 or more, on the size of every number that evaluation comes across.

    Letters count as 2: no answer's length lets them build anything larger than its numbers do.
    """
    match node:
        case ast.Constant(value=int() | float() as value) if not isinstance(value, bool):
            size = float(abs(value))
            return max(size, 1 / size, 1.0) if size else 1.0
        case ast.Name(id=name) if len(name) == 1 or name in CONSTANTS:
            return 2.0 if name not in CONSTANTS else math.pi
        case ast.UnaryOp(op=ast.UAdd() | ast.USub(), operand=operand):
            return _bound(operand)
        case ast.BinOp(left=left, op=ast.Add() | ast.Sub(), right=right):
            return _bound(left) + _bound(right)
        case ast.BinOp(left=left, op=ast.Mult() | ast.Div(), right=right):
            return _bound(left) * _bound(right)
        case ast.BinOp(left=left, op=ast.Pow(), right=right):
            return _bound(left) ** _exponent(right)
        case ast.Call(func=ast.Name(id="exp"), args=[argument], keywords=[]):
            return math.exp(_exponent(argument))
        case ast.Call(func=ast.Name(id=name), args=[argument], keywords=[]) if name in FUNCTIONS:
            return max(_bound(argument), 2.0)
    raise _NotHarmlessError


def _exponent(node: ast.expr) -> float:
    bound = _bound(node)
    if bound > LARGEST_EXPONENT:
        raise _NotHarmlessError
    return bound
