"""Redis with a million keys: the digest of all is as before, and a client that connects again goes on."""
import re

from app import App, connect, connected, expect, free_port, wait_for

KEYS = 1000000


class Client:
    """As much of Redis' protocol as the test needs."""

    def __init__(self, address):
        self.socket = connect(address)
        self.file = self.socket.makefile("rb")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.file.close()
        self.socket.close()

    def reply(self):
        line = self.file.readline().decode()
        kind, rest = line[:1], line[1:].strip()
        if kind == "+":
            return rest
        if kind == ":":
            return int(rest)
        if kind == "$":
            return None if rest == "-1" else self.file.read(int(rest) + 2)[:-2].decode()
        if kind == "*":
            return [self.reply() for _ in range(int(rest))]
        raise ValueError(f"redis: {line!r}")

    def __call__(self, *words):
        words = [str(word).encode() for word in words]
        self.socket.sendall(b"*%d\r\n" % len(words) + b"".join(b"$%d\r\n%s\r\n" % (len(word), word) for word in words))
        return self.reply()

    def info(self, name):
        return re.search(rf"^{name}:(.*?)\r?$", self("INFO"), re.M)[1]


class Test(App):
    programs = ("redis-server",)

    def start(self):
        version = int(re.search(r"v=(\d+)", self.run(["redis-server", "--version"]))[1])
        self.addresses = (self.path("socket"), free_port())
        self.spawn(["redis-server", "--port", str(self.addresses[1]), "--bind", "127.0.0.1", "--unixsocket", self.addresses[0],
                    "--save", "", "--dir", self.work] + (["--enable-debug-command", "yes"] if version >= 7 else []),
                   stdout="stdout")
        with wait_for("answer", lambda: Client(self.addresses[0])) as client:
            client("DEBUG", "POPULATE", KEYS)
            client("SET", "expiring", "x", "PX", 3600000)
            for n in range(1000):
                client("RPUSH", "list", n)
                client("ZADD", "sorted", n * n % 997, n)
                client("HSET", "hash", n, n)

    def state(self):
        with Client(self.addresses[1]) as client:
            client("INCR", "counter")
            state = {"digest": client("DEBUG", "DIGEST"), "keys": client("DBSIZE"), "counter": int(client("GET", "counter")),
                     "run": client.info("run_id"), "expires": client("PTTL", "expiring")}
        expect(state["keys"] == KEYS + 5, f"{state['keys']} keys")
        wait_for("end of the connections", lambda: not connected(*self.addresses))
        return state

    def between(self):
        with Client(self.addresses[0]) as client:
            for _ in range(100):
                client("INCR", "counter")
            client("DEL", "list")
        wait_for("end of the connections", lambda: not connected(*self.addresses))

    def check(self, state):
        for address in self.addresses:
            with Client(address) as client:
                now = {"digest": client("DEBUG", "DIGEST"), "keys": client("DBSIZE"), "counter": int(client("GET", "counter")),
                       "run": client.info("run_id"), "expires": client("PTTL", "expiring")}
                expect(0 < now["expires"] <= state["expires"], f"the key expires in {now['expires']} ms")
                expect(dict(now, expires=0) == dict(state, expires=0), f"{now} after {state}")
        with Client(self.addresses[0]) as client:
            expect(client("INCR", "counter") == state["counter"] + 1, "the counter does not go on")
            expect(client("LRANGE", "list", 500, 502) == ["500", "501", "502"], "the list is not what it was")
            client("BGSAVE")
            wait_for("background save", lambda: client.info("rdb_bgsave_in_progress") == "0")
            expect(client.info("rdb_last_bgsave_status") == "ok" and int(client.info("rdb_last_save_time")), "BGSAVE failed")
        wait_for("end of the connections", lambda: not connected(*self.addresses))
