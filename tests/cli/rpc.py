#!/usr/bin/env python3
"""Tests of criu's RPC: `criu swrk` as container runtimes start it, `criu service` as others connect to it. The messages are those of Debian's own package
(pycriu), so that both sides can't be wrong in the same way.

Arguments select tests by a part of their names. CLI_FERMATA=PATH takes another binary. Runs as root."""
import os
import signal
import socket
import subprocess
import sys
import time

sys.dont_write_bytecode = True
import world as cli
from world import DEADLINE, Target, expect, wait_gone

sys.path.append("/usr/lib/python3/dist-packages")
try:
    from pycriu import rpc_pb2 as rpc
except ImportError as missing:
    rpc = None
    why_not = f"{missing} (Debian's package criu)"


def criu_dir(path):
    return os.open(path, os.O_RDONLY | os.O_DIRECTORY)


class Caller:
    """One that has started `criu swrk`, or is connected to a service."""

    def __init__(self, sk, task=None):
        self.sk, self.task, self.told = sk, task, []
        self.sk.settimeout(DEADLINE)

    def send(self, request):
        self.sk.send(request.SerializeToString())

    def receive(self):
        answer = rpc.criu_resp()
        answer.ParseFromString(self.sk.recv(65536))
        return answer

    def ask(self, request, agree=lambda script: True):
        """Gives the answer; what is told meanwhile is agreed to, or not."""
        self.send(request)
        while True:
            answer = self.receive()
            if answer.type != rpc.NOTIFY:
                return answer
            self.told.append((answer.notify.script, answer.notify.pid))
            self.send(rpc.criu_req(type=rpc.NOTIFY, notify_success=agree(answer.notify.script)))

    def good(self, request, **more):
        answer = self.ask(request, **more)
        expect(answer.success and answer.type == request.type and not answer.cr_errmsg, answer)
        return answer

    def bad(self, request, code, *words, **more):
        answer = self.ask(request, **more)
        expect(not answer.success and answer.cr_errno == code, f"{answer}, and not {code}")
        for word in words:
            expect(word in answer.cr_errmsg, f"no {word!r} in {answer}")
        expect(len(answer.SerializeToString()) < 8192, "longer than callers take")
        return answer

    def end(self, status=0):
        """criu ends by itself when it has nothing to answer any more, and has printed nothing."""
        self.sk.close()
        out, err = self.task.communicate(timeout=DEADLINE)
        expect(self.task.returncode == status, f"exit status {self.task.returncode}")
        expect(not out and not err, f"it has said {out!r} {err!r}")


def swrk(w, pass_fds=()):
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    task = subprocess.Popen([w.criu_path, "swrk", str(theirs.fileno())], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
                            pass_fds=(theirs.fileno(), *pass_fds))
    theirs.close()
    return Caller(ours, task)


def request_of(kind, images=None, **options):
    request = rpc.criu_req(type=kind)
    if images is not None:
        request.opts.images_dir_fd = criu_dir(images)
        request.opts.log_level = 4
        for name, value in options.items():
            if isinstance(value, list):
                getattr(request.opts, name).extend(value)
            else:
                setattr(request.opts, name, value)
    return request


def log_of(images, name="criu.log"):
    return cli.read(os.path.join(images, name))


def test_version(w):
    """Several requests on one connection, as podman makes them."""
    caller = swrk(w)
    ask = rpc.criu_req(type=rpc.VERSION, keep_open=True)
    for _ in range(3):
        answer = caller.good(ask)
    expect((answer.version.major_number, answer.version.minor_number) >= (4, 0) and not answer.version.gitid, answer)
    features = rpc.criu_req(type=rpc.FEATURE_CHECK, keep_open=True)
    features.features.mem_track = features.features.lazy_pages = True
    found = caller.good(features).features
    expect(found.mem_track and found.lazy_pages and not found.HasField("pidfd_store"), found)
    caller.end()
    caller = swrk(w)
    caller.good(rpc.criu_req(type=rpc.CHECK))
    caller.end()


def test_dump_restore(w):
    """As runc does it: a work directory apart, a log file of its own, notifications, and the restored root is the caller's child."""
    target = Target(w.work)
    images, work = w.make_dir(), w.make_dir("work")
    caller = swrk(w)
    answer = caller.good(request_of(rpc.DUMP, images, pid=target.pid, work_dir_fd=criu_dir(work), log_file="dump.log", notify_scripts=True, tcp_established=True,
                                    orphan_pts_master=True, manage_cgroups_mode=rpc.IGNORE, evasive_devices=True))
    expect(answer.HasField("dump") and not answer.dump.restored, answer)
    wait_gone(target.pid)
    expect([script for script, _ in caller.told] == ["pre-dump", "post-dump"], caller.told)
    caller.end()
    expect("finished successfully" in log_of(work, "dump.log"), log_of(work, "dump.log"))
    expect(os.path.exists(os.path.join(work, "stats-dump")) and not os.path.exists(os.path.join(images, "dump.log")), os.listdir(work))
    caller = swrk(w)
    answer = caller.good(request_of(rpc.RESTORE, images, work_dir_fd=criu_dir(work), log_file="restore.log", notify_scripts=True, rst_sibling=True))
    expect(answer.restore.pid == target.pid, answer)
    expect([script for script, _ in caller.told] == ["pre-restore", "post-restore", "pre-resume", "post-resume"], caller.told)
    expect(caller.told[1][1] == target.pid, caller.told)
    caller.end()
    target.unharmed()
    os.kill(target.pid, signal.SIGKILL)
    pid, status = os.waitpid(target.pid, 0)
    expect(pid == target.pid and os.WIFSIGNALED(status), status)


def test_parent(w):
    """Not a sibling: it outlives the one who made it. The directory by its path, in the order of criu 4."""
    images, target = w.checkpoint()
    request = request_of(rpc.RESTORE, images)
    request.opts.images_dir_fd = -1
    path = images.encode()
    request.opts.MergeFromString(b"\xa2\x04" + bytes([len(path)]) + path)  # images_dir, 68, which Debian's messages lack
    caller = swrk(w)
    caller.good(request)
    caller.end()
    target.unharmed()


def test_pre_dump(w):
    """As runc's: the same connection for pre-dump after pre-dump; then a dump that needs only what changed."""
    target = Target(w.work, "data = bytearray(os.urandom(8 << 20))\n")
    first, second, last = w.make_dir("first"), w.make_dir("second"), w.make_dir("last")
    caller = swrk(w)
    caller.good(request_of(rpc.PRE_DUMP, first, pid=target.pid, track_mem=True))
    caller.good(request_of(rpc.PRE_DUMP, second, pid=target.pid, track_mem=True, parent_img="../first"))
    caller.end()
    target.unharmed()
    caller = swrk(w)
    caller.good(request_of(rpc.DUMP, last, pid=target.pid, track_mem=True, parent_img="../second"))
    caller.end()
    wait_gone(target.pid)
    sizes = [sum(os.path.getsize(os.path.join(path, name)) for name in os.listdir(path)) for path in (first, last)]
    expect(sizes[1] < sizes[0] / 4, f"{sizes} bytes")
    caller = swrk(w)
    caller.good(request_of(rpc.RESTORE, last))
    caller.end()
    target.unharmed()


def test_refused(w):
    """What can't be is said with criu's numbers; the target runs on."""
    target, images = Target(w.work), w.make_dir()

    log = os.path.join(images, "criu.log")

    def bad(request, code, *words, **more):
        if os.path.exists(log):
            os.unlink(log)
        caller = swrk(w)
        caller.bad(request, code, *words, **more)
        caller.end(status=1)
        expect(set(os.listdir(images)) <= {"criu.log"}, os.listdir(images))
        expect(code == 95 or not os.path.exists(log) or words[-1] in cli.read(log), f"no {words[-1]!r} in the log")
        target.unharmed()

    ebadrqc, esrch = 56, 3
    bad(request_of(rpc.DUMP), ebadrqc, "no options")
    bad(request_of(rpc.DUMP, images), ebadrqc, "needs pid")
    bad(request_of(rpc.DUMP, images, pid=target.pid, log_file="../x"), ebadrqc, "log_file")
    bad(request_of(rpc.DUMP, images, pid=target.pid, cgroup_props="x"), ebadrqc, "--cgroup-props", "control groups")
    expect("control groups" in log_of(images), "a caller shows its user the log")
    bad(request_of(rpc.DUMP, images, pid=target.pid, external=["nonsense"]), ebadrqc, "nonsense")
    gone = subprocess.Popen(["true"])
    gone.wait()
    bad(request_of(rpc.DUMP, images, pid=gone.pid), esrch, str(gone.pid))
    expect("Error" in log_of(images), log_of(images))
    bad(request_of(rpc.DUMP, images, pid=target.pid, notify_scripts=True), 125, "post-dump", agree=lambda script: script != "post-dump")
    request = request_of(rpc.DUMP, images, pid=target.pid)
    request.opts.images_dir_fd = 999
    bad(request, ebadrqc, "images_dir_fd", "999")
    request = request_of(rpc.DUMP, images, pid=target.pid)
    request.opts.ps.port = 1
    bad(request, ebadrqc, "another machine")
    bad(rpc.criu_req(type=rpc.PAGE_SERVER), 95, "page server")
    caller = swrk(w)
    caller.send(rpc.criu_req(type=rpc.EMPTY))
    answer = caller.receive()
    expect(not answer.success and answer.type == rpc.EMPTY, answer)
    caller.end(status=1)


def test_pid_taken(w):
    target, images = Target(w.work), w.make_dir()
    w.criu("dump", "-t", target.pid, "-D", images, "-R").good()
    caller = swrk(w)
    caller.bad(request_of(rpc.RESTORE, images), 17, f"pid {target.pid} is taken")
    caller.end(status=1)
    target.unharmed()


def test_nonsense(w):
    for packet in (b"\xff" * 100, b"\x08", os.urandom(4096), b"x" * 200000):
        caller = swrk(w)
        caller.sk.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1 << 20)
        caller.sk.send(packet)
        expect(not caller.sk.recv(4096), "it has answered")
        caller.end(status=1)
    expect(w.criu("swrk", "1").status == 1 and "SOCK_SEQPACKET" in w.criu("swrk", "0").err, "not a socket")
    caller = swrk(w)
    caller.end()


def test_inherit(w):
    """A pipe whose other end the caller has: it gives a new one to the restored tree."""
    reader, writer = os.pipe()
    target = Target(w.work, f"os.dup2({writer}, 1)\nos.write(1, b'before')\nsignal_path = {os.path.join(w.work, 'say')!r}\n"
                            "def say():\n"
                            "    while not os.path.exists(signal_path): time.sleep(0.01)\n"
                            "    os.write(1, b'after')\n"
                            "threading.Thread(target=say).start()\n", pass_fds=(writer,))
    os.close(writer)
    expect(os.read(reader, 64) == b"before", "nothing came")
    inode = os.fstat(reader).st_ino
    images = w.make_dir()
    caller = swrk(w)
    caller.good(request_of(rpc.DUMP, images, pid=target.pid))
    caller.end()
    wait_gone(target.pid)
    new_reader, new_writer = os.pipe()
    caller = swrk(w, pass_fds=(new_writer,))
    request = request_of(rpc.RESTORE, images)
    request.opts.inherit_fd.add(key=f"pipe:[{inode}]", fd=new_writer)
    caller.good(request)
    caller.end()
    os.close(new_writer)
    with open(os.path.join(w.work, "say"), "w"):
        pass
    expect(os.read(new_reader, 64) == b"after", "it writes elsewhere")
    target.unharmed()


def test_config_file(w):
    """What the request names stands above the request, as runtimes let their users have the last word."""
    target, images = Target(w.work), w.make_dir()
    config = os.path.join(w.work, "runc.conf")
    with open(config, "w") as file:
        file.write("leave-running\nlog-file other.log\n")
    caller = swrk(w)
    caller.good(request_of(rpc.DUMP, images, pid=target.pid, log_file="dump.log", config_file=config))
    caller.end()
    target.unharmed()
    expect("finished successfully" in log_of(images, "other.log"), os.listdir(images))
    caller = swrk(w)
    caller.good(request_of(rpc.DUMP, w.make_dir("more"), pid=target.pid, config_file="/nowhere/runc.conf"))
    caller.end()


def connect(path):
    end = time.monotonic() + DEADLINE
    while True:
        sk = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        try:
            sk.connect(path)
            return Caller(sk)
        except OSError:
            expect(time.monotonic() < end, f"nobody answers at {path}")
            time.sleep(0.01)


def test_service(w):
    """One that many connect to; killed, it can be started again at the same place."""
    path, pidfile = os.path.join(w.work, "socket"), os.path.join(w.work, "pid")
    w.criu("service", "--address", path, "--daemon", "--pidfile", pidfile).good()
    first = connect(path)
    expect(os.stat(path).st_mode & 0o777 == 0o600, "others may connect")
    pid = int(cli.read(pidfile))
    idle = [connect(path) for _ in range(10)]
    target, images = Target(w.work), w.make_dir()
    first.good(request_of(rpc.DUMP, images, pid=target.pid))
    wait_gone(target.pid)
    second = connect(path)
    second.bad(request_of(rpc.RESTORE, images, rst_sibling=True), 56, "criu swrk")
    request = request_of(rpc.RESTORE, images)
    request.opts.inherit_fd.add(key="pipe:[1]", fd=3)
    connect(path).bad(request, 56, "criu swrk")
    answer = connect(path).good(request_of(rpc.RESTORE, images))
    expect(answer.restore.pid == target.pid, answer)
    target.unharmed()
    for one in idle:
        one.good(rpc.criu_req(type=rpc.VERSION))
    w.criu("service", "--address", path).error("another service answers")
    os.kill(pid, signal.SIGKILL)
    wait_gone(pid)
    w.criu("service", "--address", path, "-d", "--pidfile", pidfile).good()
    connect(path).good(rpc.criu_req(type=rpc.CHECK))
    os.kill(int(cli.read(pidfile)), signal.SIGTERM)
    wait_gone(int(cli.read(pidfile)))
    expect(not os.path.exists(path), "the socket stays")


def test_option_rows(w):
    """An option that means one thing to one verb and another to the next."""
    target, images = Target(w.work), w.make_dir()
    w.criu("dump", "-t", target.pid, "-D", images, "--lazy-pages").error("--lazy-pages is not there yet")
    w.criu("dump", "-t", target.pid, "-D", images, "--address", "here").error("--address is not there yet")
    target.unharmed()


if __name__ == "__main__":
    if rpc is None:
        print(f"skip cli_rpc: {why_not}\n0 passed, 0 failed, 1 skipped")
        sys.exit(0)
    cli.main(cli.tests_of(globals()))
