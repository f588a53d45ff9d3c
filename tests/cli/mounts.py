#!/usr/bin/env python3
"""Mount namespaces of a tree's own: what comes from outside (--external, --root), what is left out (--skip-mnt), what is refused by name, mounts that share with
those outside, and images that lie. What is saved of mounts and files: tests/live/ns_mnt*.c. The rest is as in run.py."""
import ctypes
import glob
import gzip
import io
import os
import shutil
import signal
import subprocess
import sys
import tarfile

from hostile import change, packer, refused_copy
from world import ROOT, Skip, Target, expect, fermata, main, read, restore_refused, tests_of, wait_gone

SET_UP = """
import ctypes, os
libc = ctypes.CDLL(None, use_errno=True)
def must(r):
    if r:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
def mount(source, place, kind=None, flags=0, data=None):
    must(libc.mount(source.encode(), place.encode(), kind and kind.encode(), flags, data and data.encode()))
must(libc.unshare(0x20000))
PRIVATE, SHARED, SLAVE, REC, BIND = 1 << 18, 1 << 20, 1 << 19, 1 << 14, 1 << 12
"""
# What other programs have mounted for a while would not be there any more at the restore.
ALONE = SET_UP + """mount('none', '/', None, REC | PRIVATE)
for line in open('/proc/self/mountinfo').read().splitlines():
    point = line.split()[4]
    if point.startswith(('/tmp/', '/run/')) and not os.getcwd().startswith(point):
        libc.umount2(point.encode(), 2)
"""


def mounts_of(pid, point):
    """The lines of mountinfo for a place."""
    return [line for line in read(f"/proc/{pid}/mountinfo").splitlines() if line.split()[4] == point]


def saved(w, body, *options, name="images"):
    target = Target(w.work, body)
    images = w.make_dir(name)
    w.criu("dump", "-t", target.pid, "-D", images, *options).good()
    wait_gone(target.pid)
    return images, target


def restored(w, images, target, *options):
    w.criu("restore", "-d", "-D", images, *options).good()
    target.wait()


def ended(target):
    os.kill(target.pid, signal.SIGKILL)
    wait_gone(target.pid)


def not_saved(w, body, *words, options=()):
    target = Target(w.work, body)
    images = w.make_dir("refused")
    w.criu("dump", "-t", target.pid, "-D", images, *options).error("mount namespace", *words)
    target.unharmed()
    ended(target)
    shutil.rmtree(images)


def test_mounts_external(w):
    """A mount that the tree alone has is the caller's at the restore, a file as well as a directory."""
    outside, inside = os.path.join(w.work, "outside"), os.path.join(w.work, "inside")
    os.mkdir(outside)
    os.mkdir(inside)
    for name in ("one", "two"):
        with open(os.path.join(w.work, name), "w", encoding="ascii") as file:
            file.write(name)
    with open(os.path.join(outside, "file"), "w", encoding="ascii") as file:
        file.write("from outside")
    body = ALONE + f"mount('mine', {inside!r}, 'tmpfs', 4)\nopen('inside/file', 'w').write('of its own')\nmount('one', 'one', None, BIND)\n"
    images, target = saved(w, body, "--external", f"mnt[{inside}]:place", "--external", f"mnt[{w.work}/one]:a file")
    expect(not glob.glob(os.path.join(images, "tmpfs-*")), "its content was saved")
    restore_refused(w, images, f"the mount at {inside} comes from outside the tree", "--external 'mnt[place]:PATH'")
    place, file = ("--external", f"mnt[place]:{outside}"), ("--ext-mount-map", f"a file:{w.work}/two")
    w.criu("restore", "-d", "-D", images, *place, "--external", f"mnt[a file]:{w.work}/none").error("cannot take", f"{w.work}/none")
    restored(w, images, target, *place, *file)
    expect(read(f"/proc/{target.pid}/root{inside}/file") == "from outside" and read(f"/proc/{target.pid}/root{w.work}/one") == "two", "not what was given")
    expect("nodev" in mounts_of(target.pid, inside)[0].split()[5], mounts_of(target.pid, inside))
    expect(read(os.path.join(w.work, "one")) == "one" and not os.listdir(inside), "seen from outside")
    ended(target)


def test_mounts_root(w):
    """Another directory as root; what is open there is found there."""
    root, other = os.path.join(w.work, "root"), os.path.join(w.work, "other")
    for name in (root, other):
        os.mkdir(name)
        for place in ("proc", "usr", "lib", "lib64", "bin", "etc", "work", "old"):
            os.mkdir(os.path.join(name, place))
        with open(os.path.join(name, "file"), "w", encoding="ascii") as file:
            file.write(os.path.basename(name) if name == root else "oth!")
    body = ALONE + f"""mount({root!r}, {root!r}, None, BIND)
mount('proc', {root!r} + '/proc', 'proc')
mount({w.work!r}, {root!r} + '/work', None, BIND)
must(libc.syscall(155, {root!r}.encode(), ({root!r} + '/old').encode()))
os.chdir('/')
must(libc.umount2(b'/old', 2))
held = open('/file')
"""
    images, target = saved(w, body)
    restored(w, images, target)
    expect(read(f"/proc/{target.pid}/root/file") == "root" and mounts_of(target.pid, "/")[0].split()[3].endswith("/root"), "another root")
    ended(target)
    restored(w, images, target, "--root", other)
    expect(read(f"/proc/{target.pid}/root/file") == "oth!" and mounts_of(target.pid, "/")[0].split()[3].endswith("/other"), mounts_of(target.pid, "/"))
    expect(os.path.samefile(f"/proc/{target.pid}/root", other), "its root is not what was given")
    ended(target)
    fermata("restore", "process", "--path", images, "--detach", "--root", other).good()
    target.wait()
    ended(target)
    os.rename(root, root + ".away")
    restore_refused(w, images, "any more, which was mounted at /", root)


def test_mounts_skipped(w):
    os.mkdir(os.path.join(w.work, "place"))
    place = os.path.join(w.work, "place")
    images, target = saved(w, ALONE + f"mount('a', {place!r}, 'tmpfs')\nos.mkdir('place/b')\nmount('b', {place!r} + '/b', 'tmpfs')\n", "--skip-mnt", place)
    restored(w, images, target)
    expect(not mounts_of(target.pid, place) and not mounts_of(target.pid, place + "/b") and not os.listdir(f"/proc/{target.pid}/root{place}"), "it is there")
    ended(target)


def test_mounts_refused(w):
    """Each by its name, with what would help; the program goes on."""
    place = os.path.join(w.work, "place")
    os.mkdir(place)
    os.mkdir(os.path.join(w.work, "gone"))
    not_saved(w, ALONE + f"mount('b', {place!r}, 'bpf')\nos.mkdir('place/dir')\n", f"at {place} (bpf) has content", "mnt[")
    not_saved(w, ALONE + f"mount('gone', {place!r}, None, BIND)\nos.rmdir('gone')\n", f"mounted at {place} was deleted")
    not_saved(w, ALONE + f"open('ns', 'w').close()\nmount('/proc/self/ns/uts', {w.work!r} + '/ns', None, BIND)\n", "it holds a namespace", "--external")
    not_saved(w, ALONE + f"mount('t', {place!r}, 'tmpfs')\nos.mkdir('place/d')\nos.mkdir('other')\nmount('place/d', {w.work!r} + '/other', None, BIND)\n"
              f"must(libc.umount2({place!r}.encode(), 2))\n", "and the whole is nowhere")
    # A child in another one than its parent.
    target = Target(w.work, ALONE + "if not os.fork():\n    must(libc.unshare(0x20000))\n    import time\n    time.sleep(1000)\n")
    w.criu("dump", "-t", target.pid, "-D", w.make_dir("child")).error("namespace")
    target.unharmed()


def test_mounts_check(w):
    """What a check says is what a dump would; nothing is written."""
    place = os.path.join(w.work, "place")
    os.mkdir(place)
    target = Target(w.work, ALONE + f"mount('t', {place!r}, 'tmpfs')\nopen('place/file', 'w').write('x')\n")
    result = fermata("check", "process", target.pid)
    expect(result.status == 0 and "can be saved" in result.out, result)
    target.unharmed()
    ended(target)
    target = Target(w.work, ALONE + f"mount('b', {place!r}, 'bpf')\nos.mkdir('place/dir')\n")
    result = fermata("check", "process", target.pid)
    expect(result.status == 1 and "has content" in result.out, result)
    target.unharmed()


WITHIN = """import os, subprocess, sys
sys.path.insert(0, %r)
import ctypes
libc = ctypes.CDLL(None, use_errno=True)
def do(*words):
    r = libc.mount(words[0].encode(), words[1].encode(), words[2], words[3], words[4])
    assert r == 0, os.strerror(ctypes.get_errno())
assert libc.unshare(0x20000) == 0
do("none", "/", None, (1 << 14) | (1 << 18), None)
for line in open('/proc/self/mountinfo').read().splitlines():
    point = line.split()[4]
    if point.startswith(('/tmp/', '/run/')):
        libc.umount2(point.encode(), 2)
do("tmpfs", %r, b"tmpfs", 0, None)
do("none", %r, None, 1 << 20, None)
os.execv(sys.executable, [sys.executable] + sys.argv[1:])
"""


def test_mounts_follow_outside(w):
    """Those that follow mounts of ours, or share with them, do so again: what we mount later appears there. Runs in a namespace of its own, in which something
    is shared."""
    shared = os.path.join(w.work, "shared")
    os.mkdir(shared)
    script = WITHIN % (os.path.dirname(os.path.abspath(__file__)), shared, shared)
    result = subprocess.run([sys.executable, "-c", script, os.path.abspath(__file__), "within", w.work], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False,
                            env=dict(os.environ, MOUNTS_WITHIN=w.work))
    expect(result.returncode == 0, result.stdout.decode())


def within(work):
    from world import World
    os.mkdir(os.path.join(work, "within"))
    w, libc, shared = World(os.path.join(work, "within")), ctypes.CDLL(None, use_errno=True), os.path.join(work, "shared")
    for flags, name in (("SLAVE | REC", "slave"), ("SHARED", "shared")):
        os.mkdir(os.path.join(shared, name))
        images, target = saved(w, SET_UP + f"mount('none', {shared!r}, None, {flags})\n", name="images-" + name)
        restored(w, images, target)
        line = mounts_of(target.pid, shared)[0]
        expect((" master:" in line) == (name == "slave") and (" shared:" in line) == (name == "shared"), line)
        ours = [x for x in read("/proc/self/mountinfo").splitlines() if x.split()[4] == shared][0]
        group = ours.split(" shared:")[1].split()[0]
        expect(f":{group} " in line, f"{line} is not of the group of {ours}")
        place = os.path.join(shared, name)
        expect(libc.mount(b"new", place.encode(), b"tmpfs", 0, None) == 0 and mounts_of(target.pid, place), "what was mounted later does not appear")
        expect(libc.umount2(place.encode(), 2) == 0 and not mounts_of(target.pid, place), "it stays")
        ended(target)


def test_mounts_hostile(w):
    """Images that lie about mounts: each is refused before anything runs, and nothing of ours is changed."""
    w.known = []
    for name in ("place", "other"):
        os.mkdir(os.path.join(w.work, name))
    place, other = os.path.join(w.work, "place"), os.path.join(w.work, "other")
    images, target = saved(w, ALONE + f"mount('t', {place!r}, 'tmpfs', 0, 'size=1m')\nmount({place!r}, {other!r}, None, BIND)\nopen('place/file', 'w').write('x')\n")
    image, pack, own = os.path.basename(glob.glob(os.path.join(images, "mountpoints-*"))[0]), packer(), read("/proc/self/mountinfo")

    def lie(where, **fields):
        numbers = {"fstype": 1, "id": 2, "parent": 4, "flags": 5, "root": 6, "point": 7, "source": 8, "options": 9, "shared": 10, "master": 11, "fsname": 14, "ext": 13,
                   "host_point": 1000, "host_root": 1001}

        def one(entry):
            if not any(part[0] == 7 and part[2] == where.encode() for part in entry):
                return
            for key, value in fields.items():
                entry[:] = [part for part in entry if part[0] != numbers[key]]
                entry.append([numbers[key], 2 if isinstance(value, str) else 0, value.encode() if isinstance(value, str) else value])
        return lambda copy: change(copy, image, one)
    for fields, words in (({"point": f"{place}/../../etc"}, "can't be"), ({"point": "etc"}, "can't be"), ({"root": "/../.."}, "can't be"),
                          ({"parent": 4000000000}, "hangs on none"), ({"id": 4000000000}, "circle"), ({"fsname": "nosuchfs"}, "can't be mounted again"), ({"fsname": "ext4", "source": "/dev/vda"}, "can't be mounted again"),
                          ({"options": "size=1m,nosuchoption"}, "cannot make"), ({"options": "x" * 5000}, "damaged"), ({"shared": 7, "master": 7}, "circle"), ({"master": 99}, "follows others"),
                          ({"point": place + "/none"}, "there is no"), ({"ext": 1, "host_point": "/no/where"}, "is not mounted at /no/where"),
                          ({"ext": 1, "host_point": "relative"}, "damaged"), ({"ext": 1, "host_point": "/", "host_root": "/a"}, "damaged"), ({"ext": 1}, "--external"), ({"source": "dev[x]"}, "of which")):
        if "id" in fields:
            fields = {"id": 4000000000, "parent": 4000000000}
            words = "hangs on none"
        refused_copy(w, images, lie(place, **fields), words)
    # A directory on the way that has become a link: nothing is mounted where it leads.
    os.rmdir(other)
    os.symlink("/etc", other)
    restore_refused(w, images, "there is no", other)
    os.unlink(other)
    os.mkdir(other)
    expect(read("/proc/self/mountinfo") == own, "mounts of ours have changed")

    archive = os.path.basename(glob.glob(os.path.join(images, "tmpfs-dev-*"))[0])

    def repack(copy, *members):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=tarfile.PAX_FORMAT) as tar:
            for name, kind, link, data in members:
                info = tarfile.TarInfo(name)
                info.type, info.linkname, info.size = kind, link, len(data)
                tar.addfile(info, io.BytesIO(data))
        with open(os.path.join(copy, archive), "wb") as file:
            file.write(gzip.compress(out.getvalue()))
        os.unlink(os.path.join(copy, "fermata.json"))
    escape = os.path.join(w.work, "escaped")
    up = "../" * 30 + escape[1:]
    for members, words in (([(up, tarfile.REGTYPE, "", b"x")], "a name that can't be"), ([(escape, tarfile.REGTYPE, "", b"x")], "a name that can't be"),
                           ([("out", tarfile.SYMTYPE, w.work, b""), ("out/escaped", tarfile.REGTYPE, "", b"x")], "cannot make"),
                           ([("link", tarfile.LNKTYPE, up, b"")], "nowhere"), ([("link", tarfile.LNKTYPE, "none", b"")], "cannot make"),
                           ([("a", tarfile.REGTYPE, "", b"x"), ("a", tarfile.REGTYPE, "", b"y")], "cannot make"), ([("big", tarfile.REGTYPE, "", bytes(3 << 20))], "cannot make"),
                           ([("a/b/c", tarfile.REGTYPE, "", b"x")], "cannot make"), ([("odd", b"Z", "", b"")], "not known")):
        refused_copy(w, images, lambda copy, members=members: repack(copy, *members), words)
        expect(not os.path.exists(escape), "it has left the file system")

    def cut(copy):
        with open(os.path.join(copy, archive), "r+b") as file:
            file.truncate(30)
        os.unlink(os.path.join(copy, "fermata.json"))
    refused_copy(w, images, cut, "ends too early")
    expect(pack and read("/proc/self/mountinfo") == own, "mounts of ours have changed")
    # What tar(1) makes is taken.
    copy = images + ".tar"
    shutil.copytree(images, copy)
    tree = os.path.join(w.work, "tree")
    os.mkdir(tree)
    with open(os.path.join(tree, "file"), "w", encoding="ascii") as file:
        file.write("x")
    with open(os.path.join(tree, "n" * 200), "wb") as file:
        file.truncate(3 << 20)
        file.write(b"sparse")
    if not shutil.which("tar"):
        raise Skip("needs tar")
    subprocess.run(["tar", "--create", "--gzip", "--sparse", "--format=posix", "--file", os.path.join(copy, archive), "--directory", tree, "."], check=True)
    os.unlink(os.path.join(copy, "fermata.json"))
    restored(w, copy, target)
    long = f"/proc/{target.pid}/root{place}/{'n' * 200}"
    expect(os.stat(long).st_size == 3 << 20 and open(long, "rb").read(7) == b"sparse\0", "not what tar has packed")
    ended(target)


if __name__ == "__main__":
    if os.environ.get("MOUNTS_WITHIN"):
        within(os.environ.pop("MOUNTS_WITHIN"))
    else:
        main(tests_of(globals()))
