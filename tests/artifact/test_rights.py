"""All files of a run may be read by the same people: as the umask says, whichever library wrote."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest
from small_histories import tiny_histories, walks

from longrec.artifact.artifact import Artifact
from longrec.retrieval.index_cache import open_index
from longrec.runs.evaluate import evaluate
from longrec.runs.train import train

GROUP, USER = 54_321, 54_322


@pytest.fixture
def umask(request) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def made(folder: Path) -> Path:
    """A folder with histories, a run of them with all that may be in one, and a copy of it."""
    histories = tiny_histories(folder / "histories", walks(30, 20, 5, 20), n_items=20)
    small = {"dim": 8, "layers": 1, "ffn_dim": 8, "max_epochs": 1}
    recommender = train(histories, "hydrarec", folder / "run", **small)
    evaluate(recommender, histories)
    open_index(recommender, "approximate")
    recommender.save(folder / "copy")
    return folder


@pytest.mark.parametrize("umask", [0o002, 0o027], indirect=True)
def test_every_file_has_the_rights_of_any_new_file(umask: int, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    folder = made(tmp_path / "made")
    paths = [folder, *folder.rglob("*")]
    assert {path.name for path in paths} >= {
        *("model.safetensors", "added_score.safetensors", "tensors.safetensors", "ranks.parquet"),
        *("config.json", "events.arrow", "log.csv"),
    }
    wrong = {
        str(path.relative_to(folder)): oct(stat.S_IMODE(path.stat().st_mode))
        for path in paths
        if path.name != ".lock"
        and stat.S_IMODE(path.stat().st_mode) != (0o777 if path.is_dir() else 0o666) & ~umask
    }
    assert not wrong


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can be two users")
@pytest.mark.parametrize("umask", [0o027], indirect=True)
def test_another_user_of_the_group_loads_it(umask: int, tmp_path: Path) -> None:
    pytest.importorskip("faiss")
    folder = made(tmp_path / "made")
    for path in [folder, *folder.rglob("*")]:
        os.chown(path, -1, GROUP)
    child = os.fork()
    if not child:
        try:
            os.chdir(folder)  # the folders above are the first user's alone
            os.setgroups([])
            os.setgid(GROUP)
            os.setuid(USER)
            with pytest.raises(PermissionError):
                Path("run/new").write_text("")
            read = Artifact.load(Path("run"))
            assert read.state_digest == Artifact.load(Path("copy")).state_digest
            assert all(path.read_bytes() for path in Path().rglob("*.*") if path.is_file())
            os._exit(0)
        except BaseException as error:
            os.write(2, repr(error).encode())
        finally:
            os._exit(1)
    assert os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0
