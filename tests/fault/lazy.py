#!/usr/bin/env python3
"""Lazy restore when something goes wrong behind it: the process that brings pages is killed, or the pages are damaged. The program must never
see anything but its own memory: it is ended instead. And what is left behind when all goes well: the order of the pages, no process. Each
from a directory, a compressed archive and a store.

Arguments select tests by a part of their names. Runs as root."""
import glob
import os
import signal
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from support import ROOT, Failure, Skip, adopt, expect, read, reap, reporter, verdict  # noqa: E402

report = reporter("lazy_")

BINARY = os.environ.get("CLI_FERMATA") or os.path.join(ROOT, "build/src/cli/fermata")
DEADLINE = 20
MIB = 192
PROGRAM = f"""
import os, sys, time
page = 4096
memory = bytearray({MIB} << 20)
for i in range(0, len(memory), page):
    memory[i:i + 8] = i.to_bytes(8, "little")
step = 0
while True:
    step += 1
    for i in range(0, len(memory), page * 97):
        if memory[i:i + 8] != i.to_bytes(8, "little"):
            os.write(2, b"wrong at %d\\n" % i)
            os._exit(3)
    os.write(1, b"%d\\n" % step)
    time.sleep(0.01)
"""

# It waits for a file that says go. Then its memory is moved, cut, emptied, mapped anew and inherited, and all of it is compared: none of it was
# touched before. What is to be where is kept as a list of (address, pages, number of the first page or -1 for zeroes).
CHANGER = f"""
import ctypes, mmap, os, random, sys, time
libc = ctypes.CDLL(None, use_errno=True)
libc.mmap.restype = libc.mremap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_size_t]
libc.mremap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_size_t, ctypes.c_int, ctypes.c_void_p]
libc.munmap.argtypes, libc.madvise.argtypes = [ctypes.c_void_p, ctypes.c_size_t], [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]
PAGE, PART, PARTS = 4096, 1024, {MIB} // 4 - 8
def word(at):
    return ctypes.c_uint64.from_address(at)
def fresh(at=None, pages=PART):
    got = libc.mmap(at, pages * PAGE, 3, 0x22 | (0x10 if at else 0), -1, 0)
    assert got != ctypes.c_void_p(-1).value
    return got
def check(parts, step):
    for at, pages, number in parts:
        for i in range(0, pages, step):
            assert word(at + i * PAGE).value == (0 if number < 0 else number + i + 1), (hex(at), i, number)
whole = fresh(pages=PART * PARTS)
for i in range(PART * PARTS):
    word(whole + i * PAGE).value = i + 1
parts = [(whole + n * PART * PAGE, PART, n * PART) for n in range(PARTS)]
os.write(1, b"ready\\n")
os.write(1, b"ready\\n")
while not os.path.exists(sys.argv[1]):
    time.sleep(0.002)
dice = random.Random(7)
try:
    for turn in range(60):
        i = dice.randrange(len(parts))
        (at, pages, number), what, half = parts.pop(i), dice.randrange(6), PART // 2
        size = pages * PAGE
        if what == 0:
            to = libc.mremap(at, size, size, 3, fresh(pages=pages))
            assert to != ctypes.c_void_p(-1).value
            parts.append((to, pages, number))
        elif what == 1 and pages > 1:
            cut = pages // 2
            libc.munmap(at + cut * PAGE, size - cut * PAGE)
            parts.append((at, cut, number))
        elif what == 2:
            libc.madvise(at, size, 4)
            parts.append((at, pages, -1))
        elif what == 3:
            parts.append((fresh(at, pages), pages, -1))
        elif what == 4:
            libc.munmap(at, size)
        else:
            parts.append((at, pages, number))
            child = os.fork()
            if child == 0:
                check(parts, 5 + turn)
                os.execv("/bin/true", ["true"]) if turn % 2 else os._exit(0)
            check(dice.sample(parts, 3), 11)
            assert os.waitpid(child, 0)[1] == 0, "the child has another memory"
    check(parts, 1)
    os.write(1, b"right\\n")
except BaseException as why:
    os.write(2, repr(why).encode())
time.sleep(1000)
"""


def gone(pid):
    reap()
    return not os.path.exists(f"/proc/{pid}")


def wait_for(what, why):
    end = time.monotonic() + DEADLINE
    while not what():
        expect(time.monotonic() < end, why)
        time.sleep(0.002)


def named(name):
    reap()
    found = []
    for path in glob.glob("/proc/[0-9]*/comm"):
        try:
            with open(path) as file:
                if file.read() == name + "\n":
                    found.append(int(path.split("/")[2]))
        except OSError:
            pass
    return found


class Program:
    def __init__(self, work, kind, program=PROGRAM):
        self.out, self.log, self.kind = work + "/out", work + "/log", kind
        self.images, self.order, options = {
            "directory": (work + "/one", work + "/one/fermata-order", ["--dir", work]),
            "archive": (work + "/one.tar.lz4", work + "/one.tar.lz4.fermata-order", ["--dir", work, "--compression", "lz4"]),
            "store": (f"store:{work}/store/one", work + "/store/orders/one", ["--dir", f"store:{work}/store"]),
        }[kind]
        with open(self.out, "wb") as out, open(work + "/err", "wb") as err:
            task = subprocess.Popen([sys.executable, "-c", program, work + "/go"], stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True)
        task.returncode = 0
        self.work, self.pid = work, task.pid
        wait_for(lambda: self.steps() > 1, "it does not start")
        self.run("dump", "process", str(self.pid), "--name", "one", *options)
        wait_for(lambda: gone(self.pid), "it does not end")

    def run(self, *arguments, fails=False, first=None):
        with open(self.log, "wb") as log:
            status = subprocess.run([BINARY, *arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=DEADLINE, preexec_fn=first).returncode
        expect((status != 0) == fails, f"{arguments}: {status} {self.said()}")

    def said(self):
        with open(self.log) as log:
            return log.read()

    def steps(self):
        with open(self.out, "rb") as file:
            return file.read().count(b"\n")

    def restore(self, *more, lazy="--lazy", **how):
        self.run("restore", "process", "--path", self.images, lazy, "--detach", *more, **how)

    def right(self):
        with open(self.work + "/err") as file:
            wrong = file.read()
        expect(not wrong, f"the program has found memory that is not its own: {wrong}")

    def end(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
        except OSError:
            pass
        wait_for(lambda: gone(self.pid), "it does not end")
        wait_for(lambda: not named("fermata-lazy") and not named("fermata-guard"), "a helper stays")


def test_order(p):
    """What was touched is noted, used the next time, and nothing stays behind."""
    noted = None
    for _ in range(2):
        before = p.steps()
        p.restore()
        wait_for(lambda: p.steps() > before + 2, "it does not go on")
        wait_for(lambda: not named("fermata-lazy") and not named("fermata-guard"), "a helper stays")
        size = os.path.getsize(p.order)
        expect(size and size % 8 == 0 and noted in (None, size), size)
        noted = size
        p.right()
        p.end()
    with open(p.order, "wb") as file:  # of another checkpoint, or by an enemy
        file.write(os.urandom(80003))
    p.restore()
    before = p.steps()
    wait_for(lambda: p.steps() > before + 2, "it does not go on")
    p.right()


def test_changes(p):
    """Moves, cuts, drops, forks and execs while pages lack: the program and its children have what they had."""
    before, size = p.steps(), os.path.getsize(p.out)
    for lazy in ("--lazy=touched", "--lazy=all"):
        if os.path.exists(p.work + "/go"):
            os.unlink(p.work + "/go")
        os.truncate(p.out, size)  # it goes on writing where it was
        p.restore(lazy=lazy)
        open(p.work + "/go", "w").close()
        wait_for(lambda: p.steps() > before or os.path.getsize(p.work + "/err"), "it does not come to an end")
        p.right()
        p.end()


test_changes.program = CHANGER


def test_touched(p):
    """What is not touched does not come; behind a program that has ended, or become another by exec, nothing stays."""
    before = p.steps()
    p.restore(lazy="--lazy=touched")
    wait_for(lambda: p.steps() > before + 2, "it does not go on")
    time.sleep(3)
    with open(f"/proc/{p.pid}/status") as file:
        has = int(next(line for line in file if line.startswith("VmRSS:")).split()[1]) >> 10
    expect(has < MIB / 2, f"it has {has} MiB, and touches about a sixth of {MIB}")
    p.right()


def limited_group(mib):
    """A memory control group; of either version."""
    for base, limit in (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max")):
        path = f"{base}/fermata-lazy-{os.getpid()}"
        try:
            os.mkdir(path)
        except OSError:
            continue
        try:
            with open(f"{path}/{limit}", "w") as file:
                file.write(str(mib << 20))
            return path
        except OSError:
            os.rmdir(path)
    raise Skip("there are no control groups for memory")


def test_limit(p):
    """In a control group that half of it would fit in: what is touched alone does; all of it does not: it is refused, and nothing stays."""
    group = limited_group(MIB // 2)

    def enter():
        with open(group + "/cgroup.procs", "w") as file:
            file.write(str(os.getpid()))

    try:
        before = p.steps()
        p.restore(lazy="--lazy=touched", first=enter)
        wait_for(lambda: p.steps() > before + 2, "it does not go on")
        p.right()
        p.end()
        p.run("restore", "process", "--path", p.images, "--detach", first=enter, fails=True)
        expect("limit of its control group" in p.said() or not p.said(), p.said())  # or the kernel has killed the command as well
        expect(gone(p.pid), "a part of it stays")
    finally:
        p.end()
        wait_for(lambda: not open(group + "/cgroup.procs").read(), "something stays in the group")
        os.rmdir(group)


def killed(p, name):
    p.restore()
    victims = []
    for pid in named(name):
        try:
            os.kill(pid, signal.SIGKILL)
            victims.append(pid)
        except ProcessLookupError:  # it had brought everything
            pass
    return victims


def test_pager_killed(p):
    """The program is ended by the guard, or had everything."""
    ended = 0
    for _ in range(5):
        victims = killed(p, "fermata-lazy")
        time.sleep(0.3)
        ended += bool(victims) and gone(p.pid)
        p.right()
        p.end()
    expect(ended, "the pager had always ended before")


def test_guard_killed(p):
    """The pager needs no guard."""
    before = p.steps()
    killed(p, "fermata-guard")
    wait_for(lambda: p.steps() > before + 2, "it does not go on")
    p.right()


def test_damaged(p):
    """The pages are compared with their checksums behind the program's back; it is ended when they are not right."""
    found = {"directory": p.work + "/one/pages-*.img", "archive": p.images, "store": p.work + "/store/packs/*"}[p.kind]
    pages = max(glob.glob(found), key=os.path.getsize)
    with open(pages, "r+b") as file:
        file.seek(os.path.getsize(pages) // 2 + 100)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    p.restore()
    wait_for(lambda: gone(p.pid), "it runs on with damaged memory")
    if p.kind != "directory":  # what is packed may also be no frame any more, which who brings it finds as well
        expect("is ended" in p.said(), p.said())
        return
    expect("altered" in p.said(), p.said())
    p.restore("--skip-verify")
    time.sleep(0.3)
    expect(not gone(p.pid), "it is ended though nobody asked for it to be compared")


def main():
    adopt()
    tests = [(name[5:], f) for name, f in globals().items() if name.startswith("test_")]
    for name, test, kind in [(f"{name}_{kind}", test, kind) for kind in ("directory", "archive", "store") for name, test in tests]:
        if not all(word in "lazy_" + name for word in sys.argv[1:]):
            continue
        with tempfile.TemporaryDirectory(prefix="fermata-lazy-") as work:
            program = None
            try:
                program = Program(work, kind, getattr(test, "program", PROGRAM))
                test(program)
                program.end()
                result, why = "passed", ""
            except (Failure, Skip, OSError, subprocess.TimeoutExpired) as failure:
                result, why = "skipped" if isinstance(failure, Skip) else "failed", str(failure)
                if program:
                    try:
                        program.end()
                    except Failure:
                        pass
            report(result, name, why)
    return verdict()


if __name__ == "__main__":
    sys.exit(main())
