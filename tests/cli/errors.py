#!/usr/bin/env python3
"""Tests of the errors that a user meets at a dump and at a restore. Of an error is asked: one line that says what and what to do, an exit status that is
not zero, a target that runs on, and no files.

Arguments select tests by a part of their names. Runs as root."""
import ctypes
import os
import shutil
import signal
import subprocess
import time

from world import attach_strace, BINARY, descendants, DEADLINE, dump_refused, expect, Failure, fermata, kill_all, main, make_32, NOBODY, read, readable, reap, restore_refused, Result, Skip, snapshot, state_of, Target, tests_of, wait_gone


# ---- errors of dump ----


def free_pid():
    pid = int(read("/proc/sys/kernel/pid_max")) - 1
    while os.path.exists(f"/proc/{pid}"):
        pid -= 1
    return pid


def test_error_no_such_pid(w):
    pid = free_pid()
    dump_refused(w, pid, f"there is no process {pid}", "see ps")
    fermata("check", "process", pid).error(f"there is no process {pid}", "see ps")
    for bad in ("0", "x", "12x", ""):
        fermata("dump", "process", bad).error("no process id")
        fermata("check", "process", bad).error("no process id")


def test_error_ancestor(w):
    dump_refused(w, os.getpid(), f"process {os.getpid()}", "runs below it", "from elsewhere")
    fermata("check", "process", os.getpid()).error("runs below it")
    # Itself: a shell that becomes the program.
    images = w.make_dir()
    for command in (f"exec {w.criu_path} dump -t $$ -D {images}", f"exec {BINARY} check process $$"):
        task = subprocess.run(["sh", "-c", command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                              timeout=DEADLINE)
        Result([command], task.returncode, task.stdout.decode(), task.stderr.decode()).error("it is this command itself")
    expect(not os.listdir(images), os.listdir(images))


def test_error_kernel_thread(w):
    if " 0 " not in read("/proc/2/stat") or os.path.exists("/proc/2/exe") and os.path.lexists("/proc/2/exe") and readable("/proc/2/exe"):
        raise Skip("process 2 is no kernel thread here")
    dump_refused(w, 2, "process 2", "kernel thread")
    fermata("check", "process", "2").error("kernel thread")


def test_error_zombie(w):
    target = Target(w.work, "zombie = os.fork()\nif not zombie:\n    os._exit(0)\nos.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)")
    zombie = descendants(target.pid)[0]
    dump_refused(w, zombie, f"process {zombie}", "already ended", options=["--shell-job"], target=None)
    target.wait()


def test_error_not_root(w):
    if not shutil.which("setpriv"):
        raise Skip("needs setpriv")
    os.chmod(w.work, 0o777)
    target = Target(w.work)
    folder = w.make_dir("folder")
    os.chmod(folder, 0o777)
    w.criu("dump", "-t", target.pid, "-D", folder, before=NOBODY).error(f"cannot dump process {target.pid}", "needs root", "sudo")
    fermata("dump", "process", target.pid, "--dir", folder, before=NOBODY).error("needs root", "sudo")
    fermata("check", "process", target.pid, before=NOBODY).error("needs root", "sudo")
    w.criu("restore", "-D", folder, before=NOBODY).error("needs root", "sudo")
    target.unharmed()
    expect(not os.listdir(folder), os.listdir(folder))


class Shell:
    """A shell that counts in a file, as an ordinary user: everybody can read its program."""

    def __init__(self, work, before=tuple(NOBODY)):
        self.path = os.path.join(work, "ticks")
        code = f"n=0; while :; do n=$((n+1)); echo $n > {self.path}; sleep 0.02; done"
        task = subprocess.Popen([*before, "/bin/sh", "-c", code], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                start_new_session=True, cwd="/")
        task.returncode = 0
        self.pid = task.pid
        self.wait(0)

    def ticks(self):
        text = read(self.path) if os.path.exists(self.path) else ""
        return int(text) if text.strip() else 0

    def wait(self, before):
        end = time.monotonic() + DEADLINE
        while self.ticks() <= before:
            expect(time.monotonic() < end, "the shell does not go on")
            time.sleep(0.005)


def test_unprivileged(w):
    """An ordinary user, with two capabilities and without; what takes more says so (the live tests do the rest)."""
    if not shutil.which("setpriv"):
        raise Skip("needs setpriv")
    os.chmod(w.work, 0o777)
    rights = NOBODY + [f"--{kind}-caps=+checkpoint_restore,+sys_ptrace" for kind in ("inh", "ambient")]
    folder = w.make_dir("folder")
    os.chmod(folder, 0o777)
    target = Shell(w.work)
    w.criu("dump", "--unprivileged", "-t", target.pid, "-D", folder, before=NOBODY).error("needs CAP_CHECKPOINT_RESTORE and CAP_SYS_PTRACE")
    w.criu("dump", "-t", target.pid, "-D", folder, before=rights).error("needs root", "--unprivileged")
    target.wait(target.ticks())
    expect(not os.listdir(folder), os.listdir(folder))
    w.criu("dump", "--unprivileged", "-t", target.pid, "-D", folder, before=rights).good()
    reap()
    before = target.ticks()
    w.criu("restore", "--unprivileged", "-d", "-D", folder, before=rights).good()
    target.wait(before)
    status = read(f"/proc/{target.pid}/status")
    expect("Uid:\t65534\t65534\t65534\t65534\n" in status and "CapEff:\t0000000000000000\n" in status, status)
    # Another's, who may look at it and not be it.
    os.kill(target.pid, signal.SIGKILL)
    other, folder = w.make_dir("other"), w.make_dir("images")
    os.chmod(folder, 0o777)
    os.chmod(other, 0o777)
    target = Shell(other, ["setpriv", "--reuid", "65533", "--regid", "65533", "--clear-groups"])
    result = w.criu("dump", "--unprivileged", "-t", target.pid, "-D", folder, before=rights)
    reap()
    if result.status == 0:
        result = w.criu("restore", "--unprivileged", "-d", "-D", folder, before=rights)
    result.error("more rights than --unprivileged has")


def test_error_session(w):
    target = Target(w.work, session=False)
    dump_refused(w, target.pid, f"process {target.pid}", f"session {os.getsid(target.pid)}", "use --shell-job", target=target)


def test_error_descriptor(w):
    target = Target(w.work, "netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 11)\nos.dup2(netlink.fileno(), 77)\nnetlink.close()")
    dump_refused(w, target.pid, f"process {target.pid}", "descriptor 77 (socket:[", "a netlink socket", "close it", target=target)


OWNER = """import struct
s = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12)
s.bind((0, 0))
def message(type, flags, family, subsystem, payload=b""):
    return struct.pack("=IHHIIBB", 20 + len(payload), type, flags, 1, 0, family, 0) + struct.pack(">H", subsystem) + payload
table = struct.pack("=HH", 20, 1) + b"fermata-test" + bytes(4) + struct.pack("=HH", 8, 2) + struct.pack(">I", 2)
s.send(message(16, 1, 0, 10) + message(10 << 8, 0x405, 1, 0, table) + message(17, 1, 0, 10))
if struct.unpack("=i", s.recv(1000)[16:20])[0]:
    raise SystemExit("no tables with an owner")
"""


def test_error_netfilter_owner(w):
    """A table of nftables that goes with its socket (Linux 5.12)."""
    try:
        target = Target(w.work, OWNER)
    except Failure as e:
        raise Skip("no nftables, or no owners of tables") from e
    dump_refused(w, target.pid, "a netlink socket of protocol 12", "owns tables of nftables", "close it", target=target)


def test_error_pidfd_outside(w):
    target = Target(w.work, "outside = os.pidfd_open(os.getppid())")
    dump_refused(w, target.pid, "descriptor 4 (anon_inode:[pidfd])", f"is a pidfd of process or thread {os.getpid()}", "dump a parent of both",
                 target=target)


def test_error_core_dump(w):
    target = Target(w.work, "import resource\nresource.setrlimit(resource.RLIMIT_CORE, (-1, -1))\nzombie = os.fork()\n"
                            "if not zombie:\n    os.abort()\n"
                            "os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)")
    zombie = descendants(target.pid)[0]
    if not int(read(f"/proc/{zombie}/stat").split()[-1]) & 0x80:
        raise Skip("this machine writes no core dump")
    dump_refused(w, target.pid, f"process {zombie}", "core dump", f"let its parent {target.pid} reap it")


def test_error_epoll_spent(w):
    # A datagram socket with nothing to read, whose peer takes no more: whether it is disarmed nothing tells.
    target = Target(w.work, "import select\na, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)\na.setblocking(False)\nset = select.epoll()\n"
                            "set.register(a, select.EPOLLIN | select.EPOLLONESHOT)\nb.send(b'x')\nset.poll()\na.recv(1)\n"
                            "try:\n    while True:\n        a.send(b'y')\nexcept BlockingIOError:\n    pass")
    dump_refused(w, target.pid, f"process {target.pid}", "eventpoll", "EPOLLONESHOT", "try again", target=target)


def test_error_segments(w):
    """What would be lost in silence: the table of segments of a process's own."""
    target = Target(w.work, "import ctypes, struct\n"
                            "assert ctypes.CDLL(None).syscall(154, 1, struct.pack('<IIII', 0, 0x1000, 0xfff, 0x51), 16) == 0\n")
    dump_refused(w, target.pid, f"process {target.pid}", "segments of its own (modify_ldt)", target=target)


def test_error_io_uring(w):
    # A poll of an empty pipe: under way for as long as nobody writes.
    body = ("import ctypes, mmap, struct\nlibc = ctypes.CDLL(None)\np = (ctypes.c_uint32 * 30)()\n{setup}\n"
            "ring = libc.syscall(425, 4, p)\nr, wr = os.pipe()\nm = mmap.mmap(ring, p[16] + 16) if ring >= 0 else None\n"
            "sqes = mmap.mmap(ring, 256, offset=0x10000000)\nsqes[:32] = struct.pack('<BBHiQQII', 6, 0, 0, r, 0, 0, 0, 1)\n"
            "m[p[11]:p[11] + 4] = struct.pack('<I', 1)\n{submit}\n")
    submit = "assert libc.syscall(426, ring, 1, 0, 0, 0, 0) == 1"
    # What a worker of the kernel waits for: somebody who writes to a FIFO.
    fifo = ("os.mkfifo('fifo')\npath = ctypes.create_string_buffer(b'fifo')\n"
            "sqes[:32] = struct.pack('<BBHiQQII', 18, 16, 0, -100, 0, ctypes.addressof(path), 0, 0)\n")
    for setup, then, words in (("", submit + "\nos.close(r)", "a request under way (IORING_OP_POLL_ADD) on a file whose descriptor was closed"),
                               ("", fifo + submit, "requests under way that are not to be seen (1 of 1)"),
                               ("p[2] = 2", "os.fork() or time.sleep(1000)", "a thread of the kernel that submits (IORING_SETUP_SQPOLL), and process "),
                               ("p[2] = 0x1000", "b = ctypes.create_string_buffer(8192)\ng = (ctypes.c_uint64 * 5)(ctypes.addressof(b) + 4095 & ~4095, 7 << 32 | 8, 0, 0, 0)\n"
                                "assert libc.syscall(427, ring, 22, g, 1) == 0", "groups of buffers"),
                               ("", "e = ctypes.c_int(os.eventfd(0))\nassert libc.syscall(427, ring, 4, ctypes.byref(e), 1) == 0\nos.close(e.value)", "an eventfd that is told")):
        target = Target(w.work, body.format(setup=setup, submit=then))
        dump_refused(w, target.pid, f"process {target.pid}", "is an io_uring ring with " + words, target=target)


def test_error_mq_notify(w):
    name = f"/fermata-test-{os.getpid()}".encode()
    libc = ctypes.CDLL(None)
    target = Target(w.work, f"import ctypes\nlibc = ctypes.CDLL(None)\nqueue = libc.mq_open({name!r}, 0o102, 0o600, None)\n"
                            "libc.mq_send(queue, b'x', 1, 0)\nassert libc.mq_unlink({name!r}) == 0 and libc.mq_notify(queue, (ctypes.c_int * 16)(0, 0, 10, 0)) == 0".format(name=name))
    try:
        dump_refused(w, target.pid, f"process {target.pid}", "a message queue with messages", "mq_notify", "when it is empty", target=target)
    finally:
        libc.mq_unlink(name)


def test_error_secret_memory(w):
    for close in ("", "os.close(secret)"):
        target = Target(w.work, "import ctypes, mmap\nsecret = ctypes.CDLL(None).syscall(447, 0)\nos.ftruncate(secret, 4096)\n"
                                f"memory = mmap.mmap(os.dup(secret), 4096)\n{close}")
        dump_refused(w, target.pid, f"process {target.pid}", "secret memory (memfd_secret), which nobody but the process can read", target=target)


def test_error_semaphore_undo(w):
    body = ("import ctypes\nlibc = ctypes.CDLL(None)\nsems = libc.semget(0, 2, 0o600)\n"
            "with open('sems', 'w') as file:\n    file.write(str(sems))\n"
            "def change(flags):\n    libc.semop(sems, (ctypes.c_short * 3)(1, 1, flags), 1)\n")
    libc = ctypes.CDLL(None)
    for undo in (False, True):
        target = Target(w.work, body + f"change({0x1000 if undo else 0})")
        sems = read(os.path.join(w.work, "sems"))
        try:
            expect(int(sems) >= 0, "no semaphores")
            if undo:
                dump_refused(w, target.pid, f"process {target.pid}", f"semaphores {sems} to undo", "use --host-ipc", target=target)
                w.criu("dump", "-t", target.pid, "-D", w.make_dir("with"), "-R", "--host-ipc").good()
            else:
                w.criu("dump", "-t", target.pid, "-D", w.make_dir(), "-R").good()
        finally:
            libc.semctl(int(sems), 0, 0)


NOTIFIED = """import ctypes, struct
libc = ctypes.CDLL(None)
code = ctypes.create_string_buffer(struct.pack('HBBI', 0x20, 0, 0, 0) + struct.pack('HBBI', 0x15, 0, 1, 101)
                                   + struct.pack('HBBI', 6, 0, 0, 0x7fc00000) + struct.pack('HBBI', 6, 0, 0, 0x7fff0000))
program = ctypes.create_string_buffer(struct.pack('HxxxxxxQ', 4, ctypes.addressof(code)))
libc.prctl(38, 1, 0, 0, 0)
listener = libc.syscall(317, 1, 8, program)
assert listener >= 0
"""


def test_error_seccomp_listener(w):
    target = Target(w.work, NOTIFIED)
    dump_refused(w, target.pid, "anon_inode:seccomp", "is a seccomp listener", target=target)
    target = Target(w.work, NOTIFIED + "os.close(listener)")
    dump_refused(w, target.pid, "a seccomp filter that asks another process (SECCOMP_RET_USER_NOTIF)", target=target)


def test_error_anonymous_inodes(w):
    """What the kernel shows a name of and nothing else."""
    attr = "attr = ctypes.create_string_buffer(144)\nstruct.pack_into('{}', attr, 0, {})\n"
    code = "code = ctypes.create_string_buffer(struct.pack('QQ', 0xb7, 0x95))\nlicense = ctypes.create_string_buffer(b'GPL')\n"
    code += attr.format("IIQQ", "1, 2, ctypes.addressof(code), ctypes.addressof(license)")
    types = "types = ctypes.create_string_buffer(struct.pack('HBBIIIIIIIII', 0xeb9f, 1, 0, 24, 0, 16, 16, 5, 1, 1 << 24, 4, 0x1000020) + b'\\0int')\n"
    for body, words in ((attr.format("IIIII", "1, 4, 8, 4, 0") + "held = libc.syscall(321, 0, attr, 144)", "a BPF map"),
                        (code + "held = libc.syscall(321, 5, attr, 144)", "a BPF program"),
                        (types + attr.format("QQI", "ctypes.addressof(types), 0, 45") + "held = libc.syscall(321, 18, attr, 144)", "a BPF object"),
                        (attr.format("IIQ", "1, 112, 0") + "held = libc.syscall(298, attr, 0, -1, -1, 0)", "a perf event"),
                        ("rules = ctypes.c_uint64(1)\nheld = libc.syscall(444, ctypes.byref(rules), 8, 0)", "a Landlock ruleset")):
        target = Target(w.work, f"import ctypes, struct\nlibc = ctypes.CDLL(None)\n{body}\nassert held >= 0")
        dump_refused(w, target.pid, "anon_inode:", f"is {words}", target=target)


def test_error_udp_corked(w):
    """Half a datagram, of either protocol; nothing, once it has gone."""
    for kind in ("socket.SOCK_DGRAM)", "socket.SOCK_DGRAM, 136)"):
        half = f"s = socket.socket(socket.AF_INET, {kind}\ns.connect(('127.0.0.1', 9))\ns.setsockopt(17, 1, 1)\ns.send(b'half')\n"
        target = Target(w.work, half)
        dump_refused(w, target.pid, f"process {target.pid}", "has a datagram that is not complete yet (UDP_CORK)", "try again", target=target)
    target = Target(w.work, "there = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)\nthere.bind(('127.0.0.1', 0))\n" + half.replace(kind, "socket.SOCK_DGRAM)").replace("('127.0.0.1', 9)", "there.getsockname()") +
                    "s.setsockopt(17, 1, 0)\nassert there.recv(10) == b'half'\ns.setsockopt(17, 1, 1)")
    w.criu("dump", "-t", target.pid, "-D", w.make_dir(), "-R").good()


def test_error_fanotify_queued(w):
    """Events that wait; nothing to refuse once they were read."""
    body = ("import ctypes\nlibc = ctypes.CDLL(None)\nopen('seen', 'w').close()\ngroup = libc.fanotify_init({}, 0)\n"
            "assert group < 0 or libc.fanotify_mark(group, 1, ctypes.c_uint64(0x20), -100, b'seen') == 0\nopen('seen').close()\n"
            "open('group', 'w').write(str(group))\n")
    for flags in (2, 0x202):  # whose events have a descriptor, and a file handle
        target = Target(w.work, body.format(flags))
        if int(read(os.path.join(w.work, "group"))) < 0:
            raise Skip("no fanotify here")
        dump_refused(w, target.pid, "anon_inode:[fanotify]", "has events that were not read yet", "try again when the program has read them", target=target)
    target = Target(w.work, body.format(2) + "os.read(group, 4096)")
    w.criu("dump", "-t", target.pid, "-D", w.make_dir(), "-R").good()


def test_error_userfaultfd(w):
    # The descriptor is with another process; the area is still watched.
    target = Target(w.work, "import ctypes, mmap, struct\nlibc = ctypes.CDLL(None)\nmemory = mmap.mmap(-1, 65536)\n"
                            "at = ctypes.addressof(ctypes.c_char.from_buffer(memory))\nwatch = libc.syscall(323, 1)\n"
                            "api = ctypes.create_string_buffer(struct.pack('QQQ', 0xaa, 0, 0))\nassert libc.ioctl(watch, 0xc018aa3f, api) == 0\n"
                            "area = ctypes.create_string_buffer(struct.pack('QQQQ', at, 65536, 1, 0))\nassert libc.ioctl(watch, 0xc020aa00, area) == 0\n"
                            "if os.fork():\n    os.close(watch)\nelse:\n    time.sleep(1000)")
    dump_refused(w, target.pid, f"process {target.pid}", "userfaultfd", target=target)


def test_error_landlock(w):
    rules = "import ctypes\nlibc = ctypes.CDLL(None)\nhandled = ctypes.c_uint64(1)\ndef restrict():\n" \
            "    rules = libc.syscall(444, ctypes.byref(handled), 8, 0)\n    assert rules >= 0 and libc.syscall(446, rules, 0) == 0\n    os.close(rules)\n"
    if ctypes.CDLL(None).syscall(444, None, 0, 1) < 1:
        raise Skip("this kernel has no Landlock")
    for body in ("restrict()", "threading.Thread(target=lambda: (restrict(), time.sleep(1000)), daemon=True).start()\ntime.sleep(0.2)"):
        target = Target(w.work, rules + body)
        dump_refused(w, target.pid, f"process {target.pid}", "rules of Landlock", "start it without its sandbox", target=target)
    # A ruleset that was made and not used leaves nothing.
    target = Target(w.work, "import ctypes\nlibc = ctypes.CDLL(None)\nlibc.prctl(38, 1, 0, 0, 0)")
    w.criu("dump", "-t", target.pid, "-D", w.make_dir(), "-R").good()


def test_error_keyring(w):
    join = "import ctypes\nlibc = ctypes.CDLL(None)\nassert libc.syscall(250, 1, None) > 0\n"
    key = "assert libc.syscall(248, b'user', b'a secret', b'abc', 3, {}) > 0\n"
    for body, words in ((join + key.format(-3), "its session keyring holds keys"), (join + key.format(-2), "its process keyring holds keys"),
                        (join + key.format(-1), "its thread keyring holds keys"),
                        (join + "inner = libc.syscall(248, b'keyring', b'a name', None, 0, -3)\n" + key.format("inner"), "its session keyring holds keys")):
        target = Target(w.work, body)
        dump_refused(w, target.pid, f"process {target.pid}", words, "in the user's keyring", target=target)
    # One of its own that holds no more than another keyring loses nothing.
    target = Target(w.work, join + "assert libc.syscall(248, b'keyring', b'a name', None, 0, -3) > 0")
    w.criu("dump", "-t", target.pid, "-D", w.make_dir(), "-R").good()


def test_error_protection_key(w):
    target = Target(w.work, "import ctypes, mmap\nlibc = ctypes.CDLL(None)\nmemory = mmap.mmap(-1, 8192)\nkey = libc.syscall(330, 0, 0)\n"
                            "at = ctypes.addressof(ctypes.c_char.from_buffer(memory))\nopen('key', 'w').write(str(key))\n"
                            "assert key < 0 or libc.syscall(329, ctypes.c_void_p(at), 4096, 3, key) == 0")
    if int(read(os.path.join(w.work, "key"))) < 0:
        raise Skip("this processor has no protection keys")
    dump_refused(w, target.pid, f"process {target.pid}", "has the protection key", target=target)


def test_error_core_scheduling(w):
    target = Target(w.work, "import ctypes\nopen('core', 'w').write(str(ctypes.CDLL(None).prctl(62, 1, 0, 0, 0)))")
    if int(read(os.path.join(w.work, "core"))) < 0:
        raise Skip("this kernel has no core scheduling")
    dump_refused(w, target.pid, f"process {target.pid}", "is in a core scheduling group", target=target)


def test_error_thread_apart(w):
    """A descriptor table that two threads share, and the process does not."""
    target = Target(w.work, "import ctypes\nlibc = ctypes.CDLL(None)\ndef apart():\n    libc.unshare(0x400)\n"
                            "    threading.Thread(target=lambda: time.sleep(1000), daemon=True).start()\n    time.sleep(1000)\n"
                            "threading.Thread(target=apart, daemon=True).start()\ntime.sleep(0.2)")
    dump_refused(w, target.pid, f"process {target.pid}", "share a descriptor table that is not the process's", target=target)


def test_error_shared_by_siblings(w):
    # The first child shares with the second, which CLONE_PARENT makes a child of the target.
    target = Target(w.work, "import ctypes\nlibc = ctypes.CDLL(None)\nif not os.fork():\n"
                            "    libc.syscall(56, 0x8000 | 0x400 | 17, 0, 0, 0, 0)\n    time.sleep(1000)\ntime.sleep(0.2)")
    dump_refused(w, target.pid, "shares its descriptor table with process", "not its parent", target=target)


def test_error_vdso_changed(w):
    target = Target(w.work, "import ctypes, re\nlibc = ctypes.CDLL(None)\n"
                            "at = int(re.search(r'(\\w+)-\\w+ .*\\[vdso\\]', open('/proc/self/maps').read())[1], 16)\n"
                            "with open('/proc/self/mem', 'rb+', 0) as memory:\n    memory.seek(at + 9)\n    memory.write(b'x')")
    dump_refused(w, target.pid, f"process {target.pid}", "changed its vdso", "leave that as it was", target=target)


def test_error_traced(w):
    if not shutil.which("strace"):
        raise Skip("needs strace")
    target = Target(w.work)
    tracer = attach_strace(target.pid)
    words = [f"process {target.pid}", f"debugged by process {tracer.pid}", "end that first"]
    dump_refused(w, target.pid, *words)
    result = fermata("check", "process", target.pid)
    expect(result.status == 1 and all(word in result.out for word in words), result)
    target.wait()
    tracer.terminate()
    tracer.wait()
    target.unharmed()
    w.criu("dump", "-t", target.pid, "-D", w.make_dir(), "-R").good()


def test_error_32_bit(w):
    path = os.path.join(w.work, "small")
    make_32(path)
    try:
        task = subprocess.Popen([path], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, start_new_session=True)
    except OSError:
        raise Skip("this kernel runs no 32-bit programs") from None
    time.sleep(0.2)
    if task.poll() is not None:
        raise Skip("this kernel runs no 32-bit programs")
    dump_refused(w, task.pid, f"process {task.pid} (small)", "32-bit")
    result = fermata("check", "process", task.pid)
    expect(result.status == 1 and "32-bit" in result.out, result)
    expect(task.poll() is None and state_of(task.pid) == "S", "it does not run on")
    task.kill()
    task.wait()


def test_error_directory(w):
    images, target = w.checkpoint(leave=True)
    before = snapshot(images)
    w.criu("dump", "-t", target.pid, "-D", images).error(f"process {target.pid}", "already holds a checkpoint", "choose another")
    expect(snapshot(images) == before, "the checkpoint has changed")
    w.criu("dump", "-t", target.pid, "-D", images + "/none").error("there is no directory", "make it first")
    w.criu("dump", "-t", target.pid, "-D", "/etc/passwd").error("/etc/passwd", "Not a directory")
    w.criu("dump", "-t", target.pid, "-D", "/proc").error("/proc", "O_TMPFILE", "choose one on")
    fermata("dump", "process", target.pid, "--dir", images + "/none").error("there is no directory", "make it first")
    fermata("dump", "process", target.pid, "--dir", w.work, "--name", "images").error("is there already", "choose another --name")
    expect(snapshot(images) == before, "the checkpoint has changed")
    target.unharmed()


# ---- errors of restore ----


def test_restore_pid_taken(w):
    images, target = w.checkpoint(leave=True)
    w.known = target.tree()
    restore_refused(w, images, f"pid {target.pid} is taken", "end that first")
    target.unharmed()


DEVICE = """import struct
tun = open('/dev/net/tun', 'r+b', buffering=0)
fcntl.ioctl(tun, 0x400454ca, struct.pack('16sH22x', %r, 0x1001))
"""


def test_restore_device_taken(w):
    """A network device of the same name, of another program; one that is to stay is used as it is."""
    name = f"ft{os.getpid()}"
    if not os.access("/dev/net/tun", os.W_OK):
        raise Skip("no /dev/net/tun")
    body = DEVICE % name.encode()
    images, target = w.checkpoint(body)
    other = Target(w.work, body)
    w.known = other.tree()
    restore_refused(w, images, f"there is a network device {name}", "end that first")
    other.unharmed()
    os.kill(other.pid, signal.SIGKILL)
    wait_gone(other.pid)
    w.known = []
    w.criu("restore", "-d", "-D", images).good()
    expect(os.path.exists(f"/sys/class/net/{name}"), "the device")


def test_restore_empty(w):
    w.known = []
    restore_refused(w, w.make_dir("empty"), "no checkpoint in it", "give the directory")
    w.criu("restore", "-D", os.path.join(w.work, "none")).error("no such directory", "give what")
    w.criu("restore", "-D", "/etc/passwd").error("neither a directory nor an archive", "give what")


def test_restore_program_changed(w):
    path, w.known = os.path.join(w.work, "program"), []
    shutil.copy(shutil.which("sleep"), path)
    images = w.make_dir()
    task = subprocess.Popen([path, "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                            start_new_session=True)
    time.sleep(0.2)
    w.criu("dump", "-t", task.pid, "-D", images).good()
    task.wait()
    with open(path, "ab") as file:
        file.write(b"more")
    restore_refused(w, images, path, "changed since the dump", "put the old one back")
    os.unlink(path)
    restore_refused(w, images, path, "no longer there", "put it back")
    os.mkdir(path)
    restore_refused(w, images, path)
    os.rmdir(path)
    shutil.copy(shutil.which("sleep"), path)
    w.criu("restore", "-d", "-D", images).good()
    expect(state_of(task.pid) in ("S", "R"), "it is not restored")


def test_restore_file_gone(w):
    w.known = []
    images, target = w.checkpoint("data = open('data', 'w')\ndata.write('12345')\ndata.flush()\nreader = open('data')")
    path = os.path.join(w.work, "data")
    os.rename(path, path + ".kept")
    restore_refused(w, images, path, "no longer there", "put it back")
    os.rename(path + ".kept", path)
    w.criu("restore", "-d", "-D", images).good()
    Target.wait(target)


def test_restore_mode_changed(w):
    w.known = []
    images, target = w.checkpoint("data = open('data', 'w')\nos.chmod('data', 0o640)")
    path = os.path.join(w.work, "data")
    os.chmod(path, 0o600)
    restore_refused(w, images, f"the mode of {path} changed", "was 0640", "--skip-file-rwx-check")
    os.chmod(path, 0o4600)
    w.criu("restore", "-d", "-D", images, "--skip-file-rwx-check").error(f"the mode of {path} changed")
    os.chmod(path, 0o600)
    w.criu("restore", "-d", "-D", images, "--skip-file-rwx-check").good()
    Target.wait(target)


def build_id_of(data):
    at = data.index(b"\x04\0\0\0\x14\0\0\0\x03\0\0\0GNU\0")
    return at + 16


def test_restore_build_changed(w):
    """Another build of the same size, of a program that runs and of one that is only open."""
    path, w.known = os.path.join(w.work, "program"), []
    shutil.copy(shutil.which("sleep"), path)
    with open(path, "rb") as file:
        old = file.read()
    try:
        at = build_id_of(old)
    except ValueError:
        raise Skip("programs have no build id here") from None
    new = old[:at] + bytes([old[at] ^ 1]) + old[at + 1:]

    def replace(data):
        os.unlink(path)
        with open(path, "wb") as file:
            file.write(data)
        os.chmod(path, 0o755)

    for number, (body, options) in enumerate([("", []), (f"program = open({path!r}, 'rb')", []), ("", ["--file-validation", "filesize"])]):
        replace(old)
        images = w.make_dir(f"images{number}")
        if body:
            pid = Target(w.work, body).pid
        else:
            task = subprocess.Popen([path, "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True)
            task.returncode, pid = 0, task.pid
            time.sleep(0.2)
        w.criu("dump", "-t", pid, "-D", images, *options).good()
        wait_gone(pid)
        replace(new)
        if not options:
            restore_refused(w, images, path, "another build", "--file-validation filesize")
            w.criu("restore", "-d", "-D", images, "--file-validation", "filesize").good()
        else:
            w.criu("restore", "-d", "-D", images).good()
        expect(state_of(pid) in ("S", "R"), "it is not restored")
        kill_all()
    w.criu("restore", "-D", images, "--file-validation", "guess").error("there is no guess", "filesize buildid")


def test_error_ghost_limit(w):
    w.known = []
    target = Target(w.work, "gone = open('gone', 'wb+')\ngone.write(bytes([1]) * 3000000)\ngone.flush()\nos.unlink('gone')\n"
                            "holes = open('holes', 'wb+')\nholes.truncate(1 << 40)\nos.unlink('holes')")
    images = w.make_dir()
    w.criu("dump", "-t", target.pid, "-D", images).error(f"process {target.pid}", "gone", "KiB of content", "limit of 1024 KiB", "--ghost-limit")
    fermata("dump", "process", target.pid, "--dir", w.work, "--name", "folder", "--ghost-limit", "2M").error("limit of 2048 KiB", "--ghost-limit")
    expect(not os.listdir(images), os.listdir(images))
    target.unharmed()
    w.criu("dump", "-t", target.pid, "-D", images, "--ghost-limit", "3M").good()
    wait_gone(target.pid)
    w.criu("restore", "-d", "-D", images).good()
    target.wait()
    fermata("dump", "process", target.pid, "--dir", w.work, "--name", "folder").good()


main(tests_of(globals()))
