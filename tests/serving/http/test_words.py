"""What the service says of itself and of requests that cannot be answered: in our own words."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from serving.http.served import LocalServer, local_server
from serving.small_streams import FIRST

KEY = "a-key-of-some-length"
EVENT = {"user": "ann", "item": FIRST, "time": 1_700_000_000}


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    with local_server("elastic", tmp_path_factory.mktemp("words")) as found:
        yield found


def told(answer) -> str:
    return answer.json()["error"]["message"]


@pytest.mark.parametrize(
    ("path", "body", "words"),
    [
        ("events", {"events": [EVENT | {"user": None}]},
         "events.0.user is null; it must be text or a whole number"),
        ("events", {"events": [EVENT | {"user": ""}]},
         "events.0.user has 0 characters; it must have 1 or more"),
        ("events", {"events": [EVENT | {"time": 1.7e12}]},
         "events.0.time is 1700000000000.0; it must be below 100,000,000,000: "
         "seconds since 1970 (UTC)"),
        ("events", {"events": [EVENT | {"time": "now"}]},
         'events.0.time is "now"; it must be a number'),
        ("events", {"events": [{"user": 1, "item": 2}]},
         "events.0.time is missing: seconds since 1970 (UTC)"),
        ("events", {"events": [EVENT | {"tme": 1}]},
         "events.0.tme is no field that is known here; did you mean time?"),
        ("events", {"events": [EVENT | {"timestamp": 1}]},
         "events.0.timestamp is no field that is known here; did you mean time?"),
        ("recommendations", {"user": 1, "top": 5},
         "top is no field that is known here; did you mean k?"),
        ("similar", {}, "items is missing"),
        ("similar", {"items": [5], "x" * 70: 1},
         f"{'x' * 60}… is no field that is known here; there are items, k, exclude, among"),
        ("events", {"events": [EVENT] * 1001},
         "events has more than 1,000 entries; it may have 1,000"),
        ("events", {"events": {}}, "events is an object; it must be a list"),
        ("events", {"events": [{}] * 3},
         "events.0.user is missing, and so are item and time"),
        ("events", {"events": [{"user": 1}]}, "events.0.item is missing, and so is time"),
        ("events", [EVENT],
         "the body is no JSON object; send one, with content-type: application/json"),
        ("similar", {"item": "sku-4"}, "item is no field that is known here; did you mean items?"),
        ("recommendations", {"user": "ann", "k": 0}, "k is 0; it must be at least 1"),
        ("recommendations", {"user": "ann", "k": True}, "k is true; it must be a whole number"),
        ("recommendations", {"user": "ann", "exclude_seen": "no"},
         "exclude_seen is \"no\"; it must be true or false or 'auto'"),
        ("recommendations", {"history": [{"item": 1}]},
         "history.0.time is missing: seconds since 1970 (UTC)"),
        ("recommendations", {"history": [None]},
         "history.0 is null; it must be text, a whole number or an object"),
    ],
)  # fmt: skip
def test_an_error_names_the_field_the_value_and_the_mend(server: LocalServer, path, body, words):
    answer = server.post(f"/v1/{path}", body)
    assert (answer.status_code, told(answer)) == (422, words)


def test_a_body_that_is_no_json_is_told_with_the_place(server: LocalServer):
    headers = {"content-type": "application/json"}
    answer = server.client.post("/v1/events", content=b'{"events": }', headers=headers)
    assert told(answer) == "the body is no JSON (a value is expected, at character 11)"
    answer = server.client.post("/v1/events", content=b"\xff", headers=headers)
    words = "the body cannot be read as JSON: send UTF-8 text"
    assert (answer.status_code, told(answer)) == (400, words)
    answer = server.client.post("/v1/events", headers=headers)
    assert told(answer) == "there is no body: send a JSON object"


def test_a_parameter_is_told_like_a_field(server: LocalServer):
    answer = server.client.get("/v1/users/ann", params={"limit": "many"})
    assert told(answer) == 'limit is "many"; it must be a whole number'


@pytest.mark.parametrize(
    ("method", "path", "status", "words"),
    [
        ("GET", "/v1/modle", 404, "perhaps /v1/model is meant; GET / tells what there is"),
        ("GET", "/wp-login.php", 404, "there is nothing at /wp-login.php; GET / tells"),
        ("GET", "/v1/events", 405, "/v1/events takes POST, not GET"),
        ("PUT", "/v1/users/ann", 405, "/v1/users/ann takes DELETE or GET or HEAD, not PUT"),
    ],
)
def test_what_there_is_not(server: LocalServer, method, path, status, words):
    answer = server.client.request(method, path)
    assert answer.status_code == status
    assert words in told(answer)


def test_the_first_page_says_what_this_is(server: LocalServer):
    found = server.client.get("/").json()
    assert found["model"] == "elastic"
    schema = server.client.get(found["schema"]).json()
    told_routes = {
        f"{method.upper()} {path}" for path, one in schema["paths"].items() for method in one
    }
    assert set(found["routes"]) == told_routes
    assert all(found["routes"].values())


def test_the_page_for_people_has_all_routes_and_loads_nothing(server: LocalServer):
    answer = server.client.get("/docs")
    assert answer.headers["content-type"].startswith("text/html")
    assert answer.headers["content-security-policy"].startswith("default-src 'none'")
    page = answer.text
    for path, operations in server.client.get("/openapi.json").json()["paths"].items():
        for method in operations:
            assert f"<code>{method.upper()} {path}</code></h2>" in page
    assert not re.search(r"<script|<link|<img|@import|url\(|src=", page)
    assert set(re.findall(r'href="([^"#]*)', page)) <= {"", "/openapi.json"}
    assert "&#34;k&#34;: 5" in page, "examples of bodies"


def test_pages_are_behind_the_key(tmp_path: Path):
    with local_server("elastic", tmp_path, keys=KEY) as server:
        for path in ("/", "/docs"):
            assert server.client.get(path).status_code == 401
        headers = {"authorization": f"Bearer {KEY}"}
        assert "Bearer KEY" in server.client.get("/docs", headers=headers).text
        assert json.loads(server.client.get("/", headers=headers).text)["docs"] == "/docs"
