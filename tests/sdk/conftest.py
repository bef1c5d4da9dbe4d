"""The client libraries, installed once into the virtual environment's folder, and a browser."""

from __future__ import annotations

import fcntl
import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).parent
CACHE = Path(sys.prefix) / "sdk"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.getgroup("sdk").addoption(
        "--write-sdk-table", action="store_true", help="write docs/sdks.md from this run"
    )


@pytest.fixture(scope="session")
def modules() -> Path:
    """The folder node_modules as package-lock.json pins it."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed, so the JavaScript libraries cannot be")
    lock = HERE / "package-lock.json"
    directory = CACHE / hashlib.sha256(lock.read_bytes()).hexdigest()[:16]
    CACHE.mkdir(exist_ok=True)
    with (CACHE / "lock").open("w") as held:  # the tests of other processes want it too
        fcntl.flock(held, fcntl.LOCK_EX)
        if not (directory / "complete").exists():
            install(lock, directory)
    return directory / "node_modules"


def install(lock: Path, directory: Path) -> None:
    for old in CACHE.glob("*/"):
        shutil.rmtree(old, ignore_errors=True)
    directory.mkdir()
    for file in (lock, HERE / "package.json"):
        shutil.copy(file, directory)
    command = ["npm", "ci", "--ignore-scripts", "--no-audit", "--no-fund"]
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"npm ci could not install the JavaScript libraries: {done.stderr[-500:]}")
    (directory / "complete").touch()


@pytest.fixture(scope="session")
def chromium() -> str:
    """The path of a Chromium."""
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        if found := shutil.which(name):
            return found
    pytest.skip("no Chromium is installed, so the browser libraries cannot run")
