"""Every check of longrec passes for all that this package registers."""

import pytest

from longrec.checks.run import check_module

OUTCOMES = list(check_module("my_longrec_model"))


@pytest.mark.parametrize("outcome", OUTCOMES, ids=lambda o: f"{o.subject}: {o.check}")
def test_check(outcome):
    assert outcome.result in ("passed", "not applicable"), outcome.reason
