#!/usr/bin/env python3
"""Tests and measures Reprise on this machine's GPU, unattended: see docs/gpu.md."""

import argparse
import pathlib
import sys

from control import run_steps, write_json
from goals import table
from steps import Plan


def show_table(folders, out):
    lines, entries = table(folders)
    print("", *lines, sep="\n")
    if out:
        write_json(out / "goals.json", entries)
        (out / "goals.txt").write_text("\n".join(lines) + "\n")


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("parts", nargs="*", help="A, B or C (all of them without), or: table DIR...")
    parser.add_argument("--root", type=pathlib.Path, required=True, help="the folder of a build or a pack")
    parser.add_argument("--out", type=pathlib.Path, default=pathlib.Path("results/gpu"), help="for what comes of it")
    parser.add_argument("--total", type=float, default=570, help="seconds that a part may take")
    parser.add_argument("--peers", default="torch,torch-graph,torch-compile,jax", help="who is measured beside; none with an empty list")
    parser.add_argument("--dry", action="store_true", help="enter every step with something that needs no device")
    args = parser.parse_args()
    if args.parts[:1] == ["table"]:
        show_table(args.parts[1:] or [args.out], None)
        return 0
    out = args.out.resolve()
    out.mkdir(parents=True, exist_ok=True)
    parts = Plan(args.root.resolve(), out, args.dry, args.peers).parts()
    for part in args.parts:
        if part not in parts:
            parser.error(f"expected A, B, C or table, got {part}")
    records = []
    for part in args.parts or list(parts):
        print(f"== {part}", flush=True)
        records += run_steps(parts[part](), out, args.total, lambda line: print(line, flush=True))
    if args.dry:
        write_json(out / "steps.json", [{**record, "dry": True} for record in records])
    show_table([out], out)
    return any(record["status"] != "passed" for record in records)


if __name__ == "__main__":
    sys.exit(main())
