"""What the suites of the command line share: the programs, targets that count, a folder for each test. CLI_FERMATA=PATH takes another binary."""
import os
import shutil
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import support  # noqa: E402
from support import PR_SET_CHILD_SUBREAPER, ROOT, Failure, Skip, adopt, descendants, expect, is_gone, read, reap, reporter, state_of, verdict  # noqa: E402,F401

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


def kill_all():
    support.kill_all(DEADLINE)


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
        return [self.pid] + descendants(self.pid)

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
    while not is_gone(pid):
        expect(time.monotonic() < end, f"process {pid} does not end")
        time.sleep(0.002)


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


def attach_strace(pid):
    tracer = subprocess.Popen(["strace", "-o", "/dev/null", "-p", str(pid)], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    end = time.monotonic() + DEADLINE
    while f"TracerPid:\t{tracer.pid}\n" not in read(f"/proc/{pid}/status"):
        expect(time.monotonic() < end and tracer.poll() is None, "strace does not attach")
        time.sleep(0.01)
    return tracer


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


def readable(path):
    try:
        return bool(os.readlink(path))
    except OSError:
        return False


def restore_refused(w, images, *words):
    before = snapshot(images)
    pidfile = os.path.join(w.work, "pidfile")
    w.criu("restore", "-d", "-D", images, "--pidfile", pidfile).error(f"cannot restore from {images}", *words)
    fermata("restore", "process", "-p", images, "--pid-file", pidfile).error(f"cannot restore from {images}", *words)
    expect(snapshot(images) == before and not os.path.exists(pidfile), "restore has written something")
    reap()
    expect(not [pid for pid in descendants(os.getpid()) if pid not in w.known], f"left behind: {descendants(os.getpid())}")


def tests_of(names):
    return sorted(((name[5:], test) for name, test in names.items() if name.startswith("test_")), key=lambda item: item[1].__code__.co_firstlineno)


def main(tests):
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
