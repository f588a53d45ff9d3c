"""Redis with clients that are connected, outside of the tree, and ask all the time: none of them notices more than a pause."""
import threading
import time

from app import App, expect, free_port, wait_for
from redis import Client

CLIENTS = 5


class Asking(threading.Thread):
    """Counts with one key; also keeps one list growing by pipelines, whose answers come in order."""

    def __init__(self, port, number):
        super().__init__(daemon=True)
        self.client, self.key, self.count, self.failure, self.ended = Client(port), f"key{number}", 0, None, False
        self.start()

    def run(self):
        try:
            while not self.ended:
                got = self.client("INCR", self.key)
                expect(got == self.count + 1, f"{self.key} is {got} after {self.count}")
                self.count = got
                value = "x" * (self.count * 37 % 30000)
                self.client("SET", self.key + "v", value)
                expect(self.client("GET", self.key + "v") == value, f"the value of {self.key}")
        except Exception as failure:  # told by the test
            self.failure = failure


class Test(App):
    programs = ("redis-server",)
    options = ("--tcp-established",)
    restore_options = ("--tcp-established",)
    modes = ("stop", "twice")

    def start(self):
        port = free_port()
        self.spawn(["redis-server", "--port", str(port), "--bind", "127.0.0.1", "--save", "", "--dir", self.work], stdout="stdout")
        wait_for("answer", lambda: Client(port))
        self.port, self.clients = port, [Asking(port, number) for number in range(CLIENTS)]

    def on(self):
        before = [client.count for client in self.clients]
        wait_for("answers", lambda: any(client.failure for client in self.clients) or
                 all(client.count > count + 20 for client, count in zip(self.clients, before)))
        for client in self.clients:
            expect(not client.failure, f"{client.key}: {client.failure!r}")

    def state(self):
        self.on()

    def check(self, state):
        self.on()
        time.sleep(0.3)
        with Client(self.port) as client:
            least = self.clients[0].count  # which goes on
            expect(int(client("GET", "key0")) >= least, "another connection sees less")
