#!/usr/bin/python3
"""Measures the peers of the recurrences, each in processes of its own, and writes one JSON file; see bench/README.md.

A peer that is not there, or that fails, has a row with an "error".
"""

import argparse
import json
import os
import pathlib
import platform
import signal
import subprocess
import sys

from workload import GATES, SIZES

HERE = pathlib.Path(__file__).resolve().parent
PEERS = ["libtorch", "torch", "torch-compile-step", "torch-compile", "jax"]
KEY = ["peer", "cell", "form", "size", "threads"]


def describe_machine():
    cpu = "unknown"
    for line in pathlib.Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.split(":", 1)[1].strip()
            break
    return {"cpu": cpu, "cores": os.cpu_count(), "load": os.getloadavg()[0], "kernel": platform.release()}


class Runner:
    def __init__(self, args):
        self.args = args
        self.rows = {}
        self.machine = describe_machine()

    def add(self, row):
        """The phases of one figure may come from two processes: what is known of it grows."""
        known = self.rows.setdefault(tuple(row.get(k) for k in KEY), {})
        errors = [r["error"] for r in (known, row) if "error" in r]
        known |= row
        if errors:
            known["error"] = "; ".join(errors)
        self.save()

    def save(self):
        rows = list(self.rows.values())
        versions = {row["peer"]: row["version"] for row in rows if "version" in row}
        text = json.dumps({"machine": self.machine, "versions": versions, "rows": rows}, indent=2)
        self.args.json.parent.mkdir(parents=True, exist_ok=True)
        self.args.json.write_text(text + "\n")

    def environment(self, threads):
        n = str(threads)
        new = {name: n for name in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS", "NPROC")}
        new |= {"JAX_PLATFORMS": "cpu", "CUDA_VISIBLE_DEVICES": ""}
        new["TORCHINDUCTOR_CACHE_DIR"] = str(self.args.cache.resolve() / n)  # its code is made for a number of threads
        if threads == 1:
            new["XLA_FLAGS"] = "--xla_cpu_multi_thread_eigen=false"
        return os.environ | new

    def call(self, command, about):
        """Adds the rows that `command` prints, and one of what went wrong."""
        say(about, f"{about['threads']} thread(s)")
        env = self.environment(about["threads"])
        process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True,
                                   start_new_session=True)
        error = None
        try:
            out, err = process.communicate(timeout=self.args.limit)
            if process.returncode:
                error = (err.strip().splitlines() or [f"exit status {process.returncode}"])[-1]
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            out, _ = process.communicate()
            error = f"not done in {self.args.limit:.0f} s"
        except BaseException:
            os.killpg(process.pid, signal.SIGKILL)
            raise
        for line in out.splitlines():
            if line.startswith("{"):
                self.add(json.loads(line))
        if error:
            phase = about.get("phase")
            self.add({k: v for k, v in about.items() if k in KEY} | {"error": f"{phase}: {error}" if phase else error})

    def figures(self, command, peer, threads):
        """A process for each cell and size, so that one that hangs costs no other; of compiled ones for each phase."""
        phases = [{}]
        if peer.startswith("torch-compile"):
            phases = [{"form": "user", "phase": phase} for phase in ("forward", "train")]
        for size in self.args.size or SIZES:
            for cell in self.args.cell or GATES:
                about = {"peer": peer, "cell": cell, "size": size, "threads": threads}
                flags = ["--cell", cell, "--size", size, "--threads", str(threads), "--seconds", str(self.args.seconds)]
                for more in phases:
                    phase = ["--phase", more["phase"]] if more else []
                    self.call([*command, *flags, *phase], about | more)

    def imports(self, python, module):
        return subprocess.run([python, "-c", f"import {module}"], capture_output=True).returncode == 0

    def peer(self, peer, threads):
        about = {"peer": peer, "threads": threads}
        if peer == "libtorch":
            if not self.args.libtorch.exists():
                self.add(about | {"error": "libtorch-dev is not installed or its program is not built"})
                return
            self.figures([str(self.args.libtorch)], peer, threads)
            return
        python = self.args.venv / "bin/python"
        module = "jax" if peer == "jax" else "torch"
        if not python.exists() or not self.imports(python, module):
            self.add(about | {"error": f"{module} is not installed in {self.args.venv}"})
            return
        command = [str(python), "-W", "ignore", str(HERE / f"{module}_rnn.py"), "--peer", peer]
        self.figures(command, peer, threads)


def say(about, *more):
    print("measuring", *(v for k, v in about.items() if k != "threads"), *more, file=sys.stderr, flush=True)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", type=pathlib.Path, default=pathlib.Path("build/peers.json"))
    parser.add_argument("--peers", help=f"of {','.join(PEERS)}; all if not given")
    parser.add_argument("--cell", choices=GATES, action="append")
    parser.add_argument("--size", choices=SIZES, action="append")
    parser.add_argument("--threads", type=int, action="append", help="may be given more than once; 1 if not given")
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each figure is measured, at least")
    parser.add_argument("--limit", type=float, default=150,
                        help="seconds that a process may take for a cell of one size, or for a figure that is compiled")
    parser.add_argument("--libtorch", type=pathlib.Path, default=pathlib.Path("build/bench/peers/torch_rnn"))
    parser.add_argument("--venv", type=pathlib.Path, default=pathlib.Path("build/peers-venv"))
    parser.add_argument("--cache", type=pathlib.Path, default=pathlib.Path("build/peers-inductor"),
                        help="what torch.compile made; remove it to see what compiling costs")
    args = parser.parse_args()
    chosen = args.peers.split(",") if args.peers else PEERS
    if unknown := set(chosen) - set(PEERS):
        parser.error(f"unknown peers: {', '.join(sorted(unknown))}")
    runner = Runner(args)
    for threads in args.threads or [1]:
        for peer in chosen:
            runner.peer(peer, threads)


if __name__ == "__main__":
    main()
