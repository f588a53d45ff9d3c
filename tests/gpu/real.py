#!/usr/bin/env python3
"""Tests on a real NVIDIA GPU, and what they took. Every test is a skip where there is none.

Arguments select tests by a part of their names. GPU_REPORT=FILE writes the times there, as a table. Runs as root."""
import ctypes
import importlib.util
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from support import ROOT, Failure, Skip, adopt, expect, read, reap, reporter, verdict  # noqa: E402

report = reporter("gpu_real_")

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.environ.get("GPU_BUILD") or os.path.join(ROOT, "build")
BINARY, DEVICE = os.path.join(BUILD, "src/cli/fermata"), os.path.join(BUILD, "tests/gpu/gpu_device")
KERNELS = os.path.join(HERE, "real/kernels.ptx")
DEADLINE = 120
rows = []


def lines_of(path):
    if not os.path.exists(path):
        return []
    with open(path) as file:
        return [line.split() for line in file.read().splitlines()]


def wait_for(what, why):
    end = time.monotonic() + DEADLINE
    while not what():
        expect(time.monotonic() < end, why)
        time.sleep(0.01)


def available():
    with open("/proc/meminfo") as file:
        for line in file:
            if line.startswith("MemAvailable"):
                return int(line.split()[1]) << 10
    return 0


class Job:
    def __init__(self, work, command):
        self.work, self.out = work, os.path.join(work, "out")
        with open(os.path.join(work, "err"), "wb") as err:
            task = subprocess.Popen([word if word != "OUT" else self.out for word in command], stdin=subprocess.DEVNULL, stdout=err, stderr=err,
                                    start_new_session=True)
        task.returncode = 0
        self.pid = task.pid
        wait_for(lambda: len(lines_of(self.out)) > 3 or self.gone(), f"it does not start: {self.errors()}")
        expect(not self.gone(), f"it does not start: {self.errors()}")

    def errors(self):
        with open(os.path.join(self.work, "err"), errors="replace") as file:
            return file.read()[-400:]

    def gone(self):
        reap()
        return not os.path.exists(f"/proc/{self.pid}")

    def goes_on(self):
        before = len(lines_of(self.out))
        wait_for(lambda: len(lines_of(self.out)) > before + 2 or self.gone(), f"it does not go on: {self.errors()}")
        expect(not self.gone(), f"it has ended: {self.errors()} {lines_of(self.out)[-1:]}")
        expect(not any("wrong" in line for line in lines_of(self.out)), lines_of(self.out)[-1:])

    def command(self, *arguments):
        start = time.monotonic()
        task = subprocess.run([BINARY, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=DEADLINE)
        expect(task.returncode == 0, f"{arguments[:2]}: {task.stdout}")
        return time.monotonic() - start

    def dump(self, *more, name="one"):
        return self.command("dump", "process", self.pid, "--gpu", "on", "--dir", self.work, "--name", name, *more)

    def restore(self, *more, name="one"):
        return self.command("restore", "process", "--path", os.path.join(self.work, name), "--gpu", "on", "--detach", *more)

    def through(self, what):
        down = self.dump()
        wait_for(self.gone, "it does not end")
        before, start = len(lines_of(self.out)), time.monotonic()
        up = self.restore()
        wait_for(lambda: len(lines_of(self.out)) > before or self.gone(), f"it does not go on: {self.errors()}")
        rows.append((what, down, up, time.monotonic() - start))
        self.goes_on()

    def end(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
        except OSError:
            pass
        wait_for(self.gone, "it does not end")


def device(work, *options):
    return Job(work, [DEVICE, "OUT", KERNELS, *options])


def test_device(work):
    """Numbers on the device, bit for bit, three times."""
    job = device(work)
    for name in ("one", "two", "three"):
        job.goes_on()
        job.dump(name=name)
        wait_for(job.gone, "it does not end")
        job.restore(name=name)
        job.goes_on()
    job.end()


def test_leave_running(work):
    job = device(work)
    job.dump("--leave-running")
    job.goes_on()
    job.end()
    job.restore()
    job.goes_on()
    job.end()


def test_events(work):
    job = device(work, "-w", "events")
    job.through("two streams and an event, 64 MiB")
    job.end()


def test_graph(work):
    job = device(work, "-w", "graph")
    job.through("a graph, 64 MiB")
    job.end()


def test_cublas(work):
    """Products of matrices, exact in doubles."""
    try:
        job = device(work, "-w", "cublas")
    except Failure as why:
        raise Skip(f"needs libcublas: {why}") if "libcublas" in str(why) else why
    job.through("cuBLAS, 64 MiB")
    job.end()


def test_staged(work):
    """The driver's own way, also where the helper would copy."""
    job = device(work)
    job.dump("--gpu-staged")
    wait_for(job.gone, "it does not end")
    job.restore()
    job.goes_on()
    job.end()


def sized(work, gib):
    room = min(available() // 2, shutil.disk_usage(work).free)
    if room < (gib << 30) * 11 // 10:
        raise Skip(f"needs {gib} GiB of memory twice, and of disk")
    job = device(work, "-m", str(gib << 10))
    job.through(f"{gib} GiB of device memory")
    job.end()


def test_1_gib(work):
    sized(work, 1)


def test_8_gib(work):
    sized(work, 8)


def test_32_gib(work):
    sized(work, 32)


def test_two_processes(work):
    """Both on one GPU, below one parent."""
    script = f"{DEVICE} {work}/a {KERNELS} & exec {DEVICE} {work}/out {KERNELS}"
    job = Job(work, ["sh", "-c", script])
    wait_for(lambda: len(lines_of(work + "/a")) > 3, "the second does not start")
    job.through("two processes, 64 MiB each")
    before = len(lines_of(work + "/a"))
    wait_for(lambda: len(lines_of(work + "/a")) > before + 2, "the second does not go on")
    expect(not any("wrong" in line for line in lines_of(work + "/a")), "the second is wrong")
    for line in lines_of(work + "/a")[-1:]:
        os.kill(int(line[0]), signal.SIGKILL)
    job.end()


def same(work, script, module, count):
    if not importlib.util.find_spec(module):
        raise Skip(f"needs {module}")
    path = os.path.join(HERE, "real", script)
    whole = os.path.join(work, "whole")
    task = subprocess.run([sys.executable, path, whole, str(count)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    if task.returncode:
        raise Skip(f"{script} does not run here: {task.stderr.decode(errors='replace')[-200:]}")
    job = Job(work, [sys.executable, path, "OUT", str(count)])
    job.through(script)
    wait_for(job.gone, "it does not end")
    expect(lines_of(job.out) == lines_of(whole), "the results differ from those of a run that nobody interrupted")


def test_torch(work):
    same(work, "train.py", "torch", 400)


def test_transformers(work):
    same(work, "generate.py", "transformers", 400)


def why_not():
    if not os.path.exists("/proc/driver/nvidia/version"):
        return "there is no NVIDIA driver"
    if not os.path.exists(DEVICE):
        return "not built"
    status = subprocess.run([BINARY, "check", "--feature", "cuda_checkpoint"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                            text=True)
    return None if status.returncode == 0 else status.stdout.strip()


def write_report():
    copies = subprocess.run([DEVICE, "-b"], stdout=subprocess.PIPE, text=True).stdout.split()
    table = "| what | dump, s | restore, s | until it goes on, s |\n|---|---|---|---|\n"
    table += "".join(f"| {what} | {down:.2f} | {up:.2f} | {first:.2f} |\n" for what, down, up, first in rows)
    if len(copies) == 2:
        table += f"\nCopies to and from pinned memory in the same run: {copies[0]} and {copies[1]} GiB/s.\n"
    with open(os.environ["GPU_REPORT"], "w") as file:
        file.write(table)


def main():
    adopt()
    missing = why_not()
    for name, test in [(name[5:], f) for name, f in globals().items() if name.startswith("test_")]:
        if not all(word in "gpu_real_" + name for word in sys.argv[1:]):
            continue
        with tempfile.TemporaryDirectory(prefix="fermata-gpu-", dir=os.environ.get("GPU_WORK")) as work:
            try:
                if missing:
                    raise Skip(missing)
                test(work)
                result, why = "passed", ""
            except Skip as skip:
                result, why = "skipped", str(skip)
            except (Failure, OSError, subprocess.TimeoutExpired) as failure:
                result, why = "failed", str(failure)[:800]
        report(result, name, why)
    if os.environ.get("GPU_REPORT") and not missing:
        write_report()
    return verdict()


if __name__ == "__main__":
    sys.exit(main())
