#!/usr/bin/env python3
"""What memory costs that did not change, is shared, or is not needed yet: an incremental dump, a store of checkpoints, forked workers, a lazy
restore, many of one checkpoint; each beside its floor, in one run. Needs root.

--json         print one JSON object
--markdown     print a table, as the README has it
--quick        little memory
--seconds N    fewer rounds where they would take longer, but one of each
--criu PATH    another build of fermata
Words          run only the rows with one of them in their name"""
import argparse
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

import bench as measuring

ROUNDS = 5
CHECKPOINTS = 20


class Row:
    def __init__(self, name, value, floor, unit, aim, note):
        self.name, self.value, self.floor, self.unit, self.aim, self.note = name, value, floor, unit, aim, note

    def as_dict(self):
        return dict(vars(self), times_floor=self.value / self.floor)


class Writer:
    """bench_writer, which changes so many of a thousand pages when it is told to."""

    def __init__(self, bench, mib, permille):
        self.bench = bench
        if os.path.exists(bench.ready):
            os.unlink(bench.ready)
        task = subprocess.Popen([measuring.BIN + "writer", bench.ready, str(mib), "0", str(permille)], stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd=bench.work)
        task.returncode = 0  # reaped by sweep
        self.pid = task.pid
        bench.wait_word("ready")

    def change(self):
        os.unlink(self.bench.ready)
        os.kill(self.pid, signal.SIGUSR2)
        self.bench.wait_word("wrote")


def room(mib):
    if measuring.available_mib() < mib:
        raise measuring.Unsupported(f"{mib} MiB of free memory are needed, {measuring.available_mib()} are there")


def on_disk(path):
    """MiB."""
    return sum(os.lstat(os.path.join(folder, name)).st_blocks * 512 for folder, _, names in os.walk(path) for name in names) / (1 << 20)


def fresh(bench, name):
    path = os.path.join(bench.work, name)
    shutil.rmtree(path, ignore_errors=True)
    os.mkdir(path)
    return path


def criu_dump(bench, pid, to, *options):
    return bench.measured([bench.criu, "dump", "-t", str(pid), "-D", to, *options])[0]


def incremental(bench, quick, time_left):
    """One hundredth of the memory is written between two dumps."""
    mib = 256 if quick else 1024
    room(4 * mib)
    writer = Writer(bench, mib, 10)
    full, part, size = [], [], []
    first = fresh(bench, "round0")
    full.append(criu_dump(bench, writer.pid, first, "-R", "--track-mem"))
    whole = on_disk(first)
    for number in (count + 1 for count in time_left.rounds(ROUNDS)):
        writer.change()
        to = fresh(bench, f"round{number}")
        part.append(criu_dump(bench, writer.pid, to, "-R", "--track-mem", "--prev-images-dir", f"../round{number - 1}"))
        size.append(on_disk(to))
        again = fresh(bench, "full")
        full.append(criu_dump(bench, writer.pid, again, "-R", "--no-live"))
        shutil.rmtree(again)
    return [Row(f"incremental, 1% of {mib} MiB written: time", statistics.median(part) * 1e3, statistics.median(full) * 1e3 / 100, "ms", 3,
                "a hundredth of a full dump"),
            Row(f"incremental, 1% of {mib} MiB written: size", statistics.median(size), whole / 100, "MiB", 3, "a hundredth of a full one")]


def store(bench, quick, time_left):
    """Twenty checkpoints, between which 5% are written."""
    mib = 64 if quick else 512
    room(4 * mib)
    writer = Writer(bench, mib, 50)
    fermata, place = os.path.join(bench.work, "fermata"), os.path.join(bench.work, "store")
    os.symlink(os.readlink(bench.criu), fermata)
    for number in range(CHECKPOINTS):
        if number:
            writer.change()
        bench.measured([fermata, "dump", "process", str(writer.pid), "--no-server", "--dir", f"store:{place}", "--name", f"n{number}", "--leave-running"])
    floor = mib * (1 + (CHECKPOINTS - 1) * 0.05)
    return [Row(f"{CHECKPOINTS} checkpoints of {mib} MiB in the store, 5% written between them", on_disk(place), floor, "MiB", 1.2,
                "the memory once, and what was written")]


def pss(pids):
    total = 0
    for pid in pids:
        with open(f"/proc/{pid}/smaps_rollup") as file:
            total += int(next(line for line in file if line.startswith("Pss:")).split()[1])
    return total / 1024


def forked(bench, quick, time_left):
    """Ten processes that share their memory since fork."""
    mib = 128 if quick else 1024
    room(4 * mib)
    pid = bench.start(mib, 10, 1)
    to = fresh(bench, "forked")
    criu_dump(bench, pid, to)
    measuring.sweep(kill=False)
    disk = on_disk(to)
    bench.measured([bench.criu, "restore", "-d", "-D", to])
    memory = pss([pid] + measuring.children(pid))
    return [Row(f"10 forked workers sharing {mib} MiB: on disk", disk, mib, "MiB", 1.05, "the memory once"),
            Row(f"10 forked workers sharing {mib} MiB: in memory after restore (PSS)", memory, mib, "MiB", 1.05, "the memory once")]


def until_it_answers(bench, pid, images, *options):
    start = time.monotonic()
    bench.measured([bench.criu, "restore", "-d", "-D", images, *options])
    measuring.ask_writer(bench, pid)
    return time.monotonic() - start


def lazy_size(quick):
    """As much as there is room for twice: the program while it is dumped, and its checkpoint."""
    sizes = (512,) if quick else (8192, 4096, 2048)
    return next((mib for mib in sizes if measuring.available_mib() > 2 * mib + 512), sizes[-1])


def lazy(bench, quick, time_left):
    """Until the restored program answers a signal. Small and large take turns, so that both meet the same machine."""
    large = lazy_size(quick)
    room(2 * large + 512)
    times, images, pids = {1: [], large: []}, {}, {}
    for mib in (1, large):
        pids[mib] = Writer(bench, mib, 0).pid
        images[mib] = fresh(bench, f"lazy{mib}")
        criu_dump(bench, pids[mib], images[mib])
        measuring.sweep(kill=False)
    for _ in time_left.rounds(3 * ROUNDS):
        for mib, options in ((1, ()), (large, ("--lazy-pages",))):
            times[mib].append(until_it_answers(bench, pids[mib], images[mib], *options))
            measuring.sweep()
    return [Row(f"lazy restore of {large} MiB, until the program answers", statistics.median(times[large]) * 1e3, statistics.median(times[1]) * 1e3,
                "ms", 2, "a restore of 1 MiB")]


def within(unshare, pid):
    """The process that has the number `pid` in a namespace of its own, once it runs."""
    end = time.monotonic() + measuring.DEADLINE
    while time.monotonic() < end:
        for found in measuring.children(unshare.pid):
            try:
                with open(f"/proc/{found}/status") as file:
                    numbers = next(line for line in file if line.startswith("NSpid:")).split()[1:]
                with open(f"/proc/{found}/comm") as file:
                    if len(numbers) > 1 and numbers[-1] == str(pid) and file.read() == "bench_writer\n":
                        return found
            except OSError:
                pass
        time.sleep(0.01)
    raise measuring.Unsupported("nothing was restored in a pid namespace")


def many(bench, quick, time_left):
    """Ten restores of one checkpoint, each in a pid namespace of its own, of a program that touches little: the images, in memory once, and what
    each has, with the processes behind it."""
    mib, count = (64 if quick else 512), 10
    room(6 * mib)
    fermata = os.path.join(bench.work, "fermata")
    os.symlink(os.readlink(bench.criu), fermata)
    pid = Writer(bench, mib, 0).pid
    images = fresh(bench, "many")
    criu_dump(bench, pid, images)
    measuring.sweep(kill=False)
    runs = [subprocess.Popen(["unshare", "-p", "-f", "--mount-proc", fermata, "restore", "process", "--no-server", "--path", images, "--lazy=touched"],
                             stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True) for _ in range(count)]
    for run in runs:
        within(run, pid)
    time.sleep(2)
    helpers = [found for run in runs for found in measuring.children(run.pid)]  # what waits and what brings pages, too
    total = pss(helpers) + on_disk(images)
    for run in runs:
        run.returncode = 0  # reaped by sweep
    return [Row(f"{count} restores of one checkpoint of {mib} MiB with --lazy=touched: in memory (PSS and images)", total, mib, "MiB", 1.05, "the memory once")]


CASES = {"incremental": incremental, "store": store, "forked": forked, "lazy": lazy, "many": many}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("--seconds", type=int)
    parser.add_argument("--criu", default=os.path.join(measuring.ROOT, "build/src/cli/fermata"))
    parser.add_argument("words", nargs="*")
    args = parser.parse_args()
    measuring.begin()
    rows, failures = [], {}
    cases = [(name, case) for name, case in CASES.items() if not args.words or any(word in name for word in args.words)]
    time_left = measuring.Time(args.seconds)
    for name, case in time_left.over(cases):
        with tempfile.TemporaryDirectory(prefix="fermata-bench-", dir="/dev/shm") as work:
            try:
                rows += case(measuring.Bench(os.path.abspath(args.criu), work), args.quick, time_left)
            except (measuring.Unsupported, subprocess.SubprocessError, OSError) as failure:
                failures[name] = str(failure)
            finally:
                measuring.sweep()
    if args.json:
        print(json.dumps({"rows": [row.as_dict() for row in rows], "failures": failures}, indent=1))
    elif args.markdown:
        print("| what | times the floor | aim | floor |\n|---|---|---|---|")
        for row in rows:
            print(f"| {row.name} | {row.value / row.floor:.2f} | {row.aim} | {row.note} |")
    else:
        for row in rows:
            print(f"{row.name:72} {row.value:9.1f} {row.unit:4} {row.value / row.floor:6.2f} times {row.note} ({row.floor:.1f}; aim {row.aim})")
    for name, failure in failures.items():
        print(f"{name}: failed: {failure}", file=sys.stderr)
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
