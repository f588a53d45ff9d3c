"""asyncio: timers, a server and a client on a unix socket, a subprocess, and threads of an executor."""
import sys

from app import CountingApp, connect, connected, expect, wait_for

SCRIPT = r"""
import asyncio, os, sys

class Log:
    def __init__(self, name):
        self.file, self.next = open(name, "w+b", buffering=0), 0
    def add(self, n):
        if n != self.next:
            sys.exit(f"{self.file.name}: {n} is not {self.next}")
        self.file.write(b"%08d\n" % n)
        self.next += 1

async def timer():
    log = Log("log-timer")
    for n in range(10 ** 8):
        await asyncio.sleep(0.003)
        log.add(n)

async def serve(reader, writer):
    while line := await reader.readline():
        writer.write(b"%d %d\n" % (int(line) + 1, os.getpid()))
        await writer.drain()
    writer.close()

async def stream():
    await asyncio.start_unix_server(serve, "socket")
    reader, writer = await asyncio.open_unix_connection("socket")
    log = Log("log-stream")
    for n in range(10 ** 8):
        writer.write(b"%d\n" % n)
        log.add(int((await reader.readline()).split()[0]) - 1)
        await asyncio.sleep(0.002)

async def process():
    child = await asyncio.create_subprocess_exec("cat", stdin=-1, stdout=-1)
    log = Log("log-process")
    for n in range(10 ** 8):
        child.stdin.write(b"%d\n" % n)
        log.add(int(await child.stdout.readline()))
        await asyncio.sleep(0.002)

async def executor():
    log = Log("log-executor")
    for n in range(10 ** 8):
        log.add(await asyncio.to_thread(lambda: sum([n, 1, -1])))
        await asyncio.sleep(0.002)

async def main():
    await asyncio.gather(timer(), stream(), process(), executor())

asyncio.run(main())
"""


class Test(CountingApp):
    logs = ("log-timer", "log-stream", "log-process", "log-executor")

    def start(self):
        self.spawn([sys.executable, self.write("program.py", SCRIPT)])

    def check(self, state):
        super().check(state)
        with connect(self.path("socket")) as client:
            client.sendall(b"41\n")
            answer = client.makefile().readline()
        expect(answer == f"42 {self.pid}\n", f"the server answers {answer!r}")
        # The program's own connection stays; its server's end is the one with the path.
        wait_for("end of the connection", lambda: connected(self.path("socket")) <= 1)
