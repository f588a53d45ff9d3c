#!/usr/bin/env python3
"""The daemon killed at moments of all its work, and under load. By default in a small form; with --full, or by these variables, as large as wanted:
DAEMON_KILLS=N: how often it is killed (12; in full 100). DAEMON_LOAD_JOBS, DAEMON_LOAD_SECONDS: jobs, each with a checkpoint every second, and for
how long (8 and 6; in full 50 and 60). DAEMON_SEED: other moments.

Arguments select tests by a part of their names. Runs as root."""
import glob
import os
import random
import re
import signal
import sys
import threading
import time

from world import COUNT, alive, expect, main, read, tests_of, until


FULL = "--full" in sys.argv
KILLS = int(os.environ.get("DAEMON_KILLS", "100" if FULL else "12"))
LOAD_JOBS = int(os.environ.get("DAEMON_LOAD_JOBS", "50" if FULL else "8"))
# A number every 50 ms, without a process for it.
QUIET_COUNT = ["perl", "-e", "$|=1; while (1) { print $i++ + 0, qq(\n); select undef, undef, undef, 0.05 }"]
LOAD_SECONDS = int(os.environ.get("DAEMON_LOAD_SECONDS", "60" if FULL else "6"))


def supervisors():
    """Jobs that have one here: they are ours, once who started them has gone."""
    found = {}
    for path in glob.glob("/proc/[0-9]*/stat"):
        try:
            pid = int(path.split("/")[2])
            if int(read(path).rpartition(")")[2].split()[1]) == os.getpid() and read(f"/proc/{pid}/cmdline").startswith("fermata-supervisor\0"):
                found[read(f"/proc/{pid}/cmdline").split("\0")[1]] = pid
        except OSError:
            pass
    return found


def test_crash(w):
    """SIGKILL to the daemon at random moments of runs, dumps, restores: jobs run on, checkpoints are whole or gone."""
    w.start()
    chosen = random.Random(int(os.environ.get("DAEMON_SEED", "1")))
    steady = w.run("steady")
    for number in range(KILLS):
        jid = f"job{number}"

        def work():
            w.fermata("run", "process", "--jid", jid, "--", *COUNT)
            w.fermata("dump", "job", jid, "--leave-running")
            w.fermata("dump", "job", jid)
            w.fermata("restore", "job", jid)
            w.fermata("dump", "job", "steady", "--leave-running")

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(chosen.uniform(0, 0.6))
        w.kill()
        thread.join()
        w.start()
        expect(alive(steady), f"kill {number}: the steady job has ended")
        until(lambda: all(one["state"] == "whole" for one in w.request("GET", "/v1/checkpoints")[1]),
              lambda: "every checkpoint to be whole or gone: %s" % [one for one in w.request("GET", "/v1/checkpoints")[1] if one["state"] != "whole"])
        known = {one["path"] for one in w.request("GET", "/v1/checkpoints")[1]}
        there = {os.path.join(w.dir, name) for name in os.listdir(w.dir)}
        expect(known == there, f"kill {number}: known {known - there}, there {there - known}")
        for path in known:
            w.fermata("verify", path).good()
        def unknown():
            jobs = {job["job"] for job in w.request("GET", "/v1/jobs")[1] if job["status"] != "halted"}
            return {jid: pid for jid, pid in supervisors().items() if jid not in jobs}

        until(lambda: not unknown(), lambda: f"kill {number}: jobs that run and nobody knows of: {unknown()}")
        status, jobs = w.request("GET", "/v1/jobs")
        job = next((job for job in jobs if job["job"] == jid), None)
        if job is None:
            continue
        until(lambda: w.status(jid) != "starting", lambda: w.job(jid))
        job = w.job(jid)
        if job["status"] == "halted":
            expect(job["checkpoint"] or job["ended"] == "lost", f"kill {number}: {job}")
            if job["checkpoint"]:
                w.fermata("restore", "job", jid).good()
        if w.status(jid) != "halted":
            w.counts_on(jid)
            numbers = w.numbers(jid)
            expect(numbers == sorted(numbers), numbers)
            w.fermata("job", "kill", jid).good()
        w.fermata("job", "delete", jid, "--checkpoints").good()
    w.counts_on("steady")
    return f"killed {KILLS} times, {len(w.request('GET', '/v1/checkpoints')[1])} checkpoints of the job that ran through it all, each whole"


def test_crash_others(w):
    """The same while checkpoints are flattened, removed and pruned, jobs frozen, changed, restored beside, killed and deleted."""
    w.start()
    chosen = random.Random(int(os.environ.get("DAEMON_SEED", "1")) + 100)
    store = "store:" + w.work + "/store"
    steady = w.run("steady", *QUIET_COUNT)
    w.dump("steady", "--leave-running")
    for number in range(max(KILLS // 2, 4)):
        def work():
            said = lambda *verb: (w.fermata(*verb).out.split() or ["/none"])[-1]
            for verb in ("freeze", "unfreeze"):
                said(verb, "job", "steady")
            said("job", "set", "steady", "--keep", number)
            first = said("dump", "job", "steady", "--leave-running", "--track-mem")
            second = said("dump", "job", "steady", "--leave-running", "--parent", first)
            said("checkpoint", "flatten", second)
            said("checkpoint", "delete", first)
            for name in ("a", "b"):
                said("dump", "job", "steady", "--leave-running", "--dir", store, "--name", f"{name}{number}")
            said("store", "rm", f"{store}/a{number}")
            said("store", "prune", store)
            said("restore", "job", "steady", "--as", f"beside{number}")
            said("job", "kill", f"beside{number}")
            said("job", "delete", f"beside{number}")

        thread = threading.Thread(target=work)
        thread.start()
        time.sleep(chosen.uniform(0, 1.5))
        w.kill()
        thread.join()
        w.start()
        rows = lambda: w.request("GET", "/v1/checkpoints")[1]
        until(lambda: all(one["state"] == "whole" for one in rows()), lambda: f"kill {number}: every checkpoint to be whole or gone: {rows()}")
        # A flatten of the daemon before may still be at work beside.
        until(lambda: not glob.glob(w.dir + "/.fermata-*"), lambda: os.listdir(w.dir))
        for one in rows():
            w.fermata("verify", one["path"]).good()
        known = {one["path"] for one in rows() if not one["path"].startswith("store:")}
        expect(known == {os.path.join(w.dir, name) for name in os.listdir(w.dir)}, f"kill {number}: {known}")
        if os.path.exists(w.work + "/store"):
            stored = [f"{store}/{name}" for name in os.listdir(w.work + "/store/checkpoints") if not name.startswith(".")]
            expect(sorted(stored) == sorted(one["path"] for one in rows() if one["path"].startswith("store:")), f"kill {number}: {stored}")
            w.fermata("store", "verify", store).good()
        w.fermata("unfreeze", "job", "steady").good()
        for job in w.request("GET", "/v1/jobs")[1]:
            until(lambda: w.status(job["job"]) != "starting", lambda: w.job(job["job"]))
            if job["job"] != "steady":
                w.fermata("job", "kill", job["job"])
                w.fermata("job", "delete", job["job"]).good()
        expect(alive(steady), f"kill {number}")
        w.counts_on("steady")
    return f"killed {max(KILLS // 2, 4)} times"


# 16 MiB, of which a page changes with each number: its periodic checkpoints are a chain.
CHAINED = ["python3", "-c", "import time\nmemory, number = bytearray(b'x') * (16 << 20), 0\nwhile True:\n    memory[number * 4096 % len(memory)] = number % 256\n"
           "    print(number, flush=True)\n    number += 1\n    time.sleep(0.05)"]


def test_crash_periodic(w):
    """SIGKILL to the daemon while it makes periodic checkpoints, whole ones and chains, and removes those that are too many."""
    w.start()
    chosen = random.Random(int(os.environ.get("DAEMON_SEED", "2")))
    pids = {"small": w.run("small", *QUIET_COUNT, options=["--keep", "2"]), "chained": w.run("chained", *CHAINED, options=["--keep", "3"])}
    for number in range(max(KILLS // 4, 4)):
        for jid in pids:
            w.fermata("job", "set", jid, "--checkpoint-every", "1").good()
        time.sleep(chosen.uniform(0.9, 2))
        w.kill()
        w.start()
        for jid in pids:
            w.fermata("job", "set", jid, "--checkpoint-every", "0").good()
        listed = lambda: w.request("GET", "/v1/checkpoints")[1]
        until(lambda: metric(w, "operations") == 0 and all(one["state"] == "whole" for one in listed()), lambda: f"kill {number}: all to be whole: {listed()}")
        known, there = {one["path"] for one in listed()}, {os.path.join(w.dir, name) for name in os.listdir(w.dir)}
        expect(known == there, f"kill {number}: known {known - there}, there {there - known}")
        for path in known:
            w.fermata("verify", path).good()
        for jid, pid in pids.items():
            expect(alive(pid), f"kill {number}: {jid} has ended")
    expect(any(os.path.islink(path + "/parent") for path in known), "none has a parent")
    for jid in pids:
        count = len(w.numbers(jid))
        w.fermata("job", "kill", jid).good()
        w.fermata("restore", "job", jid).good()
        until(lambda: len(w.numbers(jid)) > count + 1, f"{jid} to count on")
    return f"killed {max(KILLS // 4, 4)} times, {len(known)} checkpoints at the end"


class Processor:
    """Seconds of the processors: of the daemon with its helpers, and of all that is not it."""

    def __init__(self, w):
        self.w, self.start = w, time.monotonic()
        self.before = self.read()

    def read(self):
        tick = os.sysconf("SC_CLK_TCK")
        own = sum(int(text) for text in read(f"/proc/{self.w.daemon.pid}/stat").rpartition(")")[2].split()[11:15])
        busy = [int(text) for text in read("/proc/stat").split("\n")[0].split()[1:8]]
        return own / tick, (sum(busy) - busy[3] - busy[4]) / tick

    def used(self):
        (own, busy), (own_before, busy_before) = self.read(), self.before
        others = (busy - busy_before) - (own - own_before)
        return own - own_before, others / (time.monotonic() - self.start) / os.cpu_count()


def metric(w, name):
    return float(re.search(rf"^fermata_{name} (\S+)", w.request("GET", "/metrics")[1], re.M)[1])


def periodic_of(w, jid):
    """Those that are kept are the last of it."""
    return [one for one in w.request("GET", f"/v1/jobs/{jid}/checkpoints")[1] if one["kind"] == "periodic" and one["state"] == "whole"]


def test_load(w):
    """Many jobs, a checkpoint of each every second: nothing lost, memory level, and in full (on a machine with nothing else to do) none late."""
    w.start()
    # One in ten is a tree that forks all the time; the others leave the processors to the daemon.
    pids = {f"load{i}": w.run(f"load{i}", *(COUNT if i % 10 == 9 else QUIET_COUNT), options=["--checkpoint-every", "1", "--keep", "2"]) for i in range(LOAD_JOBS)}
    processor = Processor(w)
    time.sleep(LOAD_SECONDS / 2)
    middle = metric(w, "heap_bytes")
    time.sleep(LOAD_SECONDS / 2)
    end = metric(w, "heap_bytes")
    expect(end < middle + (2 << 20), f"the heap grew from {middle} to {end}")
    made, missed = int(metric(w, "dumps_total")), int(metric(w, "periodic_missed"))
    expect(metric(w, "dumps_failed_total") == 0, w.said()[-2000:])
    # No daemon was killed: none of them was taken for one that nobody is at work on.
    expect("half-written" not in w.said() and "while no daemon ran" not in w.said(), w.said()[-2000:])
    due = LOAD_JOBS * LOAD_SECONDS
    waiting = sum(w.request("GET", f"/v1/jobs/{jid}")[1]["checkpoint_late_s"] for jid in pids)
    expect(made >= LOAD_JOBS * 2 and made + missed + waiting > due - 2 * LOAD_JOBS, f"{made} made, {missed} left out and {waiting} waited for, of {due}")
    seconds, others = processor.used()
    cost = 1000 * seconds / made
    # On a machine that others use for more than the jobs take, only what one costs can be told.
    expect(not FULL or cost < 30 and (others > 0.4 or made > due * 0.95), f"{made} made of {due}, {cost:.1f} ms of a processor each; others took {others:.0%} of all")
    for jid, pid in pids.items():
        expect(alive(pid), f"{jid} has ended")
        numbers = w.numbers(jid)
        expect(numbers == list(range(len(numbers))), f"{jid}: {numbers}")
        expect(1 <= len(periodic_of(w, jid)) <= 3, f"{jid}: {periodic_of(w, jid)}")
    descriptors = len(os.listdir(f"/proc/{w.daemon.pid}/fd"))
    expect(descriptors < 50 + 4 * LOAD_JOBS, f"{descriptors} descriptors")
    w.fermata("job", "kill", "--all", deadline=120).good()
    return (f"{made} checkpoints of {LOAD_JOBS} jobs in {LOAD_SECONDS} s, {missed} left out; {cost:.1f} ms of a processor each, others took {others:.0%} of all; heap {int(middle) >> 10} KiB in the middle, {int(end) >> 10} KiB at the end; "
            f"{descriptors} descriptors")


def test_late(w):
    """A daemon that had no time for a while: what was due is left out and not caught up with, and what is late is told."""
    w.start()
    jids = [f"late{i}" for i in range(6)]
    for jid in jids:
        w.run(jid, *QUIET_COUNT)
    until(lambda: all(len(w.numbers(jid)) for jid in jids), "the jobs to count")
    for jid in jids:
        w.fermata("job", "set", jid, "--checkpoint-every", "1", "--keep", "3").good()
    os.kill(w.daemon.pid, signal.SIGSTOP)
    time.sleep(4)
    os.kill(w.daemon.pid, signal.SIGCONT)
    until(lambda: all(w.job(jid)["checkpoints_missed"] >= 2 for jid in jids), lambda: [w.job(jid) for jid in jids])
    counts = [w.job(jid)["checkpoints_missed"] for jid in jids]
    expect(max(counts) - min(counts) <= 2, f"left out: {counts}")
    expect("s late, there are more to make than there is time for" in w.said(), w.said()[-2000:])
    until(lambda: all(w.job(jid)["checkpoint_late_s"] == 0 for jid in jids), "all to be in time again", 120)
    w.fermata("job", "set", jids[0], "--checkpoint-every", "2").good()
    expect(w.job(jids[0])["checkpoints_missed"] == 0, w.job(jids[0]))
    return f"a daemon that stood for 4 s left out {counts}"


main(tests_of(globals()), 60 + 20 * KILLS + 10 * LOAD_SECONDS)
