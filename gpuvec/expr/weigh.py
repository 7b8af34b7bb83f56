"""What conditions cost: so that the cheap ones of an `and` run first, the others on what is left.

Weights are nanoseconds per row on one core of 2024, good to a factor of two; only their order
matters.
"""

from gpuvec.expr.bound import (
    BoundColumn,
    Coalesce,
    Contains,
    JsonValue,
    Known,
    OneOf,
    VectorDistance,
)
from gpuvec.expr.patterns import like_parts
from gpuvec.expr.tree import (
    Arithmetic,
    Call,
    Combine,
    Compare,
    Expr,
    IsNull,
    Like,
    Literal,
    Negate,
    Not,
    Subscript,
)
from gpuvec.schema import String

TAKE = 15.0  # one value of a column at a given row
CHOOSE = 1.0  # from a mask to row numbers, for each row of the mask

_REGEX = 60.0
_CALLS = {
    "lower": 20.0, "upper": 20.0, "contains": 10.0, "text_match": _REGEX, "starts_with": 2.0,
    "ends_with": 2.0, "length": 4.0,
}  # fmt: skip


def weight(node: Expr) -> float:
    """Return about how many nanoseconds a bound expression takes per row."""
    match node:
        case Literal():
            return 0.0
        case BoundColumn():
            return 0.05
        case JsonValue():
            return 200.0
        case VectorDistance(values=values):
            return 5.0 + 0.1 * values.nbytes
        case Compare(left=left, right=right):
            return (
                (0.8 if _is_text(left) or _is_text(right) else 0.25) + weight(left) + weight(right)
            )
        case Combine(operands=operands) | Coalesce(operands=operands):
            return sum(map(weight, operands)) + 0.1
        case Not(operand=operand) | IsNull(operand=operand) | Known(operand=operand):
            return 0.1 + weight(operand)
        case OneOf(operand=operand):
            return 10.0 + weight(operand)
        case Like(operand=operand, pattern=Literal(value=pattern)):
            return _like(str(pattern)) + weight(operand)
        case Contains(operand=operand):
            return 40.0 + weight(operand)
        case Call(name=name, arguments=arguments):
            return _CALLS.get(name, 2.0) + weight(arguments[0])
        case Arithmetic(left=left, right=right):
            return 8.0 + weight(left) + weight(right)
        case Negate(operand=operand) | Subscript(operand=operand):
            return 8.0 + weight(operand)
    raise AssertionError(f"{type(node).__name__} has no weight")


def _like(pattern: str) -> float:
    match like_parts(pattern):
        case () | (str(),):
            return 1.0
        case (str(), None) | (None, str()):
            return 2.0
        case (None, str(), None):
            return 10.0
    return _REGEX


def _is_text(node: Expr) -> bool:
    return isinstance(node, BoundColumn) and isinstance(node.kind, String)
