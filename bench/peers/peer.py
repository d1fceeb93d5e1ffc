"""What the peers in Python share: the values of workload.py, timing, and the rows they print."""

import argparse
import json
import statistics
import time

import numpy as np
from workload import GATES, SIZES

LEAST_CALLS, MOST_CALLS, WARM_UP_CALLS = 5, 2000, 2


def values(number, shape):
    """v of tensor `number`."""
    h = np.arange(np.prod(shape), dtype=np.uint32) * np.uint32(0x9E3779B1)
    h += np.uint32(number * 0x85EBCA77 % 2**32)
    h ^= h >> np.uint32(15)
    h *= np.uint32(0xC2B2AE3D)
    h ^= h >> np.uint32(13)
    return ((h >> np.uint32(8)).astype(np.float32) / np.float32(2**23) - np.float32(1)).reshape(shape)


def tensors(cell, size):
    """x and the parameters by name."""
    batch, hidden, steps = SIZES[size]
    width = GATES[cell] * hidden
    scale = np.float32(1 / np.sqrt(hidden))
    shapes = {"W": (1, (width, hidden)), "U": (2, (width, hidden))}
    if cell != "ligru":
        shapes["b"] = (3, (width,))
    if cell == "gru":
        shapes["c"] = (4, (width,))
    if cell == "lnlstm":
        shapes |= {"a": (5, (width,)), "a2": (6, (hidden,)), "b2": (7, (hidden,))}
    parameters = {name: values(number, shape) * scale for name, (number, shape) in shapes.items()}
    for name in ("a", "a2"):
        if name in parameters:
            parameters[name] += np.float32(1)
    return values(0, (steps, batch, hidden)), parameters


def norm(arrays):
    return float(np.sqrt(sum(np.sum(np.square(a, dtype=np.float64)) for a in arrays)))


def time_calls(name, call, seconds):
    """Fields of a row: the median, the distance of the quartiles in relation to it, the time of the first call."""
    start = time.perf_counter()
    call()
    first = time.perf_counter() - start
    for _ in range(WARM_UP_CALLS):
        call()
    times, total = [], 0
    while len(times) < LEAST_CALLS or total < seconds and len(times) < MOST_CALLS:
        start = time.perf_counter()
        call()
        times.append(time.perf_counter() - start)
        total += times[-1]
    low, middle, high = statistics.quantiles(times, n=4)
    return {f"{name}_ns": middle * 1e9, f"{name}_spread": (high - low) / middle, f"{name}_first_s": first}


def arguments(description, peers):
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--peer", choices=peers, default=peers[0])
    parser.add_argument("--cell", choices=GATES, action="append")
    parser.add_argument("--size", choices=SIZES, action="append")
    parser.add_argument("--form", choices=["own", "user", "hoisted"], action="append")
    parser.add_argument("--phase", choices=["forward", "train"], action="append")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seconds", type=float, default=1.0, help="how long each figure is measured, at least")
    args = parser.parse_args()
    args.cell = args.cell or list(GATES)
    args.size = args.size or list(SIZES)
    args.phase = args.phase or ["forward", "train"]
    return args


def measure(args, version, forms, make):
    """Prints one row for every cell, size and form.

    `make(cell, size, form)` gives two functions: of all h, and of the gradients, that of x first.
    """
    for size in args.size:
        for cell in args.cell:
            for form in forms(cell):
                if args.form and form not in args.form:
                    continue
                row = {"peer": args.peer, "version": version, "cell": cell, "form": form, "size": size}
                row["threads"] = args.threads
                forward, train = make(cell, size, form)
                if "forward" in args.phase:
                    row |= time_calls("forward", forward, args.seconds)
                    row["mean_h"] = float(np.mean(np.asarray(forward())[-1], dtype=np.float64))
                if "train" in args.phase:
                    row |= time_calls("train", train, args.seconds)
                    x_grad, *grads = map(np.asarray, train())
                    row |= {"grad_norm": norm(grads), "x_grad_norm": norm([x_grad])}
                print(json.dumps(row), flush=True)
