"""Bodies are read no further than the first thing that is wrong, and what is read is right."""

from __future__ import annotations

import json
import random
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from longrec.core.errors import UsageError
from longrec.serving.http import bodies as bodies_read
from longrec.serving.http.bodies import BODIES, NO_OBJECT, read_body
from longrec.serving.http.errors import Refused
from longrec.serving.http.schemas import EventsIn, ExplanationIn, RecommendationsIn, SimilarIn

EVENT = {"user": "ann", "item": 5, "time": 1_700_000_000}
GARBAGE = "!" * 1000
"""No JSON: who reads it says so."""


def told(schema: type, text: str | bytes) -> str:
    """What is said of a body that is wrong."""
    raw = text if isinstance(text, bytes) else text.encode()
    with pytest.raises((UsageError, Refused)) as caught:
        read_body(schema, raw)
    return str(caught.value)


@pytest.mark.parametrize(
    ("schema", "begins", "words"),
    [
        (RecommendationsIn, '{"history": [null', "history.0 is null"),
        (RecommendationsIn, '{"history": [{', "history.0.x is no field that is known here"),
        (RecommendationsIn, '{"history": [[', "history.0 is a list"),
        (RecommendationsIn, '{"user": "u", "exclude": [1, null', "exclude.1 is null"),
        (RecommendationsIn, '{"histories": [[1], {', "histories.1 is an object"),
        (RecommendationsIn, '{"user": [[[[[', "user is a list"),
        (RecommendationsIn, '{"k": 100000', "k is 100000; it must be at most 1,000"),
        (RecommendationsIn, '{"k": {', "k is an object"),
        (RecommendationsIn, '{"history": [' + "1," * 10_000 + "1", "history has more than 10,000"),
        (RecommendationsIn, '{"users": [' + "1," * 1000 + "1", "users has more than 1,000"),
        (EventsIn, '{"events": [[', "events.0 is a list; it must be an object"),
        (EventsIn, '{"events": [{', "events.0.x is no field"),
        (EventsIn, '{"events": [{"user": "' + "u" * 401 + '"', "events.0.user has 401 characters"),
        (EventsIn, '{"events": [{"columns": {"a": [', "events.0.columns.a is a list"),
        (EventsIn, '{"events": [{"columns": {"": 1',
         "events.0.columns has a name that has 0 characters"),
        (EventsIn, '{"events": [{"columns": {' + ",".join(f'"a{n}": 1' for n in range(33)),
         "events.0.columns has more than 32 entries"),
        (EventsIn, '{"events": [{"time": 1e999', "events.0.time is too large a number"),
        (EventsIn, '{"events": [' + json.dumps(EVENT) + ", {}", "events.1.user is missing"),
        (EventsIn, "[[[[", NO_OBJECT),
        (SimilarIn, "{", "x is no field that is known here; there are items"),
        (ExplanationIn, '{"top": 1001', "top is 1001; it must be at most 1,000"),
    ],
)  # fmt: skip
def test_nothing_behind_the_first_wrong_value_is_read(schema, begins, words):
    name = '"x":' if begins.endswith("{") else ""
    assert told(schema, begins + name + GARBAGE).startswith(words)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "there is no body: send a JSON object"),
        (b"\xff\xfe{}", "the body cannot be read as JSON: send UTF-8 text"),
        ("{", "it ends too early, at character 1"),
        ('{"user": "a', "unterminated string starting at, at character 9"),
        ('{"user": 1', "it ends too early"),
        ('{"user" 1}', "a colon is expected, at character 8"),
        ('{"user": 1 "k": 2}', "a comma or } is expected, at character 11"),
        ('{"user": 1,}', "the name of a field is expected, at character 11"),
        ('{"history": [1,]}', "a value is expected, at character 15"),
        ('{"history": [1 2]}', "a comma or ] is expected"),
        ('{"user": 1} {}', "something follows its end, at character 12"),
        ('{"user": nul}', "a value is expected"),
        ('{"k": NaN}', "a number is too long, or none"),
        ('{"k": -Infinity}', "a number is too long, or none"),
        ('{"k": ' + "9" * 5000 + "}", "a number is too long, or none"),
        ('{"user": "\x01"}', "invalid control character at"),
        ('{"user": 1, "user": 2}', "user stands there twice"),
        ('{"user": 1, "k": 1.0}', "k is 1.0; it must be a whole number"),
        (" " * 100_000, "it ends too early"),
    ],
)
def test_what_is_no_json_is_told_with_its_place(text, words):
    assert words in told(RecommendationsIn, text)


def test_what_is_left_out_is_as_the_schema_has_it():
    body = read_body(RecommendationsIn, b' {"user" : "ann" } \n')
    assert body["user"] == "ann"
    assert (body["k"], body["exclude"], body["among"], body["exclude_seen"]) == (
        10,
        [],
        None,
        "auto",
    )
    [event] = read_body(EventsIn, json.dumps({"events": [EVENT]}).encode())["events"]
    assert event == EVENT | {"event_id": None, "columns": {}}


def test_long_lists_are_read_with_pauses():
    calls = []
    raw = json.dumps({"history": list(range(10_000))}).encode()
    assert read_body(RecommendationsIn, raw, lambda: calls.append(1))["history"][-1] == 9999
    assert len(calls) >= 70


IDS = st.one_of(st.text(max_size=5), st.integers(-5, 10**20), st.none(), st.booleans(), st.floats())
SMALL = st.one_of(
    IDS, st.lists(IDS, max_size=3), st.dictionaries(st.sampled_from(["item", "time", "a"]), IDS)
)


@st.composite
def bodies(draw: st.DrawFn) -> tuple[type, dict[str, Any]]:
    schema = draw(st.sampled_from(BODIES))
    fields = [*schema.model_fields, "other"]
    value = st.one_of(SMALL, st.lists(SMALL, max_size=2))
    body = draw(st.dictionaries(st.sampled_from(fields), value, max_size=3))
    if schema is EventsIn:
        event = st.fixed_dictionaries(
            {"user": IDS, "item": IDS, "time": st.one_of(st.integers(0, 9), IDS)},
            optional={"columns": SMALL, "event_id": IDS, "x": IDS},
        )
        body["events"] = draw(st.lists(event, max_size=2))
    return schema, body


def outcome(schema: type, text: str, fast: int) -> str:
    """What is read of a text, types and all, or what is said of it; small ones by pydantic."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(bodies_read, "FAST", fast)
        try:
            return json.dumps(read_body(schema, text.encode()), sort_keys=True)
        except UsageError as error:
            return str(error)


@pytest.mark.parametrize(
    "text",
    [
        '{"events": [{"user": "a:b", "item": ":", "time": 1.0, "columns": {"a:": ":"}}]}',
        '{"events": [{"user": "a", "user": "b", "item": 1, "time": 1}]}',
        '{"events": [{"user": "a:", "user": "b", "item": 1, "time": 1}]}',
        '{"events": [{"user": "a", "item": 1, "time": 1, "columns": {"x": 1, "x": 1}}]}',
        '{"events": [{"user": "a", "item": 1, "time": true}]}',
        '{"events": [{"user": 1e3, "item": 1, "time": 1}]}',
        '{"events": [{"user": "\\ud83d\\ude00", "item": "\\u0000", "time": -0.0}]}',
        '{"events": [{"user": 1, "item": 1, "time": 1, "columns": {"a": true, "b": 1, "c": 1.0}}]}',
        '{"events": [{"user": 1, "item": 1, "time": 1}], "recommend": {"user": 1, "user": 2}}',
        '{"events": [{"user": 1, "item": 1, "time": 1}], "recommend": {"history": [1, {"item": 2,'
        ' "time": 3, "columns": {"a": 1}}], "exclude": ["a", 1], "k": 3, "exclude_seen": false}}',
        '{"events": [{"user": 1, "item": 1, "time": 1}], "recommend": {"histories": [[1], [{'
        '"item": 2, "time": 3}]]}}',
        '{"events": [{"user": 1, "item": 1, "time": 1}], "recommend": null}',
        '{"events": [{"user": 1, "item": 1, "time": NaN}]}',
        '{"events": [{"user": 1, "item": 1, "time": 1}]} {}',
    ],
)
def test_a_small_body_is_read_as_every_other_one(text):
    assert outcome(EventsIn, text, 10_000) == outcome(EventsIn, text, 0)


@settings(max_examples=400, deadline=None, derandomize=True, database=None)
@given(bodies())
def test_it_takes_what_pydantic_takes_of_the_same_schema(made):
    """But for rules on several fields, which schemas do not have."""
    schema, body = made
    text = json.dumps(body)
    assert outcome(schema, text, bodies_read.FAST) == outcome(schema, text, 0)
    try:
        wanted = schema.model_validate_json(text, strict=True)
    except ValidationError:
        wanted = None
    found, words = None, ""
    try:
        found = read_body(schema, text.encode())
    except UsageError as error:
        words = str(error)
    if found is None:
        assert wanted is None or "give " in words, (text, words)
        return
    assert wanted is not None, text
    assert {name: found[name] for name in schema.model_fields} == wanted.model_dump()


def test_texts_that_are_cut_or_changed_never_fail_otherwise():
    rng = random.Random(0)
    text = json.dumps({"events": [EVENT | {"columns": {"type": 'é\\"', "n": 1.5e3}}] * 3})
    for _ in range(3000):
        at, end = sorted(rng.sample(range(len(text)), 2))
        broken = (
            text[:at] + rng.choice(['"', "[", "{", "}", "]", ",", "\\", "-", "", "1e"]) + text[end:]
        )
        try:
            body = read_body(EventsIn, broken.encode())
        except UsageError:
            continue
        assert json.loads(broken).keys() <= body.keys()
