"""What the suites share: how a test says what became of it, and a look at processes. A suite puts this folder into sys.path first."""
import ctypes
import glob
import os
import signal
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PR_SET_CHILD_SUBREAPER = 36
counts = {"passed": 0, "failed": 0, "skipped": 0}
WORDS = {"passed": "ok", "failed": "not ok", "skipped": "skip"}


class Failure(Exception):
    pass


class Skip(Exception):
    pass


def reporter(prefix):
    def report(kind, name, why=""):
        counts[kind] += 1
        print(f"{WORDS[kind]} {prefix}{name}{': ' + why if why else ''}", flush=True)
    return report


def expect(condition, what):
    if not condition:
        raise Failure(str(what))


def read(path):
    with open(path, errors="replace") as file:
        return file.read()


def adopt():
    """What is restored, and whose parents end, is ours to reap."""
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        raise SystemExit("cannot become a subreaper")


def reap():
    try:
        while os.waitpid(-1, os.WNOHANG)[0]:
            pass
    except ChildProcessError:
        pass


def descendants(pid):
    found = []
    for path in glob.glob(f"/proc/{pid}/task/*/children"):
        try:
            for child in map(int, read(path).split()):
                found += [child] + descendants(child)
        except OSError:
            pass
    return found


def kill_all(deadline):
    """Whatever descends from this process goes, within so many seconds."""
    end = time.monotonic() + deadline
    while left := descendants(os.getpid()):
        expect(time.monotonic() < end, f"processes that can't be killed: {left}")
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
        reap()
        time.sleep(0.002)


def state_of(pid):
    """The letter of /proc/PID/stat, or None."""
    try:
        return read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0]
    except OSError:
        return None


def is_gone(pid):
    """Whether it has ended, and is reaped if it was ours. A leader whose threads are still ending is a zombie that nobody can reap yet."""
    reap()
    try:
        state, parent = read(f"/proc/{pid}/stat").rpartition(")")[2].split()[:2]
    except OSError:
        return True
    return state in ("Z", "X") and int(parent) != os.getpid()


def run_tests(tests, name, report, clean):
    """Runs the functions test_… that the arguments select, each with a folder of its own, which `clean` is given before it goes."""
    for word, test in [(key[5:], value) for key, value in tests.items() if key.startswith("test_")]:
        if sys.argv[1:] and not any(part in f"{name}_{word}" for part in sys.argv[1:]):
            continue
        with tempfile.TemporaryDirectory(prefix=f"fermata-{name}-") as work:
            try:
                test(work)
                report("passed", word)
            except Skip as why:
                report("skipped", word, str(why))
            except (Failure, OSError, subprocess.SubprocessError) as failure:
                report("failed", word, str(failure))
            finally:
                clean(work)


def verdict():
    """The last line of a suite; gives its exit status."""
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**counts), flush=True)
    return 1 if counts["failed"] or not sum(counts.values()) else 0
