#!/usr/bin/python3
"""layout.py must find each of these mistakes, and none in a tree without them."""

import pathlib
import subprocess
import sys
import tempfile

LAYOUT = pathlib.Path(__file__).with_name("layout.py")
HEADER = "#pragma once\n"
CLEAN = {
    "reprise.h": HEADER + '#include "reprise/core/a.h"\n',
    "core/a.h": HEADER + "#include <vector>\nnamespace rp { int f(int x); }\n",
    "core/a.cpp": '#include "reprise/core/a.h"\nint rp::f(int x) {\n  return x;\n}\n',
    "eager/b.h": HEADER + '#include "reprise/core/a.h"\n',
    "eager/b.cpp": '#include "reprise/eager/b.h"\n// #include "reprise/nn/c.h"\nconst char* s = R"({{)";\n',
    "meson.build": "install_headers('reprise.h')\n",
    "core/meson.build": "sources += files('a.cpp')\ninstall_headers('a.h')\n",
    "eager/meson.build": "sources += files(\n  'b.cpp',\n)\n",
}
BODY = "  x += 1;\n" * 61
CHAIN = {f"core/n{i}.h": HEADER + f'#include "reprise/core/n{i + 1}.h"\n' for i in range(12)}
MISTAKES = {
    "order": ({"core/a.h": HEADER + '#include "reprise/eager/b.h"\n'}, "includes eager/b.h"),
    "cycle": ({"eager/b.h": HEADER + '#include "reprise/eager/b.h"\n'}, "includes itself"),
    "chain": ({**CHAIN, "core/n12.h": HEADER}, "chain of 12 own headers"),
    "spelling": ({"eager/b.cpp": '#include "b.h"\n'}, "are spelled"),
    "missing": ({"eager/b.cpp": '#include "reprise/eager/c.h"\n'}, "no such header"),
    "guard": ({"eager/b.h": "int g();\n"}, "no #pragma once"),
    "public": ({"core/a.h": HEADER + "#include <fmt/core.h>\n"}, "public, but includes <fmt/core.h>"),
    "unlisted": ({"eager/c.cpp": "int h();\n"}, "no meson.build lists it"),
    "uninstalled": ({"core/meson.build": "sources += files('a.cpp')\n"}, "no meson.build installs it"),
    "planted": ({"core/a.cpp": "#include \"reprise/core/planted.h\"\n"}, "outside planted_sources"),
    "file": ({"core/a.cpp": "\n" * 451}, "451 lines, at most 450"),
    "function": ({"core/a.cpp": "namespace rp {\nint f(int x) {\n" + BODY + "  return x;\n}\n}\n"}, "core/a.cpp:2: a function of 64"),
    "method": ({"core/a.cpp": "struct S {\n  int f(int x) const {\n" + BODY + "  }\n};\n"}, "core/a.cpp:2: a function of 63"),
    "lambda": ({"core/a.cpp": "Op ops[] = {\n  op([](int x) {\n" + BODY + "  }),\n};\n"}, "core/a.cpp:2: a function of 63"),
}


def run(changes):
    with tempfile.TemporaryDirectory() as root:
        for name, text in {**CLEAN, **changes}.items():
            path = pathlib.Path(root, name)
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)
        done = subprocess.run([sys.executable, LAYOUT, "--strict", root], capture_output=True, text=True)
        return done.returncode, done.stdout + done.stderr


failed = 0
for name, (changes, wanted) in {"clean": ({}, "0 errors, 0 reports"), **MISTAKES}.items():
    code, output = run(changes)
    if wanted not in output or code != (name != "clean"):
        failed += 1
        print(f"{name}: expected \"{wanted}\", got:\n{output}")
print(f"{len(MISTAKES) + 1 - failed} passed, {failed} failed")
sys.exit(failed > 0)
