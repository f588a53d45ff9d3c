"""Python with threads, a subprocess at the other ends of two pipes, and open files at positions of their own."""
import os
import sys

from app import CountingApp, expect, read, wait_for

SCRIPT = r"""
import subprocess, sys, threading, time

def counter(name, source):
    log = open(name, "w+b", buffering=0)
    for n in range(10 ** 8):
        if source(n) != n:
            print(name, n, file=sys.stderr)
            break
        log.write(b"%08d\n" % n)
        time.sleep(0.002)

CHILD = "import sys\nfor line in sys.stdin: print(int(line) * 3, flush=True)"
child = subprocess.Popen([sys.executable, "-c", CHILD], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, bufsize=1)
def ask(n):
    child.stdin.write(f"{n}\n")
    return int(child.stdout.readline()) // 3

numbers = open("numbers", "rb", buffering=0)
def read(n):
    return int(numbers.read(9))

local = threading.local()
def keep(n):
    local.n = getattr(local, "n", -1) + 1
    return local.n

lock, shared = threading.Condition(), [0]
def turns(odd):
    for n in range(odd, 10 ** 8, 2):
        with lock:
            while shared[0] != n:
                lock.wait()
            shared[0] += 1
            lock.notify_all()
        if odd:
            yield n // 2

turn = turns(1)
for name, source in (("log-child", ask), ("log-file", read), ("log-local", keep), ("log-turns", lambda n: next(turn))):
    threading.Thread(target=counter, args=(name, source)).start()
for _ in turns(0):
    pass
"""
NUMBERS = 200000


class Test(CountingApp):
    logs = ("log-child", "log-file", "log-local", "log-turns")

    def start(self):
        self.write("numbers", "".join(f"{n:08d}\n" for n in range(NUMBERS)))
        self.spawn([sys.executable, self.write("program.py", SCRIPT)])

    def position(self):
        for fd in os.listdir(f"/proc/{self.pid}/fd"):
            if os.readlink(f"/proc/{self.pid}/fd/{fd}") == self.path("numbers"):
                return int(read(f"/proc/{self.pid}/fdinfo/{fd}").split()[1])
        return 0

    def check(self, state):
        super().check(state)
        lines = self.counts()[1]
        wait_for("position", lambda: self.position() // 9 >= lines)
        expect(self.position() % 9 == 0, f"the file is at {self.position()}")
