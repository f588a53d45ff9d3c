"""tcpdump, whose packets come through a ring that the kernel fills: it goes on, and what was in the ring is in its file."""
import re
import socket
import time

from app import App, expect, free_port, wait_for


class Test(App):
    programs = ("tcpdump",)

    def start(self):
        self.port, self.sent = free_port(), 0
        self.spawn(["tcpdump", "-i", "lo", "-U", "-Z", "root", "-w", "packets", f"udp port {self.port}"])
        wait_for("listening tcpdump", lambda: "listening on" in self.errors())

    def send(self, number):
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as out:
            for _ in range(number):
                out.sendto(f"<{self.sent:06d}>".encode().ljust(500, b"."), ("127.0.0.1", self.port))
                self.sent += 1

    def seen(self):
        """The numbers in the file, and nothing twice."""
        with open(self.path("packets"), "rb") as file:
            numbers = [int(number) for number in re.findall(rb"<(\d{6})>\.{492}", file.read())]
        expect(numbers == sorted(set(numbers)), f"packets out of order: {numbers}")
        return set(numbers)

    def reach(self, numbers):
        wait_for(f"packets up to {max(numbers)}", lambda: numbers <= self.seen())
        self.alive()

    def state(self):
        self.send(20)
        self.reach(set(range(self.sent - 20, self.sent)))
        time.sleep(0.1)
        self.send(7)  # stay in the ring for up to a second
        return set(range(self.sent - 7, self.sent))

    def between(self):
        self.send(3)
        super().between()

    def check(self, state):
        if self.mode == "stop":
            self.reach(state)
        first = self.sent
        self.send(30)
        self.reach(set(range(first, self.sent)))
