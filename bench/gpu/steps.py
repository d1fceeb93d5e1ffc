"""What is run where a GPU is at hand, in three parts that fit into ten minutes each."""

import json
import shutil
import sys
import xml.etree.ElementTree as ElementTree

from control import Command, Step

# Rows in the order of what is worth most, so that a step whose time is up has the others. Beside the goals that are
# stated for 16-bit floats stands the same in f32.
MICRO = ["G1.", "G2.", "G3.", "G4.", "G5.", "G6.softmax.f32.8192", "G6.layernorm.f32.8192", "G8.", "G7.", "G6.", "beside.dense_gelu", "beside.epilogue"]
NETWORKS = ["G12.", "G15.", "G16.", "G17.", "G13.train.resnet50.bf16.64", "G14.", "G13.", "beside.train", "beside.transformer"]
RECURRENCE = ["G9.lstm.bf16", "G11.", "G10.lstm.bf16.b16-h512", "G9.", "G10.", "beside.lstm", "beside.gru", "beside.ligru", "beside.lnlstm"]
TESTS = ["cuda_tests", "cuda_engine", "cuda_scans"]
TOOLS = ["memcheck", "racecheck", "initcheck", "synccheck"]
NO_DEVICE = 3  # how the selftest says it
PYTHON_VERSIONS = """
import importlib, json
said = {}
for name in ("torch", "triton", "jax", "numpy"):
    try:
        said[name] = importlib.import_module(name).__version__
    except Exception as e:
        said[name] = f"{type(e).__name__}: {e}"
print(json.dumps(said))
"""


def tests_remark(out):
    """Counts test cases; those that ask what only the device of the tests knows are left out."""
    passed = skipped = 0
    failed = []
    cases = [case for name in TESTS for case in ElementTree.parse(out / f"{name}.xml").iter("testcase")]
    for case in cases:
        problems = [f"{p.get('message')} {p.text}" for p in case if p.tag in ("failure", "error")]
        if not problems:
            passed += 1
        elif all("only the device of the tests" in p for p in problems):
            skipped += 1
        else:
            failed.append(case.get("name"))
    text = f"{passed} passed, {len(failed)} failed, {skipped} left out, as only the device of the tests knows the answer"
    (out / "tests.json").write_text(json.dumps({"passed": passed, "failed": failed, "left_out": skipped}) + "\n")
    if failed or not passed:
        raise RuntimeError(f"{text}: {'; '.join(failed)}")
    return text


def rows_remark(name):
    def remark(out):
        rows = json.loads((out / name).read_text())["rows"]
        bad = [row["id"] for row in rows if row.get("error")]
        return f"{len(rows)} rows" + (f", failed: {', '.join(bad)}" if bad else "")

    return remark


def sanitizer():
    return shutil.which("compute-sanitizer") or "/usr/local/cuda/bin/compute-sanitizer"


class Plan:
    """The steps for programs below `root`, which is a build folder or a pack. `dry` runs what needs no device in the
    place of each command."""

    def __init__(self, root, out, dry, peers):
        self.root, self.out, self.dry = root, out, dry
        cache = root / "cache"
        self.environment = {"REPRISE_CUDA_CACHE": str(cache)} if cache.exists() else {}
        self.peers = [f"--peers={peers}", "--python", sys.executable, "--threads", "8"] if peers else []

    def command(self, argv, dry_argv, log, **more):
        if self.dry:
            more["ok"] = (*more.get("ok", (0,)), NO_DEVICE)
        more["environment"] = {**self.environment, **more.get("environment", {})}
        return Command(dry_argv if self.dry else argv, log, **more)

    def bench(self, name, filters, *options):
        """`name`.json is whole after every row; what an earlier run has left there is not taken for this one's."""
        if not self.dry:
            (self.out / f"{name}.json").unlink(missing_ok=True)
        argv = [self.root / "bench/bench", "--device", "cuda", *filters]
        more = ["--json", self.out / f"{name}.json", "--scratch", self.out / "scratch", *options]
        command = self.command([*argv, *more], [*argv, "--list"], f"{name}.log")
        return [command], None if self.dry else rows_remark(f"{name}.json")

    def step(self, name, limit_s, commands, after=None):
        return Step(name, limit_s, commands, None if self.dry else after)

    def measured(self, name, limit_s, filters, *options):
        commands, after = self.bench(name, filters, *options)
        return self.step(name, limit_s, commands, after)

    def environment_step(self):
        versions = [sys.executable, "-c", PYTHON_VERSIONS]
        selftest = [self.root / "bench/selftest", "environment"]
        smi = ["nvidia-smi", "-q"] if not self.dry or shutil.which("nvidia-smi") else ["true"]
        return self.step("environment", 60, [
            self.command(selftest, selftest, "environment.log", stdout="environment.json", limit_s=20),
            self.command(smi, smi, "nvidia-smi.txt", limit_s=10),
            self.command(versions, [sys.executable, "-c", "print({})"], "versions.log", stdout="versions.json", limit_s=30),
        ])

    def selftest(self):
        argv = [self.root / "bench/selftest", "check"]
        return self.step("selftest", 40, [self.command(argv, argv, "selftest.log", stdout="selftest.json")])

    def tests(self):
        commands = []
        for name in TESTS:
            argv = [self.root / "test" / name]
            real = [*argv, "~[.]~[slow]~[full]", "-r", "junit", "-o", self.out / f"{name}.xml"]
            # How many have failed is told by the file.
            commands.append(self.command(real, [*argv, "--list-reporters"], "tests.log", ok=range(256), environment={"REPRISE_TEST_DEVICE": "real"}, limit_s=60))
        return self.step("tests", 120, commands, tests_remark)

    def sanitizers(self):
        argv = [self.root / "bench/selftest", "check"]
        return [
            self.step(f"sanitizer.{tool}", 35, [
                self.command([sanitizer(), "--tool", tool, "--error-exitcode", "1", *argv], argv, f"sanitizer-{tool}.txt")
            ])
            for tool in TOOLS
        ]

    def parts(self):
        quick = ("--seconds", "2", "--rounds", "10", "--limit", "60")
        slow = ("--seconds", "4", "--rounds", "10", "--limit", "150")
        return {
            "A": lambda: [
                self.environment_step(),
                self.selftest(),
                self.measured("constants", 60, ["constant."], *quick),
                self.tests(),
                *self.sanitizers(),
                self.measured("micro", 240, MICRO, *quick, *self.peers),
            ],
            "B": lambda: [
                self.selftest(),
                self.measured("recurrence", 500, RECURRENCE, *slow, *self.peers),
            ],
            "C": lambda: [
                self.selftest(),
                self.measured("networks", 500, NETWORKS, *slow, *self.peers),
            ],
        }
