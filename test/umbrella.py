#!/usr/bin/python3
"""umbrella.py INCLUDE COMPILER...: the umbrella header must compile in under two seconds of processor time."""

import resource
import subprocess
import sys

LIMIT = 2.0


def seconds(command):
    """Processor time of one compilation: what other programs do at the same time counts little."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(command, input="#include <reprise/reprise.h>\n", text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


include, compiler = sys.argv[1], [word for word in sys.argv[2:] if not word.endswith("ccache")]
command = [*compiler, "-std=c++20", "-I", include, "-x", "c++", "-c", "-o", "/dev/null", "-"]
best = min(seconds(command) for _ in range(3))
print(f"reprise.h compiles in {best:.2f} s, at most {LIMIT} s")
sys.exit(best > LIMIT)
