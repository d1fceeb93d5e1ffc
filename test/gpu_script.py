#!/usr/bin/python3
"""gpu_script.py SOURCE BUILD: what runs where a GPU is at hand, tried without one: that steps which hang or fail do not
stop those after them, that every step is entered, that the table of goals is complete, and that a pack starts where
nothing else is."""

import contextlib
import io
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import time
import unittest

sys.dont_write_bytecode = True
SOURCE, BUILD = (pathlib.Path(a).resolve() for a in sys.argv[1:3])
SCRIPTS = SOURCE / "bench/gpu"
sys.path.insert(0, str(SCRIPTS))

import control  # noqa: E402
import goals  # noqa: E402
import steps  # noqa: E402
from control import Command, Step  # noqa: E402


def shell(text, **more):
    return Command(["sh", "-c", text], "log.txt", **more)


class Folder(unittest.TestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory()
        self.addCleanup(folder.cleanup)
        self.out = pathlib.Path(folder.name, "out")

    def run_steps(self, list_of_steps, total_s=60):
        self.lines = []
        return control.run_steps(list_of_steps, self.out, total_s, self.lines.append)


class Control(Folder):
    def test_each_step_ends_in_time_and_stops_no_other(self):
        start = time.monotonic()
        records = self.run_steps([
            Step("fails", 5, [shell("echo because; exit 7"), shell("echo and goes on", stdout="second.txt")]),
            Step("hangs", 1, [shell("sleep 77.125 & sleep 77.25")]),
            Step("absent", 5, [Command(["/nowhere/program"], "log.txt")]),
            Step("raises", 5, [shell("true")], lambda out: json.loads((out / "nothing.json").read_text())),
            Step("works", 5, [shell("echo fine", stdout="fine.txt")], lambda out: (out / "fine.txt").read_text().strip()),
        ])
        self.assertLess(time.monotonic() - start, 10)
        self.assertEqual([r["status"] for r in records], ["failed", "timed out", "failed", "failed", "passed"])
        self.assertIn("exit status 7: because", records[0]["why"])
        self.assertEqual([c["status"] for c in records[0]["commands"]], ["failed", "passed"])
        self.assertIn("ended after 1 s", records[1]["why"])
        self.assertEqual(records[4]["remark"], "fine")
        self.assertEqual(json.loads((self.out / "steps.json").read_text()), records)
        self.assertEqual(len(self.lines), 5)
        left = subprocess.run(["ps", "-eo", "args"], capture_output=True, text=True).stdout.splitlines()
        self.assertEqual([line for line in left if re.fullmatch(r"sleep 77\.\d+", line.strip())], [])

    def test_limits_of_commands_steps_and_calls(self):
        records = self.run_steps([
            Step("command", 20, [shell("sleep 9", limit_s=0.5), shell("true")]),
            Step("step", 1, [shell("sleep 9"), shell("true")]),
            Step("call", 20, [shell("sleep 9")]),
            Step("late", 20, [shell("true")]),
        ], total_s=4)
        self.assertEqual([r["status"] for r in records], ["timed out", "timed out", "timed out", "not run"])
        self.assertEqual([c["status"] for c in records[0]["commands"]], ["timed out", "passed"])
        self.assertEqual([c["status"] for c in records[1]["commands"]], ["timed out", "not run"])
        self.assertIn("4 s of the call were up", records[3]["why"])

    def test_a_later_call_keeps_what_an_earlier_one_has_left(self):
        for name in ("one", "two"):
            self.run_steps([Step(name, 5, [shell(f"echo {name}", stdout="last.txt")])])
        self.assertEqual((self.out / "last.txt").read_text(), "two\n")
        self.assertEqual([r["name"] for r in json.loads((self.out / "steps.json").read_text())], ["one", "two"])


class Tests(Folder):
    def remark(self, cases):
        self.out.mkdir()
        for name in steps.TESTS:
            (self.out / f"{name}.xml").write_text(f"<testsuites><testsuite>{cases}</testsuite></testsuites>")
            cases = ""
        return steps.tests_remark(self.out)

    def test_what_only_the_tests_device_knows_is_left_out(self):
        left_out = '<testcase name="b"><error message="x">only the device of the tests knows this</error></testcase>'
        text = self.remark(f'<testcase name="a"/>{left_out}')
        self.assertIn("1 passed, 0 failed, 1 left out", text)

    def test_a_case_that_also_fails_otherwise_has_failed(self):
        with self.assertRaisesRegex(RuntimeError, "1 failed.*the name"):
            self.remark('<testcase name="a"/><testcase name="the name"><error message="only the device of the tests"/>'
                        '<failure message="1 == 2">left other bits</failure></testcase>')

    def test_no_test_at_all_is_no_success(self):
        with self.assertRaisesRegex(RuntimeError, "0 passed"):
            self.remark("")


class Goals(Folder):
    def row(self, name, met, **more):
        return {"id": name, "meets_goal": met, "captured_ns": 2500.0, "eager_ns": None, "fast_ns": None, "counts_fast": False, "note": "", "fraction_of_limit": 0.95,
                "ratio": 1.5, "best_peer": "jax", **more}

    def entries(self, rows, records):
        self.out.mkdir(exist_ok=True)
        (self.out / "some.json").write_text(json.dumps({"machine": {}, "rows": rows}))
        (self.out / "steps.json").write_text(json.dumps(records))
        lines, entries = goals.table([self.out])
        self.assertEqual([e["goal"] for e in entries], [f"G{i}" for i in range(1, 18)])
        self.assertEqual(len(lines), 19)
        return {e["goal"]: e for e in entries}

    def test_met_missed_and_never_run(self):
        found = self.entries(
            [self.row("G1.x", True), self.row("G10.a", True), self.row("G10.b", False), self.row("G3.x", None),
             self.row("G12.x", False, error="out of memory")],
            [{"name": "micro", "status": "timed out", "why": "ended after 240 s"}])
        self.assertEqual([found[g]["met"] for g in ("G1", "G10", "G3", "G12", "G5")], ["yes", "no", "not known", "no", "-"])
        self.assertEqual(found["G1"]["measured"], "2.5 us, 95% of limit, 1.50 x jax")
        self.assertIn("1 of 2 rows, least b", found["G10"]["measured"])
        self.assertIn("out of memory", found["G12"]["measured"])
        self.assertIn("micro timed out (ended after 240 s)", found["G5"]["remark"])
        self.assertIn("networks was not asked for", found["G13"]["remark"])

    def test_broken_files_are_left_out(self):
        self.out.mkdir()
        (self.out / "half.json").write_text('{"rows": [')
        self.assertEqual({e["met"] for e in self.entries([], []).values()}, {"-"})


class Programs(Folder):
    def test_a_dry_run_enters_every_step(self):
        argv = [sys.executable, "-B", SCRIPTS / "run.py", "--root", BUILD, "--out", self.out, "--dry"]
        done = subprocess.run(argv, capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        records = json.loads((self.out / "steps.json").read_text())
        plan = steps.Plan(BUILD, self.out, True, "").parts()
        self.assertEqual([r["name"] for r in records], [s.name for part in "ABC" for s in plan[part]()])
        self.assertEqual({r["status"] for r in records}, {"passed"})
        entries = json.loads((self.out / "goals.json").read_text())
        self.assertEqual({e["remark"] for e in entries}, {"never run: a dry run"})
        self.assertIn("0 of 17 goals met, 17 never run", done.stdout)

    def test_each_goal_has_rows(self):
        listed = subprocess.run([BUILD / "bench/bench", "--device", "cuda", "--list"], capture_output=True, text=True).stdout
        filters = {"micro": steps.MICRO, "recurrence": steps.RECURRENCE, "networks": steps.NETWORKS}
        for name, _, _, step, _ in goals.GOALS:
            rows = [line.split()[0] for line in listed.splitlines() if line.startswith(name + ".")]
            self.assertTrue(rows, name)
            for row in rows:
                self.assertTrue(any(f in row for f in filters[step]), row)

    def test_kernels_are_compiled_and_kept_without_a_device(self):
        def compiled():
            argv = [BUILD / "bench/bench", "--device", "cuda", "--compile-only", "90", "constant.launch", "constant.product", "G3.", "G4."]
            done = subprocess.run(argv, capture_output=True, text=True, env={"REPRISE_CUDA_CACHE": str(self.out)})
            if "libnvrtc" in done.stderr:
                self.skipTest(done.stderr.strip())
            self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
            return {path.name: path.stat().st_ino for path in self.out.iterdir()}

        kept = compiled()
        self.assertTrue(kept)
        self.assertEqual(compiled(), kept)

    def test_plans_of_cudnn_are_kept_without_a_device(self):
        said = subprocess.run([BUILD / "bench/selftest", "environment"], capture_output=True, text=True).stdout
        folders = [pathlib.Path(folder) for folder in json.loads(said)["searched"] if folder]
        cases = subprocess.run([BUILD / "test/cuda_tests", "--list-test-names-only"], capture_output=True, text=True).stdout
        if "plans for an H200" not in cases or not any(any(folder.glob("libcudnn.so.*")) for folder in folders):
            self.skipTest("cuDNN is not there")
        argv = [BUILD / "bench/bench", "--device", "cuda", "--compile-only", "90", "G12.train.lenet"]
        subprocess.run(argv, capture_output=True, env={"REPRISE_CUDA_CACHE": str(self.out)})
        self.assertTrue([path for path in self.out.iterdir() if b"\x7fELF" not in path.read_bytes()])

    def test_a_pack_starts_where_nothing_else_is(self):
        pack = self.out / "pack"
        done = subprocess.run([sys.executable, "-B", SCRIPTS / "pack.py", pack, "--build", BUILD, "--architectures", ""],
                              capture_output=True, text=True)
        self.assertEqual(done.returncode, 0, done.stdout + done.stderr)
        dry = subprocess.run([pack / "run", "A", "--dry"], capture_output=True, text=True, env={})
        self.assertEqual(dry.returncode, 0, dry.stdout + dry.stderr)
        clean = {"env": {"REPRISE_CUDA_PATH": "/nowhere"}, "capture_output": True, "text": True, "cwd": "/"}
        for program in ("bench/bench", "bench/selftest", *(f"test/{name}" for name in steps.TESTS)):
            for line in subprocess.run(["ldd", pack / program], **clean).stdout.splitlines():
                match = re.match(r"\s*(\S+) => (\S+)", line)
                if match and (pack / "lib" / match.group(1)).exists():
                    self.assertTrue(pathlib.Path(match.group(2)).resolve().is_relative_to(pack.resolve()), line)
        said = subprocess.run([pack / "bench/selftest", "check"], **clean)
        answer = json.loads(said.stdout)
        if not answer["available"]:
            self.assertEqual(said.returncode, 3)
            self.assertTrue(answer["why_not"])
            # A busy machine interrupts most of them, so one that was left alone is waited for.
            looks = (json.loads(subprocess.run([pack / "bench/selftest"], **clean).stdout)["look_ms"] for _ in range(50))
            self.assertTrue(any(look < 2 for look in looks), "no look for a device took less than 2 ms")
            start = subprocess.run([pack / "bench/selftest", "start"], **clean)
            self.assertIn("there is no CUDA device", start.stderr)


if __name__ == "__main__":
    told = io.StringIO()
    with contextlib.redirect_stdout(told):
        result = unittest.main(argv=sys.argv[:1], exit=False, verbosity=2).result
    bad = len(result.failures) + len(result.errors)
    print(f"{result.testsRun - bad} passed, {bad} failed")
    sys.exit(bad > 0)
