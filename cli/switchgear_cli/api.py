"""The management API as the commands use it: one call, one JSON answer, every error a `Failure`."""

from __future__ import annotations

from types import TracebackType
from typing import Any
from urllib.parse import quote

import httpx

from switchgear_cli.context import ApiSettings, current
from switchgear_cli.failures import AUTH, GENERIC, VALIDATION, Failure, exit_code_of

Json = dict[str, Any]
_TIMEOUT = httpx.Timeout(90.0, connect=5.0)


class Api:
    """A connection to the API. Use as a context manager."""

    def __init__(self, settings: ApiSettings | None = None) -> None:
        self._settings = settings or current().api()
        try:
            self._http = httpx.Client(
                base_url=self._settings.url,
                headers={"Authorization": f"Bearer {self._settings.token}", "Accept": "application/json"},
                timeout=_TIMEOUT,
                follow_redirects=False,
            )
            if self._http.base_url.scheme not in ("http", "https") or not self._http.base_url.host:
                raise httpx.InvalidURL("no host")
        except (httpx.InvalidURL, UnicodeEncodeError) as error:
            raise Failure(
                VALIDATION, "The API's URL or token cannot be used: give a URL such as https://host"
            ) from error

    def __enter__(self) -> Api:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._http.close()

    @property
    def workspace(self) -> str:
        """The workspace to work in: as set, else the only one there is. Raises Failure when there are several."""
        if self._settings.workspace:
            return self._settings.workspace
        found = [str(entry["id"]) for entry in self.call("GET", "/v1/whoami").get("workspaces", [])]
        if len(found) == 1:
            return found[0]
        if not found:
            raise Failure(
                VALIDATION, "There is no workspace yet: make one with `switchgear workspaces create --name NAME`."
            )
        names = ", ".join(found[:10])
        raise Failure(VALIDATION, f"Say which workspace with --workspace or SWITCHGEAR_WORKSPACE: {names}.")

    def here(self, *parts: str) -> str:
        """A path in the workspace."""
        return "/".join(["/v1/workspaces", *(quote(part, safe="") for part in (self.workspace, *parts))])

    def call(self, method: str, path: str, *, params: Json | None = None, body: Json | None = None) -> Json:
        """One call. Raises Failure for every answer that is not a success, and when there is none."""
        try:
            response = self._http.request(method, path, params=params, json=body)
        except httpx.TimeoutException as error:
            raise Failure(GENERIC, f"The API at {self._settings.url} did not answer in time.", "UNAVAILABLE") from error
        except httpx.HTTPError as error:
            raise Failure(
                GENERIC,
                f"The API at {self._settings.url} cannot be reached. Is the region up (`switchgear up`)?",
                "UNAVAILABLE",
            ) from error
        answer = _json(response)
        if response.is_success:
            return answer
        raise _failure(response.status_code, answer)


def _json(response: httpx.Response) -> Json:
    try:
        answer = response.json()
    except ValueError:
        return {}
    return answer if isinstance(answer, dict) else {}


def _failure(status: int, answer: Json) -> Failure:
    code = exit_code_of(status)
    message = str(answer.get("message") or f"The API answered {status}; is this the URL of switchgear-api?")
    if code == AUTH and status == 401:
        message += " Run `switchgear auth login`, or set SWITCHGEAR_API_TOKEN."
    return Failure(code, message, str(answer.get("code") or "") or None)
