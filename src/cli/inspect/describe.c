/* What a file or an area of memory of the images is, in words. See view.h. */
#include "cli/inspect/view.h"

#include "engine/memory/vma.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <signal.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <time.h>

static const struct {
	FdTypes type;
	const char *name;
} kind_names[] = {
	{ FD_TYPES__REG, "file" },	    { FD_TYPES__PIPE, "pipe" },		{ FD_TYPES__FIFO, "fifo" },
	{ FD_TYPES__INETSK, "inet socket" }, { FD_TYPES__UNIXSK, "unix socket" }, { FD_TYPES__EVENTFD, "eventfd" },
	{ FD_TYPES__EVENTPOLL, "epoll" },   { FD_TYPES__INOTIFY, "inotify" },	{ FD_TYPES__SIGNALFD, "signalfd" },
	{ FD_TYPES__PACKETSK, "packet socket" }, { FD_TYPES__TTY, "terminal" },	{ FD_TYPES__FANOTIFY, "fanotify" },
	{ FD_TYPES__NETLINKSK, "netlink socket" }, { FD_TYPES__NS, "namespace" }, { FD_TYPES__TUNF, "tun device" },
	{ FD_TYPES__EXT, "external" },	    { FD_TYPES__TIMERFD, "timerfd" },	{ FD_TYPES__MEMFD, "memfd" },
	{ FD_TYPES__BPFMAP, "BPF map" },    { FD_TYPES__CTL_TTY, "terminal" },
	{ FD_TYPES__FERMATA_PIDFD, "pidfd" },
	{ FD_TYPES__FERMATA_UFFD, "userfaultfd" },
	{ FD_TYPES__FERMATA_URING, "io_uring" },
	{ FD_TYPES__FERMATA_MQUEUE, "mqueue" },
	{ FD_TYPES__FERMATA_VSOCK, "vsock socket" },
};

static const char *kind_name(FdTypes type)
{
	for (size_t i = 0; i < ARRAY_SIZE(kind_names); i++)
		if (kind_names[i].type == type)
			return kind_names[i].name;
	return "unknown";
}

_printf_(2, 3) static void add(struct file_words *w, const char *format, ...)
{
	size_t used = strlen(w->what);
	va_list args;

	va_start(args, format);
	vsnprintf(w->what + used, sizeof(w->what) - used, format, args);
	va_end(args);
}

static void set_position(struct file_words *w, uint64_t position)
{
	w->has_position = true;
	w->position = position;
}

static const char *socket_type(uint32_t type)
{
	return type == SOCK_STREAM ? "stream" : type == SOCK_DGRAM ? "datagram" : type == SOCK_SEQPACKET ? "seqpacket" : "raw";
}

/* ---- files ---- */

static void add_regular(struct view *v, struct file_words *w, const RegFileEntry *e)
{
	add(w, "%s", e->name);
	for (size_t i = 0; i < v->images.remaps.count; i++) {
		const RemapFilePathEntry *m = v->images.remaps.data[i];
		if (m->orig_id == e->id)
			add(w, m->remap_type == REMAP_TYPE__LINKED ? " (deleted, kept under another name)" : " (deleted, kept in the checkpoint)");
	}
	if (e->mode && S_ISREG(e->mode))
		set_position(w, e->pos);
}

static const char *ends_of(uint32_t flags)
{
	return (flags & O_ACCMODE) == O_WRONLY ? "write" : (flags & O_ACCMODE) == O_RDONLY ? "read" : "read and write";
}

static void add_content(struct view *v, struct file_words *w, uint32_t id)
{
	VEC_FOREACH(&v->pipes, p)
		if (p->id == id && p->bytes) {
			add(w, ", %u bytes in it", p->bytes);
			return;
		}
}

static void add_address(struct file_words *w, uint32_t family, const uint32_t *address, size_t words, uint32_t port)
{
	char text[INET6_ADDRSTRLEN];

	if (words < (family == AF_INET6 ? 4 : 1) || !inet_ntop((int)family, address, text, sizeof(text)))
		snprintf(text, sizeof(text), "?");
	add(w, family == AF_INET6 ? "[%s]:%u" : "%s:%u", text, port);
}

static void add_inet(struct file_words *w, const InetSkEntry *e)
{
	add(w, "%s%s ", e->proto == IPPROTO_TCP ? "tcp" : e->proto == IPPROTO_UDP ? "udp" : "ip", e->family == AF_INET6 ? "6" : "");
	add_address(w, e->family, e->src_addr, e->n_src_addr, e->src_port);
	if (e->proto == IPPROTO_TCP && e->state == TCP_LISTEN) {
		add(w, ", listening");
	} else if (e->state == TCP_ESTABLISHED) {
		add(w, " to ");
		add_address(w, e->family, e->dst_addr, e->n_dst_addr, e->dst_port);
	}
}

/* A name begins with a zero byte where it is no path, and may have more of them. */
static void add_unix_name(struct file_words *w, ProtobufCBinaryData name)
{
	if (name.len && !name.data[0])
		add(w, "@");
	for (size_t i = name.data && name.len && !name.data[0]; i < name.len; i++) {
		unsigned char c = name.data[i];
		if (!c && !(name.len && !name.data[0]))
			break;
		add(w, c >= ' ' && c < 127 ? "%c" : "\\x%02x", c);
	}
}

static void add_holder(struct view *v, struct file_words *w, uint32_t ino)
{
	uint32_t id = 0;

	add(w, "socket %u", ino);
	VEC_FOREACH(&v->images.files, f)
		if (f->entry->usk && f->entry->usk->ino == ino)
			id = f->id;
	for (size_t i = 0; id && i < v->images.tasks.count; i++) {
		const struct rtask *t = v->images.tasks.data[i];
		for (size_t k = 0; k < t->fds.count; k++)
			if (t->fds.data[k]->id == id) {
				add(w, " (descriptor %u of process %d)", t->fds.data[k]->fd, t->pid);
				return;
			}
	}
}

static void add_unix(struct view *v, struct file_words *w, const UnixSkEntry *e)
{
	add(w, "%s, socket %u", socket_type(e->type), e->ino);
	if (e->name.len) {
		add(w, ", named ");
		add_unix_name(w, e->name);
	}
	if (e->state == TCP_LISTEN)
		add(w, ", listening");
	if (e->peer) {
		add(w, ", connected to ");
		add_holder(v, w, e->peer);
	} else if (e->peer_gone) {
		add(w, ", its peer has gone");
	}
	if (e->has_peer_name) {
		add(w, ", peer named ");
		add_unix_name(w, e->peer_name);
	}
	if (e->n_pending)
		add(w, ", %zu waiting to be accepted", e->n_pending);
}

static void add_epoll(struct file_words *w, const EventpollFileEntry *e)
{
	add(w, e->n_tfd ? "watches descriptors" : "watches nothing");
	for (size_t i = 0; i < e->n_tfd; i++)
		add(w, "%s %u", i ? "," : "", e->tfd[i]->has_target_fd ? e->tfd[i]->target_fd : e->tfd[i]->tfd);
}

static void add_timer(struct file_words *w, const TimerfdEntry *e)
{
	add(w, e->clockid == CLOCK_REALTIME ? "real time" : e->clockid == CLOCK_BOOTTIME ? "boot time" : "monotonic");
	if (e->vsec || e->vnsec)
		add(w, ", ends in %llu.%09llu s", (unsigned long long)e->vsec, (unsigned long long)e->vnsec);
	if (e->isec || e->insec)
		add(w, ", every %llu.%09llu s", (unsigned long long)e->isec, (unsigned long long)e->insec);
	if (e->ticks)
		add(w, ", %llu expirations not read", (unsigned long long)e->ticks);
}

static void add_signals(struct file_words *w, const SignalfdEntry *e)
{
	bool first = true;

	for (int sig = 1; sig <= 64; sig++)
		if (e->sigmask >> (sig - 1) & 1) {
			const char *name = sigabbrev_np(sig);
			add(w, first ? "signals " : ", ");
			if (name)
				add(w, "SIG%s", name);
			else
				add(w, "%d", sig);
			first = false;
		}
}

static void add_memfd(struct view *v, struct file_words *w, const MemfdFileEntry *e)
{
	for (size_t i = 0; i < v->memfds.count; i++)
		if (v->memfds.data[i]->inode_id == e->inode_id)
			add(w, "%s, %llu bytes", v->memfds.data[i]->name, (unsigned long long)v->memfds.data[i]->size);
	set_position(w, e->pos);
}

static void add_terminal(struct view *v, struct file_words *w, const TtyFileEntry *e)
{
	for (size_t i = 0; i < v->images.ttys.count; i++) {
		const TtyInfoEntry *info = v->images.ttys.data[i];
		if (info->id != e->tty_info_id)
			continue;
		if (info->pty)
			add(w, "pseudo terminal %u", info->pty->index);
		if (info->sid)
			add(w, "%sof session %u", info->pty ? " " : "", info->sid);
	}
}

void describe_file(struct view *v, const struct file *f, struct file_words *ret)
{
	const FileEntry *e = f->entry;

	*ret = (struct file_words){ .kind = kind_name(e->type) };
	if (e->reg) {
		add_regular(v, ret, e->reg);
	} else if (e->pipe) {
		add(ret, "pipe %u, %s end", e->pipe->pipe_id, ends_of(e->pipe->flags));
		add_content(v, ret, e->pipe->pipe_id);
	} else if (e->fifo) {
		const char *path = view_path(v, e->fifo->has_regf_id ? e->fifo->regf_id : 0);
		add(ret, "%s", path ? path : "?");
		add_content(v, ret, e->fifo->pipe_id);
	} else if (e->isk) {
		add_inet(ret, e->isk);
	} else if (e->nlsk) {
		add(ret, "protocol %u, port %u", e->nlsk->protocol, e->nlsk->portid);
	} else if (e->psk) {
		add(ret, "%s, protocol %#x, device %u", socket_type(e->psk->type), e->psk->protocol, e->psk->ifindex);
	} else if (e->vsock) {
		add(ret, "%s, port %u%s", socket_type(e->vsock->type), e->vsock->port, e->vsock->has_backlog ? ", listening" : "");
	} else if (e->tunf) {
		add(ret, "%s", e->tunf->netdev ? e->tunf->netdev : "no device yet");
		if (e->tunf->device)
			add(ret, ", %zu addresses, %zu routes", e->tunf->device->n_addresses, e->tunf->device->n_routes);
	} else if (e->usk) {
		add_unix(v, ret, e->usk);
	} else if (e->efd) {
		add(ret, "counter %llu", (unsigned long long)e->efd->counter);
	} else if (e->epfd) {
		add_epoll(ret, e->epfd);
	} else if (e->sgfd) {
		add_signals(ret, e->sgfd);
	} else if (e->tfd) {
		add_timer(ret, e->tfd);
	} else if (e->ify) {
		add(ret, "%zu watches", e->ify->n_wd);
		if (e->ify->n_event)
			add(ret, ", %zu events not read", e->ify->n_event);
	} else if (e->ffy) {
		add(ret, "%zu marks", e->ffy->n_mark);
	} else if (e->memfd) {
		add_memfd(v, ret, e->memfd);
	} else if (e->tty) {
		add_terminal(v, ret, e->tty);
	} else if (e->uring) {
		add(ret, "%u entries", e->uring->sq_entries);
		if (e->uring->n_requests)
			add(ret, ", %zu requests under way", e->uring->n_requests);
	} else if (e->pidfd && e->pidfd->pid) {
		add(ret, "process %u", e->pidfd->pid);
	} else if (e->pidfd) {
		add(ret, "a process that has gone");
	} else if (e->nlsk) {
		add(ret, "protocol %u, port %u", e->nlsk->protocol, e->nlsk->portid);
	}
}

/* ---- memory ---- */

void describe_area(struct view *v, const VmaEntry *area, struct area_words *ret)
{
	static const struct {
		uint32_t status;
		const char *name;
	} names[] = {
		{ VMA_HEAP, "[heap]" }, { VMA_STACK, "[stack]" }, { VMA_VDSO, "[vdso]" }, { VMA_VVAR, "[vvar]" }, { VMA_VSYSCALL, "[vsyscall]" },
	};

	*ret = (struct area_words){ .offset = area->pgoff };
	snprintf(ret->access, sizeof(ret->access), "%c%c%c%c", area->prot & PROT_READ ? 'r' : '-', area->prot & PROT_WRITE ? 'w' : '-',
		 area->prot & PROT_EXEC ? 'x' : '-', area->flags & MAP_SHARED ? 's' : 'p');
	if (area->status & (VMA_FILE_PRIVATE | VMA_FILE_SHARED)) {
		const struct file *f = NULL;
		VEC_FOREACH(&v->images.files, x)
			if (x->id == area->shmid)
				f = x;
		struct file_words words = { .what = "a file that is not in files.img" };
		if (f)
			describe_file(v, f, &words);
		snprintf(ret->what, sizeof(ret->what), "%s%.4150s", f && f->entry->memfd ? "memfd " : "", words.what);
		return;
	}
	if (area->status & VMA_SYSVIPC)
		snprintf(ret->what, sizeof(ret->what), "System V segment %llu", (unsigned long long)area->shmid);
	else if (area->status & VMA_ANON_SHARED)
		snprintf(ret->what, sizeof(ret->what), "shared memory %llu", (unsigned long long)area->shmid);
	else if (area->anon_name)
		snprintf(ret->what, sizeof(ret->what), "%.4150s", area->anon_name);
	for (size_t i = 0; i < ARRAY_SIZE(names); i++)
		if (area->status & names[i].status)
			snprintf(ret->what, sizeof(ret->what), "%s", names[i].name);
}
