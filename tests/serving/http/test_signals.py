"""What a process makes of TERM, INT and HUP before, while and after it serves."""

from __future__ import annotations

import signal
import subprocess

import pytest
from forking import run_code

START = """
import asyncio, os, signal, sys, time
from longrec.serving.http import signals
signals.hold()
os.kill(os.getpid(), signal.{number})
"""
SERVE = (
    START
    + """
async def serve(heard):
    done = asyncio.Event()
    heard.call_to_stop(lambda: print("stop", flush=True) or done.set())
    heard.call_to_reload(lambda: print("reload", flush=True))
    await asyncio.sleep(0.05)
    for name in {then}:
        os.kill(os.getpid(), getattr(signal, name))
        await asyncio.sleep(0.05)
    await done.wait()
    {end}
with signals.Signals() as heard:
    asyncio.run(serve(heard))
print("never")
"""
)


def ended(code: str) -> tuple[int, str, str]:
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
    with run_code(code, **pipes) as child:
        out, err = child.communicate(60)
        assert child.returncode is not None
        return child.returncode, out, err


@pytest.mark.parametrize("number", ["SIGTERM", "SIGINT"])
def test_a_process_that_is_told_to_stop_before_it_serves_ends_with_0(number):
    serve = "with signals.Signals():\n    time.sleep(60)\n"
    assert ended(START.format(number=number) + serve) == (0, "", "")


def test_other_commands_end_by_their_signals_as_ever():
    status, out, _ = ended(
        START.format(number="SIGTERM") + "print('held', flush=True)\nsignals.release()"
    )
    assert (status, out) == (-signal.SIGTERM, "held\n")
    in_one = "try:\n    signals.release()\nexcept KeyboardInterrupt:\n    print('as ever')"
    assert ended(START.format(number="SIGINT") + in_one)[:2] == (0, "as ever\n")


def test_a_hup_before_it_serves_is_remembered_and_a_stop_is_told_once():
    then = ["SIGHUP", "SIGTERM", "SIGTERM"]  # the second one at once: of a process group
    code = SERVE.format(number="SIGHUP", then=then, end="await asyncio.sleep(0.2)")
    assert ended(code) == (0, "reload\nreload\nstop\n", "")


def test_what_never_ends_is_ended():
    """By a second signal, or when the time to drain is over, also where it holds up the loop."""
    for then, patch in (
        (["SIGINT"], "signals.DRAIN = 0.3"),
        (["SIGTERM", "SIGTERM"], "signals.TWICE = 0.01"),
    ):
        code = SERVE.format(number="SIGHUP", then=then, end="time.sleep(60)")
        status, out, err = ended(code.replace("signals.hold()", f"{patch}\nsignals.hold()"))
        assert (status, out) == (0, "reload\nstop\n")
        assert err.startswith("stopped: ")


def test_what_is_no_stop_ends_as_it_does():
    """An error leaves signals as they were."""
    code = START.format(number="SIGHUP") + (
        "try:\n    with signals.Signals():\n        1 / 0\nexcept ZeroDivisionError:\n"
        "    print(signal.pthread_sigmask(signal.SIG_BLOCK, []))"
    )
    assert ended(code) == (0, "set()\n", "")
