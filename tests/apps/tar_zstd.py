"""tar | zstd | sha256sum, dumped in mid-stream: the sum is that of a run that nobody disturbed."""
import os
import random

from app import App, expect, read, state_of, tree, wait_for

COMMAND = "tar --sort=name --mtime=@0 --owner=0 --group=0 -cf - data | zstd -q -12 -T1 | sha256sum"
SIZE, FILES = 1 << 20, 24


class Test(App):
    programs = ("tar", "zstd", "sha256sum")

    def start(self):
        numbers = random.Random(7)
        words = [numbers.randbytes(numbers.randrange(2, 12)) for _ in range(5000)]
        os.mkdir(self.path("data"))
        for at in range(FILES):
            data = b"".join(numbers.choices(words, k=SIZE // 7))
            with open(self.path("data", f"{at:03d}"), "wb") as file:
                file.write(data)
        self.sum = self.run(["sh", "-c", COMMAND], seconds=60)
        self.spawn(["sh", "-c", COMMAND], stdout="sum")
        self.rounds = 0

    def members(self):
        return {read(f"/proc/{pid}/comm").strip(): pid for pid in tree(self.pid)}

    def read_bytes(self, name):
        return int(read(f"/proc/{self.pids[name]}/io").split()[1])

    def state(self):
        self.rounds += 1
        if self.rounds == 1:
            wait_for("tar, zstd and sha256sum", lambda: set(self.programs) <= set(self.members()))
            self.pids = self.members()
            wait_for("flow", lambda: self.read_bytes("sha256sum") > 1 << 20)
        expect(state_of(self.pids["sha256sum"]) in ("R", "S") and not read(self.path("sum")),
               "it was over before the dump")

    def check(self, state):
        if self.mode == "twice" and self.rounds == 1:
            start = self.read_bytes("sha256sum")
            wait_for("flow", lambda: self.read_bytes("sha256sum") > start + (1 << 18))
            return
        text = wait_for("sum", lambda: read(self.path("sum")), seconds=60)
        expect(text == self.sum, f"the sum is {text!r}, not {self.sum!r}")
