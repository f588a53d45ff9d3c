#!/usr/bin/env python3
"""Runs the unit tests and the live tests; arguments select tests by a part of their name.

--no-dump    runs only the live programs, also those still pending, with no dump between: proves the programs right
--pending    runs only the live programs that are still pending, through dump and restore
--user       runs all live programs as an ordinary user with two capabilities (--unprivileged)
--packed     runs all live programs through archives and stores only, each by other kinds in turn
--modes=A,B  runs the live programs in these modes only
--chain      runs all live programs through a pre-dump and a dump that has it as its parent only

LIVE_CRIU=PATH runs the live tests with another binary that takes criu's options. LIVE_PATIENCE=N waits N times as long for everything."""
import ctypes
import glob
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time

from support import descendants

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PATIENCE = int(os.environ.get("LIVE_PATIENCE", "1"))
DEADLINE = 10 * PATIENCE
UNIT_DEADLINE = 120 * PATIENCE
PR_SET_CHILD_SUBREAPER = 36
# leave: saved while it runs; again: the same twice, restored from the second; still: stopped for all of a dump that leaves it running.
MODES = ("stop", "leave", "again", "still", "rounds", "lazy")
RUNS_ON = ("leave", "again", "still")
# Through an archive as well: what there is to bring back from other places than small images.
PACKED = ("aio", "anon", "big", "cow", "deep", "file_deleted", "file_sparse", "fork", "forker", "hugetlb", "ksm", "many_vmas", "map_anon_shared",
          "map_memfd", "map_private", "memfd", "mlock", "orphan", "pipe", "shares", "sparse", "sysv_shm", "threads_many", "tree_threads",
          "unix_tree", "wide", "zero_pages", "zombies")
# With a pre-dump before: what there is to memory, and who shares it or changes it by itself.
CHAINED = ("aio", "anon", "big", "brk", "cow", "droppable", "fork", "forker", "growsdown", "hugetlb", "io_uring", "ksm", "leader_gone", "madvise", "many_vmas",
           "map_anon_shared", "map_memfd", "map_private", "map_shared", "mlock", "mprotect", "mseal", "shares_memory", "shares_all", "spawner", "sysv_shm",
           "thread_churn", "threads_many", "userfaultfd", "wide", "zero_pages")
# As an ordinary user as well.
USER = ("aio", "anon", "brk", "env", "epoll", "eventfd", "fork", "forker", "io_uring", "locks", "map_shared", "memfd", "pipe", "proctitle", "pty_ctty",
        "rlimits", "sessions", "shares", "signals", "threads_many", "timers_posix", "tree_threads", "unix_pairs", "unix_rights", "zombies")
SETPRIV = ["setpriv", "--reuid", "65534", "--regid", "65534", "--clear-groups"]
RIGHTS = ["--inh-caps=+checkpoint_restore,+sys_ptrace", "--ambient-caps=+checkpoint_restore,+sys_ptrace"]
# As after a boot of the machine: with clocks that are behind what they were. What has to do with time, and with who is whose child.
BOOTED = ("clone_signal", "epoll", "forker", "io_uring", "io_uring_requests", "itimer", "itimers", "leader_gone", "orphan", "pdeathsig", "restart", "rseq", "seccomp_filter", "sessions", "shares_all",
          "signals", "sleep", "sleeps", "spawner", "sysv_shm", "tcp_established", "threads_many", "timeouts", "timerfd", "timers_posix", "timers_ticking", "vdso", "zombies")
# As the first process of a pid namespace, in others of its own too: what has to do with ids, and with what there is once in a namespace.
INSIDE = ("anon", "caps", "creds", "epoll", "fasync", "forker", "groups", "io_uring", "leader_gone", "locks", "mqueue", "mqueue_notify", "orphan", "pidfd", "pty", "pty_ctty", "restart",
          "seccomp_threads", "sem_undo", "sessions", "shares_all", "signals", "sigqueue", "sysv_ipc", "sysv_shm", "threads_many", "timers_posix", "tree_threads", "unix_creds", "unix_rights",
          "zombies")
# Without what others have mounted for themselves, and may unmount meanwhile.
ALONE = r"""for point in $(awk '$5 ~ "^/(tmp|run|var|mnt)/" { print $5 }' /proc/self/mountinfo); do umount -l "$point" 2>/dev/null; done; exec setsid "$@" """
UNSHARE = ["unshare", "--pid", "--fork", "--mount-proc", "--uts", "--ipc", "sh", "-c", ALONE, "sh"]
KINDS = ("lz4", "zstd", "store", "tar", "gzip", "zlib", "lz4+", "tar+")  # with +: in several files
# What a program needs beyond the plain options.
DUMP_OPTIONS = {
    "calls_broken": ["--host-ipc"],
    "fd_inherited": ["--file-locks"],
    "file_deleted_dir": ["--link-remap"],
    "file_deleted_linked": ["--link-remap"],
    "leader_gone_more": ["--file-locks"],
    "file_systems_more": ["--file-locks"],
    "locks": ["--file-locks"],
    "thread_tables": ["--file-locks"],
    "locks_mapped": ["--file-locks"],
    "mqueue": ["--host-ipc"],
    "packet": ["--skip-in-flight"],
    "raw": ["--skip-in-flight"],  # it hears the pings of others
    "sem_undo": ["--host-ipc"],
    "sock_options": ["--skip-in-flight"],
    "sysv_ipc": ["--host-ipc"],
}
# Not dumped twice: the names that the first dump gives files stay for its checkpoint, and are in the way of the second; a message without bytes is not
# seen by the second (kinds/sock.c).
ONCE = {"file_deleted_linked", "file_deleted_dir", "udp_queued", "unix_pairs", "unix_senders"}
DUMP_OPTIONS |= {f"tcp_{name}": ["--tcp-established"] for name in ("established", "states", "options", "opening", "waiting")}
DUMP_OPTIONS["ns_net"] = ["--tcp-established"]
RESTORE_OPTIONS = {name: ["--tcp-established"] for name in DUMP_OPTIONS if "--tcp-established" in DUMP_OPTIONS[name]}
# What a restore must refuse, and the words in its reason.
REFUSED = {"vdso_inside": "was inside the vdso"}
# What looks at the flags of its memory, which has one more as long as pages come.
SEES_FLAGS = ("madvise",)
# What a dump must refuse under kernels older than that, and the words in its reason.
OLDER = {
    "io_uring": ((6, 0), "Linux 6.0"),
    "io_uring_disk": ((6, 16), "requests under way"),
    "io_uring_polled": ((6, 13), "is an io_uring ring with"),
    "io_uring_requests": ((6, 16), "requests under way"),
    "leader_gone": ((6, 9), "before Linux 6.9"),
    "leader_gone_more": ((6, 9), "before Linux 6.9"),
    "syscall_dispatch": ((6, 4), "before Linux 6.4"),
    "syscall_dispatch_threads": ((6, 4), "before Linux 6.4"),
}
# Done to the images between dump and restore.
ALTER = {}
NO_DUMP = "no-dump"
counts = {"passed": 0, "failed": 0, "skipped": 0}


class Failure(Exception):
    pass


class Skip(Exception):
    pass


class Refused(Exception):
    """A restore was refused with the reason that the test asks for."""


def report(kind, name, why=""):
    counts[kind] += 1
    word = {"passed": "ok", "failed": "not ok", "skipped": "skip"}[kind]
    print(f"{word} {name}{': ' + why if why else ''}", flush=True)


def run_unit(path):
    name = os.path.relpath(path, ROOT)
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        try:
            status = subprocess.run([path], stdin=subprocess.DEVNULL, stdout=out, stderr=err, timeout=UNIT_DEADLINE,
                                    cwd=ROOT).returncode
        except subprocess.TimeoutExpired:
            status = "deadline"
        out.seek(0)
        err.seek(0)
        lines = out.read().decode(errors="replace").splitlines()
        errors = err.read().decode(errors="replace")
    failed = lines_seen = 0
    for line in lines:
        for prefix, kind in (("not ok ", "failed"), ("ok ", "passed"), ("skip ", "skipped")):
            if line.startswith(prefix):
                label, _, why = line[len(prefix):].partition(": ")
                report(kind, f"{name} {label}", why)
                lines_seen += 1
                failed += kind == "failed"
                break
    if status != 0 and not failed:
        report("failed", name, f"ended with {status}")
        failed = 1
    elif not lines_seen:
        report("failed", name, "printed no result")
        failed = 1
    if failed:
        print(errors, end="", flush=True)


def reap_all(kill):
    """Waits until this process has no child left; with kill, kills all that descends from it."""
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        if kill:
            for pid in descendants(os.getpid()):
                try:
                    os.kill(pid, signal.SIGKILL)
                except ProcessLookupError:
                    pass
        try:
            while os.waitpid(-1, os.WNOHANG)[0]:
                pass
        except ChildProcessError:
            return
        time.sleep(0.005)
    raise Failure(f"still there after {DEADLINE} s: {descendants(os.getpid())}")


def lines_of(path):
    with open(path) as file:
        return [line.rstrip("\n") for line in file.readlines() if line.endswith("\n")]


def wait_lines(path, number, what):
    end = time.monotonic() + DEADLINE
    while time.monotonic() < end:
        lines = lines_of(path)
        if len(lines) >= number:
            return lines
        time.sleep(0.005)
    raise Failure(f"no {what} within {DEADLINE} s")


def state_of(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0]
    except OSError:
        return None


def wait_dead(pid):
    """A killed task may still be at work on its own end, with a lot of memory or with inotify watches."""
    end = time.monotonic() + DEADLINE
    while state_of(pid) not in (None, "Z", "X"):
        if time.monotonic() > end:
            raise Failure(f"after dump the task is in state {state_of(pid)}")
        time.sleep(0.001)


def criu(binary, work, arguments, mode=None):
    # Files, not pipes: a restored task that held an end would keep the reader waiting.
    with tempfile.TemporaryFile() as log:
        try:
            before, more = (SETPRIV + RIGHTS, ["--unprivileged"]) if mode == "user" else ([], [])
            if mode == "boot" and arguments[0] == "restore":
                behind = -min(1000, int(time.monotonic()) - 1)
                before = ["unshare", "--time", "--fork", f"--monotonic={behind}", f"--boottime={behind}"]
            status = subprocess.run(before + [binary] + arguments[:1] + more + arguments[1:], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                                    timeout=DEADLINE, cwd=work).returncode
        except subprocess.TimeoutExpired:
            status = "deadline"
        log.seek(0)
        text = log.read().decode(errors="replace")
    if status != 0:
        raise Failure(f"criu {arguments[0]} ended with {status}\n{text}")
    return text


def alter_vdso(images, work):
    """Another kernel's vdso: another name in its version information, as the code is not run."""
    os.unlink(os.path.join(images, "fermata.json"))  # has the checksums
    found = 0
    for path in glob.glob(os.path.join(images, "mm-*.img")):
        with open(path, "rb") as file:
            data = file.read()
        found += b"\x7fELF" in data and b"LINUX_2.6" in data
        with open(path, "wb") as file:
            file.write(data.replace(b"LINUX_2.6", b"LINUX_1.2"))
    if found != 1:
        raise Failure(f"{found} of the images have a vdso")
    with open(os.path.join(work, "altered"), "w"):
        pass


ALTER["vdso_foreign"] = ALTER["vdso_inside"] = alter_vdso


def older_refuses(name, failure):
    """Whether this kernel is one under which the dump must be refused, and was, in the right words."""
    version, words = OLDER.get(name, ((0, 0), ""))
    release = tuple(int(word) for word in os.uname().release.split("-")[0].split(".")[:2])
    return release < version and words in str(failure)


def wait_unwatched(pid):
    """Until its memory is there: as long as it is watched, its flags are others. Some are watched by themselves."""
    end = time.monotonic() + 2
    while time.monotonic() < end:
        try:
            with open(f"/proc/{pid}/smaps") as smaps:
                if not any(line.startswith("VmFlags:") and " um " in line for line in smaps):
                    return
        except OSError:
            return
        time.sleep(0.01)


def packed_round(name, pid, binary, work, log):
    """Through an archive or a store, then through another whose memory comes when it is touched."""
    fermata = os.path.join(os.path.dirname(binary), "fermata")
    for number, lazy in enumerate(([], ["--lazy=all"])):
        kind = KINDS[(sum(name.encode()) + 3 * number) % len(KINDS)]
        images = os.path.join(work, f"images{number}")
        os.mkdir(images)
        place = ["--dir", "store:" + images, "--compression", "lz4"] if kind == "store" else \
            ["--dir", images, "--compression", kind.rstrip("+"), "--streams", "3" if kind[-1] == "+" else "0"]
        log.append(criu(fermata, work, ["dump", "process", str(pid), "--name", "packed", *place] + DUMP_OPTIONS.get(name, [])))
        wait_dead(pid)
        reap_all(kill=False)
        log.append(criu(fermata, work, ["restore", "process", "--detach", "--path", log[-1].split()[-1], *lazy] + RESTORE_OPTIONS.get(name, [])))
        if lazy:
            wait_unwatched(pid)


def inside_rounds(name, pid, binary, work, log):
    """A tree in namespaces of its own: ended by the first dump, runs on behind the second. Gives its id after that; as it sees itself that is 1."""
    pidfile = os.path.join(work, "pid")
    for number, more in enumerate(([], ["-R"], ["-R", "--no-live"])):
        images = os.path.join(work, f"images{number}")
        os.mkdir(images)
        log.append(criu(binary, work, ["dump", "-t", str(pid), "-D", images] + more + DUMP_OPTIONS.get(name, [])))
        if more and state_of(pid) not in ("R", "S", "D"):
            raise Failure(f"after dump -R the task is in state {state_of(pid)}")
        if not more:
            wait_dead(pid)
        reap_all(kill=bool(more))
        log.append(criu(binary, work, ["restore", "-d", "-D", images, "--pidfile", pidfile] + RESTORE_OPTIONS.get(name, [])))
        pid = int(open(pidfile).read())
        os.unlink(pidfile)
        if state_of(pid) not in ("R", "S", "D"):
            raise Failure(f"after restore the task is in state {state_of(pid)}")
    return pid


def rounds(name, pid, mode, binary, work, log):
    """Takes the tree at pid through dump and restore as mode says; what criu printed is added to log."""
    for number in range({"rounds": 3, "again": 2, "lazy": 2, "boot": 2}.get(mode, 1)):
        images = os.path.join(work, f"images{number}")
        os.mkdir(images)
        os.chmod(images, 0o777)
        if mode == "chain":
            os.mkdir(os.path.join(work, "images-before"))
        try:
            if mode == "chain":
                log.append(criu(binary, work, ["pre-dump", "-t", str(pid), "-D", os.path.join(work, "images-before"), "--track-mem"]))
            log.append(criu(binary, work, ["dump", "-t", str(pid), "-D", images] + (["-R"] if mode in RUNS_ON else []) +
                            (["--track-mem", "--prev-images-dir", "../images-before"] if mode == "chain" else []) +
                            (["--no-live"] if mode == "still" else []) +
                            DUMP_OPTIONS.get(name, []), mode))
        except Failure as failure:
            if older_refuses(name, failure):
                raise Refused from None
            raise
        if mode in RUNS_ON:
            if state_of(pid) not in ("R", "S", "D"):
                raise Failure(f"after dump -R the task is in state {state_of(pid)}")
        else:
            wait_dead(pid)
        if mode == "again" and number == 0:
            continue
        reap_all(kill=mode in RUNS_ON)
        if name in ALTER:
            ALTER[name](images, work)
        try:
            log.append(criu(binary, work, ["restore", "-d", "-D", images] + (["--lazy-pages"] if mode == "lazy" else []) +
                            RESTORE_OPTIONS.get(name, []), mode))
        except Failure as failure:
            if name not in REFUSED or REFUSED[name] not in str(failure):
                raise
            raise Refused from None
        if name in REFUSED:
            raise Failure("the restore was not refused")
        if state_of(pid) not in ("R", "S", "D"):
            said = "; ".join(lines_of(os.path.join(work, "report")))
            raise Failure(f"after restore the task is in state {state_of(pid)}: {said}")
        if mode == "lazy" and name in SEES_FLAGS:
            wait_unwatched(pid)


def live(path, mode, binary, work):
    verdict, log = os.path.join(work, "report"), []
    with open(verdict, "w"):
        os.chmod(verdict, 0o666)
    task = subprocess.Popen({"user": SETPRIV, "inside": UNSHARE}.get(mode, []) + [path, verdict], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                            stderr=subprocess.DEVNULL, start_new_session=True, cwd=work)
    pid = task.pid
    task.returncode = 0  # reaped by reap_all, never by Popen
    first = wait_lines(verdict, 1, "ready")[0]
    if first.startswith("skip: "):
        raise Skip(first[len("skip: "):])
    if first != "ready":
        raise Failure(f"before the dump: {first}")
    time.sleep(0.01)  # let it go from the line into its wait
    if mode == "inside":
        with open(f"/proc/{pid}/task/{pid}/children") as file:
            pid = int(file.read().split()[0])
    try:
        if mode == "packed":
            packed_round(os.path.basename(path).partition("_")[2], pid, binary, work, log)
        elif mode == "inside":
            pid = inside_rounds(os.path.basename(path).partition("_")[2], pid, binary, work, log)
        elif mode != NO_DUMP:
            rounds(os.path.basename(path).partition("_")[2], pid, mode, binary, work, log)
        if len(lines_of(verdict)) != 1:
            raise Failure(f"before the signal: {lines_of(verdict)[1:]}")
        os.kill(pid, signal.SIGUSR1)
        result = wait_lines(verdict, 2, "verdict")[1]
        if result.startswith("skip: "):
            raise Skip(result[len("skip: "):])
        if result != "ok":
            raise Failure(result.removeprefix("not ok: "))
        reap_all(kill=False)
    except Failure as failure:
        raise Failure("\n".join([str(failure)] + log).rstrip()) from None


def unmount_below(work):
    """What a program that failed has left mounted."""
    for line in reversed(lines_of("/proc/self/mounts")):
        if line.split()[1].startswith(work + "/"):
            subprocess.run(["umount", "-l", line.split()[1]], stderr=subprocess.DEVNULL, check=False)


class HugePages:
    """Enough of them for a test, where root may reserve them and the machine has the memory; given back behind it."""
    PATH, NEEDED = "/proc/sys/vm/nr_hugepages", 16

    def __init__(self, needed):
        self.before = int(lines_of(self.PATH)[0]) if needed and os.path.exists(self.PATH) and os.access(self.PATH, os.W_OK) else None

    def set(self, number):
        try:
            with open(self.PATH, "w") as file:
                file.write(str(number))
        except OSError:
            pass

    def __enter__(self):
        if self.before is not None and self.before < self.NEEDED:
            self.set(self.NEEDED)

    def __exit__(self, *_):
        if self.before is not None and self.before < self.NEEDED:
            self.set(self.before)


def run_live(path, mode, binary):
    with HugePages(os.path.basename(path) == "live_hugetlb"):
        run_live_in_folder(path, mode, binary)


def run_live_in_folder(path, mode, binary):
    name = f"{os.path.basename(path)} {mode}"
    work = tempfile.mkdtemp(prefix="fermata-live-")
    os.chmod(work, 0o777)
    try:
        live(path, mode, binary, work)
        report("passed", name)
    except Refused:
        report("passed", name)
    except Skip as skip:
        report("skipped", name, str(skip))
    except (Failure, OSError) as failure:
        report("failed", name, str(failure))
    finally:
        try:
            reap_all(kill=True)
        except Failure as failure:
            report("failed", name, f"clean-up: {failure}")
        unmount_below(work)
        shutil.rmtree(work, ignore_errors=True)


def programs(pattern):
    return sorted(path for path in glob.glob(os.path.join(ROOT, pattern))
                  if os.path.isfile(path) and os.access(path, os.X_OK))


def run_units(select, wanted):
    for build in ("build", "build-asan"):
        units = programs(f"{build}/tests/test_*")
        if not units and not wanted:
            report("failed", f"{build}/tests", "no unit tests are built")
        for path in units:
            if select(os.path.relpath(path, ROOT)):
                run_unit(path)


def run_lives(lives, modes, select, wanted):
    if not lives and not wanted:
        report("failed", "build/tests", "no live tests are built")
    binary = os.environ.get("LIVE_CRIU") or os.path.join(ROOT, "build/src/cli/fermata")
    with tempfile.TemporaryDirectory(prefix="fermata-bin-") as bin_dir:
        link = os.path.join(bin_dir, "criu")
        os.symlink(binary, link)
        os.symlink(binary, os.path.join(bin_dir, "fermata"))
        for path in lives:
            program = os.path.basename(path).partition("_")[2]
            more = [mode for mode, those in (("packed", PACKED), ("chain", CHAINED), ("user", USER), ("boot", BOOTED), ("inside", INSIDE)) if modes is MODES and program in those]
            for mode in (*modes, *more):
                name = f"{os.path.basename(path)} {mode}"
                if not select(name) or (mode == "again" and program in ONCE):
                    continue
                if os.geteuid() != 0:
                    report("skipped", name, "needs root")
                else:
                    run_live(path, mode, link)


def main():
    wanted = [word for word in sys.argv[1:] if not word.startswith("--")]
    options = [word for word in sys.argv[1:] if word.startswith("--")]
    chosen = [option.partition("=")[2].split(",") for option in options if option.startswith("--modes=")]
    options = [option for option in options if not option.startswith("--modes=")]
    if not set(options) <= {"--no-dump", "--pending", "--packed", "--chain", "--user"} or not set(sum(chosen, [])) <= set(MODES + ("packed", "chain", "user", "boot", "inside")):
        sys.exit(__doc__)
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0) != 0:
        sys.exit("cannot become a subreaper")
    select = lambda name: not wanted or any(word in name for word in wanted)
    modes = (NO_DUMP,) if "--no-dump" in options else ("packed",) if "--packed" in options else ("chain",) if "--chain" in options else ("user",) if "--user" in options else \
        tuple(chosen[0]) if chosen else MODES
    lives = [] if "--pending" in options else programs("build/tests/live_*")
    pending = programs("build/tests/pending_*") if options and not {"--packed", "--chain", "--user"} & set(options) else []
    if not options:
        run_units(select, wanted)
    run_lives(lives + pending, modes, select, wanted)
    print("{passed} passed, {failed} failed, {skipped} skipped".format(**counts), flush=True)
    sys.exit(1 if counts["failed"] or not sum(counts.values()) else 0)


if __name__ == "__main__":
    main()
