#!/usr/bin/env python3
"""What dump and restore of a GPU process take, phase by phase, beside the speed of copies to and from pinned memory in the same run. Needs root.

--sizes GIB,…   device memory of the program (1,8,32); what the machine has no room for is left out, and said
--dir DIR       where checkpoints go (a temporary directory)
--budget S      no case is begun after so many seconds (600)
--markdown      tables, as docs/GPU.md has them
--fake          on the tests' own driver: to see that this works. Its figures say nothing, and are marked so."""
import argparse
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BUILD = os.environ.get("GPU_BUILD") or os.path.join(ROOT, "build")
BINARY = os.path.join(BUILD, "src/cli/fermata")
DEVICE = os.path.join(BUILD, "tests/gpu/gpu_device")
APP = os.path.join(BUILD, "tests/gpu/gpu_app")
KERNELS = os.path.join(ROOT, "tests/gpu/real/kernels.ptx")
DEADLINE = 300
PR_SET_CHILD_SUBREAPER = 36
# Between which lines of the log a phase lies.
DUMP = (("driver, lock", "Asking the GPU", "Locked "), ("stop", "Locked ", "Stopped "), ("checkpoint", "Stopped ", "The GPU state "), ("the rest", "The GPU state ", "Dumping finished"))
LIVE = (("driver, lock", "Asking the GPU", "Locked "), ("stop", "Locked ", "Stopped "), ("checkpoint", "Stopped ", "The GPU state "),
        ("memory, restore", "The GPU state ", "have their GPUs again"), ("writing, behind it", "have their GPUs again", "Dumping finished"))
RESTORE = (("until all stand ready", "^", "Restoring the GPU state"), ("restore", "Restoring the GPU state", "have their GPUs again"))


def wait_for(what, why):
    end = time.monotonic() + DEADLINE
    while not what():
        if time.monotonic() > end:
            raise RuntimeError(why)
        time.sleep(0.001)


def phases(log, table):
    """Seconds of each, from the log's times; None where a line is not there."""
    lines = [(float(m[1]), m[2]) for m in (re.match(r"\((\d+\.\d+)\) (.*)", line) for line in log.splitlines()) if m]
    found = []
    for name, first, last in table:
        starts = [lines[0][0]] if first == "^" and lines else [at for at, text in lines if first in text]
        ends = [at for at, text in lines if last in text]
        # A live dump stops the tree twice: the last time counts.
        found.append((name, ends[-1] - starts[-1] if starts and ends else None))
    return found


class Run:
    def __init__(self, options, work, gib):
        self.options, self.work, self.out = options, work, os.path.join(work, "out")
        self.environment = dict(os.environ)
        mib = str(int(gib * 1024))
        command = [DEVICE, self.out, KERNELS, "-m", mib]
        if options.fake:
            os.mkdir(work + "/dev")
            fakes = os.path.join(ROOT, "build/tests/gpu")
            self.environment |= {"FAKE_GPU_DIR": work + "/dev", "LD_LIBRARY_PATH": fakes, "FAKE_CUSTOM": "1", "FERMATA_GPU": "on"}
            command = [APP, "-m", mib, self.out]
        self.task = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
                                     env=self.environment)
        self.task.returncode = 0  # reaped by hand
        self.pid = self.task.pid
        wait_for(lambda: self.size() > 20 or not self.alive(), "the program does not start")
        if not self.alive():
            raise RuntimeError("the program does not start")

    def alive(self):
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        return os.path.exists(f"/proc/{self.pid}")

    def size(self):
        return os.path.getsize(self.out) if os.path.exists(self.out) else 0

    def command(self, *arguments):
        start = time.monotonic()
        task = subprocess.run([BINARY, *map(str, arguments), "-v4"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                              timeout=DEADLINE, env=self.environment)
        if task.returncode:
            raise RuntimeError(task.stdout.strip().splitlines()[-1])
        return time.monotonic() - start, task.stdout

    def dump(self, name, *more):
        return self.command("dump", "process", self.pid, "--gpu", "on", "--dir", self.work, "--name", name, *more)

    def longest_silence(self, during):
        """The longest time without a new line of the program while `during` runs, and what that gave."""
        longest, over = 0.0, threading.Event()

        def watch():
            nonlocal longest
            last, at = self.size(), time.monotonic()
            while not over.is_set():
                time.sleep(0.0005)
                now = self.size()
                if now != last:
                    last, at = now, time.monotonic()
                longest = max(longest, time.monotonic() - at)
        thread = threading.Thread(target=watch)
        thread.start()
        try:
            result = during()
        finally:
            over.set()
            thread.join()
        return longest, result

    def end(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
        except OSError:
            pass
        wait_for(lambda: not self.alive(), "it does not end")


def measure(options, work, gib, staged):
    """One size, one way: a live dump, a dump, a restore."""
    more = ["--gpu-staged"] if staged else []
    run = Run(options, work, gib)
    row = {"GiB": gib, "way": "by the driver" if staged else "by the helper"}
    try:
        row["longest silence"], (row["live dump"], log) = run.longest_silence(lambda: run.dump("live", "--leave-running", *more))
        stood = re.search(r"It stood still for ([\d.]+) ms", log)
        row["pause"] = float(stood[1]) / 1e3 if stood else None
        row["live phases"] = phases(log, LIVE)
        shutil.rmtree(work + "/live")
        row["dump"], log = run.dump("one", *more)
        row["dump phases"] = phases(log, DUMP)
        row["used own"] = "is in files" in log
        wait_for(lambda: not run.alive(), "it does not end")
        before, start = run.size(), time.monotonic()
        row["restore"], log = run.command("restore", "process", "--path", work + "/one", "--gpu", "on", "--detach")
        wait_for(lambda: run.size() > before, "it does not go on")
        row["first new output"] = time.monotonic() - start
        row["restore phases"] = phases(log, RESTORE)
    finally:
        run.end()
    return row


def available():
    with open("/proc/meminfo") as file:
        return next(int(line.split()[1]) << 10 for line in file if line.startswith("MemAvailable"))


def copies(options):
    """GiB/s from and to the device with pinned memory, or None."""
    if options.fake:
        return None
    words = subprocess.run([DEVICE, "-b"], stdout=subprocess.PIPE, text=True).stdout.split()
    return tuple(map(float, words)) if len(words) == 2 else None


def seconds(value):
    return "–" if value is None else f"{value:.3f}"


def speed(gib, value):
    return "–" if not value else f"{gib / value:.1f}"


def phase(row, which, name):
    return dict(row[which]).get(name)


def report(options, rows, limit, left_out):
    if options.fake:
        print("On the tests' own driver: these figures say nothing of a GPU.\n")
    for row in rows:
        if not options.markdown:
            print(f"{row['GiB']} GiB, {row['way']}: dump {seconds(row['dump'])} s, restore {seconds(row['restore'])} s, live dump {seconds(row['live dump'])} s")
            for which in ("dump phases", "live phases", "restore phases"):
                print(f"  {which}: " + ", ".join(f"{name} {seconds(value)}" for name, value in row[which]))
    print("| GiB | moved | dump, s | checkpoint, s | GiB/s | restore, s | of it the GPU's, s | GiB/s | first new output, s | live: pause, s | the program is silent for, s |\n"
          "|---|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        out, back = phase(row, "dump phases", "checkpoint"), phase(row, "restore phases", "restore")
        print(f"| {row['GiB']} | {row['way']} | {seconds(row['dump'])} | {seconds(out)} | {speed(row['GiB'], out)} | {seconds(row['restore'])} | {seconds(back)} | "
              f"{speed(row['GiB'], back)} | {seconds(row['first new output'])} | {seconds(row['pause'])} | {seconds(row['longest silence'])} |")
    if limit:
        print(f"\nCopies to and from pinned memory in the same run: {limit[0]:.1f} and {limit[1]:.1f} GiB/s.")
    for why in left_out:
        print(f"\nLeft out: {why}.")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes")
    parser.add_argument("--dir")
    parser.add_argument("--budget", type=float, default=600)
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--fake", action="store_true")
    options = parser.parse_args()
    if not options.fake and not os.path.exists("/proc/driver/nvidia/version"):
        print("skipped: there is no NVIDIA driver")
        return 77
    import ctypes
    ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)  # what is restored is reaped here
    sizes = [float(word) for word in (options.sizes or ("0.02" if options.fake else "1,8,32")).split(",")]
    end, rows, left_out = time.monotonic() + options.budget, [], []
    limit = copies(options)
    for gib in sizes:
        for staged in (False, True):
            with tempfile.TemporaryDirectory(prefix="fermata-bench-gpu-", dir=options.dir) as work:
                need = int(gib * 2**30)
                if time.monotonic() > end:
                    left_out.append(f"{gib:g} GiB, for want of time")
                    break
                if shutil.disk_usage(work).free < need * 5 // 4 or available() < need * 5 // 2:
                    left_out.append(f"{gib:g} GiB, for want of disk or memory")
                    break
                try:
                    row = measure(options, work, gib, staged)
                except RuntimeError as why:
                    left_out.append(f"{gib:g} GiB {'by the driver' if staged else 'by the helper'}: {why}")
                    continue
                if staged or row["used own"]:
                    rows.append(row)
                else:  # this driver has one way alone
                    rows.append({**row, "way": "by the driver"})
                    break
    report(options, rows, limit, left_out)
    return 0 if rows else 1


if __name__ == "__main__":
    sys.exit(main())
