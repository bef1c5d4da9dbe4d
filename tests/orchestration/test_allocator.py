"""A program that begins again with memory settings is still the same process, told the same."""

import os
import platform
import subprocess
import sys

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


def test_it_begins_again_as_the_same_process() -> None:
    has_settings = platform.libc_ver()[0] == "glibc"
    settings = f"{allocator.KEPT}:{allocator.HEAP}" if has_settings else "None"
    environment = {name: os.environ[name] for name in os.environ if name != allocator.VARIABLE}
    pid, told = run(environment)
    assert told == [str(pid), settings, "--flag two words\n"]


def test_what_the_user_chose_stays() -> None:
    pid, told = run({**os.environ, allocator.VARIABLE: "glibc.malloc.check=0"})
    assert told == [str(pid), "glibc.malloc.check=0", "--flag two words\n"]
