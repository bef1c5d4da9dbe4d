"""Runs every benchmark, one after another: `python -m benchmarks` or `make bench`."""

import subprocess
import sys

for name in ("collector", "load", "dedup", "identity", "scale", "freshness", "syncs", "hot"):
    print(f"\n== {name}", flush=True)
    subprocess.run([sys.executable, "-m", f"benchmarks.{name}"], check=True)
