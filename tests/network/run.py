#!/usr/bin/env python3
"""Tests of TCP connections whose other end is outside of the tree, and of the lock that holds their packets back: a peer streams checked
data in both directions all the time, and must not notice more than a pause.

Arguments select tests by a part of their names. NETWORK_FERMATA=PATH takes another binary. Runs as root, on the loopback device; no rule of
nftables is touched but those that this program's own dumps make."""
import glob
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import support  # noqa: E402
from support import ROOT, Failure, Skip, adopt, descendants, expect, is_gone, reap, reporter, verdict  # noqa: E402

report = reporter("network_")

HERE = os.path.dirname(os.path.abspath(__file__))
BINARY = os.environ.get("NETWORK_FERMATA") or os.path.join(ROOT, "build/src/cli/fermata")
STREAM = os.path.join(HERE, "stream.py")
URING = os.path.join(ROOT, "build/tests/network_uring")
DEADLINE = 20
KILLS = 20


def read(path):
    try:
        with open(path, errors="replace") as file:
            return file.read()
    except OSError:
        return ""


def state_of(pid):
    return read(f"/proc/{pid}/stat").rpartition(")")[2].split(" ")[1:2] or [None]


def wait_for(what, condition, seconds=DEADLINE):
    end = time.monotonic() + seconds
    while not condition():
        expect(time.monotonic() < end, f"no {what} within {seconds} s")
        time.sleep(0.01)


def tables():
    """The tables of ours, as nft names them."""
    text = subprocess.run(["nft", "list", "tables", "inet"], capture_output=True, text=True).stdout
    return {word for word in text.split() if word.startswith("fermata-")}


class Stream:
    """A process that streams to another one; `wait`: it takes the connection, and `port` is where."""

    def __init__(self, work, name, *arguments, program=(sys.executable, STREAM)):
        self.report = os.path.join(work, name)
        self.task = subprocess.Popen([*program, self.report, *map(str, arguments)], stdin=subprocess.DEVNULL,
                                     stdout=subprocess.DEVNULL, stderr=open(self.report + ".err", "w"), start_new_session=True, cwd=work)
        self.pid = self.task.pid
        self.task.returncode = 0

    def counts(self):
        """Bytes received, bytes sent."""
        error = read(self.report + ".err")
        expect(not error, f"{os.path.basename(self.report)}: {error}")
        try:
            with open(self.report, "rb") as file:
                return struct.unpack("QQ", file.read(16))
        except (OSError, struct.error):
            return 0, 0

    def goes_on(self, seconds=DEADLINE):
        before = self.counts()
        wait_for(f"data at {os.path.basename(self.report)}", lambda: all(now > then + 100000 for now, then in zip(self.counts(), before)), seconds)


class Test:
    def __init__(self, work):
        self.work, self.before, self.number = work, tables(), 0
        self.criu = os.path.join(work, "criu")
        os.symlink(BINARY, self.criu)

    def pair(self, family="4", inside="client"):
        """One inside the tree that will be saved, one outside."""
        server = Stream(self.work, "server", "serve", family)
        wait_for("port", lambda: read(server.report + ".port"))
        client = Stream(self.work, "client", "connect", family, read(server.report + ".port"))
        self.inside, self.outside = (client, server) if inside == "client" else (server, client)
        self.on()

    def on(self, seconds=DEADLINE):
        self.inside.goes_on(seconds)
        self.outside.goes_on(seconds)

    def images(self):
        self.number += 1
        path = os.path.join(self.work, f"images{self.number}")
        os.mkdir(path)
        return path

    def run(self, *arguments):
        with tempfile.TemporaryFile() as log:
            status = subprocess.run([self.criu, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    timeout=DEADLINE, cwd=self.work).returncode
            log.seek(0)
            return status, log.read().decode(errors="replace")

    def good(self, *arguments):
        status, text = self.run(*arguments)
        expect(status == 0 and "Error" not in text, f"{arguments}: {status}, {text}")
        return text

    def bad(self, words, *arguments):
        status, text = self.run(*arguments)
        expect(status == 1 and words in text and text.count("\n") == 1, f"{arguments}: {status}, {text}")

    def dump(self, *more, images=None):
        images = images or self.images()
        self.good("dump", "-t", self.inside.pid, "-D", images, "--tcp-established", *more)
        if "-R" not in more:
            wait_for("end of the tree", lambda: is_gone(self.inside.pid))
        return images

    def dump_again(self, *more):
        """Where a thread of the kernel has just completed a request, it is to be tried again, which hurts nobody."""
        for tries in range(20):
            try:
                return self.dump(*more)
            except Failure as failure:
                if "try again" not in str(failure) or tries == 19:
                    raise

    def restore(self, images, *more):
        self.good("restore", "-d", "-D", images, "--tcp-established", *more)

    def own_tables(self):
        return tables() - self.before


# ---- tests ----

def through(t, *families):
    for inside in ("client", "server"):
        t.pair(families[0], inside)
        for _ in range(2):
            images = t.dump()
            expect(len(t.own_tables()) == 1, f"tables between dump and restore: {t.own_tables()}")
            time.sleep(1.5)
            t.restore(images)
            expect(not t.own_tables(), f"tables after restore: {t.own_tables()}")
            t.on()
        kill_tree(t)


def test_four(t):
    through(t, "4")


def test_six(t):
    through(t, "6")


def test_mapped(t):
    through(t, "mapped")


def uring(t, flags):
    """Requests of io_uring under way, in a tree that is saved again and again while data comes and goes."""
    server = Stream(t.work, "server", "serve", "4")
    wait_for("port", lambda: read(server.report + ".port"))
    t.inside, t.outside = Stream(t.work, "client", "connect", "4", read(server.report + ".port"), flags, program=(URING,)), server
    if t.inside.task.poll() == 77:
        raise Skip("no io_uring")
    t.on()
    for _ in range(3):
        for _ in range(4):
            t.dump_again("-R")
        t.on()
        images = t.dump_again()
        t.restore(images)
        t.on()
    kill_tree(t)


def test_uring(t):
    uring(t, 0)


def test_uring_deferred(t):
    uring(t, 1 << 12 | 1 << 13)


def test_uring_polled(t):
    uring(t, 1 << 1)


def test_long_pause(t):
    """The peer's retransmissions come further and further apart; upon restore it is told at once."""
    t.pair()
    images = t.dump()
    time.sleep(9)
    t.outside.counts()
    t.restore(images)
    t.on(8)


def test_leave_running(t):
    t.pair()
    for _ in range(5):
        t.dump("-R")
        expect(not t.own_tables(), f"tables after dump: {t.own_tables()}")
        t.on(5)


def test_failed(t):
    """A dump that fails at its end, and a restore that fails at its end."""
    script = os.path.join(t.work, "script")
    with open(script, "w") as file:
        file.write('#!/bin/sh\n[ "$CRTOOLS_SCRIPT_ACTION" != "$BAD" ]\n')
    os.chmod(script, 0o755)
    t.pair()
    os.environ["BAD"] = "post-dump"
    images = t.images()
    status, _ = t.run("dump", "-t", t.inside.pid, "-D", images, "--tcp-established", "--action-script", script)
    expect(status == 1 and not t.own_tables(), f"after a failed dump: {status}, {t.own_tables()}")
    t.on()
    images = t.dump()
    os.environ["BAD"] = "pre-resume"
    for _ in range(2):
        status, _ = t.run("restore", "-d", "-D", images, "--tcp-established", "--action-script", script)
        expect(status == 1 and len(t.own_tables()) == 1, f"after a failed restore: {status}, {t.own_tables()}")
    t.restore(images)
    t.on()
    expect(not t.own_tables(), f"tables: {t.own_tables()}")


def test_killed_dump(t):
    """SIGKILL at some moment: either the tree runs on and nothing is held back, or it was saved."""
    t.pair()
    random.seed(7)
    for _ in range(KILLS):
        images = t.images()
        task = subprocess.Popen([t.criu, "dump", "-t", str(t.inside.pid), "-D", images, "--tcp-established"], stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=t.work)
        time.sleep(random.uniform(0.005, 0.09))
        task.kill()
        task.wait()
        time.sleep(0.1)
        reap()
        if state_of(t.inside.pid)[0] in (None, "Z"):
            expect(os.path.exists(f"{images}/inventory.img"), f"the tree has ended, and there is no checkpoint: {read(t.inside.report + '.err')}")
            t.restore(images)
        wait_for("end of the lock", lambda: not t.own_tables())
        t.on()


def test_killed_restore(t):
    """SIGKILL at some moment: it can be restored again, or it runs."""
    t.pair()
    random.seed(8)
    for _ in range(KILLS):
        images = t.dump()
        task = subprocess.Popen([t.criu, "restore", "-d", "-D", images, "--tcp-established"], stdin=subprocess.DEVNULL,
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=t.work)
        time.sleep(random.uniform(0.005, 0.06))
        task.kill()
        task.wait()
        time.sleep(0.1)
        reap()
        if t.own_tables():
            # What had been made and was not let go yet waits for ever; it is in the way of the next one.
            kill_all(descendants(os.getpid()), but=(t.outside.pid,))
            t.restore(images)
        expect(not t.own_tables(), f"tables: {t.own_tables()}")
        t.on()


def test_killed_waiting(t):
    """The same, of both, with a connection that was not accepted: its client is told of no end."""
    t.pair(inside="server")
    other = Stream(t.work, "other", "connect", "4", read(t.inside.report + ".port"))
    wait_for("connection", lambda: other.counts()[1])
    random.seed(9)
    for _ in range(KILLS // 2):
        images = t.images()
        for action in ("dump", "restore"):
            arguments = ["-t", str(t.inside.pid)] if action == "dump" else ["-d"]
            task = subprocess.Popen([t.criu, action, *arguments, "-D", images, "--tcp-established"], stdin=subprocess.DEVNULL,
                                    stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=t.work)
            time.sleep(random.uniform(0.005, 0.12))
            task.kill()
            task.wait()
            time.sleep(0.1)
            reap()
            if not os.path.exists(f"{images}/inventory.img"):
                break
        if os.path.exists(f"{images}/inventory.img") and t.own_tables():
            kill_all(descendants(os.getpid()), but=(t.outside.pid, other.pid))
            t.restore(images)
        wait_for("end of the lock", lambda: not t.own_tables())
        t.on()
        other.counts()


def test_again(t):
    """Dump and restore, one upon the other."""
    t.pair()
    for _ in range(KILLS):
        t.restore(t.dump())
        t.on()


def test_options(t):
    """Without the option it is refused, on both sides; the methods of the lock."""
    t.pair()
    images = t.images()
    t.bad("--tcp-established", "dump", "-t", t.inside.pid, "-D", images)
    t.on()
    t.bad("is nftables or skip", "dump", "-t", t.inside.pid, "-D", images, "--tcp-established", "--network-lock", "cork")
    status, text = t.run("dump", "-R", "-t", t.inside.pid, "-D", t.images(), "--tcp-established", "--network-lock", "iptables")
    expect(status == 0 and "nftables is used" in text, f"iptables: {status}, {text}")
    t.dump("-R", "--network-lock", "skip")
    t.on()
    t.dump(images=images)
    t.bad("--tcp-established", "restore", "-d", "-D", images)
    expect(len(t.own_tables()) == 1, "the lock has gone")
    t.restore(images)
    t.on()


def test_close(t):
    """--tcp-close, at either side: the peer loses the connection, the program is told that there is none."""
    for side in ("dump", "restore"):
        t.pair()
        images = t.images()
        if side == "dump":
            t.good("dump", "-t", t.inside.pid, "-D", images, "--tcp-close")
        else:
            t.dump(images=images)
        wait_for("end of the tree", lambda: is_gone(t.inside.pid))
        reap()
        t.good("restore", "-d", "-D", images, *(["--tcp-close"] if side == "restore" else []))
        wait_for("end of the connection inside", lambda: "it has ended" in read(t.inside.report + ".err"))
        expect(not t.own_tables(), f"tables: {t.own_tables()}")
        kill_tree(t)


def test_not_accepted(t):
    """A listener with a connection that it has not accepted: saved with all that fits into it, or dropped; the one that was accepted goes on."""
    t.pair(inside="server")
    other = Stream(t.work, "other", "connect", "4", read(t.inside.report + ".port"))
    wait_for("connection", lambda: other.counts()[1])
    for option in ("-R", "--leave-stopped"):
        t.good("dump", "-t", t.inside.pid, "-D", t.images(), "--tcp-established", option)
        if option == "--leave-stopped":
            os.kill(t.inside.pid, signal.SIGCONT)
        t.on()
    for _ in range(2):
        t.restore(t.dump())
        t.on()
        other.counts()  # it was told of no end
    images = t.dump("--skip-in-flight")
    t.restore(images)
    t.on()
    wait_for("end of the other", lambda: read(other.report + ".err"))


def alter(path, offset, value):
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(value)


def test_damaged(t):
    """Images that lie: refused before anything runs, and the connection is not lost by that."""
    t.pair()
    images = t.dump()
    stream, = glob.glob(f"{images}/tcp-stream-*.img")
    os.unlink(f"{images}/fermata.json")
    with open(stream, "rb") as file:
        whole = file.read()
    size, = struct.unpack_from("<I", whole, 8)

    def field(number, value):
        """The message with one more value of a field, which counts."""
        def varint(n):
            out = b""
            while n > 127:
                out, n = out + bytes((n & 127 | 128,)), n >> 7
            return out + bytes((n,))
        message = whole[12:12 + size] + varint(number << 3) + varint(value)
        return whole[:8] + struct.pack("<I", len(message)) + message + whole[12 + size:]

    lies = {"a queue that is longer": field(1, 1 << 29), "one that can't be": field(3, 0xffffffff), "a window scale": field(6, 15),
            "a size of segments": field(7, 3), "more unsent than there is": field(12, 1 << 28), "a window": field(14, 0xfffffff0),
            "half a file": whole[:12 + size // 2], "nothing": b""}
    for name, content in lies.items():
        with open(stream, "wb") as file:
            file.write(content)
        status, text = t.run("restore", "-d", "-D", images, "--tcp-established")
        expect(status == 1 and "Error" in text and text.count("\n") == 1, f"{name}: {status}, {text}")
        expect(state_of(t.inside.pid)[0] is None, f"{name}: there is a process")
    with open(stream, "wb") as file:
        file.write(whole)
    t.restore(images)
    t.on()


def test_damaged_waiting(t):
    """The same, of connections that were not accepted."""
    t.pair(inside="server")
    other = Stream(t.work, "other", "connect", "4", read(t.inside.report + ".port"))
    wait_for("connection", lambda: other.counts()[1])
    images = t.dump()
    waiting, = glob.glob(f"{images}/tcp-waiting-*.img")
    os.unlink(f"{images}/fermata.json")
    with open(waiting, "rb") as file:
        whole = file.read()
    size, = struct.unpack_from("<I", whole, 8)
    # The last of a field counts: port, length, options, window scale, size of segments.
    for tail in (b"\x20\x01", b"\x48\xff\xff\xff\x7f", b"\x50\x10", b"\x58\x0f", b"\x68\x03", b"\x08\x05", b"\x12\x01x"):
        message = whole[12:12 + size] + tail
        with open(waiting, "wb") as file:
            file.write(whole[:8] + struct.pack("<I", len(message)) + message + whole[12 + size:])
        status, text = t.run("restore", "-d", "-D", images, "--tcp-established")
        expect(status == 1 and "damaged" in text and text.count("\n") == 1, f"{tail}: {status}, {text}")
        expect(state_of(t.inside.pid)[0] is None, f"{tail}: there is a process")
    with open(waiting, "wb") as file:
        file.write(whole)
    t.bad("not accepted", "restore", "-d", "-D", images)
    t.restore(images)
    t.on()
    other.counts()


def kill_all(pids, but=()):
    for pid in pids:
        if pid not in but:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            wait_for("end", lambda: is_gone(pid))
    reap()


def kill_tree(t):
    kill_all((t.inside.pid, t.outside.pid))
    for path in glob.glob(f"{t.work}/client*") + glob.glob(f"{t.work}/server*"):
        os.unlink(path)


# ---- running them ----

def clean_up(before):
    support.kill_all(DEADLINE)
    for table in tables() - before:
        subprocess.run(["nft", "delete", "table", "inet", table], stderr=subprocess.DEVNULL)


def one(name, test):
    work, before = tempfile.mkdtemp(prefix="fermata-network-"), tables()
    os.environ.pop("BAD", None)
    try:
        test(Test(work))
        report("passed", name)
    except Skip as skip:
        report("skipped", name, str(skip))
    except (Failure, OSError, ValueError, subprocess.TimeoutExpired) as failure:
        report("failed", name, str(failure))
    finally:
        clean_up(before)
        shutil.rmtree(work, ignore_errors=True)


def main():
    adopt()
    for name, test in list(globals().items()):
        if name.startswith("test_") and (len(sys.argv) < 2 or any(word in name for word in sys.argv[1:])):
            if os.geteuid() or not shutil.which("nft"):
                report("skipped", name[5:], "needs root, and nft")
            else:
                one(name[5:], test)
    return verdict()


if __name__ == "__main__":
    sys.exit(main())
