#!/usr/bin/env python3
"""Checkpoints exchanged with CRIU, as Debian's package `criu` has it: live programs are dumped by one and restored by the other, both ways, and check
themselves as ever. To be run as root under a kernel that this program supports; tests/kernels/run.py --exchange does it in a guest.

Arguments select programs by a part of their names, and ways: to-criu, from-criu; and criu-alone, which tells what that program can't do by itself. EXCHANGE_CRIU=PATH takes another program than `criu` of the path."""
import os
import shutil
import subprocess
import sys
import tempfile

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
import run as suite  # noqa: E402
from run import Failure, Skip, counts, report  # noqa: E402
from support import ROOT, adopt  # noqa: E402

THEIRS = os.environ.get("EXCHANGE_CRIU") or shutil.which("criu")
PROGRAMS = ("altstack", "anon", "big", "brk", "caps", "cow", "creds", "cwd", "devices", "env", "epoll", "eventfd", "fifo", "file_deleted", "file_flags",
            "file_readonly", "files", "fork", "groups", "inotify", "itimer", "locks", "map_anon_shared", "map_memfd", "map_private", "map_shared", "memfd", "mprotect", "nice",
            "pdeathsig", "personality", "pipe", "pipe_size", "pipe_tree", "proctitle", "pty", "pty_ctty", "regs", "restart", "rlimits", "robust_futex", "rseq",
            "sched", "seccomp_filter", "sessions", "sigactions", "signalfd", "signals", "sigqueue", "sleep", "stopped", "sysv_shm", "tcp_listen", "thread_altstack",
            "thread_names", "thread_regs", "thread_signals", "thread_tls", "threads", "timerfd", "timers_posix", "tree_threads", "udp", "unix_connected",
            "unix_dgram", "unix_listen", "unix_pairs", "unix_tree", "vdso", "wide", "zombies")
# What each is asked for beyond suite.DUMP_OPTIONS and suite.RESTORE_OPTIONS.
DUMP = {"from-criu": ["--ghost-limit", "10M"], "to-criu": ["--portable"], "criu-alone": ["--ghost-limit", "10M"]}
# Where that program's own round (criu-alone) fails as well: what its format has no place for, or what it does not take; by way.
BOTH, FROM, TO = ("from-criu", "to-criu"), ("from-criu",), ("to-criu",)
LACKING = {(name, way): why for name, ways, why in (
    ("caps", BOTH, "its format has no ambient capabilities"),
    ("cow", FROM, "its format does not tell which pages are shared since fork: every process gets its own"),
    ("creds", BOTH, "its format has no no_new_privs"),
    ("epoll", BOTH, "its format does not tell of EPOLLONESHOT that was used up"),
    ("eventfd", BOTH, "its format has no EFD_SEMAPHORE"),
    ("inotify", TO, "it does not keep events that were not read"),
    ("locks", FROM, "it does not keep locks that a process has by inheritance"),
    ("memfd", BOTH, "its format has no mode of a memfd"),
    ("mprotect", BOTH, "it restores shared anonymous memory as a memfd"),
    ("personality", BOTH, "its format has no personality"),
    ("pty", TO, "it does not restore TIOCEXCL"),
    ("pty_ctty", BOTH, "it refuses such a controlling terminal"),
    ("rseq", FROM, "it leaves a thread in its critical section"),
    ("sched", BOTH, "it refuses SCHED_RESET_ON_FORK and SCHED_DEADLINE"),
    ("stopped", BOTH, "it takes no stop but by SIGSTOP"),
    ("sysv_shm", BOTH, "it takes System V shared memory in an IPC namespace of its own only"),
    ("tcp_listen", BOTH, "its format has no place for some options"),
    ("timerfd", BOTH, "it does not know all clocks"),
    ("udp", BOTH, "it does not keep multicast memberships"),
    ("unix_connected", BOTH, "its format has no names of peers that have gone, and no credentials of peers"),
    ("unix_dgram", BOTH, "its format has no names of senders"),
    ("unix_pairs", FROM, "it loses empty messages"),
    ("wide", FROM, "it takes too long for it in a guest"),
    ("zombies", TO, "it does not give processes that have ended all the ways to end"),
) for way in ways}


def call(binary, work, arguments, log):
    with tempfile.TemporaryFile() as out:
        try:
            status = subprocess.run([binary] + arguments, stdin=subprocess.DEVNULL, stdout=out, stderr=out, timeout=suite.DEADLINE, cwd=work).returncode
        except subprocess.TimeoutExpired:
            status = "deadline"
        out.seek(0)
        text = out.read().decode(errors="replace")
    if os.path.exists(log):
        with open(log, errors="replace") as file:
            text += "".join(line for line in file if "Error" in line or "Warn" in line)
    if status != 0:
        raise Failure(f"{arguments[0]} by {os.path.basename(binary)} ended with {status}\n{text}")
    return text


def exchange(name, way, first, second, work):
    """Dumps with one and restores with the other."""
    images, report_file = os.path.join(work, "images"), os.path.join(work, "report")
    os.mkdir(images)
    with open(report_file, "w"):
        os.chmod(report_file, 0o666)
    task = subprocess.Popen([os.path.join(ROOT, f"build/tests/live_{name}"), report_file], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, start_new_session=True, cwd=work)
    task.returncode = 0  # reaped by reap_all
    line = suite.wait_lines(report_file, 1, "ready")[0]
    if line.startswith("skip: "):
        raise Skip(line[len("skip: "):])
    if line != "ready":
        raise Failure(f"before the dump: {line}")
    os.mkdir(work + ".logs")
    logs = {which: os.path.join(work + ".logs", which) for which in ("dump.log", "restore.log")}
    said = call(first, work, ["dump", "-t", str(task.pid), "-D", images, "-v4", "-o", logs["dump.log"]] + DUMP[way] + suite.DUMP_OPTIONS.get(name, []), logs["dump.log"])
    suite.wait_dead(task.pid)
    suite.reap_all(kill=False)
    said += call(second, work, ["restore", "-d", "-D", images, "-v4", "-o", logs["restore.log"]] + suite.RESTORE_OPTIONS.get(name, []) + suite.DUMP_OPTIONS.get(name, []), logs["restore.log"])
    os.kill(task.pid, 10)
    try:
        result = suite.wait_lines(report_file, 2, "verdict")[1]
        if result != "ok":
            raise Failure(result.removeprefix("not ok: "))
        suite.reap_all(kill=False)
    except Failure as failure:
        raise Failure(f"{failure}\n{said}".rstrip()) from None


def run_one(name, way, ours):
    first, second = {"to-criu": (ours, THEIRS), "from-criu": (THEIRS, ours), "criu-alone": (THEIRS, THEIRS)}[way]
    label = f"exchange_{name} {way}"
    if (name, way) in LACKING:
        report("skipped", label, LACKING[name, way])
        return
    work = tempfile.mkdtemp(prefix="fermata-exchange-")
    os.chmod(work, 0o777)
    try:
        exchange(name, way, first, second, work)
        report("passed", label)
    except Skip as skip:
        report("skipped", label, str(skip))
    except (Failure, OSError) as failure:
        report("failed", label, str(failure))
    finally:
        try:
            suite.reap_all(kill=True)
        except Failure as failure:
            report("failed", label, f"clean-up: {failure}")
        for folder in (work, work + ".logs"):
            shutil.rmtree(folder, ignore_errors=True)


def main():
    words = sys.argv[1:]
    ways = [word for word in words if word in DUMP] or ["from-criu", "to-criu"]
    words = [word for word in words if word not in ways]
    if not THEIRS:
        sys.exit("there is no criu; install Debian's package criu")
    adopt()
    with tempfile.TemporaryDirectory(prefix="fermata-bin-") as folder:
        ours = os.path.join(folder, "criu")
        os.symlink(os.path.join(ROOT, "build/src/cli/fermata"), ours)
        for name in PROGRAMS:
            for way in ways:
                if not words or any(word in name for word in words):
                    run_one(name, way, ours)
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**counts), flush=True)
    return 1 if counts["failed"] or not sum(counts.values()) else 0


if __name__ == "__main__":
    sys.exit(main())
