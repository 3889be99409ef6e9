"""What the service answers, through real sockets; recommendations are held against the model's."""

from __future__ import annotations

import json
import re
import threading
import time
from pathlib import Path
from urllib.parse import quote

import numpy as np
import pytest
from models.small_models import N
from serving.fresh_streams import counted, open_fresh, with_transitions
from serving.http.served import LocalServer, local_server, server_of
from serving.small_streams import CASES, EXACT, FIRST, UNKNOWN, recommender, reference

T0 = 1_700_000_000


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    """One for all tests, each of which has users of its own."""
    with local_server("elastic", tmp_path_factory.mktemp("server")) as found:
        yield found


def events_of(user: str, items: list[int], start: int = T0) -> dict[str, object]:
    return {
        "events": [
            {"user": user, "item": item, "time": start + 60 * at} for at, item in enumerate(items)
        ]
    }


def check_answer(case: str, answer: dict, history: list[tuple[int, int]], k: int) -> None:
    """Hold an answer against the parallel model in float64."""
    scores = reference(case, history)
    near = 1e-4 * scores.std()
    seen = {item for item, _ in history}
    items = [one["item"] for one in answer["items"]]
    assert [one["rank"] for one in answer["items"]] == list(range(1, len(items) + 1))
    assert answer["policy"] == "personal"
    assert len(set(items)) == len(items) == min(k, N - len(seen & set(range(FIRST, FIRST + N))))
    assert not set(items) & seen
    got = np.array([one["score"] for one in answer["items"]])
    assert np.abs(got - scores[np.array(items) - FIRST]).max() <= near
    allowed = [s for at, s in enumerate(scores) if at + FIRST not in seen]
    assert np.abs(got - np.sort(allowed)[::-1][: len(got)]).max() <= 2 * near


@pytest.mark.parametrize("case", CASES)
def test_recommendations_are_those_of_the_model_for_users_and_for_histories(case, tmp_path):
    items = [FIRST + 3, FIRST + 7, FIRST + 3, FIRST + 1, FIRST + 9]
    history = [(item, T0 + 60 * at) for at, item in enumerate(items)]
    with local_server(case, tmp_path) as server:
        logged = server.post("/v1/events", events_of("ann", items))
        assert (logged.status_code, logged.json()) == (
            200,
            {"accepted": 5, "duplicates": 0, "unknown": 0, "model": recommender(case).state_digest},
        )
        by_user = server.post("/v1/recommendations", {"user": "ann", "k": 6})
        sent = [{"item": item, "time": time} for item, time in history]
        by_history = server.post("/v1/recommendations", {"history": sent, "k": 6})
        assert by_user.status_code == by_history.status_code == 200
        about = {"exclude_seen": True, "exhausted": False, "unknown_events": 0, "unknown_items": 0}
        assert by_user.json().keys() == {"items", "model", "policy", *about}
        assert about.items() <= by_user.json().items()
        assert by_user.json()["model"] == recommender(case).state_digest
        for answer in (by_user.json(), by_history.json()):
            if case in EXACT or case == "sasrec":
                check_answer(case, answer, history, 6)
        assert [one["item"] for one in by_user.json()["items"]] == [
            one["item"] for one in by_history.json()["items"]
        ]


def test_an_event_of_the_future_is_refused_alone_and_named(server: LocalServer):
    far = {"user": "early", "item": FIRST, "time": int(time.time()) + 10**8}
    good = {"user": "early", "item": FIRST, "time": T0}
    answer = server.post("/v1/events", {"events": [far, good, far | {"time": 9e10}]})
    assert answer.status_code == 200
    found = answer.json()
    assert (found["accepted"], found["refused"]) == (1, 2)
    assert [(one["event"], one["code"]) for one in found["problems"]] == [
        (0, "ahead"),
        (2, "ahead"),
    ]
    assert "this machine's clock" in found["problems"][0]["message"]
    assert server.client.get("/v1/users/early").json()["events"] == 1
    assert server.post("/v1/events", {"events": [far]}).json()["accepted"] == 0
    assert 'longrec_events_total{outcome="refused"} 3.0' in server.client.get("/metrics").text


def test_another_event_under_the_same_id_is_told(server: LocalServer):
    first = {"user": "conflict", "item": FIRST, "time": T0, "event_id": "e"}
    server.post("/v1/events", {"events": [first]})
    far = first | {"event_id": "far", "time": int(time.time()) + 10**8}
    sent = [far, first, first | {"item": FIRST + 1}, first | {"event_id": "f"}, first | {"time": 1}]
    found = server.post("/v1/events", {"events": sent}).json()
    assert found["accepted"] == 1
    assert (found["duplicates"], found["conflicting"], found["refused"]) == (3, 2, 1)
    codes = [(one["event"], one["code"]) for one in found["problems"]]
    assert codes == [(0, "ahead"), (2, "conflict"), (4, "conflict")]
    assert server.client.get("/v1/users/conflict").json()["log"][0]["item"] == str(FIRST)
    metric = r'longrec_events_total\{outcome="conflicting"\} 2.0'
    assert re.search(metric, server.client.get("/metrics").text)


def test_an_event_is_taken_back(server: LocalServer):
    server.post("/v1/events", events_of("wrong", [FIRST, FIRST + 1, FIRST + 2]))
    before = server.post("/v1/recommendations", {"user": "wrong", "k": 3}).json()
    far = {"user": "wrong", "item": FIRST + 5, "time": T0 + 10**6, "event_id": "far/1"}
    server.post("/v1/events", {"events": [far]})
    body = {"user": "wrong", "event_id": "far/1"}
    assert server.post("/v1/dropped-events", body).json() == {"dropped": True}
    assert server.post("/v1/dropped-events", body).json() == {"dropped": False}
    after = server.post("/v1/recommendations", {"user": "wrong", "k": 3}).json()
    for mine, wanted in zip(after["items"], before["items"], strict=True):
        assert mine == pytest.approx(wanted, abs=1e-5)
    assert server.post("/v1/events", {"events": [far | {"time": T0 + 500}]}).json()["accepted"] == 1
    assert server.post("/v1/dropped-events", {"user": "wrong", "number": 4}).json()["dropped"]
    for wrong in ({"user": "wrong"}, body | {"number": 1}, {"user": "wrong", "number": 0}):
        assert server.post("/v1/dropped-events", wrong).status_code == 422


def test_an_event_counts_at_once_and_a_retry_changes_nothing(server: LocalServer):
    event = {"user": "retried", "item": FIRST, "time": T0, "event_id": "order-1"}
    assert server.post("/v1/events", {"events": [event]}).json()["accepted"] == 1
    first = server.post("/v1/recommendations", {"user": "retried", "k": 5}).json()
    again = server.post("/v1/events", {"events": [event, event]}).json()
    assert again.pop("model") == first["model"]
    assert again == {"accepted": 0, "duplicates": 2, "unknown": 0}
    assert server.post("/v1/recommendations", {"user": "retried", "k": 5}).json() == first
    best = first["items"][0]["item"]
    server.post("/v1/events", events_of("retried", [best], T0 + 100))
    second = server.post("/v1/recommendations", {"user": "retried", "k": 5}).json()
    assert best not in [one["item"] for one in second["items"]]


def test_exclude_among_and_seen_items(server: LocalServer):
    server.post("/v1/events", events_of("excluding", [FIRST, FIRST + 1]))

    def items(**wanted: object) -> list[int]:
        answer = server.post("/v1/recommendations", {"user": "excluding", "k": N, **wanted})
        return [one["item"] for one in answer.json()["items"]]

    everything = items()
    assert sorted(everything) == list(range(FIRST + 2, FIRST + N))
    assert items(exclude=everything[:3]) == everything[3:]
    assert items(among=everything[5:2:-1]) == everything[3:6]
    assert items(among=everything[:2], exclude=everything[:1]) == everything[1:2]
    assert items(among=[FIRST, UNKNOWN]) == []
    assert sorted(items(exclude_seen=False)) == list(range(FIRST, FIRST + N))
    assert items(exclude=everything[:-1]) == everything[-1:]


def test_what_is_unknown_is_counted_and_nothing_left_is_told(server: LocalServer):
    items = [FIRST, UNKNOWN, FIRST + 1, UNKNOWN + 1]
    logged = server.post("/v1/events", events_of("new-items", items)).json()
    assert logged.items() >= {"accepted": 4, "duplicates": 0, "unknown": 2}.items()
    for wanted in ({"user": "new-items"}, {"history": items}):
        answer = server.post("/v1/recommendations", wanted | {"exclude": [1, FIRST + 2]}).json()
        assert (answer["unknown_events"], answer["unknown_items"]) == (2, 1)
        among = wanted | {"among": [1, 2, FIRST]}
        answer = server.post("/v1/recommendations", among).json()
        assert (answer["items"], answer["exhausted"], answer["unknown_items"]) == ([], True, 2)
        answer = server.post("/v1/recommendations", among | {"exclude_seen": False}).json()
        assert (answer["exhausted"], answer["exclude_seen"]) == (False, False)
    explained = server.post("/v1/explanations", {"user": "new-items", "item": FIRST}).json()
    assert (explained["seen"], explained["unknown_events"]) == (True, 2)
    model = server.client.get("/v1/model").json()
    assert model["exclude_seen"] is True
    assert model["seen_items"].startswith("seen items: left out (")


def test_nobody_gets_popular_items(server: LocalServer):
    for wanted in ({"user": "nobody"}, {"history": []}, {"history": [UNKNOWN]}):
        answer = server.post("/v1/recommendations", wanted | {"k": 3}).json()
        popular = recommender("elastic").catalog.popular[:3] + FIRST - 1
        assert answer["policy"] == "cold"
        assert [one["item"] for one in answer["items"]] == popular.tolist()


def test_what_is_kept_of_a_user_is_shown_and_forgotten(server: LocalServer):
    name = "a/b ü%?\x00"
    path = "/v1/users/" + quote(name, safe="")
    assert server.client.get(path).status_code == 404
    assert server.client.delete(path).json() == {"forgotten": False}
    items = [FIRST + 2, UNKNOWN, FIRST + 4]
    server.post("/v1/events", events_of(name, items))
    server.post("/v1/events", {"events": [{"user": name, "item": FIRST, "time": 5, "event_id": 7}]})
    shown = server.client.get(path).json()
    assert shown["user"] == name
    assert shown["events"] == 4
    assert shown["record"] == {"events": 4, "skipped": 1, "late": 1}
    assert [one["item"] for one in shown["log"]] == [str(i) for i in [*items, FIRST]]
    assert shown["log"][3] == {
        **{"item": str(FIRST), "time": 5, "event_id": "7"},
        **{"columns": {}, "damaged": False},
    }
    part = server.client.get(path, params={"after": 1, "limit": 2}).json()
    assert part["log"] == shown["log"][1:3]
    assert part["next"] == 3
    assert server.client.delete(path).json() == {"forgotten": True}
    assert server.client.get(path).status_code == 404
    assert server.post("/v1/recommendations", {"user": name}).json()["policy"] == "cold"


def test_similar_items_by_cosine(server: LocalServer):
    vectors = recommender("elastic").model.item_vectors().detach().numpy()[1:]
    unit = vectors / np.linalg.norm(vectors, axis=1, keepdims=True)
    cosines = unit @ unit[3]
    answer = server.client.get(f"/v1/items/{FIRST + 3}/similar", params={"k": 4}).json()
    order = [at for at in np.argsort(-cosines) if at != 3][:4]
    assert answer["item"] == FIRST + 3
    assert [one["item"] - FIRST for one in answer["items"]] == order
    assert np.allclose([one["score"] for one in answer["items"]], cosines[order], atol=1e-5)
    frame = recommender("elastic").similar(FIRST + 3, 4)
    assert frame["item"].to_list() == [one["item"] for one in answer["items"]]
    assert server.client.get("/v1/items/nothing/similar").status_code == 404


def test_models_without_vectors_have_no_similar_items(tmp_path: Path):
    with local_server("popularity", tmp_path) as server:
        answer = server.client.get(f"/v1/items/{FIRST}/similar")
        assert answer.status_code == 409
        assert "popularity" in answer.json()["error"]["message"]


def test_explanations_sum_to_one_and_say_what_they_are(server: LocalServer):
    server.post("/v1/events", events_of("explained", [FIRST + 2, FIRST + 5, FIRST + 2]))
    answer = server.post("/v1/explanations", {"user": "explained", "item": FIRST + 8, "top": 3})
    found = answer.json()
    assert answer.status_code == 200, found
    assert found["item"] == FIRST + 8
    assert sum(one["attention"] for one in found["events"]) + found["memory"] == pytest.approx(1)
    assert "not" in found["note"]
    assert "cause" in found["note"]
    history = [FIRST + 2, FIRST + 5, FIRST + 2]
    same = server.post("/v1/explanations", {"history": history, "item": FIRST + 8, "top": 3}).json()
    assert same["score"] == pytest.approx(found["score"], rel=1e-4)
    assert (
        server.post("/v1/explanations", {"user": "explained", "item": UNKNOWN}).status_code == 404
    )
    assert server.post("/v1/explanations", {"user": "nobody", "item": FIRST}).status_code == 404


def test_other_models_have_no_explanations(tmp_path: Path):
    with local_server("hydrarec", tmp_path) as server:
        server.post("/v1/events", events_of("ann", [FIRST]))
        answer = server.post("/v1/explanations", {"user": "ann", "item": FIRST + 1})
        assert answer.status_code == 409
        assert "hydrarec" in answer.json()["error"]["message"]


def test_a_model_that_forgets_by_time_wants_times(tmp_path: Path):
    with local_server("elastic by time", tmp_path) as server:
        answer = server.post("/v1/recommendations", {"history": [FIRST, FIRST + 1]})
        assert answer.status_code == 422
        assert "time" in answer.json()["error"]["message"]


def test_examples_of_the_schema_work_as_printed(server: LocalServer):
    schema = server.client.get("/openapi.json").json()
    tried = 0
    for path, operations in schema["paths"].items():
        post = operations.get("post")
        if post:
            examples = post["requestBody"]["content"]["application/json"]["examples"]
            for example in examples.values():
                answer = server.post(path, example["value"])
                assert answer.status_code == 200, (path, example, answer.text)
                tried += 1
    assert tried >= 7
    for path, operations in schema["paths"].items():
        for method, operation in operations.items():
            if method == "post":
                continue
            parameters = operation.get("parameters", [])
            at = path
            for one in parameters:
                if one["in"] == "path":
                    at = at.replace("{" + one["name"] + "}", one["example"])
            assert server.client.request(method.upper(), at).status_code == 200, at


def test_metrics_tell_stages_model_and_records(tmp_path: Path):
    with local_server("elastic", tmp_path) as server:
        server.post("/v1/events", events_of("ann", [FIRST, UNKNOWN]))
        server.post("/v1/recommendations", {"user": "ann"})
        server.client.get("/nothing/here")
        text = server.client.get("/metrics").text
    digest = recommender("elastic").state_digest
    for line in (
        'longrec_events_total{outcome="accepted"} 2.0',
        'longrec_events_total{outcome="unknown"} 1.0',
        'longrec_stage_seconds_count{stage="log"} 1.0',
        'longrec_stage_seconds_count{stage="rank"} 1.0',
        'longrec_queue_length{queue="events"}',
        "longrec_index_recall 1.0",
        f'digest="{digest}"',
        'longrec_requests_total{method="POST",route="/v1/events",status="200"} 1.0',
        'longrec_requests_total{method="any",route="other",status="404"} 1.0',
        "longrec_records_behind",
        "process_resident_memory_bytes",
    ):
        assert line in text, line
    assert "ann" not in re.findall(r'"([^"]*)"', text)


def test_metrics_tell_which_counts_serve(tmp_path: Path):
    stream = open_fresh(f"{tmp_path}/users", with_transitions())
    with server_of(stream, tmp_path) as server:
        server.post("/v1/events", events_of("ann", [FIRST + n % 3 for n in range(9)]))
        counted(stream)
        text = server.client.get("/metrics").text
    for line in (
        'longrec_transitions_events{counted="training"} 8.0',
        'longrec_transitions_events{counted="log"} 9.0',
        "longrec_transitions_of_log 1.0",
    ):
        assert line in text, line
    assert re.search(r"^longrec_transitions_age_seconds \d", text, re.MULTILINE)


def test_requests_at_once_are_batched_and_each_gets_its_own(server: LocalServer):
    users = [f"u{n}" for n in range(24)]
    server.post(
        "/v1/events",
        {
            "events": [
                {"user": user, "item": FIRST + at % N, "time": T0} for at, user in enumerate(users)
            ]
        },
    )
    alone = {u: server.post("/v1/recommendations", {"user": u, "k": 5}).json() for u in users}
    answers: dict[str, object] = {}

    def ask(user: str) -> None:
        answers[user] = server.post("/v1/recommendations", {"user": user, "k": 5}).json()

    threads = [threading.Thread(target=ask, args=(user,)) for user in users for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for user in users:
        assert [one["item"] for one in answers[user]["items"]] == [
            one["item"] for one in alone[user]["items"]
        ]


def test_the_model_is_described(server: LocalServer):
    model = server.client.get("/v1/model").json()
    assert model["name"] == "elastic"
    assert model["items"] == N
    assert model["index"] == {"name": "exact", "recall_at_10": 1.0}
    assert model["swap"] is None
    assert server.client.get("/healthz").json() == {"ok": True}
    assert server.client.get("/readyz").json() == {"ready": True, "model": model["digest"]}


def test_answers_are_not_kept_by_caches_and_carry_an_id(server: LocalServer):
    answer = server.client.get("/v1/model", headers={"x-request-id": "abc-1"})
    assert answer.headers["cache-control"] == "no-store"
    assert answer.headers["x-content-type-options"] == "nosniff"
    assert answer.headers["x-request-id"] == "abc-1"
    other = server.client.get("/v1/model", headers={"x-request-id": "bad id!"})
    assert re.fullmatch("[0-9a-f]{16}", other.headers["x-request-id"])
    json.loads(other.text)


# ---- several at once


def test_several_users_and_histories_get_what_each_gets_alone(server: LocalServer):
    for number, user in enumerate(("s1", "s2", "s3")):
        server.post("/v1/events", events_of(user, [FIRST + number, FIRST + 5, FIRST + 7 + number]))
    users, more = ["s2", "nobody", "s1", 17, "s2"], {"k": 4, "exclude": [FIRST + 9, UNKNOWN]}
    answer = server.post("/v1/recommendations", {"users": users, **more})
    assert answer.status_code == 200, answer.text
    found = answer.json()
    assert found["unknown_items"] == 1
    assert [one["user"] for one in found["recommendations"]] == users
    for user, one in zip(users, found["recommendations"], strict=True):
        alone = server.post("/v1/recommendations", {"user": user, **more}).json()
        for key in ("policy", "exhausted", "unknown_events"):
            assert one[key] == alone[key]
        for got, wanted in zip(one["items"], alone["items"], strict=True):
            assert (got["item"], got["rank"]) == (wanted["item"], wanted["rank"])
            assert got["score"] == pytest.approx(wanted["score"], rel=1e-5, abs=1e-6)
    histories = [[FIRST, UNKNOWN], [], [FIRST + 2, {"item": FIRST + 3, "time": T0}]]
    asked = {"histories": histories, "among": [FIRST + 4, FIRST + 6]}
    lists = server.post("/v1/recommendations", asked).json()["recommendations"]
    assert [one["policy"] for one in lists] == ["personal", "cold", "personal"]
    assert [one["unknown_events"] for one in lists] == [1, 0, 0]
    assert all({it["item"] for it in one["items"]} == {FIRST + 4, FIRST + 6} for one in lists)
    assert {one["user"] for one in lists} == {None}


@pytest.mark.parametrize(
    ("body", "words"),
    [
        ({"users": []}, "users"),
        ({"users": ["a"], "user": "b"}, "give one of user, history, users and histories"),
        ({}, "give one of user, history, users and histories"),
        ({"users": ["a"] * 1001}, "users"),
        ({"users": ["a", None]}, "users.1"),
        ({"users": ["a"] * 1000, "k": 101}, "1,000 lists of 101 items are more than 100,000"),
        ({"histories": [[FIRST] * 10_000] * 11}, "have 110,000 events and may have 100,000"),
        ({"histories": ["a"]}, "histories.0"),
    ],
)
def test_too_much_at_once_is_refused_by_name(server: LocalServer, body, words):
    answer = server.post("/v1/recommendations", body)
    assert answer.status_code == 422
    assert words in answer.json()["error"]["message"]


def test_users_without_number_are_ranked_in_parts(server: LocalServer):
    users = [f"part{n}" for n in range(150)]
    found = server.post("/v1/recommendations", {"users": users, "k": 2}).json()["recommendations"]
    assert [one["user"] for one in found] == users
    assert {one["policy"] for one in found} == {"cold"}


def test_items_like_several(server: LocalServer):
    body = {"items": [FIRST + 3, UNKNOWN, str(FIRST + 1)], "k": 3, "exclude": [FIRST + 8]}
    answer = server.post("/v1/similar", body)
    assert answer.status_code == 200, answer.text
    found = answer.json()["similar"]
    assert [(one["item"], one["known"]) for one in found] == [
        (FIRST + 3, True),
        (UNKNOWN, False),
        (str(FIRST + 1), True),
    ]
    assert found[1]["items"] == []
    for one in (found[0], found[2]):
        frame = recommender("elastic").similar(one["item"], 3, exclude=[FIRST + 8])
        assert [item["item"] for item in one["items"]] == frame["item"].to_list()
    every = server.client.get(f"/v1/items/{FIRST}/similar", params={"k": 1000}).json()["items"]
    assert sorted(one["item"] for one in every) == list(range(FIRST + 1, FIRST + N))
