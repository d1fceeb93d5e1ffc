#!/usr/bin/python3
"""example.py README.md OUT.cpp: writes the first C++ block of the README as a source."""

import pathlib
import re
import sys

readme, out = map(pathlib.Path, sys.argv[1:])
out.write_text(re.search(r"^```cpp\n(.*?)^```", readme.read_text(), re.S | re.M).group(1))
