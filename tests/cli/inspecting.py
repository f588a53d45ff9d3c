#!/usr/bin/env python3
"""Tests of inspect: what it says of a checkpoint, and of a damaged one.

Arguments select tests by a part of their names. Runs as root."""
import json
import os
import re
import shutil
import subprocess

from world import descendants, expect, fermata, kill_all, main, read, tests_of


# ---- inspect ----

KINDS = """
threading.Thread(target=time.sleep, args=(1000,)).start()
import select
passwd = open("/etc/passwd")
passwd.read(1)
at = os.lseek(passwd.fileno(), 17, os.SEEK_SET)
r, wr = os.pipe()
os.write(wr, b"abcde")
a, b = socket.socketpair()
named = socket.socket(socket.AF_UNIX)
named.bind("\\0fermata-cli-test")
named.listen()
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
epoll = select.epoll()
epoll.register(a)
memfd = os.memfd_create("scratch")
os.ftruncate(memfd, 8192)
gone = open("gone", "w")
os.unlink("gone")
big = mmap.mmap(-1, 4 << 20, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
big[:3 << 20] = b"x" * (3 << 20)
shared = mmap.mmap(-1, 1 << 20)
shared[:8192] = b"y" * 8192
if not os.fork():
    while True:
        time.sleep(1)
zombie = os.fork()
if not zombie:
    os._exit(3)
os.waitid(os.P_PID, zombie, os.WEXITED | os.WNOWAIT)
"""


def maps_of(pid):
    """(start, end, access) of the areas that a checkpoint has."""
    found = []
    for line in read(f"/proc/{pid}/maps").splitlines():
        if "[vsyscall]" not in line:
            start, end, access = re.match(r"(\w+)-(\w+) (\S+)", line).groups()
            found.append((int(start, 16), int(end, 16), access))
    return found


def test_inspect(w):
    images, target = w.checkpoint(KINDS, leave=True)
    document = json.loads(fermata("inspect", "--json", images).good().out)
    by_pid = {process["pid"]: process for process in document["processes"]}
    expect(sorted(by_pid) == sorted(target.tree()), by_pid.keys())
    root = by_pid[target.pid]
    expect(root["ppid"] == 0 and root["sid"] == root["pgid"] == target.pid and root["cwd"] == w.work and root["root"] == "/", root)
    expect(root["name"] == read(f"/proc/{target.pid}/comm").strip() and root["state"] == "running", root["name"])
    expect(root["executable"] == os.readlink(f"/proc/{target.pid}/exe"), root["executable"])
    expect({t["tid"] for t in root["threads"]} == set(map(int, os.listdir(f"/proc/{target.pid}/task"))), root["threads"])
    expect(sorted(process["state"] for process in by_pid.values()) == ["running", "running", "zombie"], by_pid)
    for pid, process in by_pid.items():
        if process["state"] == "zombie":
            continue
        fds = {int(fd): os.readlink(f"/proc/{pid}/fd/{fd}") for fd in os.listdir(f"/proc/{pid}/fd")}
        expect({d["fd"] for d in process["descriptors"]} == fds.keys(), process["descriptors"])
        for d in process["descriptors"]:
            if d["kind"] == "file":
                expect(d["what"].startswith(fds[d["fd"]].removesuffix(" (deleted)")), (d, fds[d["fd"]]))
        areas = [(int(a["start"], 16), int(a["end"], 16), a["access"]) for a in process["areas"]]
        expect(areas == maps_of(pid), f"the areas of {pid}: {set(areas) ^ set(maps_of(pid))}")
        expect(process["memory"]["mapped"] == sum(end - start for start, end, _ in areas), process["memory"])
        expect(process["memory"]["stored"] == sum(a["memory"]["stored"] for a in process["areas"]), process["memory"])
    words = {d["kind"]: d["what"] for d in root["descriptors"]}
    whats = [d["what"] for d in root["descriptors"]]
    expect(words["epoll"].startswith("watches descriptors "), words)
    expect("scratch, 8192 bytes" in words["memfd"], words)
    expect(any(what.endswith("read end, 5 bytes in it") for what in whats), whats)
    expect(any("named @fermata-cli-test, listening" in what for what in whats), whats)
    expect(any(re.search(r"tcp 127\.0\.0\.1:\d+, listening", what) for what in whats), whats)
    expect(any(f"of process {target.pid})" in what for what in whats), whats)
    expect(any("gone (deleted, kept in the checkpoint)" in what for what in whats), whats)
    expect([d["position"] for d in root["descriptors"] if d["what"] == "/etc/passwd"] == [17], root["descriptors"])
    big = [a["memory"]["stored"] for a in root["areas"] if int(a["end"], 16) - int(a["start"], 16) >= 4 << 20 and
           a["memory"]["stored"] >= 3 << 20]
    expect(big, "the area of 3 MiB is not there")
    expect(8192 <= document["totals"]["shared_memory_stored"] < 1 << 20, document["totals"])
    on_disk = {name: os.path.getsize(os.path.join(images, name)) for name in os.listdir(images) if name != "stats-dump"}
    expect({f["name"]: f["size"] for f in document["files"]} == on_disk, document["files"])
    expect(document["totals"]["size"] == sum(on_disk.values()), document["totals"])
    stored = sum(size for name, size in on_disk.items() if name.startswith("pages-"))
    expect(document["totals"]["memory"]["stored"] + document["totals"]["shared_memory_stored"] == stored, (document["totals"], stored))
    text, detailed = fermata("inspect", images).good().out, fermata("inspect", "-v", images).good().out
    for what in whats + [str(pid) for pid in by_pid] + [str(sum(on_disk.values()))]:
        expect(what in text, f"no {what!r} in {text}")
    for area in root["areas"]:
        expect(f"{area['start'][2:]}-{area['end'][2:]} " in detailed, area)
    for name in on_disk:
        expect(f"  {name}\n" in detailed, name)
    expect(len(text) < len(detailed), "-v says no more")
    compare_crit(images, detailed)


def compare_crit(images, text):
    """Whatever crit tells of the checkpoint is in what inspect tells."""
    if not shutil.which("crit"):
        return
    for what in ("ps", "fds", "mems"):
        task = subprocess.run(["crit", "x", images, what], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        for word in set(re.findall(r"/[\w./-]{3,}|\b[0-9a-f]{8,}-[0-9a-f]{8,}\b|\b\d{3,}\b(?! \()", task.stdout.decode())):
            expect(word in text or f"memfd {word}" in text, f"crit x {what} says {word}, inspect does not")


def damage(path, kind):
    with open(path, "rb") as file:
        data = bytearray(file.read())
    if kind == "cut":
        data = data[:len(data) // 2]
    elif kind == "flip" and data:
        data[len(data) // 2] ^= 0x41
    with open(path + ".new", "wb") as file:
        file.write(data)
    os.rename(path + ".new", path)


def test_inspect_damaged(w):
    images, _ = w.checkpoint(KINDS.replace("3 << 20", "4096"))
    kill_all()
    for name in sorted(set(os.listdir(images)) - {"stats-dump"}):
        for kind in ("cut", "flip", "removed"):
            copy = os.path.join(w.work, "copy")
            shutil.copytree(images, copy)
            path = os.path.join(copy, name)
            size = os.path.getsize(path)
            if kind == "removed":
                os.unlink(path)
            else:
                damage(path, kind)
            if name != "fermata.json" and size:
                result = fermata("inspect", copy).error("cannot inspect " + copy)
                expect(name in result.err, f"{name} {kind}: {result}")
                fermata("restore", "process", "-p", copy).error("cannot restore from " + copy, name)
            for arguments in (("inspect", copy, "--skip-verify"), ("inspect", copy, "--skip-verify", "--json"), ("inspect", "-v", copy)):
                result = fermata(*arguments)
                if result.status:
                    result.error("cannot inspect")
                expect(result.status in (0, 1), f"{name} {kind}: {result}")
            shutil.rmtree(copy)
    expect(not descendants(os.getpid()), f"a restore has left processes: {[read(f'/proc/{pid}/stat') for pid in descendants(os.getpid())]}")


def test_inspect_errors(w):
    empty = w.make_dir("empty")
    fermata("inspect", empty).error(empty, "no checkpoint in it")
    fermata("inspect", empty + "/none").error("no such directory", "give what")
    fermata("inspect", "/etc/passwd").error("/etc/passwd", "neither a directory nor an archive")
    expect(not os.listdir(empty), "inspect has written something")


main(tests_of(globals()))
