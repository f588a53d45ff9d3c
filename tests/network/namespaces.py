#!/usr/bin/env python3
"""Trees in a network namespace of their own: connections to peers outside of it by way of a veth, namespaces that are kept outside, left empty or joined, what is
refused, and images that can't be. The suite itself is in a namespace of its own, which is "outside" for its trees, so that nothing of the machine is touched.

Arguments select tests by a part of their names. Runs as root."""
import contextlib
import ctypes
import os
import shutil
import signal
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import time

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from support import ROOT, Failure, Skip, adopt, expect, is_gone, reap, reporter, verdict  # noqa: E402

report = reporter("namespaces_")
HERE = os.path.dirname(os.path.abspath(__file__))
BINARY = os.environ.get("NETWORK_FERMATA") or os.path.join(ROOT, "build/src/cli/fermata")
DEADLINE = 20
CLONE_NEWNET = 0x40000000


def wait_for(what, condition, seconds=DEADLINE):
    end = time.monotonic() + seconds
    while not condition():
        expect(time.monotonic() < end, f"no {what} within {seconds} s")
        time.sleep(0.01)


def sh(command, check=True):
    done = subprocess.run(command, shell=True, capture_output=True, text=True)
    expect(not check or done.returncode == 0, f"{command}: {done.stderr}")
    return done.stdout


class Peer:
    """Outside: says what it hears, to each who connects."""

    def __init__(self, address):
        self.socket = socket.create_server((address, 0))
        self.port, self.lost = self.socket.getsockname()[1], ""
        threading.Thread(target=self.serve, daemon=True).start()

    def serve(self):
        with contextlib.suppress(OSError):
            while True:
                threading.Thread(target=self.answer, args=(self.socket.accept()[0],), daemon=True).start()

    def answer(self, connection):
        try:
            while data := connection.recv(64):
                connection.sendall(data)
        except OSError as error:
            self.lost = str(error)


class Test:
    def __init__(self, work):
        self.work, self.number, self.pids, self.peers = work, 0, [], []
        self.criu = os.path.join(work, "criu")
        os.symlink(BINARY, self.criu)

    def start(self, script, *arguments):
        """A program in a new namespace; `script` sets that up first."""
        task = subprocess.Popen(["unshare", "-n", "sh", "-ec", script + '\nexec "$@"', "sh", *arguments], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=open(os.path.join(self.work, "err"), "w"), start_new_session=True, cwd=self.work)
        task.returncode = 0
        self.pids.append(task.pid)
        return task.pid

    def sleeper(self, script):
        pid = self.start(script, "sleep", "1000")
        wait_for("program: " + open(os.path.join(self.work, "err")).read(), lambda: self.name(pid) == "sleep" or is_gone(pid))
        expect(not is_gone(pid), open(os.path.join(self.work, "err")).read())
        return pid

    def name(self, pid):
        try:
            return open(f"/proc/{pid}/comm").read().strip()
        except OSError:
            return None

    def connected(self, bridge=False):
        """A tree with a connection to a peer out here, by a veth `eth0` whose other end is called `out0`."""
        holder = self.start("while ! ip link show eth0 >/dev/null 2>&1; do sleep 0.01; done; ip link set lo up; ip addr add 10.66.0.2/24 dev eth0; ip link set eth0 up; ip route add default via 10.66.0.1",
                            sys.executable, os.path.join(HERE, "inside.py"), os.path.join(self.work, "report"), "10.66.0.1", str(self.listen(bridge)))
        wait_for("namespace", lambda: os.stat(f"/proc/{holder}/ns/net").st_ino != os.stat("/proc/self/ns/net").st_ino)
        sh(f"ip link add out0 type veth peer name eth0 netns {holder}")
        sh("ip link set out0 master br0" if bridge else "ip addr add 10.66.0.1/24 dev out0")
        sh("ip link set out0 up")
        self.goes_on()
        return holder

    def listen(self, bridge):
        sh("ip link set lo up")
        if bridge:
            sh("ip link add br0 type bridge; ip addr add 10.66.0.1/24 dev br0; ip link set br0 up")
        self.peer = Peer("0.0.0.0")
        return self.peer.port

    def said(self):
        try:
            data = open(os.path.join(self.work, "report"), "rb").read()
        except OSError:
            return 0
        expect(not data.startswith(b"failed"), f"{data!r}; the peer: {self.peer.lost}")
        return struct.unpack("!Q", data[:8])[0] if len(data) >= 8 else 0

    def goes_on(self):
        before = self.said()
        wait_for("more of what it says", lambda: self.said() > before + 20)
        expect(not self.peer.lost, self.peer.lost)

    def images(self):
        self.number += 1
        path = os.path.join(self.work, f"images{self.number}")
        os.mkdir(path)
        return path

    def run(self, *arguments, **more):
        with tempfile.TemporaryFile() as log:
            status = subprocess.run([self.criu, *map(str, arguments)], stdin=subprocess.DEVNULL, stdout=log, stderr=log, timeout=DEADLINE, cwd=self.work, **more).returncode
            log.seek(0)
            return status, log.read().decode(errors="replace")

    def good(self, *arguments, **more):
        status, text = self.run(*arguments, **more)
        expect(status == 0 and "Error" not in text, f"{arguments}: {status}, {text}")
        return text

    def bad(self, words, *arguments, **more):
        status, text = self.run(*arguments, **more)
        expect(status == 1 and words in text and text.count("\n") == 1, f"{arguments}: {status}, {text}")

    def dump(self, pid, *more, images=None):
        images = images or self.images()
        self.good("dump", "-t", pid, "-D", images, "--tcp-established", *more)
        if "-R" not in more:
            wait_for("end of the tree", lambda: is_gone(pid))
        return images

    def restore(self, images, *more, **others):
        self.good("restore", "-d", "-D", images, "--tcp-established", *more, **others)

    def inside(self, pid, command):
        return sh(f"nsenter -t {pid} -n sh -c '{command}'")


# ---- tests ----

def test_veth(t):
    """Twice: what the restore has made is saved as well. Nobody waits for the old devices to go."""
    pid = t.connected()
    for _ in range(2):
        before = t.inside(pid, "ip -d addr; ip route") + sh("ip addr show out0")
        t.restore(t.dump(pid))
        t.goes_on()
        after = t.inside(pid, "ip -d addr; ip route") + sh("ip addr show out0")
        for word in ("10.66.0.2/24", "10.66.0.1/24", "default via"):
            expect(after.count(word) == before.count(word) > 0, f"{before} {after}")
    expect("fermata" not in t.inside(pid, "nft list ruleset"), "a table was left")


def test_veth_bridge(t):
    pid = t.connected(bridge=True)
    t.restore(t.dump(pid))
    t.goes_on()
    expect("master br0" in sh("ip link show out0"), "the outer end is no port")


def test_veth_renamed(t):
    pid = t.connected(bridge=True)
    images = t.dump(pid)
    t.bad("write the name of a network device outside", "restore", "-d", "-D", images, "--tcp-established", "--external", "veth[eth0]:other@")
    t.restore(images, "--veth-pair", "eth0=other0@br0")
    t.goes_on()
    expect("master br0" in sh("ip link show other0") and not sh("ip link show out0", False), "it is called otherwise")


def test_veth_live(t):
    """The tree runs on beside its checkpoint."""
    pid = t.connected()
    t.dump(pid, "-R")
    t.goes_on()
    expect("fermata" not in t.inside(pid, "nft list ruleset"), "a table was left")


def test_tracked(t):
    """Rules that let nothing pass but what is established: the connection is, also behind the restore."""
    pid = t.connected()
    for policy in ("accept", "drop"):  # what it has not seen begin it must see first
        t.inside(pid, f'nft "flush ruleset; table inet strict {{ chain in {{ type filter hook input priority 0; policy {policy}; ct state established accept; }}; '
                      f'chain out {{ type filter hook output priority 0; policy {policy}; ct state established accept; }}; }}"')
        t.goes_on()
    for _ in range(2):
        t.restore(t.dump(pid))
        t.goes_on()
    expect("ct state" in t.inside(pid, "nft list ruleset"), "the rules are gone")


def test_veth_third(t):
    """The other end in a namespace that is neither the tree's nor ours."""
    other = t.sleeper("ip link set lo up")
    pid = t.sleeper(f"ip link add in0 type veth peer name far0 netns {other}; ip link set in0 up")
    t.bad("belongs to one in another network namespace", "dump", "-t", pid, "-D", t.images())
    images = t.dump(pid, "--external", "veth[in0]")
    t.restore(images, "--external", "veth[in0]:here0")
    expect("in0" in t.inside(pid, "ip link") and "here0" in sh("ip link"), "the pair is not there")


def test_macvlan(t):
    """On a device outside."""
    sh("ip link add below0 type veth peer name below1; ip link set below0 up; ip link set below1 up")
    pid = t.start("while ! ip link show mv0 >/dev/null 2>&1; do sleep 0.01; done; ip link set mv0 up; ip addr add 10.67.0.2/24 dev mv0", "sleep", "1000")
    wait_for("namespace", lambda: os.stat(f"/proc/{pid}/ns/net").st_ino != os.stat("/proc/self/ns/net").st_ino)
    sh(f"ip link add mv0 link below0 netns {pid} type macvlan mode bridge")
    wait_for("program", lambda: t.name(pid) == "sleep")
    before = t.inside(pid, "ip -d link show mv0").split("qdisc")[0]
    images = t.dump(pid)
    t.restore(images)
    expect(t.inside(pid, "ip -d link show mv0").split("qdisc")[0] == before and "10.67.0.2" in t.inside(pid, "ip addr"), before)
    os.kill(pid, signal.SIGKILL)
    wait_for("end", lambda: is_gone(pid))
    sh("ip link del below0")
    t.bad("make that first, or name another", "restore", "-d", "-D", images)
    sh("ip link add low0 type veth peer name low1")
    t.restore(images, "--external", "macvlan[mv0]:low0")


def test_kept(t):
    """A namespace outside: nothing of it is saved or made."""
    pid = t.sleeper("ip link set lo up; ip addr add 10.68.0.1/32 dev lo")
    with open(f"/proc/{pid}/ns/net", "rb") as ns:
        inode = os.fstat(ns.fileno()).st_ino
        images = t.dump(pid, "--external", f"net[{inode}]:theirs")
        expect(not [name for name in os.listdir(images) if name.startswith(("netdev", "ifaddr", "route"))], os.listdir(images))
        t.bad("give it with --inherit-fd 'fd[N]:theirs'", "restore", "-d", "-D", images)
        null = os.open("/dev/null", os.O_RDONLY)
        t.bad("is no network namespace", "restore", "-d", "-D", images, "--inherit-fd", f"fd[{null}]:theirs", pass_fds=[null])
        os.close(null)
        t.restore(images, "--inherit-fd", f"fd[{ns.fileno()}]:theirs", pass_fds=[ns.fileno()])
        expect(os.stat(f"/proc/{pid}/ns/net").st_ino == inode and "10.68.0.1" in t.inside(pid, "ip addr"), "it is in another")


def test_kept_connection(t):
    """The lock stays in the namespace while nobody answers, and goes with the restore."""
    pid = t.connected()
    with open(f"/proc/{pid}/ns/net", "rb") as ns:
        images = t.dump(pid, "--external", f"net[{os.fstat(ns.fileno()).st_ino}]:theirs")
        look = ["nsenter", f"--net=/proc/self/fd/{ns.fileno()}", "nft", "list", "tables"]
        held = subprocess.run(look, capture_output=True, text=True, pass_fds=[ns.fileno()]).stdout
        expect("fermata-kept" in held, f"nothing holds it back: {held}")
        time.sleep(0.2)
        t.restore(images, "--inherit-fd", f"fd[{ns.fileno()}]:theirs", pass_fds=[ns.fileno()])
        t.goes_on()
        expect("fermata" not in t.inside(pid, "nft list tables"), "a table was left")


def test_empty(t):
    pid = t.sleeper("ip link set lo up; ip addr add 10.68.0.1/32 dev lo")
    images = t.dump(pid, "--empty-ns", "net")
    expect(not [name for name in os.listdir(images) if name.startswith(("netdev", "ifaddr", "route"))], os.listdir(images))
    t.restore(images, "--empty-ns", "net")
    expect("inet" not in t.inside(pid, "ip addr") and os.stat(f"/proc/{pid}/ns/net").st_ino != os.stat("/proc/self/ns/net").st_ino, "it is not empty")
    t.bad("net", "restore", "-d", "-D", images, "--empty-ns", "mnt")


def test_join(t):
    """A tree that had a namespace of its own, and one that had not."""
    other = t.sleeper("ip link set lo up")
    pid = t.sleeper("ip addr add 10.68.0.1/32 dev lo")
    images = t.dump(pid)
    t.bad("it is no such namespace", "restore", "-d", "-D", images, "--join-ns", "net:/dev/null")
    t.restore(images, "--join-ns", f"net:/proc/{other}/ns/net")
    expect(os.stat(f"/proc/{pid}/ns/net").st_ino == os.stat(f"/proc/{other}/ns/net").st_ino, "it has joined none")
    plain = subprocess.Popen(["sleep", "1000"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True, cwd=t.work)
    plain.returncode = 0
    t.pids.append(plain.pid)
    t.restore(t.dump(plain.pid), "--join-ns", f"net:/proc/{other}/ns/net")
    expect(os.stat(f"/proc/{plain.pid}/ns/net").st_ino == os.stat(f"/proc/{other}/ns/net").st_ino, "it has joined none")


def test_refused(t):
    for words, script in (("has a queueing discipline (tbf)", "tc qdisc add dev lo root tbf rate 1mbit burst 32kbit latency 400ms"),
                          ("has nexthop objects", "ip link set lo up; ip nexthop add id 7 dev lo"),
                          ("states or policies of IPsec", "ip xfrm policy add src 10.0.0.0/8 dst 10.0.0.0/8 dir out action block")):
        try:
            pid = t.sleeper(script)
        except Failure:
            continue  # a kernel without it
        t.bad(words, "dump", "-t", pid, "-D", t.images())
        expect(t.name(pid) == "sleep", "it has ended")
        os.kill(pid, signal.SIGKILL)


def test_refused_owner(t):
    """A table that goes with the program that made it."""
    pid = t.sleeper("ip link set lo up")
    owner = subprocess.Popen(["nsenter", "-t", str(pid), "-n", "nft", "-i"], stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    owner.stdin.write(b"add table ip mine { flags owner; }\n")
    owner.stdin.flush()
    wait_for("table", lambda: "mine" in t.inside(pid, "nft list tables"))
    t.bad("belongs to the program that made it", "dump", "-t", pid, "-D", t.images())
    owner.stdin.close()
    owner.wait()
    t.dump(pid)


def test_failed(t):
    """A restore that comes to nothing leaves no device out here, and can be tried again."""
    pid = t.connected()
    images = t.dump(pid)
    wait_for("end of the old device", lambda: not sh("ip link show out0", False))
    files = os.path.join(images, "nftables-%s.img")
    number = next(name for name in os.listdir(images) if name.startswith("netns-")).split("-")[1].split(".")[0]
    with open(files % number, "w") as file:
        file.write("table ip x {\n\tchain y {\n\t\tno such word\n\t}\n}\n")
    t.bad("cannot make the rules of the network namespace again", "restore", "-d", "-D", images, "--tcp-established", "--skip-verify")
    wait_for("end of the new device", lambda: not sh("ip link show out0", False))
    os.unlink(files % number)
    t.restore(images, "--skip-verify")
    t.goes_on()


def test_killed(t):
    """SIGKILL at some moment of a dump: the tree runs on, or was saved and comes back; its namespace keeps no table of ours."""
    pid = t.connected()
    for tries in range(12):
        images = t.images()
        task = subprocess.Popen([t.criu, "dump", "-t", str(pid), "-D", images, "--tcp-established", "-R"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                stderr=subprocess.DEVNULL)
        time.sleep(0.004 * tries)
        task.kill()
        task.wait()
        wait_for("end of who works within", lambda: "fermata" not in t.inside(pid, "nft list tables"))
        t.goes_on()


def test_images(t):
    """Damaged and made up: refused in one line, before there is a process."""
    pid = t.sleeper("ip link set lo up; ip addr add 10.68.0.1/32 dev lo; nft add table ip kept")
    images = t.dump(pid)

    def spoil(kind, change, words):
        path = next(os.path.join(images, name) for name in os.listdir(images) if name.startswith(kind + "-"))
        with open(path, "rb") as file:
            data = file.read()
        with open(path, "wb") as file:
            file.write(change(data))
        t.bad(words, "restore", "-d", "-D", images, "--skip-verify")
        expect(is_gone(pid), "there is a process")
        with open(path, "wb") as file:
            file.write(data)

    for kind in ("ifaddr", "route", "rule"):
        spoil(kind, lambda data: data[:-4], "is damaged")
        spoil(kind, lambda data: data[:4] + b"\xff\xff\xff\xff" + data[8:], "is damaged")
        spoil(kind, lambda data: data[:4] + b"\x00\x00\x00\x00" + data[8:], "is damaged")
        spoil(kind, lambda data: data[:8] + b"\x10\x00" + data[10:], "is damaged")  # another type: a device
        spoil(kind, lambda data: b"\x00" + data[1:], "is damaged")
        spoil(kind, lambda data: data[:2], "is damaged")
    for text in (b'include "/etc/hostname"\n', b"monitor\n", b'table ip x {\n\tinclude "/etc/hostname"\n}\n', b"table ip x { }; monitor\n", b'"table" ip x\n', b"table ip x {\n",
                 b"table ip x { }\x00"):
        spoil("nftables", lambda data, text=text: text, "is damaged")
    spoil("netdev", lambda data: data.replace(b"lo", b"xy"), "did not become what it was")
    spoil("netdev", lambda data: data + data[8:], "is damaged")
    t.restore(images, "--skip-verify")


# ---- running them ----

def clean_up(t):
    for pid in t.pids:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    for pid in t.pids:
        wait_for("end", lambda pid=pid: is_gone(pid))
    for name in ("out0", "other0", "here0", "br0", "below0", "low0"):
        sh(f"ip link del {name}", False)


def one(name, test):
    work = tempfile.mkdtemp(prefix="fermata-namespaces-")
    t = Test(work)
    try:
        test(t)
        report("passed", name)
    except Skip as skip:
        report("skipped", name, str(skip))
    except (Failure, OSError, ValueError, subprocess.TimeoutExpired) as failure:
        report("failed", name, str(failure))
    finally:
        clean_up(t)
        shutil.rmtree(work, ignore_errors=True)


def main():
    adopt()
    allowed = os.geteuid() == 0 and shutil.which("nft") and shutil.which("ip") and ctypes.CDLL(None, use_errno=True).unshare(CLONE_NEWNET) == 0
    for name, test in list(globals().items()):
        if name.startswith("test_") and (len(sys.argv) < 2 or any(word in name for word in sys.argv[1:])):
            if allowed:
                one(name[5:], test)
            else:
                report("skipped", name[5:], "needs root, ip and nft, and network namespaces")
    reap()
    return verdict()


if __name__ == "__main__":
    sys.exit(main())
