#!/usr/bin/env python3
"""Tests of what lies outside the saved tree: --external, --ext-unix-sk and --inherit-fd. A program of the tree talks through a pipe, socket,
terminal or file with this one; it is dumped, restored with other descriptors for these, and must go on. Asked too: that a restore
without them makes nothing and says what to give.

Arguments select tests by a part of their names. CLI_FERMATA=PATH takes another binary. Runs as root."""
import array
import fcntl
import os
import pty
import select
import signal
import socket
import struct
import sys
import termios
import time

sys.dont_write_bytecode = True
import run as cli
from run import DEADLINE, Target, expect, fermata, wait_gone

# What a target does between its ticks: an answer for each line. `take` and `give` are its own.
ECHO = """
import select
def serve():
    poll = select.poll()
    poll.register(source, select.POLLIN)
    while True:
        tick()
        if poll.poll(5):
            line = take()
            give(b"<" + line.strip() + b">\\n")
"""


def dump(w, target, *options, name="images", **more):
    images = w.make_dir(name)
    w.criu("dump", "-t", target.pid, "-D", images, *options, **more).good()
    wait_gone(target.pid)
    return images


def restore(w, images, target, *given):
    """given: (descriptor, key)"""
    options = [word for fd, key in given for word in ("--inherit-fd", f"fd[{fd}]:{key}")]
    w.criu("restore", "-d", "-D", images, *options, pass_fds=[fd for fd, key in given]).good()
    target.wait()


def refused(w, images, target, *words, given=()):
    options = [word for fd, key in given for word in ("--inherit-fd", f"fd[{fd}]:{key}")]
    w.criu("restore", "-d", "-D", images, *options, pass_fds=[fd for fd, key in given]).error(*words)
    expect(cli.state_of(target.pid) in (None, "Z"), "something was restored")


def ino(fd):
    return os.fstat(fd).st_ino


def read_line(fd, wanted):
    """Reads until the line has come."""
    got, end = b"", time.monotonic() + DEADLINE
    while not got.endswith(b"\n"):
        expect(time.monotonic() < end, f"no {wanted}, only {got}")
        if select.select([fd], [], [], 0.1)[0]:
            part = os.read(fd, 1)
            expect(part, f"the end of file instead of {wanted}, after {got}")
            got += part
    expect(got.replace(b"\r", b"") == wanted, f"{got} instead of {wanted}")


def ask(to, source, text):
    os.write(to, text + b"\n")
    read_line(source, b"<" + text + b">\n")


# ---- pipes ----

def pipe_target(w, body="serve()\n"):
    theirs, ours = os.pipe()[0:2], os.pipe()
    question, answer = theirs, ours
    target = Target(w.work, f"source, sink = {question[0]}, {answer[1]}\ntake = lambda: os.read(source, 100)\n"
                            "give = lambda text: os.write(sink, text)\n" + ECHO + body, pass_fds=(question[0], answer[1]))
    keys = ino(question[0]), ino(answer[1])
    os.close(question[0])
    os.close(answer[1])
    return target, question[1], answer[0], keys


def test_pipe(w):
    target, to, source, (inward, outward) = pipe_target(w)
    ask(to, source, b"before")
    folder = w.make_dir("folder")
    fermata("dump", "process", target.pid, "--dir", folder).error(f"pipe:[{inward}]", "outside the tree", f"--external 'pipe[{inward}]'")
    check = fermata("check", "process", target.pid)
    expect(check.status == 1 and check.out.count("outside the tree") == 2, check)
    fermata("check", "process", target.pid, "--external", "pipe[]").good()
    fermata("dump", "process", target.pid, "--dir", folder, "--external", f"pipe[{inward}]").error(f"pipe:[{outward}]")
    target.unharmed()
    fermata("dump", "process", target.pid, "--dir", folder, "--name", "c", "--external", f"pipe[{inward}]", "--external", f"pipe[{outward}]").good()
    wait_gone(target.pid)
    images = os.path.join(folder, "c")
    refused(w, images, target, f"pipe {inward}", "outside the tree", "--inherit-fd")
    new, answers = os.pipe(), os.pipe()
    refused(w, images, target, f"pipe {outward}", "--inherit-fd", given=[(new[0], f"pipe:[{inward}]")])
    restore(w, images, target, (new[0], f"pipe:[{inward}]"), (answers[1], f"pipe[{outward}]"))
    os.close(new[0])
    os.close(answers[1])
    ask(new[1], answers[0], b"after")
    # It is a description of its own: flags here are not flags there.
    fcntl.fcntl(new[1], fcntl.F_SETFL, os.O_NONBLOCK)
    os.kill(target.pid, signal.SIGKILL)
    wait_gone(target.pid)
    expect(os.read(answers[0], 10) == b"", "someone else holds the pipe")


def test_pipe_content(w):
    """What the tree has not read goes along; what it has written does not."""
    target, to, source, (inward, outward) = pipe_target(
        w, "os.write(sink, b'written before\\n')\nwhile not os.path.exists('go'):\n    tick()\n    time.sleep(0.005)\nserve()\n")
    os.write(to, b"not read yet\n")
    images = dump(w, target)
    expect(os.read(source, 100) == b"written before\n", "what was written is gone")
    with open(os.path.join(w.work, "go"), "w"):
        pass
    new, answers, full = os.pipe(), os.pipe(), os.pipe()
    os.write(full[1], b"x")
    refused(w, images, target, "give an empty one", given=[(full[0], f"pipe:[{inward}]"), (answers[1], f"pipe:[{outward}]")])
    null = os.open("/dev/null", os.O_RDWR)
    refused(w, images, target, "is no pipe", given=[(null, f"pipe:[{inward}]"), (answers[1], f"pipe:[{outward}]")])
    restore(w, images, target, (new[0], f"pipe:[{inward}]"), (answers[1], f"pipe:[{outward}]"))
    read_line(answers[0], b"<not read yet>\n")
    ask(new[1], answers[0], b"after")


def test_pipe_same(w):
    """The very pipe, that the caller has kept open: what is in it is there once."""
    r, wr = os.pipe()
    target, to, source, (inward, outward) = pipe_target(w, "while not os.path.exists('go'):\n    tick()\n    time.sleep(0.005)\nserve()\n")
    os.write(to, b"not read yet\n")
    path = f"/proc/{target.pid}/fd/"
    mine = [os.open(path + name, os.O_RDONLY) for name in os.listdir(path) if os.readlink(path + name) == f"pipe:[{inward}]"]
    images = dump(w, target)
    with open(os.path.join(w.work, "go"), "w"):
        pass
    restore(w, images, target, (mine[0], f"pipe:[{inward}]"), (wr, f"pipe:[{outward}]"))
    read_line(r, b"<not read yet>\n")
    ask(to, r, b"after")


def test_pipe_to_file(w):
    """Something else in its place, opened as it has to be."""
    target, to, source, (inward, outward) = pipe_target(w)
    images = dump(w, target)
    new = os.pipe()
    log = os.open(os.path.join(w.work, "log"), os.O_RDWR | os.O_CREAT)
    reading = os.open(os.path.join(w.work, "log"), os.O_RDONLY)
    refused(w, images, target, "open for reading only", given=[(new[0], f"pipe:[{inward}]"), (reading, f"pipe:[{outward}]")])
    restore(w, images, target, (new[0], f"pipe:[{inward}]"), (log, f"pipe:[{outward}]"))
    os.write(new[1], b"to the file\n")
    end = time.monotonic() + DEADLINE
    while cli.read(os.path.join(w.work, "log")) != "<to the file>\n":
        expect(time.monotonic() < end, cli.read(os.path.join(w.work, "log")))
        time.sleep(0.005)


def test_file_by_path(w):
    """As criu's documentation has it: another file for one that is named, with the caller's position."""
    log = os.path.join(w.work, "log")
    target = Target(w.work, f"log = os.open({log!r}, os.O_WRONLY | os.O_CREAT | os.O_APPEND)\n"
                            "while True:\n    tick()\n    os.write(log, b'x')\n    time.sleep(0.005)\n")
    images = dump(w, target)
    before = os.path.getsize(log)
    other = os.open(os.path.join(w.work, "other"), os.O_RDWR | os.O_CREAT)
    os.write(other, b"begin ")
    restore(w, images, target, (other, log.lstrip("/")))
    target.wait()
    expect(os.path.getsize(log) == before, "it writes to the old one")
    expect(cli.read(os.path.join(w.work, "other")).startswith("begin x"), cli.read(os.path.join(w.work, "other")))


def test_file(w):
    """A file that can't be found by its name, named by its numbers: on a file system that was mounted and unmounted lazily."""
    mount = w.make_dir("mount")
    if os.system(f"mount -t tmpfs none {mount}"):
        raise cli.Skip("needs mount")
    try:
        fd = os.open(os.path.join(mount, "file"), os.O_RDWR | os.O_CREAT)
    finally:
        os.system(f"umount -l {mount}")
    os.write(fd, b"content")
    target = Target(w.work, f"file = {fd}\nwhile True:\n    tick()\n    time.sleep(0.005)\n    if os.pread(file, 3, 0) == b'new':\n"
                            "        os.pwrite(file, b'seen', 3)\n", pass_fds=(fd,))
    mnt_id = [line.split()[1] for line in cli.read(f"/proc/{target.pid}/fdinfo/{fd}").splitlines() if line.startswith("mnt_id:")][0]
    folder = w.make_dir("folder")
    fermata("dump", "process", target.pid, "--dir", folder).error(f"descriptor {fd}")
    fermata("dump", "process", target.pid, "--dir", folder, "--name", "decimal", "-R", "--external", f"file[{mnt_id}:{ino(fd)}]").good()
    target.wait()
    key = f"file[{int(mnt_id):x}:{ino(fd):x}]"
    images = dump(w, target, "--external", key)
    refused(w, images, target, key, "--inherit-fd")
    other = os.open(os.path.join(w.work, "other"), os.O_RDWR | os.O_CREAT)
    os.write(other, b"new")
    fermata("restore", "process", "--detach", "--path", images, "--inherit-fd", f"fd[{other}]:{key}", pass_fds=[other]).good()
    end = time.monotonic() + DEADLINE
    while os.pread(other, 7, 0) != b"newseen":
        expect(time.monotonic() < end, os.pread(other, 7, 0))
        time.sleep(0.005)


def test_usage(w):
    target = Target(w.work)
    for bad, words in (("pipe", "type[id]"), ("pipe[1", "type[id]"), ("disk[1]", "no such type"), ("mnt[/x]:y", "needs namespaces"), ("[1]", "type[id]")):
        w.criu("dump", "-t", target.pid, "-D", w.work, "--external", bad).error(f"--external {bad}", words)
    for bad, words in (("3:pipe[1]", "fd[N]:RESOURCE"), ("fd[x]:pipe[1]", "fd[N]"), ("fd[0]", "fd[N]"), ("fd[999]:pipe[1]", "descriptor 999 is not open")):
        w.criu("restore", "-D", w.work, "--inherit-fd", bad).error(f"--inherit-fd {bad}", words)
    target.unharmed()


TESTS = [("external_" + name[5:], function) for name, function in list(globals().items()) if name.startswith("test_")]

if __name__ == "__main__":
    cli.main(TESTS)
