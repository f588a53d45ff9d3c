#!/usr/bin/env python3
"""Tests of what lies outside the saved tree: --external, --ext-unix-sk and --inherit-fd. A program of the tree talks through a pipe, socket,
terminal or file with this one; it is dumped, restored with other descriptors for these, and must go on. Asked too: that a restore
without them makes nothing and says what to give.

Arguments select tests by a part of their names. CLI_FERMATA=PATH takes another binary. Runs as root."""
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
import world as cli
from world import DEADLINE, Target, expect, fermata, wait_gone

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
    fermata("dump", "process", target.pid, "--dir", folder).error(f"pipe:[{inward}]", "outside the tree", "redirect it to a file", f"--external 'pipe[{inward}]'")
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


# ---- unix sockets ----

def socket_target(w, kind, theirs, body="serve()\n"):
    return Target(w.work, f"link = socket.socket(fileno={theirs.fileno()})\nsource = link.fileno()\n"
                          "take = lambda: link.recv(100)\ngive = lambda text: link.send(text)\n" + ECHO + body, pass_fds=(theirs.fileno(),))


def ask_socket(sock, text):
    sock.settimeout(DEADLINE)
    sock.send(text + b"\n")
    got = sock.recv(100)
    expect(got == b"<" + text + b">\n", got)


WAIT = "while not os.path.exists('go'):\n    tick()\n    time.sleep(0.005)\nserve()\n"


def test_socket_pair(w):
    for name, kind in (("stream", socket.SOCK_STREAM), ("seqpacket", socket.SOCK_SEQPACKET), ("datagram", socket.SOCK_DGRAM)):
        mine, theirs = socket.socketpair(socket.AF_UNIX, kind)
        target = socket_target(w, kind, theirs)
        number, peer = ino(theirs.fileno()), ino(mine.fileno())
        theirs.close()
        ask_socket(mine, b"before")
        folder = w.make_dir("folder " + name)
        fermata("dump", "process", target.pid, "--dir", folder).error(f"inode {number}", f"inode {peer}", "from one side", f"--external 'unix[{number}]'")
        if kind != socket.SOCK_DGRAM:  # a permission for all is for those that can be had again by name
            w.criu("dump", "-t", target.pid, "-D", folder, "--ext-unix-sk").error("from one side")
        ask_socket(mine, b"between")
        options = {"stream": ["--external", f"unix[{number}]"], "seqpacket": ["--external", f"unix[{peer}]"], "datagram": ["-x"]}[name]
        images = dump(w, target, *options, name="images " + name)
        refused(w, images, target, f"unix socket {number}", "from one side", f"fd[N]:socket[{number}]")
        other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM if kind == socket.SOCK_STREAM else socket.SOCK_STREAM)
        refused(w, images, target, "no unix socket of the same type", given=[(other[0].fileno(), f"socket:[{number}]")])
        new, given = socket.socketpair(socket.AF_UNIX, kind)
        restore(w, images, target, (given.fileno(), f"socket[{peer if name == 'seqpacket' else number}]"))
        given.close()
        ask_socket(new, b"after")
        os.kill(target.pid, signal.SIGKILL)
        wait_gone(target.pid)


def test_socket_unread(w):
    """What was not read can't be put into another socket; the same one, kept open, has it."""
    mine, theirs = socket.socketpair()
    target = socket_target(w, socket.SOCK_STREAM, theirs, WAIT)
    number = ino(theirs.fileno())
    mine.send(b"not read\n")
    images = dump(w, target, f"-x{number}")
    other = socket.socketpair()
    refused(w, images, target, "has data that the tree has not read", "kept open", given=[(other[0].fileno(), f"socket:[{number}]")])
    with open(os.path.join(w.work, "go"), "w"):
        pass
    restore(w, images, target, (theirs.fileno(), f"socket:[{number}]"))
    mine.settimeout(DEADLINE)
    expect(mine.recv(100) == b"<not read>\n", "it is not there, or twice")


def test_socket_named(w):
    """A datagram client of a server outside finds it by its name again; unless it is another's by now."""
    for name in (os.path.join(w.work, "server"), f"\0fermata-cli-{os.getpid()}"):
        server = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        server.bind(name)
        server.settimeout(DEADLINE)
        target = Target(w.work, f"link = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)\nlink.connect({name!r})\n"
                                "while True:\n    tick()\n    link.send(ticks.to_bytes(8, 'little'))\n    time.sleep(0.005)\n")
        last = int.from_bytes(server.recv(100), "little")
        if name[0] == "/":
            os.rename(name, name + "-moved")
            w.criu("dump", "-t", target.pid, "-D", w.make_dir("none")).error("from one side")
            os.rename(name + "-moved", name)
        images = dump(w, target, name="images" + str(len(name)))
        server.setblocking(False)
        try:
            while True:
                last = int.from_bytes(server.recv(100), "little")
        except BlockingIOError:
            pass
        server.settimeout(DEADLINE)
        restore(w, images, target)
        first = int.from_bytes(server.recv(100), "little")
        expect(first in (last, last + 1), f"after {last} comes {first}")
        os.kill(target.pid, signal.SIGKILL)
        wait_gone(target.pid)
        server.close()


def test_socket_not_accepted(w):
    """A client outside that a listener has not accepted is dropped where the user permits it; those of the tree stay."""
    path = os.path.join(w.work, "listener")
    target = Target(w.work, f"listener = socket.socket(socket.AF_UNIX)\nlistener.bind({path!r})\nlistener.listen(5)\n"
                            "while not os.path.exists('client'):\n    tick()\n    time.sleep(0.005)\n"
                            f"own = socket.socket(socket.AF_UNIX)\nown.connect({path!r})\nopen('there', 'w').close()\n"
                            "while not os.path.exists('go'):\n    tick()\n    time.sleep(0.005)\n"
                            "link, _ = listener.accept()\nlink.send(b'x')\nown.settimeout(5)\n"
                            "if own.recv(1) == b'x':\n    link, _ = listener.accept()\n    source = link.fileno()\n"
                            "    take = lambda: link.recv(100)\n    give = lambda text: link.send(text)\n"
                            + ECHO.replace("\n", "\n    ") + "serve()\n")
    outside = socket.socket(socket.AF_UNIX)
    outside.connect(path)
    with open(os.path.join(w.work, "client"), "w"):
        pass
    end = time.monotonic() + DEADLINE
    while not os.path.exists(os.path.join(w.work, "there")):
        expect(time.monotonic() < end, "the target does not connect")
        time.sleep(0.005)
    w.criu("dump", "-t", target.pid, "-D", w.work).error("not accepted yet", "outside the tree", "--skip-in-flight")
    outside.send(b"data")
    target.unharmed()
    outside.close()
    w.criu("dump", "-t", target.pid, "-D", w.make_dir("gone"), "-R").good()  # what it sent is read from the kernel
    target.unharmed()
    os.kill(target.pid, signal.SIGKILL)
    wait_gone(target.pid)
    for name in ("listener", "client", "there"):
        os.unlink(os.path.join(w.work, name))
    target = Target(w.work, target.body)
    outside = socket.socket(socket.AF_UNIX)
    outside.connect(path)
    with open(os.path.join(w.work, "client"), "w"):
        pass
    end = time.monotonic() + DEADLINE
    while not os.path.exists(os.path.join(w.work, "there")):
        expect(time.monotonic() < end, "the target does not connect")
        time.sleep(0.005)
    images = dump(w, target, "--skip-in-flight")
    restore(w, images, target)
    with open(os.path.join(w.work, "go"), "w"):
        pass
    outside.settimeout(DEADLINE)
    try:
        expect(outside.recv(1) == b"", "the dropped client is answered")
    except ConnectionResetError:
        pass
    again = socket.socket(socket.AF_UNIX)
    again.connect(path)
    ask_socket(again, b"after")


def test_socket_waits_outside(w):
    """A client whose connection someone outside has not accepted yet."""
    path = os.path.join(w.work, "listener")
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen(5)
    target = Target(w.work, f"link = socket.socket(socket.AF_UNIX)\nlink.connect({path!r})\nsource = link.fileno()\n"
                            "take = lambda: link.recv(100)\ngive = lambda text: link.send(text)\n" + ECHO + "serve()\n")
    w.criu("dump", "-t", target.pid, "-D", w.work).error("from one side")
    link, _ = listener.accept()
    ask_socket(link, b"before")
    number = [line.split("[")[1].rstrip("]") for line in (os.readlink(f"/proc/{target.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{target.pid}/fd"))
              if line.startswith("socket:")][0]
    images = dump(w, target, "--external", f"unix[{number}]")
    again = socket.socket(socket.AF_UNIX)
    again.connect(path)
    restore(w, images, target, (again.fileno(), f"socket:[{number}]"))
    again.close()
    link, _ = listener.accept()
    ask_socket(link, b"after")


def test_socket_internet(w):
    """Any socket can be given; here one that listens, on another port."""
    target = Target(w.work, "listener = socket.create_server(('127.0.0.1', 0))\nlistener.setblocking(False)\n"
                            "while True:\n    tick()\n    time.sleep(0.005)\n    try:\n        link, _ = listener.accept()\n"
                            "        link.send(b'hello')\n        link.close()\n    except BlockingIOError:\n        pass\n")
    number = [os.readlink(f"/proc/{target.pid}/fd/{fd}") for fd in os.listdir(f"/proc/{target.pid}/fd")]
    number = [line for line in number if line.startswith("socket:")][0]
    images = dump(w, target)
    given = socket.create_server(("127.0.0.1", 0))
    restore(w, images, target, (given.fileno(), number))
    port = given.getsockname()[1]
    given.setblocking(False)
    given.close()
    client = socket.create_connection(("127.0.0.1", port), timeout=DEADLINE)
    expect(client.recv(10) == b"hello", "nobody answers")


def test_socket_urgent(w):
    mine, theirs = socket.socketpair()
    target = socket_target(w, socket.SOCK_STREAM, theirs, WAIT)
    try:
        mine.send(b"x", socket.MSG_OOB)
    except OSError:
        raise cli.Skip("needs CONFIG_AF_UNIX_OOB")
    w.criu("dump", "-t", target.pid, "-D", w.work, f"-x{ino(theirs.fileno())}").error("urgent data (MSG_OOB)")
    target.unharmed()
    expect(theirs.recv(1, socket.MSG_OOB) == b"x", "it is gone")


# ---- terminals ----

def open_pty(rows=24):
    master, slave = pty.openpty()
    settings = termios.tcgetattr(slave)
    settings[3] &= ~termios.ECHO
    termios.tcsetattr(slave, termios.TCSANOW, settings)
    fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("4H", rows, 80, 0, 0))
    st = os.fstat(slave)
    return master, slave, f"tty[{st.st_rdev:x}:{st.st_dev:x}]"


TERMINAL = """
import fcntl, signal, termios
sizes = interrupts = 0
def resized(*_):
    global sizes
    sizes += 1
def interrupted(*_):
    global interrupts
    interrupts += 1
signal.signal(signal.SIGWINCH, resized)
signal.signal(signal.SIGINT, interrupted)
"""
ON_TERMINAL = """
def take():
    line = os.read(source, 100)
    return b"sizes %d interrupts %d" % (sizes, interrupts) if line == b"?\\n" else line
give = lambda text: os.write(source, text)
"""


def test_terminal(w):
    master, slave, key = open_pty()
    target = Target(w.work, TERMINAL + f"source = os.open(os.ttyname({slave}), os.O_RDWR | os.O_NOCTTY)\nos.close({slave})\n"
                    "s = termios.tcgetattr(source)\ns[6][termios.VINTR] = 7\ntermios.tcsetattr(source, termios.TCSANOW, s)\n"
                    + ON_TERMINAL + ECHO + "serve()\n", pass_fds=(slave,))
    ask(master, master, b"before")
    folder = w.make_dir("folder")
    fermata("dump", "process", target.pid, "--dir", folder).error("belongs to someone outside", "--external 'tty[")
    images = dump(w, target, "--external", key)
    refused(w, images, target, f"--inherit-fd 'fd[N]:{key}'")
    null = os.open("/dev/null", os.O_RDWR)
    refused(w, images, target, "is no terminal", given=[(null, key)])
    new_master, new, _ = open_pty(rows=33)
    restore(w, images, target, (new, key))
    os.close(new)
    ask(new_master, new_master, b"after")
    os.write(new_master, b"?\n")
    read_line(new_master, b"<sizes 1 interrupts 0>\n")
    expect(termios.tcgetattr(new_master)[6][termios.VINTR] == b"\x07", "its settings are not there")
    os.kill(target.pid, signal.SIGKILL)
    wait_gone(target.pid)
    expect(select.select([new_master], [], [], DEADLINE)[0], "someone else has the terminal")


def test_terminal_session(w):
    """The controlling terminal of the tree's session, with and without a descriptor for it; /dev/tty too."""
    for name, setup, source in (("open", "", "source = tty\n"), ("current", "os.close(tty)\n", "source = os.open('/dev/tty', os.O_RDWR)\n"),
                                ("neither", "os.close(tty)\n", "source = os.pipe()[0]\n")):
        master, slave, key = open_pty()
        target = Target(w.work, TERMINAL + f"tty = os.open(os.ttyname({slave}), os.O_RDWR | os.O_NOCTTY)\nos.close({slave})\n"
                        "fcntl.ioctl(tty, termios.TIOCSCTTY, 0)\n" + (source if name == "current" else "") + setup
                        + (source if name != "current" else "")
                        + ON_TERMINAL + ECHO + "serve()\n", pass_fds=(slave,))
        os.close(slave)
        if name != "neither":
            ask(master, master, b"before")
        w.criu("dump", "-t", target.pid, "-D", w.make_dir("refused " + name)).error("belongs to someone outside")
        images = dump(w, target, "--external", key, name="images " + name)
        refused(w, images, target, "--inherit-fd 'fd[N]:tty[")
        new_master, new, _ = open_pty()
        other = Target(w.work, f"import fcntl, termios\nfcntl.ioctl({new}, termios.TIOCSCTTY, 0)\n", pass_fds=(new,))
        refused(w, images, target, "no session's", given=[(new, key)])
        other.unharmed()
        os.kill(other.pid, signal.SIGKILL)
        wait_gone(other.pid)
        os.close(new_master)
        os.close(new)
        new_master, new, _ = open_pty()
        restore(w, images, target, (new, key))
        stat = cli.read(f"/proc/{target.pid}/stat").rpartition(")")[2].split()
        rdev = os.fstat(new).st_rdev
        expect(int(stat[4]) == rdev and int(stat[5]) == target.pid, f"terminal {stat[4]}, not {rdev}; foreground {stat[5]}")
        os.write(new_master, b"\x03")  # interrupts the foreground group
        if name != "neither":
            ask(new_master, new_master, b"after")
            os.write(new_master, b"?\n")
            read_line(new_master, b"<sizes 0 interrupts 1>\n")
        else:
            target.unharmed()
        os.kill(target.pid, signal.SIGKILL)
        wait_gone(target.pid)
        os.close(master)
        os.close(new_master)
        os.close(new)


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


def test_fifo(w):
    """A named one with its other end outside goes on by itself; what is in it is there once."""
    path = os.path.join(w.work, "fifo")
    os.mkfifo(path)
    mine = os.open(path, os.O_RDWR | os.O_NONBLOCK)
    for reads in (True, False):
        target = Target(w.work, f"fifo = os.open({path!r}, {'os.O_RDONLY' if reads else 'os.O_WRONLY'})\n"
                                + ("" if reads else "os.write(fifo, b'once\\n')\n") + "open('there', 'w').close()\n"
                                "while not os.path.exists('go'):\n    tick()\n    time.sleep(0.005)\n"
                                + ("open('got', 'wb').write(os.read(fifo, 100))\n" if reads else "os.write(fifo, b'more\\n')\n")
                                + "while True:\n    tick()\n    time.sleep(0.005)\n")
        if reads:
            os.write(mine, b"once\n")
        images = dump(w, target, name=f"images {reads}")
        restore(w, images, target)
        with open(os.path.join(w.work, "go"), "w"):
            pass
        if reads:
            end = time.monotonic() + DEADLINE
            while not os.path.exists(os.path.join(w.work, "got")) or not cli.read(os.path.join(w.work, "got")):
                expect(time.monotonic() < end, "nothing came")
                time.sleep(0.005)
            target.wait()
            expect(cli.read(os.path.join(w.work, "got")) == "once\n", cli.read(os.path.join(w.work, "got")))
        else:
            end, got = time.monotonic() + DEADLINE, b""
            while len(got) < 10:
                expect(time.monotonic() < end, got)
                if select.select([mine], [], [], 0.1)[0]:
                    got += os.read(mine, 100)
            expect(got == b"once\nmore\n", got)
        os.unlink(os.path.join(w.work, "go"))
        os.kill(target.pid, signal.SIGKILL)
        wait_gone(target.pid)


def test_virtual_terminal(w):
    """What a virtual terminal has that is not saved: input that was not read, and switching by a program."""
    KDSETMODE, VT_GETMODE, VT_SETMODE = 0x4B3A, 0x5601, 0x5602
    try:
        vt = os.open(f"/dev/tty{36 + os.getpid() % 25}", os.O_RDWR | os.O_NOCTTY)
        mode = fcntl.ioctl(vt, VT_GETMODE, bytes(8))
    except OSError as error:
        raise cli.Skip(str(error))
    target = Target(w.work, "", pass_fds=(vt,))
    fermata("check", "process", target.pid).good()
    # TIOCSTI wants the caller's own terminal, or CAP_SYS_ADMIN.
    for letter in b"typed\n":
        fcntl.ioctl(vt, termios.TIOCSTI, bytes([letter]))
    w.criu("dump", "-t", target.pid, "-D", w.work).error("is a console or line with input that was not read")
    termios.tcflush(vt, termios.TCIFLUSH)
    fcntl.ioctl(vt, VT_SETMODE, struct.pack("bbhhh", 1, 0, 0, 0, 0))  # VT_PROCESS
    try:
        w.criu("dump", "-t", target.pid, "-D", w.work).error("is a virtual terminal in graphics mode, or switched by a program")
    finally:
        fcntl.ioctl(vt, VT_SETMODE, mode)
    target.unharmed()
    fermata("check", "process", target.pid).good()


def test_packet_news(w):
    """In packet mode the master reads of a flush, once; a dump would have to read it."""
    master, slave, _ = open_pty()
    target = Target(w.work, "", pass_fds=(master, slave))
    fcntl.ioctl(master, termios.TIOCPKT, struct.pack("i", 1))
    fermata("check", "process", target.pid).good()
    termios.tcflush(slave, termios.TCOFLUSH)
    w.criu("dump", "-t", target.pid, "-D", w.work).error("is in packet mode and has news that were not read")
    target.unharmed()
    expect(os.read(master, 10) == bytes([termios.TIOCPKT_FLUSHWRITE]), "it is gone")
    fermata("check", "process", target.pid).good()


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
