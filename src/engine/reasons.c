/* Why what is refused is refused, by the name that it has in the table of refusals (saved.c) or of descriptors (kinds/unknown.c). */
#include "engine/saved.h"

#include <string.h>

#define NOT_YET "nothing in the kernel: not done yet"
#define NOT_TOLD "the kernel tells nobody "
#define ITS_MEMORY "the kernel's own memory, which takes BTF (CONFIG_DEBUG_INFO_BTF) and BPF to be read"
#define OUTSIDE "what is outside goes on while the tree does not, and could not be set back"

static const struct {
	const char *name, *why;
} reasons[] = {
	{ "user namespaces;", NOT_YET },
	{ "pid namespaces:", "who is outside of the tree could not be made again within, and the end of the first process is the end of all" },
	{ "cgroup namespaces:", "where a namespace begins is where its maker was: the group has to be there" },
	{ "network namespaces: hardware", "a device of the machine stays there, XDP programs can't be had again; otherwise not done yet" },
	{ "network namespaces: rules", "the programs' own formats, or state of a program that is outside; otherwise not done yet" },
	{ "mount namespaces:", "what only the tree has can't be opened from outside to be saved or mounted again; otherwise not done yet" },
	{ "32-bit programs", NOT_YET },
	{ "processes in vfork", "the thread sleeps in the kernel and can't be stopped, nor can a new one be put there" },
	{ "threads that wait for a device", "a thread in uninterruptible sleep can't be stopped by anyone" },
	{ "main threads that have ended", "before 6.9 no pidfd of another thread; a filter and a signal that were its own are gone with it" },
	{ "memory, descriptor tables and directories", "clone(2) gives what is shared by birth alone: to a child, and in its maker's session" },
	{ "threads with a descriptor table", "before 6.9 no pidfd of a thread; two together: not done yet" },
	{ "sessions of someone outside", "nobody can join a session that there is, but by birth" },
	{ "sessions and groups that can't", "a session is had by birth, a group only joined from within its session" },
	{ "more than 100,000 POSIX timers", "a limit of ours: their ids are given one after the other" },
	{ "memory of devices", NOT_TOLD "what stands behind a mapping of a device, and none can be mapped without its descriptor" },
	{ "huge pages of a mounted", NOT_YET },
	{ "segments of a process", NOT_YET },
	{ "secret memory", "the kernel has no way to it (ptrace, /proc/PID/mem); to have the process copy it out would be to undo what it is for" },
	{ "memory with protection keys", "which keys a process has allocated is told to nobody; otherwise not done yet" },
	{ "userfaultfd:", "a fault that was read and not answered is in no list; what protects shared memory or pages that are not there stands in page tables alone" },
	{ "io_uring:", "a worker's request, one that is half done, and a handshake under way can't be had again; how far a group of buffers was used, only requests change; "
		       "credentials and restrictions are not told; requests stand in " ITS_MEMORY },
	{ "asynchronous I/O:", "a ring belongs to who made it, and does not go on in a child" },
	{ "processes without a vdso", "the agent needs some bytes of code that are there already, so that the program survives our death" },
	{ "registers of AMX", NOT_YET },
	{ "at restore: a processor that lacks", "a program has chosen its instructions when it began" },
	{ "at restore: a processor or kernel", "permission is asked for once, before there are threads, and is the processor's to give" },
	{ "at restore: another kernel, while", "each kernel has a vdso of its own, and a thread stands in the middle of a function of it" },
	{ "message queues that notify", "mq_notify(2) is told to nobody: it stands in " ITS_MEMORY "; a message that is there would be told of at once" },
	{ "zombies with a core dump", "the flag is set by dumping core alone" },
	{ "changes of System V semaphores", "they are told to nobody: they stand in " ITS_MEMORY "; a list that is shared (CLONE_SYSVSEM) is had by birth" },
	{ "processes under rules of Landlock", "rules are told to nobody, not even to who has made them" },
	{ "keys in the keyring", "many types of keys can't be read, and their ids are the kernel's choice" },
	{ "security labels", "SELinux: not done yet; its policy must allow the change" },
	{ "AppArmor:", "the profile that the next exec brings is read, but may be no program's that restores; a profile that is not there can't be put on" },
	{ "seccomp filters that ask", "the listener's requests under way can't be had again, and who answers them may be outside" },
	{ "core scheduling groups", NOT_YET },
	{ "TCP connections: without", "an option since they hold back the peer; those not accepted yet stand in " ITS_MEMORY "; keys of signatures and of protocols on top are not told" },
	{ "at restore: TCP connections not accepted", "their timestamps are made with a secret of that boot" },
	{ "connections of Multipath TCP", "TCP_REPAIR is refused for them, and keys of a connection are not told" },
	{ "programs whose system calls", "before 6.4 ptrace(2) does not tell, and a call of ours would be sent to the program" },
	{ "TCP connections where nftables", "without it the kernel would answer the peer with a reset" },
	{ "UDP sockets with an error", "an error is told once, to who asks; what has been put together (UDP_CORK) to nobody" },
	{ "netlink sockets with messages", "a message is from the kernel, and can't be put into the queue; what netfilter and audit know of a socket is tied to its port" },
	{ "TAP devices with a packet filter", "TUNGETFILTER tells an address of that time, not the filter; TUNSETTXFILTER is told to nobody" },
	{ "raw IPv6 sockets with a router alert", "IPV6_ROUTER_ALERT can be set, and not be read" },
	{ "vsock connections", "there is no repair mode: no numbers can be set, and the other end is another machine" },
	{ "raw, ping and packet sockets", "MSG_PEEK shows the first packet alone, and none can be put back" },
	{ "packet sockets with a ring", "how far the kernel is in it stands in " ITS_MEMORY "; a fanout program can be set, and not be read" },
	{ "sockets with eBPF programs", "an attached program has no descriptor, and what is loaded was changed by the verifier" },
	{ "unix sockets: connected to the outside", OUTSIDE },
	{ "unix sockets: names that can't", "the name was looked for where the socket's own directory was, and nobody tells that" },
	{ "unix sockets: with a connection", "a client outside can't be connected anew; what has been sent already stands in " ITS_MEMORY },
	{ "unix sockets: urgent data", "where in the stream it stands is not told without taking it" },
	{ "pipes with one end outside", OUTSIDE },
	{ "terminals of someone outside", OUTSIDE },
	{ "pseudo-terminals with one end", OUTSIDE },
	{ "inotify: events", "they can be read once, and can't be put back by the program; they stand in " ITS_MEMORY },
	{ "fanotify: events", "each holds an open file that is opened for the reader when it reads; an event is made by the act itself, by the process that it names" },
	{ "inotify: deleted files", "a watch is told by its handle, and a file without a name can be watched by no other" },
	{ "processes that are being debugged", "a thread has one tracer" },
	{ "deleted block devices", NOT_YET },
	{ "deleted files with more content", "a limit of yours" },
	{ "terminals: virtual ones", "what a console has as input can be taken, and not be given back; graphics are the card's" },
	{ "deleted files that have other names", "linkat(2) takes a right that you give (--link-remap): it makes a name on your disk" },
	{ "files that a mount hides", "a path leads to what is on top" },
	{ "CUDA processes: managed", "the driver says so" },
	{ "CUDA processes: memory of other", "the driver says so" },
	{ "CUDA processes on a machine", "the library stands in the memory of the process, and talks to its own driver" },
	{ "several CUDA processes", "the driver says so" },
	{ "file locks:", "an option, as CRIU has it; a description that others share keeps the lock" },
	{ "leases for writing", "to read the file is to break the lease" },
	{ "epoll: what is no longer open", "an entry has the file and no descriptor for it, and there is no way to get one" },
	{ "pseudo-terminals of several devpts", NOT_YET },
	{ "pidfds of processes outside", "a process outside may have ended by then, and its number be another's; of threads: not done yet" },
	{ "descriptors whose state", "it has no line in fdinfo, or a call for it" },
	{ "a kernel crypto socket", "keys are write-only" },
	{ "a CAN socket", NOT_YET },
	{ "a Bluetooth socket", "the connection is the controller's and the other device's" },
	{ "an XDP socket", "its rings are shared with a device's queue, and how far that is, is told to nobody" },
	{ "a TIPC socket", NOT_YET },
	{ "a perf event", NOT_TOLD "what an event was opened with (perf_event_attr), and counters can't be set" },
	{ "a BPF map", "most are there for programs, which can't be had again; who else uses one is told to nobody" },
	{ "a BPF program", "what is loaded was changed by the verifier, and its attachments hold it elsewhere" },
	{ "a BPF object", "as BPF programs" },
	{ "a KVM virtual machine", "the state is given by ioctls of the process's own, by who knows its devices: qemu's own snapshots" },
	{ "a DMA buffer", "the memory is a device's" },
	{ "a seccomp listener", "requests under way can't be had again" },
	{ "a mount under way", NOT_TOLD "what was set so far (fsconfig(2))" },
	{ "a Landlock ruleset", "rules are told to nobody" },
	{ "a namespace", "a part of containers: not done yet" },
};

const char *reason_of(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(reasons); i++)
		if (!strncmp(name, reasons[i].name, strlen(reasons[i].name)))
			return reasons[i].why;
	return NULL;
}
