"""Every subprocess of a test runs without network; a test fails where one was tried."""

import os
from pathlib import Path

import pytest

# The code must be offline by itself: nothing tells the libraries that there is no hub.
for name in ("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE", "HF_DATASETS_OFFLINE", "HF_ENDPOINT"):
    os.environ.pop(name, None)
os.environ["OMP_NUM_THREADS"] = "1"  # the same sums in every process, and steady on a busy machine
paths = [str(Path(__file__).parent / "offline"), os.environ.get("PYTHONPATH")]
os.environ["PYTHONPATH"] = os.pathsep.join(path for path in paths if path)


@pytest.fixture(scope="session", autouse=True)
def network_log(tmp_path_factory) -> Path:
    """Where offline/sitecustomize.py notes attempts; a test that wants one empties the file."""
    path = tmp_path_factory.mktemp("network") / "attempts.txt"
    path.touch()
    os.environ["NETWORK_LOG"] = str(path)
    return path


@pytest.fixture(autouse=True)
def no_network(network_log):
    yield
    attempts = network_log.read_text(encoding="utf-8")
    network_log.write_text("", encoding="utf-8")
    assert attempts == ""
