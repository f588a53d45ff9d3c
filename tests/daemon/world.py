"""A daemon in a folder of its own, so that nothing of the host's is touched, and what its suites share. DAEMON_FERMATA=PATH takes another binary."""
import glob
import http.client
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from support import ROOT, Failure, Skip, adopt, expect, read, reporter, state_of, verdict  # noqa: E402

report = reporter("daemon_")

BINARY = os.environ.get("DAEMON_FERMATA") or os.path.join(ROOT, "build/src/cli/fermata")
DEADLINE = 30       # s, for anything to end or to come
NOBODY = 65534
COUNT = ["sh", "-c", "i=0; while true; do echo $i; i=$((i+1)); sleep 0.05; done"]


def reap_orphans():
    """Children of jobs that ended are ours now, and keep the ids of their groups and sessions in use. What this program has started itself is left alone."""
    for path in glob.glob("/proc/self/task/*/children"):
        try:
            children = read(path).split()
        except OSError:  # a thread that has ended
            continue
        for pid in map(int, children):
            try:
                if state_of(pid) == "Z" and os.getsid(pid) not in (pid, os.getsid(0)):
                    os.waitpid(pid, os.WNOHANG)
            except OSError:
                pass


def until(condition, what, seconds=DEADLINE):
    end = time.monotonic() + seconds
    while not (found := condition()):
        expect(time.monotonic() < end, f"not within {seconds} s: {what() if callable(what) else what}")
        reap_orphans()
        time.sleep(0.02)
    return found


class Result:
    def __init__(self, arguments, status, out, err):
        self.arguments, self.status, self.out, self.err = " ".join(map(str, arguments)), status, out, err

    def __str__(self):
        return f"{self.arguments}: {self.status}, said {self.out.strip()!r} and {self.err.strip()!r}"

    def good(self, status=0):
        expect(self.status == status, self)
        expect("Error" not in self.err, self)
        return self

    def error(self, *words, status=1):
        expect(self.status == status or (status is None and self.status), self)
        expect(self.err.startswith("Error: ") and self.err.count("\n") == 1, self)
        for word in words:
            expect(word in self.err, f"no {word!r} in it: {self}")
        return self


def alive(pid):
    return state_of(pid) not in (None, "Z", "X")


class World:
    """A folder with configuration, database, logs and checkpoints, and a daemon."""

    def __init__(self, work):
        self.work, self.dir, self.logs, self.state = work, work + "/checkpoints", work + "/logs", work + "/state"
        os.mkdir(self.dir)
        os.mkdir(self.logs)
        self.socket, self.daemon, self.out = work + "/socket", None, open(work + "/daemon.out", "ab")
        self.settings = {"address": self.socket, "db": {"path": self.state + "/fermata.db"}, "log_dir": self.logs, "checkpoint": {"dir": self.dir}}
        self.configure()

    def configure(self, **more):
        self.settings.update(more)
        with open(self.work + "/config.json", "w") as file:
            json.dump(self.settings, file)

    def start(self, *arguments, env=None, before=(), **more):
        self.daemon = subprocess.Popen([*before, BINARY, "daemon", "start", "--config-dir", self.work, *arguments], stdin=subprocess.DEVNULL, stdout=self.out,
                                       stderr=self.out, env=dict(os.environ, **(env or {})), **more)
        until(lambda: self.daemon.poll() is not None or self.answers(), "the daemon to answer")
        expect(self.daemon.poll() is None, f"the daemon ended: {self.said()}")
        return self

    def said(self):
        return read(self.work + "/daemon.out")

    def answers(self):
        try:
            return self.request("GET", "/v1/health")[0] == 200
        except (OSError, http.client.HTTPException):
            return False

    def kill(self):
        self.daemon.kill()
        self.daemon.wait()

    def stop(self):
        if self.daemon and self.daemon.poll() is None:
            self.daemon.terminate()
            self.daemon.wait(DEADLINE)

    def fermata(self, *arguments, before=(), deadline=DEADLINE, stdin=b"", program=BINARY, env=None):
        verb = list(map(str, arguments))
        # Before `--`, behind which all belongs to the program.
        at = verb.index("--") if "--" in verb else len(verb)
        full = [*before, program, *verb[:at], *(["--config-dir", self.work] if "--no-dir" not in verb and verb[0] not in ("verify", "diff", "query", "completion") else []), *verb[at:]]
        task = subprocess.run([word for word in full if word != "--no-dir"], input=stdin, stdout=subprocess.PIPE, stderr=subprocess.PIPE, timeout=deadline,
                              env=dict(os.environ, **(env or {})))
        return Result(verb, task.returncode, task.stdout.decode(errors="replace"), task.stderr.decode(errors="replace"))

    def helper(self, verb):
        """The pid of a program that the daemon has started for this, or None."""
        for path in glob.glob(f"/proc/{self.daemon.pid}/task/*/children"):
            try:
                for pid in map(int, read(path).split()):
                    if read(f"/proc/{pid}/cmdline").split("\0")[1:2] == [verb]:
                        return pid
            except OSError:  # who has ended meanwhile
                pass
        return None

    def connection(self):
        made = http.client.HTTPConnection("localhost", timeout=DEADLINE)
        made.sock = socket.socket(socket.AF_UNIX)
        made.sock.settimeout(DEADLINE)
        made.sock.connect(self.socket)
        return made

    def request(self, method, path, body=None, raw=None):
        made = self.connection()
        made.request(method, path, raw if raw is not None else json.dumps(body) if body is not None else None)
        answer = made.getresponse()
        text = answer.read()
        made.close()
        try:
            return answer.status, json.loads(text)
        except ValueError:
            return answer.status, text.decode(errors="replace")

    def run(self, jid, *command, options=()):
        out = self.fermata("run", "process", "--jid", jid, *options, "--", *(command or COUNT)).good().out
        return int(re.fullmatch(r"Running managed process PID (\d+)\n", out)[1])

    def job(self, jid):
        return json.loads(self.fermata("job", "inspect", jid, "--json").good().out)

    def status(self, jid):
        return self.job(jid)["status"]

    def numbers(self, jid):
        return [int(line) for line in read(f"{self.logs}/fermata-output-{jid}.log").split()]

    def counts_on(self, jid):
        before = len(self.numbers(jid))
        until(lambda: len(self.numbers(jid)) > before + 1, f"job {jid} to count on")
        numbers = self.numbers(jid)
        expect(numbers == sorted(numbers), f"job {jid} counts wrongly: {numbers[-20:]}")

    def dump(self, jid, *options):
        out = self.fermata("dump", "job", jid, *options).good().out
        path = out.split()[-1]
        expect(out.splitlines()[-1] == f"Dumped to {path}" and os.path.exists(path + "/inventory.img"), out)
        return path

    def processes(self):
        """Supervisors and jobs of this world."""
        found = []
        for path in glob.glob(self.state + "/jobs/*/state.json"):
            try:
                state = json.loads(read(path))
                found += [state["pid"], state["supervisor"]]
            except (ValueError, OSError, KeyError):
                pass
        return [pid for pid in found if pid > 0 and alive(pid)]

    def finish(self):
        try:
            self.stop()
        except subprocess.TimeoutExpired:  # the test has failed already
            self.kill()
        for _ in range(200):
            left = self.processes()
            for pid in left:
                try:
                    os.kill(pid, signal.SIGKILL)
                except OSError:
                    pass
            if not left:
                break
            time.sleep(0.02)
        # What jobs have left in the background is ours since their supervisors have gone.
        for _ in range(200):
            try:
                while os.waitpid(-1, os.WNOHANG)[0]:
                    pass
            except ChildProcessError:
                break
            try:
                for path in glob.glob("/proc/self/task/*/children"):
                    for pid in map(int, read(path).split()):
                        os.kill(pid, signal.SIGKILL)
            except OSError:  # a thread that has ended
                pass
            time.sleep(0.02)
        self.out.close()

def tests_of(names):
    return sorted(((name[5:], test) for name, test in names.items() if name.startswith("test_")), key=lambda item: item[1].__code__.co_firstlineno)


def main(tests, seconds=90):
    """`seconds`: none may take longer."""
    wanted = [word for word in sys.argv[1:] if not word.startswith("--")]
    adopt()

    def too_long(*_):
        raise Failure(f"it takes more than {seconds} s")

    signal.signal(signal.SIGALRM, too_long)
    # In a build with AddressSanitizer the daemon looks for leaks when it is told to end.
    os.environ.setdefault("ASAN_OPTIONS", "detect_leaks=1:leak_check_at_exit=0")
    for name in list(os.environ):
        if name.startswith(("FERMATA_", "CEDANA_")):
            del os.environ[name]
    for name, test in tests:
        if wanted and not any(word in name for word in wanted):
            continue
        if os.geteuid() != 0:
            report("skipped", name, "needs root")
            continue
        work = tempfile.mkdtemp(prefix="fermata-daemon-")
        world = World(work)
        try:
            signal.alarm(seconds)
            told = test(world)
            world.stop()
            expect("Sanitizer" not in world.said(), world.said()[-4000:])
            report("passed", name, told or "")
        except Skip as skip:
            report("skipped", name, str(skip))
        except (Failure, OSError, subprocess.SubprocessError, ValueError, KeyError, IndexError, TypeError, StopIteration) as failure:
            report("failed", name, f"{type(failure).__name__}: {failure}" if not isinstance(failure, Failure) else str(failure))
            lines = world.said().splitlines()
            print("".join(f"# {line}\n" for line in (lines if os.environ.get("DAEMON_VERBOSE") else lines[-30:])), end="")
        finally:
            signal.alarm(0)
            world.finish()
            shutil.rmtree(work, ignore_errors=True)
    sys.exit(verdict())
