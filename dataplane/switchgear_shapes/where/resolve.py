"""A parse tree and a table → a typed expression in canonical form. Pure.

Deny by default: a node, operator, function, type or option that is not named here is refused. What the evaluator could
not do exactly as Postgres does is refused as well, with a text that says what to write instead.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

from switchgear_shapes.relations import Relation
from switchgear_shapes.where import canonical, collations, like, operators, resolve_arrays, resolve_calls, resolve_json
from switchgear_shapes.where import types as t
from switchgear_shapes.where.coercion import Coercion, Parameter, Term, column_type
from switchgear_shapes.where.errors import WhereError, at
from switchgear_shapes.where.expression import Call, Column, Const, Expression, InSubquery, IsNull, Type
from switchgear_shapes.where.grammar import OFFSET, Tree, names_of, node_of

MAX_DEPTH = 100
_LIKE = {"~~": False, "!~~": True, "~~*": False, "!~~*": True}


SubqueryResolver = Callable[["Resolver", Tree, tuple[Term, ...], int], InSubquery]


class Resolver(Coercion):
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

    # -- casts and coercion --

    def _cast(self, node: Tree, location: int) -> Term:
        target = self.type_named(node["typeName"])
        kind, array = node_of(node["arg"])
        if (
            kind == "A_ArrayExpr"
            and target.array
            and all(node_of(e)[0] != "A_ArrayExpr" for e in array.get("elements", []))
        ):
            item = resolve_arrays.element_type(target)
            items = [self.explicit_cast(self.resolve(e), item, location) for e in array.get("elements", [])]
            return resolve_arrays.of_type(self, items, target, location)
        term = self.resolve(node["arg"])
        return self.explicit_cast(term, target, location)

    # -- boolean structure --

    def _as_bool(self, term: Term) -> Expression | None:
        if term.type == t.UNKNOWN:
            return self.coerce(term, t.BOOL).expression
        return term.expression if term.type == t.BOOL else None

    def _boolean(self, tree: Tree, what: str) -> Expression:
        term = self.resolve(tree)
        expression = self._as_bool(term)
        if expression is None:
            raise at(term.location, f"argument of {what} must be boolean, not {t.shown(term.type)}")
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
                self._fix_parameter(expression.number, t.TEXT, location)
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
        arg = self._boolean(node["arg"], "IS")
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
        name = self._operator(node, location)
        right = self.resolve(node["rexpr"])
        if "lexpr" not in node:
            return self._unary(f"unary {name}", right, location)
        return self.binary(name, self.resolve(node["lexpr"]), right, location)

    def _unary(self, name: str, arg: Term, location: int) -> Term:
        if not operators.known(name):
            raise at(location, f"unknown {name.replace(' ', ' operator ')}")
        chosen = operators.choose(name, (arg.type,))
        if chosen is None:
            raise at(location, "Could not select an operator overload")
        call = Call(chosen.result, name, (self.coerce(arg, chosen.args[0]).expression,))
        return Term(self.fold(call, location), location)

    def _operator(self, node: Tree, location: int) -> str:
        names = names_of(node["name"])
        if len(names) > 1 and names[:-1] != ["pg_catalog"]:
            raise at(location, f"unknown binary operator {'.'.join(names)}")
        return names[-1]

    def binary(self, name: str, left: Term, right: Term, location: int) -> Term:
        self._check_usable(left, right)
        if resolve_json.is_operation(left, right):
            return resolve_json.operation(self, name, left, right, location)
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
        if name in _LIKE:
            return Term(self._like(name, first, second, location), location)
        call = self.fold(Call(chosen.result, name, (first.expression, second.expression)), location)
        if chosen.result == t.TEXT:
            return dataclasses.replace(self.merged(first, second), expression=call, location=location)
        return Term(call, location)

    def _check_usable(self, *terms: Term) -> None:
        for term in terms:
            if term.type != t.UNKNOWN and not t.usable(term.type):
                what = f"column {term.expression.name} of" if isinstance(term.expression, Column) else "a value of"
                raise at(term.location, f"{what} type {t.shown(term.type)} can only be tested with IS [NOT] NULL")

    def _enum_comparison(self, name: str, left: Term, right: Term, location: int) -> Expression:
        kind = left.type if left.type.enum is not None else right.type
        if not (name in ("=", "<>") or (self.by_database and name in operators.COMPARISONS)) or kind.array:
            raise at(location, f"enum {kind.name} can only be compared with = and <>; cast it to text for others")
        sides = [self.coerce(side, kind) if side.type == t.UNKNOWN else side for side in (left, right)]
        if sides[0].type != sides[1].type:
            raise at(location, "Could not select an operator overload")
        rule = "" if name in ("=", "<>") else collations.DATABASE
        return self.fold(canonical.comparison(name, sides[0].expression, sides[1].expression, rule), location)

    # -- text --

    def _like(self, name: str, left: Term, right: Term, location: int) -> Expression:
        merged = self.merged(left, right)
        if not merged.explicit and (
            merged.ambiguous or (merged.collation is not None and not merged.collation.deterministic)
        ):
            raise at(location, 'LIKE needs one deterministic collation; use COLLATE "C"')
        rule = self.case_rule(location, left, right) if name.endswith("*") else ""
        pattern = right.expression
        if not isinstance(pattern, Const) and not self.by_database:
            # Postgres raises an error for a bad pattern only where matching gets to its end.
            raise at(location, "the pattern of LIKE and ILIKE must be a constant")
        if isinstance(pattern, Const) and pattern.text is not None:
            try:
                like.matcher(pattern.text.encode())
            except like.BadPattern as error:
                raise at(location, str(error)) from None
        if any(isinstance(side.expression, Const) and side.expression.text is None for side in (left, right)):
            return canonical.NULL
        args = (left.expression, right.expression)
        call = self.fold(Call(t.BOOL, name.removeprefix("!"), args, rule), location)
        return canonical.negation(call) if _LIKE[name] else call

    def _collate(self, node: Tree, location: int) -> Term:
        names = names_of(node["collname"])
        if names not in (["C"], ["POSIX"], ["pg_catalog", "C"], ["pg_catalog", "POSIX"]):
            raise at(location, f'collation {".".join(names)} is not supported; only COLLATE "C" is')
        term = self.resolve(node["arg"])
        if term.type == t.UNKNOWN:
            term = self.coerce(term, t.TEXT)
        if term.type.array or term.type.name not in t.STRINGS:
            raise at(location, f"collations are not supported by type {t.shown(term.type)}")
        expression = term.expression
        if term.collation is not None and not term.collation.deterministic:
            expression = Call(term.type, "collate", (expression,))
        return dataclasses.replace(term, expression=expression, explicit=True, ambiguous=False, location=location)

    # -- BETWEEN, IN, DISTINCT --

    def _between(self, node: Tree, location: int) -> Term:
        kind = node["kind"].removeprefix("AEXPR_")
        low_tree, high_tree = node["rexpr"]["List"]["items"]
        arg, low, high = self.resolve(node["lexpr"]), self.resolve(low_tree), self.resolve(high_tree)
        made = self._range(arg, low, high, location)
        if kind.endswith("_SYM"):
            made = canonical.disjunction([made, self._range(arg, high, low, location)])
        return Term(canonical.negation(made) if kind.startswith("NOT") else made, location)

    def _range(self, arg: Term, low: Term, high: Term, location: int) -> Expression:
        above = self.binary(">=", arg, low, location).expression
        return canonical.conjunction([above, self.binary("<=", arg, high, location).expression])

    def _in(self, node: Tree, location: int) -> Term:
        left = self.resolve(node["lexpr"])
        items = [self.resolve(item) for item in node["rexpr"]["List"]["items"]]
        common = self.common_type([left, *items]) if len(items) > 1 else None
        parts = []
        for item in items:
            fitting = common is None or item.type == common or left.type.enum is not None
            coerced = item if fitting or common is None else self.coerce(item, common)
            parts.append(self.binary("=", left, coerced, location).expression)
        made = canonical.disjunction(parts)
        return Term(canonical.negation(made) if self._operator(node, location) == "<>" else made, location)

    def _distinct(self, node: Tree, location: int) -> Term:
        left, right = self.resolve(node["lexpr"]), self.resolve(node["rexpr"])
        made = self.distinct(left, right, location)
        return Term(canonical.negation(made) if node["kind"] == "AEXPR_NOT_DISTINCT" else made, location)

    def distinct(self, left: Term, right: Term, location: int) -> Expression:
        for side, other in ((left, right), (right, left)):
            if isinstance(side.expression, Const) and side.expression.text is None:
                if isinstance(other.expression, Const):
                    return canonical.truth(other.expression.text is not None)
                return canonical.negation(IsNull(other.expression))
        compared = self.binary("=", left, right, location).expression
        match compared:
            case Call(_, "=", args):
                return Call(t.BOOL, "IS DISTINCT FROM", args)
            case Const(_, text):
                return canonical.truth(text == "f")
            case _:  # a boolean expression compared with a constant
                sides = (self.coerce(left, t.BOOL).expression, self.coerce(right, t.BOOL).expression)
                return Call(t.BOOL, "IS DISTINCT FROM", sides)

    # -- arrays --

    def _any_or_all(self, node: Tree, location: int) -> Term:
        name = self._operator(node, location)
        sides = (self.resolve(node["lexpr"]), self.resolve(node["rexpr"]))
        return resolve_arrays.any_or_all(self, self, name, node["kind"].endswith("ALL"), sides, location)

    def _array(self, node: Tree, location: int) -> Term:
        return resolve_arrays.constructor(self, [self.resolve(item) for item in node.get("elements", [])], location)

    def _indirection(self, node: Tree, location: int) -> Term:
        return resolve_arrays.subscript(self, self, node, location)

    # -- functions --

    def _function(self, node: Tree, location: int) -> Term:
        return resolve_calls.function(self, self, node, location)

    def _coalesce(self, node: Tree, location: int) -> Term:
        return resolve_calls.coalesce(self, [self.resolve(arg) for arg in node["args"]], location)

    def _extreme(self, node: Tree, location: int) -> Term:
        name = "least" if node.get("op") == "IS_LEAST" else "greatest"
        return resolve_calls.extreme(self, name, [self.resolve(arg) for arg in node["args"]], location)

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


def _operator_name(node: Tree) -> str:
    return ".".join(names_of(node.get("name", [])))


_HANDLERS: dict[str, Callable[[Resolver, Any, int], Term]] = {
    "ColumnRef": Resolver._column,
    "A_Const": Resolver._constant,
    "ParamRef": Resolver._parameter,
    "TypeCast": Resolver._cast,
    "BoolExpr": Resolver._bool_expr,
    "NullTest": Resolver._null_test,
    "BooleanTest": Resolver._boolean_test,
    "A_Expr": Resolver._a_expr,
    "CollateClause": Resolver._collate,
    "SubLink": Resolver._sublink,
    "FuncCall": Resolver._function,
    "CoalesceExpr": Resolver._coalesce,
    "MinMaxExpr": Resolver._extreme,
    "A_ArrayExpr": Resolver._array,
    "A_Indirection": Resolver._indirection,
}
_EXPRESSIONS: dict[str, Callable[[Resolver, Any, int], Term]] = {
    "OP": Resolver._operation,
    "LIKE": Resolver._operation,
    "ILIKE": Resolver._operation,
    "OP_ANY": Resolver._any_or_all,
    "OP_ALL": Resolver._any_or_all,
    "DISTINCT": Resolver._distinct,
    "NOT_DISTINCT": Resolver._distinct,
    "IN": Resolver._in,
    "BETWEEN": Resolver._between,
    "NOT_BETWEEN": Resolver._between,
    "BETWEEN_SYM": Resolver._between,
    "NOT_BETWEEN_SYM": Resolver._between,
}
