#!/usr/bin/env python3
"""Tests of checkpoints in archives: every kind of packing, in one file and in several, through dump, inspect, verify and restore; what the
programs tar, gzip, lz4 and zstd say of them; what other programs packed; what is refused. The rest is as in run.py."""
import io
import json
import os
import shutil
import stat
import subprocess
import tarfile
import time
import zlib

from world import BINARY, DEADLINE, Target, descendants, expect, fermata, kill_all, main, run, snapshot, state_of, tests_of, wait_gone

ENDINGS = {"none": "", "tar": ".tar", "gzip": ".tar.gz", "lz4": ".tar.lz4", "zlib": ".tar.zlib", "zstd": ".tar.zst"}
# Content of every sort; the checksum goes into the file behind the counter.
MEMORY = """
import zlib
noise, words, hollow = bytearray(os.urandom(9 << 20)), bytearray(b'one two three ' * 500000), mmap.mmap(-1, 1 << 30)
shared = mmap.mmap(-1, 12 << 20)
shared[5 << 20:9 << 20] = os.urandom(2 << 20) + bytes(2 << 20)
hollow[1 << 29:(1 << 29) + 5] = b'there'
gone = open('gone', 'wb+')
gone.write(b'kept ' * 200000)
gone.flush()
os.unlink('gone')
ends = os.pipe()
os.write(ends[1], b'x' * 50000)
def sums():
    gone.seek(0)
    return [zlib.crc32(noise), zlib.crc32(words), zlib.crc32(shared[:]), hollow[1 << 29:(1 << 29) + 6], zlib.crc32(gone.read())]
was = sums()
if not os.fork():
    while True:
        time.sleep(0.01)
before = tick
def tick():
    before()
    if ticks % 20 == 0 and sums() != was:
        sys.exit(7)
"""


def make(w, kind, streams=0, name=None, **more):
    """A checkpoint of a target that has ended; gives its path."""
    target = Target(w.work, MEMORY)
    result = fermata("dump", "process", target.pid, "--dir", w.work, "--name", name or kind.partition(":")[0], "--compression", kind,
                     "--streams", streams, **more).good()
    path = result.out.split()[-1]
    expect(result.out.splitlines()[-1] == f"Dumped to {path}", result)
    kill_all()  # it has ended; what is left is to reap
    return path, target


def restore(target, path):
    fermata("restore", "process", "--detach", "--path", path).good()
    seen = target.ticks()
    end = time.monotonic() + DEADLINE
    while target.ticks() < seen + 25:  # it has looked at all of it again
        expect(state_of(target.pid) in ("S", "R"), f"it ended after restore: {state_of(target.pid)}")
        expect(time.monotonic() < end, "it does not go on")
        time.sleep(0.005)
    expect(len(target.tree()) == 2, target.tree())
    kill_all()


def good_for(*command):
    if not shutil.which(command[0]):
        return
    result = run(command[0], command[1:])
    expect(result.status == 0, result)
    return result.out


def unpack(path, to):
    """By other programs."""
    os.mkdir(to)
    if path.endswith(".zlib"):
        with open(path, "rb") as file:
            tarfile.open(fileobj=io.BytesIO(zlib.decompress(file.read()))).extractall(to)
        return True
    program = {".lz4": "lz4", ".zst": "zstd", ".gz": "gzip"}.get(os.path.splitext(path)[1])
    if program and not shutil.which(program):
        return False
    run("tar", ["-x", *(["-I", program] if program else []), "-f", path, "-C", to]).good()
    return True


def one_kind(w, kind):
    path, target = make(w, kind)
    expect(path == os.path.join(w.work, kind + ENDINGS[kind]), path)
    expect(kind == "none" or stat.S_IMODE(os.stat(path).st_mode) == 0o600, "it is not the owner's alone")
    document = json.loads(fermata("verify", "--json", path).good().out)
    expect(document["compression"] == (kind if kind != "none" else "none") and document["files"] > 10, document)
    expect("is whole" in fermata("verify", path).good().out, "verify")
    shown = json.loads(fermata("inspect", "--json", path).good().out)
    expect({p["pid"] for p in shown["processes"]} >= {target.pid}, shown["processes"])
    if kind != "none":
        copy = os.path.join(w.work, "copy")
        if unpack(path, copy):
            fermata("verify", copy).good()
            restore(target, copy)
            shutil.rmtree(copy)
    if kind == "tar":
        expect("inventory.img" in good_for("tar", "-tf", path), "tar does not list it")
    elif kind in ("gzip", "lz4", "zstd"):
        good_for(kind, "-t", path)
    # Its name says nothing.
    other = os.path.join(w.work, "other.tar.gz")
    os.rename(path, other)
    restore(target, other)
    expect([p for p in os.listdir(w.work) if p.startswith(".") or "part" in p] == [], os.listdir(w.work))


def test_archive_none(w):
    one_kind(w, "none")


def test_archive_tar(w):
    one_kind(w, "tar")


def test_archive_gzip(w):
    one_kind(w, "gzip")


def test_archive_lz4(w):
    one_kind(w, "lz4")


def test_archive_zlib(w):
    one_kind(w, "zlib")


def test_archive_zstd(w):
    one_kind(w, "zstd")


def test_archive_levels(w):
    sizes = {}
    for kind in ("zstd:1", "zstd:12", "gzip:1", "gzip:9", "lz4:1", "lz4:12"):
        path, _ = make(w, kind, name=kind.replace(":", "-"), deadline=6 * DEADLINE)
        fermata("verify", path).good()
        sizes[kind] = os.path.getsize(path)
    for kind in ("zstd", "gzip", "lz4"):
        first, last = [size for name, size in sizes.items() if name.startswith(kind)]
        expect(last < first, sizes)
    # Noise is stored: it costs no more than a little.
    expect(all(size < 40 << 20 for size in sizes.values()), sizes)


def test_archive_streams(w):
    for kind in ENDINGS:
        path, target = make(w, kind, streams=3)
        ending = ENDINGS[kind].removeprefix(".tar")
        expect(sorted(os.listdir(path)) == [f"img-{i}{ending}" for i in range(3)], os.listdir(path))
        sizes = [os.path.getsize(os.path.join(path, name)) for name in os.listdir(path)]
        expect(min(sizes) * 4 > max(sizes), f"they are not shared out: {sizes}")
        if kind in ("gzip", "lz4", "zstd"):
            for name in os.listdir(path):
                good_for(kind, "-t", os.path.join(path, name))
        fermata("verify", path).good()
        if kind in ("none", "lz4", "zlib"):
            restore(target, path)
        os.unlink(os.path.join(path, f"img-1{ending}"))
        fermata("restore", "process", "--path", path).error("cannot restore from " + path, "damaged, or was cut off")
        shutil.rmtree(path)


def test_archive_repacked(w):
    """What other programs made of it: one long stream without an index."""
    path, target = make(w, "tar")
    with open(path, "rb") as file:
        plain = file.read()
    again = os.path.join(w.work, "again")
    repacked = {"zlib": lambda data: zlib.compress(data, 1)}
    for program in ("gzip", "lz4", "zstd"):
        if shutil.which(program):
            repacked[program] = lambda data, program=program: subprocess.run([program, "-1", "-c"], input=data, stdout=subprocess.PIPE, check=True).stdout
    for kind, pack in repacked.items():
        with open(again, "wb") as file:
            file.write(pack(plain))
        expect(json.loads(fermata("verify", "--json", again).good().out)["compression"] == kind, kind)
        restore(target, again)
        packed = pack(plain)
        with open(again, "wb") as file:
            file.write(packed[:len(packed) - 1])
        fermata("verify", again).error("cannot verify", "damaged, or was cut off")
        middle = len(packed) // 3
        with open(again, "wb") as file:
            file.write(packed[:middle] + bytes([packed[middle] ^ 0x20]) + packed[middle + 1:])
        fermata("restore", "process", "--path", again).error("cannot restore from", "damaged")
    # And by tar itself, from a directory, with names that begin with "./", and a record of pax in front of each.
    folder = os.path.join(w.work, "folder")
    unpack(path, folder)
    for form in ("gnu", "pax", "ustar"):
        run("tar", ["-c", f"--format={form}", "-f", again, "-C", folder, "."]).good()
        restore(target, again)


def refused(w, *words, options=(), folder=None):
    folder = folder or w.work
    target = Target(w.work)
    before = snapshot(folder)
    fermata("dump", "process", target.pid, "--dir", folder, *options).error(f"cannot dump process {target.pid}", *words)
    expect(snapshot(folder) == before, f"something was left: {os.listdir(folder)}")
    target.unharmed()
    os.kill(target.pid, 9)
    wait_gone(target.pid)


def test_archive_refused(w):
    for value, word in (("rar", "no compression"), ("", "no compression"), ("zstd:99", "no level"), ("zstd:", "no level"), ("tar:3", "no levels"),
                        ("none:1", "no levels")):
        refused(w, "--compression", word, options=["--compression", value])
    refused(w, "--streams", "2 to", options=["--streams", "1"])
    refused(w, "--streams", "2 to", options=["--streams", "1000"])
    refused(w, "no name for a checkpoint", options=["--name", "a/b", "--compression", "lz4"])
    for kind, ending in ENDINGS.items():
        with open(os.path.join(w.work, "taken" + ending), "w") as file:
            file.write("here first")
        refused(w, "is there already", options=["--name", "taken", "--compression", kind])
        with open(os.path.join(w.work, "taken" + ending)) as file:
            expect(file.read() == "here first", "it was written over")
        os.unlink(os.path.join(w.work, "taken" + ending))
    os.mkdir(os.path.join(w.work, "taken"))
    refused(w, "is there already", options=["--name", "taken", "--streams", "3", "--compression", "lz4"])
    os.rmdir(os.path.join(w.work, "taken"))
    # A dump that fails for another reason leaves no archive either.
    target = Target(w.work, "other = os.pidfd_open(os.getppid())")
    for options in (["--compression", "lz4"], ["--compression", "tar"], ["--streams", "2"]):
        before = snapshot(w.work)
        fermata("dump", "process", target.pid, "--dir", w.work, *options).error("pidfd")
        expect(snapshot(w.work) == before, os.listdir(w.work))
    target.unharmed()


def test_archive_leave_running(w):
    target = Target(w.work, MEMORY)
    first = fermata("dump", "process", target.pid, "--dir", w.work, "--compression", "lz4", "--leave-running").good().out.split()[-1]
    second = fermata("dump", "process", target.pid, "--dir", w.work, "--compression", "lz4", "--leave-running").good().out.split()[-1]
    expect(first != second and first.endswith(".tar.lz4"), (first, second))
    target.unharmed()
    kill_all()
    restore(target, second)


def test_archive_damaged(w):
    """Cut off or altered anywhere: refused, or, where it makes no difference, restored as it was. Nothing is left running."""
    for kind in ("tar", "lz4", "zstd", "gzip", "zlib"):
        path, target = make(w, kind)
        with open(path, "rb") as file:
            data = file.read()
        other, caught, tries = os.path.join(w.work, "other"), 0, 0
        for keep in (0, 1, 100, 600, len(data) // 3, len(data) // 2, len(data) - 600, len(data) - 1):
            with open(other, "wb") as file:
                file.write(data[:keep])
            fermata("restore", "process", "--detach", "--path", other).error("cannot restore from " + other)
        for i in range(12):
            at = i * (len(data) - 1) // 11
            with open(other, "wb") as file:
                file.write(data[:at] + bytes([data[at] ^ 0x24]) + data[at + 1:])
            for options in ([], ["--skip-verify"]):
                result = fermata("restore", "process", "--detach", "--path", other, *options)
                tries += not options
                if result.status:
                    result.error("cannot restore from " + other)
                    caught += not options
                elif not options:
                    target.wait()
                if not result.status:  # without checksums it may be anything now
                    kill_all()
                expect(not descendants(os.getpid()), f"{kind}: left behind: {descendants(os.getpid())}")
        expect(caught >= tries - 3, f"{kind}: {caught} of {tries} were found")


# ---- progress, profile, log ----

def on_terminal(w, *arguments):
    """What a program writes to a terminal."""
    master, slave = os.openpty()
    task = subprocess.Popen([BINARY, *map(str, arguments)], stdin=slave, stdout=slave, stderr=slave)
    os.close(slave)
    text = b""
    while True:
        try:
            some = os.read(master, 65536)
        except OSError:
            break
        if not some:
            break
        text += some
    os.close(master)
    expect(task.wait() == 0, text)
    return text.decode()


SLOW = "words = bytearray(b''.join(b'%d of many words ' % (i * 7919 % 1000003) for i in range(2500000)))"


def test_progress(w):
    target = Target(w.work, SLOW)
    slow = ["dump", "process", target.pid, "--dir", w.work, "--compression", "zstd:17", "--leave-running", "--no-live"]
    text = on_terminal(w, *slow)
    expect("memory" in text and "#" in text and "iB/s" in text and "left" in text and " of " in text, text[:2000])
    expect(text.replace("\r\n", "\n").endswith(".tar.zst\n") and "\r\033[KDumped to" in text, text[-300:])
    expect("\r\033" not in on_terminal(w, *slow, "--quiet"), "--quiet")
    expect(not fermata(*slow, deadline=6 * DEADLINE).good().err, "not on a terminal")
    quick = on_terminal(w, "dump", "process", target.pid, "--dir", w.work, "--leave-running")
    expect(quick.startswith("Dumped to"), quick)
    target.unharmed()


def test_profiling(w):
    target = Target(w.work, MEMORY)
    dump = ["dump", "process", target.pid, "--dir", w.work, "--compression", "lz4", "--leave-running", "--no-live"]
    lines = fermata(*dump, "--profiling").good().out.splitlines()
    names = [line.split()[0] for line in lines]
    expect(names[0] == "STAGE" and names[1:9] == ["prepare", "freeze", "discover", "capture", "memory", "write", "commit", "resume"], lines)
    expect(names[-3:-1] == ["pause", "total"] and lines[-1].startswith("Dumped to "), lines)
    times = {line.split()[0]: float(line.split()[1]) for line in lines[1:-1]}
    stages = sum(times[name] for name in names[1:9])
    expect(abs(stages - times["total"]) < 0.1 + times["total"] / 100, f"they do not add up: {times}")
    expect(0 < times["pause"] <= times["total"], times)
    expect("STAGE" not in fermata(*dump).good().out, "it was not asked for")
    document = json.loads(fermata(*dump, "--profiling", "--json").good().out)
    path, profile = document["checkpoint"], document["profile"]
    expect(abs(sum(s["ns"] for s in profile["stages"]) - profile["total_ns"]) < profile["total_ns"] / 100, profile)
    expect(profile["pages_written"] * 4096 > 16 << 20 and profile["bytes"] == os.path.getsize(path), profile)
    kill_all()
    lines = fermata("restore", "process", "--detach", "--path", path, "--profiling").good().out.splitlines()
    names = [line.split()[0] for line in lines]
    expect(names == ["STAGE", "open", "plan", "build", "memory", "verify", "switch", "total", "Restored"], lines)


def test_stats(w):
    """criu's own figures, in its format."""
    images, target = w.checkpoint(MEMORY)
    decoded = []
    for name in ("dump", "restore"):
        if name == "restore":
            w.criu("restore", "-d", "-D", images).good()
        path = os.path.join(images, "stats-" + name)
        with open(path, "rb") as file:
            expect(file.read(8) == bytes.fromhex("4059105506330957"), f"the magic of {path}")
        if shutil.which("crit"):
            decoded.append(json.loads(run("crit", ["show", path]).good().out)["entries"][0][name])
    if decoded:
        pages = sum(os.path.getsize(os.path.join(images, name)) for name in os.listdir(images) if name.startswith("pages-")) // 4096
        dump, back = decoded
        expect(dump["pages_written"] + dump["shpages_written"] == pages and dump["pages_scanned"] >= dump["pages_written"], (dump, pages))
        expect(0 < dump["freezing_time"] <= dump["frozen_time"] and dump["memdump_time"] > 0, dump)
        expect(back["pages_restored"] == dump["pages_written"] and 0 < back["forking_time"] <= back["restore_time"], (back, dump))


def test_log(w):
    target, log = Target(w.work), os.path.join(w.work, "log")
    dump = ["dump", "process", target.pid, "--dir", w.work, "--leave-running"]
    fermata(*dump, "--log-format", "json", "--log-level", "debug", "-o", log).good()
    with open(log) as file:
        lines = [json.loads(line) for line in file]
    expect(lines and all(line.keys() == {"time", "level", "message"} for line in lines), lines)
    expect(any(line["level"] == "info" and "finished" in line["message"] for line in lines), lines)
    fermata(*dump, "--log-level", "warning", "-o", log).good()
    expect(not os.path.getsize(log), "warnings only")
    result = fermata("dump", "process", target.pid, "--dir", w.work + '/no "such"', "--log-format", "json")
    expect(result.status == 1 and json.loads(result.err)["level"] == "error" and 'no "such"' in json.loads(result.err)["message"], result)
    fermata(*dump, "--log-level", "loud").error("no level", status=2)
    fermata(*dump, "--log-format", "xml").error("no format", status=2)
    target.unharmed()


if __name__ == "__main__":
    main(tests_of(globals()))
