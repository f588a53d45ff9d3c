"""nginx with two workers: pages and the counters in its shared memory go on, and a reload works."""
import os
import re
import signal

from app import App, connected, expect, free_port, get, read, tree, wait_for

CONFIG = """
daemon off;
user root;
worker_processes 2;
pid {work}/pid;
error_log {work}/error.log;
events {{ worker_connections 64; }}
http {{
    access_log {work}/access.log;
    client_body_temp_path {work}/body;
    proxy_temp_path {work}/proxy;
    fastcgi_temp_path {work}/fastcgi;
    uwsgi_temp_path {work}/uwsgi;
    scgi_temp_path {work}/scgi;
    server {{
        listen 127.0.0.1:{port};
        listen unix:{work}/socket;
        root {work}/pages;
        location = /status {{ stub_status; }}
        location = /generation {{ return 200 "{generation}"; }}
    }}
}}
"""


class Test(App):
    programs = ("nginx",)

    def start(self):
        os.mkdir(self.path("pages"))
        self.page = "".join(f"line {n}\n" for n in range(50000))
        self.write("pages/page", self.page)
        self.addresses = (self.path("socket"), free_port())
        self.generation = 0
        self.configure()
        self.spawn(["nginx", "-c", self.path("config"), "-p", self.work])

    def configure(self):
        self.generation += 1
        self.write("config", CONFIG.format(work=self.work, port=self.addresses[1], generation=self.generation))

    def requests(self, address):
        return int(re.search(r"\n *\d+ \d+ (\d+)", get(address, "/status"))[1])

    def use(self):
        for address in self.addresses:
            for _ in range(5):
                expect(get(address, "/page") == self.page, "the page is not right")
            expect(get(address, "/generation") == str(self.generation), "another configuration answers")

    def idle(self):
        wait_for("end of the connections", lambda: not connected(*self.addresses))

    def state(self):
        for address in self.addresses:
            wait_for("answer", lambda: get(address, "/generation"))
        wait_for("two workers", lambda: len(tree(self.pid)) == 3)
        self.use()
        state = self.requests(self.addresses[1])
        self.idle()
        return state, tree(self.pid)

    def between(self):
        self.use()
        self.idle()

    def check(self, state):
        requests, pids = state
        expect(tree(self.pid) == pids, f"the tree is {tree(self.pid)}, was {pids}")
        for number, address in enumerate(self.addresses):
            now = self.requests(address)
            expect(now == requests + number + 1, f"{now} requests, was {requests}")
        self.use()
        self.configure()
        os.kill(self.pid, signal.SIGHUP)
        wait_for("new workers", lambda: len(tree(self.pid)) == 3 and not set(tree(self.pid)[1:]) & set(pids))
        self.use()
        expect("[alert]" not in read(self.path("error.log")), read(self.path("error.log")))
