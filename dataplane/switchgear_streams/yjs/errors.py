"""Refusals of the Yjs interface; answered as JSON `{"error": {"code", "message"}}`."""

from __future__ import annotations

import orjson

from switchgear_streams import answers
from switchgear_wire.response import Response

_JSON = b"content-type: application/json\r\n" + answers.NO_STORE
# What the protocol calls the refusals of the streams below; other codes stay as they are.
CODES = {
    400: "INVALID_REQUEST",
    401: "UNAUTHORIZED",
    404: "DOCUMENT_NOT_FOUND",
    405: "INVALID_REQUEST",
    410: "OFFSET_EXPIRED",
    429: "RATE_LIMITED",
}


class Refused(Exception):
    """`headers` is a prebuilt header block."""

    def __init__(self, status: int, code: str, message: str, headers: bytes = b"") -> None:
        super().__init__(message)
        self.status = status
        self.code = code
        self.message = message
        self.headers = headers

    def answer(self) -> Response:
        body = {"error": {"code": self.code, "message": self.message}}
        return Response(self.status, answers.BASE + _JSON + self.headers, orjson.dumps(body))


def no_document() -> Refused:
    return Refused(404, "DOCUMENT_NOT_FOUND", "There is no document at this path; create it with PUT.")


def dressed(answer: Response, missing: str = "DOCUMENT_NOT_FOUND") -> Response:
    """A stream's refusal in this interface's form; other answers as they are. `missing`: the code for 404."""
    if answer.status < 400 or not answer.body:
        return answer
    said = orjson.loads(answer.body)
    code = missing if answer.status == 404 else CODES.get(answer.status, said["code"])
    return Response(answer.status, answer.headers, orjson.dumps({"error": {"code": code, "message": said["message"]}}))
