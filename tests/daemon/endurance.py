#!/usr/bin/env python3
"""The daemon killed at moments of all its work, and under load. By default in a small form; with --full, or by these variables, as large as wanted:
DAEMON_KILLS=N: how often it is killed (12; in full 100). DAEMON_LOAD_JOBS, DAEMON_LOAD_SECONDS: jobs, each with a checkpoint every second, and for
how long (8 and 6; in full 50 and 60). DAEMON_SEED: other moments.

Arguments select tests by a part of their names. Runs as root."""
import glob
import os
import random
import re
import sys
import threading
import time

from world import COUNT, alive, expect, main, read, tests_of, until


FULL = "--full" in sys.argv
KILLS = int(os.environ.get("DAEMON_KILLS", "100" if FULL else "12"))
LOAD_JOBS = int(os.environ.get("DAEMON_LOAD_JOBS", "50" if FULL else "8"))
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


def test_load(w):
    """Many jobs, a checkpoint of each every second: nothing lost, memory level."""
    w.start()
    pids = {jid: w.run(jid, *COUNT, options=["--checkpoint-every", "1", "--keep", "2"]) for jid in (f"load{i}" for i in range(LOAD_JOBS))}
    heap = lambda: int(float(re.search(r"^fermata_heap_bytes (\S+)", w.request("GET", "/metrics")[1], re.M)[1]))
    time.sleep(LOAD_SECONDS / 2)
    middle = heap()
    time.sleep(LOAD_SECONDS / 2)
    end = heap()
    expect(end < middle + (2 << 20), f"the heap grew from {middle} to {end}")
    text = w.request("GET", "/metrics")[1]
    made = int(re.search(r"^fermata_dumps_total (\d+)", text, re.M)[1])
    expect(made >= LOAD_JOBS * 2 and re.search(r"^fermata_dumps_failed_total 0$", text, re.M), text)
    for jid, pid in pids.items():
        expect(alive(pid), f"{jid} has ended")
        numbers = w.numbers(jid)
        expect(numbers == list(range(len(numbers))), f"{jid}: {numbers}")
        expect(w.job(jid)["checkpoint"], jid)
    descriptors = len(os.listdir(f"/proc/{w.daemon.pid}/fd"))
    expect(descriptors < 50 + 4 * LOAD_JOBS, f"{descriptors} descriptors")
    w.fermata("job", "kill", "--all", deadline=120).good()
    return f"{made} checkpoints of {LOAD_JOBS} jobs in {LOAD_SECONDS} s; heap {middle >> 10} KiB in the middle, {end >> 10} KiB at the end; {descriptors} descriptors"


main(tests_of(globals()), 60 + 20 * KILLS + 10 * LOAD_SECONDS)
