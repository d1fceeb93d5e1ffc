"""Runs steps one after the other, each with a limit of its own, and keeps what came of them in a file after each."""

import json
import os
import pathlib
import signal
import subprocess
import time


class Command:
    """A program with its arguments. Both outputs are added to `log`, but for the standard one if it has a file
    `stdout`. `ok` are the exit statuses that are no failure; `environment` is added to this process's own."""

    def __init__(self, argv, log, stdout=None, ok=(0,), environment=None, limit_s=None):
        self.argv, self.log, self.stdout, self.ok = [str(a) for a in argv], log, stdout, ok
        self.environment, self.limit_s = environment or {}, limit_s


class Step:
    """Commands that share a limit in seconds; each of them runs, whatever became of those before. `after(out)` reads
    what they have left and returns a remark, and raises if it says that the step has failed."""

    def __init__(self, name, limit_s, commands, after=None):
        self.name, self.limit_s, self.commands, self.after = name, limit_s, commands, after


def end(process):
    """Ends the process with all that it has started."""
    try:
        os.killpg(process.pid, signal.SIGKILL)
    except ProcessLookupError:
        pass
    process.wait()


def tail(path, lines=3):
    try:
        text = path.read_text(errors="replace").strip().splitlines()
    except OSError:
        return ""
    return " | ".join(line.strip() for line in text[-lines:])[-400:]


def run_command(command, out, limit_s):
    """A dictionary of what became of it."""
    started, log = time.monotonic(), out / command.log
    result = {"command": " ".join(command.argv), "log": command.log, "limit_s": round(limit_s, 1)}
    with open(log, "ab") as text, open(out / (command.stdout or command.log), "wb" if command.stdout else "ab") as stdout:
        try:
            process = subprocess.Popen(
                command.argv,
                stdin=subprocess.DEVNULL,
                stdout=stdout,
                stderr=text,
                env={**os.environ, **command.environment},
                start_new_session=True,
            )
        except OSError as e:
            return {**result, "status": "failed", "why": str(e), "seconds": 0}
        try:
            code = process.wait(timeout=max(limit_s, 0.1))
            result.update(code=code, status="passed" if code in command.ok else "failed")
        except subprocess.TimeoutExpired:
            result.update(status="timed out")
        finally:
            end(process)  # and whatever it has left behind
    result["seconds"] = round(time.monotonic() - started, 2)
    if result["status"] == "failed":
        result["why"] = f"exit status {result['code']}: {tail(log)}"
    elif result["status"] == "timed out":
        result["why"] = f"ended after {limit_s:.0f} s"
    return result


def run_step(step, out, limit_s):
    started, results = time.monotonic(), []
    for command in step.commands:
        left = limit_s - (time.monotonic() - started)
        if left <= 0:
            results.append({"command": " ".join(command.argv), "status": "not run", "why": "the step's time was up"})
            continue
        results.append(run_command(command, out, min(left, command.limit_s or left)))
    bad = [r for r in results if r["status"] != "passed"]
    record = {"name": step.name, "status": bad[0]["status"] if bad else "passed", "commands": results}
    if bad:
        record["why"] = bad[0]["why"]
    if step.after:
        try:
            record["remark"] = step.after(out)
        except Exception as e:  # what was left is not what was expected
            record["status"], record["why"] = "failed" if not bad else record["status"], f"{record.get('why', '')} {e}".strip()
    record["seconds"] = round(time.monotonic() - started, 2)
    return record


def write_json(path, value):
    """Whole at every moment."""
    draft = pathlib.Path(f"{path}.part")
    draft.write_text(json.dumps(value, indent=2) + "\n")
    draft.rename(path)


def run_steps(steps, out, total_s, say=print):
    """Runs them all within `total_s` seconds; returns their records, which stand in steps.json after each."""
    out = pathlib.Path(out)
    out.mkdir(parents=True, exist_ok=True)
    path = out / "steps.json"
    known = {r["name"]: r for r in json.loads(path.read_text())} if path.exists() else {}
    started, records = time.monotonic(), []
    for step in steps:
        left = total_s - (time.monotonic() - started)
        if left <= 1:
            record = {"name": step.name, "status": "not run", "why": f"the {total_s:.0f} s of the call were up"}
        else:
            record = run_step(step, out, min(left, step.limit_s))
        records.append(record)
        known[step.name] = record
        write_json(path, list(known.values()))
        remark = record.get("why") or record.get("remark") or ""
        say(f"{step.name:16} {record['status']:10} {record.get('seconds', 0):7.1f} s  {remark}"[:400])
    return records
