"""Node: timers, a child process, a worker thread, and one HTTP server on a unix socket and on TCP."""
import json

from app import CountingApp, connected, expect, free_port, get, wait_for

PROGRAM = r"""
const { spawn } = require('child_process');
const { Worker } = require('worker_threads');
const fs = require('fs');
const http = require('http');

function fail(why) { console.error(why); process.exit(1); }

function log(name) {
  const fd = fs.openSync(name, 'w+');
  let next = 0;
  return n => {
    if (n !== next++) fail(`${name}: ${n} is not next`);
    fs.writeSync(fd, String(n).padStart(8, '0') + '\n');
  };
}

const ticks = log('log-timer'), echoes = log('log-child'), works = log('log-worker'), reads = log('log-promise');
let tick = 0, requests = 0;
setInterval(() => ticks(tick++), 5);

const child = spawn('cat', { stdio: ['pipe', 'pipe', 'inherit'] });
let echo = 0, rest = '';
child.stdout.on('data', data => {
  rest += data;
  for (let end; (end = rest.indexOf('\n')) >= 0; rest = rest.slice(end + 1)) {
    echoes(Number(rest.slice(0, end)));
    setTimeout(() => child.stdin.write(`${echo++}\n`), 3);
  }
});
child.on('exit', () => fail('the child has ended'));
child.stdin.write(`${echo++}\n`);

const worker = new Worker(`const { parentPort } = require('worker_threads');
  parentPort.on('message', n => setTimeout(() => parentPort.postMessage(n), 2));`, { eval: true });
worker.on('message', n => { works(n); worker.postMessage(n + 1); });
worker.postMessage(0);

(async () => {
  for (let n = 0; ; n++) {
    await fs.promises.readFile(__filename);  // on a thread of the pool
    reads(n);
    await new Promise(done => setTimeout(done, 2));
  }
})();

const server = () => http.createServer((request, response) =>
  response.end(JSON.stringify({ pid: process.pid, requests: ++requests, tick })));
server().listen('socket');
server().listen(Number(process.argv[2]), '127.0.0.1');
"""


class Test(CountingApp):
    programs = ("node",)
    logs = ("log-timer", "log-child", "log-worker", "log-promise")

    def start(self):
        self.addresses = (self.path("socket"), free_port())
        self.spawn(["node", self.write("program.js", PROGRAM), str(self.addresses[1])])

    def ask(self):
        return [json.loads(wait_for(f"answer at {address}", lambda: get(address, "/"))) for address in self.addresses]

    def state(self):
        super().state()
        state = self.ask()[-1]
        wait_for("end of the connections", lambda: not connected(*self.addresses))
        return state

    def between(self):
        super().between()
        self.ask()

    def check(self, state):
        for number, answer in enumerate(self.ask()):
            expect(answer["pid"] == self.pid and answer["requests"] == state["requests"] + number + 1 and
                   answer["tick"] >= state["tick"], f"{answer} after {state}")
        super().check(None)
