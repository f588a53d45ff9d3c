#!/usr/bin/env python3
"""POSIX shared memory with a name (/dev/shm): what a checkpoint has of it, and what a restore does with what is there.

Arguments select tests by a part of their names. CLI_FERMATA=PATH takes another binary. Runs as root."""
import os
import signal
import sys

sys.dont_write_bytecode = True
import world as cli
from world import Skip, Target, expect, restore_refused, wait_gone

SIZE = 3 * 4096 + 100


class Shared:
    """A target that counts in shared memory as it does in its file; a child of it reads there only."""

    def __init__(self, w, mode=0o600):
        if not os.access("/dev/shm", os.W_OK):
            raise Skip("no /dev/shm")
        self.path = f"/dev/shm/fermata-test-{os.path.basename(w.work)}"
        self.target = Target(w.work, f"fd = os.open({self.path!r}, os.O_RDWR | os.O_CREAT | os.O_EXCL, {mode})\nos.ftruncate(fd, {SIZE})\n"
                                     f"m = mmap.mmap(fd, {SIZE})\nos.close(fd)\nm[4096:8192] = bytes(range(256)) * 16\nm[-1] = 7\n"
                                     "plain = tick\n"
                                     "def tick():\n"
                                     "    plain()\n"
                                     "    m[0:8] = ticks.to_bytes(8, 'little')\n"
                                     f"r = mmap.mmap(os.open({self.path!r}, os.O_RDONLY), {SIZE}, prot=mmap.PROT_READ)\n")

    def content(self):
        with open(self.path, "rb") as file:
            return file.read()

    def right(self, ticks):
        data = self.content()
        expect(len(data) == SIZE and data[4096:8192] == bytes(range(256)) * 16 and data[-1] == 7 and not any(data[8192:-1]), "other content")
        expect(abs(int.from_bytes(data[:8], "little") - ticks) <= 1, f"it is at {int.from_bytes(data[:8], 'little')}, the file at {ticks}")

    def kill(self):
        os.kill(self.target.pid, signal.SIGKILL)
        wait_gone(self.target.pid)

    def remove(self):
        if os.path.lexists(self.path):
            os.unlink(self.path)


def with_shared(test):
    def run(w):
        shared = Shared(w)
        try:
            test(w, shared)
        finally:
            shared.remove()
    run.__code__ = run.__code__.replace(co_firstlineno=test.__code__.co_firstlineno)
    return run


def saved(w, shared, *options, name="images"):
    """Dumped while it runs, and killed when it has gone on: gives the images."""
    images = w.make_dir(name)
    w.criu("dump", "-t", shared.target.pid, "-D", images, "-R", *options).good()
    before = shared.target.ticks()
    shared.target.wait(before + 20)
    shared.kill()
    return images


def stopped(w, images):
    """Restored, and not let go on: what is there is what the checkpoint has."""
    w.criu("restore", "-d", "-s", "-D", images).good()


def go_on(shared):
    os.kill(shared.target.pid, signal.SIGCONT)
    shared.target.unharmed()
    os.kill(shared.target.pid, signal.SIGSTOP)
    expect(len(shared.content()) == SIZE, "another size")


@with_shared
def test_put_back(w, shared):
    """What it held at the dump, not what the program made of it since."""
    images = saved(w, shared)
    later = int.from_bytes(shared.content()[:8], "little")
    with open(shared.path, "r+b") as file:
        file.truncate(100000)
        file.seek(9000)
        file.write(b"later")
    stopped(w, images)
    now = int.from_bytes(shared.content()[:8], "little")
    expect(now < later - 10, f"{now}, {later} before")
    shared.right(now)
    go_on(shared)


@with_shared
def test_made_again(w, shared):
    """After a reboot there is none: with its owner and mode. Through an archive, too."""
    os.chown(shared.path, 65534, 65533)
    os.chmod(shared.path, 0o640)
    images = saved(w, shared)
    shared.remove()
    stopped(w, images)
    st = os.stat(shared.path)
    expect((st.st_uid, st.st_gid, st.st_mode & 0o7777) == (65534, 65533, 0o640), st)
    shared.right(int.from_bytes(shared.content()[:8], "little"))
    go_on(shared)
    os.kill(shared.target.pid, signal.SIGCONT)
    folder = w.make_dir("folder")
    cli.fermata("dump", "process", shared.target.pid, "--dir", folder, "--name", "one", "--compression", "lz4").good()
    wait_gone(shared.target.pid)
    shared.remove()
    cli.fermata("restore", "process", "--path", os.path.join(folder, "one.tar.lz4"), "--detach").good()
    shared.target.unharmed()


@with_shared
def test_used_by_others(w, shared):
    """It is theirs as well: nothing is put back, and that is said."""
    images = saved(w, shared)
    with open(shared.path, "r+b") as file:
        file.seek(9000)
        file.write(b"later")
        file.flush()
        result = w.criu("restore", "-d", "-s", "-D", images)
    expect(result.status == 0 and f"{shared.path} stays as it is" in result.err, result)
    expect(shared.content()[9000:9005] == b"later", "it was put back")
    go_on(shared)


@with_shared
def test_another_file(w, shared):
    images = saved(w, shared)
    shared.remove()
    os.mkdir(shared.path)
    restore_refused(w, images, shared.path)
    os.rmdir(shared.path)
    with open(shared.path, "w") as file:
        file.write("mine")
    os.chown(shared.path, 65534, 65534)
    restore_refused(w, images, shared.path, "another user's")
    expect(shared.content() == b"mine", "it was written to")
    shared.remove()
    os.symlink(os.path.join(w.work, "victim"), shared.path)
    restore_refused(w, images, shared.path)
    expect(not os.path.exists(os.path.join(w.work, "victim")), "a link was followed")


@with_shared
def test_failed(w, shared):
    """A restore that fails takes away what it made."""
    images = saved(w, shared)
    shared.remove()
    os.unlink(shared.target.path)
    w.criu("restore", "-d", "-D", images).error("ticks")
    expect(not os.path.exists(shared.path), "it is left behind")


@with_shared
def test_for_user(w, shared):
    """Whom a restore is done for reaches nobody else's."""
    images = saved(w, shared)
    before = shared.content()
    cli.fermata("restore", "process", "--path", images, "--detach", "--for-user", "65534").error("belongs to another user (0)")
    expect(shared.content() == before, "it was written to")


SEMAPHORE = """import multiprocessing, multiprocessing.synchronize
context = multiprocessing.get_context("spawn")
lock = context.Semaphore(5)
open("name", "w").write(lock._semlock.name)
lock.acquire()
plain = tick
def tick():
    plain()
    open("left", "w").write(str(lock.get_value()))
"""


def test_semaphore(w):
    """sem_open(3) makes the file under a name that it takes away, when the one that was asked for is there."""
    target = Target(w.work, SEMAPHORE)
    name, images = "/dev/shm/sem." + cli.read(os.path.join(w.work, "name")).lstrip("/"), w.make_dir()
    try:
        expect("(deleted)" in cli.read(f"/proc/{target.pid}/maps"), "the name is the first one")
        w.criu("dump", "-t", target.pid, "-D", images).good()
        wait_gone(target.pid)
        os.unlink(os.path.join(w.work, "left"))
        os.unlink(name)
        w.criu("restore", "-d", "-D", images).good()
        target.unharmed()
        expect(cli.read(os.path.join(w.work, "left")) == "4" and os.path.exists(name), "the semaphore")
    finally:
        if os.path.lexists(name):
            os.unlink(name)


@with_shared
def test_only_read(w, shared):
    """Who only reads it has no part in its content."""
    reader = Target(w.make_dir("reader"), f"r = mmap.mmap(os.open({shared.path!r}, os.O_RDONLY), {SIZE}, prot=mmap.PROT_READ)\n")
    images = w.make_dir()
    w.criu("dump", "-t", reader.pid, "-D", images).good()
    wait_gone(reader.pid)
    expect(not [name for name in os.listdir(images) if "shmem" in name], os.listdir(images))
    shared.kill()
    with open(shared.path, "r+b") as file:
        file.write(b"newer")
    w.criu("restore", "-d", "-D", images).good()
    reader.unharmed()
    expect(shared.content()[:5] == b"newer", "it was put back")


if __name__ == "__main__":
    cli.main(cli.tests_of(globals()))
