"""The benchmark for a machine with an accelerator runs on one without."""

import json
import subprocess
import sys


def test_it_runs_small(tmp_path):
    out = tmp_path / "record.json"
    command = [sys.executable, "-m", "experiments.benchmarks.accelerator", "--smoke"]
    done = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    names = [row["name"] for row in json.loads(out.read_text())["rows"]]
    assert "grid of 4 networks" in names and "200 heads, d=5 N=200" in names
