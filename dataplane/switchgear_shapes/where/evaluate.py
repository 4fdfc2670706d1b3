"""A typed expression → a function over rows of the stream. Pure.

Invariant: where Postgres gives TRUE, so does the function, and only there: values compare as there, NULL is None, and
what raises an error there is not TRUE here. What could not agree was refused when the clause was parsed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, TypeAlias

from switchgear_shapes.replication.pgoutput import Values
from switchgear_shapes.where import functions
from switchgear_shapes.where.comparing import TEXT_IS_IDENTITY, comparison, comparison_key
from switchgear_shapes.where.errors import TooLarge
from switchgear_shapes.where.expression import (
    And,
    Call,
    Column,
    Const,
    Expression,
    InList,
    InSubquery,
    IsNull,
    Not,
    Or,
    Type,
)
from switchgear_shapes.where.operators import COMPARISONS
from switchgear_shapes.where.types import INTEGERS
from switchgear_shapes.where.values import decoder, read

Evaluate: TypeAlias = Callable[[Values], Any]
Predicate: TypeAlias = Callable[[Values], bool | None]
Member: TypeAlias = Callable[[int, tuple[bytes | None, ...]], bool | None]
"""Whether a key is among the rows of subquery number n: asked with the columns' texts as the stream has them."""


def predicate(expression: Expression, positions: Mapping[str, int], member: Member | None = None) -> Predicate:
    """What tells of a row (values in relation order, none UNCHANGED) whether it belongs: only True does.

    `positions` says where columns are; a column that the expression needs and that is not there is KeyError. The
    predicate raises nothing but TooLarge: a row on which the expression fails is None.
    """
    evaluate = _Compiler(positions, member).compile(expression)

    def guarded(row: Values) -> bool | None:
        try:
            return evaluate(row)  # type: ignore[no-any-return]
        except (ValueError, ArithmeticError, TypeError, RecursionError, AttributeError, LookupError):
            return None

    return evaluate if _never_fails(expression) else guarded


def constant(expression: Expression) -> Any:
    """The value of an expression without columns. Raises ValueError, ArithmeticError."""
    try:
        return _Compiler({}, None).compile(expression)([])
    except TooLarge:
        raise ValueError("it would take too long to compute") from None


def _never_fails(node: Expression) -> bool:
    """Whether the compiled form of a node works on bytes alone."""
    match node:
        case Call(name="=", args=(Column(type=kind), Const(type=other))):
            return _equal_as_text(kind, other)
        case InList(arg=Column(type=kind)):
            return identified_by_text(kind)
        case IsNull(arg=Column()) | Const():
            return True
        case And(args) | Or(args):
            return all(map(_never_fails, args))
        case Not(arg):
            return _never_fails(arg)
        case _:
            return False


def identified_by_text(kind: Type) -> bool:
    """Whether two values of the type are equal exactly when the stream has the same bytes for them."""
    return not kind.array and (kind.enum is not None or kind.name in TEXT_IS_IDENTITY)


def _equal_as_text(kind: Type, other: Type) -> bool:
    """Whether values of two types are equal exactly when their texts are: those of a date and a timestamp are not."""
    families = (INTEGERS, ("text", "varchar"))
    alike = kind == other or any(kind.name in family and other.name in family for family in families)
    return alike and identified_by_text(kind) and identified_by_text(other)


class _Compiler:
    def __init__(self, positions: Mapping[str, int], member: Member | None) -> None:
        self._positions = positions
        self._member = member

    def compile(self, node: Expression) -> Evaluate:
        match node:
            case Const(kind, text):
                value = None if text is None else read(kind, text)
                return lambda row: value
            case Column(kind, name):
                return self._column(kind, name)
            case And(args):
                return _conjunction([self.compile(arg) for arg in args])
            case Or(args):
                return _disjunction([self.compile(arg) for arg in args])
            case Not(arg):
                return _negation(self.compile(arg))
            case IsNull(arg):
                return self._is_null(arg)
            case InList():
                return self._in_list(node)
            case InSubquery(columns, query):
                return self._in_subquery(columns, query)
            case Call():
                return self._call(node)

    def _column(self, kind: Type, name: str) -> Evaluate:
        index = self._positions[name]
        decode = decoder(kind)
        if decode is None:
            return lambda row: row[index]

        def column(row: Values) -> Any:
            value: Any = row[index]
            return None if value is None else decode(value)

        return column

    def _is_null(self, arg: Expression) -> Evaluate:
        if isinstance(arg, Column):
            index = self._positions[arg.name]
            return lambda row: row[index] is None
        evaluate = self.compile(arg)
        return lambda row: evaluate(row) is None

    def _in_list(self, node: InList) -> Evaluate:
        kind = node.arg.type
        texts = [value.text.encode() for value in node.values if value.text is not None]
        if isinstance(node.arg, Column) and identified_by_text(kind):
            index = self._positions[node.arg.name]
            members = frozenset(texts)

            def among(row: Values) -> bool | None:
                value = row[index]
                return None if value is None else value in members

            return among
        key = comparison_key(kind)
        if key is not None and isinstance(node.arg, Column):
            index = self._positions[node.arg.name]
            keys = frozenset(map(key, texts))

            def among_keys(row: Values) -> bool | None:
                value: Any = row[index]
                return None if value is None else key(value) in keys

            return among_keys
        return _any_equal(self.compile(node.arg), kind, [read(kind, text.decode()) for text in texts])

    def _in_subquery(self, columns: tuple[Column, ...], query: int) -> Evaluate:
        member = self._member
        if member is None:
            raise ValueError("a subquery needs its members")
        indexes = [self._positions[column.name] for column in columns]
        if len(indexes) == 1:
            (only,) = indexes
            return lambda row: member(query, (row[only],))  # type: ignore[arg-type]
        return lambda row: member(query, tuple(row[index] for index in indexes))  # type: ignore[misc]

    def _call(self, node: Call) -> Evaluate:
        name, args = node.name, node.args
        if name in COMPARISONS:
            return self._comparison(name, *args)
        compiled = [self.compile(arg) for arg in args]
        fixed = functions.fixed(node)
        if fixed is not None:
            return fixed(compiled[0])
        lazy = functions.lazy(node)
        if lazy is not None:
            return lazy(compiled)
        return _strict(functions.strict(node), compiled)

    def _comparison(self, name: str, left: Expression, right: Expression) -> Evaluate:
        if isinstance(left, Column) and isinstance(right, Const) and right.text is not None:
            if name == "=" and _equal_as_text(left.type, right.type):
                return self._same_text(left, right.text.encode())
            if left.type == right.type and left.type.name in ("text", "varchar") and name not in ("=", "<>"):
                return _compared_with(self._column(left.type, left.name), comparison(name, left.type, left.type), right)
        compare = comparison(name, left.type, right.type)
        if isinstance(right, Const) and right.text is not None:
            return _compared_with(self.compile(left), compare, right)
        return _strict(compare, [self.compile(left), self.compile(right)])

    def _same_text(self, column: Column, text: bytes) -> Evaluate:
        index = self._positions[column.name]

        def same(row: Values) -> bool | None:
            value = row[index]
            return None if value is None else value == text

        return same


def _compared_with(left: Evaluate, compare: Callable[[Any, Any], bool], right: Const) -> Evaluate:
    assert right.text is not None
    constant_value = read(right.type, right.text)

    def compared(row: Values) -> bool | None:
        value = left(row)
        return None if value is None else compare(value, constant_value)

    return compared


def _any_equal(arg: Evaluate, kind: Type, constants: list[Any]) -> Evaluate:
    equal = comparison("=", kind, kind)

    def any_equal(row: Values) -> bool | None:
        value = arg(row)
        return None if value is None else any(equal(value, other) for other in constants)

    return any_equal


def _strict(function: Callable[..., Any], args: list[Evaluate]) -> Evaluate:
    if len(args) == 1:
        (only,) = args

        def unary(row: Values) -> Any:
            value = only(row)
            return None if value is None else function(value)

        return unary
    if len(args) == 2:
        first, second = args

        def binary(row: Values) -> Any:
            a, b = first(row), second(row)
            return None if a is None or b is None else function(a, b)

        return binary

    def general(row: Values) -> Any:
        found = [arg(row) for arg in args]
        return None if None in found else function(*found)

    return general


def _conjunction(args: list[Evaluate]) -> Evaluate:
    if len(args) == 2:
        first, second = args

        def both(row: Values) -> bool | None:
            a = first(row)
            if a is False:
                return False
            b = second(row)
            return b if a else False if b is False else None

        return both

    def conjunction(row: Values) -> bool | None:
        result: bool | None = True
        for arg in args:
            value = arg(row)
            if value is False:
                return False
            if value is None:
                result = None
        return result

    return conjunction


def _disjunction(args: list[Evaluate]) -> Evaluate:
    def disjunction(row: Values) -> bool | None:
        result: bool | None = False
        for arg in args:
            value = arg(row)
            if value:
                return True
            if value is None:
                result = None
        return result

    return disjunction


def _negation(arg: Evaluate) -> Evaluate:
    def negation(row: Values) -> bool | None:
        value = arg(row)
        return None if value is None else not value

    return negation
