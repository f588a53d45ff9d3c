#!/usr/bin/env python3
"""Tests of the daemon: each verb through a real one, in a folder of its own, so that nothing of the host's is touched; its restart; a crash
test that kills it at moments of all its work; a load test. Arguments select tests by a part of their names.

DAEMON_KILLS=N: how often the crash test kills (12). DAEMON_LOAD_JOBS, DAEMON_LOAD_SECONDS: the load test's size (8, 6).
DAEMON_FERMATA=PATH takes another binary. Runs as root."""
import ctypes
import glob
import http.client
import json
import os
import pty
import random
import re
import select
import shutil
import signal
import socket
import sqlite3
import struct
import subprocess
import sys
import tempfile
import termios
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from support import ROOT, Failure, Skip, adopt, counts, expect, read, reporter, state_of, verdict  # noqa: E402

report = reporter("daemon_")

BINARY = os.environ.get("DAEMON_FERMATA") or os.path.join(ROOT, "build/src/cli/fermata")
KILLS = int(os.environ.get("DAEMON_KILLS", "12"))
LOAD_JOBS = int(os.environ.get("DAEMON_LOAD_JOBS", "8"))
LOAD_SECONDS = int(os.environ.get("DAEMON_LOAD_SECONDS", "6"))
TEST_SECONDS = 60 + 20 * KILLS + 3 * LOAD_SECONDS
DEADLINE = 30       # s, for anything to end or to come
NOBODY = 65534
COUNT = ["sh", "-c", "i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done"]


def until(condition, what, seconds=DEADLINE):
    end = time.monotonic() + seconds
    while not (found := condition()):
        expect(time.monotonic() < end, f"not within {seconds} s: {what() if callable(what) else what}")
        time.sleep(0.02)
    return found


class Result:
    def __init__(self, arguments, status, out, err):
        self.arguments, self.status, self.out, self.err = " ".join(map(str, arguments)), status, out, err

    def __str__(self):
        return f"{self.arguments}: {self.status}, said {self.out.strip()!r} and {self.err.strip()!r}"

    def good(self, status=0):
        expect(self.status == status, self)
        expect("Error" not in self.err, self)
        return self

    def error(self, *words, status=1):
        expect(self.status == status or (status is None and self.status), self)
        expect(self.err.startswith("Error: ") and self.err.count("\n") == 1, self)
        for word in words:
            expect(word in self.err, f"no {word!r} in it: {self}")
        return self


def alive(pid):
    return state_of(pid) not in (None, "Z", "X")


class World:
    """A folder with configuration, database, logs and checkpoints, and a daemon."""

    def __init__(self, work):
        self.work, self.dir, self.logs, self.state = work, work + "/checkpoints", work + "/logs", work + "/state"
        os.mkdir(self.dir)
        os.mkdir(self.logs)
        self.socket, self.daemon, self.out = work + "/socket", None, open(work + "/daemon.out", "ab")
        self.settings = {"address": self.socket, "db": {"path": self.state + "/fermata.db"}, "log_dir": self.logs, "checkpoint": {"dir": self.dir}}
        self.configure()

    def configure(self, **more):
        self.settings.update(more)
        with open(self.work + "/config.json", "w") as file:
            json.dump(self.settings, file)

    def start(self, *arguments, env=None, before=(), **more):
        self.daemon = subprocess.Popen([*before, BINARY, "daemon", "start", "--config-dir", self.work, *arguments], stdin=subprocess.DEVNULL, stdout=self.out,
                                       stderr=self.out, env=dict(os.environ, **(env or {})), **more)
        until(lambda: self.daemon.poll() is not None or self.answers(), "the daemon to answer")
        expect(self.daemon.poll() is None, f"the daemon ended: {self.said()}")
        return self

    def said(self):
        return read(self.work + "/daemon.out")

    def answers(self):
        try:
            return self.request("GET", "/v1/health")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def kill(self):
        self.daemon.kill()
        self.daemon.wait()

    def stop(self):
        if self.daemon and self.daemon.poll() is None:
            self.daemon.terminate()
            self.daemon.wait(DEADLINE)

    def fermata(self, *arguments, before=(), deadline=DEADLINE, stdin=b"", program=BINARY, env=None):
        verb = list(map(str, arguments))
        # Before `--`, behind which all belongs to the program.
        at = verb.index("--") if "--" in verb else len(verb)
        full = [*before, program, *verb[:at], *(["--config-dir", self.work] if "--no-dir" not in verb and verb[0] not in ("verify", "diff", "query", "completion") else []), *verb[at:]]
        task = subprocess.run([word for word in full if word != "--no-dir"], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=deadline,
                              env=dict(os.environ, **(env or {})))
        return Result(verb, task.returncode, task.stdout.decode(errors="replace"), task.stderr.decode(errors="replace"))

    def connection(self):
        made = http.client.HTTPConnection("localhost", timeout=DEADLINE)
        made.sock = socket.socket(socket.AF_UNIX)
        made.sock.settimeout(DEADLINE)
        made.sock.connect(self.socket)
        return made

    def request(self, method, path, body=None, raw=None):
        made = self.connection()
        made.request(method, path, raw if raw is not None else json.dumps(body) if body is not None else None)
        answer = made.getresponse()
        text = answer.read()
        made.close()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text.decode(errors="replace")

    def run(self, jid, *command, options=()):
        out = self.fermata("run", "process", "--jid", jid, *options, "--", *(command or COUNT)).good().out
        return int(re.fullmatch(r"Running managed process PID (\d+)\n", out)[1])

    def job(self, jid):
        return json.loads(self.fermata("job", "inspect", jid, "--json").good().out)

    def status(self, jid):
        return self.job(jid)["status"]

    def numbers(self, jid):
        return [int(line) for line in read(f"{self.logs}/fermata-output-{jid}.log").split()]

    def counts_on(self, jid):
        before = len(self.numbers(jid))
        until(lambda: len(self.numbers(jid)) > before + 1, f"job {jid} to count on")
        numbers = self.numbers(jid)
        expect(numbers == sorted(numbers), f"job {jid} counts wrongly: {numbers[-20:]}")

    def dump(self, jid, *options):
        out = self.fermata("dump", "job", jid, *options).good().out
        path = out.split()[-1]
        expect(out.splitlines()[-1] == f"Dumped to {path}" and os.path.exists(path + "/inventory.img"), out)
        return path

    def processes(self):
        """Supervisors and jobs of this world."""
        found = []
        for path in glob.glob(self.state + "/jobs/*/state.json"):
            try:
                state = json.loads(read(path))
                found += [state["pid"], state["supervisor"]]
            except (ValueError, OSError, KeyError):
                pass
        return [pid for pid in found if pid > 0 and alive(pid)]

    def finish(self):
        self.stop()
        for _ in range(200):
            left = self.processes()
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass
            if not left:
                break
            time.sleep(0.02)
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        self.out.close()


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
    w.fermata("run", "process", "--jid", "counter", "--", "true").error("counter already", "--jid")
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
    w.fermata("freeze", "process", task.pid).good()
    until(lambda: state_of(task.pid) == "T", "it to stop")
    expect(w.status("mine") == "stopped", "the status of one that is stopped")
    w.fermata("unfreeze", "job", "mine").good()
    until(lambda: state_of(task.pid) == "S", "it to go on")
    path = w.fermata("dump", "process", task.pid, "--leave-running").good().out.split()[-1]
    expect(os.path.exists(path + "/inventory.img") and alive(task.pid), path)
    path = w.dump("mine")
    task.wait()
    expect(w.status("mine") == "halted", "after the dump")
    out = w.fermata("restore", "process", "--path", path).good().out
    expect(out == f"Restored successfully, PID: {task.pid}\n" and alive(task.pid), out)
    expect(w.fermata("job", "inspect", "mine").good().status == 0, "the job is still known")
    lines = w.fermata("query", "process", task.pid, os.getpid()).good().out.splitlines()
    expect(lines[0].split() == ["PID", "STATUS", "UID", "GID", "COMMAND"] and lines[1].split()[:2] == [str(task.pid), "sleep"] and len(lines) == 3, lines)
    expect(len(json.loads(w.fermata("query", "process", "--tree", "--json", os.getpid()).good().out)) >= 2, "query --tree")
    w.fermata("query", "process", "--inspect", task.pid).good()
    for verb in (("dump",), ("freeze",), ("manage",), ("query",)):
        w.fermata(*verb, "process", 4000000).error("no process 4000000")
    w.fermata("dump", "process", "x").error("no process id")


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


def test_without_daemon(w):
    w.fermata("ps").error("no daemon answers", "daemon start")
    result = w.fermata("daemon", "check")
    expect(result.status == 1 and "no daemon answers" in result.out, result)
    out = w.fermata("run", "process", "--no-server", "--", "sh", "-c", "exit 3")
    expect(out.status == 3, out)
    task = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
    path = w.fermata("dump", "process", task.pid, "--no-server").good().out.split()[-1]
    task.wait()
    expect(path.startswith(w.dir + "/dump-process-"), f"checkpoint.dir: {path}")
    w.fermata("verify", path).good()
    w.fermata("restore", "process", "--path", path, "--no-server", "--detach").good()
    w.fermata("freeze", "process", task.pid, "--no-server").good()
    until(lambda: state_of(task.pid) == "T", "freeze without a daemon")
    os.kill(task.pid, signal.SIGKILL)


def test_verify_diff(w):
    w.start()
    w.run("counter")
    one, two = w.dump("counter", "--leave-running"), w.dump("counter")
    w.fermata("verify", one).good()
    expect(w.fermata("diff", one, one).good().out == "No differences.\n", "no difference")
    result = w.fermata("diff", one, two)
    expect(result.status == 1 and re.search(r"core-\d+\.img +changed", result.out), result)
    with open(one + "/core-%d.img" % w.job("counter")["pid"], "ab") as file:
        file.write(b"x")
    w.fermata("verify", one).error("core-")
    w.fermata("verify", w.work).error("no manifest" if False else "cannot verify")


# ---- attach ----

def test_attach(w):
    w.start()
    pid = w.run("echo", "sh", "-c", "echo started; while read line; do echo got $line; stty size; done; exit 9", options=["--attachable"])
    expect(os.isatty(os.open(f"/proc/{pid}/fd/0", os.O_RDWR | os.O_NOCTTY)), "an attachable job has a terminal")
    w.fermata("attach", 1).error("no job of this daemon")
    child, terminal = pty.fork()
    if child == 0:
        os.execv(BINARY, [BINARY, "job", "attach", "echo", "--config-dir", w.work])

    heard = bytearray()

    def hear(word):
        end = time.monotonic() + DEADLINE
        while word not in heard:
            expect(time.monotonic() < end, f"no {word} in {bytes(heard)}")
            if select.select([terminal], [], [], 0.1)[0]:
                heard.extend(os.read(terminal, 4096))

    def resize(rows, columns):
        import fcntl
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    time.sleep(0.3)
    resize(33, 77)
    time.sleep(0.3)
    os.write(terminal, b"one\r")
    hear(b"got one")
    hear(b"33 77")
    resize(20, 50)
    time.sleep(0.3)
    os.write(terminal, b"two\r")
    hear(b"20 50")
    os.write(terminal, b"\x03")
    expect(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "Ctrl-C leaves it")
    os.close(terminal)
    expect(alive(pid), "and it runs on")
    path = w.dump("echo")
    expect(not alive(pid), path)
    w.fermata("restore", "job", "echo").good()
    expect(os.isatty(os.open(f"/proc/{pid}/fd/0", os.O_RDWR | os.O_NOCTTY)), "restored on a terminal of its own")
    result = w.fermata("attach", pid, stdin=b"three\n\x04")
    expect("got three" in result.out and result.status == 9, result)
    log = w.fermata("job", "logs", "echo").good().out
    expect(all(word in log for word in ("started", "got one", "got two", "got three")), log)
    w.fermata("job", "attach", "echo").error("has ended")
    w.run("plain")
    w.fermata("job", "attach", "plain").error("--attachable", "job logs")


def test_attach_survives(w):
    """The daemon's end cuts those who are attached, and nothing else."""
    w.start()
    pid = w.run("tick", *COUNT, options=["--attachable"])
    client = subprocess.Popen([BINARY, "job", "attach", "tick", "--config-dir", w.work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    client.stdout.read(4)
    w.kill()
    out, err = client.communicate(timeout=DEADLINE)
    expect(client.returncode == 1 and b"runs on" in err, err)
    expect(alive(pid), "the job runs")
    w.start()
    until(lambda: w.status("tick") in ("sleep", "running", "disk"), "to be found again")
    client = subprocess.Popen([BINARY, "job", "attach", "tick", "--config-dir", w.work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    expect(client.stdout.read(4), "attached again")
    client.send_signal(signal.SIGINT)
    out, err = client.communicate(timeout=DEADLINE)
    expect(client.returncode == 0 and b"Detached" in err and alive(pid), err)


# ---- what is done by itself ----

def test_periodic(w):
    w.start()
    w.run("often", *COUNT, options=["--checkpoint-every", "1s", "--keep", "2"])
    until(lambda: len(w.request("GET", "/v1/jobs/often/checkpoints")[1]) >= 2, "two checkpoints")
    first = {one["id"] for one in w.request("GET", "/v1/jobs/often/checkpoints")[1]}
    until(lambda: not first & {one["id"] for one in w.request("GET", "/v1/jobs/often/checkpoints")[1]}, "both to be replaced")
    kept = [one for one in w.request("GET", "/v1/jobs/often/checkpoints")[1] if one["state"] == "whole"]
    expect(len(kept) <= 4 and len(os.listdir(w.dir)) <= 5, kept)
    until(lambda: any(os.path.islink(os.path.join(w.dir, one, "parent")) for one in os.listdir(w.dir)), "one that has only what was written since the last")
    w.counts_on("often")
    out = w.fermata("job", "set", "often", "--checkpoint-every", "0").good().out
    expect("no periodic checkpoints" in out, out)
    time.sleep(1)
    until(lambda: all(one["state"] == "whole" for one in w.request("GET", "/v1/jobs/often/checkpoints")[1]), "what is under way")
    before = sorted(os.listdir(w.dir))
    time.sleep(1.5)
    expect(sorted(os.listdir(w.dir)) == before, "none are made any more")
    w.fermata("job", "set", "often", "--checkpoint-every", "soon").error("soon is no time")


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


def test_restart(w):
    w.start()
    pid = w.run("weak", *COUNT, options=["--restart", "on-failure", "--restart-limit", "2"])
    w.counts_on("weak")
    w.dump("weak", "--leave-running")
    for number in (1, 2):
        until(lambda: alive(pid), "it to run")
        os.kill(pid, signal.SIGKILL)
        until(lambda: w.job("weak")["restarts"] == number and alive(pid), lambda: w.job("weak"))
        until(lambda: w.status("weak") in ("sleep", "running", "disk"), "its status")
    os.kill(pid, signal.SIGKILL)
    time.sleep(2.5)
    expect(not alive(pid) and w.status("weak") == "halted", "the limit")
    pid = w.run("strong", *COUNT, options=["--restart", "on-failure"])
    w.dump("strong", "--leave-running")
    w.fermata("job", "kill", "strong").good()
    time.sleep(2)
    expect(not alive(pid), "one that was killed by command is not restarted")
    pid = w.run("dumped", *COUNT, options=["--restart", "on-failure"])
    w.dump("dumped")
    time.sleep(2)
    expect(not alive(pid), "nor one that was dumped")


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
        expect(not alive(fast) and w.job("brief")["exit_code"] == 0, w.job("brief"))
    second = subprocess.run([BINARY, "daemon", "start", "--config-dir", w.work], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=DEADLINE)
    expect(second.returncode == 1 and b"already" in second.stderr, second.stderr)
    w.dump("counter")
    w.fermata("restore", "job", "counter").good()
    w.counts_on("counter")


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


def test_damaged_database(w):
    w.start()
    pid = w.run("counter")
    w.kill()
    for path in glob.glob(w.state + "/fermata.db-*"):
        os.unlink(path)
    with open(w.state + "/fermata.db", "r+b") as file:
        file.write(b"nonsense" * 1000)
    w.start()
    expect(glob.glob(w.state + "/fermata.db.damaged-*"), os.listdir(w.state))
    expect(alive(pid) and w.status("counter") in ("sleep", "running", "disk"), "the job is found by its folder")
    w.dump("counter")
    w.fermata("restore", "job", "counter").good()
    w.counts_on("counter")


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


def test_busy(w):
    """Two dumps of one job at once: one is made, or both one after the other; a job that ends while it is dumped is an error and no more."""
    w.start()
    w.run("large", sys.executable, "-c", "import os, time\ndata = os.urandom(200 << 20)\nprint('ready', flush=True)\ntime.sleep(1000)")
    until(lambda: "ready" in w.fermata("job", "logs", "large").out, "it to be ready")
    results = []
    threads = [threading.Thread(target=lambda: results.append(w.fermata("dump", "job", "large", "--leave-running"))) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    good = [result for result in results if result.status == 0]
    expect(good and all("is being dumped" in result.err for result in results if result.status), [str(result) for result in results])
    expect(len(good) < 3, "none was refused")
    pid = w.job("large")["pid"]
    thread = threading.Thread(target=lambda: results.append(w.fermata("dump", "job", "large")))
    thread.start()
    time.sleep(0.05)
    os.kill(pid, signal.SIGKILL)
    thread.join()
    expect(results[-1].status in (0, 1) and w.answers(), results[-1])
    until(lambda: w.status("large") == "halted", "its end")
    expect(all(one["state"] == "whole" for one in w.request("GET", "/v1/checkpoints")[1]), "no half checkpoint is left")


def test_clients(w):
    """50 at once, and some that send nonsense or too much: an error to those."""
    w.start()
    w.run("counter")
    results = []

    def many():
        try:
            results.append(w.request("GET", "/v1/jobs")[0])
        except OSError as error:
            results.append(error)

    def send(data, size):
        made = socket.socket(socket.AF_UNIX)
        made.settimeout(DEADLINE)
        made.connect(w.socket)
        sent = 0
        try:
            while sent < size:
                sent += made.send(data)
            return made.recv(100)
        except OSError:
            return b""
        finally:
            made.close()

    threads = [threading.Thread(target=many) for _ in range(50)]
    for thread in threads:
        thread.start()
    idle = [socket.socket(socket.AF_UNIX) for _ in range(20)]
    for made in idle:
        made.connect(w.socket)
        made.send(b"GET /v1/jo")
    memory = lambda: int(re.search(r"VmRSS:\s+(\d+)", read(f"/proc/{w.daemon.pid}/status"))[1])
    before = memory()
    expect(b" 4" in send(os.urandom(64) + b"\r\n\r\n", 1) + b" 4", "nonsense")
    send(b"GET / HTTP/1.1\r\n" + b"X-Header: " + b"x" * (1 << 20), 1 << 30)
    expect(b" 4" in send(b"GET /v1/jobs HTTP/1.1\r\nContent-Length: -5\r\n\r\n", 1) + b" 4", "a negative length")
    for thread in threads:
        thread.join()
    expect(results == [200] * 50, results)
    expect(memory() < before + (64 << 10), "memory grew")
    expect(w.request("POST", "/v1/jobs/run", raw="{")[0] == 400 and w.request("POST", "/v1/jobs/run", raw="[]")[0] == 400, "no JSON")
    expect(w.request("POST", "/v1/jobs/run", raw='"' + "x" * (9 << 20) + '"')[0] == 413, "a body that is too large")
    expect(w.request("GET", "/v1/none")[0] == 404 and w.request("PUT", "/v1/jobs")[0] == 405, "no such route")
    expect(w.request("GET", "/v1/jobs/counter/attach")[0] == 400, "attach without upgrade")
    for body in ({}, {"argv": []}, {"argv": [1]}, {"argv": ["true"], "env": [], "cwd": "x"}, {"argv": ["true"], "env": [], "cwd": "/", "every": -1}):
        expect(w.request("POST", "/v1/jobs/run", body)[0] == 400, body)
    for options in ({"../x": True}, {"dir; rm": "x"}, {"compression": {}}, {"no-such-option": True}):
        status, answer = w.request("POST", "/v1/jobs/counter/dump", {"options": {**options, "leave-running": True}})
        expect(status == 400 or "error" in str(answer), (options, status, answer))
    for made in idle:
        made.close()
    w.counts_on("counter")


def test_permissions(w):
    os.chmod(w.work, 0o755)
    w.configure(group="nogroup")
    w.start()
    expect(os.stat(w.socket).st_mode & 0o777 == 0o660, "the socket with a group")
    other = ["setpriv", "--reuid", str(NOBODY), "--regid", str(NOBODY), "--clear-groups"]
    pid = w.run("roots")
    w.fermata("run", "process", "--as-root", "--", "true", before=other).error("only root")
    w.fermata("run", "process", "--out", "/tmp/x", "--", "true", before=other).error("only root")
    w.fermata("run", "process", "--jid", "theirs", "--", *COUNT, before=other).good()
    theirs = w.job("theirs")["pid"]
    expect(f"Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}" in read(f"/proc/{theirs}/status") and "CapPrm:\t0000000000000000" in read(f"/proc/{theirs}/status"), "whose it is")
    expect([job["job"] for job in json.loads(w.fermata("ps", "--json", before=other).good().out)] == ["theirs"], "others' jobs are not seen")
    for verb in (("job", "kill"), ("job", "inspect"), ("job", "logs"), ("dump", "job"), ("freeze", "job"), ("restore", "job")):
        w.fermata(*verb, "roots", before=other).error("no job roots")
    for verb in ("dump", "freeze", "manage"):
        w.fermata(verb, "process", pid, before=other).error("not yours")
    w.fermata("dump", "job", "theirs", "--dir", w.dir, before=other).error("only root")
    w.fermata("dump", "job", "theirs", "--log-file", "/tmp/x", before=other)
    path = w.fermata("dump", "job", "theirs", before=other).good().out.split()[-1]
    expect(path.startswith(w.state + "/checkpoints/") and os.stat(w.state).st_mode & 0o077 == 0, path)
    w.fermata("restore", "process", "--path", path, before=other).error("only root")
    expect(w.fermata("checkpoints", before=other).good().out.count("\n") == 2, "their checkpoint")
    w.fermata("restore", "job", "theirs", before=other).good()
    expect(f"Uid:\t{NOBODY}\t{NOBODY}\t{NOBODY}" in read(f"/proc/{theirs}/status"), "whose it is after the restore")
    w.counts_on("theirs")
    # A name that leads elsewhere since the dump gives them nothing that they could not have opened.
    open_dir, secret = w.work + "/theirs", w.work + "/secret"
    os.mkdir(open_dir)
    os.chown(open_dir, NOBODY, NOBODY)
    w.fermata("run", "process", "--jid", "sly", "--", "sh", "-c", f"exec 5>>{open_dir}/file; echo ready; sleep 1000", before=other).good()
    until(lambda: "ready" in w.fermata("job", "logs", "sly").out, "it to be ready")
    w.fermata("dump", "job", "sly", before=other).good()
    os.rename(open_dir + "/file", open_dir + "/kept")
    open(secret, "w").close()
    os.symlink(secret, open_dir + "/file")
    result = w.fermata("restore", "job", "sly", before=other)
    expect(result.status == 1 and not alive(w.job("sly")["pid"]), result)
    w.fermata("restore", "job", "sly", before=other).error("may not open" if "may not open" in result.err else "file")
    os.unlink(open_dir + "/file")
    os.rename(open_dir + "/kept", open_dir + "/file")
    w.fermata("restore", "job", "sly", before=other).good()
    w.fermata("config", "show", before=other).good()
    expect(alive(pid), "root's job runs")
    w.stop()
    w.configure(group="")
    w.start()
    expect(os.stat(w.socket).st_mode & 0o777 == 0o600, "the socket")
    w.fermata("ps", before=other).error("cannot reach the daemon")


def test_config(w):
    rows = lambda result: {line.split()[0]: line.split()[1:] for line in result.good().out.splitlines()[1:]}
    found = rows(w.fermata("config", "show"))
    expect(found["address"] == [w.socket, w.work + "/config.json"] and found["metrics"] == ["true", "default"], found)
    environment = {"FERMATA_CHECKPOINT_DIR": "/env", "FERMATA_ADDRESS": "/env.sock", "CEDANA_CHECKPOINT_DIR": "/cedana"}
    found = rows(w.fermata("config", "show", "--config", '{"checkpoint": {"dir": "/json", "streams": 4}}', "--address", "/line.sock", env=environment))
    expect(found["checkpoint.dir"] == ["/env", "FERMATA_CHECKPOINT_DIR"] and found["checkpoint.streams"] == ["4", "--config"], found)
    expect(found["address"] == ["/line.sock", "--address"], found)
    cedana = w.work + "/cedana"
    os.symlink(BINARY, cedana)
    found = rows(w.fermata("config", "show", program=cedana, env=environment))
    expect(found["checkpoint.dir"] == ["/cedana", "CEDANA_CHECKPOINT_DIR"], found)
    found = rows(w.fermata("config", "show", "--no-dir", program=cedana, env={"CEDANA_CONFIG_DIR": w.work}))
    expect(found["address"][0] == w.socket, found)
    w.fermata("config", "show", "--config", "{").error("--config is no JSON")
    w.fermata("config", "show", "--config", '{"metrics": "perhaps"}').error("metrics", "true or false")
    w.fermata("config", "show", "--config", '{"protocol": "pigeon"}').error("pigeon")
    w.fermata("daemon", "start", "--init-config").error("is there already", "--merge-config")
    w.start("--merge-config")
    written = json.loads(read(w.work + "/config.json"))
    expect(written["address"] == w.socket and written["metrics"] is True and written["checkpoint"]["compression"] == "none", written)
    expect(json.loads(w.fermata("daemon", "check", "--full", "--json").good().out)["good"], "check")
    expect(w.fermata("daemon", "check").good().out.endswith("All good.\n"), "check")
    expect(w.request("GET", "/v1/config")[0] == 200, "the daemon's own")


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


def test_metrics_and_api(w):
    w.start()
    w.run("counter")
    w.dump("counter", "--leave-running")
    status, text = w.request("GET", "/metrics")
    values = dict(line.rsplit(" ", 1) for line in text.splitlines() if not line.startswith("#"))
    expect(status == 200 and values["fermata_dumps_total"] == "1" and values['fermata_jobs{state="running"}'] == "1", text)
    expect(all(re.fullmatch(r"[a-z_]+(\{[^}]*\})? [-0-9.e+]+", line) for line in text.splitlines() if not line.startswith("#")), text)
    document = w.request("GET", "/v1/openapi.json")[1]
    expect(len(document["paths"]) > 15 and document == json.loads(read(os.path.join(ROOT, "docs/openapi.json"))),
           "docs/openapi.json is out of date: fermata daemon openapi > docs/openapi.json")
    made = w.connection()
    made.request("POST", "/v1/jobs/counter/dump", json.dumps({"options": {"leave-running": True}}))
    answer = made.getresponse()
    events = [json.loads(line) for line in answer.read().splitlines()]
    expect(answer.getheader("Content-Type") == "application/x-ndjson" and events[0]["event"] == "started" and events[-1]["event"] == "done", events)
    w.stop()
    w.configure(metrics=False)
    w.start()
    expect(w.request("GET", "/metrics")[0] == 404, "metrics are off")


def test_systemd(w):
    """The socket is handed over, and readiness told, as systemd does."""
    listener, ready = socket.socket(socket.AF_UNIX), socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    listener.bind(w.socket)
    listener.listen(20)
    ready.bind(w.work + "/ready")
    ready.settimeout(DEADLINE)
    helper = [sys.executable, "-c", "import os, sys\nos.dup2(int(sys.argv[1]), 3)\nos.environ.update(LISTEN_PID=str(os.getpid()), LISTEN_FDS='1')\nos.execv(sys.argv[2], sys.argv[2:])",
              str(listener.fileno())]
    w.start(before=helper, env={"NOTIFY_SOCKET": w.work + "/ready"}, pass_fds=[listener.fileno()])
    expect(ready.recv(100) == b"READY=1", "ready")
    pid = w.run("counter")
    expect(not [path for path in glob.glob(f"/proc/{pid}/fd/*") if "socket" in os.readlink(path)], "the socket is not inherited")
    w.stop()
    expect(ready.recv(100) == b"STOPPING=1" and os.path.exists(w.socket), "a socket that was handed over stays")
    unit = read(os.path.join(ROOT, "dist/fermata.service"))
    expect("Type=notify" in unit and "KillMode=process" in unit and "ListenStream=" in read(os.path.join(ROOT, "dist/fermata.socket")), unit)


def make_certificates(w):
    def openssl(*words):
        subprocess.run(["openssl", *words], check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=w.work)
    for authority in ("ca", "other"):
        openssl("req", "-x509", "-newkey", "rsa:2048", "-nodes", "-keyout", authority + ".key", "-out", authority + ".pem", "-subj", "/CN=" + authority, "-days", "2")
    for name, authority in (("server", "ca"), ("client", "ca"), ("stranger", "other")):
        openssl("req", "-newkey", "rsa:2048", "-nodes", "-keyout", name + ".key", "-out", name + ".csr", "-subj", "/CN=localhost")
        openssl("x509", "-req", "-in", name + ".csr", "-CA", authority + ".pem", "-CAkey", authority + ".key", "-CAcreateserial", "-out", name + ".pem", "-days", "2")


def test_tls(w):
    import ssl
    if not shutil.which("openssl"):
        raise Skip("needs openssl")
    make_certificates(w)
    probe = socket.socket()
    probe.bind(("127.0.0.1", 0))
    port = probe.getsockname()[1]
    probe.close()
    w.fermata("daemon", "start", "--protocol", "tcp", "--address", f"127.0.0.1:{port}").error("tls.cert")
    w.configure(protocol="tcp", address=f"127.0.0.1:{port}", tls={"cert": w.work + "/server.pem", "key": w.work + "/server.key", "ca": w.work + "/ca.pem"})

    def ask(name):
        context = ssl.create_default_context(cafile=w.work + "/ca.pem")
        context.check_hostname = False
        if name:
            context.load_cert_chain(f"{w.work}/{name}.pem", f"{w.work}/{name}.key")
        made = http.client.HTTPSConnection("127.0.0.1", port, context=context, timeout=DEADLINE)
        made.request("GET", "/v1/health")
        return made.getresponse().status

    def may(name):
        try:
            return ask(name)
        except OSError:
            return None

    w.answers = lambda: may("client") == 200
    w.start()
    expect(may("client") == 200, "one with a certificate")
    expect(may("stranger") != 200 and may(None) != 200, "one with another's certificate, or none")
    plain = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
    plain.send(b"GET /v1/health HTTP/1.1\r\n\r\n")
    try:
        expect(b"200" not in plain.recv(100), "plain text")
    except OSError:
        pass


# ---- crash and load ----

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


TESTS = [(name[5:], function) for name, function in sorted(globals().items(), key=lambda item: getattr(item[1], "__code__", until.__code__).co_firstlineno)
         if name.startswith("test_")]


def main():
    wanted = sys.argv[1:]
    adopt()
    def too_long(*_):
        raise Failure(f"it takes more than {TEST_SECONDS} s")

    signal.signal(signal.SIGALRM, too_long)
    for name in list(os.environ):
        if name.startswith(("FERMATA_", "CEDANA_")):
            del os.environ[name]
    for name, test in TESTS:
        if wanted and not any(word in name for word in wanted):
            continue
        if os.geteuid() != 0:
            report("skipped", name, "needs root")
            continue
        work = tempfile.mkdtemp(prefix="fermata-daemon-")
        world = World(work)
        try:
            signal.alarm(TEST_SECONDS)
            test(world)
            report("passed", name)
        except Skip as skip:
            report("skipped", name, str(skip))
        except (Failure, OSError, subprocess.SubprocessError, ValueError, KeyError, IndexError, TypeError, StopIteration) as failure:
            report("failed", name, f"{type(failure).__name__}: {failure}" if not isinstance(failure, Failure) else str(failure))
            if os.environ.get("DAEMON_VERBOSE"):
                print(world.said())
        finally:
            signal.alarm(0)
            world.finish()
            shutil.rmtree(work, ignore_errors=True)
    sys.exit(verdict())


main()
