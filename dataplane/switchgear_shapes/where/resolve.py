"""A parse tree and a table → a typed expression in canonical form. Pure.

Deny by default: a node, operator, function, type or option that is not named here is refused. What the evaluator could
not do exactly as Postgres does is refused as well, with a text that says what to write instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from switchgear_shapes.relations import Relation
from switchgear_shapes.where import (
    canonical,
    collations,
    operators,
    resolve_arrays,
    resolve_calls,
    resolve_casts,
    resolve_comparisons,
    resolve_json,
    resolve_text,
    times,
)
from switchgear_shapes.where import types as t
from switchgear_shapes.where.coercion import Parameter, Resolving, Term, column_type
from switchgear_shapes.where.errors import WhereError, at
from switchgear_shapes.where.expression import Call, Column, Const, Expression, InSubquery, IsNull, Type
from switchgear_shapes.where.grammar import OFFSET, Tree, names_of, node_of, operator_of

MAX_DEPTH = 100
ENDLESS_INTERVALS = 170_000
"""The version of Postgres from which on intervals can be infinite."""


SubqueryResolver = Callable[["Resolver", Tree, tuple[Term, ...], int], InSubquery]


class Resolver(Resolving):
    """Types the nodes of one clause, with the columns of one table."""

    def __init__(
        self,
        relation: Relation,
        params: Mapping[int, str],
        param_types: dict[int, Type],
        *,
        stored_generated: bool = False,
        queryable: frozenset[str] | None = None,
        subquery: SubqueryResolver | None = None,
        by_database: bool = False,
    ) -> None:
        super().__init__(relation, params, param_types, by_database)
        self.stored_generated = stored_generated
        self._queryable = queryable
        self._subquery = subquery
        self._depth = 0
        self.columns: set[str] = set()

    # -- entry points --

    def clause(self, tree: Tree) -> Expression:
        """The whole condition."""
        term = self.resolve(tree)
        expression = self._as_bool(term)
        if expression is None:
            raise WhereError("WHERE clause must return a boolean")
        return canonical.condition(expression)

    def resolve(self, tree: Tree) -> Term:
        kind, node = node_of(tree)
        handler = _HANDLERS.get(kind)
        location = node.get("location", OFFSET) - OFFSET
        if handler is None:
            raise at(location, f"{kind} is not supported in this context")
        self._depth += 1
        if self._depth > MAX_DEPTH:
            raise at(location, "the expression is nested too deeply")
        try:
            return handler(self, node, location)
        finally:
            self._depth -= 1

    # -- leaves --

    def _column(self, node: Tree, location: int) -> Term:
        names = names_of(node.get("fields", []))
        own = ([self.relation.name], [self.relation.schema, self.relation.name])
        if len(names) > 1 and names[:-1] in own:
            names = names[-1:]
        column = self._by_name.get(names[0]) if len(names) == 1 else None
        if column is None or (self._queryable is not None and column.name not in self._queryable):
            raise at(location, f"unknown reference {'.'.join(names)}")
        replicated = not column.generated or (column.generated == "s" and self.stored_generated)
        if not replicated and not self.by_database:
            raise at(location, f"column {column.name} is generated and not replicated, so rows cannot be told by it")
        self.columns.add(column.name)
        return Term(Column(column_type(column), column.name), location, column.collation)

    def _constant(self, node: Tree, location: int) -> Term:
        if node.get("isnull"):
            return Term(Const(t.UNKNOWN, None), location)
        if "sval" in node:
            return Term(Const(t.UNKNOWN, node["sval"].get("sval", "")), location)
        if "ival" in node:
            return Term(Const(t.INT4, str(node["ival"].get("ival", 0))), location)
        if "boolval" in node:
            return Term(canonical.truth(node["boolval"].get("boolval", False)), location)
        if "fval" in node:
            return Term(self.number(node["fval"]["fval"], location), location)
        raise at(location, "BitString values are not supported")

    def _parameter(self, node: Tree, location: int) -> Term:
        number = node.get("number", 0)
        if number not in self.params:
            raise at(location, f"parameter ${number} was not provided")
        return Term(Parameter(t.UNKNOWN, self.params[number], number), location)

    # -- boolean structure --

    def _as_bool(self, term: Term) -> Expression | None:
        if term.type == t.UNKNOWN:
            return self.coerce(term, t.BOOL).expression
        return term.expression if term.type == t.BOOL else None

    def _boolean(self, tree: Tree, what: str) -> Expression:
        term = self.resolve(tree)
        expression = self._as_bool(term)
        if expression is None:
            raise at(term.location, f"argument of {what} must be bool, not {t.shown(term.type)}")
        return expression

    def _bool_expr(self, node: Tree, location: int) -> Term:
        word = node["boolop"].removesuffix("_EXPR")
        args = [self._boolean(arg, word) for arg in node["args"]]
        if word == "NOT":
            return Term(canonical.negation(args[0]), location)
        return Term(canonical.conjunction(args) if word == "AND" else canonical.disjunction(args), location)

    def _null_test(self, node: Tree, location: int) -> Term:
        arg = self.resolve(node["arg"])
        expression = arg.expression
        if isinstance(expression, Column) and self._is_composite(expression.name):
            raise at(location, f"IS NULL of the composite column {expression.name} is not supported")
        if isinstance(expression, Const):
            if isinstance(expression, Parameter):
                self.fix_parameter(expression.number, t.TEXT, location)
            test: Expression = canonical.truth(expression.text is None)
        else:
            test = IsNull(expression)
        negated = node["nulltesttype"] == "IS_NOT_NULL"
        return Term(canonical.negation(test) if negated else test, location)

    def _is_composite(self, name: str) -> bool:
        column = self._by_name[name]
        return column.type_kind == "c" or (
            column.type_kind == "d" and column.base_type is None and not column.enum_labels
        )

    def _boolean_test(self, node: Tree, location: int) -> Term:
        arg = self._boolean(node["arg"], node["booltesttype"].replace("_", " "))
        word = node["booltesttype"].removeprefix("IS_")
        negated = word.startswith("NOT_")
        word = word.removeprefix("NOT_")
        if isinstance(arg, Const):
            test: Expression = canonical.truth(arg.text == {"TRUE": "t", "FALSE": "f"}.get(word))
        elif word == "UNKNOWN":
            test = IsNull(arg)
        else:
            test = Call(t.BOOL, f"IS {word}", (arg,))
        return Term(canonical.negation(test) if negated else test, location)

    # -- operators --

    def _a_expr(self, node: Tree, location: int) -> Term:
        kind = node["kind"].removeprefix("AEXPR_")
        handler = _EXPRESSIONS.get(kind)
        if handler is None:
            raise at(location, f"expression {_operator_name(node)} of :{node['kind']} is not currently supported")
        return handler(self, node, location)

    def _operation(self, node: Tree, location: int) -> Term:
        name = operator_of(node, location)
        if "lexpr" not in node:
            return self._unary(f"unary {name}", self.resolve(node["rexpr"]), location)
        left, right = resolve_arrays.sides(self, node["lexpr"], node["rexpr"])
        return self.binary(name, left, right, location)

    def _unary(self, name: str, arg: Term, location: int) -> Term:
        if not operators.known(name):
            raise at(location, f"unknown {name.replace(' ', ' operator ')}")
        chosen = operators.choose(name, (arg.type,))
        if chosen is None:
            raise at(location, "Could not select an operator overload")
        call = Call(chosen.result, name, (self.coerce(arg, chosen.args[0]).expression,))
        return Term(self.fold(call, location), location)

    def binary(self, name: str, left: Term, right: Term, location: int) -> Term:
        if resolve_json.is_operation(name, left, right):
            self._check_usable(right)
            return resolve_json.operation(self, name, left, right, location)
        self._check_usable(left, right)
        if left.type.array or right.type.array:
            return dataclasses.replace(left, expression=resolve_arrays.operation(self, name, left, right, location))
        if not operators.known(name):
            raise at(location, f"unknown binary operator {name}")
        if left.type.enum is not None or right.type.enum is not None:
            return Term(self._enum_comparison(name, left, right, location), location)
        chosen = operators.choose(name, (left.type, right.type))
        if chosen is None:
            raise at(location, "Could not select an operator overload")
        first, second = self.coerce(left, chosen.args[0]), self.coerce(right, chosen.args[1])
        if name in operators.COMPARISONS:
            rule = self.check_comparable(name, first, second, chosen.args[0], location)
            made = canonical.comparison(name, first.expression, second.expression, rule)
            return Term(self.fold(made, location), location)
        if name in resolve_text.LIKE:
            return Term(resolve_text.like_test(self, name, first, second, location), location)
        args = (first.expression, second.expression)
        call = self.fold(Call(chosen.result, name, args, self._computed(name, args, location)), location)
        if chosen.result == t.TEXT:
            return dataclasses.replace(self.merged(first, second), expression=call, location=location)
        return Term(call, location)

    def _computed(self, name: str, args: tuple[Expression, Expression], location: int) -> str:
        """The rule of a computation. Raises WhereError for one that two servers may do differently."""
        kinds = {arg.type for arg in args}
        if name == "-" and len(kinds) == 1 and kinds <= {t.TIMESTAMP, t.TIMESTAMPTZ}:
            return times.NO_ENDLESS if self.relation.server_version < ENDLESS_INTERVALS else ""
        if self.by_database or name not in ("^", "*", "/"):
            return ""
        constant = all(isinstance(arg, Const) for arg in args)
        if name == "^" and (t.NUMERIC in kinds or not constant):
            raise at(location, "powers are computed of constants only, and not of numeric ones; write the number")
        if t.INTERVAL in kinds and not constant and not (name == "*" and any(map(_is_whole, args))):
            raise at(location, "an interval that is no constant is only multiplied, and by integers")
        return ""

    def _check_usable(self, *terms: Term) -> None:
        for term in terms:
            if term.type == t.JSON:
                raise at(term.location, "json has no comparisons; compare what ->> gives, or cast it to jsonb")
            if term.type != t.UNKNOWN and not t.usable(term.type):
                what = f"column {term.expression.name} of" if isinstance(term.expression, Column) else "a value of"
                raise at(term.location, f"{what} type {t.shown(term.type)} can only be tested with IS [NOT] NULL")

    def _enum_comparison(self, name: str, left: Term, right: Term, location: int) -> Expression:
        kind = left.type if left.type.enum is not None else right.type
        if not (name in ("=", "<>") or (self.by_database and name in operators.COMPARISONS)) or kind.array:
            raise at(location, f"enum {t.shown(kind)} is only compared with = and <>; list the labels with IN")
        for side in (left, right):
            if isinstance(side.expression, Column) and self._by_name[side.expression.name].type_kind == "d":
                raise at(side.location, f"{t.shown(kind)}, a domain over an enum, has no comparisons; cast it to text")
        sides = [self.coerce(side, kind) if side.type == t.UNKNOWN else side for side in (left, right)]
        if sides[0].type != sides[1].type:
            raise at(location, "Could not select an operator overload")
        rule = "" if name in ("=", "<>") else collations.DATABASE
        return self.fold(canonical.comparison(name, sides[0].expression, sides[1].expression, rule), location)

    # -- subqueries --

    def _sublink(self, node: Tree, location: int) -> Term:
        if self._subquery is None:
            raise WhereError("Subqueries are not allowed in subsets")
        if node.get("subLinkType") != "ANY_SUBLINK" or "operName" in node:
            raise at(location, "only `value IN (SELECT ...)` sublinks are supported right now")
        kind, test = node_of(node["testexpr"])
        trees = test.get("args", []) if kind == "RowExpr" else [node["testexpr"]]
        for tree in trees:
            if node_of(tree)[0] != "ColumnRef":
                raise at(
                    location,
                    "currently, left side of `IN (SELECT ...)` can only be a column reference"
                    " or a list of column references",
                )
        left = tuple(self.resolve(tree) for tree in trees)
        return Term(self._subquery(self, node["subselect"]["SelectStmt"], left, location), location)


def _is_whole(factor: Expression) -> bool:
    """Whether a float is an integer for certain."""
    match factor:
        case Const(Type("float8"), text):
            return text is None or float(text).is_integer()
        case Call(Type("float8"), "cast", (arg,)):
            return arg.type.name in t.INTEGERS
        case _:
            return False


def _operator_name(node: Tree) -> str:
    return ".".join(names_of(node.get("name", [])))


_HANDLERS: dict[str, Callable[[Resolver, Any, int], Term]] = {
    "ColumnRef": Resolver._column,
    "A_Const": Resolver._constant,
    "ParamRef": Resolver._parameter,
    "TypeCast": resolve_casts.cast,
    "BoolExpr": Resolver._bool_expr,
    "NullTest": Resolver._null_test,
    "BooleanTest": Resolver._boolean_test,
    "A_Expr": Resolver._a_expr,
    "CollateClause": resolve_text.collate,
    "SubLink": Resolver._sublink,
    "FuncCall": resolve_calls.function,
    "CoalesceExpr": resolve_calls.coalesce,
    "MinMaxExpr": resolve_calls.extreme,
    "A_ArrayExpr": resolve_arrays.constructor,
    "A_Indirection": resolve_arrays.subscript,
}
_EXPRESSIONS: dict[str, Callable[[Resolver, Any, int], Term]] = {
    "OP": Resolver._operation,
    "LIKE": Resolver._operation,
    "ILIKE": Resolver._operation,
    "OP_ANY": resolve_arrays.any_or_all,
    "OP_ALL": resolve_arrays.any_or_all,
    "DISTINCT": resolve_comparisons.distinct,
    "NOT_DISTINCT": resolve_comparisons.distinct,
    "NULLIF": resolve_calls.nullif,
    "IN": resolve_comparisons.in_list,
    "BETWEEN": resolve_comparisons.between,
    "NOT_BETWEEN": resolve_comparisons.between,
    "BETWEEN_SYM": resolve_comparisons.between,
    "NOT_BETWEEN_SYM": resolve_comparisons.between,
}
