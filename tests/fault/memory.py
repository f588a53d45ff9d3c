#!/usr/bin/env python3
"""What a dump itself takes of memory: no more than 64 MiB and a hundredth of what it saves, be it stopped, live, incremental, of a program that writes faster
than it is copied, or of one whose every second page is there; and the same under a limit of that size (memory cgroup), alone and together with the program.

Arguments select tests by a part of their names. Runs as root."""
import os
import resource
import signal
import subprocess
import sys
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from flood import DEADLINE, Flood, kill_programs  # noqa: E402
from support import Skip, adopt, expect, reap, reporter, run_tests, verdict  # noqa: E402

report = reporter("memory_")

MIB = 1 << 20
SIZE = 384  # MiB of the program
OWN = 64 * MIB + SIZE * MIB // 100
ROOM = 16 * MIB  # for the program's other memory, page tables and files
BASES = (("/sys/fs/cgroup/memory", "memory.limit_in_bytes"), ("/sys/fs/cgroup", "memory.max"), ("/sys/fs/cgroup/unified", "memory.max"))


class Group:
    """A memory cgroup with a limit."""

    def __init__(self, limit):
        self.path = None
        for base, name in BASES:
            path = os.path.join(base, f"fermata-test-{os.getpid()}-{time.monotonic_ns()}")
            try:
                os.mkdir(path)
            except OSError:
                continue
            try:
                with open(os.path.join(path, name), "w") as file:
                    file.write(str(limit))
                self.path = path
                return
            except OSError:
                os.rmdir(path)
        raise Skip("there is no memory cgroup to make one in")

    def command(self, *command):
        return ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', self.path, *command]

    def remove(self):
        """With what a test that failed has left in it; what holds descriptors of a program that has gone ends by itself."""
        end = time.monotonic() + DEADLINE
        while True:
            try:
                return os.rmdir(self.path)
            except OSError:
                with open(os.path.join(self.path, "cgroup.procs")) as file:
                    left = file.read().split()
                for pid in left:
                    os.kill(int(pid), signal.SIGKILL)
                if time.monotonic() > end:
                    raise
                reap()
                time.sleep(0.01)


def on_disk(work):
    """Where files are memory a limit would count them."""
    kind = subprocess.run(["stat", "-f", "-c", "%T", work], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()
    if kind in ("tmpfs", "ramfs"):
        raise Skip(f"the folder for temporary files is a {kind}")


def dump(p, images, *more, group=None):
    """Gives the most that the dump had of memory, in bytes."""
    p.log = open(os.path.join(p.work, "log"), "w+", encoding="utf-8", errors="replace")
    command = [p.criu, "dump", "-t", str(p.pid), "-D", images, "-R", "-v3", *more]
    task = subprocess.Popen(group.command(*command) if group else command, stdin=subprocess.DEVNULL, stdout=p.log, stderr=p.log, cwd=p.work)
    _, status, usage = os.wait4(task.pid, 0)
    task.returncode = os.waitstatus_to_exitcode(status)
    expect(task.returncode == 0, f"dump ends with {task.returncode}: {p.text()[-500:]}")
    return usage.ru_maxrss * 1024


def own_memory(work, what, *ways):
    p = Flood(work, what, SIZE)
    before = None
    for way in ways:
        images = p.images()
        more = ("--prev-images-dir", "../" + os.path.basename(before)) if way == "parent" else ("--no-live",) if way == "stopped" else ("--live",)
        had = dump(p, images, *more, *(("--track-mem",) if "parent" in ways else ()))
        expect(had <= OWN, f"{way}: it had {had >> 10} KiB, more than {OWN >> 10}")
        p.check()
        before = images
    p.restore_and_check(images)
    p.end()


def test_own(work):
    own_memory(work, "itself", "stopped", "live")


def test_own_chain(work):
    own_memory(work, "itself", "live", "parent", "parent")


def test_own_scattered(work):
    own_memory(work, "scattered", "stopped", "live", "parent")


def dumps_in(p, group, *ways):
    for more in ways:
        images = p.images()
        dump(p, images, *more, group=group)
        p.check()
        if "--track-mem" not in more:
            p.unwatched()
    p.restore_and_check(images)
    p.end()


def test_limit(work):
    """Of the dump alone, what it writes included."""
    on_disk(work)
    group = Group(OWN)
    try:
        dumps_in(Flood(work, "itself", SIZE), group, ("--live",), ("--no-live",), ("--live", "--track-mem"))
    finally:
        group.remove()


def test_pressure(work):
    """The program and its dump in one group, which has no more than both need."""
    on_disk(work)
    group = Group(SIZE * MIB + OWN + ROOM)
    try:
        dumps_in(Flood(work, "itself", SIZE, group.command), group, ("--live",), ("--no-live",), ("--live", "--track-mem"))
    finally:
        group.remove()


def main():
    adopt()
    # What a child of this has had before it becomes the dump counts as its own.
    expect(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 < OWN, "this suite has too much memory itself")
    run_tests(globals(), "memory", report, kill_programs)
    return verdict()


if __name__ == "__main__":
    sys.exit(main())
