#!/usr/bin/env python3
"""Fault tests: what becomes of a target, and of a checkpoint, when a dump or a restore goes wrong.

kill     the coordinator gets SIGKILL at KILLS moments of a dump
inject   each system call of a dump fails, once per run (needs strace)
space    disk full, a directory that can't be written, a target that dies half-way
live     dumps of a tree that runs on, killed at LIVE_KILLS moments, with the disk full, and while the tree changes
damage   each file of a checkpoint truncated, altered, removed; with and without checksums
Those named …_lz4 and …_tar are the same for dumps into archives.

Arguments select tests by a part of these names. FAULT_CRIU=PATH takes another binary that takes criu's options,
FAULT_SEED another order of random moments. Runs as root."""
import glob
import mmap
import os
import random
import re
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import support  # noqa: E402
from support import ROOT, Failure, Skip, adopt, descendants, read, reap, reporter, state_of, verdict  # noqa: E402

report = reporter("fault_")

TARGET = os.path.join(ROOT, "build/tests/fault_target")
DEADLINE = 30       # s, for anything to end or to come back, on a busy machine
SETTLE = 15         # s, in which a target whose coordinator was killed is as it was
KILLS = int(os.environ.get("FAULT_KILLS", "200"))
INJECTIONS = int(os.environ.get("FAULT_INJECTIONS", "150"))
LIVE_KILLS = int(os.environ.get("FAULT_LIVE_KILLS", "24"))
DEATHS = int(os.environ.get("FAULT_DEATHS", "40"))
PAGEMAP_SCAN = "0xc0606610"
SLOT = struct.Struct("16sQII96s")
SLOTS = 32
moments = random.Random(int(os.environ.get("FAULT_SEED", "1")))


def note(text):
    print(f"# {text}", flush=True)


def status_of(path):
    return dict(line.split(":\t", 1) for line in read(path).splitlines() if ":\t" in line)


# ---- a target and what can be seen of it ----

def kill_all():
    support.kill_all(DEADLINE)


class Target:
    def __init__(self, work, small=False):
        self.path = os.path.join(work, "state")
        if os.path.exists(self.path):
            os.unlink(self.path)
        task = subprocess.Popen([TARGET, self.path] + (["small"] if small else []), stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd=work)
        task.returncode = 0  # reaped by reap, never by Popen
        self.pid = task.pid
        self.workers = 4 if small else 14
        self.processes = 2 if small else 4
        end = time.monotonic() + DEADLINE
        while not os.path.exists(self.path) or os.path.getsize(self.path) < SLOT.size * SLOTS:
            if time.monotonic() > end:
                raise Failure("the target does not start")
            time.sleep(0.002)
        with open(self.path, "r+b") as file:
            self.memory = mmap.mmap(file.fileno(), SLOT.size * SLOTS)
        while sum(slot[1] > 2 for slot in self.slots()) < self.workers:
            if time.monotonic() > end:
                raise Failure(f"the target does not get going: {self.slots()}")
            time.sleep(0.002)
        self.before = self.picture()
        self.pids = dict(zip(sorted(self.before), "abcd"))  # the processes' names, in the order of their births
        if len(self.before) != self.processes:
            raise Failure(f"the target has {len(self.before)} processes")

    def slots(self):
        slots = [SLOT.unpack_from(self.memory, i * SLOT.size) for i in range(SLOTS)]
        return [(name.rstrip(b"\0").decode(), counter, wrong, text.rstrip(b"\0").decode())
                for name, counter, wrong, _, text in slots if name.rstrip(b"\0")]

    def picture(self):
        """What must stay as it was, of every process and thread."""
        seen = {}
        for pid in [self.pid] + descendants(self.pid):
            tasks = {}
            for tid in sorted(map(int, os.listdir(f"/proc/{pid}/task"))):
                status = status_of(f"/proc/{pid}/task/{tid}/status")
                tasks[tid] = {key: status[key].strip() for key in ("SigBlk", "SigIgn", "SigCgt", "TracerPid")}
            fds = {fd: os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
            fds = {fd: (link, re.search(r"flags:\t(\d+)", read(f"/proc/{pid}/fdinfo/{fd}")).group(1))
                   for fd, link in fds.items()}
            seen[pid] = {"maps": read(f"/proc/{pid}/maps"), "tasks": tasks, "descriptors": fds}
        return seen

    def difference(self):
        """The first thing that is not as before, or None."""
        try:
            after = self.picture()
        except (OSError, KeyError) as error:
            return f"a task has gone: {error}"
        if after.keys() != self.before.keys():
            return f"processes {sorted(self.before)} became {sorted(after)}"
        for pid, is_now in after.items():
            was = self.before[pid]
            if is_now["maps"] != was["maps"]:
                old, new = set(was["maps"].splitlines()), set(is_now["maps"].splitlines())
                return f"the maps of {pid}: gone {sorted(old - new)}, new {sorted(new - old)}"
            for what in ("tasks", "descriptors"):
                if is_now[what] != was[what]:
                    return f"the {what} of {pid}: {was[what]} became {is_now[what]}"
            for tid in is_now["tasks"]:
                if state_of(f"{pid}/task/{tid}") in ("t", "T", "Z", "X"):
                    return f"thread {tid} of {pid} is in state {state_of(f'{pid}/task/{tid}')}"
        return None

    def stuck(self, since, at_least=1):
        """Names of the workers whose counter has not moved since."""
        old = {name: counter for name, counter, _, _ in since}
        return [name for name, counter, _, _ in self.slots() if counter < old.get(name, 0) + at_least]

    def complaint(self):
        return "; ".join(f"{name}: {text}" for name, _, wrong, text in self.slots() if wrong)

    def settle(self):
        """At any moment a thread may be in its own signal handler, with a mask of that."""
        end = time.monotonic() + SETTLE
        while (difference := self.difference()) and time.monotonic() < end:
            time.sleep(0.002)
        if difference:
            raise Failure(difference)
        return end

    def check(self):
        """It is as it was, everything in it goes on, and nothing in it complains."""
        end = self.settle()
        since = self.slots()
        while (stuck := self.stuck(since)) and time.monotonic() < end + SETTLE:
            time.sleep(0.002)
        if stuck:
            raise Failure(f"does not go on: {stuck}")
        if self.complaint():
            raise Failure(self.complaint())
        self.settle()

    def alive(self):
        return [pid for pid in self.before if state_of(pid) not in (None, "Z", "X")]


# ---- running criu ----

class Criu:
    def __init__(self, work):
        self.work = work
        self.binary = os.path.join(work, "criu")
        os.symlink(os.environ.get("FAULT_CRIU") or os.path.join(ROOT, "build/src/cli/fermata"), self.binary)
        self.number = 0

    def start(self, arguments, before=()):
        self.log = tempfile.TemporaryFile()
        return subprocess.Popen(list(before) + [self.binary] + arguments, stdin=subprocess.DEVNULL, stdout=self.log,
                                stderr=self.log, cwd=self.work)

    def text(self):
        self.log.seek(0)
        return self.log.read().decode(errors="replace").strip()

    def run(self, arguments, before=(), deadline=DEADLINE):
        task = self.start(arguments, before)
        try:
            return task.wait(deadline)
        except subprocess.TimeoutExpired:
            task.kill()
            task.wait()
            raise Failure(f"criu {arguments[0]} does not end: {self.text()}") from None

    def images(self):
        self.number += 1
        path = os.path.join(self.work, f"images{self.number}")
        os.mkdir(path)
        return path

    def dump(self, target, images, *more):
        return ["dump", "-t", str(target.pid), "-D", images] + list(more)

    def restore(self, images):
        return ["restore", "-d", "-D", images]

    def verify(self, target, images):
        """A whole checkpoint of a target that still runs: restore reads all of it and stops at the ids."""
        status = self.run(self.restore(images))
        if status != 1 or "is taken by" not in self.text():
            raise Failure(f"the checkpoint does not verify: {status} {self.text()}")

    def clean_failure(self, status):
        """It said that it failed, and why, in a line."""
        if status < 0:
            raise Failure(f"criu died of signal {-status}: {self.text()}")
        if status > 0 and not self.text():
            raise Failure(f"criu ended with {status} and said nothing")


class Packed(Criu):
    """The same into archives, which fermata's own command line has."""

    def __init__(self, work, kind="lz4"):
        super().__init__(work)
        self.kind = kind
        self.binary = os.path.join(work, "fermata")
        os.symlink(os.readlink(os.path.join(work, "criu")), self.binary)

    def dump(self, target, images, *more):
        return ["dump", "process", str(target.pid), "--dir", images, "--name", "a", "--compression", self.kind] + list(more)

    def restore(self, images):
        return ["restore", "process", "--detach", "--path", *glob.glob(os.path.join(images, "a.*"))]


def has_checkpoint(images):
    return os.path.exists(os.path.join(images, "inventory.img")) or bool(glob.glob(os.path.join(images, "a.tar*")))


# ---- kill ----

def measure_dump(criu, target):
    """How long a dump takes when nothing else keeps the machine busy: the shortest of several."""
    times = []
    for _ in range(5):
        images, start = criu.images(), time.monotonic()
        if criu.run(criu.dump(target, images, "-R")):
            raise Failure(f"a dump with no fault fails: {criu.text()}")
        times.append(time.monotonic() - start)
        shutil.rmtree(images)
    return min(times)


def restore_all(criu, images, target, victim=None):
    """Without the workers of the victim, should it not be there, and who waits for them to read."""
    if criu.run(criu.restore(images)):
        raise Failure(f"restore fails: {criu.text()}")
    gone = target.pids.get(victim) if victim and state_of(victim) in (None, "Z", "X") else None
    since = [slot for slot in target.slots() if slot[0].partition(".")[0] != gone and (gone, slot[0]) != ("b", "a.write")]
    end = time.monotonic() + DEADLINE
    while target.stuck(since) and time.monotonic() < end:
        time.sleep(0.002)
    if target.stuck(since) or target.complaint():
        raise Failure(f"after restore: stuck {target.stuck(since)} {target.complaint()}")


def wait_gone(target):
    end = time.monotonic() + DEADLINE
    while target.alive():
        if time.monotonic() > end:
            raise Failure(f"after a dump that succeeded there are {target.alive()}")
        reap()
        time.sleep(0.001)
    reap()


def kill_once(criu, target, delay):
    """One dump and its end. Gives 'before' or 'after' the commit, or 'finished'; the target runs again afterwards."""
    images = criu.images()
    task = criu.start(criu.dump(target, images))
    time.sleep(max(0, delay))
    task.kill()
    status = task.wait()
    reap()
    if status != -signal.SIGKILL:
        if status:
            raise Failure(f"dump ends with {status}: {criu.text()}")
        wait_gone(target)
        outcome = "finished"
    elif not has_checkpoint(images):
        target.check()
        shutil.rmtree(images)
        return "before"
    else:
        # Committed: what is left of the tree is no longer needed, the checkpoint must be good.
        kill_all()
        outcome = "after"
    restore_all(criu, images, target)
    target.before = target.picture()
    shutil.rmtree(images)
    return outcome


def test_kill(work, criu=None, kills=KILLS):
    criu, target = criu or Criu(work), Target(work)
    target.check()
    seen, failed = {"before": 0, "after": 0, "finished": 0}, 0
    for i in range(kills):
        if i % 20 == 0:
            duration = measure_dump(criu, target)
        delay = duration * (i + 0.5) / kills
        try:
            seen[kill_once(criu, target, delay)] += 1
        except (Failure, OSError) as failure:
            failed += 1
            note(f"kill {i}, {delay * 1000:.2f} ms: {failure}")
            kill_all()
            target = Target(work)
    note(f"{kills} kills over dumps of about {duration * 1000:.1f} ms: {seen['before']} before the commit, {seen['after']} after it, "
         f"{seen['finished']} dumps had finished, {failed} bad")
    if failed:
        raise Failure(f"{failed} of {kills} kills")
    if not seen["before"]:
        raise Failure("no kill came before the commit")
    images = criu.images()
    if criu.run(criu.dump(target, images)):
        raise Failure(f"afterwards a dump fails: {criu.text()}")
    wait_gone(target)
    restore_all(criu, images, target)


def test_kill_lz4(work):
    test_kill(work, Packed(work), KILLS // 3)


def test_kill_tar(work):
    test_kill(work, Packed(work, "tar"), KILLS // 5)


# ---- inject ----

def nobody_left(target):
    """Within a moment: who is killed with its coordinator may have a lot of memory to give back."""
    end = time.monotonic() + DEADLINE / 2
    while target.alive():
        reap()
        if time.monotonic() > end:
            raise Failure(f"after a restore that was killed there are {target.alive()}")
        time.sleep(0.002)
    reap()


def test_restore_kill(work, kills=KILLS // 2):
    """A restore that is killed leaves no process behind, lets none of it run, and can be done again."""
    criu, target = Criu(work), Target(work)
    target.check()
    images, seen, failed = criu.images(), {"killed": 0, "finished": 0}, 0
    if criu.run(criu.dump(target, images)):
        raise Failure(f"the dump fails: {criu.text()}")
    wait_gone(target)
    duration = DEADLINE
    for _ in range(5):
        kill_all()
        start = time.monotonic()
        if criu.run(criu.restore(images)):
            raise Failure(f"the restore fails: {criu.text()}")
        duration = min(duration, time.monotonic() - start)
    for i in range(kills):
        kill_all()
        before = target.slots()
        task = criu.start(criu.restore(images))
        time.sleep(duration * (i + 0.5) / kills)
        task.kill()
        status = task.wait()
        if status == 0:
            seen["finished"] += 1
            continue
        try:
            if status != -signal.SIGKILL:
                raise Failure(f"restore ends with {status}: {criu.text()}")
            if len(target.alive()) != len(target.before):  # it was let go: as good as finished
                nobody_left(target)
                if target.slots() != before:
                    raise Failure("some of it ran, though the restore was killed")
            seen["killed"] += 1
        except Failure as failure:
            failed += 1
            note(f"kill {i}: {failure}")
    note(f"{kills} kills over a restore of about {duration * 1000:.1f} ms: {seen['killed']} before its end, {seen['finished']} had finished, {failed} bad")
    if failed:
        raise Failure(f"{failed} of {kills} kills")
    kill_all()
    restore_all(criu, images, target)


def trace_calls(criu, target, work):
    """How often each system call is made in a dump: by the loader, which ends with the release of its cache, and in all."""
    trace = os.path.join(work, "trace")
    status = criu.run(criu.dump(target, criu.images(), "-R"), ["strace", "-f", "-o", trace])
    if status:
        raise Failure(f"a traced dump fails: {criu.text()}")
    calls, loading = {}, True
    with open(trace) as file:
        for line in file:
            found = re.match(r"\d+ +(\w+)\(", line)
            if found:
                loader, count = calls.get(found.group(1), (0, 0))
                calls[found.group(1)] = (loader + loading, count + 1)
                loading = loading and found.group(1) != "munmap"
    return calls


def plan_injections(calls, injections=INJECTIONS):
    """(call, when): the first and the last of each, and some in between, more where there are more calls."""
    # brk gives the break when it fails, never an error, which the C library would take for the break; it ends a program whose
    # futex gives an error that there is none of.
    never = {"execve", "exit_group", "exit", "rt_sigreturn", "brk", "futex"}
    first = {name: loader for name, (loader, _) in calls.items()}
    calls = {name: count - loader for name, (loader, count) in calls.items() if name not in never and count > loader}
    room = max(1, injections - sum(min(count, 2) for count in calls.values()))
    weight = sum(count ** 0.5 for count in calls.values() if count > 2)
    for name, count in sorted(calls.items()):
        when = {1, count}
        if count > 2:
            more = min(count - 2, max(1, round(room * count ** 0.5 / weight)))
            when |= {1 + (count - 1) * (i + 1) // (more + 1) for i in range(more)}
        yield name, [first[name] + number for number in sorted(when)]


def inject_once(criu, target, work, name, when):
    images = criu.images()
    status = criu.run(criu.dump(target, images, "-R"), ["strace", "-f", "-o", os.path.join(work, "trace"), "-e", f"trace={name}",
                                                        "-e", f"inject={name}:error=EIO:when={when}"])
    # strace counts the calls of each thread by themselves: that which fails beside may be the one that says why.
    if name != "write" or status < 0:
        criu.clean_failure(status)
    target.check()
    if status and has_checkpoint(images):
        raise Failure("dump failed and left a checkpoint")
    if not status:
        if not has_checkpoint(images):
            raise Failure("dump succeeded and left no checkpoint")
        criu.verify(target, images)
    shutil.rmtree(images)
    return status != 0


def need_strace():
    if not shutil.which("strace"):
        raise Skip("needs strace")
    if subprocess.run(["strace", "-o", "/dev/null", "true"], stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode:
        raise Skip("strace can't trace here")


def test_inject(work, criu=None, injections=INJECTIONS, label="inject"):
    need_strace()
    criu, target = criu or Criu(work), Target(work)
    runs = refused = 0
    for name, moments_of in plan_injections(trace_calls(criu, target, work), injections):
        bad = []
        for when in moments_of:
            runs += 1
            try:
                refused += inject_once(criu, target, work, name, when)
            except (Failure, OSError) as failure:
                bad.append(f"number {when}: {failure}")
                kill_all()
                target = Target(work)
        report("failed" if bad else "passed", f"{label}_{name}", " | ".join(bad))
    note(f"{runs} injected failures: {refused} dumps failed, {runs - refused} succeeded all the same")


def test_inject_lz4(work):
    test_inject(work, Packed(work), INJECTIONS // 2, "inject_lz4")


# ---- space ----

def no_checkpoint(criu, target, images, status, what):
    criu.clean_failure(status)
    if not status:
        raise Failure(f"dump succeeds though {what}")
    if "cannot" not in criu.text() or len(criu.text().splitlines()) > 1:
        raise Failure(f"{what}: not one line of why: {criu.text()}")
    if os.listdir(images):
        raise Failure(f"{what}: it left {os.listdir(images)}")
    target.check()


def test_space_full(work, criu=None):
    criu, target = criu or Criu(work), Target(work)
    images = criu.images()
    if criu.run(criu.dump(target, images, "-R")):
        raise Failure(f"a dump with no fault fails: {criu.text()}")
    whole = sum(os.stat(path).st_blocks * 512 for path in glob.glob(os.path.join(images, "*")))
    shutil.rmtree(images)
    images = criu.images()
    for part in (0.002, 0.02, 0.1, 0.3, 0.6, 0.9):
        size = int(whole * part)
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "none", images], check=True)
        try:
            no_checkpoint(criu, target, images, criu.run(criu.dump(target, images)), f"the disk has {size}")
        finally:
            subprocess.run(["umount", images], check=True)


def test_space_full_lz4(work):
    test_space_full(work, Packed(work))


def test_space_full_tar(work):
    test_space_full(work, Packed(work, "tar"))


def test_space_read_only(work):
    criu, target = Criu(work), Target(work)
    images = criu.images()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "ro", "none", images], check=True)
    try:
        no_checkpoint(criu, target, images, criu.run(criu.dump(target, images)), "the directory is read-only")
    finally:
        subprocess.run(["umount", images], check=True)


def test_space_missing(work):
    criu, target = Criu(work), Target(work)
    status = criu.run(criu.dump(target, os.path.join(work, "nowhere")))
    criu.clean_failure(status)
    if not status:
        raise Failure("dump succeeds into a directory that does not exist")
    target.check()


def test_space_death(work):
    """The target, or one of its processes, is killed by somebody else during a dump."""
    criu, target = Criu(work), Target(work)
    duration = measure_dump(criu, target)
    failed = 0
    for i in range(DEATHS):
        kill_all()
        images, target = criu.images(), Target(work)
        victim = sorted(target.before)[i % len(target.before)] if i % 2 else target.pid
        task = criu.start(criu.dump(target, images))
        time.sleep(moments.random() * duration)
        try:
            os.kill(victim, signal.SIGKILL)
        except ProcessLookupError:
            pass
        try:
            end = time.monotonic() + DEADLINE
            while task.poll() is None and time.monotonic() < end:
                reap_others(task.pid)
                time.sleep(0.001)
            status = task.poll()
            if status is None:
                task.kill()
                task.wait()
                raise Failure("dump hangs")
            criu.clean_failure(status)
            if bool(status) == has_checkpoint(images):
                raise Failure(f"dump ends with {status}, and has a checkpoint: {has_checkpoint(images)}")
            for pid in target.alive():
                wait_free(pid)
            if not status:
                kill_all()
                restore_all(criu, images, target, victim)
        except (Failure, OSError) as failure:
            failed += 1
            note(f"death {i} of {victim}: {failure}")
    if failed:
        raise Failure(f"{failed} of {DEATHS} deaths")


def calls_of(pid):
    """What each thread of a process is at: the words of its system call, numbers in hexadecimal."""
    for path in glob.glob(f"/proc/{pid}/task/*/syscall"):
        try:
            yield read(path).split()
        except OSError:
            pass


def test_space_death_before_pages(work):
    """All is captured of a process but its pages, of which there are none any more when they are looked for."""
    need_strace()
    criu, target = Criu(work), Target(work)
    images = criu.images()
    command = ["strace", "-f", "-o", os.path.join(work, "trace"), "-e", "trace=ioctl", "-e", "inject=ioctl:delay_enter=300000"]
    task = criu.start(criu.dump(target, images), command)
    end = time.monotonic() + DEADLINE
    looked = lambda: any(call[2:3] == [PAGEMAP_SCAN] for child in descendants(task.pid) for call in calls_of(child))  # noqa: E731
    while not looked():
        if task.poll() is not None or time.monotonic() > end:
            raise Failure(f"the dump does not look for pages: {criu.text()}")
        time.sleep(0.002)
    victim = next(pid for pid in descendants(target.pid) if not descendants(pid))
    os.kill(victim, signal.SIGKILL)
    task.terminate()  # the dump goes on without it
    task.wait()
    while not criu.text() and time.monotonic() < end:
        time.sleep(0.002)
    if "was killed while it was being saved" not in criu.text() or has_checkpoint(images):
        raise Failure(f"dump says: {criu.text()}, and has a checkpoint: {has_checkpoint(images)}")


def wait_free(pid):
    """The process is neither stopped nor traced, or it ends."""
    end = time.monotonic() + SETTLE
    while state_of(pid) in ("t", "T"):
        if time.monotonic() > end:
            raise Failure(f"process {pid} stays in state {state_of(pid)}")
        time.sleep(0.002)


def reap_others(pid):
    """Ended children except one, whose status Popen wants."""
    for child in descendants(os.getpid()):
        if child != pid:
            try:
                os.waitpid(child, os.WNOHANG)
            except ChildProcessError:
                pass


# ---- damage ----

# ---- dumps of what runs on ----

def watched(pid):
    """Whether some area of a process is watched (VmFlags: uw)."""
    return any(" uw" in line for line in read(f"/proc/{pid}/smaps").splitlines() if line.startswith("VmFlags"))


def check_unwatched(target):
    end = time.monotonic() + DEADLINE
    while any(watched(pid) for pid in target.before):
        if time.monotonic() > end:
            raise Failure("its memory is watched still")
        time.sleep(0.01)


def test_live_kill(work):
    criu, target = Criu(work), Target(work)
    target.check()
    duration, committed = measure_dump(criu, target), 0
    for i in range(LIVE_KILLS):
        images = criu.images()
        task = criu.start(criu.dump(target, images, "-R", "--live"))
        time.sleep(duration * (i + 0.5) / LIVE_KILLS)
        task.kill()
        task.wait()
        try:
            check_unwatched(target)
            target.check()
            if has_checkpoint(images):
                committed += 1
                criu.verify(target, images)
        except Failure as failure:
            raise Failure(f"kill {i}: {failure}") from None
        shutil.rmtree(images)
    note(f"{LIVE_KILLS} kills over live dumps of about {duration * 1000:.1f} ms, {committed} after the commit")


def test_live_full(work):
    criu, target = Criu(work), Target(work)
    images = criu.images()
    if criu.run(criu.dump(target, images, "-R")):
        raise Failure(f"a dump with no fault fails: {criu.text()}")
    whole = sum(os.stat(path).st_blocks * 512 for path in glob.glob(os.path.join(images, "*")))
    shutil.rmtree(images)
    images = criu.images()
    for part in (0.002, 0.1, 0.3, 0.6, 0.9):
        subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={int(whole * part)}", "none", images], check=True)
        try:
            status = criu.run(criu.dump(target, images, "-R", "--live"))
            no_checkpoint(criu, target, images, status, f"the disk has {int(whole * part)}")
            check_unwatched(target)
        finally:
            subprocess.run(["umount", images], check=True)


CHANGER = os.path.join(ROOT, "build/tests/fault_changer")


def wait_says(path, text):
    end = time.monotonic() + DEADLINE
    while not os.path.exists(path) or text not in read(path).split():
        if time.monotonic() > end:
            raise Failure(f"it does not say {text}")
        time.sleep(0.001)


def change_once(criu, work, what, delay):
    path, images = os.path.join(work, "said"), criu.images()
    if os.path.exists(path):
        os.unlink(path)
    pid = subprocess.Popen([CHANGER, path, what], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                           start_new_session=True, cwd=work).pid
    wait_says(path, "go")
    dump = criu.start(["dump", "-t", str(pid), "-D", images, "-R", "--live"])
    time.sleep(delay)
    os.kill(pid, signal.SIGUSR1)
    status = dump.wait(DEADLINE)
    if status < 0 or (status and what != "exits"):
        raise Failure(f"dump ends with {status}: {criu.text()}")
    if what == "exits":
        if bool(status) == has_checkpoint(images):
            raise Failure(f"dump ends with {status}, and there is {'a' if status else 'no'} checkpoint")
        reap()
    else:
        wait_says(path, "still" if what == "execs" else "went")
        # What runs on is right, and so is what is restored.
        for what_runs in ("the program", "what was restored"):
            time.sleep(0.01)
            os.truncate(path, 0)
            os.kill(pid, signal.SIGUSR2)
            end = time.monotonic() + DEADLINE
            while not {"ok", "bad"} & set(read(path).split()) and time.monotonic() < end:
                time.sleep(0.001)
            if "ok" not in read(path).split():
                raise Failure(f"the memory of {what_runs}: {read(path)}")
            kill_all()
            if what_runs == "the program" and criu.run(["restore", "-d", "-D", images]):
                raise Failure(f"restore: {criu.text()}")
    kill_all()
    shutil.rmtree(images)


def test_live_change(work):
    criu = Criu(work)
    for what in ("exits", "execs", "grows", "unmaps", "forks"):
        for delay in (0.002, 0.02, 0.06):
            try:
                change_once(criu, work, what, delay)
            except Failure as failure:
                raise Failure(f"it {what} after {delay * 1000:.0f} ms: {failure}") from None


def damages(size):
    """(what, function of the bytes), None for a file that is removed."""
    yield "removed", None
    for keep in sorted({0, 2, 7, size // 2, size - 1}):
        if 0 <= keep < size:
            yield f"cut to {keep}", lambda data, keep=keep: data[:keep]
    places = {0, 5, 8, 9, 12, 14, 16, size // 3, size // 2, size - 1} | {moments.randrange(max(1, size)) for _ in range(4)}
    for place in sorted(place for place in places if 0 <= place < size):
        for bits in (0x80, 0x01):
            yield f"byte {place} xor {bits:#x}", lambda data, place=place, bits=bits: \
                data[:place] + bytes([data[place] ^ bits]) + data[place + 1:]
    yield "longer", lambda data: data + b"\xff" * 9


def restore_damaged(criu, images, verify):
    """Gives the exit status of a restore, which must be a clean one."""
    status = criu.run(["restore", "-d", "-D", images] + ([] if verify else ["--skip-verify"]))
    if status < 0:
        raise Failure(f"criu died of signal {-status}: {criu.text()}")
    if not status:
        kill_all()
        return status
    if "cannot restore" not in criu.text():
        raise Failure(f"no reason is given: {criu.text()}")
    end = time.monotonic() + 0.5
    while left := descendants(os.getpid()):
        reap()
        if time.monotonic() > end:
            raise Failure(f"processes stay: {left}: {criu.text()}")
    return status


def test_damage(work):
    criu, target = Criu(work), Target(work, small=True)
    good = criu.images()
    if criu.run(criu.dump(target, good)):
        raise Failure(f"dump fails: {criu.text()}")
    wait_gone(target)
    restore_all(criu, good, target)
    kill_all()
    done, harmless, bad = 0, 0, {}
    of_no_checkpoint = {os.path.join(good, name) for name in ("stats-dump", "stats-restore")}
    for path in sorted(set(glob.glob(os.path.join(good, "*"))) - of_no_checkpoint):
        name = os.path.basename(path)
        with open(path, "rb") as file:
            data = file.read()
        group = re.sub(r"[-0-9]*\.(img|json)$", "", name)
        bad.setdefault(group, [])
        for what, damage in damages(len(data)):
            images = criu.images()
            for other in glob.glob(os.path.join(good, "*")):
                if other != path:
                    os.link(other, os.path.join(images, os.path.basename(other)))
            if damage:
                with open(os.path.join(images, name), "wb") as file:
                    file.write(damage(data))
            for verify in (True, False):
                done += 1
                try:
                    status = restore_damaged(criu, images, verify)
                    harmless += not status
                    # The manifest alone may go, or change in what it does not say of the files.
                    if verify and not status and name != "fermata.json":
                        raise Failure("restored, though its checksum is wrong")
                except Failure as failure:
                    bad[group].append(f"{name} {what}, {'with' if verify else 'without'} checksums: {failure}")
                    kill_all()
            shutil.rmtree(images)
    for group, failures in sorted(bad.items()):
        more = f" | and {len(failures) - 3} more" if len(failures) > 3 else ""
        report("failed" if failures else "passed", f"damage_{group}", " | ".join(failures[:3]) + more)
    note(f"{done} restores of damaged checkpoints, {harmless} of which succeeded")


TESTS = [("live_kill", test_live_kill), ("live_full", test_live_full), ("live_change", test_live_change),
         ("kill", test_kill), ("kill_lz4", test_kill_lz4), ("kill_tar", test_kill_tar), ("restore_kill", test_restore_kill), ("inject", test_inject),
         ("inject_lz4", test_inject_lz4), ("space_full", test_space_full), ("space_full_lz4", test_space_full_lz4),
         ("space_full_tar", test_space_full_tar),
         ("space_read_only", test_space_read_only), ("space_missing", test_space_missing),
         ("space_death", test_space_death),
         ("space_death_before_pages", test_space_death_before_pages), ("damage", test_damage)]
GROUPS = {"inject", "inject_lz4", "damage"}  # these report on their parts themselves


def main():
    wanted = sys.argv[1:]
    adopt()
    for name, test in TESTS:
        if wanted and not any(word in name for word in wanted):
            continue
        if os.geteuid() != 0:
            report("skipped", name, "needs root")
            continue
        work = tempfile.mkdtemp(prefix="fermata-fault-")
        try:
            test(work)
            if name not in GROUPS:
                report("passed", name)
        except Skip as skip:
            report("skipped", name, str(skip))
        except (Failure, OSError, subprocess.CalledProcessError) as failure:
            report("failed", name, str(failure))
        finally:
            try:
                kill_all()
            except Failure as failure:
                report("failed", name, f"clean-up: {failure}")
            shutil.rmtree(work, ignore_errors=True)
    sys.exit(verdict())


main()
