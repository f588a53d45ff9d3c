#!/usr/bin/env python3
"""Live dumps of a program that writes faster than it is copied, and so waits before its first write to a page that is not copied yet: what is restored
is all of one moment, also where it was the kernel that wrote; the dump is killed, or its disk fills, and the program goes on; and memory that goes
before it was copied.

Arguments select tests by a part of their names. Runs as root."""
import ctypes
import os
import random
import shutil
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from support import ROOT, Failure, adopt, expect, read, reap, reporter, run_tests, verdict  # noqa: E402

report = reporter("flood_")

FERMATA = os.environ.get("FAULT_CRIU") or os.path.join(ROOT, "build/src/cli/fermata")
FLOOD = os.path.join(ROOT, "build/tests/fault_flood")
DEADLINE = 60
KILLS = int(os.environ.get("FAULT_FLOOD_KILLS", "16"))
MIB = 192
OUTSIDE = 2048  # pages of half of what another may write to
TRIES = 5
PROTECTED = "are copied before they are written to"


class Flood:
    def __init__(self, work, what="itself", mib=MIB, wrap=lambda *command: command):
        self.work, self.said, self.number, self.log = work, os.path.join(work, "said"), 0, None
        self.criu = os.path.join(work, "criu")
        if not os.path.lexists(self.criu):
            os.symlink(os.path.abspath(FERMATA), self.criu)
        self.pid = subprocess.Popen(wrap(FLOOD, self.said, what, str(mib)), stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                    stderr=subprocess.DEVNULL, start_new_session=True, cwd=work).pid
        self.wait(lambda: "go" in self.words(), "it does not begin")

    def words(self):
        return read(self.said).split() if os.path.exists(self.said) else []

    def wait(self, what, why):
        end = time.monotonic() + DEADLINE
        while not what():
            expect(time.monotonic() < end, why)
            time.sleep(0.001)

    def check(self, who="the program"):
        os.truncate(self.said, 0)
        os.kill(self.pid, signal.SIGUSR2)
        self.wait(lambda: {"ok", "bad"} & set(self.words()), f"{who} does not answer")
        expect("ok" in self.words(), f"the memory of {who}: {read(self.said)}")

    def images(self):
        self.number += 1
        path = os.path.join(self.work, f"images{self.number}")
        os.mkdir(path)
        return path

    def start(self, images, *more):
        self.log = open(os.path.join(self.work, "log"), "w+", encoding="utf-8", errors="replace")
        return subprocess.Popen([self.criu, "dump", "-t", str(self.pid), "-D", images, "-R", "--live", "-v3", *more], stdin=subprocess.DEVNULL,
                                stdout=self.log, stderr=self.log, cwd=self.work)

    def text(self):
        return read(os.path.join(self.work, "log"))

    def wait_text(self, dump, text):
        self.wait(lambda: text in self.text() or dump.poll() is not None, f"the dump does not say: {text}")

    def unwatched(self):
        end = time.monotonic() + DEADLINE
        while any(flag in line.split() for line in read(f"/proc/{self.pid}/smaps").splitlines() if line.startswith("VmFlags") for flag in ("uw", "um")):
            expect(time.monotonic() < end, "its memory is watched still")
            time.sleep(0.01)

    def end(self):
        try:
            os.kill(self.pid, signal.SIGKILL)
        except ProcessLookupError:
            pass
        end = time.monotonic() + DEADLINE
        while os.path.exists(f"/proc/{self.pid}") and time.monotonic() < end:
            reap()
            time.sleep(0.002)

    def restore_and_check(self, images):
        self.end()
        done = subprocess.run([self.criu, "restore", "-d", "-D", images], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
                              text=True, timeout=DEADLINE)
        expect(done.returncode == 0, f"restore: {done.stdout}")
        self.check("what was restored")


def protected_dump(p, *more, check=True):
    """On a busy machine it may not be fast enough to be protected at once."""
    for _ in range(TRIES):
        images = p.images()
        status = p.start(images, *more).wait(DEADLINE)
        expect(status == 0, f"dump ends with {status}: {p.text()[-500:]}")
        if check:
            p.check()
        if PROTECTED in p.text():
            return images
        shutil.rmtree(images)
    raise Failure("it was copied in the pause")


def is_one_moment(work, what):
    p = Flood(work, what)
    images = protected_dump(p)
    p.unwatched()
    p.restore_and_check(images)
    p.end()


def test_moment(work):
    is_one_moment(work, "itself")


def test_pieces(work):
    """Small areas, which are copied in the pause, among large ones, which are not."""
    is_one_moment(work, "pieces")


def test_kernel_writes(work):
    is_one_moment(work, "kernel")


def passes_by(work, what):
    """What writes past the page table is not copied while it runs."""
    p = Flood(work, what)
    for _ in range(3):
        images = p.images()
        status = p.start(images).wait(DEADLINE)
        expect(status == 0, f"dump ends with {status}: {p.text()[-500:]}")
        p.check()
        p.unwatched()
    p.restore_and_check(images)
    return p


def test_direct(work):
    p = passes_by(work, "direct")
    expect("a file opened with O_DIRECT may write to it" in p.text(), f"it was copied while it ran: {p.text()[-500:]}")
    p.end()


def test_direct_briefly(work):
    passes_by(work, "brief").end()


def write_from_outside(pid, address, started):
    """Never ends by itself. In a process of its own."""
    libc = ctypes.CDLL(None, use_errno=True)
    number = ctypes.c_uint64(0)
    local = (ctypes.c_uint64 * 2)(ctypes.addressof(number), 8)
    remote = (ctypes.c_uint64 * 2)(0, 8)
    os.write(started, b"x")
    while True:
        number.value += 1
        for half in (0, 1):
            remote[0] = address + (half * OUTSIDE + number.value % OUTSIDE) * 4096
            if libc.process_vm_writev(pid, local, 1, remote, 1, 0) != 8:
                os._exit(1)


def test_written_from_outside(work):
    """By a process that is not of the tree, and never stopped."""
    p = Flood(work, "outside")
    address = int(p.words()[p.words().index("at") + 1], 16)
    begun, started = os.pipe()
    writer = os.fork()
    if not writer:
        write_from_outside(p.pid, address, started)
    try:
        os.read(begun, 1)
        images = protected_dump(p, check=False)
        expect(os.waitpid(writer, os.WNOHANG) == (0, 0), "the writer ended")
    finally:
        os.kill(writer, signal.SIGKILL)
        try:
            os.waitpid(writer, 0)
        except ChildProcessError:
            pass
        os.close(begun)
        os.close(started)
    p.check()
    p.unwatched()
    p.restore_and_check(images)
    p.end()


def test_kill(work):
    p, moments = Flood(work), random.Random(1)
    in_time = 0
    for number in range(KILLS):
        images = p.images()
        dump = p.start(images)
        p.wait_text(dump, (PROTECTED, "It stood still")[number % 2])
        time.sleep(moments.random() * (0.003, 0.03, 0.2)[number % 3])
        in_time += dump.poll() is None
        dump.kill()
        dump.wait()
        p.check()
        p.unwatched()
        shutil.rmtree(images)
    expect(in_time > KILLS // 2, f"only {in_time} of {KILLS} dumps were killed in time")
    p.end()


def test_full(work):
    p = Flood(work)
    for part in (1.1, 1.5, 1.8):
        images = p.images()
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(MIB * part)}m", "none", images], check=True)
        try:
            status = p.start(images).wait(DEADLINE)
            expect(status == 1 and "No space left" in p.text(), f"dump ends with {status}: {p.text()[-300:]}")
            expect(not os.listdir(images), f"it left {os.listdir(images)}")
            p.check()
            p.unwatched()
        finally:
            subprocess.run(["umount", images], check=True)
    p.end()


def test_dropped(work):
    """What is emptied before it was copied: the pause is repeated, or it was too late for that."""
    p = Flood(work, "drops")
    images = p.images()
    dump = p.start(images)
    p.wait_text(dump, PROTECTED)
    os.kill(p.pid, signal.SIGUSR1)
    status = dump.wait(DEADLINE)
    expect(status == 0, f"dump ends with {status}: {p.text()[-500:]}")
    p.check()
    p.unwatched()
    p.restore_and_check(images)
    p.end()


def test_zeros(work):
    """Pages that were only read lie between those that are protected."""
    p = Flood(work, "zeros")
    images = p.images()
    dump = p.start(images)
    p.wait_text(dump, "It stood still")
    os.kill(p.pid, signal.SIGUSR1)
    status = dump.wait(DEADLINE)
    expect(status == 0 and PROTECTED in p.text(), f"dump ends with {status}: {p.text()[-500:]}")
    p.check()
    p.restore_and_check(images)
    p.end()


def test_chain(work):
    """What is watched beyond the dump: areas that were protected so are saved whole in the next part."""
    p = Flood(work)
    first = protected_dump(p, "--track-mem")
    second = protected_dump(p, "--track-mem", "--prev-images-dir", "../" + os.path.basename(first))
    p.restore_and_check(second)
    p.end()


def test_exits(work):
    p = Flood(work, "exits")
    images = p.images()
    dump = p.start(images)
    p.wait_text(dump, "It stood still")
    os.kill(p.pid, signal.SIGUSR1)
    status = dump.wait(DEADLINE)
    expect(status in (0, 1), f"dump ends with {status}: {p.text()[-500:]}")
    expect((status == 0) == os.path.exists(os.path.join(images, "inventory.img")), f"dump ends with {status}, and left {os.listdir(images)}")
    p.end()
    if status == 0:
        p.restore_and_check(images)
    p.end()


def kill_programs(work):
    for child in [int(pid) for pid in os.listdir("/proc") if pid.isdigit()]:
        try:
            if os.path.realpath(f"/proc/{child}/exe") == os.path.realpath(FLOOD) and os.readlink(f"/proc/{child}/cwd") == work:
                os.kill(child, signal.SIGKILL)
        except OSError:
            pass
    reap()


def main():
    adopt()
    run_tests(globals(), "flood", report, kill_programs)
    return verdict()


if __name__ == "__main__":
    sys.exit(main())
