#!/usr/bin/python3
"""same_losses.py SAMPLE ARGS...: a sample must leave the same bits in every mode. Each mode counts as a test."""

import pathlib
import subprocess
import sys
import tempfile


def losses(mode):
    """The losses of one run, as text, and what was wrong with it."""
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder, "losses")
        done = subprocess.run([*sys.argv[1:], "--mode", mode, "--losses", path], capture_output=True, text=True, errors="replace")
        problem = f"exit status {done.returncode}\n{done.stdout[-1000:]}{done.stderr[-3000:]}" if done.returncode else ""
        return path.read_text() if path.exists() else "", problem


def difference(mode, eager):
    text, problem = losses(mode)
    if problem or text == eager:
        return problem
    lines = enumerate(zip(eager.split(), text.split()))
    return next((f"loss {i}: eager {a}, {mode} {b}" for i, (a, b) in lines if a != b), "another number of losses")


eager, problem = losses("eager")
if problem:
    print(f"eager: {problem}\n0 passed, 3 failed")
    sys.exit(1)
failed = 0
for mode in ("graph", "verify"):
    if problem := difference(mode, eager):
        failed += 1
        print(f"{mode}: {problem}")
print(f"{len(eager.split())} losses")
print(f"{3 - failed} passed, {failed} failed")
sys.exit(failed > 0)
