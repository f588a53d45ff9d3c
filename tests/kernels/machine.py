"""A machine under qemu with a kernel of one's choice: what it boots from is made of this machine's own packages.

Two things are made, below build/kernels: `root.ext4`, a file system with the packages below, this repository's tests and what is built; and
for each kernel an initramfs with a static busybox and the modules that are needed. qemu emulates the processor (no KVM is asked for), and writes what
the guest changes to a file without a name, so the image stays as it was. The guest runs one script, `job`, whose output comes over the serial line.

Needs Debian or Ubuntu with: qemu-system-x86, busybox-static, e2fsprogs."""
import glob
import lzma
import os
import re
import shutil
import struct
import subprocess
import sys
import zlib

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
from support import ROOT  # noqa: E402

PLACE = os.path.join(ROOT, "build/kernels")
HOME = "/fermata"  # where the repository is in the guest
PACKAGES = ("apparmor", "bash", "coreutils", "criu", "dash", "findutils", "grep", "iproute2", "kmod", "libc-bin", "mount", "procps", "python3", "python3-protobuf", "sed", "util-linux")
LEFT_OUT = ("/usr/share/doc/", "/usr/share/man/", "/usr/share/locale/", "/usr/share/info/")
MODULES = ("virtio_pci", "virtio_blk", "virtio_rng", "ext4", "crc32c_generic", "overlay", "loop", "unix_diag", "inet_diag", "tcp_diag", "udp_diag", "raw_diag", "netlink_diag",
           "af_packet", "af_packet_diag", "nf_tables", "nft_ct", "nft_reject_inet", "nf_conntrack", "tun", "veth", "dummy", "9p", "9pnet_virtio")
INIT = """#!/bin/busybox sh
export PATH=/bin
/bin/busybox mkdir -p /proc /sys /dev /root
/bin/busybox mount -t devtmpfs dev /dev
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sys /sys
for module in /modules/*.ko; do /bin/busybox insmod $module || echo "cannot load $module"; done
for i in 1 2 3 4 5 6 7 8 9; do [ -b /dev/vda ] || /bin/busybox sleep 0.3; done
/bin/busybox mount -t ext4 /dev/vda /root || /bin/busybox poweroff -f
/bin/busybox cp /job /root/job
for dir in dev proc sys; do /bin/busybox mount --move /$dir /root/$dir; done
exec /bin/busybox switch_root /root /sbin/guest-init
"""
GUEST_INIT = """#!/bin/bash
export PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin HOME=/root LC_ALL=C.UTF-8
mkdir -p /dev/pts /dev/shm /dev/mqueue /run /tmp
mount -t devpts -o ptmxmode=0666,mode=0620,gid=5 devpts /dev/pts
mount -t tmpfs -o mode=1777 shm /dev/shm
mount -t tmpfs run /run
mount -t mqueue mqueue /dev/mqueue
mount -t cgroup2 cgroup /sys/fs/cgroup
ln -sfn /proc/self/fd /dev/fd; ln -sfn fd/0 /dev/stdin; ln -sfn fd/1 /dev/stdout; ln -sfn fd/2 /dev/stderr
ip link set lo up
echo guest > /proc/sys/kernel/hostname
echo 64 > /proc/sys/vm/nr_hugepages
cd %s
setsid bash -c 'exec </dev/null >/dev/ttyS0 2>&1; bash /job; echo "@ended $?"'
sync
echo o > /proc/sysrq-trigger
sleep 60
""" % HOME


def run(command, **more):
    return subprocess.run(command, check=True, stdout=subprocess.PIPE, **more).stdout.decode()


def packages_needed(names):
    """The packages, and what they need, as installed here."""
    status, found, queue = {}, set(), list(names)
    for line in run(["dpkg-query", "-W", "-f", "${Package}\t${Pre-Depends}, ${Depends}\n"]).splitlines():
        package, _, needs = line.partition("\t")
        status[package] = [re.split(r"[ (:]", choice.strip())[0] for part in needs.split(",") for choice in part.split("|")]
    while queue:
        name = queue.pop()
        if name in status and name not in found:
            found.add(name)
            queue += status[name]
    return sorted(found)


def files_of(packages):
    """Their files, by the names that they really have where /bin is a link to /usr/bin."""
    seen = set()
    for name in run(["dpkg-query", "-L"] + packages).splitlines():
        real = os.path.join(os.path.realpath(os.path.dirname(name)), os.path.basename(name))
        if name.startswith("/") and not real.startswith(LEFT_OUT) and os.path.lexists(real) and not (os.path.isdir(real) and not os.path.islink(real)):
            seen.add(real)
    return seen


def libraries_of(program):
    return {word for line in run(["ldd", program]).splitlines() for word in line.split() if word.startswith("/")}


def write(path, text, mode=0o644):
    os.makedirs(os.path.dirname(path), exist_ok=True)
    with open(path, "w") as file:
        file.write(text)
    os.chmod(path, mode)


def copy_names(names, to):
    subprocess.run(f"tar -C / -cf - --no-recursion -T - | tar -C '{to}' -xf -", shell=True, check=True,
                   input="\n".join(name.lstrip("/") for name in sorted(names)).encode())


def stage_system(to):
    """What does not change from build to build."""
    names = files_of(packages_needed(PACKAGES))
    for program in ("build/src/cli/fermata",):
        for library in libraries_of(os.path.join(ROOT, program)):
            real = os.path.join(os.path.realpath(os.path.dirname(library)), os.path.basename(library))
            names |= {real, os.path.realpath(library)}
    names |= {name for name in ("/etc/passwd", "/etc/group", "/etc/nsswitch.conf", "/etc/ld.so.conf", "/etc/ld.so.cache", "/etc/protocols") if os.path.exists(name)}
    names |= set(glob.glob("/etc/ld.so.conf.d/*"))
    os.makedirs(to)
    copy_names(names, to)
    for link in ("bin", "sbin", "lib", "lib64", "lib32", "libx32"):
        if os.path.islink("/" + link) and not os.path.lexists(os.path.join(to, link)):
            os.symlink(os.readlink("/" + link), os.path.join(to, link))
    for folder, mode in (("proc", 0o755), ("sys", 0o755), ("dev", 0o755), ("tmp", 0o1777), ("run", 0o755), ("root", 0o700), ("var/tmp", 0o1777)):
        os.makedirs(os.path.join(to, folder), exist_ok=True)
        os.chmod(os.path.join(to, folder), mode)
    shutil.copy("/bin/busybox", os.path.join(to, "usr/bin/busybox"))
    write(os.path.join(to, "usr/sbin/guest-init"), GUEST_INIT, 0o755)


def make_root():
    """root.ext4: the system is staged once, the repository's part each time."""
    stage, image = os.path.join(PLACE, "root"), os.path.join(PLACE, "root.ext4")
    os.makedirs(PLACE, exist_ok=True)
    if not os.path.exists(os.path.join(stage, ".complete")):
        shutil.rmtree(stage, ignore_errors=True)
        stage_system(stage)
        write(os.path.join(stage, ".complete"), "")
    write(os.path.join(stage, "usr/sbin/guest-init"), GUEST_INIT, 0o755)
    home = stage + HOME
    shutil.rmtree(home, ignore_errors=True)
    for path in glob.glob(os.path.join(ROOT, "build/tests/*")) + [os.path.join(ROOT, "build/src/cli/fermata")]:
        if os.path.isfile(path):
            to = home + path[len(ROOT):]
            os.makedirs(os.path.dirname(to), exist_ok=True)
            shutil.copy(path, to)
    shutil.copytree(os.path.join(ROOT, "tests"), home + "/tests", ignore=shutil.ignore_patterns("corpus", "__pycache__", "*.c", "*.h"))
    if os.path.exists(image):
        os.unlink(image)
    size = int(run(["du", "-sm", stage]).split()[0]) + 4096
    run(["mke2fs", "-q", "-t", "ext4", "-d", stage, "-m", "0", image, f"{size}M"], stderr=subprocess.STDOUT)
    return image


class Kernel:
    """A kernel in a folder, as its package unpacks: boot/vmlinuz-RELEASE and lib/modules/RELEASE."""

    def __init__(self, folder):
        images = sorted(glob.glob(os.path.join(folder, "boot/vmlinuz-*")))
        if not images:
            sys.exit(f"{folder}: no boot/vmlinuz-* in it; give a kernel package, or the folder that it was unpacked to")
        self.image = images[-1]
        self.release = os.path.basename(self.image).partition("-")[2]
        self.modules = next(path for path in (os.path.join(folder, "lib/modules", self.release), os.path.join(folder, "usr/lib/modules", self.release)) if os.path.isdir(path))

    def module_files(self):
        """Those in MODULES that are no part of the kernel itself, what they need before them."""
        paths, order = {}, []
        for line in run(["find", self.modules, "-name", "*.ko*"]).splitlines():
            paths[re.sub(r"\.ko.*", "", os.path.basename(line)).replace("-", "_")] = line

        def add(name):
            path = paths.get(name.replace("-", "_"))
            if not path or path in order:
                return
            for need in filter(None, needs_of(path)):
                add(need)
            if path not in order:
                order.append(path)
        for name in MODULES:
            add(name)
        return order


def unpacked(path):
    with open(path, "rb") as file:
        return unpack(file.read())


def unpack(data):
    """By its first bytes. What stands behind the packed stream is left out."""
    if data.startswith(b"\xfd7zXZ\0"):
        return lzma.LZMADecompressor().decompress(data)
    if data.startswith(b"\x1f\x8b"):
        return zlib.decompressobj(31).decompress(data)
    if data.startswith(b"\x28\xb5\x2f\xfd"):
        # zstd wants to hear of the 4 bytes of size that end a kernel's payload, and has written all the same.
        return subprocess.run(["zstd", "-dcq"], input=data, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, check=False).stdout
    return data


def needs_of(path):
    """What a module says that it needs: the string "depends=a,b" in it."""
    found = re.search(rb"\0depends=([^\0]*)\0", unpacked(path))
    return found.group(1).decode().split(",") if found else []


def make_vmlinux(kernel):
    """The kernel unpacked, an ELF file that qemu starts (PVH): the emulated processor would take a minute for unpacking it."""
    with open(kernel.image, "rb") as file:
        data = file.read()
    at, size = struct.unpack_from("<II", data, 0x248)  # payload_offset, payload_length of the boot protocol
    begin = ((data[0x1f1] or 4) + 1) * 512 + at
    to = os.path.join(PLACE, f"vmlinux-{kernel.release}")
    with open(to, "wb") as file:
        file.write(unpack(data[begin:begin + size]))
    return to


def cpio_entry(number, name, data, mode):
    def padded(what):
        return what + b"\0" * (-len(what) % 4)
    fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name) + 1, 0)
    return padded(b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0") + padded(data)


def make_initramfs(kernel, job):
    entries = [(folder, b"", 0o40755) for folder in ("bin", "modules", "dev")]
    entries += [("bin/busybox", open("/bin/busybox", "rb").read(), 0o100755), ("init", INIT.encode(), 0o100755), ("job", job.encode(), 0o100644)]
    for i, path in enumerate(kernel.module_files()):
        name = re.sub(r"\.ko.*", "", os.path.basename(path))
        entries.append((f"modules/{i:03}-{name}.ko", unpacked(path), 0o100644))
    to = os.path.join(PLACE, f"initramfs-{kernel.release}")
    with open(to, "wb") as file:
        for number, (name, data, mode) in enumerate(entries + [("TRAILER!!!", b"", 0)], 1):
            file.write(cpio_entry(number, name, data, mode))
    return to


def boot(kernel, root, job, on_line, processors=1, more=()):
    """Runs the script `job` in a guest; its lines are given to on_line. Gives its status, or None if the guest came to no end."""
    command = ["qemu-system-x86_64", "-nodefaults", "-no-user-config", "-no-reboot", "-display", "none", "-machine", "q35", "-accel", "tcg,thread=multi", "-cpu", "max,la57=off",
               "-smp", str(processors), "-m", "3G", "-kernel", make_vmlinux(kernel), "-initrd", make_initramfs(kernel, job),
               "-append", "console=ttyS0 quiet panic=-1 mitigations=off nokaslr random.trust_cpu=on tsc=reliable", "-serial", "stdio", "-device", "virtio-rng-pci",
               "-drive", f"file={root},format=raw,if=virtio,snapshot=on,cache=unsafe"] + list(more)
    status = None
    with subprocess.Popen(["nice", "-n", "5"] + command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE) as guest:
        try:
            for line in guest.stdout:
                line = line.decode(errors="replace").rstrip("\r\n")
                if line.startswith("@ended "):
                    status = int(line.split()[1])
                else:
                    on_line(line)
        finally:
            if guest.poll() is None:
                try:
                    guest.wait(30)
                except subprocess.TimeoutExpired:
                    guest.terminate()
    return status
