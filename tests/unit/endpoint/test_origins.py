"""Pages of other origins may ask only where they are allowed; other clients and the endpoint's own pages always may."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from regraft.endpoint.origins import is_own
from regraft.errors import SpecError
from regraft.spec.serve import ServeSpec
from unit.endpoint.model_store import Endpoint, ModelStore, Reply

MODEL = "/models/text-classification"
ASKED = {"inputs": "w5 w6"}
APP = "https://app.example.org"


def from_page(endpoint: Endpoint, origin: str, method: str = "POST", path: str = MODEL, **headers: str) -> Reply:
    sent = {"origin": origin, **{name.replace("_", "-"): value for name, value in headers.items()}}
    return endpoint.ask(path, ASKED if method == "POST" else None, method=method, headers=sent)


def cors(reply: Reply) -> Mapping[str, str]:
    return {name: value for name, value in reply.headers.items() if name.startswith("access-control-")}


@pytest.mark.parametrize("origin", [APP, "http://localhost:3000", "http://evil.example", "null", "file://", "x"])
def test_a_page_of_another_origin_is_refused(origin: str, endpoint: Endpoint) -> None:
    for method, path in (("POST", MODEL), ("GET", "/models"), ("GET", "/"), ("GET", "/healthz"), ("OPTIONS", MODEL)):
        reply = from_page(endpoint, origin, method, path)
        assert (reply.status, reply.document["kind"], cors(reply)) == (403, "StrangeOrigin", {})
        assert "allow_origins" in reply.document["error"]


def test_a_form_or_a_text_of_another_page_is_refused_too(endpoint: Endpoint) -> None:
    for media_type in ("text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=b"):
        reply = from_page(endpoint, "http://evil.example", content_type=media_type)
        assert reply.status == 403


def test_other_clients_and_the_endpoint_s_own_pages_are_answered(endpoint: Endpoint) -> None:
    port = endpoint.url.rpartition(":")[2]
    assert endpoint.ask(MODEL, ASKED).status == 200
    assert from_page(endpoint, endpoint.url).status == 200
    assert from_page(endpoint, f"http://localhost:{port}", host=f"localhost:{port}").status == 200
    assert from_page(endpoint, f"http://localhost:{port}").status == 403, "the page of one name asks another"


def test_the_endpoint_s_page_behind_a_proxy_that_writes_another_host_is_answered(endpoint: Endpoint) -> None:
    """A browser alone can write sec-fetch-site."""
    for site, status in (("same-origin", 200), ("same-site", 403), ("cross-site", 403), ("none", 403), ("", 403)):
        reply = from_page(endpoint, "https://models.example.org", sec_fetch_site=site, sec_fetch_mode="cors")
        assert (reply.status, cors(reply)) == (status, {})


def test_a_page_whose_name_was_pointed_here_is_refused_without_keys(endpoint: Endpoint) -> None:
    """To a browser such a page (DNS rebinding) is of the same origin; the header Host tells."""
    for path, method in ((MODEL, "POST"), ("/models", "GET")):
        host = f"evil.example:{endpoint.url.rpartition(':')[2]}"
        reply = from_page(endpoint, f"http://{host}", method, path, host=host, sec_fetch_site="same-origin")
        assert (reply.status, reply.document["kind"]) == (403, "StrangeHost")


@pytest.mark.parametrize("origin", [APP, "null", "capacitor://localhost", "file://", "*", "x", "http://" + "a" * 400])
def test_an_origin_is_recommended_only_where_a_spec_takes_it(origin: str, endpoint: Endpoint) -> None:
    message = from_page(endpoint, origin).document["error"]
    if f"--allow-origin {origin}" in message:
        assert ServeSpec.resolve({"allow_origins": [origin]}).allow_origins == (origin,)
    assert ("--allow-origin" in message) is (origin in (APP, "null", "capacitor://localhost"))
    assert "allow_origins" in message


def test_what_a_page_of_another_site_embeds_is_refused_and_a_link_to_the_endpoint_is_followed(
    endpoint: Endpoint,
) -> None:
    for mode, status in (("no-cors", 403), ("navigate", 200)):
        for site in ("cross-site", "same-site"):
            headers = {"sec-fetch-site": site, "sec-fetch-mode": mode}
            assert endpoint.get("/models", headers=headers).status == status
    for site in ("none", "same-origin"):
        assert endpoint.get("/models", headers={"sec-fetch-site": site, "sec-fetch-mode": "no-cors"}).status == 200


def test_an_allowed_page_is_answered_and_may_read_the_answer(own: ModelStore) -> None:
    with own.open(allow_origins=[APP]) as endpoint:
        asked = from_page(
            endpoint,
            APP,
            "OPTIONS",
            access_control_request_method="POST",
            access_control_request_headers="authorization, content-type, x-mine",
            access_control_request_private_network="true",
        )
        assert asked.status == 204 and asked.body == b""
        assert cors(asked) == {
            "access-control-allow-origin": APP,
            "access-control-allow-methods": "GET, HEAD, POST, OPTIONS",
            "access-control-allow-headers": "authorization, content-type, x-mine",
            "access-control-allow-private-network": "true",
            "access-control-expose-headers": cors(from_page(endpoint, APP))["access-control-expose-headers"],
            "access-control-max-age": "600",
        }
        reply = from_page(endpoint, APP)
        assert (reply.status, reply.headers["access-control-allow-origin"], reply.headers["vary"]) == (
            200,
            APP,
            "Origin",
        )
        assert "x-model-version" in reply.headers["access-control-expose-headers"].lower()
        for path in ("/models/nothing", "/nothing"):
            assert from_page(endpoint, APP, path=path).headers["access-control-allow-origin"] == APP, "errors too"
        for other in ("http://app.example.org", f"{APP}:8443", f"{APP}.evil.example", "null"):
            assert from_page(endpoint, other).status == 403
        assert cors(endpoint.ask(MODEL, ASKED)) == {} and endpoint.ask(MODEL, ASKED).headers["vary"] == "Origin"
        odd = from_page(endpoint, APP, "OPTIONS", access_control_request_headers="a\tb: c")
        assert "Content-Type" in odd.headers["access-control-allow-headers"]


def test_options_names_the_methods_of_a_path(endpoint: Endpoint) -> None:
    for path, methods in ((MODEL, "GET, HEAD, POST, OPTIONS"), ("/models", "GET, HEAD, OPTIONS")):
        reply = endpoint.ask(path, method="OPTIONS")
        assert (reply.status, reply.headers["allow"], cors(reply)) == (204, methods, {})


def test_every_page_may_ask_where_that_is_written(own: ModelStore) -> None:
    with own.open(allow_origins="*") as endpoint:
        for origin in (APP, "null", "http://localhost:1"):
            reply = from_page(endpoint, origin)
            assert (reply.status, reply.headers["access-control-allow-origin"]) == (200, origin)


@pytest.mark.parametrize(
    "origin, host, own_page",
    [
        ("http://a", "a", True),
        ("http://a:80", "a", True),
        ("https://a", "a:443", True),
        ("https://a", "A", True),
        ("http://[::1]:8000", "[::1]:8000", True),
        ("http://[::1]", "[::1]", True),
        ("http://a:8000", "a:8001", False),
        ("http://a", "b", False),
        ("http://a", "", False),
        ("null", "null", False),
        ("ftp://a", "a", False),
        ("", "", False),
    ],
)
def test_the_endpoint_knows_its_own_origin(origin: str, host: str, own_page: bool) -> None:
    assert is_own(origin, host) is own_page


def test_origins_are_kept_as_browsers_send_them() -> None:
    written = ["HTTPS://App.Example.org/", "http://localhost:3000", "https://a:443", "http://[::1]:80", "null"]
    spec = ServeSpec.resolve({"allow_origins": [*written, "https://app.example.org"]})
    assert spec.allow_origins == (APP, "http://localhost:3000", "https://a", "http://[::1]", "null")
    assert ServeSpec().allow_origins == ()


@pytest.mark.parametrize(
    "written", ["app.example.org", "https://*.example.org", "https://a/page", "http://ä.example", ""]
)
def test_what_is_no_origin_is_refused(written: str) -> None:
    with pytest.raises(SpecError, match=r"allow_origins.*scheme://host"):
        ServeSpec.resolve({"allow_origins": [written]})
