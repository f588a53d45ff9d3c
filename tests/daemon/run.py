#!/usr/bin/env python3
"""Tests of the daemon's verbs: each through a real daemon in a folder of its own.

Arguments select tests by a part of their names. Runs as root."""
import glob
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

from world import BINARY, Skip, alive, expect, main, read, tests_of, until


# ---- verbs ----

def test_run(w):
    w.start()
    expect(w.fermata("job", "list").good().out == "No jobs found.\n", "an empty list")
    pid = w.run("counter")
    w.counts_on("counter")
    for verb in (("job", "list"), ("job", "ls"), ("ps",), ("jobs",)):
        lines = w.fermata(*verb).good().out.splitlines()
        expect(lines[0].split() == ["JOB", "TYPE", "PID", "STATUS", "GPU", "CHECKPOINT", "SIZE", "LOG"] and len(lines) == 2, lines)
        cells = lines[1].split()
        expect(cells[0] == "counter" and cells[2] == str(pid) and cells[-1] == f"{w.logs}/fermata-output-counter.log", lines)
    expect(os.getsid(pid) == pid, "a job has a session of its own")
    expect(read(f"/proc/{pid}/environ").count("LISTEN_") == 0, "the daemon's variables")
    descriptors = {os.readlink(path) for path in glob.glob(f"/proc/{pid}/fd/*")}
    expect(descriptors == {"/dev/null", f"{w.logs}/fermata-output-counter.log"}, descriptors)
    w.fermata("run", "process", "--jid", "counter", "--", "true").error("counter already", "another name")
    w.fermata("run", "process", "--jid", "../x", "--", "true").error("no name for a job")
    w.fermata("run", "process", "--", "/no/such/program").error("/no/such/program", "cannot run")
    w.fermata("run", "process").error("needs the program", status=2)
    expect(len(json.loads(w.fermata("ps", "--json").good().out)) == 1, "a program that can't be run leaves no job")
    w.fermata("job", "delete", "counter").error("counter runs", "job kill")
    expect(w.fermata("job", "kill", "counter").good().out == "Killed job counter\n", "kill")
    expect(not alive(pid), "it is killed")
    job = w.job("counter")
    expect(job["status"] == "halted" and job["exit_code"] == 137 and job["ended"] == "killed", job)
    w.fermata("job", "kill", "counter").error("does not run")
    w.fermata("job", "delete", "counter").good()
    for verb in ("inspect", "kill", "delete", "logs", "attach", "checkpoints"):
        w.fermata("job", verb, "counter").error("no job counter")


def test_run_names_and_status(w):
    w.start()
    out = w.fermata("exec", "sh", "--no-server", "--", "-c", "echo here; exit 5")
    expect(out.status == 5 and out.out == "here\n", out)
    out = w.fermata("run", "process", "--attach", "--", "sh", "-c", "echo $0; pwd; exit 7", "word")
    expect(out.status == 7 and out.out == f"word\n{os.getcwd()}\n" and "Running managed process PID" in out.err, out)
    expect(w.fermata("run", "process", "--attach", "--", "sh", "-c", "kill -TERM $$").status == 143, "a signal's status")
    expect(w.fermata("exec", "cat", "--attach", stdin=b"one\ntwo").out == "one\ntwo", "standard input")
    w.fermata("run", "process", "--pid-file", w.work + "/pid", "--", "sleep", "100").good()
    jobs = json.loads(w.fermata("ps", "--json").good().out)
    expect(len({job["job"] for job in jobs}) == len(jobs) == 4, jobs)
    pid = int(read(w.work + "/pid"))
    expect(jobs[0]["pid"] == pid and re.fullmatch(r"[a-z]+-[a-z]+-\d+", jobs[0]["job"]), jobs[0])
    out = w.fermata("run", "process", "--out", w.work + "/elsewhere", "--", "echo", "there").good()
    until(lambda: os.path.exists(w.work + "/elsewhere") and read(w.work + "/elsewhere") == "there\n", "the output")
    w.fermata("job", "kill", "--all").good()
    expect(not alive(pid), "kill --all")
    w.fermata("job", "delete", "--all").good()
    expect(w.fermata("ps").good().out == "No jobs found.\n", "delete --all")
    w.fermata("job", "delete", "--all").error("no such job")
    w.fermata("job", "delete").error("needs the job", status=2)


def test_json(w):
    """--json wherever there is output: one document, of which the first job is told by its name."""
    w.start()
    document = lambda *verb: json.loads(w.fermata(*verb[:2], "--json", *verb[2:]).good().out)
    one = document("run", "process", "--jid", "one", "--", "sleep", "1000")
    expect(one["job"] == "one" and alive(one["pid"]), one)
    for jid in ("two", "three"):
        w.run(jid)
    checkpoint = document("dump", "job", "one", "--leave-running")
    path = document("dump", "process", one["pid"], "--leave-running", "--no-server")["path"]
    for verb in (["ps"], ["jobs"], ["job", "list"], ["job", "ls"]):
        expect({job["job"] for job in document(*verb)} == {"one", "two", "three"}, verb)
    for verb in (["checkpoints"], ["job", "checkpoints"], ["job", "checkpoint", "list"], ["checkpoint", "list"], ["job", "checkpoints", "one"]):
        expect([row["id"] for row in document(*verb)] == [checkpoint["id"]], verb)
    for verb in (["freeze", "job", "one"], ["unfreeze", "job", "one"], ["freeze", "process", one["pid"]], ["unfreeze", "process", one["pid"]],
                 ["freeze", "process", one["pid"], "--no-server"], ["unfreeze", "process", one["pid"], "--no-server"], ["job", "set", "one", "--keep", "3"],
                 ["job", "inspect", "one"]):
        expect(document(*verb)["pid"] == one["pid"], verb)
    for verb in (["daemon", "check"], ["config", "show"], ["check", "--no-dir"], ["features", "--no-dir"], ["version", "--no-dir"], ["query", "process", one["pid"]],
                 ["check", "process", one["pid"], "--no-dir"], ["inspect", path, "--no-dir"], ["verify", path], ["job", "checkpoint", "inspect", checkpoint["id"]]):
        expect(document(*verb), verb)
    expect(document("diff", path, path) == [], "no difference")
    expect(document("job", "kill", "one")["job"] == "one" and document("restore", "job", "one")["pid"] == one["pid"], "kill and restore")
    expect({job["job"] for job in document("job", "kill", "--all")} == {"one", "two", "three"}, "all are killed")
    expect(document("checkpoint", "delete", path) == {"deleted": path, "path": path}, "a directory that only we know")
    expect(document("job", "checkpoint", "delete", checkpoint["id"])["deleted"] == checkpoint["id"], "one by its id")
    expect(document("job", "delete", "one") == {"deleted": "one", "left": []}, "one")
    expect({job["deleted"] for job in document("job", "delete", "--all")} == {"two", "three"}, "all are deleted")
    result = w.fermata("job", "delete", "--all", "--json")
    expect(result.status == 1 and json.loads(result.out) == [], result)


def test_dump_restore(w):
    w.start()
    pid = w.run("counter")
    w.counts_on("counter")
    path = w.dump("counter")
    expect(re.fullmatch(rf"{w.dir}/dump-process-counter-\d+", path), path)
    expect(os.stat(path).st_mode & 0o777 == 0o700, "a checkpoint is its owner's")
    job = w.job("counter")
    expect(not alive(pid) and job["status"] == "halted" and job["ended"] == "dumped" and job["checkpoint"]["path"] == path, job)
    before = w.numbers("counter")
    out = w.fermata("restore", "job", "counter").good().out
    expect(out == f"Restored successfully, PID: {pid}\n", out)
    w.counts_on("counter")
    numbers = w.numbers("counter")
    expect(numbers == list(range(len(numbers))) and len(numbers) > len(before), f"numbers are missing, or the log was cut: {numbers}")
    w.fermata("restore", "job", "counter").error("counter runs", "--as")
    named = w.dump("counter", "--name", "named", "--dir", w.work, "--leave-running")
    expect(named == w.work + "/named" and alive(pid), named)
    w.fermata("dump", "job", "counter", "--name", "named", "--dir", w.work).error("is there already", "--name")
    w.fermata("dump", "job", "counter", "--dir", w.work + "/none").error("no directory")
    w.fermata("dump", "job", "counter", "--compression", "best").error("compression", status=None)
    w.fermata("dump", "job", "counter", "--bogus").error("--bogus", status=2)
    w.counts_on("counter")
    expect(w.fermata("job", "checkpoints").good().out == w.fermata("job", "checkpoints", "counter").good().out, "without a job: those of all")
    lines = w.fermata("job", "checkpoints", "counter").good().out.splitlines()
    expect(lines[0].split() == ["ID", "TIME", "SIZE", "PATH"] and [line.split()[3] for line in lines[1:]] == [named, path], lines)
    expect(w.fermata("checkpoints").good().out.splitlines() == lines == w.fermata("job", "checkpoint", "list", "counter").good().out.splitlines(), lines)
    first = lines[-1].split()[0]
    expect("process" in w.fermata("job", "checkpoint", "inspect", first).good().out, "inspect of a checkpoint")
    w.fermata("job", "kill", "counter").good()
    w.fermata("restore", "job", "counter", "--checkpoint", first).good()
    w.counts_on_again = len(w.numbers("counter"))
    w.fermata("job", "checkpoint", "delete", first).good()
    expect(not os.path.exists(path), "its files are gone")
    w.fermata("job", "checkpoint", "delete", first).error("no checkpoint")
    w.fermata("job", "kill", "counter").good()
    w.fermata("job", "delete", "counter", "--checkpoints").good()
    expect(not os.path.exists(named) and w.fermata("checkpoints").good().out == "No checkpoints found.\n", "its checkpoints too")


def test_processes(w):
    w.start()
    task = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    out = w.fermata("manage", "process", task.pid, "--jid", "mine").good().out
    expect(out == f"Managing process PID {task.pid}\n" and w.job("mine")["command"] == "sleep 1000", out)
    os.kill(task.pid, signal.SIGSTOP)
    until(lambda: w.status("mine") == "stopped", "the status of one that is stopped")
    os.kill(task.pid, signal.SIGCONT)
    until(lambda: w.status("mine") == "sleep", "it to go on")
    path = w.fermata("dump", "process", task.pid, "--leave-running").good().out.split()[-1]
    expect(os.path.exists(path + "/inventory.img") and alive(task.pid), path)
    w.fermata("manage", "process", task.pid, "--jid", "twice").error("is the job mine already")
    for ours in (1, w.daemon.pid, os.getpid()):
        w.fermata("manage", "process", ours).error("the daemon runs below it")
    w.fermata("job", "attach", "mine").error("no terminal")
    w.fermata("dump", "job", "mine", "--dir", "").error("--dir is empty", status=2)
    path = w.dump("mine", "--dir", w.dir + "//")
    expect(os.path.dirname(path) == w.dir, path)
    task.wait()
    expect(w.status("mine") == "halted", "after the dump")
    out = w.fermata("restore", "process", "--path", path).good().out
    expect(out == f"Restored successfully, PID: {task.pid}\n" and alive(task.pid), out)
    expect(w.fermata("job", "inspect", "mine").good().status == 0, "the job is still known")
    query = lambda: w.fermata("query", "process", task.pid, os.getpid()).good().out.splitlines()
    until(lambda: query()[1].split()[1:2] == ["sleep"], query)
    lines = query()
    expect(lines[0].split() == ["PID", "STATUS", "UID", "GID", "COMMAND"] and lines[1].split()[:2] == [str(task.pid), "sleep"] and len(lines) == 3, lines)
    expect(len(json.loads(w.fermata("query", "process", "--tree", "--json", os.getpid()).good().out)) >= 2, "query --tree")
    w.fermata("query", "process", "--inspect", task.pid).good()
    for verb in (("dump",), ("freeze",), ("manage",), ("query",)):
        w.fermata(*verb, "process", 4000000).error("no process 4000000")
    w.fermata("dump", "process", "x").error("no process id")


# Parent and child count, and say what signals, ends and stops they hear of. The clock of the frozen time is not theirs to hide.
WITNESS = """
import os, signal, sys
def heard(number, frame):
    print('heard', signal.Signals(number).name, flush=True)
for number in (signal.SIGCONT, signal.SIGCHLD, signal.SIGTSTP, signal.SIGALRM):
    signal.signal(number, heard)
child = os.fork()
name = 'child' if child == 0 else 'parent'
rounds = 0
while True:
    signal.sigtimedwait([], 0.02)
    rounds += 1
    if child and os.waitpid(-1, os.WNOHANG | os.WUNTRACED | os.WCONTINUED)[0]:
        print('heard of the child', flush=True)
    print(name, rounds, flush=True)
"""


def witnessed(w, jid):
    return w.fermata("job", "logs", jid).good().out.splitlines()


def see_freeze(w, jid, by_freezer):
    """Freezes and continues the job: it stands still in between, in all of its processes, and knows nothing of it where a freezer did it."""
    pid = w.run(jid, sys.executable, "-c", WITNESS)
    until(lambda: {"parent 2", "child 2"} <= set(witnessed(w, jid)), "both to run")
    expect(w.fermata("freeze", "job", jid).good().out == f"Froze process PID {pid}\n", "freeze")
    before = witnessed(w, jid)
    time.sleep(0.3)
    expect(witnessed(w, jid) == before, "it runs on")
    expect(w.status(jid) == ("frozen" if by_freezer else "stopped"), w.job(jid))
    expect(w.fermata("freeze", "job", jid).good(), "once more")
    path = w.dump(jid, "--leave-running")
    w.dump(jid, "--leave-running", "--no-live")
    time.sleep(0.2)
    expect(witnessed(w, jid) == before and w.status(jid) == ("frozen" if by_freezer else "stopped"), "a dump leaves it as it was")
    w.fermata("unfreeze", "job", jid).good()
    until(lambda: len(witnessed(w, jid)) > len(before) + 4, "it to go on")
    if by_freezer:
        expect(not [line for line in witnessed(w, jid) if "heard" in line], witnessed(w, jid))
    w.fermata("freeze", "job", jid).good()
    w.fermata("job", "kill", jid).good()
    expect(not alive(pid), "one that is frozen can be killed")
    return path, pid


def has_group(pid):
    return "fermata-frozen" in read(f"/proc/{pid}/cgroup")


def groups_left():
    return glob.glob("/sys/fs/cgroup/**/fermata-frozen", recursive=True)


def has_freezer(kind):
    return any(kind in line.split()[2:4] or kind in line.split()[3].split(",") for line in read("/proc/mounts").splitlines())


def test_strays(w):
    """What a job has sent to the background for good is not below its first process any more: a dump says that it is not saved, and a job that is killed takes it along."""
    w.start()
    w.run("strays", "sh", "-c", f"cd {w.work}; (setsid sleep 1000 & echo $! > stray); (sleep 1000 & echo $! > other); exec sleep 1000")
    until(lambda: os.path.exists(w.work + "/other") and read(w.work + "/other"), "the stray ones")
    strays = [int(read(f"{w.work}/{name}")) for name in ("stray", "other")]
    until(lambda: all(read(f"/proc/{pid}/comm") == "sleep\n" for pid in strays), "them to sleep")
    told = w.fermata("dump", "job", "strays", "--leave-running").good().out
    for pid in strays:
        expect(f"process {pid} (sleep) of job strays is not saved" in told and alive(pid), told)
    w.fermata("job", "kill", "strays").good()
    until(lambda: not any(alive(pid) for pid in strays), "their end")


def test_freeze(w):
    if not has_freezer("cgroup2") and not has_freezer("freezer"):
        raise Skip("there is no cgroup freezer here")
    w.start()
    path, pid = see_freeze(w, "witness", True)
    expect(not groups_left(), groups_left())
    # What was saved frozen runs once it is restored.
    before = witnessed(w, "witness")
    w.fermata("restore", "job", "witness").good()
    until(lambda: len(witnessed(w, "witness")) > len(before) + 4, "it to run")
    w.fermata("freeze", "process", pid).good()
    w.dump("witness")
    expect(not alive(pid) and not groups_left(), "a frozen job that is dumped ends")
    # A helper that is killed can't put it back; the daemon does.
    large = w.run("large", sys.executable, "-c", "import os, time\ndata = os.urandom(200 << 20)\nprint('ready', flush=True)\ntime.sleep(1000)")
    until(lambda: "ready" in w.fermata("job", "logs", "large").out, "it to be ready")
    w.fermata("freeze", "job", "large").good()
    client = subprocess.Popen([BINARY, "dump", "job", "large", "--config-dir", w.work, "--compression", "zlib"], stdin=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    helper = until(lambda: w.helper("dump"), "the helper")
    until(lambda: not has_group(large) or client.poll() is not None, "it to be taken out of the freezer")
    os.kill(helper, signal.SIGKILL)
    expect(client.wait() == 1 and w.status("large") == "frozen", client.stderr.read())
    w.fermata("unfreeze", "job", "large").good()
    expect(w.status("large") in ("sleep", "running", "disk") and not groups_left(), "it goes on")


def test_freeze_version_1(w):
    if not has_freezer("freezer"):
        raise Skip("there is no freezer of cgroups version 1 here")
    place = [line.split()[1] for line in read("/proc/mounts").splitlines() if line.split()[2] == "cgroup2"]
    w.start(before=["unshare", "--mount", "sh", "-c", "".join(f"umount {one}; " for one in place) + 'exec "$@"', "-"])
    see_freeze(w, "witness", True)
    expect(not groups_left(), groups_left())


def test_freeze_without_freezer(w):
    place = [line.split()[1] for line in read("/proc/mounts").splitlines() if line.split()[2] in ("cgroup", "cgroup2")]
    w.start(before=["unshare", "--mount", "sh", "-c", "".join(f"umount {one}; " for one in reversed(place)) + 'exec "$@"', "-"])
    see_freeze(w, "witness", False)


def test_upcoming(w):
    w.start()
    last = int(read("/proc/sys/kernel/ns_last_pid"))
    pid = last + 3000
    w.fermata("manage", "process", pid, "--jid", "later").error("no process", "--upcoming")
    w.fermata("manage", "process", pid, "--jid", "later", "--upcoming").good()
    expect(w.status("later") == "upcoming", "before it is there")
    script = (f"import ctypes, os, struct\nargs = bytearray(88)\npid = ctypes.c_int({pid})\nstruct.pack_into('Q', args, 32, 17)\n"
              "struct.pack_into('QQ', args, 64, ctypes.addressof(pid), 1)\nbuffer = (ctypes.c_char * 88).from_buffer(args)\n"
              "child = ctypes.CDLL(None).syscall(435, buffer, 88)\n"
              "if child == 0:\n    os.dup2(os.open('/dev/null', os.O_RDWR), 1)\n    os.execvp('sleep', ['sleep', '1000'])\nprint(child, flush=True)")
    made = subprocess.run([sys.executable, "-c", script], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    if made.stdout.decode().strip() != str(pid):
        raise Skip("the pid is taken")
    until(lambda: w.status("later") == "sleep", lambda: w.job("later"))
    os.kill(pid, signal.SIGKILL)


# Has all that an option of dump is asked for.
NEEDY = """
import fcntl, os, socket, sys, time
work = sys.argv[1]
a = socket.socket()
a.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
a.bind(('127.0.0.1', 0))
a.listen()
b = socket.create_connection(a.getsockname())
c, _ = a.accept()
locked = open(work + '/locked', 'w')
fcntl.flock(locked, fcntl.LOCK_EX)
gone = open(work + '/gone', 'w')
os.link(work + '/gone', work + '/other')
os.unlink(work + '/gone')
print('ready', flush=True)
while True:
    try:
        b.send(b'x')
        c.recv(1)
        print('passed', flush=True)
    except OSError:
        print('closed', flush=True)
    time.sleep(0.05)
"""


def test_options(w):
    """Options of dump and restore reach the engine through the daemon."""
    w.start()
    output = lambda jid: w.fermata("job", "logs", jid).good().out
    pid = w.run("needy", sys.executable, "-c", NEEDY, w.work)
    until(lambda: "passed" in output("needy"), "it to be ready")
    given = ["--leave-running"]
    for option in ("--tcp-established", "--file-locks", "--link-remap"):
        w.fermata("dump", "job", "needy", *given).error(option)
        given.append(option)
    for _ in range(3):
        w.dump("needy", *given)
    expect("Stopped 1 processes" in w.fermata("dump", "job", "needy", *given, "-v3").good().out, "the helper's log")
    out = w.fermata("dump", "job", "needy", *given, "-v", "-v", "--json").out
    expect(json.loads(out)["event"] == "done", out)
    w.dump("needy", *given[1:])
    w.fermata("restore", "job", "needy").error("--tcp-established")
    before = w.job("needy")
    expect(before["ended"] == "dumped" and before["pid"] == pid and before["status"] == "halted", f"a restore that failed leaves it as it was: {before}")
    w.fermata("restore", "job", "needy", *given[1:]).good()
    count = output("needy").count("passed")
    until(lambda: output("needy").count("passed") > count, "the connection to be there again")
    w.dump("needy", *given[1:])
    w.fermata("restore", "job", "needy", "--tcp-close", *given[2:]).good()
    until(lambda: "closed" in output("needy"), "the connection to be closed")
    w.dump("needy", "--tcp-close", *given[2:])
    w.fermata("restore", "job", "needy", "--leave-stopped", "--tcp-close", *given[2:], "--pid-file", w.work + "/pid").good()
    expect(w.status("needy") == "stopped" and int(read(w.work + "/pid")) == pid, "--leave-stopped")
    w.fermata("dump", "job", "needy", "--criu-opts", '{"tcp_close": true, "file_locks": true, "link_remap": true, "leave_running": true}').good()
    w.fermata("dump", "job", "needy", "--criu-opts", '{"skip_in_flight": 3}').error("skip", status=None)
    reader, writer = os.pipe()
    task = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL, stdout=writer, stderr=subprocess.DEVNULL, start_new_session=True)
    w.fermata("dump", "process", task.pid, "--leave-running").error("--external")
    w.fermata("dump", "process", task.pid, "--leave-running", "--external", f"pipe[{os.fstat(writer).st_ino}]").good()
    task.kill()
    task.wait()


def test_out(w):
    """restore --out: what went to a file goes to this one, with and without the daemon; a job's log is where its output goes."""
    w.start()
    pid = w.run("counter")
    w.counts_on("counter")
    path = w.dump("counter")
    first, second, third = (w.work + name for name in ("/first", "/second", "/third"))
    w.fermata("restore", "job", "counter", "--out", first).good()
    until(lambda: os.path.exists(first) and len(read(first).split()) > 3, "output in the new file")
    before = w.numbers("counter")
    expect(int(read(first).split()[0]) == before[-1] + 1 and w.job("counter")["log"] == first, (read(first), before))
    logs = w.fermata("job", "logs", "counter").good().out
    expect(logs and read(first).startswith(logs), "job logs")
    w.fermata("job", "kill", "counter").good()
    expect(w.numbers("counter") == before, "and none in the old one")
    w.fermata("restore", "process", "--path", path, "--out", second).good()
    until(lambda: os.path.exists(second) and len(read(second).split()) > 3, "output in the second file")
    w.fermata("job", "kill", "--all").good()
    w.fermata("restore", "process", "--path", path, "--out", third, "--no-server", "--detach").good()
    until(lambda: os.path.exists(third) and len(read(third).split()) > 3, "output in the third file")
    os.kill(pid, signal.SIGKILL)
    until(lambda: not alive(pid), "its end")
    w.fermata("restore", "job", "counter", "--out", w.work + "/none/there").error("none/there")
    task = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    path = w.fermata("dump", "process", task.pid).good().out.split()[-1]
    task.wait()
    w.fermata("restore", "process", "--path", path, "--out", third).error("/dev/null is its standard input too", "--out")
    # On a terminal of the daemon's, it is the log that goes there.
    w.run("echo", "sh", "-c", "while read line; do echo got $line; done", options=["--attachable"])
    path = w.dump("echo")
    w.fermata("restore", "job", "echo", "--out", w.work + "/fourth").good()
    w.fermata("job", "attach", "echo", stdin=b"one\n\x04")
    expect("got one" in read(w.work + "/fourth"), read(w.work + "/fourth"))
    # A checkpoint that the daemon knows is restored by its path as it would be by its job.
    w.fermata("restore", "process", "--path", path, "--as", "again").good()
    expect("got two" in w.fermata("job", "attach", "again", stdin=b"two\n\x04").out, "by its path")


def test_without_daemon(w):
    w.fermata("ps").error("no daemon answers", "daemon start")
    result = w.fermata("daemon", "check")
    expect(result.status == 1 and "no daemon answers" in result.out, result)
    out = w.fermata("run", "process", "--no-server", "--", "sh", "-c", "exit 3")
    expect(out.status == 3, out)
    w.fermata("run", "process", "--no-server", "--", "/none/there").error("cannot run /none/there", status=127)
    w.fermata("run", "process", "--no-server", "--out", w.work + "/none/there", "--", "true").error("cannot write", status=127)
    for more in (["--jid", "x"], ["--checkpoint-every", "5"], ["--restart", "on-failure"], ["--attachable"]):
        w.fermata("run", "process", "--no-server", *more, "--", "true").error(more[0], "--no-server", status=2)
    out = w.fermata("run", "process", "--no-server", "--json", "--", "echo", "there")
    expect(out.out == "there\n" and json.loads(out.err)["pid"] > 0, out)
    task = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    path = w.fermata("dump", "process", task.pid, "--no-server").good().out.split()[-1]
    task.wait()
    expect(path.startswith(w.dir + "/dump-process-"), f"checkpoint.dir: {path}")
    w.fermata("verify", path).good()
    w.fermata("restore", "process", "--path", path, "--no-server", "--detach").good()
    expect(w.fermata("freeze", "process", task.pid, "--no-server").good().out == f"Froze process PID {task.pid}\n", "freeze without a daemon")
    expect(w.fermata("query", "process", task.pid).good().out.splitlines()[1].split()[1] in ("frozen", "stopped"), "its status")
    expect(w.fermata("unfreeze", "process", task.pid, "--no-server").good().out == f"Unfroze process PID {task.pid}\n", "unfreeze without a daemon")
    os.kill(task.pid, signal.SIGKILL)
    w.fermata("freeze", "process", 1, "--no-server").error("this command runs below it")


def test_result_file(w):
    """--result-file has the path of the checkpoint; one that can't be written ends the dump before the target is touched."""
    w.start()
    pid = w.run("counter")
    w.fermata("dump", "job", "counter", "--result-file", w.work + "/none/file").error("nothing was dumped", "none/file")
    w.fermata("dump", "process", pid, "--no-server", "--result-file", w.work + "/none/file").error("nothing was dumped")
    expect(w.status("counter") != "halted" and not os.listdir(w.dir), os.listdir(w.dir))
    for more in (["job", "counter"], ["process", pid], ["process", pid, "--no-server"]):
        out = w.fermata("dump", *more, "--leave-running", "--result-file", w.work + "/result").good().out
        expect(read(w.work + "/result") == out.split()[-1] + "\n", out)
    text = w.fermata("job", "inspect", "counter").good().out
    expect(re.search(r"^created at +\d{4}-\d\d-\d\dT[\d:]{8}$", text, re.M) and re.search(rf"^checkpoint path +{w.dir}/", text, re.M), text)


def test_gone(w):
    """A checkpoint that somebody has removed by hand is told as such."""
    w.start()
    w.run("counter")
    kept, gone = w.dump("counter", "--leave-running"), w.dump("counter")
    shutil.rmtree(gone)
    rows = w.fermata("job", "checkpoints", "counter").good().out.splitlines()
    expect(any("missing" in row and gone in row for row in rows) and any("missing" not in row and kept in row for row in rows), rows)
    w.fermata("restore", "job", "counter").error("is not there any more", gone, "--checkpoint ID")
    expect(w.status("counter") == "halted", w.job("counter"))
    ids = {one["path"]: one["id"] for one in w.request("GET", "/v1/checkpoints")[1]}
    count = len(w.numbers("counter"))
    w.fermata("restore", "job", "counter", "--checkpoint", ids[kept]).good()
    until(lambda: len(w.numbers("counter")) > count + 1, "it to count on, from the earlier one")
    w.fermata("job", "checkpoint", "delete", ids[gone]).good()
    for kind in ("tar", "gzip", "lz4", "zlib", "zstd"):
        for more in ([], ["--streams", "2"]):
            w.fermata("dump", "job", "counter", "--leave-running", "--compression", kind, *more).good()
    expect("missing" not in w.fermata("checkpoints").good().out, w.fermata("checkpoints").out)


def test_verify_diff(w):
    w.start()
    w.run("counter")
    one, two = w.dump("counter", "--leave-running"), w.dump("counter")
    w.fermata("verify", one).good()
    expect(w.fermata("diff", one, one).good().out == "No differences.\n", "no difference")
    result = w.fermata("diff", one, two)
    expect(result.status == 1 and re.search(r"(core|pages)-\d+\.img +changed", result.out), result)
    with open(one + "/core-%d.img" % w.job("counter")["pid"], "ab") as file:
        file.write(b"x")
    w.fermata("verify", one).error("core-")
    w.fermata("restore", "job", "counter").good()
    for kind in ("tar", "gzip", "lz4", "zlib", "zstd"):
        packed = w.fermata("dump", "job", "counter", "--leave-running", "--compression", kind).good().out.split()[-1]
        expect(w.fermata("diff", packed, packed).good().out == "No differences.\n", packed)
        result = w.fermata("diff", two, packed)
        expect(result.status == 1 and re.search(r"(core|pages)-\d+\.img +changed", result.out), result)
        document = json.loads(w.fermata("diff", two, packed, "--json").out)
        expect(any(row["file"].startswith(("core-", "pages-")) and row["difference"] == "changed" for row in document), document)
    streams = w.fermata("dump", "job", "counter", "--leave-running", "--compression", "lz4", "--streams", "2").good().out.split()[-1]
    expect(w.fermata("diff", streams, packed).status == 1, "an archive in parts")
    w.fermata("diff", one, w.work + "/none").error("none", status=2)
    w.fermata("diff", one, w.work).error("fermata.json", status=2)
    w.fermata("verify", w.work).error("cannot verify")


def test_cedana(w):
    """The verbs and flags as a script of Cedana's users has them."""
    cedana = w.work + "/cedana"
    os.symlink(BINARY, cedana)
    w.start()
    call = lambda *arguments, **more: w.fermata(*arguments, program=cedana, **more)
    call("exec", "sleep", "1000", "--jid", "theirs").good()
    job, pid = call("ps").good().out.splitlines()[1].split()[0:3:2]
    expect(job == "theirs", job)
    path = call("dump", "job", job, "-d", w.dir, "--name", "mine", "--compression", "none", "--leave-running").good().out.split()[-1]
    expect(path == w.dir + "/mine", path)
    call("job", "kill", "theirs").good()
    call("restore", "job", "theirs").good()
    expect(alive(int(pid)), "restored")
    expect(call("completion", "bash").good().out.count("_cedana") >= 2, "completion")
    path = call("dump", "job", "theirs", "--criu-opts", '{"leave_running": true, "fileLocks": true}').good().out.split()[-1]
    expect(alive(int(pid)) and os.path.exists(path + "/inventory.img"), "--criu-opts")
    call("dump", "job", "theirs", "--criu-opts", '{"no_such": 1}').error("--criu-opts", "no-such", status=2)
    call("dump", "job", "theirs", "--criu-opts", "[").error("no JSON object", status=2)
    call("bogus").error("cedana has no command bogus", status=2)
    # Containers are refused in one line, whatever options of theirs are given.
    for verb in ("dump", "restore", "run", "manage", "freeze", "unfreeze", "query"):
        for thing in ("runc", "containerd", "crio", "docker", "podman", "kata", "k8s", "slurm"):
            call(verb, thing, "box", "--root", "/run/runc", "--no-dir").error(f"cedana {verb} {thing} is not there yet", "containers")
        call(verb, "--root", "/run/runc", "runc", "box", "--no-dir").error(f"cedana {verb} runc is not there yet", "containers")
    call("query", "k8s", "--namespace", "default", "--no-dir").error("cedana query k8s is not there yet")
    call("plugin", "install", "gpu", "--no-dir").error("no plugins", "features")
    call("dump", "runc", "--help", "--no-dir").good()
    # Every flag that is documented there is taken, or refused with what helps.
    call("dump", "job", "theirs", "-d", "s3://bucket/path").error("s3://bucket/path is not there yet", "mount")
    call("restore", "process", "-p", "gcs://bucket/path").error("is not there yet", "mount")
    flags = ["--leave-running", "--tcp-established", "--skip-in-flight", "--file-locks", "--shell-job", "--link-remap", "--compression", "lz4", "--streams", "0", "--criu-opts", "{}",
             "--external", "file[1:2]", "--result-file", w.work + "/result"]
    path = call("dump", "job", "theirs", *flags).good().out.split()[-1]
    expect(path.endswith(".tar.lz4") and read(w.work + "/result") == path + "\n", path)
    call("dump", "job", "theirs", "--no-server").error("--no-server is not one of", "dump process", status=2)
    call("job", "kill", "theirs").good()
    call("restore", "job", "theirs", "--tcp-established", "--file-locks", "--link-remap", "--external", "file[1:2]", "--criu-opts", "{}", "--pid-file", w.work + "/pid").good()
    expect(int(read(w.work + "/pid")) == int(pid), "--pid-file")
    for verb in (["ps"], ["jobs"], ["checkpoints"], ["query", "process", pid, "-ti"], ["features", "--errors"], ["version"], ["completion", "bash"], ["daemon", "check", "--full"]):
        call(*verb, "--address", w.socket, "--protocol", "unix", "--config", "{}", "--profiling", "--config-dir", w.work, "--no-dir").good()
    call("ps", "--init-config").error("but of daemon start", status=2)
    call("exec", "true", "-ag").good()
    call("dump").error("behind it comes one of: process, job", status=2)
    call("job", "checkpoint", "nonsense").error("but one of: list, inspect, delete", status=2)


main(tests_of(globals()))
