"""What the peers in Python share: the values of a workload, and answering the bench program's questions.

A peer reads one question a line from its standard input and writes one answer a line; bench/README.md has them.
"""

import json
import os
import sys
import time
import traceback

import numpy as np

DIGEST_ID = 4242
DEVICE = os.environ.get("PEER_DEVICE", "cpu")
DTYPES = {"bf16": "bfloat16", "f16": "float16", "f32": "float32"}


def noise(number, count):
    """32 bits that look random for each element of the part with this number: as in workload.h, bit for bit."""
    h = np.arange(count, dtype=np.uint32) * np.uint32(0x9E3779B1)
    h += np.uint32(number * 0x85EBCA77 % 2**32)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0xC2B2AE3D)
    h ^= h >> np.uint32(13)
    return h >> np.uint32(8)


def unit_noise(number, count):
    return noise(number, count).astype(np.float32) / np.float32(2**23) - np.float32(1)


def values(part):
    count = int(np.prod(part["shape"]))
    if part["classes"]:
        return (noise(part["id"], count) % part["classes"]).astype(np.int64).reshape(part["shape"])
    v = unit_noise(part["id"], count) * np.float32(part["scale"]) + np.float32(part["base"])
    return v.reshape(part["shape"])


def digest(array):
    flat = np.asarray(array, dtype=np.float64).ravel()
    return {"norm": float(np.sqrt(flat @ flat)), "dot": float(flat @ unit_noise(DIGEST_ID, flat.size).astype(np.float64))}


class Task:
    """A workload as it is asked for. `exact`: results will be checked; otherwise it will be timed."""

    def __init__(self, spec, form, exact):
        self.family, self.kind, self.options = spec["family"], spec["kind"], spec["options"]
        self.parts = {part["name"]: part for part in spec["parts"]}
        self.tensors = {name: values(part) for name, part in self.parts.items()}
        self.form, self.exact = form, exact

    def dtype(self, name):
        """What libraries call the dtype of a tensor."""
        part = self.parts[name]
        return "int64" if part["classes"] else DTYPES[part["dtype"]]


class Work:
    """`call` returns what is checked and timed; `state` what calls have changed, in the order of the tensors; `settle`
    is called when results have been read, before anything is timed."""

    def __init__(self, call, state=list):
        self.call, self.state, self.settle = call, state, lambda: None


class Server:
    """`make(task)` gives a Work, `read` makes arrays of its results, `wait` ends when a result is there."""

    def __init__(self, make, read, wait, reset):
        self.make, self.read, self.wait, self.reset = make, read, wait, reset
        self.works = {}

    def prepare(self, question):
        spec = question["spec"]
        work = self.make(Task(spec, question["form"], True))
        for _ in range(question["calls"]):
            result = work.call()
        arrays = [*self.read(result), *self.read(work.state())]
        if spec["options"].get("timed_otherwise"):
            work = self.make(Task(spec, question["form"], False))
        work.settle()
        self.works[question["prepare"]] = work
        return {"digests": [digest(a) for a in arrays]}

    def run(self, question):
        call, wait, result = self.works[question["run"]].call, self.wait, None
        if DEVICE == "cuda":  # where calls are queued, and the last one's result is there last
            wait(call())
        start = time.perf_counter_ns()
        for _ in range(question["calls"]):
            result = call()
            if DEVICE == "cpu":
                wait(result)
        wait(result)
        return {"ns": time.perf_counter_ns() - start}

    def drop(self, _):
        self.works.clear()
        self.reset()
        return {}

    def answer(self, question):
        try:
            what = next(name for name in ("prepare", "run", "drop") if name in question)
            return getattr(self, what)(question)
        except Exception as e:
            traceback.print_exc()
            return {"error": f"{type(e).__name__}: {e}".splitlines()[0][:200]}


def serve(start):
    """`start()` imports the library and gives its version and the arguments of Server."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer

    def say(answer):
        answers.write(json.dumps(answer) + "\n")
        answers.flush()

    try:
        version, *functions = start()
    except Exception as e:
        say({"error": f"{type(e).__name__}: {e}".splitlines()[0]})
        return
    server = Server(*functions)
    say({"version": version})
    for line in sys.stdin:
        say(server.answer(json.loads(line)))
