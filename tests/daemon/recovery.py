#!/usr/bin/env python3
"""Tests of what the daemon does by itself, and of what it finds again: periodic checkpoints, restarts, its own end, a database or a disk that fails.

Arguments select tests by a part of their names. Runs as root."""
import glob
import json
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time

from world import BINARY, COUNT, DEADLINE, Skip, alive, expect, main, tests_of, until


# ---- what is done by itself ----

def test_periodic(w):
    w.start()
    w.run("often", *COUNT, options=["--checkpoint-every", "1s", "--keep", "2"])
    until(lambda: len(w.request("GET", "/v1/jobs/often/checkpoints")[1]) >= 2, "two checkpoints")
    first = {one["id"] for one in w.request("GET", "/v1/jobs/often/checkpoints")[1]}
    until(lambda: not first & {one["id"] for one in w.request("GET", "/v1/jobs/often/checkpoints")[1]}, "both to be replaced")
    kept = [one for one in w.request("GET", "/v1/jobs/often/checkpoints")[1] if one["state"] == "whole"]
    expect(len(kept) <= 4 and len(os.listdir(w.dir)) <= 5, kept)
    expect(not parents(w), "one of a small program is whole")
    w.counts_on("often")
    out = w.fermata("job", "set", "often", "--checkpoint-every", "0").good().out
    expect("no periodic checkpoints" in out, out)
    time.sleep(1)
    until(lambda: all(one["state"] == "whole" for one in w.request("GET", "/v1/jobs/often/checkpoints")[1]), "what is under way")
    before = sorted(os.listdir(w.dir))
    time.sleep(1.5)
    expect(sorted(os.listdir(w.dir)) == before, "none are made any more")
    w.fermata("job", "set", "often", "--checkpoint-every", "soon").error("soon is no time")


def parents(w):
    return [one for one in os.listdir(w.dir) if os.path.islink(os.path.join(w.dir, one, "parent"))]


# Memory that a first argument gives in MiB, for as many numbers as the second says; a number every 50 ms.
LARGE = ["perl", "-e", """
$| = 1;
my $memory = "x" x ($ARGV[0] << 20);
for (my $number = 0; ; $number++) {
    undef $memory if $number == ($ARGV[1] // -1);
    print "$number\\n";
    select undef, undef, undef, 0.05;
}
"""]


def test_periodic_large(w):
    """Of one with much memory each has only what was written since the last. It restores; and one that has become small has whole ones again."""
    w.start()
    w.run("large", *LARGE, "64", options=["--checkpoint-every", "1", "--keep", "3"])
    until(lambda: parents(w), "one that has only what was written since the last")
    sizes = [one["size"] for one in w.request("GET", "/v1/jobs/large/checkpoints")[1] if one["state"] == "whole"]
    until(lambda: any(one["size"] < 16 << 20 for one in w.request("GET", "/v1/jobs/large/checkpoints")[1] if one["state"] == "whole"), sizes)
    # Those by hand in between are no part of the chain, and wait for one that is under way.
    for _ in range(6):
        w.fermata("freeze", "job", "large").good()
        w.fermata("unfreeze", "job", "large").good()
        w.dump("large", "--leave-running")
    kept = w.request("GET", "/v1/jobs/large/checkpoints")[1]
    by_hand = [one for one in kept if one["kind"] == "process"]
    w.fermata("job", "checkpoint", "delete", by_hand[0]["id"]).good()
    count = len(w.numbers("large"))
    w.fermata("job", "kill", "large").good()
    w.fermata("restore", "job", "large").good()
    until(lambda: len(w.numbers("large")) > count + 2, "it to count on from its last checkpoint")
    w.fermata("job", "kill", "large").good()
    w.run("shrinks", *LARGE, "64", "40", options=["--checkpoint-every", "1", "--keep", "2"])
    until(lambda: len(w.numbers("shrinks")) > 50, "it to have become small")
    until(lambda: (found := whole_of(w, "shrinks")) and found[0]["size"] < 4 << 20 and
          not any(os.path.islink(one["path"] + "/parent") for one in found), lambda: f"whole ones: {whole_of(w, 'shrinks')}")
    w.counts_on("shrinks")


def whole_of(w, jid):
    return [one for one in w.request("GET", f"/v1/jobs/{jid}/checkpoints")[1] if one["state"] == "whole"]


def test_chain(w):
    """Checkpoints that hang together: a parent goes last, or once no other needs it; a chain restores."""
    w.start()
    w.run("counter")
    first = w.dump("counter", "--leave-running", "--track-mem")
    second = w.dump("counter", "--leave-running", "--parent", first)
    expect(os.readlink(second + "/parent") == "../" + os.path.basename(first), os.listdir(second))
    ids = {one["path"]: one["id"] for one in w.request("GET", "/v1/checkpoints")[1]}
    w.fermata("job", "checkpoint", "delete", ids[first]).error("is the parent of")
    w.fermata("checkpoint", "delete", ids[first]).error("is the parent of")
    expect(os.path.exists(first + "/inventory.img"), "it is still whole")
    w.fermata("job", "kill", "counter").good()
    until(lambda: w.status("counter") == "halted", "its end")
    w.fermata("restore", "job", "counter").good()
    w.fermata("checkpoint", "flatten", ids[second]).good()
    w.fermata("checkpoint", "delete", ids[first]).good()
    w.fermata("job", "kill", "counter").good()
    until(lambda: w.status("counter") == "halted", "its end")
    w.fermata("restore", "job", "counter").good()
    before = w.numbers("counter")[-1]
    until(lambda: w.numbers("counter")[-1] > before, "it to count on")


def of_session(pid):
    """Who is in the way of one that is to be started again."""
    text = subprocess.run(["ps", "-eo", "pid,ppid,pgid,sid,stat,args"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, text=True).stdout
    return [line for line in text.splitlines() if str(pid) in line.split()[:4]]


def test_restart_without_checkpoint(w):
    """One that fails before it has a checkpoint stays ended, and that is told once."""
    w.start()
    w.fermata("run", "process", "--jid", "early", "--restart", "on-failure", "--", "sh", "-c", "exit 3").good()
    until(lambda: w.status("early") == "halted", "its end")
    time.sleep(1.5)
    expect(w.said().count("job early has failed (status 3) and has no checkpoint") == 1, w.said())
    job = w.job("early")
    expect(job["restarts"] == 0 and job["exit_code"] == 3, job)


def test_restart(w):
    w.start()
    pid = w.run("weak", *COUNT, options=["--restart", "on-failure", "--restart-limit", "2"])
    w.counts_on("weak")
    w.dump("weak", "--leave-running")
    for number in (1, 2):
        until(lambda: alive(pid), "it to run")
        os.kill(pid, signal.SIGKILL)
        until(lambda: w.job("weak")["restarts"] == number and alive(pid), lambda: [w.job("weak"), of_session(pid)])
        until(lambda: w.status("weak") in ("sleep", "running", "disk"), lambda: w.job("weak"))
    os.kill(pid, signal.SIGKILL)
    time.sleep(2.5)
    expect(not alive(pid) and w.status("weak") == "halted", "the limit")
    # By hand it begins anew, where that works.
    w.fermata("restore", "job", "weak", "--out", w.work + "/none/there").error("none/there")
    time.sleep(1.5)
    expect(w.job("weak")["restarts"] == 2 and not alive(pid), "what failed by hand is not tried again")
    w.fermata("restore", "job", "weak").good()
    expect(w.job("weak")["restarts"] == 0, w.job("weak"))
    os.kill(pid, signal.SIGKILL)
    until(lambda: w.job("weak")["restarts"] == 1 and w.status("weak") in ("sleep", "running", "disk"), lambda: w.job("weak"))
    w.fermata("job", "kill", "weak").good()
    pid = w.run("strong", *COUNT, options=["--restart", "on-failure"])
    w.dump("strong", "--leave-running")
    w.fermata("job", "kill", "strong").good()
    time.sleep(2)
    expect(not alive(pid), "one that was killed by command is not restarted")
    pid = w.run("dumped", *COUNT, options=["--restart", "on-failure"])
    w.dump("dumped")
    time.sleep(2)
    expect(not alive(pid), "nor one that was dumped")


def test_restart_with_rest(w):
    """What a failed run has left holds ids that the checkpoint has: it is ended before the restart, which needs one try. Nobody else is."""
    w.start()
    pid = w.run("parent", "sh", "-c", "sleep 1000 & echo $!; i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done",
                options=["--restart", "on-failure"])
    other = w.run("other", "sleep", "1000")
    until(lambda: len(w.numbers("parent")) > 3, "it to count")
    child = w.numbers("parent")[0]
    w.dump("parent", "--leave-running")
    os.kill(pid, signal.SIGKILL)
    until(lambda: w.job("parent")["restarts"] == 1 and alive(pid) and alive(child), lambda: [w.job("parent"), of_session(pid), w.said()])
    expect("processes of the run that failed were still there" in w.said() and "cannot restore" not in w.said(), w.said())
    expect(alive(other), "the other job")


# Its child has a session of its own, its grandchild has lost its parent too: neither is found by the ids of its first process.
AWAY = """
import os, subprocess, sys, time
child = subprocess.Popen(['setsid', 'sleep', '1000'])
pipe = os.pipe()
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.write(pipe[1], b'%d' % os.getpid())
        os.close(pipe[0])
        os.close(pipe[1])
        time.sleep(1000)
    os._exit(0)
os.wait()
print(child.pid, int(os.read(pipe[0], 100)), flush=True)
os.close(pipe[0])
os.close(pipe[1])
while True:
    print(time.time(), flush=True)
    time.sleep(0.05)
"""


def away(w, jid, *options):
    pid = w.run(jid, sys.executable, "-c", AWAY, options=options)
    until(lambda: len(w.fermata("job", "logs", jid).out.splitlines()) > 2, "it to be ready")
    return pid, [int(word) for word in w.fermata("job", "logs", jid).out.split("\n")[0].split()]


def test_restart_with_rest_away(w):
    """What a failed run has left in sessions of its own is known to be the job's: it does not keep the job from being restored, also by a daemon that was not there."""
    w.start()
    other = away(w, "other")
    pid, rest = away(w, "runs", "--restart", "on-failure")
    w.dump("runs", "--leave-running")
    for number in (1, 2):
        if number == 2:
            w.kill()
        os.kill(pid, signal.SIGKILL)
        if number == 2:
            until(lambda: not alive(pid), "its end")
            expect(all(alive(one) for one in rest[:1]), "what it has left runs")
            w.start()
        until(lambda: w.job("runs")["restarts"] == number and w.status("runs") in ("sleep", "running") and alive(rest[0]),
              lambda: [w.job("runs"), of_session(pid), w.said()])
        expect("cannot restore" not in w.said(), w.said())
        until(lambda: not alive(rest[1]), "the end of what the checkpoint has not")
        expect(f"{rest[0]} (sleep)" in w.said(), w.said())
    expect(alive(other[0]) and all(alive(one) for one in other[1]), "another job")


def test_rest(w):
    """What a job has left when it ended is told, is in nobody's way unless it has ids that are needed, and is ended by job kill, also after another run."""
    w.start()
    pid, rest = away(w, "runs")
    w.dump("runs", "--leave-running")
    expect(w.job("runs")["left"] == [], w.job("runs"))
    os.kill(pid, signal.SIGKILL)
    until(lambda: w.status("runs") == "halted", "its end")
    until(lambda: sorted(w.job("runs")["left"]) == sorted(rest), lambda: w.job("runs"))
    w.fermata("restore", "job", "runs").error(f"{rest[0]}", "(sleep)", "fermata job kill runs")
    expect(all(alive(one) for one in rest) and sorted(w.job("runs")["left"]) == sorted(rest), "nobody has ended it")
    # That which is in the way goes by itself; the other stays the job's over two more runs.
    os.kill(rest[0], signal.SIGKILL)
    until(lambda: w.job("runs")["left"] == rest[1:], lambda: w.job("runs"))
    for _ in range(2):
        w.fermata("restore", "job", "runs").good()
        told = w.dump("runs", "--leave-running") and w.fermata("dump", "job", "runs", "--leave-running").good().out
        expect(f"process {rest[1]} " in told, told)
        os.kill(pid, signal.SIGKILL)
        until(lambda: w.status("runs") == "halted", "its end")
        os.kill(rest[0], signal.SIGKILL)
        until(lambda: w.job("runs")["left"] == rest[1:], lambda: w.job("runs"))
    w.stop()
    w.start()
    expect(w.job("runs")["left"] == rest[1:], "a daemon that was started again knows it")
    expect(w.fermata("job", "kill", "runs").good().out == "Killed job runs\n" and not alive(rest[1]), "job kill")
    w.fermata("job", "kill", "runs").error("does not run")
    expect(w.job("runs")["left"] == [], w.job("runs"))
    # One that is deleted leaves it to run on, and says so.
    pid, rest = away(w, "gone")
    os.kill(pid, signal.SIGKILL)
    until(lambda: w.status("gone") == "halted" and len(w.job("gone")["left"]) == 2, "its end")
    told = w.fermata("job", "delete", "gone").good().err
    expect(all(f"process {one}" in told and alive(one) for one in rest), told)
    for one in rest:
        os.kill(one, signal.SIGKILL)


def test_side_by_side(w):
    w.start()
    pid = w.run("first", *COUNT, options=["--attachable"])
    time.sleep(0.3)
    w.dump("first", "--leave-running")
    others = [w.fermata("restore", "job", "first", "--as", f"other{i}").good().out.split()[-1] for i in range(3)]
    expect(all(alive(int(other)) for other in others + [pid]) and len(set(others)) == 3, others)
    for i in range(3):
        before = w.fermata("job", "logs", f"other{i}").good().out
        until(lambda: w.fermata("job", "logs", f"other{i}").out > before, "each to go on")
    path = w.dump("other0")
    until(lambda: not alive(int(others[0])), "it to end")
    expect(alive(int(others[1])) and alive(pid), path)
    job = w.job("other0")
    expect(job["ended"] == "dumped" and job["status"] == "halted", job)
    out = w.fermata("restore", "job", "other0").good().out.split()[-1]
    expect(alive(int(out)), "restored in a namespace again")
    before = w.fermata("job", "logs", "other0").good().out
    until(lambda: w.fermata("job", "logs", "other0").out > before, "it to go on")
    w.fermata("job", "kill", "other1").good()
    expect(not alive(int(others[1])) and alive(int(others[2])), "one is killed, the other not")
    w.fermata("restore", "job", "first", "--as", "other2").error("other2 already")


def test_checkpoint_of_another(w):
    """One job is not restored from another's checkpoint by mistake."""
    w.start()
    pid = w.run("one")
    w.run("two")
    w.dump("one")
    w.dump("two", "--leave-running")
    ids = {row["job"]: row["id"] for row in w.request("GET", "/v1/checkpoints")[1]}
    w.fermata("restore", "job", "one", "--checkpoint", ids["two"]).error("one of job two", "restore job two")
    w.fermata("restore", "job", "one", "--checkpoint", "none").error("no checkpoint none")
    w.fermata("restore", "job", "one", "--checkpoint", ids["one"]).good()
    expect(w.job("one")["pid"] == pid and alive(pid), "its own")


def test_side_by_side_logs(w):
    """What a copy writes goes to a log of its own, and not into that of the job that it is a copy of; its own checkpoints go on with that."""
    w.start()
    pid = w.run("first", *COUNT)
    w.counts_on("first")
    w.dump("first", "--leave-running")
    for jid in ("one", "two"):
        w.fermata("restore", "job", "first", "--as", jid).good()
    for _ in range(2):
        for jid in ("one", "two"):
            until(lambda: len(w.numbers(jid)) > 5, f"output of {jid}")
            expect(w.job(jid)["log"] == f"{w.logs}/fermata-output-{jid}.log", w.job(jid))
        w.dump("one")
        w.fermata("restore", "job", "one").good()
        w.counts_on("one")
    for jid in ("first", "one", "two"):
        numbers = w.numbers(jid)
        expect(numbers == list(range(numbers[0], numbers[0] + len(numbers))), f"{jid}: {numbers}")
    expect(w.fermata("job", "logs", "two").good().out.split()[0] == str(w.numbers("two")[0]), "job logs")
    w.fermata("restore", "job", "first", "--as", "three", "--out", w.work + "/out").good()
    until(lambda: os.path.exists(w.work + "/out") and len(open(w.work + "/out").read().split()) > 3, "output where it was asked for")


# ---- the daemon itself ----

def test_restart_of_daemon(w):
    w.start()
    pid = w.run("counter")
    path = w.dump("counter", "--leave-running")
    fast = w.run("brief", "sleep", "0.5")
    for end in (w.kill, w.stop):
        end()
        expect(alive(pid) and (end == w.kill or not os.path.exists(w.socket)), "jobs run on, and a daemon that is told to end removes its socket")
        time.sleep(0.6)
        w.start()
        expect(w.status("counter") in ("sleep", "running", "disk") and w.job("counter")["checkpoint"]["path"] == path, w.job("counter"))
        until(lambda: not alive(fast) and w.job("brief")["exit_code"] == 0, lambda: w.job("brief"))
    second = subprocess.run([BINARY, "daemon", "start", "--config-dir", w.work], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=DEADLINE)
    expect(second.returncode == 1 and b"already" in second.stderr, second.stderr)
    w.dump("counter")
    w.fermata("restore", "job", "counter").good()
    w.counts_on("counter")


def test_late_supervisor(w):
    """A supervisor that comes after its job was given up starts nothing."""
    w.start()
    folder = w.state + "/jobs/late"
    os.mkdir(folder)
    program = os.path.join(os.path.dirname(BINARY), "fermata-daemon")
    spec = {"jid": "late", "dir": folder, "log": "", "argv": ["touch", w.work + "/ran"], "env": [], "cwd": "/", "umask": 18, "uid": 0, "gid": 0, "groups": [], "token": "abc"}

    def start(token):
        if token:
            with open(folder + "/wanted", "w") as file:
                file.write(token)
        out = subprocess.run(["fermata-supervisor", "late"], executable=program, input=json.dumps(spec).encode(), stdout=subprocess.PIPE, timeout=DEADLINE).stdout
        return json.loads(out)

    for token in (None, "another"):
        expect("given up" in start(token)["error"] and not os.path.exists(w.work + "/ran") and not os.path.exists(folder + "/state.json"), token)
    expect("pid" in start("abc"), "the one that is wanted")
    until(lambda: os.path.exists(w.work + "/ran"), "its job")
    # A job of which there is no sign is given up for good.
    w.kill()
    base = sqlite3.connect(w.state + "/fermata.db")
    w.start()
    w.run("counter")
    w.fermata("job", "kill", "counter").good()
    w.kill()
    os.unlink(w.state + "/jobs/counter/state.json")
    base.execute("UPDATE jobs SET state = 0, supervisor_pid = 0, process_pid = 0, ended = '' WHERE jid = 'counter'")
    base.commit()
    base.close()
    os.rename(w.state + "/jobs/counter/killed", w.state + "/jobs/counter/wanted")  # as if it had been begun again
    w.start()
    expect(w.job("counter")["ended"] == "lost" and not os.path.exists(w.state + "/jobs/counter/wanted"), w.job("counter"))


def test_half_removed(w):
    """A daemon that was killed while it removed a checkpoint goes on with that."""
    w.start()
    w.run("counter")
    kept, leaving = w.dump("counter", "--leave-running"), w.dump("counter", "--leave-running")
    w.kill()
    os.unlink(leaving + "/inventory.img")
    database = sqlite3.connect(w.state + "/fermata.db")
    database.execute("UPDATE checkpoints SET state = 2 WHERE path = ?", (leaving,))
    database.commit()
    database.close()
    w.start()
    expect([one["path"] for one in w.request("GET", "/v1/checkpoints")[1]] == [kept], w.request("GET", "/v1/checkpoints"))
    expect(os.listdir(w.dir) == [os.path.basename(kept)], os.listdir(w.dir))


def test_gate(w):
    """A dump whose daemon was killed before it had written down who makes it does not begin."""
    w.start()
    pid = w.run("counter")
    result = w.fermata("dump", "process", pid, "--no-server", "--gate", "--leave-running", stdin=b"").error("has ended")
    expect(not os.listdir(w.dir), result)
    w.fermata("dump", "process", pid, "--no-server", "--gate", "--leave-running", stdin=b"x").good()
    expect(len(os.listdir(w.dir)) == 1, os.listdir(w.dir))


def test_half_written(w):
    w.start()
    w.run("counter")
    whole = w.dump("counter", "--leave-running")
    w.kill()
    half, done = w.dir + "/half", w.dir + "/done"
    os.mkdir(half)
    open(half + "/core-1.img", "w").close()
    shutil.copytree(whole, done)
    base = sqlite3.connect(w.state + "/fermata.db")
    for name, path in (("aaaa", half), ("bbbb", done), ("cccc", w.dir + "/nothing")):
        base.execute("INSERT INTO checkpoints VALUES (?, 'counter', ?, 'process', 0, 0, 1, 1, 0, 0, 0, 0, '')", (name, path))
    base.commit()
    base.close()
    w.start()
    paths = {one["id"]: one["state"] for one in w.request("GET", "/v1/checkpoints")[1]}
    expect("aaaa" not in paths and "cccc" not in paths and paths.get("bbbb") == "whole" and not os.path.exists(half), paths)
    expect(os.path.exists(whole), "a whole one stays")


def test_dumped_without_daemon(w):
    """A dump that ends its job while no daemon is there has ended it all the same: it has not failed, and is not restarted."""
    w.start()
    pid = w.run("large", sys.executable, "-c", "import os, time\ndata = os.urandom(1 << 20) * 20\nprint('ready', flush=True)\ntime.sleep(1000)",
                options=["--restart", "on-failure"])
    until(lambda: "ready" in w.fermata("job", "logs", "large").out, "it to be ready")
    w.dump("large", "--leave-running")
    for _ in range(2):
        client = subprocess.Popen([BINARY, "dump", "job", "large", "--config-dir", w.work, "--compression", "gzip"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                  stderr=subprocess.DEVNULL)
        until(lambda: w.status("large") == "dumping", "it to be at it")
        w.kill()
        client.wait()
        w.start()
        until(lambda: all(one["state"] == "whole" for one in w.request("GET", "/v1/checkpoints")[1]) and not alive(pid), lambda: w.job("large"), 60)
        until(lambda: w.job("large")["ended"], lambda: w.job("large"))
        time.sleep(2)
        job = w.job("large")
        expect(job["ended"] == "dumped" and job["restarts"] == 0 and job["status"] == "halted", job)
        w.fermata("restore", "job", "large").good()


def test_damaged_database(w):
    w.start()
    pid = w.run("counter", options=["--checkpoint-every", "1h", "--keep", "7", "--restart", "on-failure"])
    w.run("strange", "sh", "-c", "sleep 1000 # two\nlines, %41 and \u00e9")
    w.dump("counter", "--leave-running")
    w.fermata("dump", "job", "strange", "--compression", "zstd", "--dir", w.work, "--name", "elsewhere").good()
    w.fermata("dump", "job", "counter", "--leave-running", "--compression", "lz4", "--streams", "2").good()
    jobs, checkpoints = (w.request("GET", path)[1] for path in ("/v1/jobs", "/v1/checkpoints"))
    w.kill()
    for path in glob.glob(w.state + "/fermata.db-*"):
        os.unlink(path)
    with open(w.state + "/fermata.db", "r+b") as file:
        file.write(b"nonsense" * 1000)
    w.start()
    expect(glob.glob(w.state + "/fermata.db.damaged-*"), os.listdir(w.state))
    expect(alive(pid) and w.status("counter") in ("sleep", "running", "disk"), "the job is found again")
    found = w.request("GET", "/v1/jobs")[1]
    expect([dict(job, status="") for job in found] == [dict(job, status="") for job in jobs], f"not as they were: {found} {jobs}")
    expect(w.request("GET", "/v1/checkpoints")[1] == checkpoints and len(checkpoints) == 3, "all is as it was")
    w.dump("counter")
    w.fermata("restore", "job", "counter").good()
    w.counts_on("counter")
    w.fermata("job", "kill", "counter").good()
    # Each of the earlier ones, wherever it lies.
    for one in checkpoints:
        w.fermata("verify", one["path"]).good()
        w.fermata("restore", "job", one["job"], "--checkpoint", one["id"]).good()
        w.fermata("job", "kill", one["job"]).good()
    w.fermata("job", "delete", "strange").good()
    # One that was lost altogether; what was deleted does not come back, and a note that is damaged is left out.
    w.kill()
    for path in glob.glob(w.state + "/fermata.db*"):
        os.unlink(path)
    with open(glob.glob(w.state + "/notes/checkpoints.*")[0], "w") as file:
        file.write("nonsense")
    w.start()
    expect([job["job"] for job in w.request("GET", "/v1/jobs")[1]] == ["counter"] and len(w.request("GET", "/v1/checkpoints")[1]) == 3, w.said())
    w.fermata("restore", "job", "counter").good()
    expect(alive(pid), "restored once more")


def test_older_database(w):
    """The schema of an earlier version is brought to this one's, with all that is in it; one of a later version is left alone."""
    w.start()
    pid = w.run("counter", options=["--checkpoint-every", "1h"])
    path = w.dump("counter", "--leave-running")
    jobs, checkpoints = (w.request("GET", what)[1] for what in ("/v1/jobs", "/v1/checkpoints"))
    now = sqlite3.connect(w.state + "/fermata.db")
    expect(now.execute("PRAGMA journal_mode").fetchone()[0] == "wal", "the mode of the journal")
    latest = now.execute("PRAGMA user_version").fetchone()[0]
    now.close()
    expect(latest >= 3, latest)
    plain = lambda list: [{**job, "status": "", "checkpoint_late_s": 0} for job in list]
    for version in range(1, latest):
        w.kill()
        base = sqlite3.connect(w.state + "/fermata.db")
        if version < 3:
            base.execute("ALTER TABLE jobs DROP COLUMN late_ns")
            base.execute("ALTER TABLE jobs DROP COLUMN missed")
        if version < 2:
            base.execute("DROP INDEX checkpoints_of_jobs")
        base.execute(f"PRAGMA user_version = {version}")
        base.commit()
        base.close()
        w.start()
        expect(plain(w.request("GET", "/v1/jobs")[1]) == plain(jobs) and w.request("GET", "/v1/checkpoints")[1] == checkpoints, f"from version {version}: {w.request('GET', '/v1/jobs')}")
        base = sqlite3.connect(w.state + "/fermata.db")
        expect(base.execute("PRAGMA user_version").fetchone()[0] == latest, "the version")
        base.close()
        w.counts_on("counter")
    w.kill()
    base = sqlite3.connect(w.state + "/fermata.db")
    base.execute("PRAGMA user_version = 99")
    base.commit()
    base.close()
    later = subprocess.run([BINARY, "daemon", "start", "--config-dir", w.work], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=DEADLINE)
    expect(later.returncode == 1 and b"newer fermata" in later.stderr and alive(pid) and os.path.exists(path), later.stderr)


def test_locked_database(w):
    w.start()
    w.run("counter")
    base = sqlite3.connect(w.state + "/fermata.db")
    base.execute("BEGIN EXCLUSIVE")
    w.fermata("run", "process", "--", "true").error("database")
    w.fermata("ps").good()
    base.rollback()
    base.close()
    w.fermata("run", "process", "--", "true").good()
    w.counts_on("counter")


def test_disk_full(w):
    small = w.work + "/small"
    os.mkdir(small)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=128k", "tmpfs", small]).returncode:
        raise Skip("cannot mount")
    try:
        w.start()
        pid = w.run("counter")
        w.fermata("dump", "job", "counter", "--dir", small).error("No space left")
        expect(alive(pid) and not os.listdir(small), os.listdir(small))
        w.counts_on("counter")
        expect(w.fermata("checkpoints").good().out == "No checkpoints found.\n", "nothing is noted")
        w.dump("counter")
    finally:
        subprocess.run(["umount", small])


def test_state_full(w):
    """The daemon's own disk is full: each request that has to write is an error that says so; jobs run on, and how they end is not lost."""
    os.mkdir(w.state)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", w.state]).returncode:
        raise Skip("cannot mount")
    try:
        w.start()
        pid, ends = w.run("counter"), w.run("ends", "sh", "-c", f"while [ ! -e {w.work}/end ]; do sleep 0.05; done; exit 5", options=["--restart", "on-failure"])
        w.dump("ends", "--leave-running")
        weak = w.run("weak")
        stubborn = w.run("stubborn", options=["--restart", "on-failure"])
        w.dump("stubborn", "--leave-running")
        with open(w.state + "/fill", "wb", buffering=0) as file:
            try:
                while file.write(b"x" * 4096):
                    pass
            except OSError:
                pass
        for verb in (["run", "process", "--", "true"], ["dump", "job", "counter", "--leave-running"], ["job", "set", "counter", "--keep", "2"]):
            w.fermata(*verb).error("full")
        expect(len(w.fermata("ps").good().out.splitlines()) == 5 and len(os.listdir(w.dir)) == 2, os.listdir(w.dir))
        # Those that were killed stay so, though their rows can't say it: also after the daemon was.
        for jid, one in (("weak", weak), ("stubborn", stubborn)):
            w.fermata("job", "kill", jid).good()
            expect(not alive(one) and w.status(jid) == "halted", f"{jid} can be ended")
        w.kill()
        w.start()
        expect(w.status("stubborn") == "halted" and w.job("counter")["pid"] == pid and len(w.fermata("ps").good().out.splitlines()) == 5, w.fermata("ps").out)
        open(w.work + "/end", "w").close()
        until(lambda: not alive(ends), "it to end")
        w.counts_on("counter")
        expect(alive(pid), "another job runs on")
        os.unlink(w.state + "/fill")
        until(lambda: w.job("ends")["restarts"] == 3 and w.job("ends")["exit_code"] == 5, lambda: w.job("ends"))
        job = w.job("stubborn")
        expect(job["ended"] == "killed" and job["restarts"] == 0 and w.status("stubborn") == "halted", job)
        # Started again it is as any: it may fail, and is restored.
        w.fermata("restore", "job", "stubborn").good()
        os.kill(stubborn, signal.SIGKILL)
        until(lambda: w.job("stubborn")["restarts"] == 1 and w.status("stubborn") != "halted", lambda: w.job("stubborn"))
        w.dump("counter")
        w.fermata("restore", "job", "counter").good()
    finally:
        w.finish()
        subprocess.run(["umount", "-l", w.state])


main(tests_of(globals()))
