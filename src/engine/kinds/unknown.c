/* What a descriptor is that no kind takes, in the words of the manual pages, for the line that refuses it. */
#include "engine/saved.h"
#include "engine/kinds/kind.h"

#include <fcntl.h>
#include <sys/socket.h>

struct row {
	int number;
	const char *name;
};

static const struct row families[] = {
	{ AF_UNIX, "a unix socket" },	      { AF_INET, "an IPv4 socket" },	  { AF_INET6, "an IPv6 socket" },
	{ AF_NETLINK, "a netlink socket" },   { AF_PACKET, "a packet socket" },	  { AF_VSOCK, "a vsock socket" },
	{ AF_ALG, "a kernel crypto socket" }, { AF_CAN, "a CAN socket" },	  { AF_BLUETOOTH, "a Bluetooth socket" },
	{ AF_XDP, "an XDP socket" },	      { AF_TIPC, "a TIPC socket" },
};

static const struct {
	const char *target, *name;
} inodes[] = {
	{ "anon_inode:[perf_event]", "a perf event" },	 { "anon_inode:bpf-map", "a BPF map" },
	{ "anon_inode:bpf-prog", "a BPF program" },	 { "anon_inode:bpf", "a BPF object" },
	{ "anon_inode:btf", "a BPF object" },		 { "anon_inode:kvm", "a KVM virtual machine" },
	{ "anon_inode:dmabuf", "a DMA buffer" },	 { "/dmabuf", "a DMA buffer" },
	{ "anon_inode:seccomp", "a seccomp listener" },	 { "anon_inode:[fscontext]", "a mount under way" },
	{ "anon_inode:[landlock-ruleset]", "a Landlock ruleset" },	{ "/secretmem", "secret memory (memfd_secret), which nobody but the process can read" },
	{ "mnt:[", "a namespace" }, { "net:[", "a namespace" }, { "pid:[", "a namespace" }, { "user:[", "a namespace" },
	{ "uts:[", "a namespace" }, { "ipc:[", "a namespace" }, { "cgroup:[", "a namespace" }, { "time:[", "a namespace" },
};

const char *unknown_kind_name(const struct descriptor *f)
{
	int family = -1;
	socklen_t size = sizeof(family);

	if (S_ISSOCK(f->st.st_mode) && getsockopt(f->own_fd, SOL_SOCKET, SO_DOMAIN, &family, &size) == 0)
		for (size_t i = 0; i < ARRAY_SIZE(families); i++)
			if (families[i].number == family)
				return families[i].name;
	for (size_t i = 0; i < ARRAY_SIZE(inodes); i++)
		if (!strncmp(f->target, inodes[i].target, strlen(inodes[i].target)))
			return inodes[i].name;
	if (S_ISCHR(f->st.st_mode) && !strncmp(f->target, "/dev/nvidia", 11))
		return "a device of NVIDIA's driver, which its checkpoint has left open or which is not there for CUDA alone";
	return S_ISSOCK(f->st.st_mode) ? "a socket" : S_ISCHR(f->st.st_mode) ? "a device" : S_ISBLK(f->st.st_mode) ? "a disk" : "of an unknown kind";
}

const char *unknown_kind_at(size_t i)
{
	/* Families that have a kind are refused only for what they hold. */
	size_t first = 0;

	while (first < ARRAY_SIZE(families) && families[first].number != AF_ALG)
		first++;
	if (i < ARRAY_SIZE(families) - first)
		return families[first + i].name;
	i -= ARRAY_SIZE(families) - first;
	return i < ARRAY_SIZE(inodes) ? inodes[i].name : NULL;
}
