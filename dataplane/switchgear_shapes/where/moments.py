"""Dates, times, timestamps and intervals as Postgres prints and reads them ↔ integers. Pure.

Dates are days since 2000-01-01, times and timestamps microseconds (timestamps since 2000-01-01 in UTC), with Postgres'
own integers for the infinities; intervals are `Interval`. Readers take what the stream carries and the ISO forms of
literals; anything else, relative words and names of zones among it, is ValueError.
"""

from __future__ import annotations

import re
from typing import NamedTuple

DATE_MAX = 2_147_483_647
DATE_MIN = -2_147_483_648
STAMP_MAX = (1 << 63) - 1
STAMP_MIN = -(1 << 63)
DAY = 86_400_000_000
_EPOCH_2000 = 2_451_545
_FIRST_DAY = -_EPOCH_2000
_END_DAY = 2_147_483_494 - _EPOCH_2000
_STAMP_FIRST = -211_813_488_000_000_000
_STAMP_END = 9_223_371_331_200_000_000
_STAMP_END_DAY = 109_203_528 - _EPOCH_2000


class Interval(NamedTuple):
    months: int
    days: int
    micros: int

    @property
    def span(self) -> int:
        """What intervals are compared by: months of 30 days, days of 24 hours."""
        return (self.months * 30 + self.days) * DAY + self.micros


INFINITE_INTERVAL = Interval((1 << 31) - 1, (1 << 31) - 1, (1 << 63) - 1)
MINUS_INFINITE_INTERVAL = Interval(-(1 << 31), -(1 << 31), -(1 << 63))
"""Since Postgres 17."""


def days_from_civil(year: int, month: int, day: int) -> int:
    """Days since 2000-01-01 in the proleptic Gregorian calendar; year 0 is 1 BC."""
    year -= month <= 2
    era, year_of_era = divmod(year, 400)
    day_of_year = (153 * (month - 3 if month > 2 else month + 9) + 2) // 5 + day - 1
    return era * 146_097 + year_of_era * 365 + year_of_era // 4 - year_of_era // 100 + day_of_year - 730_425


def civil_from_days(days: int) -> tuple[int, int, int]:
    era, day_of_era = divmod(days + 730_425, 146_097)
    year_of_era = (day_of_era - day_of_era // 1460 + day_of_era // 36_524 - day_of_era // 146_096) // 365
    day_of_year = day_of_era - (365 * year_of_era + year_of_era // 4 - year_of_era // 100)
    shifted = (5 * day_of_year + 2) // 153
    month = shifted + 3 if shifted < 10 else shifted - 9
    return year_of_era + era * 400 + (month <= 2), month, day_of_year - (153 * shifted + 2) // 5 + 1


_MONTH_DAYS = (31, 28, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31)


def month_days(year: int, month: int) -> int:
    leap = month == 2 and year % 4 == 0 and (year % 100 != 0 or year % 400 == 0)
    return _MONTH_DAYS[month - 1] + leap


_CLOCK = r"(\d{1,2}):(\d{2})(?::(\d{2})(?:\.(\d{1,30}))?)?"
_ZONE = r"\s*(Z|z|UTC|utc|GMT|gmt|[+-]\d{1,2}(?::?\d{2})?(?::\d{2})?)"
_DATE = re.compile(r"(\d{4,7})-(\d{1,2})-(\d{1,2})", re.ASCII)
_STAMP = re.compile(
    r"(\d{4,7})-(\d{1,2})-(\d{1,2})(?:(?:[Tt]|\s+)" + _CLOCK + r"(?:" + _ZONE + r")?)?(\s+(?:BC|bc|AD|ad))?", re.ASCII
)
_TIME = re.compile(_CLOCK, re.ASCII)


def _day(year: int, month: int, day: int, bc: bool) -> int:
    if year == 0:
        raise ValueError("there is no year 0")
    if bc:
        year = 1 - year
    if not (1 <= month <= 12 and 1 <= day <= month_days(year, month)):
        raise ValueError("no such day")
    return days_from_civil(year, month, day)


def _micros(fraction: str | None) -> int:
    """A fraction of a second, rounded half to even on the double that Postgres makes of it."""
    if not fraction:
        return 0
    if len(fraction) <= 6:
        return int(fraction.ljust(6, "0"))
    return round(float("0." + fraction) * 1_000_000)


def _clock(hour: str | None, minute: str, second: str | None, fraction: str | None) -> int:
    if hour is None:
        return 0
    h, m, s = int(hour), int(minute), int(second or 0)
    micros = ((h * 60 + m) * 60 + s) * 1_000_000 + _micros(fraction)
    if h > 24 or m > 59 or s > 60 or micros > DAY:
        raise ValueError("no such time of day")
    return micros


def _offset(zone: str | None) -> int:
    if zone is None or zone[0] not in "+-":
        return 0
    digits = zone[1:].split(":")
    if len(digits) == 1 and len(digits[0]) > 2:
        digits = [digits[0][:-2], digits[0][-2:]]
    h, m, s = (*map(int, digits), 0, 0)[:3]
    if h > 15 or m > 59 or s > 59:
        raise ValueError("no such zone")
    seconds = (h * 60 + m) * 60 + s
    return (-seconds if zone[0] == "-" else seconds) * 1_000_000


def read_date(text: str) -> int:
    match = _STAMP.fullmatch(text.strip(" \t\n\r\f\v"))
    if match is None:
        infinite = _infinite(text)
        if infinite is None:
            raise ValueError("no date")
        return DATE_MAX if infinite > 0 else DATE_MIN
    year, month, day, *clock, zone, era = match.groups()
    _clock(*clock)
    _offset(zone)
    days = _day(int(year), int(month), int(day), era is not None and era.strip().upper() == "BC")
    if not _FIRST_DAY <= days < _END_DAY:
        raise ValueError("date out of range")
    return days


def _infinite(text: str) -> int | None:
    match text.strip().lower():
        case "infinity" | "+infinity":
            return 1
        case "-infinity":
            return -1
        case _:
            return None


def read_stamp(text: str, zoned: bool) -> int:
    """A timestamp; what the text says of a zone counts only if `zoned`, as in Postgres."""
    match = _STAMP.fullmatch(text.strip(" \t\n\r\f\v"))
    if match is None:
        infinite = _infinite(text)
        if infinite is not None:
            return STAMP_MAX if infinite > 0 else STAMP_MIN
        if text.strip().lower() == "epoch":
            return days_from_civil(1970, 1, 1) * DAY
        raise ValueError("no timestamp")
    year, month, day, hour, minute, second, fraction, zone, era = match.groups()
    days = _day(int(year), int(month), int(day), era is not None and era.strip().upper() == "BC")
    stamp = days * DAY + _clock(hour, minute, second, fraction)
    offset = _offset(zone)
    return check_stamp(stamp - offset if zoned else stamp)


def check_stamp(stamp: int) -> int:
    if not _STAMP_FIRST <= stamp < _STAMP_END:
        raise ValueError("timestamp out of range")
    return stamp


def check_date(days: int) -> int:
    if not _FIRST_DAY <= days < _END_DAY:
        raise ValueError("date out of range")
    return days


def read_time(text: str) -> int:
    match = _TIME.fullmatch(text.strip(" \t\n\r\f\v"))
    if match is None:
        raise ValueError("no time")
    return _clock(*match.groups())


def _print_clock(micros: int) -> str:
    seconds, fraction = divmod(micros, 1_000_000)
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    text = f"{hour:02}:{minute:02}:{second:02}"
    return f"{text}.{fraction:06}".rstrip("0") if fraction else text


def _print_day(days: int) -> tuple[str, str]:
    year, month, day = civil_from_days(days)
    return f"{year if year > 0 else 1 - year:04}-{month:02}-{day:02}", " BC" if year <= 0 else ""


def print_date(days: int) -> str:
    if days in (DATE_MAX, DATE_MIN):
        return "infinity" if days > 0 else "-infinity"
    return "".join(_print_day(days))


def print_stamp(stamp: int, zoned: bool) -> str:
    if stamp in (STAMP_MAX, STAMP_MIN):
        return "infinity" if stamp > 0 else "-infinity"
    days, micros = divmod(stamp, DAY)
    text, era = _print_day(days)
    return f"{text} {_print_clock(micros)}{'+00' if zoned else ''}{era}"


def print_time(micros: int) -> str:
    return _print_clock(micros)


_SECONDS = re.compile(r"[+-]?\d{1,9}", re.ASCII)
_FIELD = re.compile(r"\s*([+-]?\d{1,18})(?:\.(\d{1,9}))?\s*([a-z]+)", re.ASCII)
_ISO = re.compile(
    r"P(?:(-?\d{1,10})Y)?(?:(-?\d{1,10})M)?(?:(-?\d{1,10})W)?(?:(-?\d{1,10})D)?"
    r"(?:T(?:(-?\d{1,12})H)?(?:(-?\d{1,12})M)?(?:(-?)(\d{1,12})(?:\.(\d{1,6}))?S)?)?",
    re.ASCII,
)
_SIGNED_CLOCK = re.compile(r"\s*([+-]?)(\d{1,10}):(\d{2})(?::(\d{2})(?:\.(\d{1,6}))?)?", re.ASCII)
_UNITS = {
    "year": (12, 0, 0),
    "mon": (1, 0, 0),
    "month": (1, 0, 0),
    "week": (0, 7, 0),
    "day": (0, 1, 0),
    "hour": (0, 0, 3_600_000_000),
    "min": (0, 0, 60_000_000),
    "minute": (0, 0, 60_000_000),
    "sec": (0, 0, 1_000_000),
    "second": (0, 0, 1_000_000),
}


def read_interval(text: str) -> Interval:
    """ISO 8601 with whole numbers (seconds may have a fraction), or `1 year 2 mons -3 days 04:05:06.7`."""
    stripped = text.strip(" \t\n\r\f\v")
    infinite = _infinite(stripped)
    if infinite is not None:
        return INFINITE_INTERVAL if infinite > 0 else MINUS_INFINITE_INTERVAL
    if _SECONDS.fullmatch(stripped):
        return Interval(0, 0, int(stripped) * 1_000_000)
    iso = _ISO.fullmatch(stripped)
    if iso is not None and len(stripped) > 1 and not stripped.endswith("T"):
        y, mo, w, d, h, mi, sign, s, fraction = iso.groups()
        micros = int(s or 0) * 1_000_000 + _micros(fraction)
        micros = (int(h or 0) * 60 + int(mi or 0)) * 60_000_000 + (-micros if sign else micros)
        return check_interval(Interval(int(y or 0) * 12 + int(mo or 0), int(w or 0) * 7 + int(d or 0), micros))
    return check_interval(_read_verbose_interval(stripped.lower()))


def _read_verbose_interval(text: str) -> Interval:
    months = days = micros = position = 0
    seen: set[tuple[int, int, int]] = set()
    while position < len(text):
        clock = _SIGNED_CLOCK.match(text, position)
        if clock is not None:
            sign, h, m, s, fraction = clock.groups()
            if int(m) > 59 or int(s or 0) > 59 or (0, 0, 1) in seen:
                raise ValueError("no interval")
            amount = ((int(h) * 60 + int(m)) * 60 + int(s or 0)) * 1_000_000 + _micros(fraction)
            micros += -amount if sign == "-" else amount
            seen |= {(0, 0, 1)}
            position = clock.end()
            continue
        field = _FIELD.match(text, position)
        unit = None if field is None else _UNITS.get(field[3]) or _UNITS.get(field[3].removesuffix("s"))
        if field is None or unit is None or unit in seen or (field[2] and unit[2] != 1_000_000):
            raise ValueError("no interval")
        seen.add(unit)
        fraction_micros = _micros(field[2][:6]) if field[2] else 0
        if field[2] and len(field[2]) > 6:
            raise ValueError("no interval")
        count = int(field[1])
        months += count * unit[0]
        days += count * unit[1]
        micros += count * unit[2] + (-fraction_micros if field[1].startswith("-") else fraction_micros)
        position = field.end()
    if not seen:
        raise ValueError("no interval")
    return Interval(months, days, micros)


def check_interval(value: Interval) -> Interval:
    fits = all(
        low <= part <= high for part, low, high in zip(value, MINUS_INFINITE_INTERVAL, INFINITE_INTERVAL, strict=True)
    )
    if not fits or value in (INFINITE_INTERVAL, MINUS_INFINITE_INTERVAL):
        raise ValueError("interval out of range")
    return value


def print_interval(value: Interval) -> str:
    """As with IntervalStyle iso_8601."""
    if value in (INFINITE_INTERVAL, MINUS_INFINITE_INTERVAL):
        return "infinity" if value.months > 0 else "-infinity"
    if value == (0, 0, 0):
        return "PT0S"
    years, months = divmod(abs(value.months), 12)
    sign = "-" if value.months < 0 else ""
    text = "P"
    text += f"{sign}{years}Y" if years else ""
    text += f"{sign}{months}M" if months else ""
    text += f"{value.days}D" if value.days else ""
    if not value.micros:
        return text
    seconds, fraction = divmod(abs(value.micros), 1_000_000)
    sign = "-" if value.micros < 0 else ""
    minutes, second = divmod(seconds, 60)
    hour, minute = divmod(minutes, 60)
    text += "T"
    text += f"{sign}{hour}H" if hour else ""
    text += f"{sign}{minute}M" if minute else ""
    if second or fraction:
        text += f"{sign}{second}" + (f".{fraction:06}".rstrip("0") if fraction else "") + "S"
    return text


def _justified(low: int, high: int, unit: int) -> tuple[int, int]:
    """Whole units of `low` carried over to `high`, and both with one sign if one carry does it."""
    carried = abs(low) // unit * (1 if low >= 0 else -1)
    low, high = low - carried * unit, high + carried
    if high > 0 and low < 0:
        return low + unit, high - 1
    if high < 0 and low > 0:
        return low - unit, high + 1
    return low, high


def justify_hours(value: Interval) -> Interval:
    if value in (INFINITE_INTERVAL, MINUS_INFINITE_INTERVAL):
        return value
    micros, days = _justified(value.micros, value.days, DAY)
    return check_interval(Interval(value.months, days, micros))


def justify_days(value: Interval) -> Interval:
    if value in (INFINITE_INTERVAL, MINUS_INFINITE_INTERVAL):
        return value
    days, months = _justified(value.days, value.months, 30)
    return check_interval(Interval(months, days, value.micros))


def justify_interval(value: Interval) -> Interval:
    """Hours to days, days to months, and all with one sign."""
    if value in (INFINITE_INTERVAL, MINUS_INFINITE_INTERVAL):
        return value
    months, days, micros = value
    if (days > 0 and micros > 0) or (days < 0 and micros < 0):  # lest the days overflow
        months, days = _carried(days, 30, months)
    days, micros = _carried(micros, DAY, days)
    months, days = _carried(days, 30, months)
    if months > 0 and (days, micros) < (0, 0):
        months, days = months - 1, days + 30
    elif months < 0 and (days, micros) > (0, 0):
        months, days = months + 1, days - 30
    if days > 0 and micros < 0:
        days, micros = days - 1, micros + DAY
    elif days < 0 and micros > 0:
        days, micros = days + 1, micros - DAY
    return check_interval(Interval(months, days, micros))


def shifted(moment: int, micros: int) -> int:
    """A timestamp in another zone; the infinities are everywhere the same."""
    return moment if moment in (STAMP_MAX, STAMP_MIN) else check_stamp(moment + micros)


def _carried(low: int, unit: int, high: int) -> tuple[int, int]:
    whole = abs(low) // unit * (1 if low >= 0 else -1)
    return high + whole, low - whole * unit


def rounded(micros: int, digits: int) -> int:
    """A time or a timestamp with so many digits of its second, half away from zero."""
    if micros in (STAMP_MAX, STAMP_MIN):
        return micros
    unit: int = 10 ** (6 - digits)
    cut = (abs(micros) + unit // 2) // unit * unit
    return cut if micros >= 0 else -cut
