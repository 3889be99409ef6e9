"""Requests made up from the OpenAPI schema, valid and broken ones: none may fail the server."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from serving.http.served import local_server
from serving.small_streams import FIRST

ROUTES = 9


def hammer(path: Path, case: str, cases: int) -> int:
    """Send so many made-up requests of each kind to each route; -> how many were answered."""
    import schemathesis  # here, since whoever collects tests would wait for it
    from schemathesis import checks
    from schemathesis.specs.openapi import checks as of_schema

    held = [
        checks.not_a_server_error,
        of_schema.status_code_conformance,
        of_schema.content_type_conformance,
        of_schema.response_schema_conformance,
    ]
    answered = 0
    with local_server(case, path, settings={"rate": 1e9}) as server:
        server.post("/v1/events", {"events": [{"user": "0", "item": FIRST, "time": 0}]})
        schema = schemathesis.openapi.from_url(f"{server.url}/openapi.json")
        routes = [found.ok() for found in schema.get_all_operations()]
        assert len(routes) >= ROUTES
        for route in routes:
            for mode in schemathesis.GenerationMode:
                if mode.is_negative and not (route.body or route.query):
                    continue  # nothing of it can be broken: any text is an id

                @settings(
                    max_examples=cases,
                    derandomize=True,
                    deadline=None,
                    database=None,
                    phases=[Phase.generate],
                    suppress_health_check=list(HealthCheck),
                )
                @given(made=route.as_strategy(generation_mode=mode))
                def send(made: Any) -> None:
                    nonlocal answered
                    answer = made.call(base_url=server.url, timeout=30)
                    made.validate_response(answer, checks=held)
                    answered += 1

                send()
    return answered


@pytest.mark.slow
def test_made_up_requests(tmp_path: Path):
    assert hammer(tmp_path, "elastic", 15) >= 150


@pytest.mark.long
@pytest.mark.parametrize("case", ["elastic", "sasrec", "popularity"])
def test_thousands_of_made_up_requests(case: str, tmp_path: Path):
    assert hammer(tmp_path, case, 200) >= 1500
