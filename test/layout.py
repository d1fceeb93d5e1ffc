#!/usr/bin/python3
"""Checks how the sources are laid out; see the section "Folders" of README.md.

Errors: includes against the order of the folders, cycles, chains of more than ten own headers, other spellings than
"reprise/core/tensor.h", headers without #pragma once, third-party names in public headers, sources that no meson.build
lists, planted defects outside the list of files that are built a second time.
Reports (errors with --strict): files over 450 lines, functions over 60 lines.
"""

import argparse
import functools
import pathlib
import re
import sys

ORDER = ["core", "eager", "graph", "fusion", "backends", "nn", "samples", "bench", "test"]
ROOT_LEVEL = {"reprise.h": "nn", "engine.cpp": "nn"}
MAX_CHAIN, MAX_FILE, MAX_FUNCTION = 10, 450, 60
PLANTED = "reprise/core/planted.h"

INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*(["<])([^">]+)[">]', re.M)
# What can look like a comment, a brace or a line of code without being one.
NOT_CODE = re.compile(
    r'R"(?P<mark>[^\s()\\]{0,16})\(.*?\)(?P=mark)"'  # raw strings
    r'|"(?:\\.|[^"\\\n])*"|(?<![0-9a-fA-F])\'(?:\\.|[^\'\\\n])+\''  # strings, characters (not digit separators)
    r"|//[^\n]*|/\*.*?\*/"
    r"|^[ \t]*#(?:\\\n|[^\n])*",  # preprocessor lines
    re.S | re.M,
)
TRANSPARENT = re.compile(r'\b(namespace|class|struct|union|enum|extern)\b[^()=;]*$')


def blank(text):
    """`text` with everything replaced by blanks that is not code; lines keep their numbers."""
    return NOT_CODE.sub(lambda m: re.sub(r"[^\n]", " ", m.group()), text)


def long_functions(text):
    """(line, length) of every outermost body, lambdas in tables included, that is too long."""
    code = blank(text)
    found, scopes, depth, head, parens, start = [], [], 0, 0, 0, 0
    for at in re.finditer(r"[{}();]", code):
        c, i = at.group(), at.start()
        if depth:  # inside a body
            depth += (c == "{") - (c == "}")
            if depth == 0:
                length = code.count("\n", start, i) + 1
                if length > MAX_FUNCTION:
                    found.append((code.count("\n", 0, start) + 1, length))
                head = i + 1
        elif c == "{":
            before = code[head:i]
            if parens == 0 and TRANSPARENT.search(before):
                scopes.append(c)
                head = i + 1
            elif "(" in before or "]" in before and not before.rstrip().endswith(("=", "]")):
                depth, start = 1, i
            else:  # an initializer: it may hold lambdas
                scopes.append(c)
        elif c == "}":
            if scopes:
                scopes.pop()
            head = i + 1
        elif c == ";":
            head, parens = i + 1, 0
        else:
            parens += (c == "(") - (c == ")")
    return found


class Layout:
    def __init__(self, root):
        self.root = root
        self.errors, self.reports = [], []
        self.files = {}
        for folder in [root] + [root / f for f in ORDER]:
            paths = folder.glob("*") if folder == root else folder.rglob("*")
            for path in sorted(paths):
                if path.suffix in (".h", ".cpp") and path.is_file():
                    self.files[path.relative_to(root).as_posix()] = path.read_text()
        self.own = {name: self.own_includes(name) for name in self.files}

    def error(self, name, text):
        self.errors.append(f"{name}: {text}")

    def includes(self, name):
        """(as written, path inside the project or None) of every include."""
        for m in INCLUDE.finditer(self.files[name]):
            path = m.group(2)
            yield m.group(1) + path, path[8:] if path.startswith("reprise/") else None

    def own_includes(self, name):
        own = []
        for spelled, target in self.includes(name):
            if target is None:
                if spelled[0] == '"':
                    self.error(name, f'{spelled}": own headers are spelled "reprise/core/tensor.h"')
            elif target not in self.files:
                self.error(name, f"{spelled}: there is no such header")
            else:
                own.append(target)
        return own

    def check_order(self):
        def level(name):
            return ORDER.index(ROOT_LEVEL.get(name) or name.split("/")[0])

        for name, own in self.own.items():
            for target in own:
                if level(target) > level(name):
                    self.error(name, f"includes {target}; order: {' <- '.join(ORDER)}")

    def check_chains(self):
        """The longest chain below each file; a cycle is cut where it closes."""
        open_now = []

        @functools.cache
        def chain(name):
            if name in open_now:
                self.error(name, "includes itself through " + " -> ".join(open_now[open_now.index(name) :]))
                return ()
            open_now.append(name)
            longest = max((chain(t) for t in self.own[name]), key=len, default=())
            open_now.pop()
            return (name,) + longest

        for name in self.files:
            below = chain(name)[1:]
            if len(below) > MAX_CHAIN:
                self.error(name, f"chain of {len(below)} own headers, at most {MAX_CHAIN}: " + " -> ".join(below))

    def check_headers(self):
        for name, text in self.files.items():
            if name.endswith(".h") and "#pragma once" not in text:
                self.error(name, "no #pragma once")
        for name in sorted(self.public_headers()):
            for spelled, target in self.includes(name):
                if target is None and re.search(r"[/.]", spelled):
                    self.error(name, f"public, but includes {spelled}>")

    def public_headers(self):
        reached, todo = set(), ["reprise.h"] if "reprise.h" in self.files else []
        while todo:
            name = todo.pop()
            if name not in reached:
                reached.add(name)
                todo += self.own[name]
        return reached

    def check_build(self):
        """Every source stands in a meson.build; those with planted defects also in the list of such files."""
        built, planted = set(), set()
        for path in [self.root / "meson.build", *(p for f in ORDER for p in (self.root / f).rglob("meson.build"))]:
            if not path.exists():
                continue
            folder = path.parent.relative_to(self.root)
            text = re.sub(r"#.*", "", path.read_text())
            listed = lambda part: {(folder / n).as_posix() for n in re.findall(r"'([\w/.]+\.(?:cpp|h))'", part)}
            built |= listed(text)
            for part in re.findall(r"planted_sources \+?= files\((.*?)\)", text, re.S):
                planted |= listed(part)
            if folder.name in ORDER[-3:]:  # programs are listed by name
                built |= {(folder / f"{n}.cpp").as_posix() for n in re.findall(r"'(\w+)'", text)}
        for name, text in self.files.items():
            if name.endswith(".cpp") and name not in built and not name.startswith("test/consumer/"):
                self.error(name, "no meson.build lists it")
            if PLANTED in text and name not in planted and not name.startswith("test/"):
                self.error(name, f"{PLANTED} outside planted_sources")
        for name in sorted(self.public_headers() - built):
            self.error(name, "reached from reprise.h, but no meson.build installs it")

    def report_sizes(self):
        for name, text in self.files.items():
            lines = text.count("\n")
            if lines > MAX_FILE:
                self.reports.append(f"{name}: {lines} lines, at most {MAX_FILE}")
            for line, length in long_functions(text):
                self.reports.append(f"{name}:{line}: a function of {length} lines, at most {MAX_FUNCTION}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--strict", action="store_true", help="sizes are errors too")
    parser.add_argument("root", nargs="?", default=pathlib.Path(__file__).resolve().parent.parent, type=pathlib.Path)
    args = parser.parse_args()
    layout = Layout(args.root)
    layout.check_order()
    layout.check_chains()
    layout.check_headers()
    layout.check_build()
    layout.report_sizes()
    print(*layout.errors, *layout.reports, sep="\n")
    print(f"{len(layout.files)} files, {len(layout.errors)} errors, {len(layout.reports)} reports")
    return bool(layout.errors or args.strict and layout.reports)


if __name__ == "__main__":
    sys.exit(main())
