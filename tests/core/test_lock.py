"""Locks: one process writes, others are refused at once, and a dead process holds none."""

from __future__ import annotations

import subprocess
import threading
from time import monotonic

import pytest
from forking import run_code

from longrec.core.errors import LongrecError
from longrec.core.lock import LOCK, lock_folder, locked

HOLDER = """
import sys, time
from pathlib import Path
from longrec.core.lock import lock_folder
lock = lock_folder(Path(sys.argv[1]), "taken")
print("locked", flush=True)
time.sleep(60)
"""

WITHOUT_FCNTL = """
import sys
for name in list(sys.modules):
    if name.split(".")[0] in ("longrec", "filelock", "fcntl", "resource"):
        del sys.modules[name]
class Without:
    def find_spec(self, name, path=None, target=None):
        if name in ("fcntl", "resource"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Without())
import longrec
for name in longrec.__all__:
    getattr(longrec, name)
from longrec.serving.stores.open import open_store
try:
    open_store("lmdb:///users")
except longrec.LongrecError as error:
    assert "lmdb:// needs Linux or macOS: Python has no fcntl" in str(error), error
    sys.exit()
sys.exit("a store was opened")
"""


def test_another_process_is_refused_at_once_and_a_killed_one_holds_nothing(tmp_path):
    process = run_code(HOLDER, tmp_path, stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "locked\n"
    begun = monotonic()
    with (
        pytest.raises(LongrecError, match="another training is writing to it"),
        locked(tmp_path, "training"),
    ):
        raise AssertionError("two processes hold one lock")
    assert monotonic() - begun < 2
    process.kill()
    process.communicate()
    with locked(tmp_path, "training"):
        assert (tmp_path / LOCK).exists()
    assert list(tmp_path.iterdir()) == []


def test_within_a_process_it_is_held_once_and_any_thread_may_release_it(tmp_path):
    lock = lock_folder(tmp_path / "store", "taken")
    with pytest.raises(LongrecError, match="taken"):
        lock_folder(tmp_path / "store", "taken")
    thread = threading.Thread(target=lock.release)
    thread.start()
    thread.join()
    lock_folder(tmp_path / "store", "taken").release()


def test_a_failure_within_it_releases_it(tmp_path):
    with pytest.raises(KeyError), locked(tmp_path / "new", "training"):
        raise KeyError
    with locked(tmp_path / "new", "training"):
        pass


def test_where_nothing_can_be_written_it_says_so(tmp_path):
    (tmp_path / "file").write_text("")
    for folder in (tmp_path / "file", tmp_path / "file" / "folder"):
        with pytest.raises(LongrecError, match="cannot be written to"):
            lock_folder(folder, "taken")


def test_where_python_has_no_fcntl_all_public_names_import_and_a_store_says_what_it_needs():
    assert run_code(WITHOUT_FCNTL).wait() == 0
