#!/usr/bin/env python3
"""Tests of jobs that one is attached to.

Arguments select tests by a part of their names. Runs as root."""
import fcntl
import os
import pty
import select
import signal
import struct
import subprocess
import termios
import time

from world import BINARY, COUNT, DEADLINE, alive, expect, main, tests_of, until


def test_attach(w):
    w.start()
    pid = w.run("echo", "sh", "-c", "echo started; while read line; do echo got $line; stty size; done; exit 9", options=["--attachable"])
    expect(os.isatty(os.open(f"/proc/{pid}/fd/0", os.O_RDWR | os.O_NOCTTY)), "an attachable job has a terminal")
    w.fermata("attach", 1).error("no job of this daemon")
    child, terminal = pty.fork()
    if child == 0:
        os.execv(BINARY, [BINARY, "job", "attach", "echo", "--config-dir", w.work])

    heard = bytearray()

    def hear(word):
        end = time.monotonic() + DEADLINE
        while word not in heard:
            expect(time.monotonic() < end, f"no {word} in {bytes(heard)}")
            if select.select([terminal], [], [], 0.1)[0]:
                heard.extend(os.read(terminal, 4096))

    def resize(rows, columns):
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", rows, columns, 0, 0))

    time.sleep(0.3)
    resize(33, 77)
    time.sleep(0.3)
    os.write(terminal, b"one\r")
    hear(b"got one")
    hear(b"33 77")
    resize(20, 50)
    time.sleep(0.3)
    os.write(terminal, b"two\r")
    hear(b"20 50")
    os.write(terminal, b"\x03")
    expect(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) == 0, "Ctrl-C leaves it")
    os.close(terminal)
    expect(alive(pid), "and it runs on")
    path = w.dump("echo")
    expect(not alive(pid), path)
    w.fermata("restore", "job", "echo").good()
    expect(os.isatty(os.open(f"/proc/{pid}/fd/0", os.O_RDWR | os.O_NOCTTY)), "restored on a terminal of its own")
    result = w.fermata("attach", pid, stdin=b"three\n\x04")
    expect("got three" in result.out and result.status == 9, result)
    log = w.fermata("job", "logs", "echo").good().out
    expect(all(word in log for word in ("started", "got one", "got two", "got three")), log)
    w.fermata("job", "attach", "echo").error("has ended")
    w.run("plain")
    w.fermata("job", "attach", "plain").error("--attachable", "job logs")


class Terminal:
    """A command on a terminal of 30 lines and 90 columns."""

    def __init__(self, w, *arguments):
        at = arguments.index("--") if "--" in arguments else len(arguments)
        self.child, self.fd = pty.fork()
        if self.child == 0:
            size = struct.pack("HHHH", 30, 90, 0, 0)
            fcntl.ioctl(0, termios.TIOCSWINSZ, size)
            os.execv(BINARY, [BINARY, *arguments[:at], "--config-dir", w.work, *arguments[at:]])
        self.heard = b""

    def hear(self, word):
        end = time.monotonic() + DEADLINE
        while word not in self.heard:
            expect(time.monotonic() < end, f"no {word} in {self.heard}")
            if select.select([self.fd], [], [], 0.1)[0]:
                try:
                    self.heard += os.read(self.fd, 4096)
                except OSError:
                    expect(False, f"no {word} in {self.heard} before its end")

    def type(self, text):
        os.write(self.fd, text)

    def status(self):
        status = os.waitstatus_to_exitcode(os.waitpid(self.child, 0)[1])
        os.close(self.fd)
        return status


def test_run_and_restore_attached(w):
    """run --attach and restore --attach on a terminal: its size from the start, Ctrl-C leaves the job to run on, its status is ours, our terminal is as it was."""
    w.start()
    script = "stty size; while read line; do echo got $line; done; exit 9"
    first = Terminal(w, "run", "process", "--jid", "talk", "--attach", "--", "sh", "-c", script)
    first.hear(b"30 90")
    first.type(b"one\r")
    first.hear(b"got one")
    before = termios.tcgetattr(first.fd)
    expect(not before[3] & termios.ICANON, "keys go through as they are typed")
    first.type(b"\x03")
    first.hear(b"etached")
    expect(termios.tcgetattr(first.fd)[3] & termios.ICANON and first.status() == 0, first.heard)
    pid = w.job("talk")["pid"]
    expect(alive(pid), "it runs on")
    for number in (1, 2):
        w.dump("talk")
        again = Terminal(w, "restore", "job", "talk", "--attach")
        again.hear(b"Restored successfully, PID: %d" % pid)
        again.type(b"round%d\r" % number)
        again.hear(b"got round%d" % number)
        again.type(b"\x03" if number == 1 else b"\x04")
        expect(again.status() == (0 if number == 1 else 9), again.heard)
    expect(w.job("talk")["exit_code"] == 9, w.job("talk"))
    # Beside another, and without a terminal of ours.
    w.run("other", "sh", "-c", script, options=["--attachable"])
    w.dump("other")
    result = w.fermata("restore", "job", "other", "--as", "beside", "--attach", stdin=b"word\n\x04")
    expect("got word" in result.out and result.status == 9, result)


def test_window_closed(w):
    """A terminal that is closed leaves the job to run on, as Ctrl-C does: its end is no end of the job's input."""
    w.start()
    pid = w.run("talk", "sh", "-c", "while read line; do echo got $line; done; exit 9", options=["--attachable"])
    for word in (b"one", b"two"):
        window = Terminal(w, "job", "attach", "talk")
        window.type(word + b"\r")
        window.hear(b"got " + word)
        os.close(window.fd)
        expect(os.waitstatus_to_exitcode(os.waitpid(window.child, 0)[1]) == 0, "it leaves")
    time.sleep(0.3)
    expect(alive(pid) and w.status("talk") == "sleep", w.job("talk"))


def test_attach_survives(w):
    """The daemon's end cuts those who are attached, and nothing else."""
    w.start()
    pid = w.run("tick", *COUNT, options=["--attachable"])
    client = subprocess.Popen([BINARY, "job", "attach", "tick", "--config-dir", w.work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    client.stdout.read(4)
    w.kill()
    out, err = client.communicate(timeout=DEADLINE)
    expect(client.returncode == 1 and b"runs on" in err, err)
    expect(alive(pid), "the job runs")
    w.start()
    until(lambda: w.status("tick") in ("sleep", "running", "disk"), "to be found again")
    client = subprocess.Popen([BINARY, "job", "attach", "tick", "--config-dir", w.work], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    expect(client.stdout.read(4), "attached again")
    client.send_signal(signal.SIGINT)
    out, err = client.communicate(timeout=DEADLINE)
    expect(client.returncode == 0 and b"Detached" in err and alive(pid), err)


main(tests_of(globals()))
