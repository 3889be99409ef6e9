"""Exports need a newer PyTorch than the rest: with an older one their tests are left out."""

from longrec.export.folder import TORCH, torch_version

collect_ignore_glob = [] if torch_version() >= TORCH else ["test_*.py"]
