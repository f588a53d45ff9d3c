#!/usr/bin/env python3
"""Tests of jobs that one is attached to.

Arguments select tests by a part of their names. Runs as root."""
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
        import fcntl
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
