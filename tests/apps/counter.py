"""A counter on a terminal, dumped and restored from the shell of another one with --shell-job: it counts on there, and that shell's
^Z, fg and ^C reach it."""
import os
import pty
import select
import signal
import time

from app import App, DEADLINE, expect, state_of, wait_for

COUNTER = "import time\nfor i in range(100000): print(i, flush=True); time.sleep(0.05)"


class Shell:
    """An interactive shell on a terminal of its own."""

    def __init__(self, work):
        environment = dict(os.environ, PS1="$ ", TERM="dumb", INPUTRC="/dev/null")
        self.pid, self.terminal = pty.fork()
        if not self.pid:
            os.chdir(work)
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # ignored where a shell has started the tests behind its back
            os.execvpe("bash", ["bash", "--norc", "--noprofile", "--noediting", "-i"], environment)
        self.seen = self.all = ""
        self.until("$ ")

    def until(self, text):
        """What it shows until the text comes; what comes after is kept."""
        end = time.monotonic() + DEADLINE
        while text not in self.seen:
            expect(time.monotonic() < end, f"the terminal does not show {text!r}: {self.seen[-500:]!r}")
            if select.select([self.terminal], [], [], 0.1)[0]:
                try:
                    self.seen += os.read(self.terminal, 65536).decode(errors="replace")
                except OSError:
                    expect(False, f"the terminal was closed: {self.seen[-500:]!r}")
        before, _, self.seen = self.seen.partition(text)
        self.all += before + text
        return before + text

    def type(self, text):
        os.write(self.terminal, text.encode())


def children(pid):
    with open(f"/proc/{pid}/task/{pid}/children") as file:
        return [int(child) for child in file.read().split()]


class Test(App):
    programs = ("bash",)
    modes = ("stop",)

    def to_background_and_back(self):
        """fg of what runs already: the shell gives it the terminal and sends it nothing."""
        self.there.type("\x1a")
        self.there.until("Stopped")
        self.there.until("$ ")
        self.there.type("bg\n")
        self.there.until("--shell-job &\r\n")
        int(self.there.until("\r\n").replace("$ ", ""))
        self.there.type("fg\n")
        self.there.until("--shell-job\r\n")
        # It counts all the time: only the terminal tells that the shell has let go of it.
        wait_for("foreground", lambda: os.tcgetpgrp(self.there.terminal) != self.there.pid)
        int(self.there.until("\r\n"))

    def start(self):
        self.write("counter", COUNTER)
        self.here, self.there = Shell(self.work), Shell(self.work)
        self.here.type("python3 counter\n")
        self.here.until("\n5\r\n")
        self.pid = wait_for("counter", lambda: children(self.here.pid))[0]

    def through(self, criu):
        for number in range(3):
            os.mkdir(self.path(str(number)))
            self.there.type(f"{criu} dump -t {self.pid} -D {number} --shell-job; echo dump $?.\n")
            self.there.until("dump 0.\r\n$ ")
            self.here.until("$ ")
            last = int([word for word in self.here.all.split() if word.isdigit()][-1])
            self.there.type(f"{criu} restore -D {number} --shell-job\n")
            self.there.until("--shell-job\r\n")
            first = int(self.there.until("\r\n"))
            expect(first == last + 1, f"{first} comes after {last}")
            for n in range(first + 1, first + 10):
                expect(int(self.there.until("\r\n")) == n, f"{n} is missing")
            self.there.type("\x1a")
            self.there.until("Stopped")
            wait_for("stop", lambda: state_of(self.pid) == "T")
            self.there.until("$ ")
            self.there.type("fg\n")
            self.there.until("--shell-job\r\n")
            after = int(self.there.until("\r\n"))
            expect(after > first, f"{after} after {first}")
            self.to_background_and_back()
            self.here, self.there = self.there, self.here
        self.here.type("\x03")
        self.here.until("KeyboardInterrupt")
        self.here.until("$ ")
        self.here.type("echo status $?.\n")
        self.here.until("status 130.")
