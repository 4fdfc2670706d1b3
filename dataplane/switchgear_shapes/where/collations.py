"""How a column's collation orders and folds text, as far as the evaluator can do the same. Pure.

Byte order is the one order that every server has and that we share. Case is folded by the rules of Unicode, which
libc, ICU and Postgres' built-in provider follow in two variants; Turkic, Lithuanian and Greek locales have rules of
their own and are left out. A character whose case was added to Unicode after the older of the two implementations may
still differ.
"""

from __future__ import annotations

import re

from switchgear_shapes.relations import Collation

ASCII = "ascii"
SIMPLE = "simple"
FULL = "full"
DATABASE = "database"
"""Whatever the column's collation says: for what only Postgres evaluates."""

_BYTE_ORDER = re.compile(r"(C|POSIX|C\.UTF-?8|PG_UNICODE_FAST)", re.IGNORECASE)
_ASCII_CTYPE = re.compile(r"(C|POSIX)", re.IGNORECASE)
_OWN_CASE_RULES = re.compile(r"(tr|az|crh|ku|tt|tk|lt|el)\b|root-u|.*-u-.*|.*@.*", re.IGNORECASE)
_LIBC_LOCALE = re.compile(r"(C|[a-z]{2,3}_[A-Z]{2})\.UTF-?8", re.IGNORECASE)
_ICU_LOCALE = re.compile(r"(und|[a-z]{2,3})?([-_][A-Za-z0-9]{2,8})*", re.IGNORECASE)


def in_byte_order(collation: Collation | None) -> bool:
    """Whether text compares as its UTF-8 bytes."""
    if collation is None or collation.encoding != "UTF8" or not collation.deterministic:
        return False
    return collation.provider in "cb" and _BYTE_ORDER.fullmatch(collation.locale) is not None


def case_rule(collation: Collation | None) -> str | None:
    """How lower(), upper() and ILIKE map letters; None if we cannot do the same."""
    if collation is None or collation.encoding != "UTF8":
        return None
    ctype = collation.ctype
    if collation.provider in "cb" and _ASCII_CTYPE.fullmatch(ctype):
        return ASCII
    if _OWN_CASE_RULES.match(ctype.replace("_", "-")):
        return None
    match collation.provider:
        case "c":
            return SIMPLE if _LIBC_LOCALE.fullmatch(ctype) else None
        case "b":
            return {"C.UTF-8": SIMPLE, "PG_UNICODE_FAST": FULL}.get(ctype)
        case "i":
            return FULL if _ICU_LOCALE.fullmatch(ctype) else None
        case _:
            return None


_TITLE_FORMS = {
    **{chr(0x1F80 + i): chr(0x1F88 + i) for i in range(8)},
    **{chr(0x1F90 + i): chr(0x1F98 + i) for i in range(8)},
    **{chr(0x1FA0 + i): chr(0x1FA8 + i) for i in range(8)},
    "\u1fb3": "\u1fbc",
    "\u1fc3": "\u1fcc",
    "\u1ff3": "\u1ffc",
}
"""Letters whose upper-case form is one character in the simple mapping and two in the full one."""


def _simple_upper(char: str) -> str:
    upper = char.upper()
    return upper if len(upper) == 1 else _TITLE_FORMS.get(char, char)


def lower(value: bytes, rule: str) -> bytes:
    """lower() of text in UTF-8."""
    if rule == ASCII or value.isascii():
        return value.lower()
    text = value.decode()
    if rule == SIMPLE:
        # Python folds these two by the full rules: İ to two characters, Σ by its place in the word.
        text = text.replace("İ", "i").replace("Σ", "σ")
    return text.lower().encode()


def upper(value: bytes, rule: str) -> bytes:
    """upper() of text in UTF-8."""
    if rule == ASCII or value.isascii():
        return value.upper()
    text = value.decode()
    return ("".join(map(_simple_upper, text)) if rule == SIMPLE else text.upper()).encode()
