"""SQL text → Postgres' own raw parse tree, as dicts. Pure but for loading the parser's library.

The library (libpg_query, which comes with `postgast`) is called directly: its JSON is read faster than its protobuf
is, needs a third of the memory, and survives nesting that crashes the protobuf writer. Invariant: whatever the text,
the answer is a tree or a WhereError; what could overflow the C stack is refused before it is parsed.
"""

from __future__ import annotations

import ctypes
import functools
import importlib.util
import platform
import re
from pathlib import Path
from typing import Any

import orjson

from switchgear_shapes.where.errors import WhereError, at

MAX_BYTES = 65_536
MAX_OPERATORS = 10_000
"""A chain of so many needs about 1.3 MB of C stack; threads have 8."""
REMEMBERED_LENGTH = 1000
SPLIT = 'unescaped ";" causing statement split'
PREFIX = "SELECT 1 WHERE "
_ORDER_PREFIX = "SELECT 1 ORDER BY "
_OPERATORS = re.compile(r"[+\-*/%^<>=~!@#&|?`:]+")
_PLAIN_SELECT = frozenset({"targetList", "whereClause", "limitOption", "op"})

Tree = dict[str, Any]


class _ErrorStruct(ctypes.Structure):
    _fields_ = (
        ("message", ctypes.c_char_p),
        ("funcname", ctypes.c_char_p),
        ("filename", ctypes.c_char_p),
        ("lineno", ctypes.c_int),
        ("cursorpos", ctypes.c_int),
        ("context", ctypes.c_char_p),
    )


class _ResultStruct(ctypes.Structure):
    _fields_ = (
        ("parse_tree", ctypes.c_char_p),
        ("stderr_buffer", ctypes.c_char_p),
        ("error", ctypes.POINTER(_ErrorStruct)),
    )


_NAMES = {"Linux": "libpg_query.so", "Darwin": "libpg_query.dylib", "Windows": "pg_query.dll"}


@functools.cache
def _library() -> ctypes.CDLL:
    spec = importlib.util.find_spec("postgast")
    if spec is None or spec.origin is None:
        raise RuntimeError("postgast is not installed; it has the SQL parser")
    library = ctypes.CDLL(str(Path(spec.origin).parent / _NAMES.get(platform.system(), "libpg_query.so")))
    library.pg_query_parse.argtypes = [ctypes.c_char_p]
    library.pg_query_parse.restype = _ResultStruct
    library.pg_query_free_parse_result.argtypes = [_ResultStruct]
    library.pg_query_free_parse_result.restype = None
    return library


def _statements(sql: str, encoded: bytes) -> list[Tree]:
    if "\0" in sql:
        raise WhereError("invalid byte sequence: the text has a NUL character")
    if len(sql) > MAX_OPERATORS and sum(1 for _ in _OPERATORS.finditer(sql)) > MAX_OPERATORS:
        raise WhereError(f"the text has more than {MAX_OPERATORS} operators")
    library = _library()
    result = library.pg_query_parse(encoded)
    try:
        if result.error:
            error = result.error.contents
            message = (error.message or b"syntax error").decode("utf-8", "replace")
            raise at(error.cursorpos - 1, message)
        tree: bytes = result.parse_tree
    finally:
        library.pg_query_free_parse_result(result)
    try:
        statements: list[Tree] = orjson.loads(tree).get("stmts", [])
    except orjson.JSONDecodeError:
        raise WhereError("the expression is nested too deeply") from None
    return statements


def _select(sql: str) -> Tree:
    """The one SELECT of a text."""
    try:
        encoded = sql.encode()
    except UnicodeEncodeError:
        raise WhereError("the text is no valid UTF-8") from None
    if len(encoded) > MAX_BYTES:
        raise WhereError(f"the text is bigger than maximum size of {MAX_BYTES} bytes")
    statements = _statements(sql, encoded)
    if len(statements) != 1 or "stmt_len" in statements[0]:
        raise WhereError(SPLIT)
    select = statements[0]["stmt"].get("SelectStmt")
    if select is None:
        raise WhereError("malformed query ending with SQL clauses")
    return select  # type: ignore[no-any-return]


def parse_condition(text: str) -> Tree:
    """The parse tree of the condition, which is not to be changed: shapes that differ only in parameters share it.

    Its locations count from the start of the wrapped text (see `PREFIX`).
    """
    return _parse_short(text) if len(text) <= REMEMBERED_LENGTH else _parse(text)


def _parse(text: str) -> Tree:
    select = _select(PREFIX + text)
    if not select.keys() <= _PLAIN_SELECT or "whereClause" not in select or select["op"] != "SETOP_NONE":
        raise WhereError("malformed query ending with SQL clauses")
    tree: Tree = select["whereClause"]
    return tree


_parse_short = functools.lru_cache(maxsize=256)(_parse)


def parse_order(text: str) -> list[Tree]:
    """The SortBy nodes of an ORDER BY list. Locations count from the start of the text itself, as `at` wants them."""
    try:
        select = _select(_ORDER_PREFIX + text)
    except WhereError as error:
        split = error.message == SPLIT
        raise WhereError("Unexpected `;` in order by" if split else error.message, "order_by") from None
    if not select.keys() <= (_PLAIN_SELECT - {"whereClause"}) | {"sortClause"} or select["op"] != "SETOP_NONE":
        raise WhereError("malformed query ending with SQL clauses", "order_by")
    return [node["SortBy"] for node in select.get("sortClause", [])]


ORDER_OFFSET = len(_ORDER_PREFIX)
OFFSET = len(PREFIX)


def node_of(tree: Tree) -> tuple[str, Tree]:
    """A node's kind and its fields."""
    if len(tree) != 1:
        return "Node", {}
    ((kind, fields),) = tree.items()
    return kind, fields


def names_of(strings: list[Tree]) -> list[str]:
    """A list of String nodes (a name with its qualifiers); other nodes, such as `*`, count as `*`."""
    return [string["String"].get("sval", "") if "String" in string else "*" for string in strings]


def operator_of(node: Tree, location: int) -> str:
    """An expression's operator, which must be one of Postgres' own."""
    names = names_of(node["name"])
    if len(names) > 1 and names[:-1] != ["pg_catalog"]:
        raise at(location, f"unknown binary operator {'.'.join(names)}")
    return names[-1]
