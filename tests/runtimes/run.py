#!/usr/bin/env python3
"""Tests of container runtimes that call the program as criu, over RPC: runc with a container of its own root directory, in all the namespaces that it makes or without some. It is saved, ended,
restored, several times; what runs in it must go on, with the names, ids and mounts that it had, and outside nothing may be left behind.

Arguments select tests by a part of their names. RUNTIMES_CRIU=PATH takes another binary. Runs as root, and where there is runc."""
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

sys.dont_write_bytecode = True
sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), ".."))
import support
from support import Failure, Skip, expect, is_gone, read

DEADLINE = 20
BINARY = os.environ.get("RUNTIMES_CRIU") or os.path.join(support.ROOT, "build/src/cli/fermata")
COUNTER = os.path.join(support.ROOT, "build/tests/counter")
report = support.reporter("runtimes_")


class Container:
    def __init__(self, work, leave_out=(), more=()):
        self.work, self.name = work, "fermata-" + os.path.basename(work)
        self.root, self.state, self.criu = (os.path.join(work, name) for name in ("rootfs", "state", "criu"))
        for name in ("proc", "sys", "dev", "tmp", "bin", *more):
            os.makedirs(os.path.join(self.root, name))
        shutil.copy(COUNTER, os.path.join(self.root, "bin/counter"))
        os.symlink(BINARY, self.criu)
        self.runc("spec", "--bundle", work)
        with open(os.path.join(work, "config.json")) as file:
            config = json.load(file)
        config["process"].update(terminal=False, args=["/bin/counter"])
        config["root"]["readonly"] = False
        config["hostname"] = "inside"
        config["mounts"].append({"destination": "/tmp", "type": "tmpfs", "source": "tmpfs"})
        config["linux"]["namespaces"] = [n for n in config["linux"]["namespaces"] if n["type"] not in leave_out]
        self.config = config
        self.write()

    def write(self):
        with open(os.path.join(self.work, "config.json"), "w") as file:
            json.dump(self.config, file)

    def runc(self, *words):
        with tempfile.TemporaryFile() as out:
            try:
                status = subprocess.run(["runc", "--root", self.state, "--criu", self.criu, *words], cwd=self.work, stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                        timeout=DEADLINE).returncode
            except subprocess.TimeoutExpired:
                status = "deadline"
            out.seek(0)
            text = out.read().decode(errors="replace")
        if status != 0:
            logs = "".join(read(path) for path in (self.images("dump.log"), self.images("restore.log")) if os.path.exists(path))
            raise Failure(f"runc {words[0]} ended with {status}: {text} {logs[-2000:]}")
        return text

    def images(self, name=""):
        return os.path.join(self.work, "images", name).rstrip("/")

    def pid(self):
        return json.loads(self.runc("state", self.name))["pid"]

    def start(self):
        self.runc("run", "-d", "--bundle", self.work, self.name)
        self.goes_on(0)

    def save(self, *more):
        shutil.rmtree(self.images(), ignore_errors=True)
        self.runc("checkpoint", "--image-path", self.images(), "--work-path", self.images(), *more, self.name)

    def restore(self):
        self.runc("restore", "-d", "--image-path", self.images(), "--work-path", self.images(), "--bundle", self.work, self.name)

    def counts(self):
        try:
            return read(os.path.join(self.root, "counts")).splitlines()
        except OSError:
            return []

    def goes_on(self, since):
        """No count is left out or counted twice, and what stands beside them is ever the same."""
        end = time.monotonic() + DEADLINE
        while len(self.counts()) < since + 3:
            if time.monotonic() > end:
                raise Failure(f"it does not go on: {self.counts()[-2:]}")
            time.sleep(0.01)
        lines = self.counts()
        expect(all(line == f"{i} 1 0 inside" for i, line in enumerate(lines)), lines[-5:])
        child = read(f"/proc/{self.pid()}/root/tmp/counts").splitlines()
        expect(len(child) and all(line.split()[0] == str(i) and line.split()[2:] == ["1", "inside"] for i, line in enumerate(child)), child[-5:])
        return len(lines)

    def end(self):
        for words in (("kill", self.name, "KILL"), ("delete", "--force", self.name)):
            try:
                self.runc(*words)
            except Failure:
                pass


def rounds(c):
    """Saved while it runs on, then ended by it, and restored, twice."""
    c.start()
    first = c.pid()
    for number in range(2):
        c.save("--leave-running")
        before = c.goes_on(len(c.counts()))
        c.save()
        if number == 0:
            expect(is_gone(first), "it is still there")
        stood = c.counts()
        time.sleep(0.1)
        expect(c.counts() == stood and len(stood) >= before, "it goes on behind its end")
        c.restore()
        c.goes_on(len(stood))


def test_plain(w):
    """Without a network or a cgroup namespace, as the host is what it shares."""
    rounds(w.container(leave_out=("network", "cgroup")))


def test_all_namespaces(w):
    rounds(w.container())


def test_limits(w):
    """Its control groups are runc's, which sets them up before a restore."""
    c = w.container()
    c.config["linux"].setdefault("resources", {})["pids"] = {"limit": 77}
    c.write()
    rounds(c)
    line = next(line for line in read(f"/proc/{c.pid()}/cgroup").splitlines() if line.startswith("0::") or ":pids:" in line)
    expect(line.endswith(c.name), line)


def test_bind_mount(w):
    """A directory of the host's, which the runtime names as a mount from outside."""
    c = w.container(more=("shared",))
    outside = os.path.join(w.work, "outside")
    os.mkdir(outside)
    c.config["mounts"].append({"destination": "/shared", "type": "bind", "source": outside, "options": ["bind", "rw"]})
    c.write()
    rounds(c)
    with open(os.path.join(outside, "seen"), "w") as file:
        file.write("x")
    expect(os.path.exists(f"/proc/{c.pid()}/root/shared/seen"), "the directory is not mounted")


class World:
    def __init__(self, work):
        self.work, self.made = work, None

    def container(self, **how):
        self.made = Container(self.work, **how)
        return self.made


TESTS = [(name[5:], function) for name, function in list(globals().items()) if name.startswith("test_")]


def run(name, function):
    work = tempfile.mkdtemp(prefix="fermata-runtimes-")
    world = World(work)
    try:
        function(world)
        report("passed", name)
    except Skip as skip:
        report("skipped", name, str(skip))
    except (Failure, OSError) as failure:
        report("failed", name, str(failure))
    finally:
        if world.made:
            world.made.end()
        shutil.rmtree(work, ignore_errors=True)


def main():
    support.adopt()
    for name, function in TESTS:
        if sys.argv[1:] and not any(word in "runtimes_" + name for word in sys.argv[1:]):
            continue
        if os.geteuid() != 0 or not shutil.which("runc"):
            report("skipped", name, "needs root" if os.geteuid() != 0 else "needs runc")
        else:
            run(name, function)
    sys.exit(support.verdict())


if __name__ == "__main__":
    main()
