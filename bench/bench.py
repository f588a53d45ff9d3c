#!/usr/bin/env python3
"""Medians of dump and restore beside their floors, measured from the start of the command to its end. Needs root.

--json         print one JSON object
--markdown     print a table of ratios, as the README has it
--rounds N     how often each small case is run (15); the large ones run a fifth as often, three times at least
--seconds N    fewer where they would take longer, but one round of each
--criu PATH    another program that takes criu's options
--quick        few rounds and no case over 256 MiB
Words          run only the cases with one of them in their name"""
import argparse
import ctypes
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
BIN = os.path.join(ROOT, "build/bench/bench_")
PR_SET_CHILD_SUBREAPER = 36
DEADLINE = 60
DUMP_DEADLINE = 300  # of a live one, which may be to a disk
COPIED = 512  # MiB, for what a program sees of any work beside it
# name, MiB, processes, threads, target of dump and of restore in ms (None: a share of the floor's speed instead)
CASES = (
    ("1 MiB", 1, 1, 1, 6, 6),
    ("100 processes", 1, 100, 1, 40, 40),
    ("500 threads", 1, 1, 500, 20, 20),
    ("256 MiB", 256, 1, 1, None, None),
    ("2 GiB", 2048, 1, 1, None, None),
)
# Live dumps: MiB, MiB a second that the program writes meanwhile. The aim is that of the pause: 3 ms, and half a one for each GiB.
LIVE_CASES = ((1024, 50), (4096, 50), (8192, 50), (1024, 5000))
ON_DISK = 4096  # MiB; what is larger is dumped to a disk
DISK = "/var/tmp"
SHARE = 0.6
RSS_ALLOWANCE_KIB = 1024


class Unsupported(Exception):
    pass


class Time:
    """Shares out what there is among the cases that are still to come; None: there is no end to it."""

    def __init__(self, seconds):
        self.end, self.left = time.monotonic() + seconds if seconds else None, 1

    def over(self, cases):
        """Each of them, and notes how many there still are."""
        for number, case in enumerate(cases):
            self.left = len(cases) - number
            yield case

    def rounds(self, most):
        """Counts up to `most`, and ends earlier where another round as long as the longest would be too much."""
        now = begun = time.monotonic()
        until = now + max(self.end - now, 0) / self.left if self.end else float("inf")
        longest = 0
        for number in range(most):
            if number and now + longest > until:
                return
            yield number
            begun, now = now, time.monotonic()
            longest = max(longest, now - begun)


ENDLESS = Time(None)


class Bench:
    def __init__(self, binary, work):
        self.work = work
        self.criu = os.path.join(work, "criu")
        os.symlink(binary, self.criu)
        self.images = os.path.join(work, "images")
        self.ready = os.path.join(work, "ready")
        self.scratch = os.path.join(work, "scratch")

    def measured(self, command):
        """Seconds and peak KiB of a command; Unsupported with what it printed when it fails."""
        result = os.path.join(self.work, "result")
        with tempfile.TemporaryFile() as log:
            subprocess.run([BIN + "measure", result] + command, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                           timeout=DEADLINE, check=True)
            log.seek(0)
            text = log.read().decode(errors="replace").strip()
        with open(result) as file:
            ns, rss, status = (int(word) for word in file.read().split())
        if status != 0:
            raise Unsupported(text.splitlines()[-1] if text else f"ended with {status}")
        return ns / 1e9, rss

    def start(self, mib, processes, threads):
        if os.path.exists(self.ready):
            os.unlink(self.ready)
        task = subprocess.Popen([BIN + "target", self.ready, str(mib), str(processes), str(threads)],
                                stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                start_new_session=True, cwd=self.work)
        task.returncode = 0  # reaped by sweep
        self.wait_word("ready")
        return task.pid

    def wait_word(self, *words):
        end = time.monotonic() + DEADLINE
        while time.monotonic() < end:
            try:
                with open(self.ready) as file:
                    word = file.read().strip()
            except FileNotFoundError:
                word = ""
            if word in words:
                return word
            time.sleep(0.002)
        raise Unsupported(f"the target did not say {' or '.join(words)}")

    def fresh_images(self):
        shutil.rmtree(self.images, ignore_errors=True)
        os.mkdir(self.images)

    def dump(self, pid):
        self.fresh_images()
        return self.measured([self.criu, "dump", "-t", str(pid), "-D", self.images])

    def restore(self):
        return self.measured([self.criu, "restore", "-d", "-D", self.images])


def children(pid):
    found = []
    try:
        tasks = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for tid in tasks:
        try:
            with open(f"/proc/{pid}/task/{tid}/children") as file:
                own = [int(word) for word in file.read().split()]
        except OSError:
            continue
        for child in own:
            found += [child] + children(child)
    return found


def sweep(kill=True):
    """Ends all that descends from this process, and waits for it."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        for pid in children(os.getpid()) if kill else ():
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.001)
    raise Unsupported("a process is left that does not end")


def check(bench, pid, processes, threads):
    found = [pid] + children(pid)
    tasks = len(os.listdir(f"/proc/{pid}/task"))
    if len(found) != processes or tasks != threads:
        raise Unsupported(f"restored {len(found)} processes and {tasks} threads in the first")
    os.kill(pid, signal.SIGUSR1)
    if bench.wait_word("ok", "bad") != "ok":
        raise Unsupported("the restored memory is not what it was")


def one_round(bench, case, floors, rounds):
    name, mib, processes, threads = case[:4]
    large = case[4] is None
    pid = bench.start(mib, processes, threads)
    try:
        if not large:
            pids = [str(p) for p in [pid] + children(pid)]
            floors["dump"].append(bench.measured([BIN + "floor", "stop", bench.scratch, str(mib)] + pids)[0])
            floors["restore"].append(bench.measured([BIN + "floor", "make", bench.scratch, str(mib), str(processes), str(threads)])[0])
        if large:
            warm(mib)
        rounds["dump"].append(bench.dump(pid))
        sweep(kill=False)
        if large:
            warm(mib)
            floors["dump"].append(plain_copy(bench, "write", mib))
            warm(mib)
            floors["restore"].append(plain_copy(bench, "read", mib))
            os.unlink(bench.scratch)
            warm(mib)
        rounds["restore"].append(bench.restore())
        check(bench, pid, processes, threads)
    finally:
        sweep()


def warm(mib):
    """Much more than is needed next: the kernel does not hand out the pages that were freed last."""
    subprocess.run([BIN + "floor", "warm", "-", str(4 * mib), "1"], check=True, timeout=DEADLINE)


def plain_copy(bench, what, mib):
    """By all processors."""
    out = subprocess.run([BIN + "floor", what, bench.scratch, str(mib), str(os.cpu_count())], stdout=subprocess.PIPE, check=True,
                         timeout=DEADLINE).stdout
    return int(out) / 1e9


def available_mib():
    with open("/proc/meminfo") as file:
        return int(next(line for line in file if line.startswith("MemAvailable:")).split()[1]) // 1024


def run_case(bench, case, repeat, time_left=ENDLESS):
    name, mib, processes, threads, *aims = case
    floors, rounds = {"dump": [], "restore": []}, {"dump": [], "restore": []}
    error = None
    try:
        if aims[0] is None:
            if available_mib() < 8 * mib:
                raise Unsupported(f"{8 * mib} MiB of free memory are needed, {available_mib()} are there")
            repeat = max(3, repeat // 5)
        for _ in time_left.rounds(repeat):
            one_round(bench, case, floors, rounds)
    except (Unsupported, subprocess.SubprocessError, OSError) as failure:
        error = str(failure)
    finally:
        sweep()
    return [row(name, verb, mib, aim, floors[verb], rounds[verb], error) for verb, aim in zip(("dump", "restore"), aims)]


def row(name, verb, mib, aim_ms, floors, rounds, error):
    out = {"case": name, "verb": verb, "rounds": len(rounds)}
    if error or not rounds:
        return out | {"error": f"failed: {error}"}
    ms = statistics.median(seconds for seconds, _ in rounds) * 1e3
    out |= {"median_ms": ms, "min_ms": min(seconds for seconds, _ in rounds) * 1e3, "rss_kib": max(rss for _, rss in rounds)}
    out["floor_ms"] = statistics.median(floors) * 1e3
    out["times_floor"] = ms / out["floor_ms"]
    if aim_ms is None:
        aim_ms = out["floor_ms"] / SHARE
        out |= {"mib_per_s": mib / ms * 1e3, "floor_mib_per_s": mib / out["floor_ms"] * 1e3}
    return out | {"aim_ms": aim_ms, "times_aim": ms / aim_ms}


def ask_writer(bench, pid):
    """The longest time in ms for which the writer stood still since it was asked last, and the MiB a second that it wrote."""
    os.unlink(bench.ready)
    os.kill(pid, signal.SIGUSR1)
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        try:
            with open(bench.ready) as file:
                words = file.read().split()
        except FileNotFoundError:
            words = []
        if len(words) == 3:
            return int(words[0]) / 1e6, int(words[1]) / 256 / (int(words[2]) / 1e9)
        time.sleep(0.002)
    raise Unsupported("the writer does not answer")


def live_case(bench, mib, rate, repeat, time_left=ENDLESS):
    """The pause as the engine tells it and as the program sees it, beside what it sees while all processors copy memory to a file; and what it wrote
    meanwhile of what it did before."""
    out = {"case": f"live {mib} MiB, {rate} MiB/s", "verb": "pause"}
    pauses, seen, before, during, seconds, quiet = [], [], [], [], [], []
    disk = tempfile.TemporaryDirectory(prefix="fermata-bench-", dir=DISK) if mib > ON_DISK else None
    images = bench.images
    try:
        need = mib + 4096 if disk else 3 * mib
        if available_mib() < need:
            raise Unsupported(f"{need} MiB of free memory are needed, {available_mib()} are there")
        if disk:
            bench.images = os.path.join(disk.name, "images")
        if os.path.exists(bench.ready):
            os.unlink(bench.ready)
        task = subprocess.Popen([BIN + "writer", bench.ready, str(mib), str(rate)], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL, start_new_session=True, cwd=bench.work)
        task.returncode = 0  # reaped by sweep
        bench.wait_word("ready")
        for _ in time_left.rounds(repeat):
            ask_writer(bench, task.pid)
            time.sleep(1)
            before.append(ask_writer(bench, task.pid)[1])
            plain_copy(bench, "write", COPIED)
            os.unlink(bench.scratch)
            quiet.append(ask_writer(bench, task.pid)[0])
            bench.fresh_images()
            start = time.monotonic()
            done = subprocess.run([bench.criu, "dump", "-t", str(task.pid), "-D", bench.images, "-R", "--live", "-v3"], stdin=subprocess.DEVNULL,
                                  stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=DUMP_DEADLINE, text=True)
            seconds.append(time.monotonic() - start)
            stood = [float(line.split()[-2]) for line in done.stdout.splitlines() if "It stood still for" in line]
            if done.returncode or not stood:
                raise Unsupported(done.stdout.splitlines()[-1] if done.stdout else "no pause was told")
            longest, wrote = ask_writer(bench, task.pid)
            pauses.append(max(stood))
            seen.append(longest)
            during.append(wrote)
    except (Unsupported, subprocess.SubprocessError, OSError) as failure:
        return out | {"error": f"failed: {failure}"}
    finally:
        sweep()
        bench.images = images
        if disk:
            disk.cleanup()
    return out | {"rounds": len(pauses), "floor_seen_ms": statistics.median(quiet), "pause_ms": statistics.median(pauses), "aim_ms": 3 + mib / 2048, "seen_ms": statistics.median(seen),
                  "whole_ms": statistics.median(seconds) * 1e3, "wrote_of_before": statistics.median(during) / statistics.median(before) if statistics.median(before) else 1}


def print_live(rows):
    for r in rows:
        if "error" in r:
            print(f"{r['case']:26} {r['error']}")
        else:
            print(f"{r['case']:26} pause {r['pause_ms']:.2f} ms (aim {r['aim_ms']:.1f}), longest that the program saw {r['seen_ms']:.2f} ms (beside a "
                  f"plain copy {r['floor_seen_ms']:.2f}), the whole dump "
                  f"{r['whole_ms']:.0f} ms, in which it wrote {r['wrote_of_before']:.0%} of what it wrote before")


def memory_row(rows):
    """The coordinator's peak memory is not to grow with the target."""
    peaks = {(r["case"], r["verb"]): r["rss_kib"] for r in rows if "rss_kib" in r}
    out = []
    for verb in ("dump", "restore"):
        small = peaks.get(("1 MiB", verb))
        for name in ("256 MiB", "2 GiB"):
            large = peaks.get((name, verb))
            if small and large:
                out.append({"verb": verb, "case": name, "rss_kib": large, "rss_kib_at_1_mib": small,
                            "grows": large > small + RSS_ALLOWANCE_KIB})
    return out


def print_text(rows, memory):
    print(f"{'':22}{'median ms':>10}{'floor ms':>10}{'x floor':>9}{'aim ms':>9}{'x aim':>7}{'peak MiB':>10}")
    for r in rows:
        label = f"{r['case']} {r['verb']}"
        if "error" in r:
            print(f"{label:22} {r['error']}")
            continue
        extra = f"  {r['mib_per_s']:.0f} MiB/s, plain copy {r['floor_mib_per_s']:.0f}" if "mib_per_s" in r else ""
        print(f"{label:22}{r['median_ms']:10.2f}{r['floor_ms']:10.2f}{r['times_floor']:9.2f}{r['aim_ms']:9.1f}{r['times_aim']:7.2f}"
              f"{r['rss_kib'] / 1024:10.1f}{extra}")
    for m in memory:
        print(f"peak memory of {m['verb']}: {m['rss_kib_at_1_mib'] / 1024:.1f} MiB at 1 MiB, {m['rss_kib'] / 1024:.1f} MiB at {m['case']}"
              f"{': grows' if m['grows'] else ''}")


def print_markdown(rows):
    print("| case | | times the floor | aim | peak memory |\n|---|---|---|---|---|")
    for r in rows:
        if "error" in r:
            print(f"| {r['case']} | {r['verb']} | {r['error']} | | |")
            continue
        aim = r["aim_ms"] / r["floor_ms"]
        print(f"| {r['case']} | {r['verb']} | {r['times_floor']:.1f} | {aim:.1f} | {r['rss_kib'] / 1024:.1f} MiB |")


def begin():
    if os.geteuid() != 0:
        sys.exit("bench: needs root")
    if ctypes.CDLL(None).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit("bench: cannot become a subreaper")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", action="store_true")
    parser.add_argument("--markdown", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=int)
    parser.add_argument("--criu", default=os.path.join(ROOT, "build/src/cli/fermata"))
    parser.add_argument("--quick", action="store_true")
    parser.add_argument("words", nargs="*")
    args = parser.parse_args()
    begin()
    rows, live = [], []
    with tempfile.TemporaryDirectory(prefix="fermata-bench-", dir="/dev/shm") as work:
        bench = Bench(os.path.abspath(args.criu), work)
        cases = [case for case in CASES if not (args.words and not any(word in case[0] for word in args.words) or args.quick and case[1] > 256)]
        lives = [(mib, rate) for mib, rate in LIVE_CASES
                 if (not args.words or any(word in f"live {mib} {rate}" for word in args.words)) and not (args.quick and mib > 1024)]
        time_left = Time(args.seconds)
        for case in time_left.over(cases + lives):
            if case in cases:
                rows += run_case(bench, case, 5 if args.quick else args.rounds, time_left)
            else:
                live.append(live_case(bench, *case, 3 if args.quick or case[0] > 1024 else 7, time_left))
    memory = memory_row(rows)
    if args.json:
        print(json.dumps({"rows": rows, "live": live, "memory": memory}, indent=1))
    elif args.markdown:
        print_markdown(rows)
    else:
        print_text(rows, memory)
        print_live(live)


if __name__ == "__main__":
    main()
