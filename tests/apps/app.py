"""What the application tests share: a program's tree, its dump and restore, and waits that end."""
import os
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from http.client import HTTPResponse

DEADLINE = 30
MODES = ("stop", "leave", "twice")


class Failure(Exception):
    pass


class Skip(Exception):
    pass


def wait_for(what, condition, seconds=DEADLINE, pause=0.02):
    """Waits until condition() is true and returns what it returned; an OSError counts as "not yet"."""
    end = time.monotonic() + seconds
    while True:
        try:
            result, why = condition(), ""
        except (OSError, ValueError) as error:
            result, why = None, f" ({error})"
        if result:
            return result
        if time.monotonic() > end:
            raise Failure(f"no {what} within {seconds} s{why}")
        time.sleep(pause)


def expect(condition, why):
    if not condition:
        raise Failure(why)


def read(path):
    with open(path, errors="replace") as file:
        return file.read()


def state_of(pid):
    try:
        return read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0]
    except OSError:
        return None


def name_of(pid):
    """None: it has gone."""
    try:
        return read(f"/proc/{pid}/comm").strip()
    except OSError:
        return None


def tree(pid):
    """pid and all that descends from it, parents first."""
    found = [pid]
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except OSError:
        return found
    for thread in threads:
        try:
            children = read(f"/proc/{pid}/task/{thread}/children").split()
        except OSError:
            continue
        for child in children:
            found += tree(int(child))
    return found


def wait_gone(keep, what):
    """Waits until nothing that descends from the caller is left but keep, and reaps what ended."""
    def left():
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            pass
        return [pid for pid in tree(os.getpid())[1:] if pid not in keep]

    try:
        wait_for("end", lambda: not left(), pause=0.002)
    except Failure:
        raise Failure(f"{what}: still there: { {pid: state_of(pid) for pid in left()} }") from None


def kill(pids):
    """Stops all first: one that is killed early would have its parent start another."""
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in pids:
            try:
                os.kill(pid, number)
            except ProcessLookupError:
                pass


def clean_up():
    """Ends and reaps all that descends from the caller."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        kill(tree(os.getpid())[1:])
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.01)
    raise Failure(f"clean-up: still there: {tree(os.getpid())[1:]}")


def use_up_pids(number=50):
    for _ in range(number):
        pid = os.fork()
        if not pid:
            os._exit(0)
        os.waitpid(pid, 0)


def counted(path, start=0, width=9):
    """How many lines of a log of fixed-width numbers are there; each number must be there once, in its place."""
    text = read(path)
    lines = [text[at:at + width] for at in range(0, len(text) - width + 1, width)]
    for at, line in enumerate(lines):
        expect(line == f"{at + start:0{width - 1}d}\n", f"{os.path.basename(path)}: line {at} is {line!r}")
    return len(lines)


def free_port():
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def connect(address):
    """Connects to a path, or to a port of this machine."""
    client = socket.socket(socket.AF_UNIX if isinstance(address, str) else socket.AF_INET)
    client.settimeout(DEADLINE)
    try:
        client.connect(address if isinstance(address, str) else ("127.0.0.1", address))
    except OSError:
        client.close()
        raise
    return client


def get(address, page):
    """The text of a page of an HTTP server; the connection is closed."""
    with connect(address) as client:
        client.sendall(f"GET {page} HTTP/1.1\r\nHost: test\r\nConnection: close\r\n\r\n".encode())
        response = HTTPResponse(client)
        response.begin()
        text = response.read().decode()
        if response.status != 200:
            raise ValueError(f"{page}: status {response.status}: {text}")
        return text


def connected(*addresses):
    """How many connections servers at these addresses have with clients, those that the client has closed included."""
    number = 0
    for address in addresses:
        if isinstance(address, str):
            lines = [line.split() for line in read("/proc/net/unix").splitlines()[1:]]
            number += sum(line[7:] == [address] and line[5] == "03" for line in lines)
        else:
            lines = [line.split() for line in read("/proc/net/tcp").splitlines()[1:]]
            number += sum(line[1].endswith(f":{address:04X}") and line[3] in ("01", "08") for line in lines)
    return number


class App:
    """One application. A subclass gives start, and state, check and, where it can do harm to files, between."""
    programs = ()  # commands it needs
    options = ()  # what its dump needs beyond the plain options
    restore_options = ()
    modes = MODES
    deadline = 120  # for the whole test

    def __init__(self, work, mode):
        self.work, self.mode, self.pid = work, mode, None
        self.outside = []  # pids of its helpers outside the tree

    # What a subclass gives.
    def missing(self):
        """Why the application cannot run here, or None."""
        return None

    def start(self):
        """Starts the program and sets self.pid, the root of its tree."""
        raise NotImplementedError

    def state(self):
        """Waits until the program is at work, and returns what check needs to know of its state; taken before each dump."""

    def between(self):
        """What is done to the program after a dump that left it running, before it is killed."""
        time.sleep(0.2)

    def check(self, state):
        """Raises Failure unless the restored program goes on from state."""
        raise NotImplementedError

    # What it may use.
    def path(self, *names):
        return os.path.join(self.work, *names)

    def write(self, name, text):
        with open(self.path(name), "w") as file:
            file.write(text)
        return self.path(name)

    def spawn(self, command, stdout=None, env=None):
        """Starts a program in a session of its own and makes it the tree's root."""
        with open(self.path(stdout) if stdout else os.devnull, "w") as out, open(self.path("stderr"), "w") as err:
            task = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=err, start_new_session=True,
                                    close_fds=True, cwd=self.work, env=dict(os.environ, **(env or {})))
        task.returncode = 0  # reaped with all others, never by Popen
        self.pid = task.pid

    def run(self, command, seconds=DEADLINE, **more):
        """Runs a command outside the tree to its end and returns what it printed."""
        with tempfile.TemporaryFile() as out:
            try:
                status = subprocess.run(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=seconds,
                                        cwd=self.work, **more).returncode
            except subprocess.TimeoutExpired:
                status = "deadline"
            out.seek(0)
            text = out.read().decode(errors="replace")
        expect(status == 0, f"{command} ended with {status}\n{text}")
        return text

    def alive(self):
        state = state_of(self.pid)
        expect(state in ("R", "S", "D"), f"the tree's root is in state {state}\n{self.errors()}")

    def errors(self):
        try:
            return read(self.path("stderr"))[-2000:].rstrip()
        except OSError:
            return ""


class CountingApp(App):
    """A program that writes logs of fixed-width numbers and nothing else that is checked."""
    logs = ("log",)
    at_least = 20

    def counts(self):
        return [counted(self.path(log)) for log in self.logs]

    def grown(self, past):
        def enough():
            self.alive()
            return all(now > before for now, before in zip(self.counts(), past))
        wait_for("progress", enough)

    def state(self):
        for log in self.logs:
            wait_for(log, lambda log=log: os.path.exists(self.path(log)))
        self.grown([self.at_least] * len(self.logs))
        return self.counts()

    def check(self, state):
        # In mode leave it writes once more what it wrote after the dump, to the same place.
        self.grown([number + self.at_least for number in self.counts()])


def criu(binary, work, arguments):
    # A file, not a pipe: a restored task that held an end would keep the reader waiting.
    with tempfile.TemporaryFile() as log:
        try:
            status = subprocess.run([binary] + arguments, stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    timeout=DEADLINE, cwd=work).returncode
        except subprocess.TimeoutExpired:
            status = "deadline"
        log.seek(0)
        text = log.read().decode(errors="replace")
    expect(status == 0, f"criu {arguments[0]} ended with {status}\n{text}".rstrip())
    return text


def through(app, binary):
    """Takes an application through dump and restore as its mode says, or as it does it itself."""
    if hasattr(app, "through"):
        app.through(binary)
        return
    for number in range(2 if app.mode == "twice" else 1):
        images = app.path(f"images{number}")
        os.mkdir(images)
        state = app.state()
        leave = app.mode == "leave"
        criu(binary, app.work, ["dump", "-t", str(app.pid), "-D", images] + (["-R"] if leave else []) +
             list(app.options))
        if leave:
            app.alive()
            app.between()
            app.alive()
            while left := [pid for pid in tree(os.getpid())[1:] if pid not in app.outside and state_of(pid) != "Z"]:
                kill(left)
        wait_gone(app.outside, "after the dump")
        use_up_pids()
        criu(binary, app.work, ["restore", "-d", "-D", images] + list(app.restore_options))
        app.alive()
        app.check(state)
        shutil.rmtree(images)
