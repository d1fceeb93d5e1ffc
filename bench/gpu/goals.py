"""The goals for one H200 and what has been measured of them."""

import json
import pathlib

# Goal, workload and aim, the step that measures it, and what the measurement leaves out.
GOALS = [
    ("G1", "1000 eager adds of 1024 floats", "<= 2.5 us an op, 2 x torch", "micro", ""),
    ("G2", "replay of 100 tiny kernels", "<= 1.05 x raw graph, host 1.1 x", "micro", ""),
    ("G3", "process start to first planned step", "<= 1 s; no driver: 2 ms", "micro", ""),
    ("G4", "first compile of 50 fused kernels", "<= 2 s", "micro", ""),
    ("G5", "chain of 10 ops, 3 in, 1 out, 256 MB", ">= 92% of copy (80% strided)", "micro", ""),
    ("G6", "softmax, layer norm, RMS norm", ">= 88% of copy", "micro", "in f32"),
    ("G7", "layer norm backward, cross-entropy", ">= 80% of copy", "micro", ""),
    ("G8", "product + bias + GELU, 4096, bf16", ">= 98% of the product, +3%", "micro", ""),
    ("G9", "LSTM H768 B16 T1024, bf16 and f16", "<= 2.0, 5.2 ms and torch's layer", "recurrence", ""),
    ("G10", "LSTM H256-1024 B16, B64 T512, bf16", ">= 2 x torch's layer", "recurrence", ""),
    ("G11", "other cells, H512 B16 T512, bf16", ">= 4 x users' cells elsewhere", "recurrence", ""),
    ("G12", "LeNet and MLP train steps, B128", ">= 1.3 x compiled", "networks", ""),
    ("G13", "ResNet-50 train step, bf16", ">= 1.0 x compiled", "networks", ""),
    ("G14", "transformer block d4096 train, bf16", ">= 1.0 x compiled", "networks", ""),
    ("G15", "transformer block d256 B1 T64", ">= 1.0 x compiled, <= 9 kernels", "networks", ""),
    ("G16", "input pipe from the host", "<= 1.02 x resident data", "networks", ""),
    ("G17", "peak memory of a ResNet-50 step", "<= 1.05 x alive at once", "networks", ""),
]


def time_text(ns):
    for unit in ("ns", "us", "ms"):
        if abs(ns) < 1000:
            break
        ns /= 1000
    else:
        unit = "s"
    return f"{ns:.3g} {unit}"


def rows_of(folders):
    """The latest row of each id in all files of measurements."""
    rows = {}
    for folder in folders:
        for path in sorted(pathlib.Path(folder).glob("*.json")):
            try:
                found = json.loads(path.read_text())
            except ValueError:
                continue
            if isinstance(found, dict):
                rows.update({row["id"]: row for row in found.get("rows", [])})
    return rows


def steps_of(folders):
    steps = {}
    for folder in folders:
        path = pathlib.Path(folder, "steps.json")
        if path.exists():
            steps.update({record["name"]: record for record in json.loads(path.read_text())})
    return steps


def row_text(row):
    if row.get("error"):
        return f"{row['id']}: {row['error']}"
    ours = (row["counts_fast"] and row["fast_ns"]) or row["captured_ns"] or row["eager_ns"]
    text = time_text(ours) if ours else row["note"]
    if row.get("fraction_of_limit"):
        text += f", {100 * row['fraction_of_limit']:.0f}% of limit"
    if row.get("ratio"):
        text += f", {row['ratio']:.2f} x {row['best_peer']}"
    return text


def why_never(goal, steps):
    record = steps.get(goal[3])
    if record is None:
        return f"never run: the step {goal[3]} was not asked for"
    if record.get("dry"):
        return "never run: a dry run"
    return f"never run: the step {goal[3]} {record['status']}" + (f" ({record['why']})" if record.get("why") else "")


def judge(goal, rows, steps):
    """(measured, met, remark)"""
    own = [row for name, row in rows.items() if name.startswith(goal[0] + ".")]
    if not own:
        return "-", "-", why_never(goal, steps)
    met = [row["meets_goal"] for row in own]
    word = "no" if False in met else "not known" if None in met else "yes"
    worst = next((r for r in own if r["meets_goal"] is False), next((r for r in own if r["meets_goal"] is None), own[0]))
    text = row_text(worst)
    if len(own) > 1:
        text = f"{met.count(True)} of {len(own)} rows, {'least' if word != 'yes' else 'such as'} {worst['id'].split('.', 1)[1]}: {text}"
    return text, word, goal[4]


def table(folders):
    """Lines, and the same as a list of dictionaries."""
    rows, steps = rows_of(folders), steps_of(folders)
    lines, entries = [f"{'':4} {'workload':38} {'aim':32} {'met':9} measured; remark"], []
    for goal in GOALS:
        measured, met, remark = judge(goal, rows, steps)
        entries.append({"goal": goal[0], "workload": goal[1], "aim": goal[2], "measured": measured, "met": met, "remark": remark})
        said = "; ".join(part for part in (measured if measured != "-" else "", remark) if part)
        lines.append(f"{goal[0]:4} {goal[1]:38} {goal[2]:32} {met:9} {said}"[:260])
    reached = sum(e["met"] == "yes" for e in entries)
    lines.append(f"{reached} of {len(GOALS)} goals met, {sum(e['met'] == '-' for e in entries)} never run")
    return lines, entries
