"""A tmux server with two windows: a shell with a background job, and a program that reads its terminal without echo."""
import os
import pty
import select
import time

from app import CountingApp, DEADLINE, Failure, expect, wait_for

JOB = r"(for ((i = 0; ; i++)); do printf '%08d\n' $i; sleep 0.01; done > log) &"
READER = "stty -echo; echo reader-is-there; while read -r line; do echo \"got:$line\"; done"


class Test(CountingApp):
    programs = ("tmux", "bash")

    def start(self):
        self.environment = {name: value for name, value in os.environ.items() if name not in ("TMUX", "TMUX_PANE")}
        self.environment.update(TERM="screen", LC_ALL="C.UTF-8", PS1="$ ")
        self.tmux("-f", "/dev/null", "new-session", "-d", "-x", "80", "-y", "24", "-s", "test", "-n", "shell",
                  "exec bash --norc --noprofile -i")
        self.pid = int(self.tmux("display-message", "-p", "#{pid}"))
        self.tmux("new-window", "-d", "-t", "test", "-n", "reader", f"exec bash -c '{READER}'")
        self.type("shell", f"SECRET=41; {JOB}")
        self.shown("reader", "reader-is-there")
        self.rounds = 0

    def tmux(self, *words):
        return self.run(["tmux", "-S", self.path("socket"), *words], env=self.environment)

    def type(self, window, line):
        self.tmux("send-keys", "-t", f"test:{window}", "-l", line)
        self.tmux("send-keys", "-t", f"test:{window}", "Enter")

    def screen(self, window):
        return self.tmux("capture-pane", "-p", "-t", f"test:{window}")

    def shown(self, window, text):
        try:
            wait_for(f"{text!r} in window {window}", lambda: text in self.screen(window).splitlines(), pause=0.1)
        except Failure as failure:
            raise Failure(f"{failure}; it shows:\n{self.screen(window).rstrip()}") from None

    def state(self):
        super().state()
        self.rounds += 1
        self.type("reader", f"before{self.rounds}")
        self.shown("reader", f"got:before{self.rounds}")
        self.tmux("resize-window", "-t", "test:reader", "-x", "70", "-y", str(20 + self.rounds))
        time.sleep(0.1)
        return self.screen("shell"), self.screen("reader"), self.tmux("list-panes", "-a", "-F", "#{pane_pid} #{pane_tty}")

    def attach(self, text):
        """A client on a terminal of its own sees the text."""
        pid, terminal = pty.fork()
        if not pid:
            os.execvpe("tmux", ["tmux", "-S", self.path("socket"), "attach", "-t", "test:reader"], self.environment)
        self.outside.append(pid)
        seen, end = "", time.monotonic() + DEADLINE
        while text not in seen:
            expect(time.monotonic() < end, f"the attached client does not see {text!r}: {seen!r}")
            if select.select([terminal], [], [], 0.1)[0]:
                try:
                    seen += os.read(terminal, 65536).decode(errors="replace")
                except OSError:
                    raise Failure(f"the attached client has ended: {seen!r}") from None
        self.tmux("detach-client", "-s", "test")
        os.close(terminal)
        self.outside.remove(pid)

    def check(self, state):
        shell, reader, panes = state
        expect(self.screen("shell") == shell and self.screen("reader") == reader,
               f"the windows show\n{self.screen('shell')}\n{self.screen('reader')}")
        now = self.tmux("list-panes", "-a", "-F", "#{pane_pid} #{pane_tty}")
        expect(now == panes, f"the panes are {now}, were {panes}")
        self.type("shell", "clear; echo $((SECRET + 1))-$(jobs -r | grep -c log)-$(stty size)")
        self.shown("shell", "42-1-24 80")
        self.type("reader", f"after{self.rounds}")
        self.shown("reader", f"got:after{self.rounds}")
        expect(f"after{self.rounds}" not in self.screen("reader").splitlines(), "the terminal echoes")
        self.attach(f"got:after{self.rounds}")
        self.type("shell", "fg")
        time.sleep(0.2)
        self.tmux("send-keys", "-t", "test:shell", "C-z")
        self.type("shell", "clear; jobs -s | grep -c log")
        self.shown("shell", "1")
        self.type("shell", "bg")
        super().check(None)
