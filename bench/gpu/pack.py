#!/usr/bin/env python3
"""Makes a folder that runs on a machine with a GPU which has neither this project's sources nor its packages.

It has the programs with the shared libraries that they need beyond those of every system, compiled kernels, the peers'
scripts and the steps: `./run A` there. Kernels are compiled here, without a device: those that the tests and the rows
of the measurements launch.
"""

import argparse
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
import time

PROGRAMS = ["bench/bench", "bench/selftest", "test/cuda_tests", "test/cuda_engine", "test/cuda_scans"]
PACKED = ["bench", "test", "lib", "cache"]
MOST_BYTES = 60 << 20
# Of glibc: older programs run with a newer one, and it cannot be mixed with a carried one.
OF_THE_SYSTEM = re.compile(r"^(ld-linux.*|linux-vdso.*|lib(c|m|mvec|dl|rt|pthread|resolv|util)\.so\..*)$")
RUN = """#!/bin/sh
# ./run [A] [B] [C] [--out DIR] ...: see gpu/run.py --help
here=$(CDPATH= cd -- "$(dirname -- "$0")" && pwd)
if [ ! -e "$here/unpacked" ]; then
  tar -xzf "$here/programs.tar.gz" -C "$here" && touch "$here/unpacked" || exit
fi
# Without a PATH, Python does not find itself by a bare name.
exec "$(command -v "${PYTHON:-python3}")" "$here/gpu/run.py" --root "$here" --out "${OUT:-$here/results}" "$@"
"""


def libraries(program):
    """Shared libraries by name that the system does not have by itself."""
    found = {}
    for line in subprocess.run(["ldd", program], capture_output=True, text=True, check=True).stdout.splitlines():
        match = re.match(r"\s*(\S+) => (\S+)", line)
        if match and not OF_THE_SYSTEM.match(match.group(1)):
            if not match.group(2).startswith("/"):
                raise SystemExit(f"{program}: {line.strip()}")
            found[match.group(1)] = match.group(2)
    return found


def copy_programs(build, pack):
    needed = {}
    for name in PROGRAMS:
        target = pack / name
        target.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["strip", "-o", target, build / name], check=True)
        needed |= libraries(build / name)
    (pack / "lib").mkdir(exist_ok=True)
    for name, path in needed.items():
        subprocess.run(["strip", "--strip-unneeded", "-o", pack / "lib" / name, os.path.realpath(path)], check=True)


def copy_scripts(source, pack):
    shutil.copytree(source / "bench/gpu", pack / "gpu", ignore=shutil.ignore_patterns("__pycache__", "pack.py"))
    peers = pack / "include/reprise/bench/peers"
    peers.mkdir(parents=True)
    for script in (source / "bench/peers").glob("*.py"):
        shutil.copy2(script, peers)
    run = pack / "run"
    run.write_text(RUN)
    run.chmod(0o755)


def compile_kernels(build, pack, architecture, limit_s):
    """What the measurements launch, and what the tests have launched here. Returns what was not in time, or failed."""
    environment = {**os.environ, "REPRISE_CUDA_CACHE": str(pack / "cache")}
    log_path = pack.parent / f"{pack.name}-sm_{architecture}.log"
    log_path.unlink(missing_ok=True)
    late = []
    kernels = build / "test/kernels"
    for name, argv in (
        ("selftest", [build / "bench/selftest", "compile-only", str(architecture)]),
        ("measurements", [build / "bench/bench", "--device", "cuda", "--compile-only", str(architecture)]),
        ("tests", [build / "bench/bench", "--compile-texts", kernels, "--compile-only", str(architecture)]),
    ):
        if name == "tests" and not kernels.exists():
            continue
        try:
            with open(log_path, "a") as log:
                subprocess.run(argv, env=environment, stdout=log, stderr=subprocess.STDOUT, timeout=limit_s, check=True)
        except subprocess.TimeoutExpired:
            late.append(f"{name} for sm_{architecture}")
        except subprocess.CalledProcessError as error:
            late.append(f"{name} for sm_{architecture} ended with {error.returncode}, see {log_path}")
    return late


def compressed(pack):
    """The archive of all that `run` unpacks, and the size of the pack with it."""
    archive = pack / "programs.tar.gz"
    with tarfile.open(archive, "w:gz", compresslevel=6) as tar:
        for name in PACKED:
            tar.add(pack / name, name)
    scripts = [path for path in pack.rglob("*") if path.is_file() and path.relative_to(pack).parts[0] not in PACKED]
    return sum(path.stat().st_size for path in scripts)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("pack", nargs="?", type=pathlib.Path, default=pathlib.Path("results/gpu-pack"))
    parser.add_argument("--build", type=pathlib.Path, default=pathlib.Path("build"))
    parser.add_argument("--architectures", default="90,80,100", help="which come in this order as long as they fit; none with an empty list")
    parser.add_argument("--limit", type=float, default=900, help="seconds for the kernels of one architecture")
    args = parser.parse_args()
    pack, build, source = args.pack.resolve(), args.build.resolve(), pathlib.Path(__file__).resolve().parents[2]
    if pack.exists() and any(pack.iterdir()) and not (pack / "run").exists():
        parser.error(f"{pack} is not empty, and no pack")
    shutil.rmtree(pack, ignore_errors=True)
    pack.mkdir(parents=True)
    copy_programs(build, pack)
    copy_scripts(source, pack)
    (pack / "cache").mkdir()
    size = compressed(pack)
    print(f"programs, libraries and scripts: {size / 2**20:.1f} MiB", flush=True)
    for architecture in filter(None, args.architectures.split(",")):
        before, start = set((pack / "cache").iterdir()), time.monotonic()
        late = compile_kernels(build, pack, int(architecture), args.limit)
        new = set((pack / "cache").iterdir()) - before
        size = compressed(pack)
        print(f"sm_{architecture}: {len(new)} kernels in {time.monotonic() - start:.0f} s, {size / 2**20:.1f} MiB", *late, sep="; not all: ", flush=True)
        if size > MOST_BYTES:
            for path in new:
                path.unlink()
            size = compressed(pack)
            print(f"sm_{architecture} is left out: the pack would be over {MOST_BYTES >> 20} MiB", flush=True)
    for name in PACKED:
        shutil.rmtree(pack / name)
    print(f"{pack}: {size / 2**20:.1f} MiB, at most {MOST_BYTES >> 20}")
    return size > MOST_BYTES


if __name__ == "__main__":
    sys.exit(main())
