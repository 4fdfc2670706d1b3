"""No log line shows a secret or breaks into two."""

import logging
import sys

import pytest

from switchgear_model import logs

JWT = "eyJhbGciOiJIUzI1NiJ9.eyJzZXJ2aWNlX2lkIjoic3ZjIn0.c2lnbmF0dXJl"


@pytest.mark.parametrize(
    "text",
    [
        "postgresql://app:hunter2secret@db.example.com:5432/shop?sslmode=require",
        "postgres://app:p@hunter2secret@db/shop",
        "GET /v1/shape?table=a&secret=hunter2secret&offset=-1",
        "?source_secret=hunter2secret",
        "&token=hunter2secret HTTP/1.1",
        "authorization: Bearer hunter2secret",
        "Authorization: Basic hunter2secret",
        "host=db password=hunter2secret user=a",
        "password='hunter2secret'",
    ],
)
def test_secrets_are_taken_out(text: str) -> None:
    assert "hunter2secret" not in logs.redact(text)
    assert "***" in logs.redact(text)


def test_a_service_secret_is_taken_out_wherever_it_stands() -> None:
    assert JWT.split(".")[2] not in logs.redact(f"got {JWT}!")


def test_what_is_no_secret_stays() -> None:
    for text in ("postgresql://db.example.com:5432/shop", "GET /v1/shape?table=secrets", "http://127.0.0.1:4400/x"):
        assert logs.redact(text) == text


def test_one_entry_is_one_line_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    logs.configure("unit", "debug")
    try:
        try:
            raise ValueError("postgresql://a:hunter2secret@b/c\nsecond line \x1b[31m")
        except ValueError:
            logging.getLogger("some.where").exception("it\nbroke")
        out = capsys.readouterr().err
    finally:
        logging.getLogger().handlers.clear()
    assert out.count("\n") == 1
    assert " error unit some.where: it\\nbroke" in out
    assert "hunter2secret" not in out and "\x1b" not in out


def test_an_unknown_level_is_refused() -> None:
    with pytest.raises(ValueError, match="log level"):
        logs.configure("unit", "loud")
    assert logging.getLogger().handlers != [logging.StreamHandler(sys.stderr)]
