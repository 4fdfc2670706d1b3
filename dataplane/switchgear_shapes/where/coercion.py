"""Terms, and how they get the type that their place wants: literals, casts, common types, collations. Pure.

What could depend on a setting, or on a collation that we do not know, is refused here.
"""

from __future__ import annotations

import dataclasses
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass

from switchgear_shapes import relations
from switchgear_shapes.relations import Collation, Relation
from switchgear_shapes.where import canonical, collations, evaluate, values
from switchgear_shapes.where import types as t
from switchgear_shapes.where.casts import cast as find_cast
from switchgear_shapes.where.errors import at
from switchgear_shapes.where.expression import Call, Const, Expression, Not, Type
from switchgear_shapes.where.grammar import Tree

MAX_NUMBER_BITS = 14_000
"""Of a number with a base: Python turns no integer above 4,300 digits into text."""
MAX_CONSTANT_CHARACTERS = 1_000_000


@dataclass(frozen=True, slots=True)
class Term:
    """A typed expression with what is only needed while typing: where it is, and how it collates."""

    expression: Expression
    location: int
    collation: Collation | None = None
    """None: whatever the database's default is (constants, and text made of other types)."""
    explicit: bool = False
    """COLLATE "C" was written."""
    ambiguous: bool = False
    """Two columns with different collations: Postgres would refuse to compare."""

    @property
    def type(self) -> Type:
        return self.expression.type


@dataclass(frozen=True, slots=True)
class Parameter(Const):
    """A parameter's value before its type is known."""

    number: int = 0


_BUILT_IN = frozenset({*t.CATEGORY, "json"})


def column_type(column: relations.Column) -> Type:
    """A column's type with domains looked through. A type that we know nothing of has its own name."""
    if column.enum_labels is not None:
        name = column.element_type if column.base_array and column.element_type is not None else column.type_name
        schema = "" if column.type_kind == "d" else column.enum_schema
        return Type(_of_its_own(name), column.base_array, column.enum_labels, schema)
    if column.base_type is not None and column.base_type != "unknown":
        return Type(column.base_type, column.base_array)
    return Type(_of_its_own(column.type_name))


def _of_its_own(name: str) -> str:
    """The name of somebody's type, which may be called `interval` as one of Postgres' is: not the same name here."""
    return f"{name} " if name in _BUILT_IN else name


def _same_text(first: Type, second: Type) -> bool:
    """varchar is text to every operator; nothing is done to its values."""
    return {first.name, second.name} <= {"text", "varchar"} and first.array == second.array


_STEADY = frozenset({*t.INTEGERS, "numeric", "float8", "bool", "uuid", "jsonb"})


def _steady_input(target: Type) -> bool:
    """Whether the input function reads all that Postgres' does, and depends on no setting."""
    return target.name in _STEADY or target.name in t.STRINGS


class Coercion:
    """The part of a resolver that knows types."""

    def __init__(
        self, relation: Relation, params: Mapping[int, str], param_types: dict[int, Type], by_database: bool
    ) -> None:
        self.relation = relation
        self._constant_characters = 0
        self.by_database = by_database
        """Only Postgres will evaluate the clause: its collations and settings may have their say."""
        self.params = params
        self.param_types = param_types
        self._by_name = {column.name: column for column in relation.columns}
        defaults = (c.collation for c in relation.columns if c.collation is not None and c.collation.name == "default")
        self._default_collation = next(defaults, None)

    def number(self, text: str, location: int) -> Const:
        digits = text.replace("_", "")
        try:
            value = int(digits, 0) if digits[:2].lower() in ("0x", "0o", "0b") else int(digits)
        except ValueError:
            return self.read(t.NUMERIC, digits, location)
        if value.bit_length() > MAX_NUMBER_BITS:
            raise at(location, "the number is too long; write it with decimal digits")
        low, high = t.INTEGERS["int8"]
        if low <= value <= high:
            return Const(t.INT8, str(value))
        return self.read(t.NUMERIC, str(value), location)

    def _bounded(self, constant: Const, location: int) -> Const:
        """`1e100000` is short to write and long to keep: all constants of a clause together have a bound."""
        self._constant_characters += len(constant.text or "")
        if self._constant_characters > MAX_CONSTANT_CHARACTERS:
            raise at(location, f"the constants have more than {MAX_CONSTANT_CHARACTERS} characters when written out")
        return constant

    def read(self, kind: Type, text: str, location: int) -> Const:
        """A literal of a type."""
        if kind.name == "interval" and "inf" in text.lower():
            raise at(location, f"invalid syntax for type {t.shown(kind)}: {text} (Postgres has it since 17 only)")
        try:
            constant = Const(kind, values.to_text(kind, values.read(kind, text)))
        except (ValueError, ArithmeticError):
            what = (
                f"input value for enum {t.shown(kind)}" if kind.enum is not None else f"syntax for type {t.shown(kind)}"
            )
            shown = f'"{text}"' if kind.enum is not None else text
            raise at(location, f"invalid {what}: {shown}") from None
        except KeyError:
            raise at(location, f"unsupported type {t.shown(kind)}") from None
        return self._bounded(constant, location)

    def coerce(self, term: Term, target: Type, *, explicit: bool = False) -> Term:
        """The term as `target`, by an implicit cast unless `explicit`."""
        expression = term.expression
        if isinstance(expression, Const) and expression.type == t.UNKNOWN:
            if isinstance(expression, Parameter):
                self.fix_parameter(expression.number, target, term.location)
            constant = (
                Const(target, None) if expression.text is None else self.read(target, expression.text, term.location)
            )
            return dataclasses.replace(term, expression=constant)
        source = term.type
        if source == target or (not explicit and _same_text(source, target)):
            return term
        from_text = source.name in t.STRINGS and not isinstance(expression, Const)
        if explicit and from_text and not self.by_database and not _steady_input(target):
            raise at(term.location, f"casting text to {t.shown(target)} depends on settings; cast a constant instead")
        if source == t.JSONB and t.category(target) in "BN":
            expression = self._null_as_null(expression, term.location)
        if not explicit and not t.implicit(source, target):
            raise at(term.location, f"unknown cast from type {t.shown(source)} to type {t.shown(target)}")
        if find_cast(source, target) is None:
            raise at(term.location, f"unknown cast from type {t.shown(source)} to type {t.shown(target)}")
        cast = self.fold(Call(target, "cast", (expression,)), term.location)
        collation = term.collation if source.name in t.STRINGS else None
        return dataclasses.replace(term, expression=cast, collation=collation)

    def _null_as_null(self, document: Expression, location: int) -> Expression:
        """A jsonb of which a number or a boolean is made: of `null`, Postgres makes an error before 18, and NULL since.
        Here it is always NULL."""
        match document:
            case Call(_, "nullif", (_, Const(t.JSONB, "null"))):
                return document
            case _:
                return self.fold(Call(t.JSONB, "nullif", (document, Const(t.JSONB, "null"))), location)

    def fix_parameter(self, number: int, kind: Type, location: int) -> None:
        first = self.param_types.setdefault(number, kind)
        if first != kind and not _same_text(first, kind):
            raise at(location, f"type conflict for ${number}: used as {t.shown(first)} and as {t.shown(kind)}")

    def fold(self, expression: Expression, location: int) -> Expression:
        """A call of constants, or its NOT, as a constant."""
        if isinstance(expression, Not):
            return canonical.negation(self.fold(expression.arg, location))
        if not isinstance(expression, Call) or not all(isinstance(arg, Const) for arg in expression.args):
            return expression
        if expression.rule == collations.DATABASE:
            return expression
        try:
            value = evaluate.constant(expression)
            constant = Const(expression.type, None if value is None else values.to_text(expression.type, value))
        except (ValueError, ArithmeticError, KeyError) as error:
            raise at(location, f"cannot evaluate {expression.name}: {error}") from None
        return self._bounded(constant, location)

    def explicit_cast(self, term: Term, target: Type, location: int) -> Term:
        made = self.coerce(dataclasses.replace(term, location=max(term.location, 0)), target, explicit=True)
        return dataclasses.replace(made, location=location)

    def common_type(self, terms: list[Term]) -> Type | None:
        """The type that Postgres would give a list of these (its UNION rules); None if they have none in common."""
        common: Type | None = None
        for kind in (term.type for term in terms if term.type != t.UNKNOWN):
            if common is None or kind == common:
                common = kind
            elif t.category(kind) != t.category(common):
                return None
            elif common.name not in t.PREFERRED and t.implicit(common, kind) and not t.implicit(kind, common):
                common = kind
        if (
            common is None
            or common.array
            or any(term.type != t.UNKNOWN and not t.implicit(term.type, common) for term in terms)
        ):
            return None
        return common

    def merged(self, *terms: Term) -> Term:
        """How the result of the terms collates: written, else a column's own, else the default."""
        for term in terms:
            if term.explicit:
                return term
        own = {term.collation for term in terms if term.collation is not None and term.collation.name != "default"}
        if len(own) > 1:
            return dataclasses.replace(terms[0], ambiguous=True)
        for term in terms:
            if term.collation in own or (not own and term.collation is not None):
                return term
        return dataclasses.replace(terms[0], collation=self._default_collation)

    def check_comparable(self, name: str, left: Term, right: Term, kind: Type, location: int) -> str:
        """The rule of the comparison (see `render`)."""
        if kind.array or kind.name not in t.STRINGS:
            return ""
        merged = self.merged(left, right)
        return "" if merged.explicit else self._order_rule(name, merged, location)

    def check_ordered(self, name: str, terms: list[Term], location: int) -> str:
        """The rule of a function that gives one of several texts by their order."""
        merged = self.merged(*terms)
        return collations.ASCII if merged.explicit else self._order_rule(name, merged, location)

    def _order_rule(self, name: str, merged: Term, location: int) -> str:
        """How text is compared under a collation that nobody wrote."""
        if merged.ambiguous:
            raise at(location, 'the columns have different collations; use COLLATE "C"')
        if self.by_database:
            return collations.DATABASE if name not in ("=", "<>") else ""
        if merged.collation is not None and not merged.collation.deterministic:
            raise at(location, f'collation {merged.collation.name} is not deterministic; use COLLATE "C"')
        if name not in ("=", "<>") and not collations.in_byte_order(merged.collation):
            which = "" if merged.collation is None else f" {merged.collation.locale}"
            raise at(location, f'text is not compared with {name} under the collation{which}; use COLLATE "C"')
        return ""

    def case_rule(self, location: int, *terms: Term) -> str:
        merged = self.merged(*terms)
        if merged.explicit:
            return collations.ASCII
        if self.by_database:
            return collations.DATABASE
        rule = None if merged.ambiguous else collations.case_rule(merged.collation)
        if rule is None:
            raise at(location, 'letters\' case under this collation is not known; use COLLATE "C" or compare exactly')
        return rule


class Resolving(Coercion, ABC):
    """What the modules that type one kind of node each need of the resolver."""

    @abstractmethod
    def resolve(self, tree: Tree) -> Term: ...

    @abstractmethod
    def binary(self, name: str, left: Term, right: Term, location: int) -> Term: ...
