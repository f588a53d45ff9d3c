#!/usr/bin/env python3
"""Tests of the command line: help, usage, configuration files, check, check process, inspect, and the errors a user meets. Of an
error is asked: one line that says what and what to do, an exit status that is not zero, a target that runs on, and no files.

Arguments select tests by a part of their names. CLI_FERMATA=PATH takes another binary. Runs as root."""
import ctypes
import glob
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from support import PR_SET_CHILD_SUBREAPER, ROOT, Failure, Skip, adopt, expect, read, reap, reporter, state_of, verdict  # noqa: E402

report = reporter("cli_")

BINARY = os.environ.get("CLI_FERMATA") or os.path.join(ROOT, "build/src/cli/fermata")
DEADLINE = 20       # s, for anything to end or to come
NOBODY = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]


# ---- the programs ----

class Result:
    def __init__(self, arguments, status, out, err):
        self.arguments, self.status, self.out, self.err = " ".join(arguments), status, out, err

    def __str__(self):
        return f"{self.arguments}: {self.status}, said {self.out.strip()!r} and {self.err.strip()!r}"

    def good(self):
        expect(self.status == 0, self)
        expect("Error" not in self.err, self)
        return self

    def error(self, *words, status=1):
        """One line on stderr, with the words in it, and nothing on stdout."""
        expect(self.status == status, self)
        expect(self.err.startswith("Error: ") and self.err.count("\n") == 1 and self.err.endswith("\n"), self)
        expect(not self.out, self)
        for word in words:
            expect(word in self.err, f"no {word!r} in it: {self}")
        return self


def run(program, arguments, before=(), cwd=None, env=None, deadline=DEADLINE, pass_fds=()):
    full = list(before) + [program] + [str(word) for word in arguments]
    task = subprocess.run(full, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=deadline, cwd=cwd,
                          env=dict(os.environ, **env) if env else None, pass_fds=pass_fds)
    return Result(full[len(before):], task.returncode, task.stdout.decode(errors="replace"), task.stderr.decode(errors="replace"))


def fermata(*arguments, **more):
    return run(BINARY, arguments, **more)


# ---- targets ----

TARGET = """
import fcntl, mmap, os, socket, sys, threading, time
state = os.open(%r, os.O_RDWR | os.O_CREAT)
ticks = 0
def tick():
    global ticks
    ticks += 1
    os.pwrite(state, ticks.to_bytes(8, "little"), 0)
%s
while True:
    tick()
    time.sleep(0.005)
"""


def children_of(pid):
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            for child in map(int, read(path).split()):
                found += [child] + children_of(child)
        except OSError:
            pass
    return found


def kill_all():
    end = time.monotonic() + DEADLINE
    while left := children_of(os.getpid()):
        expect(time.monotonic() < end, f"processes that can't be killed: {left}")
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        reap()
        time.sleep(0.002)


class Target:
    """A program that counts in a file, with `body` to set it up."""

    def __init__(self, work, body="", session=True, cwd=None, before=(), pass_fds=()):
        self.path, self.body = os.path.join(work, "ticks"), body
        if os.path.exists(self.path):
            os.unlink(self.path)
        self.log = tempfile.TemporaryFile()
        task = subprocess.Popen(list(before) + [sys.executable, "-S", "-E", "-c", TARGET % (self.path, body)], stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=self.log, start_new_session=session, cwd=cwd or work,
                                pass_fds=pass_fds)
        task.returncode = 0  # reaped by reap, never by Popen
        self.pid = task.pid
        self.wait(0)

    def ticks(self):
        try:
            with open(self.path, "rb") as file:
                return int.from_bytes(file.read(8), "little")
        except FileNotFoundError:
            return 0

    def wait(self, before=None):
        before, end = self.ticks() if before is None else before, time.monotonic() + DEADLINE
        while self.ticks() <= before:
            if time.monotonic() > end or state_of(self.pid) in (None, "Z", "X"):
                self.log.seek(0)
                raise Failure(f"the target does not go on (state {state_of(self.pid)}): {self.log.read().decode()}")
            time.sleep(0.002)

    def tree(self):
        return [self.pid] + children_of(self.pid)

    def unharmed(self):
        self.wait()
        for pid in self.tree():
            expect(state_of(pid) in ("S", "R"), f"process {pid} is in state {state_of(pid)}")
            expect("TracerPid:\t0\n" in read(f"/proc/{pid}/status"), f"process {pid} is traced")


def snapshot(path):
    """Everything below it but the counter."""
    found = {}
    for dir_path, dirs, files in os.walk(path):
        for name in dirs + files:
            full = os.path.join(dir_path, name)
            st = os.lstat(full)
            found[os.path.relpath(full, path)] = (st.st_ino, st.st_size if name != "ticks" else 0)
    return found


def wait_gone(pid):
    end = time.monotonic() + DEADLINE
    while state_of(pid) not in (None, "Z"):
        expect(time.monotonic() < end, f"process {pid} does not end")
        time.sleep(0.002)
    reap()


class World:
    def __init__(self, work):
        self.work = work
        self.criu_path = os.path.join(work, "criu")
        os.symlink(BINARY, self.criu_path)

    def criu(self, *arguments, **more):
        return run(self.criu_path, arguments, **more)

    def make_dir(self, name="images"):
        path = os.path.join(self.work, name)
        os.mkdir(path)
        return path

    def checkpoint(self, body="", leave=False, name="images"):
        """Gives a directory and the target that it was made of, which has ended."""
        target = Target(self.work, body)
        images = self.make_dir(name)
        self.criu("dump", "-t", target.pid, "-D", images, *(["-R"] if leave else [])).good()
        if not leave:
            wait_gone(target.pid)
        return images, target


# ---- help and usage ----

VERBS = ["dump process", "dump job", "restore process", "restore job", "run process", "exec", "manage process", "freeze job", "unfreeze process", "attach",
         "job list", "job kill", "job checkpoint list", "ps", "query process", "daemon start", "config show", "verify", "diff", "check", "check process", "inspect", "features", "completion", "manual", "version", "help"]
ACTIONS = ["dump", "pre-dump", "restore", "check", "page-server", "lazy-pages", "service", "swrk", "dedup", "cpuinfo"]


def test_help(w):
    for result in (fermata("--help"), fermata("help")):
        for verb in VERBS:
            expect(f"\n  {verb}" in result.good().out, f"no {verb} in {result}")
    for verb in VERBS:
        for result in (fermata(*verb.split(), "--help"), fermata("help", *verb.split())):
            expect(result.good().out.startswith(f"Usage: fermata {verb}"), result)
            expect("--help" in result.out, result)
    for action in ACTIONS:
        expect(f"\n  {action}" in w.criu("--help").good().out, f"no {action}")
        expect(w.criu(action, "-h").good().out.startswith(f"Usage: criu {action}"), action)


def test_generated(w):
    for page in ("fermata", "criu"):
        manual = fermata("manual", page).good().out
        expect(manual.count(".SH ") >= 4, f"manual {page}: {manual[:100]}")
        if shutil.which("groff"):
            task = subprocess.run(["groff", "-man", "-Tutf8", "-ww", "-z"], input=manual.encode(), stderr=subprocess.PIPE)
            expect(not task.stderr, f"groff on {page}: {task.stderr.decode()[:200]}")
    script = fermata("completion", "bash").good().out
    probe = script + "\nCOMP_WORDS=(fermata inspect --j) COMP_CWORD=2\n_fermata\necho \"${COMPREPLY[@]}\"\n"
    task = subprocess.run(["bash", "-c", probe], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    expect(task.stdout.decode().split() == ["--json"] and not task.stderr, f"completion: {task.stdout} {task.stderr}")


def test_version(w):
    expect(re.match(r"fermata \d+\.\d+", fermata("--version").good().out), "fermata --version")
    expect(re.match(r"Version: \d+\.\d+", w.criu("--version").good().out), "criu --version")


def test_usage(w):
    for arguments, words in (
            ((), "needs a command"), (("bogus",), "no command bogus"), (("dump",), "dump"), (("dump", "process"), "needs PID"),
            (("dump", "process", "1", "--bogus"), "--bogus"), (("dump", "process", "1", "--leave"), "several"),
            (("dump", "process", "1", "2"), "2"), (("inspect",), "CHECKPOINT"), (("inspect", "/", "--leave-running"), "--leave-running"),
            (("check", "process"), "PID"), (("restore", "process"), "--path")):
        fermata(*arguments).error(words, status=2)
    for arguments, words in (((), "needs a command"), (("bogus",), "bogus"), (("dump",), "--tree"), (("dump", "-t"), "tree"),
                             (("dump", "-t", "x"), "x"), (("dump", "--bogus"), "--bogus"), (("page-server",), "not there yet"),
                             (("dump", "-t", "1", "--page-server"), "not there yet")):
        w.criu(*arguments).error(words)


def test_features(w):
    out = fermata("features").good().out
    document, table = json.loads(fermata("features", "--json").good().out), fermata("features", "--markdown").good().out
    expect(len(document["kinds"]) > 5 and len(document["state"]) > 5, document)
    for row in document["kinds"] + document["state"]:
        expect(row["name"] in out and row["summary"] in out and f"| {row['name']} | {row['summary']} |\n" in table, row)
    for row in document["refused"]:
        expect(row["name"] in out and row["name"] in table and (row["remedy"] or "") in table, row)
    expect(all(name.split(" ", 1)[-1] in table for name in document["refused_kinds"]), document["refused_kinds"])


def test_documentation(w):
    """What is made from the code is as the code is; every refusal has its row."""
    result = run(os.path.join(ROOT, "scripts/docs.py"), ["--check"], env={"CLI_FERMATA": BINARY})
    expect(result.status == 0, result)


def test_tour(w):
    """The README's tour, as it is pasted."""
    if os.environ.get("CLI_FERMATA"):
        raise Skip("needs the build in this directory")
    tour, blocks = w.work + "/tour", re.findall(r"```sh\n(.*?)```", read(os.path.join(ROOT, "README.md")).partition("## A tour")[2], re.S)
    script = "set -e\nmake() { command make -o all \"$@\"; }\n" + "echo ---\n".join(blocks).replace("/tmp/tour", tour)
    # Who adopts what was restored reaps it, as init does.
    adopting = [sys.executable, "-c", f"import ctypes, os, sys; ctypes.CDLL(None).prctl({PR_SET_CHILD_SUBREAPER}, 1, 0, 0, 0); "
                "os.execvp(sys.argv[1], sys.argv[1:])"]
    out = run("bash", ["-c", script], before=adopting, cwd=ROOT, env={"MAKEFLAGS": "", "DESTDIR": ""}, deadline=6 * DEADLINE).good().out
    expect(len(blocks) == 3 and "can be saved" in out and f"Dumped to {tour}/one" in out and "Restored successfully" in out, out)
    before, after = re.search(rf"Dumped to {tour}/one\n(\d+)\n", out), re.search(r"PID: \d+\n(\d+)\n", out)
    expect(before and after, out)
    numbers = read(tour + "/log").splitlines()[1:]
    expect(numbers == [str(number) for number in range(len(numbers))] and len(numbers) > int(before[1]) + 2, (numbers, out))


def test_install(w):
    """What `make install` installs is there, and a program builds and runs with it, with the shared library and the static one."""
    if os.environ.get("CLI_FERMATA") or not shutil.which("pkg-config"):
        raise Skip("needs the build in this directory, and pkg-config")
    dest, prefix = w.make_dir("dest"), "/opt/fermata"
    for target in ("install-criu", "install"):
        run("make", ["-C", ROOT, "-o", "all", target, f"DESTDIR={dest}", f"PREFIX={prefix}"], env={"MAKEFLAGS": ""}).good()
    root = dest + prefix
    for name in ("bin/fermata", "bin/criu", "share/man/man1/fermata.1", "share/man/man1/criu.1", "include/fermata/fermata.h",
                 "share/bash-completion/completions/fermata"):
        expect(os.path.getsize(os.path.join(root, name)) > 100, name)
    expect("dump process" in run(os.path.join(root, "bin/fermata"), ["--help"]).good().out, "fermata")
    expect("dump" in run(os.path.join(root, "bin/criu"), ["--help"]).good().out, "criu")
    configured = {"PKG_CONFIG_PATH": root + "/lib/pkgconfig", "PKG_CONFIG_SYSROOT_DIR": dest}
    flags = run("pkg-config", ["--cflags", "--libs", "fermata"], env=configured).good().out.split()
    whole = run("pkg-config", ["--static", "--cflags", "--libs", "fermata"], env=configured).good().out.split()
    # Libraries that are not of the sysroot stand where the compiler looks anyway.
    for kind, words in (("shared", flags), ("static", ["-l:libfermata.a" if word == "-lfermata" else word for word in whole])):
        program, work = os.path.join(w.work, kind), w.make_dir(kind + "-work")
        run("cc", ["-Wall", "-Wextra", "-Wno-unused-parameter", "-Werror", "-D_GNU_SOURCE", "-o", program, os.path.join(ROOT, "tests/cli/library.c")] + words).good()
        result = run(program, [work], env={"LD_LIBRARY_PATH": root + "/lib"}).good()
        expect(result.out == "ok\n" and not result.err, result)
    for name, command in (("libfermata.so", ["nm", "-D", "--defined-only"]), ("libfermata.a", ["nm", "-g", "--defined-only"])):
        symbols = [line.split()[-1] for line in run(command[0], command[1:] + [os.path.join(root, "lib", name)]).good().out.splitlines()
                   if len(line.split()) == 3]
        expect(len(symbols) >= 5 and all(symbol.startswith("fermata_") for symbol in symbols), f"{name}: {symbols}")


def test_config(w):
    target = Target(w.work, session=False)
    good, bad, images = os.path.join(w.work, "good"), os.path.join(w.work, "bad"), w.make_dir()
    with open(good, "w") as file:
        file.write(f"# a comment\nshell-job\nleave-running # stays\nimages-dir = \"{images}\"\n")
    with open(bad, "w") as file:
        file.write("shell-job\nno-such-thing\n")
    plain = ["dump", "-t", target.pid, "--no-default-config"]
    w.criu(*plain, "-D", images).error("--shell-job")
    w.criu(*plain, "--config", bad).error(f"{bad}, line 2", "no-such-thing")
    w.criu(*plain, "--config", os.path.join(w.work, "none")).error("none", "configuration file")
    w.criu(*plain, env={"CRIU_CONFIG_FILE": bad}).error(f"{bad}, line 2")
    target.unharmed()
    expect(not os.listdir(images), os.listdir(images))
    w.criu(*plain, "--config", good).good()
    target.unharmed()
    fermata("inspect", images).good()
    home = w.make_dir("home")
    os.makedirs(os.path.join(home, ".criu"))
    shutil.copy(good, os.path.join(home, ".criu/default.conf"))
    shutil.rmtree(images)
    os.mkdir(images)
    w.criu("dump", "-t", target.pid, env={"HOME": home}).good()
    target.unharmed()
    fermata("inspect", images).good()


# ---- check ----

def test_check(w):
    result = fermata("check", "--dir", w.work)
    expect(result.status == 0 and "can dump and restore" in result.out.splitlines()[-1], result)
    features = json.loads(fermata("check", "--json").out)["features"]
    names = fermata("check", "--feature", "list").good().out
    expect(len(features) == len(names.splitlines()) > 20, names)
    expect({f["area"] for f in features} == {"kernel", "privileges", "memory", "network", "storage", "GPU"}, features)
    expect(sorted(w.criu("check", "--feature", "list").good().out.split()) == sorted(f["name"] for f in features), "criu's list is another")
    expect(fermata("check", "--strict", "--full").status == (not all(f["works"] for f in features)), "--strict")
    for feature in features:
        expect(feature["works"] or "; needs " in feature["why"], feature)
        for result in (fermata("check", "--feature", feature["name"]), w.criu("check", "--feature", feature["name"])):
            expect((result.status == 0) == feature["works"], result)
        expect(not feature["required"] or feature["works"], feature)
    expect(w.criu("check").good().out == "Looks good.\n", "criu check")
    result = w.criu("check", "--all")
    expect(result.out.startswith("Looks good") and (result.status == 0) == all(f["works"] for f in features), result)
    fermata("check", "--feature", "bogus").error("bogus", "--feature list")
    w.criu("check", "--feature", "bogus").error("bogus", "--feature list")
    expect(os.listdir(w.work) == ["criu"], os.listdir(w.work))


def test_check_lacking(w):
    if not shutil.which("setpriv"):
        raise Skip("needs setpriv")
    result = fermata("check", before=NOBODY)
    expect(result.status == 2 and "MISSING  capabilities" in result.out and "can't" in result.out.splitlines()[-1], result)
    for line in result.out.splitlines()[:-1]:
        expect(not line.startswith(" ") or line.startswith("  ok ") or "; needs " in line, line)
    result = w.criu("check", before=NOBODY)
    expect(result.status == 1 and result.out == "Does not look good.\n" and "capabilities" in result.err, result)
    result = fermata("check", before=["setpriv", "--bounding-set", "-sys_ptrace", "--inh-caps", "-sys_ptrace"])
    expect(result.status == 2 and "CAP_SYS_PTRACE" in result.out, result)
    # A directory that no checkpoint can be made in.
    result = fermata("check", "--dir", "/proc")
    expect(result.status == 2 and "MISSING  tmpfile" in result.out and "/proc" in result.out, result)


# ---- check process ----

# A 32-bit program without a C library, made by hand: an ELF file whose code is `pause` over and over.
CODE_32 = bytes([0xb8, 29, 0, 0, 0, 0xcd, 0x80, 0xeb, 0xf7])


def make_32(path):
    base, head = 0x08048000, 52 + 32
    elf = b"\x7fELF" + bytes([1, 1, 1]) + bytes(9)
    elf += struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, base + head, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    elf += struct.pack("<IIIIIIII", 1, 0, base, base, head + len(CODE_32), head + len(CODE_32), 5, 4096)
    with open(path, "wb") as file:
        file.write(elf + CODE_32)
    os.chmod(path, 0o755)


OBSTACLES = """
held = open(%r, "w")
fcntl.flock(held, fcntl.LOCK_EX)
netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
client = socket.create_connection(listener.getsockname())
server, _ = listener.accept()
os.mkdir("gone")
gone = os.open("gone", os.O_RDONLY)
os.rmdir("gone")
if not os.fork():
    inner = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, 0)
    inner.setsockopt(263, 5, b''.join(n.to_bytes(4, 'little') for n in (4096, 1, 2048, 2)))
    while True:
        time.sleep(1)
time.sleep(0.2)
"""


def test_process_good(w):
    target = Target(w.work, "if not os.fork():\n    while True: time.sleep(1)\nthreading.Thread(target=time.sleep, args=(1000,)).start()")
    before = snapshot(w.work)
    for _ in range(3):
        expect(fermata("check", "process", target.pid).good().out == f"process {target.pid} can be saved\n", "check process")
        target.unharmed()
    document = json.loads(fermata("check", "process", "--json", target.pid).good().out)
    expect(document == {"pid": target.pid, "can_be_saved": True, "obstacles": []}, document)
    expect(snapshot(w.work) == before, "check process has written something")


def test_process_obstacles(w):
    target = Target(w.work, OBSTACLES % os.path.join(w.work, "locked"))
    child = children_of(target.pid)[0]
    before = snapshot(w.work)
    result = fermata("check", "process", target.pid)
    expect(result.status == 1 and not result.err, result)
    lines = result.out.splitlines()
    for who, what, remedy in ((target.pid, "locked) holds a file lock", "--file-locks"), (target.pid, "is a netlink socket", "close it"),
                              (target.pid, "is a TCP connection", "--tcp-established"),
                              (child, "is a packet socket", "close it")):
        found = [line for line in lines if line.startswith(f"process {who} (") and what in line and remedy in line]
        expect(found, f"no line of {who} {what} in {lines}")
    expect(len(lines) == len(set(lines)) == 6, lines)  # both ends of the connection, the lock of both
    document = json.loads(fermata("check", "process", "--json", target.pid).out)
    expect(document["obstacles"] == lines and not document["can_be_saved"], document)
    target.unharmed()
    # A dump stops at the first of them and does no harm either.
    images = w.make_dir()
    result = w.criu("dump", "-t", target.pid, "-D", images).error(f"cannot dump process {target.pid}")
    expect(any(line in result.err for line in lines), result)
    target.unharmed()
    os.rmdir(images)
    expect(snapshot(w.work) == before, "something was written")


def test_process_writes_nothing(w):
    if not shutil.which("strace"):
        raise Skip("needs strace")
    target = Target(w.work, "deleted = open('deleted', 'w')\ndeleted.write('x')\ndeleted.flush()\nos.link('deleted', 'other')\n"
                            "os.unlink('deleted')\nshared = mmap.mmap(-1, 1 << 20)\nshared[0] = 1\nr, w = os.pipe()\nos.write(w, b'abc')")
    trace = os.path.join(w.work, "trace")
    before = snapshot(w.work)
    fermata("check", "process", "--link-remap", target.pid, before=["strace", "-f", "-o", trace]).good()
    for line in read(trace).splitlines():
        expect(not re.match(r"\d+ +(link|linkat|mkdir|mkdirat|rename\w*|symlink\w*|unlink\w*|ftruncate|truncate|creat)\(", line), line)
        expect(not re.search(r"open.*(O_CREAT|O_TMPFILE)", line), line)
    os.unlink(trace)
    expect(snapshot(w.work) == before, "check process has written something")
    target.unharmed()


def test_process_session(w):
    target = Target(w.work, "held = open('locked', 'w')\nfcntl.flock(held, fcntl.LOCK_EX)", session=False)
    result = fermata("check", "process", target.pid)
    lines = result.out.splitlines()
    expect(result.status == 1 and len(lines) == 2 and "--shell-job" in lines[0] and "file lock" in lines[1], result)
    result = fermata("check", "process", "--shell-job", target.pid)
    expect(result.status == 1 and len(result.out.splitlines()) == 1, result)
    target.unharmed()


def test_process_namespace(w):
    if not shutil.which("unshare"):
        raise Skip("needs unshare")
    target = Target(w.work, before=["unshare", "-u"])
    result = fermata("check", "process", target.pid)
    expect(result.status == 1 and "uts namespace of its own" in result.out, result)
    target.unharmed()


def attach_strace(pid):
    tracer = subprocess.Popen(["strace", "-o", "/dev/null", "-p", str(pid)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + DEADLINE
    while f"TracerPid:\t{tracer.pid}\n" not in read(f"/proc/{pid}/status"):
        expect(time.monotonic() < end and tracer.poll() is None, "strace does not attach")
        time.sleep(0.01)
    return tracer


def test_process_tree(w):
    """Children that can't be stopped, or can't be looked into, keep nobody from the rest."""
    if not shutil.which("strace"):
        raise Skip("needs strace")
    small = os.path.join(w.work, "small")
    make_32(small)
    target = Target(w.work, "for _ in range(2):\n    if not os.fork():\n        n = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)\n"
                            f"        while True: time.sleep(1)\nif not os.fork():\n    os.execv({small!r}, ['small'])\ntime.sleep(0.3)")
    first, second, last = sorted(children_of(target.pid))
    tracer = attach_strace(first)
    lines = fermata("check", "process", target.pid).out.splitlines()
    wanted = {first: f"debugged by process {tracer.pid}", second: "a netlink socket"}
    if state_of(last) == "S":
        wanted[last] = "32-bit"
    for pid, what in wanted.items():
        expect(any(line.startswith(f"process {pid} ") and what in line for line in lines), f"nothing of {pid} {what} in {lines}")
    expect(len(lines) == len(wanted), lines)
    tracer.terminate()
    tracer.wait()
    target.unharmed()


# ---- inspect ----

KINDS = """
threading.Thread(target=time.sleep, args=(1000,)).start()
import select
passwd = open("/etc/passwd")
passwd.read(1)
at = os.lseek(passwd.fileno(), 17, os.SEEK_SET)
r, wr = os.pipe()
os.write(wr, b"abcde")
a, b = socket.socketpair()
named = socket.socket(socket.AF_UNIX)
named.bind("\\0fermata-cli-test")
named.listen()
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
epoll = select.epoll()
epoll.register(a)
memfd = os.memfd_create("scratch")
os.ftruncate(memfd, 8192)
gone = open("gone", "w")
os.unlink("gone")
big = mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
big[:3 << 20] = b"x" * (3 << 20)
shared = mmap.mmap(-1, 1 << 20)
shared[:8192] = b"y" * 8192
if not os.fork():
    while True:
        time.sleep(1)
zombie = os.fork()
if not zombie:
    os._exit(3)
os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
"""


def maps_of(pid):
    """(start, end, access) of the areas that a checkpoint has."""
    found = []
    for line in read(f"/proc/{pid}/maps").splitlines():
        if "[vsyscall]" not in line:
            start, end, access = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
            found.append((int(start, 16), int(end, 16), access))
    return found


def test_inspect(w):
    images, target = w.checkpoint(KINDS, leave=True)
    document = json.loads(fermata("inspect", "--json", images).good().out)
    by_pid = {process["pid"]: process for process in document["processes"]}
    expect(sorted(by_pid) == sorted(target.tree()), by_pid.keys())
    root = by_pid[target.pid]
    expect(root["ppid"] == 0 and root["sid"] == root["pgid"] == target.pid and root["cwd"] == w.work and root["root"] == "/", root)
    expect(root["name"] == read(f"/proc/{target.pid}/comm").strip() and root["state"] == "running", root["name"])
    expect(root["executable"] == os.readlink(f"/proc/{target.pid}/exe"), root["executable"])
    expect({t["tid"] for t in root["threads"]} == set(map(int, os.listdir(f"/proc/{target.pid}/task"))), root["threads"])
    expect(sorted(process["state"] for process in by_pid.values()) == ["running", "running", "zombie"], by_pid)
    for pid, process in by_pid.items():
        if process["state"] == "zombie":
            continue
        fds = {int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        expect({d["fd"] for d in process["descriptors"]} == fds.keys(), process["descriptors"])
        for d in process["descriptors"]:
            if d["kind"] == "file":
                expect(d["what"].startswith(fds[d["fd"]].removesuffix(" (deleted)")), (d, fds[d["fd"]]))
        areas = [(int(a["start"], 16), int(a["end"], 16), a["access"]) for a in process["areas"]]
        expect(areas == maps_of(pid), f"the areas of {pid}: {set(areas) ^ set(maps_of(pid))}")
        expect(process["memory"]["mapped"] == sum(end - start for start, end, _ in areas), process["memory"])
        expect(process["memory"]["stored"] == sum(a["memory"]["stored"] for a in process["areas"]), process["memory"])
    words = {d["kind"]: d["what"] for d in root["descriptors"]}
    whats = [d["what"] for d in root["descriptors"]]
    expect(words["epoll"].startswith("watches descriptors "), words)
    expect("scratch, 8192 bytes" in words["memfd"], words)
    expect(any(what.endswith("read end, 5 bytes in it") for what in whats), whats)
    expect(any("named @fermata-cli-test, listening" in what for what in whats), whats)
    expect(any(re.search(r"tcp 127\.0\.0\.1:\d+, listening", what) for what in whats), whats)
    expect(any(f"of process {target.pid})" in what for what in whats), whats)
    expect(any("gone (deleted, kept in the checkpoint)" in what for what in whats), whats)
    expect([d["position"] for d in root["descriptors"] if d["what"] == "/etc/passwd"] == [17], root["descriptors"])
    big = [a["memory"]["stored"] for a in root["areas"] if int(a["end"], 16) - int(a["start"], 16) >= 4 << 20 and
           a["memory"]["stored"] >= 3 << 20]
    expect(big, "the area of 3 MiB is not there")
    expect(8192 <= document["totals"]["shared_memory_stored"] < 1 << 20, document["totals"])
    on_disk = {name: os.path.getsize(os.path.join(images, name)) for name in os.listdir(images) if name != "stats-dump"}
    expect({f["name"]: f["size"] for f in document["files"]} == on_disk, document["files"])
    expect(document["totals"]["size"] == sum(on_disk.values()), document["totals"])
    stored = sum(size for name, size in on_disk.items() if name.startswith("pages-"))
    expect(document["totals"]["memory"]["stored"] + document["totals"]["shared_memory_stored"] == stored, (document["totals"], stored))
    text, detailed = fermata("inspect", images).good().out, fermata("inspect", "-v", images).good().out
    for what in whats + [str(pid) for pid in by_pid] + [str(sum(on_disk.values()))]:
        expect(what in text, f"no {what!r} in {text}")
    for area in root["areas"]:
        expect(f"{area['start'][2:]}-{area['end'][2:]} " in detailed, area)
    for name in on_disk:
        expect(f"  {name}\n" in detailed, name)
    expect(len(text) < len(detailed), "-v says no more")
    compare_crit(images, detailed)


def compare_crit(images, text):
    """Whatever crit tells of the checkpoint is in what inspect tells."""
    if not shutil.which("crit"):
        return
    for what in ("ps", "fds", "mems"):
        task = subprocess.run(["crit", "x", images, what], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for word in set(re.findall(r"/[\w./-]{3,}|\b[0-9a-f]{8,}-[0-9a-f]{8,}\b|\b\d{3,}\b(?! \()", task.stdout.decode())):
            expect(word in text or f"memfd {word}" in text, f"crit x {what} says {word}, inspect does not")


def damage(path, kind):
    with open(path, "rb") as file:
        data = bytearray(file.read())
    if kind == "cut":
        data = data[:len(data) // 2]
    elif kind == "flip" and data:
        data[len(data) // 2] ^= 0x41
    with open(path + ".new", "wb") as file:
        file.write(data)
    os.rename(path + ".new", path)


def test_inspect_damaged(w):
    images, _ = w.checkpoint(KINDS.replace("3 << 20", "4096"))
    kill_all()
    for name in sorted(set(os.listdir(images)) - {"stats-dump"}):
        for kind in ("cut", "flip", "removed"):
            copy = os.path.join(w.work, "copy")
            shutil.copytree(images, copy)
            path = os.path.join(copy, name)
            size = os.path.getsize(path)
            if kind == "removed":
                os.unlink(path)
            else:
                damage(path, kind)
            if name != "fermata.json" and size:
                result = fermata("inspect", copy).error("cannot inspect " + copy)
                expect(name in result.err, f"{name} {kind}: {result}")
                fermata("restore", "process", "-p", copy).error("cannot restore from " + copy, name)
            for arguments in (("inspect", copy, "--skip-verify"), ("inspect", copy, "--skip-verify", "--json"), ("inspect", "-v", copy)):
                result = fermata(*arguments)
                if result.status:
                    result.error("cannot inspect")
                expect(result.status in (0, 1), f"{name} {kind}: {result}")
            shutil.rmtree(copy)
    expect(not children_of(os.getpid()), f"a restore has left processes: {[read(f'/proc/{pid}/stat') for pid in children_of(os.getpid())]}")


def test_inspect_errors(w):
    empty = w.make_dir("empty")
    fermata("inspect", empty).error(empty, "no checkpoint in it")
    fermata("inspect", empty + "/none").error("no such directory", "give what")
    fermata("inspect", "/etc/passwd").error("/etc/passwd", "neither a directory nor an archive")
    expect(not os.listdir(empty), "inspect has written something")


# ---- errors of dump ----

def dump_refused(w, pid, *words, target=None, options=(), program=None, **more):
    """Neither program saves it; both say why; nothing is left behind."""
    images, folder = w.make_dir("refused"), w.make_dir("folder")
    try:
        w.criu("dump", "-t", pid, "-D", images, *options, **more).error(*words)
        fermata("dump", "process", pid, "--dir", folder, *options, **more).error(*words)
        expect(not os.listdir(images) and not os.listdir(folder), os.listdir(images) + os.listdir(folder))
        if target:
            target.unharmed()
    finally:
        os.rmdir(images)
        os.rmdir(folder)


def free_pid():
    pid = int(read("/proc/sys/kernel/pid_max")) - 1
    while os.path.exists(f"/proc/{pid}"):
        pid -= 1
    return pid


def test_error_no_such_pid(w):
    pid = free_pid()
    dump_refused(w, pid, f"there is no process {pid}", "see ps")
    fermata("check", "process", pid).error(f"there is no process {pid}", "see ps")
    for bad in ("0", "x", "12x", ""):
        fermata("dump", "process", bad).error("no process id")
        fermata("check", "process", bad).error("no process id")


def test_error_ancestor(w):
    dump_refused(w, os.getpid(), f"process {os.getpid()}", "runs below it", "from elsewhere")
    fermata("check", "process", os.getpid()).error("runs below it")
    # Itself: a shell that becomes the program.
    images = w.make_dir()
    for command in (f"exec {w.criu_path} dump -t $$ -D {images}", f"exec {BINARY} check process $$"):
        task = subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=DEADLINE)
        Result([command], task.returncode, task.stdout.decode(), task.stderr.decode()).error("it is this command itself")
    expect(not os.listdir(images), os.listdir(images))


def test_error_kernel_thread(w):
    if " 0 " not in read("/proc/2/stat") or os.path.exists("/proc/2/exe") and os.path.lexists("/proc/2/exe") and readable("/proc/2/exe"):
        raise Skip("process 2 is no kernel thread here")
    dump_refused(w, 2, "process 2", "kernel thread")
    fermata("check", "process", "2").error("kernel thread")


def readable(path):
    try:
        return bool(os.readlink(path))
    except OSError:
        return False


def test_error_zombie(w):
    target = Target(w.work, "zombie = os.fork()\nif not zombie:\n    os._exit(0)\nos.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)")
    zombie = children_of(target.pid)[0]
    dump_refused(w, zombie, f"process {zombie}", "already ended", options=["--shell-job"], target=None)
    target.wait()


def test_error_not_root(w):
    if not shutil.which("setpriv"):
        raise Skip("needs setpriv")
    os.chmod(w.work, 0o777)
    target = Target(w.work)
    folder = w.make_dir("folder")
    os.chmod(folder, 0o777)
    w.criu("dump", "-t", target.pid, "-D", folder, before=NOBODY).error(f"cannot dump process {target.pid}", "needs root", "sudo")
    fermata("dump", "process", target.pid, "--dir", folder, before=NOBODY).error("needs root", "sudo")
    fermata("check", "process", target.pid, before=NOBODY).error("needs root", "sudo")
    w.criu("restore", "-D", folder, before=NOBODY).error("needs root", "sudo")
    target.unharmed()
    expect(not os.listdir(folder), os.listdir(folder))


def test_error_session(w):
    target = Target(w.work, session=False)
    dump_refused(w, target.pid, f"process {target.pid}", f"session {os.getsid(target.pid)}", "use --shell-job", target=target)


def test_error_descriptor(w):
    target = Target(w.work, "netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)\nos.dup2(netlink.fileno(), 77)\nnetlink.close()")
    dump_refused(w, target.pid, f"process {target.pid}", "descriptor 77 (socket:[", "a netlink socket", "close it", target=target)


def test_error_pidfd_outside(w):
    target = Target(w.work, "outside = os.pidfd_open(os.getppid())")
    dump_refused(w, target.pid, "descriptor 4 (anon_inode:[pidfd])", f"is a pidfd of process or thread {os.getpid()}", "dump a parent of both",
                 target=target)


def test_error_core_dump(w):
    target = Target(w.work, "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (-1, -1))\nzombie = os.fork()\n"
                            "if not zombie:\n    os.abort()\n"
                            "os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)")
    zombie = children_of(target.pid)[0]
    if not int(read(f"/proc/{zombie}/stat").split()[-1]) & 0x80:
        raise Skip("this machine writes no core dump")
    dump_refused(w, target.pid, f"process {zombie}", "core dump", f"let its parent {target.pid} reap it")


def test_error_epoll_spent(w):
    target = Target(w.work, "import select\nr, wr = os.pipe()\nset = select.epoll()\n"
                            "set.register(r, select.EPOLLIN | select.EPOLLONESHOT)\nos.write(wr, b'x')\nset.poll()\nos.read(r, 1)")
    dump_refused(w, target.pid, f"process {target.pid}", "eventpoll", "EPOLLONESHOT", "try again", target=target)


def test_error_io_uring(w):
    # A poll of an empty pipe: under way for as long as nobody writes.
    body = ("import ctypes, mmap, struct\nlibc = ctypes.CDLL(None)\np = (ctypes.c_uint32 * 30)()\n{setup}\n"
            "ring = libc.syscall(425, 4, p)\nr, wr = os.pipe()\nm = mmap.mmap(ring, p[16] + 16) if ring >= 0 else None\n"
            "sqes = mmap.mmap(ring, 256, offset=0x10000000)\nsqes[:32] = struct.pack('<BBHiQQII', 6, 0, 0, r, 0, 0, 0, 1)\n"
            "m[p[11]:p[11] + 4] = struct.pack('<I', 1)\n{submit}\n")
    submit = "assert libc.syscall(426, ring, 1, 0, 0, 0, 0) == 1"
    for setup, then, words in (("", submit, "requests under way (1 submitted, 0 completed); try again"),
                               ("p[2] = 2", "", "a thread of the kernel that submits (IORING_SETUP_SQPOLL)"),
                               ("p[2] = 0x1000", "b = ctypes.create_string_buffer(8192)\ng = (ctypes.c_uint64 * 5)(ctypes.addressof(b) + 4095 & ~4095, 7 << 32 | 8, 0, 0, 0)\n"
                                "assert libc.syscall(427, ring, 22, g, 1) == 0", "groups of buffers"),
                               ("", "e = ctypes.c_int(os.eventfd(0))\nassert libc.syscall(427, ring, 4, ctypes.byref(e), 1) == 0", "an eventfd that is told")):
        target = Target(w.work, body.format(setup=setup, submit=then))
        dump_refused(w, target.pid, f"process {target.pid}", "is an io_uring ring with " + words, target=target)


def test_error_mq_notify(w):
    name = f"/fermata-test-{os.getpid()}".encode()
    libc = ctypes.CDLL(None)
    target = Target(w.work, f"import ctypes\nlibc = ctypes.CDLL(None)\nqueue = libc.mq_open({name!r}, 0o102, 0o600, None)\n"
                            "assert libc.mq_notify(queue, (ctypes.c_int * 16)(0, 0, 10, 0)) == 0")
    try:
        dump_refused(w, target.pid, f"process {target.pid}", "a message queue that process", "mq_notify", "withdraw that", target=target)
    finally:
        libc.mq_unlink(name)


def test_error_secret_memory(w):
    for close in ("", "os.close(secret)"):
        target = Target(w.work, "import ctypes, mmap\nsecret = ctypes.CDLL(None).syscall(447, 0)\nos.ftruncate(secret, 4096)\n"
                                f"memory = mmap.mmap(os.dup(secret), 4096)\n{close}")
        dump_refused(w, target.pid, f"process {target.pid}", "secret memory (memfd_secret), which nobody but the process can read", target=target)


def test_error_semaphore_undo(w):
    body = ("import ctypes\nlibc = ctypes.CDLL(None)\nsems = libc.semget(0, 2, 0o600)\n"
            "with open('sems', 'w') as file:\n    file.write(str(sems))\n"
            "def change(flags):\n    libc.semop(sems, (ctypes.c_short * 3)(1, 1, flags), 1)\n")
    libc = ctypes.CDLL(None)
    for undo in (False, True):
        target = Target(w.work, body + f"change({0x1000 if undo else 0})")
        sems = read(os.path.join(w.work, "sems"))
        try:
            expect(int(sems) >= 0, "no semaphores")
            if undo:
                dump_refused(w, target.pid, f"process {target.pid}", f"semaphores {sems} to undo", "use semaphores of POSIX", target=target)
            else:
                w.criu("dump", "-t", target.pid, "-D", w.make_dir(), "-R").good()
        finally:
            libc.semctl(int(sems), 0, 0)


def test_error_thread_apart(w):
    target = Target(w.work, "import ctypes\nlibc = ctypes.CDLL(None)\n"
                            "threading.Thread(target=lambda: (libc.unshare(0x400), time.sleep(1000)), daemon=True).start()\ntime.sleep(0.2)")
    dump_refused(w, target.pid, f"process {target.pid}", "has a descriptor table of its own", target=target)


def test_error_shared_by_siblings(w):
    # The first child shares with the second, which CLONE_PARENT makes a child of the target.
    target = Target(w.work, "import ctypes\nlibc = ctypes.CDLL(None)\nif not os.fork():\n"
                            "    libc.syscall(56, 0x8000 | 0x400 | 17, 0, 0, 0, 0)\n    time.sleep(1000)\ntime.sleep(0.2)")
    dump_refused(w, target.pid, "shares its descriptor table with process", "not its parent", target=target)


def test_error_vdso_changed(w):
    target = Target(w.work, "import ctypes, re\nlibc = ctypes.CDLL(None)\n"
                            "at = int(re.search(r'(\\w+)-\\w+ .*\\[vdso\\]', open('/proc/self/maps').read())[1], 16)\n"
                            "with open('/proc/self/mem', 'rb+', 0) as memory:\n    memory.seek(at + 9)\n    memory.write(b'x')")
    dump_refused(w, target.pid, f"process {target.pid}", "changed its vdso", "leave that as it was", target=target)


def test_error_traced(w):
    if not shutil.which("strace"):
        raise Skip("needs strace")
    target = Target(w.work)
    tracer = attach_strace(target.pid)
    words = [f"process {target.pid}", f"debugged by process {tracer.pid}", "end that first"]
    dump_refused(w, target.pid, *words)
    result = fermata("check", "process", target.pid)
    expect(result.status == 1 and all(word in result.out for word in words), result)
    target.wait()
    tracer.terminate()
    tracer.wait()
    target.unharmed()
    w.criu("dump", "-t", target.pid, "-D", w.make_dir(), "-R").good()


def test_error_32_bit(w):
    path = os.path.join(w.work, "small")
    make_32(path)
    try:
        task = subprocess.Popen([path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    except OSError:
        raise Skip("this kernel runs no 32-bit programs") from None
    time.sleep(0.2)
    if task.poll() is not None:
        raise Skip("this kernel runs no 32-bit programs")
    dump_refused(w, task.pid, f"process {task.pid} (small)", "32-bit")
    result = fermata("check", "process", task.pid)
    expect(result.status == 1 and "32-bit" in result.out, result)
    expect(task.poll() is None and state_of(task.pid) == "S", "it does not run on")
    task.kill()
    task.wait()


def test_error_directory(w):
    images, target = w.checkpoint(leave=True)
    before = snapshot(images)
    w.criu("dump", "-t", target.pid, "-D", images).error(f"process {target.pid}", "already holds a checkpoint", "choose another")
    expect(snapshot(images) == before, "the checkpoint has changed")
    w.criu("dump", "-t", target.pid, "-D", images + "/none").error("there is no directory", "make it first")
    w.criu("dump", "-t", target.pid, "-D", "/etc/passwd").error("/etc/passwd", "Not a directory")
    w.criu("dump", "-t", target.pid, "-D", "/proc").error("/proc", "O_TMPFILE", "choose one on")
    fermata("dump", "process", target.pid, "--dir", images + "/none").error("there is no directory", "make it first")
    fermata("dump", "process", target.pid, "--dir", w.work, "--name", "images").error("is there already", "choose another --name")
    expect(snapshot(images) == before, "the checkpoint has changed")
    target.unharmed()


# ---- errors of restore ----

def restore_refused(w, images, *words):
    before = snapshot(images)
    pidfile = os.path.join(w.work, "pidfile")
    w.criu("restore", "-d", "-D", images, "--pidfile", pidfile).error(f"cannot restore from {images}", *words)
    fermata("restore", "process", "-p", images, "--pid-file", pidfile).error(f"cannot restore from {images}", *words)
    expect(snapshot(images) == before and not os.path.exists(pidfile), "restore has written something")
    reap()
    expect(not [pid for pid in children_of(os.getpid()) if pid not in w.known], f"left behind: {children_of(os.getpid())}")


def test_restore_pid_taken(w):
    images, target = w.checkpoint(leave=True)
    w.known = target.tree()
    restore_refused(w, images, f"pid {target.pid} is taken", "end that first")
    target.unharmed()


def test_restore_empty(w):
    w.known = []
    restore_refused(w, w.make_dir("empty"), "no checkpoint in it", "give the directory")
    w.criu("restore", "-D", os.path.join(w.work, "none")).error("no such directory", "give what")
    w.criu("restore", "-D", "/etc/passwd").error("neither a directory nor an archive", "give what")


def test_restore_program_changed(w):
    path, w.known = os.path.join(w.work, "program"), []
    shutil.copy(shutil.which("sleep"), path)
    images = w.make_dir()
    task = subprocess.Popen([path, "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            start_new_session=True)
    time.sleep(0.2)
    w.criu("dump", "-t", task.pid, "-D", images).good()
    task.wait()
    with open(path, "ab") as file:
        file.write(b"more")
    restore_refused(w, images, path, "changed since the dump", "put the old one back")
    os.unlink(path)
    restore_refused(w, images, path, "no longer there", "put it back")
    os.mkdir(path)
    restore_refused(w, images, path)
    os.rmdir(path)
    shutil.copy(shutil.which("sleep"), path)
    w.criu("restore", "-d", "-D", images).good()
    expect(state_of(task.pid) in ("S", "R"), "it is not restored")


def test_restore_file_gone(w):
    w.known = []
    images, target = w.checkpoint("data = open('data', 'w')\ndata.write('12345')\ndata.flush()\nreader = open('data')")
    path = os.path.join(w.work, "data")
    os.rename(path, path + ".kept")
    restore_refused(w, images, path, "no longer there", "put it back")
    os.rename(path + ".kept", path)
    w.criu("restore", "-d", "-D", images).good()
    Target.wait(target)


def test_restore_mode_changed(w):
    w.known = []
    images, target = w.checkpoint("data = open('data', 'w')\nos.chmod('data', 0o640)")
    path = os.path.join(w.work, "data")
    os.chmod(path, 0o600)
    restore_refused(w, images, f"the mode of {path} changed", "was 0640", "--skip-file-rwx-check")
    os.chmod(path, 0o4600)
    w.criu("restore", "-d", "-D", images, "--skip-file-rwx-check").error(f"the mode of {path} changed")
    os.chmod(path, 0o600)
    w.criu("restore", "-d", "-D", images, "--skip-file-rwx-check").good()
    Target.wait(target)


def build_id_of(data):
    at = data.index(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0")
    return at + 16


def test_restore_build_changed(w):
    """Another build of the same size, of a program that runs and of one that is only open."""
    path, w.known = os.path.join(w.work, "program"), []
    shutil.copy(shutil.which("sleep"), path)
    with open(path, "rb") as file:
        old = file.read()
    try:
        at = build_id_of(old)
    except ValueError:
        raise Skip("programs have no build id here") from None
    new = old[:at] + bytes([old[at] ^ 1]) + old[at + 1:]

    def replace(data):
        os.unlink(path)
        with open(path, "wb") as file:
            file.write(data)
        os.chmod(path, 0o755)

    for number, (body, options) in enumerate([("", []), (f"program = open({path!r}, 'rb')", []), ("", ["--file-validation", "filesize"])]):
        replace(old)
        images = w.make_dir(f"images{number}")
        if body:
            pid = Target(w.work, body).pid
        else:
            task = subprocess.Popen([path, "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            task.returncode, pid = 0, task.pid
            time.sleep(0.2)
        w.criu("dump", "-t", pid, "-D", images, *options).good()
        wait_gone(pid)
        replace(new)
        if not options:
            restore_refused(w, images, path, "another build", "--file-validation filesize")
            w.criu("restore", "-d", "-D", images, "--file-validation", "filesize").good()
        else:
            w.criu("restore", "-d", "-D", images).good()
        expect(state_of(pid) in ("S", "R"), "it is not restored")
        kill_all()
    w.criu("restore", "-D", images, "--file-validation", "guess").error("there is no guess", "filesize buildid")


def test_error_ghost_limit(w):
    w.known = []
    target = Target(w.work, "gone = open('gone', 'wb+')\ngone.write(bytes([1]) * 3000000)\ngone.flush()\nos.unlink('gone')\n"
                            "holes = open('holes', 'wb+')\nholes.truncate(1 << 40)\nos.unlink('holes')")
    images = w.make_dir()
    w.criu("dump", "-t", target.pid, "-D", images).error(f"process {target.pid}", "gone", "KiB of content", "limit of 1024 KiB", "--ghost-limit")
    fermata("dump", "process", target.pid, "--dir", w.work, "--name", "folder", "--ghost-limit", "2M").error("limit of 2048 KiB", "--ghost-limit")
    expect(not os.listdir(images), os.listdir(images))
    target.unharmed()
    w.criu("dump", "-t", target.pid, "-D", images, "--ghost-limit", "3M").good()
    wait_gone(target.pid)
    w.criu("restore", "-d", "-D", images).good()
    target.wait()
    fermata("dump", "process", target.pid, "--dir", w.work, "--name", "folder").good()


def tests_of(names):
    return sorted(((name[5:], test) for name, test in names.items() if name.startswith("test_")), key=lambda item: item[1].__code__.co_firstlineno)


TESTS = tests_of(globals())


def main(tests=TESTS):
    wanted = sys.argv[1:]
    adopt()
    for name, test in tests:
        if wanted and not any(word in name for word in wanted):
            continue
        if os.geteuid() != 0:
            report("skipped", name, "needs root")
            continue
        work = tempfile.mkdtemp(prefix="fermata-cli-")
        try:
            test(World(work))
            report("passed", name)
        except Skip as skip:
            report("skipped", name, str(skip))
        except (Failure, OSError, subprocess.SubprocessError, ValueError, KeyError, IndexError) as failure:
            report("failed", name, f"{type(failure).__name__}: {failure}" if not isinstance(failure, Failure) else str(failure))
        finally:
            try:
                kill_all()
            except Failure as failure:
                report("failed", name, f"clean-up: {failure}")
            shutil.rmtree(work, ignore_errors=True)
    sys.exit(verdict())


if __name__ == "__main__":
    main()
