"""Who may call, and what is open."""

from __future__ import annotations

import secrets

import httpx
import pytest

from tests.api.server import ApiServer, start, stop

pytestmark = pytest.mark.cluster


@pytest.mark.parametrize(
    "path", ["/v1/whoami", "/v1/workspaces", "/v1/nothing", "/v1", "/v1/workspaces/a/services/b/secret"]
)
def test_nothing_below_v1_answers_without_the_token(api_server: ApiServer, path: str) -> None:
    url = api_server.url + path
    none = httpx.get(url)
    wrong = httpx.get(url, headers={"Authorization": f"Bearer {secrets.token_urlsafe(32)}"})
    basic = httpx.get(url, headers={"Authorization": f"Basic {api_server.token}"})
    assert [none.status_code, wrong.status_code, basic.status_code] == [401, 401, 401]
    assert none.json()["code"] == "MISSING_TOKEN"
    assert wrong.json() == basic.json() == {"code": "INVALID_TOKEN", "message": "The token is not valid."}
    assert wrong.headers["www-authenticate"].startswith("Bearer")
    assert wrong.headers["cache-control"] == "no-store"


def test_two_authorization_headers_are_refused(api_server: ApiServer) -> None:
    headers = [("Authorization", f"Bearer {api_server.token}"), ("Authorization", "Bearer other")]
    assert httpx.get(api_server.url + "/v1/whoami", headers=headers).status_code == 401


def test_probes_and_documents_are_open(api_server: ApiServer) -> None:
    for path in ("/live", "/ready", "/openapi.json", "/docs"):
        answer = httpx.get(api_server.url + path)
        assert answer.status_code == 200, (path, answer.text)


def test_a_replaced_token_counts_at_once(api_server: ApiServer) -> None:
    old, new = api_server.token, secrets.token_urlsafe(40)
    headers = {"Authorization": f"Bearer {new}"}
    assert httpx.get(api_server.url + "/v1/whoami", headers=headers).status_code == 401
    api_server.token_file.write_text(new)
    try:
        assert httpx.get(api_server.url + "/v1/whoami", headers=headers).status_code == 200
        assert api_server.http.get("/v1/whoami").status_code == 401
        # A file that is gone or empty keeps the last good token.
        api_server.token_file.write_text("")
        assert httpx.get(api_server.url + "/v1/whoami", headers=headers).status_code == 200
    finally:
        api_server.token_file.write_text(old + "\n")
    assert api_server.http.get("/v1/whoami").status_code == 200


def test_without_a_kubernetes_api_it_lives_but_is_not_ready(
    api_server: ApiServer, tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("away")
    kubeconfig = folder / "kubeconfig"
    text = api_server.kube.admin_kubeconfig.read_text().replace(api_server.kube.server, "https://127.0.0.1:1")
    kubeconfig.write_text(text)
    server = start(api_server.kube, folder, kubeconfig)
    try:
        assert server.http.get("/live").status_code == 200
        for path in ("/ready", "/v1/workspaces"):
            answer = server.http.get(path)
            assert answer.status_code == 503
            assert answer.json()["code"] == "KUBERNETES_UNAVAILABLE"
            assert int(answer.headers["retry-after"]) > 0
    finally:
        assert stop(server) == 0
