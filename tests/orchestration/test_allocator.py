"""A program that begins again with memory settings is still the same process, told the same."""

import os
import platform
import subprocess
import sys

import pytest

from orchestration import allocator

PROGRAM = """
import os, sys
from orchestration import allocator
allocator.keep_memory()
print(os.getpid(), os.environ.get(allocator.VARIABLE), *sys.argv[1:])
"""


def run(environment: dict[str, str]) -> tuple[int, list[str]]:
    program = subprocess.Popen(
        [sys.executable, "-c", PROGRAM, "--flag", "two words"],
        stdout=subprocess.PIPE,
        text=True,
        env=environment,
    )
    told, _ = program.communicate(timeout=60)
    return program.pid, told.split(maxsplit=2)


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="another C library")
def test_it_begins_again_as_the_same_process() -> None:
    environment = {name: os.environ[name] for name in os.environ if name != allocator.VARIABLE}
    pid, told = run(environment)
    assert told == [str(pid), f"{allocator.KEPT}:{allocator.HEAP}", "--flag two words\n"]


def test_what_the_user_chose_stays() -> None:
    pid, told = run({**os.environ, allocator.VARIABLE: "glibc.malloc.check=0"})
    assert told == [str(pid), "glibc.malloc.check=0", "--flag two words\n"]
