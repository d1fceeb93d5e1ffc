#!/usr/bin/python3
"""accuracy.py LEAST SAMPLE ARGS...: the sample must print an accuracy of at least LEAST percent."""

import re
import subprocess
import sys

least, command = float(sys.argv[1]), sys.argv[2:]
done = subprocess.run(command, capture_output=True, text=True, errors="replace")
print(done.stdout[-1000:] + done.stderr[-2000:])
found = re.search(r"accuracy.*?([\d.]+)%", done.stdout)
good = done.returncode == 0 and found is not None and float(found[1]) >= least
print("1 passed, 0 failed" if good else f"expected an accuracy of at least {least}%\n0 passed, 1 failed")
sys.exit(not good)
