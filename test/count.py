#!/usr/bin/python3
"""Counts what a `meson test` did: prints "PASSED FAILED", and on standard error what the failed programs said last.

A Catch2 program counts by its test cases, a program whose last line is "N passed, N failed" by that line, any other as one.
"""

import json
import pathlib
import re
import sys

CATCH_ALL = re.compile(r"^All tests passed \(.* in (\d+) test cases?\)", re.M)
CATCH_SOME = re.compile(r"^test cases: .*$", re.M)
OWN_LINE = re.compile(r"(\d+) passed, (\d+) failed\s*\Z")


def count(output, ok):
    """(passed, failed) of one program. One that fails without a failed case (a crash, a leak at the end) is a failure."""
    passed, failed = (1, 0) if ok else (0, 1)
    if "No tests ran" in output or "No test cases matched" in output:
        passed, failed = 0, 0
    elif m := CATCH_ALL.search(output):
        passed, failed = int(m.group(1)), 0
    elif m := CATCH_SOME.search(output):
        numbers = {word: int(n) for n, word in re.findall(r"(\d+) (passed|failed)", m.group())}
        passed, failed = numbers.get("passed", 0), numbers.get("failed", 0)
    elif m := OWN_LINE.search(output):
        passed, failed = int(m.group(1)), int(m.group(2))
    return passed, failed if ok else max(failed, 1)


def main(log):
    passed = failed = 0
    path = pathlib.Path(log)
    lines = path.read_text().splitlines() if path.exists() else []
    for test in map(json.loads, lines):
        output = test.get("stdout", "") + test.get("stderr", "")
        ok = test["result"] in ("OK", "SKIP", "EXPECTEDFAIL")
        p, f = (0, 0) if test["result"] == "SKIP" else count(test.get("stdout", ""), ok)
        passed, failed = passed + p, failed + f
        if f:
            print(f"--- {test['name']}: {test['result']}, {test['duration']:.1f} s: {' '.join(test['command'])}",
                  *output.splitlines()[-40:], sep="\n", file=sys.stderr)
    print(passed, failed if lines else failed + 1)


if __name__ == "__main__":
    main(sys.argv[1])
