#!/usr/bin/env python3
"""Tests of trees in pid and cgroup namespaces of their own, and of control groups (--manage-cgroups): what is saved of them, who is told what, and what is refused by name.

Arguments select tests by a part of their names. CLI_FERMATA=PATH takes another binary. Runs as root."""
import glob
import os
import shutil
import subprocess
import sys
import time

sys.dont_write_bytecode = True
import world as cli
from world import DEADLINE, Skip, Target, descendants, expect, fermata, read, state_of


def inside(w, *more, body="os.setsid()"):
    """A target that is the first process of a pid namespace; its id out here."""
    if not shutil.which("unshare"):
        raise Skip("needs unshare")
    target = Target(w.work, body, before=["unshare", "--pid", "--fork", *more])
    target.pid = descendants(target.pid)[0]
    return target


def restored(result):
    result.good()
    return int(result.out.rpartition(":")[2])


def save(w, target, name, *more):
    return fermata("dump", "process", target.pid, "--dir", w.work, "--name", name, *more)


def restore(w, target, name, *more):
    cli.reap()
    target.pid = restored(fermata("restore", "process", "--detach", "--path", os.path.join(w.work, name), *more))
    target.wait()


def test_without_proc(w):
    """Nothing is mounted for it: /proc is that of the namespace around it, as before."""
    target = inside(w)
    mounts = read("/proc/self/mountinfo")
    for number in range(2):
        save(w, target, f"a{number}").good()
        expect(cli.is_gone(target.pid), "it is still there")
        restore(w, target, f"a{number}")
        expect(read(f"/proc/{target.pid}/status").split("NSpid:")[1].split("\n")[0].split()[1] == "1", "it is not the first process")
        expect(os.readlink(f"/proc/{target.pid}/ns/mnt") == os.readlink("/proc/self/ns/mnt"), "it is in another mount namespace")
    expect(read("/proc/self/mountinfo") == mounts, "a mount was left behind")


def test_beside(w):
    """Two of one checkpoint: each in its own, where the ids are the same."""
    target = inside(w)
    save(w, target, "a", "--leave-running").good()
    other = restored(fermata("restore", "process", "--detach", "--path", os.path.join(w.work, "a")))
    expect(other != target.pid and state_of(other) in ("S", "R"), f"{other} beside {target.pid}")
    expect(os.readlink(f"/proc/{other}/ns/pid") != os.readlink(f"/proc/{target.pid}/ns/pid"), "they are in one namespace")


def test_stranger(w):
    """Whoever came in otherwise would end with it."""
    target = inside(w)
    stranger = subprocess.Popen(["nsenter", "--pid", "--target", str(target.pid), "sleep", "1000"], stdin=subprocess.DEVNULL)
    stranger.returncode = 0
    end = time.monotonic() + DEADLINE
    while not descendants(stranger.pid):
        expect(time.monotonic() < end, "nobody came in")
        time.sleep(0.01)
    save(w, target, "a").error("(sleep) is in its pid namespace, but not of its tree")
    target.unharmed()
    result = fermata("check", "process", target.pid)
    expect(result.status == 1 and "but not of its tree" in result.out, result)


def test_not_the_first(w):
    target = inside(w, body="os.setsid()\nif os.fork() == 0:\n    os.setsid()\n    time.sleep(1000)")
    target_pid, target.pid = target.pid, descendants(target.pid)[0]
    save(w, target, "a").error("dump the first one")
    expect(state_of(target_pid) in ("S", "R") and state_of(target.pid) == "S", "it was harmed")


def test_leave_stopped(w):
    target = inside(w)
    save(w, target, "a", "--leave-stopped").error("leave --leave-stopped away")
    target.unharmed()


def test_killed(w):
    """SIGKILL at some moment of a dump, and of a restore: it runs on, or nothing of it is there."""
    target = inside(w)
    known = set(descendants(os.getpid()))
    for number in range(8):
        task = subprocess.Popen([cli.BINARY, "dump", "process", str(target.pid), "--dir", w.work, "--name", f"a{number}", "--leave-running"], stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        time.sleep(0.003 * number)
        task.kill()
        task.wait()
        end = time.monotonic() + DEADLINE
        while left := set(descendants(os.getpid())) - known:
            expect(time.monotonic() < end, f"left behind: {left}")
            cli.reap()
            time.sleep(0.005)
        target.unharmed()
        expect(len(read(f"/proc/{target.pid}/task/{target.pid}/children").split()) == 0, "it has a child now that it did not make")
    save(w, target, "whole").good()
    for number in range(8):
        task = subprocess.Popen([cli.BINARY, "restore", "process", "--detach", "--path", os.path.join(w.work, "whole")], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)
        time.sleep(0.004 * number)
        task.kill()
        task.wait()
        end, before = time.monotonic() + DEADLINE, target.ticks()
        while left := descendants(os.getpid()):
            if target.ticks() > before:  # it was there before the signal came
                cli.kill_all()
            expect(time.monotonic() < end, f"left behind: {left}")
            cli.reap()
            time.sleep(0.005)
    restore(w, target, "whole")


# ---- control groups ----

class Groups:
    """Two groups, one below the other, in hierarchies of both versions where there are such."""

    def __init__(self, w):
        self.name = "fermata-test-" + os.path.basename(w.work)
        self.tops = [path for path in ("/sys/fs/cgroup/pids", "/sys/fs/cgroup/unified", "/sys/fs/cgroup") if os.path.exists(path + "/cgroup.procs") and os.access(path, os.W_OK)]
        if not self.tops:
            raise Skip("no control groups that can be made are mounted")
        for top in self.tops:
            os.makedirs(f"{top}/{self.name}/below")
        if self.tops[0].endswith("pids"):
            self.write("pids", "/pids.max", "77")
            self.write("pids", "/below/pids.max", "33")

    def write(self, hierarchy, name, value):
        with open(f"/sys/fs/cgroup/{hierarchy}/{self.name}{name}", "w") as file:
            file.write(value)

    def body(self, namespace=False):
        joins = f"def join(name):\n    for top in {self.tops}:\n        open(f'{{top}}/{self.name}{{name}}/cgroup.procs', 'w').write('0')\njoin('')\n"
        unshare = "import ctypes\nctypes.CDLL(None).unshare(0x2000000)\n" if namespace else ""
        return joins + unshare + "if os.fork() == 0:\n    join('/below')\n    time.sleep(1000)\n"

    def wait_below(self, pid):
        end = time.monotonic() + DEADLINE
        while not all(line.endswith("/below") for line in self.of(pid)):
            expect(time.monotonic() < end, self.of(pid))
            time.sleep(0.005)

    def of(self, pid):
        """What the tree has to do with: lines of /proc/PID/cgroup with the groups' name."""
        return sorted(line.partition(":")[2] for line in read(f"/proc/{pid}/cgroup").splitlines() if self.name in line)

    def remove(self):
        end = time.monotonic() + DEADLINE
        for name in ("/below", ""):
            for top in self.tops:
                while os.path.isdir(f"{top}/{self.name}{name}"):
                    try:
                        os.rmdir(f"{top}/{self.name}{name}")
                    except OSError:
                        if time.monotonic() > end:
                            raise
                        time.sleep(0.01)


def groups_round(w, namespace):
    groups = Groups(w)
    try:
        target = Target(w.work, groups.body(namespace))
        child = descendants(target.pid)[0]
        groups.wait_below(child)
        before = groups.of(target.pid), groups.of(child)
        expect(len(before[0]) == len(groups.tops) and all(line.endswith("/below") for line in before[1]), before)
        save(w, target, "a", "--manage-cgroups").good()
        groups.remove()
        restore(w, target, "a", "--manage-cgroups")
        expect((groups.of(target.pid), groups.of(child)) == before, (groups.of(target.pid), groups.of(child), before))
        if groups.tops[0].endswith("pids"):
            limits = [read(f"/sys/fs/cgroup/pids/{groups.name}{name}/pids.max").strip() for name in ("", "/below")]
            expect(limits == ["77", "33"], limits)
        if namespace:
            within = subprocess.run(["nsenter", "--cgroup", "--target", str(target.pid), "cat", f"/proc/{child}/cgroup"], stdout=subprocess.PIPE).stdout.decode()
            expect(sum(line.endswith(":/below") for line in within.splitlines()) == len(groups.tops), within)
            expect(os.readlink(f"/proc/{target.pid}/ns/cgroup") != os.readlink("/proc/self/ns/cgroup"), "it has no cgroup namespace")
        save(w, target, "b", "--manage-cgroups").good()
        cli.reap()
        fermata("restore", "process", "--detach", "--path", os.path.join(w.work, "b"), "--manage-cgroups=strict").error("there is a control group", "--manage-cgroups=soft")
        restore(w, target, "b", "--manage-cgroups", "--cgroup-root", f"/{groups.name}/below")
        expect(all(f"/{groups.name}/below" in line for line in groups.of(target.pid)), groups.of(target.pid))
    finally:
        cli.kill_all()
        for path in sorted(glob.glob(f"/sys/fs/cgroup/*/{groups.name}/**/", recursive=True), reverse=True):
            if not any(path.startswith(top + "/") for top in groups.tops) or "/below/" in path.rstrip("/"):
                os.rmdir(path)
        groups.remove()


def test_groups(w):
    groups_round(w, False)


def test_groups_namespace(w):
    groups_round(w, True)


def test_groups_needed(w):
    """Without the option what is below the root of a cgroup namespace would be lost."""
    groups = Groups(w)
    try:
        target = Target(w.work, groups.body(namespace=True))
        groups.wait_below(descendants(target.pid)[0])
        save(w, target, "a").error("below that of its cgroup namespace", "--manage-cgroups")
        target.unharmed()
    finally:
        cli.kill_all()
        groups.remove()


TESTS = [("namespaces_" + name[5:], function) for name, function in list(globals().items()) if name.startswith("test_")]

if __name__ == "__main__":
    cli.main(TESTS)
