#!/usr/bin/env python3
"""Tests of the options that say how a dump or restore goes about it, as criu(8) has them: --timeout, --leave-stopped, --restore-sibling,
--action-script, --exec-cmd, --pidfile, and all of them from configuration files.

Arguments select tests by a part of their names. CLI_FERMATA=PATH takes another binary. Runs as root."""
import contextlib
import ctypes
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

sys.dont_write_bytecode = True
import world as cli
from world import DEADLINE, Target, expect, fermata, wait_gone


def parent_of(pid):
    return int(cli.read(f"/proc/{pid}/stat").rpartition(")")[2].split()[1])


def wait_state(pid, *states):
    end = time.monotonic() + DEADLINE
    while cli.state_of(pid) not in states:
        expect(time.monotonic() < end, f"process {pid} is in state {cli.state_of(pid)}")
        time.sleep(0.002)


def test_timeout(w):
    """A process that waits in vfork for a child that has not called exec can't be stopped."""
    fifo = os.path.join(w.work, "fifo")
    os.mkfifo(fifo)
    target = Target(w.work, "tick()\ntick()\ntime.sleep(0.1)\n"
                            f"os.posix_spawn('/bin/true', ['true'], {{}}, file_actions=[(os.POSIX_SPAWN_OPEN, 5, {fifo!r}, os.O_RDONLY, 0)])\n")
    wait_state(target.pid, "D")
    for program in (lambda *a: w.criu("dump", "-t", target.pid, "-D", w.make_dir("images" + a[1]), *a),
                    lambda *a: fermata("dump", "process", target.pid, "--dir", w.make_dir("folder" + a[1]), *a)):
        start = time.monotonic()
        program("--timeout", "1").error(f"thread {target.pid} can't be stopped", "vfork", "try again")
        expect(0.9 < time.monotonic() - start < 5, f"took {time.monotonic() - start} s")
    expect(fermata("check", "process", target.pid, "--timeout", "1").status == 1, "the check has found nothing")
    with open(fifo, "w"):
        pass
    target.wait()


def test_leave_stopped(w):
    target = Target(w.work)
    images = w.make_dir()
    w.criu("dump", "-t", target.pid, "-D", images, "--leave-stopped").good()
    wait_state(target.pid, "T")
    os.kill(target.pid, signal.SIGCONT)
    target.unharmed()
    os.kill(target.pid, signal.SIGKILL)
    wait_gone(target.pid)
    w.criu("restore", "-d", "-D", images, "-s").good()
    wait_state(target.pid, "T")
    ticks = target.ticks()
    time.sleep(0.1)
    expect(target.ticks() == ticks, "it runs")
    os.kill(target.pid, signal.SIGCONT)
    target.unharmed()


def test_sibling(w):
    """The root becomes a child of whoever called the program, who can wait for it."""
    images, target = w.checkpoint()
    w.criu("restore", "-D", images, "--restore-sibling").error("--restore-sibling needs --restore-detached")
    w.criu("restore", "-d", "-S", "-D", images).good()
    target.unharmed()
    expect(parent_of(target.pid) == os.getpid(), f"its parent is {parent_of(target.pid)}, not {os.getpid()}")
    os.kill(target.pid, signal.SIGTERM)
    pid, status = os.waitpid(target.pid, 0)
    expect(pid == target.pid and os.WIFSIGNALED(status) and os.WTERMSIG(status) == signal.SIGTERM, status)
    # Not by way of a subreaper: whose child is it while the program still runs?
    log = os.path.join(w.work, "log")
    w.criu("restore", "-d", "-S", "-D", images, "--action-script",
           f"test $CRTOOLS_SCRIPT_ACTION != pre-resume || cut -d' ' -f4 /proc/$CRTOOLS_INIT_PID/stat > {log}").good()
    expect(int(cli.read(log)) == os.getpid(), f"its parent was {cli.read(log)}")


def test_pidfile(w):
    images, target = w.checkpoint()
    pidfile, work = os.path.join(w.work, "pid"), w.make_dir("other")
    w.criu("restore", "-d", "-D", images, "--pidfile", pidfile).good()
    expect(cli.read(pidfile) == str(target.pid), cli.read(pidfile))
    os.kill(target.pid, signal.SIGKILL)
    wait_gone(target.pid)
    w.criu("restore", "-d", "-D", images, "-W", work, "--pidfile", "here").good()
    expect(cli.read(os.path.join(work, "here")) == str(target.pid), os.listdir(work))


def test_exec_cmd(w):
    """The program becomes the command, as the parent of the root."""
    images, target = w.checkpoint()
    said = w.criu("restore", "-D", images, "--exec-cmd", "--", "sh", "-c",
                  f"cut -d' ' -f4 /proc/{target.pid}/stat; echo $$; kill {target.pid}; wait").good().out.split()
    expect(len(said) == 2 and said[0] == said[1], said)
    wait_gone(target.pid)
    w.criu("restore", "-D", images, "--exec-cmd").error("--exec-cmd needs the command")
    w.criu("restore", "-D", images, "--", "true").error("needs --exec-cmd")
    expect(cli.state_of(target.pid) is None, "something was restored")


def huge_kib(pid):
    return sum(int(line.split()[1]) for line in cli.read(f"/proc/{pid}/smaps").splitlines() if line.startswith("AnonHugePages:"))


def test_huge_pages(w):
    """An area that has asked for huge pages has them when it is filled, and not when the kernel gets round to it."""
    images, target = w.checkpoint("m = mmap.mmap(-1, 64 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)\nm.madvise(mmap.MADV_HUGEPAGE)\n"
                                  "for i in range(0, 64 << 20, 4096):\n    m[i:i + 8] = b'somewhat'\n", leave=True)
    before = huge_kib(target.pid)
    if before < 32 << 10:
        raise cli.Skip(f"the kernel had {before} KiB of huge pages for a program that asked for 64 MiB")
    os.kill(target.pid, signal.SIGKILL)
    wait_gone(target.pid)
    w.criu("restore", "-d", "-D", images).good()
    target.unharmed()
    expect(huge_kib(target.pid) >= before / 2, f"{huge_kib(target.pid)} KiB are in huge pages, where {before} were")


# Some of it in one piece, some in many (every other page, and of these each with its number), some shared.
PIECES = """
m = mmap.mmap(-1, 24 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
m[:] = os.urandom(24 << 20)
n = mmap.mmap(-1, 24 << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for i in range(0, 24 << 20, 8192):
    n[i:i + 8] = i.to_bytes(8, "little")
shared = mmap.mmap(-1, 16 << 20)
shared[:] = os.urandom(16 << 20)
import hashlib
sum = hashlib.md5(m).digest(), hashlib.md5(shared).digest()
count = tick
def tick():
    count()
    if ticks % 16 == 2:
        assert (hashlib.md5(m).digest(), hashlib.md5(shared).digest()) == sum
        assert all(n[i:i + 8] == i.to_bytes(8, "little") and n[i + 4096] == 0 for i in range(0, 24 << 20, 8192))
"""


def read_by(arguments, log):
    """The status of a command, and how many bytes it has read itself: what it gave birth to is not counted."""
    task = subprocess.Popen([str(word) for word in arguments], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
    os.waitid(os.P_PID, task.pid, os.WEXITED | os.WNOWAIT)
    words = cli.read(f"/proc/{task.pid}/io").split()
    return task.wait(), int(words[words.index("rchar:") + 1])


@contextlib.contextmanager
def altered(path, at):
    """One bit, for so long."""
    with open(path, "r+b") as file:
        file.seek(at)
        byte = file.read(1)[0]
        for written in (byte ^ 1, byte):
            file.seek(at)
            file.write(bytes([written]))
            file.flush()
            if written != byte:
                yield


def test_read_once(w):
    """Who reads pages into place takes their checksums: nobody reads them once more, and what is damaged anywhere does not run."""
    images, target = w.checkpoint(PIECES)
    pages = {entry.path: entry.stat().st_size for entry in os.scandir(images) if entry.name.startswith("pages-") and entry.stat().st_size > 8 << 20}
    shared, private = sorted(pages.values())
    expect(shared <= 16 << 20 < 32 << 20 < private, f"the images have {pages} of memory")
    for path, size in pages.items():
        for at in (0, (4 << 20) - 1, 4 << 20, size // 2, size - (5 << 20), size - 1):
            with altered(path, at):
                w.criu("restore", "-d", "-D", images).error(os.path.basename(path), "altered", "damaged")
            expect(cli.state_of(target.pid) is None, "something runs")
    status, count = read_by([w.criu_path, "restore", "-d", "-D", images], target.log)
    expect(status == 0, "it can't be restored")
    target.wait(target.ticks() + 40)
    expect(shared < count < shared + private / 4, f"{count} bytes were read beside {private} of private memory and {shared} of shared")


def pss_kib(pid):
    return int(next(line for line in cli.read(f"/proc/{pid}/smaps_rollup").splitlines() if line.startswith("Pss:")).split()[1])


def inner(unshare, pid):
    """The process that has the number `pid` in the namespace."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        for found in cli.descendants(unshare.pid):
            words = [line.split() for line in cli.read(f"/proc/{found}/status").splitlines() if line.startswith("NSpid:")]
            if words and words[0][-1] == str(pid) and len(words[0]) > 2:
                return found
        time.sleep(0.01)
    raise cli.Failure("nothing was restored in the namespace")


# It says how far it is, of each namespace in a file of its own; the end of its memory is looked at seldom.
MANY = """
size = %d
m = mmap.mmap(-1, size, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
for i in range(0, size, 4096):
    m[i:i + 8] = i.to_bytes(8, "little")
count = tick
def tick():
    count()
    assert m[:8] == bytes(8) and (ticks %% 8 or m[size - 4096:size - 4088] == (size - 4096).to_bytes(8, "little"))
    with open("state." + os.readlink("/proc/self/ns/pid")[5:-1], "w") as file:
        file.write(str(ticks))
"""


def restore_many(w, target, images, count, *options):
    """Gives the commands, which wait for what they have restored, and the restored processes, which run."""
    runs = [subprocess.Popen(["unshare", "-p", "-f", "--kill-child", "--mount-proc", cli.BINARY, "restore", "process", "--no-server", "--path", images,
                              *options], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=target.log, start_new_session=True)
            for _ in range(count)]
    pids = [inner(run, target.pid) for run in runs]
    states = [os.path.join(w.work, "state." + os.readlink(f"/proc/{pid}/ns/pid")[5:-1]) for pid in pids]
    end = time.monotonic() + DEADLINE
    while not all(os.path.exists(path) and cli.read(path) for path in states):
        expect(time.monotonic() < end, "they do not all go on")
        time.sleep(0.01)
    time.sleep(2)
    for pid in pids:
        expect(cli.state_of(pid) in ("S", "R", "D"), "one of them has ended")
    return runs, pids


def test_many_from_one(w):
    """Ten of one checkpoint, each in a pid namespace of its own: what they do not touch none of them has. One of them is dumped, with all of it."""
    size, count, sums = 64 << 20, 10, []
    images, target = w.checkpoint(MANY % size)
    for lazy in ("--lazy=all", "--lazy=touched"):
        runs, pids = restore_many(w, target, images, count, lazy)
        sums.append(sum(map(pss_kib, pids)))
        if lazy == "--lazy=touched":
            kept, others = w.make_dir("again"), sum(map(pss_kib, pids[1:]))
            cli.run("nsenter", ["-t", pids[0], "-p", "-m", cli.BINARY, "dump", "process", target.pid, "--no-server", "--dir", kept, "--name", "one",
                                "--leave-running"]).good()
            saved = sum(entry.stat().st_size for entry in os.scandir(os.path.join(kept, "one")) if entry.name.startswith("pages-"))
            expect(saved >= size, f"the dump has {saved} bytes of its memory")
            expect(sum(map(pss_kib, pids[1:])) < others + 4096, "the dump of one has brought the memory of the others")
        for run in runs:
            run.kill()
            run.wait()
    print(f"# ten restores of {size >> 20} MiB have {sums[0] >> 10} MiB together, with what they touch alone {sums[1] >> 10} MiB", flush=True)
    expect(sums[1] < sums[0] / 4, sums)


def test_lazy_pages(w):
    """criu's two commands: one waits for the restore and its pages, the other restores. What goes wrong with either the first tells."""
    images, target = w.checkpoint("m = bytearray(os.urandom(32 << 20))\n")
    socket_path = os.path.join(images, "lazy-pages.socket")

    def wait_for_pages():
        ready, theirs = os.pipe()
        waits = subprocess.Popen([w.criu_path, "lazy-pages", "-D", images, "--status-fd", str(theirs)], pass_fds=[theirs], stdin=subprocess.DEVNULL,
                                 stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(theirs)
        expect(os.read(ready, 2) == b"\0" and os.path.exists(socket_path), "it is not ready")
        os.close(ready)
        return waits

    waits = wait_for_pages()
    w.criu("lazy-pages", "-D", images).error("another lazy-pages waits")
    w.criu("restore", "-d", "-D", images, "--lazy-pages").good()
    expect(waits.wait(DEADLINE) == 0, "it has not seen that all pages came")
    expect(not os.path.exists(socket_path), "its socket stays")
    target.unharmed()
    waits = wait_for_pages()
    w.criu("restore", "-d", "-D", images, "--lazy-pages").error("is taken by another process")
    expect(waits.wait(DEADLINE) == 1, "it has not seen that the restore failed")
    os.kill(target.pid, signal.SIGKILL)
    wait_gone(target.pid)
    w.criu("lazy-pages", "-D", images, "-d").good()
    w.criu("restore", "-d", "-D", images, "--lazy-pages").good()
    target.unharmed()
    end = time.monotonic() + DEADLINE
    while os.path.exists(socket_path):
        expect(time.monotonic() < end, "the one in the background does not end")
        time.sleep(0.01)


def test_action_script(w):
    log, script = os.path.join(w.work, "log"), os.path.join(w.work, "script")
    with open(script, "w") as file:
        file.write(f"#!/bin/sh\necho $CRTOOLS_SCRIPT_ACTION $CRTOOLS_IMAGE_DIR $CRTOOLS_INIT_PID >> {log}\n"
                   f"test $CRTOOLS_SCRIPT_ACTION != \"$(cat {w.work}/fail 2>&-)\"\n")
    os.chmod(script, 0o755)
    target, images = Target(w.work), w.make_dir()
    for moment in ("pre-dump", "post-dump"):
        with open(os.path.join(w.work, "fail"), "w") as file:
            file.write(moment)
        w.criu("dump", "-t", target.pid, "-D", images, "--action-script", script).error(f"exit status 1 at {moment}")
        expect(not os.listdir(images), os.listdir(images))
        target.unharmed()
    os.unlink(os.path.join(w.work, "fail"))
    os.unlink(log)
    w.criu("dump", "-t", target.pid, "-D", images, "--action-script", script, cwd=w.work).good()
    wait_gone(target.pid)
    moments = [line.split() for line in cli.read(log).splitlines()]
    expect([m[0] for m in moments] == ["pre-dump", "post-dump"] and all(m[1] == images for m in moments), moments)
    for moment in ("pre-restore", "post-restore", "pre-resume"):
        with open(os.path.join(w.work, "fail"), "w") as file:
            file.write(moment)
        w.criu("restore", "-d", "-D", images, "--action-script", script).error(f"exit status 1 at {moment}")
        expect(cli.state_of(target.pid) in (None, "Z"), "something was restored")
        cli.reap()
    os.unlink(os.path.join(w.work, "fail"))
    os.unlink(log)
    w.criu("restore", "-d", "-D", images, "--action-script", script, "--action-script", f"echo second >> {log}").good()
    target.unharmed()
    moments = [line.split() for line in cli.read(log).splitlines() if line != "second"]
    expect([m[0] for m in moments] == ["pre-restore", "post-restore", "pre-resume", "post-resume"], moments)
    expect(all(m[2] == str(target.pid) for m in moments[1:]) and len(moments[0]) == 2, moments)
    expect(cli.read(log).count("second") == 4, cli.read(log))


def test_configured(w):
    """criu(8)'s syntax: quotes with escaped quotes in them, comments, options without a value, negated ones, lists."""
    work = w.make_dir('my "work" directory')
    images, log = w.make_dir(), os.path.join(w.work, "log")
    config = os.path.join(w.work, "config")
    target = Target(w.work)
    quoted = work.replace('"', '\\"')
    with open(config, "w") as file:
        file.write(f"# a comment\nleave-running\nwork-dir \"{quoted}\"\nlog-file here\n  verbosity 4\nno-leave-stopped   # another\n\n"
                   f"images-dir {images}\naction-script \"echo one >> {log}\"\naction-script \"echo two >> {log} # of the script\" # of the file\n")
    w.criu("dump", "-t", target.pid, "--config", config).good()
    target.unharmed()
    expect(os.path.exists(os.path.join(work, "here")), os.listdir(w.work) + os.listdir(work))
    expect(cli.read(log).split() == ["one", "two"] * 2, cli.read(log))
    fermata("inspect", images).good()
    other = w.make_dir("other")
    w.criu("dump", "-t", target.pid, "-D", other, "--no-leave-running", "--config", config).good()
    wait_gone(target.pid)
    fermata("inspect", other).good()


def test_skip_in_flight(w):
    """Packets that wait in raw and packet sockets: only who takes them sees them."""
    own = "s = socket.socket(socket.AF_INET, socket.SOCK_RAW, 252)\ns.sendto(b'x', ('127.0.0.1', 0))"
    packet = ("s = socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x88b6))\ns.bind(('lo', 0x88b6))\n"
              "s.sendto(b'x', ('lo', 0x88b6))")
    ping = ("s = socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP)\ns.sendto(bytes([8]) + bytes(7), ('127.0.0.1', 0))\n"
            "import select\nselect.select([s], [], [], 9)")
    first, last = map(int, cli.read("/proc/sys/net/ipv4/ping_group_range").split())
    for i, setup in enumerate((own, packet) + ((ping,) if first <= 0 <= last else ())):
        target = Target(w.work, setup)
        images = w.make_dir(f"images{i}")
        w.criu("dump", "-t", target.pid, "-D", images).error("a packet that was not read yet", "--skip-in-flight")
        target.unharmed()
        w.criu("dump", "-t", target.pid, "-D", images, "--skip-in-flight").good()
        wait_gone(target.pid)
        w.criu("restore", "-d", "-D", images).good()
        target.wait()
        os.kill(target.pid, signal.SIGKILL)
        wait_gone(target.pid)


def test_router_alert(w):
    """The kernel tells that a socket gets such packets, not of which number."""
    target = Target(w.work, "s = socket.socket(socket.AF_INET6, socket.SOCK_RAW, 255)\ns.setsockopt(socket.IPPROTO_IPV6, 22, 5)")
    w.criu("dump", "-t", target.pid, "-D", w.work).error("IPV6_ROUTER_ALERT", "close it")
    target.unharmed()


def test_connections_without_repair(w):
    """Multipath TCP and vsock: connections are refused by name, listeners with some that wait unless they may be dropped."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262).close()
    except OSError:
        raise cli.Skip("no Multipath TCP") from None
    listen = "l = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\nl.bind(('127.0.0.1', 0))\nl.listen(5)\n"
    connect = "c = socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262)\nc.connect(l.getsockname())\n"
    target = Target(w.work, listen + connect + "a, _ = l.accept()\n")
    w.criu("dump", "-t", target.pid, "-D", w.work, "--tcp-established").error("is a connection of Multipath TCP", "let the program do without")
    target.unharmed()
    target = Target(w.work, listen + "c = socket.create_connection(l.getsockname())\nc.close()\n")
    w.criu("dump", "-t", target.pid, "-D", w.work, "--tcp-established").error("connections not accepted yet", "--skip-in-flight")
    target.unharmed()
    # One of those that share a port can't be asked for: what comes goes to any of them.
    target = Target(w.work, "l = socket.socket()\nl.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)\nl.bind(('127.0.0.1', 0))\nl.listen(5)\n"
                            "c = socket.create_connection(l.getsockname())\n")
    w.criu("dump", "-t", target.pid, "-D", w.work, "--tcp-established").error("connections not accepted yet", "SO_REUSEPORT", "--skip-in-flight")
    target.unharmed()


def test_threads_at_once(w):
    """Threads in calls that were interrupted are all on their way before one is waited for, and niced only then: on a busy machine each turn takes seconds."""
    if not shutil.which("strace"):
        raise cli.Skip("needs strace")
    target = Target(w.work, "import select\ndef wait():\n    os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), 7)\n    select.poll().poll(3600000)\n"
                            "for _ in range(9):\n    threading.Thread(target=wait, daemon=True).start()\ntime.sleep(0.2)")
    images, calls = w.make_dir(), os.path.join(w.work, "calls")
    w.criu("dump", "-t", target.pid, "-D", images).good()
    cli.reap()
    w.criu("restore", "-d", "-D", images, before=["strace", "-o", calls, "-e", "trace=ptrace,setpriority"]).good()
    target.unharmed()
    tids = {int(tid) for tid in os.listdir(f"/proc/{target.pid}/task")} - {target.pid}
    expect(len(tids) == 9 and all(os.getpriority(os.PRIO_PROCESS, tid) == 7 for tid in tids), tids)
    done = [(int(tid), what == "setpriority") for what, tid in re.findall(r"^(?:ptrace\(PTRACE_SYSCALL|(setpriority)\(PRIO_PROCESS), (\d+)", cli.read(calls), re.M) if int(tid) in tids]
    expect([{tid for tid, _ in done[at:at + 9]} for at in (0, 9, 18)] == [tids] * 3 and [niced for _, niced in done] == [False] * 18 + [True] * 9, done)


def test_lsm_profile(w):
    """Without a security module that has labels it changes nothing, and says so."""
    target, images = Target(w.work), w.make_dir()
    w.criu("dump", "-t", target.pid, "-D", images).good()
    cli.reap()
    for bad in ("apparmor", "apparmor:", "smack:a"):
        w.criu("restore", "-d", "-D", images, "--lsm-profile", bad).error(f"--lsm-profile is apparmor:NAME or selinux:LABEL, not {bad}")
    with contextlib.suppress(OSError):
        cli.read("/proc/self/attr/current")
        w.criu("restore", "-d", "-D", images, "--lsm-profile", "apparmor:a").error("not there yet", "run it under a with aa-exec -p")
        return
    result = w.criu("restore", "-d", "-D", images, "--lsm-profile", "apparmor:a").good()
    expect("--lsm-profile apparmor:a does nothing: this kernel has no security module with labels" in result.out + result.err, result.err)
    target.unharmed()


def test_port_in_time_wait(w):
    """The program was killed, and a connection that it had closed keeps its port for a minute: a restore does not wait for that."""
    target = Target(w.work, "l = socket.socket()\nl.bind(('127.0.0.1', 0))\nl.listen(5)\nopen('port', 'w').write(str(l.getsockname()[1]))\n"
                            "def serve():\n    while True:\n        c, _ = l.accept()\n        c.close()\n"
                            "threading.Thread(target=serve, daemon=True).start()\n")
    port, images = int(cli.read(os.path.join(w.work, "port"))), w.make_dir()
    w.criu("dump", "-t", target.pid, "-D", images, "-R").good()
    for _ in range(3):
        with socket.create_connection(("127.0.0.1", port)) as client:
            client.recv(1)
    os.kill(target.pid, signal.SIGKILL)
    wait_gone(target.pid)
    with socket.socket() as other:
        try:
            other.bind(("127.0.0.1", port))
            raise cli.Skip("a port can be bound while connections of it are in TIME-WAIT")
        except OSError:
            pass
    w.criu("restore", "-d", "-D", images).good()
    target.unharmed()
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.recv(1)


def test_killed_just_now(w):
    """Who kills the program and calls restore in one breath need not wait until the kernel has taken its memory down."""
    target = Target(w.work, "big = bytearray(1 << 28)\nbig[::4096] = b'x' * (1 << 16)\n")
    images = w.make_dir()
    w.criu("dump", "-t", target.pid, "-D", images, "-R").good()
    reaper = threading.Thread(target=os.waitpid, args=(target.pid, 0))
    reaper.start()
    os.kill(target.pid, signal.SIGKILL)
    w.criu("restore", "-d", "-D", images).good()
    reaper.join()
    target.unharmed()


def test_from_another_class(w):
    """The restoring command's own scheduling is not the program's, nor is where it may run."""
    images, target = w.checkpoint()
    try:
        os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))
        os.sched_setscheduler(0, os.SCHED_OTHER, os.sched_param(0))
    except PermissionError:
        raise cli.Skip("no right to a real-time class") from None
    cpus = os.sched_getaffinity(0)
    for before in (["chrt", "-f", "1"], ["chrt", "-b", "0"], ["nice", "-n", "7"], ["taskset", "-c", str(min(cpus))], ["ionice", "-c", "2", "-n", "7"]):
        cli.run(before[0], before[1:] + [w.criu_path, "restore", "-d", "-D", images]).good()
        target.unharmed()
        expect(os.sched_getscheduler(target.pid) == os.SCHED_OTHER and os.getpriority(os.PRIO_PROCESS, target.pid) == 0, before)
        expect(os.sched_getaffinity(target.pid) == cpus, before)
        expect("none" in cli.run("ionice", ["-p", target.pid]).good().out, before)
        os.kill(target.pid, signal.SIGKILL)
        wait_gone(target.pid)


def test_highest_descriptors(w):
    """A program that keeps its own descriptors at the limit, as valgrind does: there is no room above them."""
    limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    limit = limit if 0 < limit < 1 << 20 else 1 << 20
    body = (f"import resource, select\nlimit = {limit}\n"
            "resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))\n"
            "r, w = os.pipe()\nfor fd in (r, w):\n    os.dup2(fd, limit - 1 - fd)\n    os.close(fd)\n"
            "top, low = limit - 1 - r, limit - 1 - w\npoll = select.epoll()\npoll.register(top, select.EPOLLIN)\nplain = tick\n"
            "def tick():\n    os.write(low, b'x')\n    assert poll.poll(5) == [(top, select.EPOLLIN)] and os.read(top, 10) == b'x'\n    plain()\n")
    images, target = w.checkpoint(body)
    w.criu("restore", "-d", "-D", images).good()
    target.unharmed()
    numbers = sorted(map(int, os.listdir(f"/proc/{target.pid}/fd")))
    expect(len([fd for fd in numbers if fd > limit - 10]) == 2 and numbers[-3] < 20, numbers)


def set_processor(path, tag, word):
    """Of the words of CPUID behind that tag, four bytes each, one that has everything."""
    with open(path, "rb") as file:
        data = bytearray(file.read())
    at = -1
    for _ in range(word + 1):
        at = data.index(tag, at + 1)
    data[at + len(tag):at + len(tag) + 4] = b"\xff" * 4
    with open(path, "wb") as file:
        file.write(data)


def test_processor(w):
    """One that lacks instructions which programs have chosen when they began: refused before anything runs, unless the user knows better."""
    images, target = w.checkpoint()
    os.unlink(os.path.join(images, "fermata.json"))
    w.criu("restore", "-d", "-D", images, "--cpu-cap=all").good()
    target.unharmed()
    os.kill(target.pid, signal.SIGKILL)
    wait_gone(target.pid)
    set_processor(os.path.join(images, "inventory.img"), b"\xdd\x3e", 4)  # field 1003; no processor has all that stands there
    cli.restore_refused(w, images, "the processor lacks", "avx512_4vnniw", "--cpu-cap none")
    w.criu("restore", "-d", "-D", images, "--cpu-cap=ins").error("the processor lacks")
    w.criu("restore", "-d", "-D", images, "--cpu-cap=sse").error("there is no sse")
    fermata("inspect", images).good()
    for option in ("--cpu-cap=none", "--cpu-cap=fpu", "--cpu-cap=all,^all"):
        w.criu("restore", "-d", "-D", images, option).good()
        target.unharmed()
        os.kill(target.pid, signal.SIGKILL)
        wait_gone(target.pid)


def test_cpuinfo(w):
    images = w.make_dir()
    w.criu("cpuinfo", "check", "-D", images).error("cannot read", "cpuinfo.img")
    w.criu("cpuinfo", "dump", "-D", images).good()
    w.criu("cpuinfo", "check", "-D", images).good()
    w.criu("cpuinfo", "compare", "-D", images).error("takes dump or check")
    path = os.path.join(images, "cpuinfo.img")
    with open(path, "rb") as file:
        data = file.read()
    with open(path, "wb") as file:
        file.write(data[:-3])
    w.criu("cpuinfo", "check", "-D", images).error("is damaged")


def test_sem_undo(w):
    """What a process has to undo at its end can be had again only with the semaphores."""
    target = Target(w.work, "import ctypes\nlibc = ctypes.CDLL(None)\ns = libc.semget(0, 1, 0o600)\n"
                            "libc.semop(s, (ctypes.c_short * 3)(0, 1, 0x1000), 1)\nopen('set', 'w').write(str(s))\n")
    images = w.make_dir()
    w.criu("dump", "-t", target.pid, "-D", images).error("System V semaphores", "--host-ipc")
    target.unharmed()
    w.criu("dump", "-t", target.pid, "-D", images, "--host-ipc").good()
    wait_gone(target.pid)
    libc = ctypes.CDLL(None)
    number = int(cli.read(os.path.join(w.work, "set")))
    expect(libc.semctl(number, 0, 12) == 0, "it is not undone")  # GETVAL
    w.criu("restore", "-d", "-D", images).good()
    target.wait()
    expect(libc.semctl(number, 0, 12) == 1, "it has not its value again")
    os.kill(target.pid, signal.SIGKILL)
    wait_gone(target.pid)
    expect(libc.semctl(number, 0, 12) == 0, "it is not undone after restore")
    libc.semctl(number, 0, 0)


TESTS = [("how_" + name[5:], function) for name, function in list(globals().items()) if name.startswith("test_")]

if __name__ == "__main__":
    cli.main(TESTS)
