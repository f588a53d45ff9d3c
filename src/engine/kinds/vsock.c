/*
 * Sockets between a virtual machine and its host, vsock(7): fresh, bound, listening. The kernel tells how many connections may wait for a
 * listener nowhere but in its own structures (engine/kernel.h); where these can't be read it is as many as listen(2) takes.
 *
 * Refused: connections, whose other end is another machine's kernel, which nothing can be told about a new one here.
 */
#include "engine/kernel.h"
#include "engine/kinds/sock.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <linux/vm_sockets.h>
#include <poll.h>

static uint32_t option_of(int fd, int name)
{
	uint32_t value = 0;
	socklen_t size = sizeof(value);

	getsockopt(fd, SOL_SOCKET, name, &value, &size);
	return value;
}

static bool recognise(const struct descriptor *f)
{
	return sock_is(f, AF_VSOCK);
}

/* ---- dump ---- */

static int refuse(struct dump *d, struct descriptor *f, bool listens)
{
	struct pollfd p = { .fd = f->own_fd, .events = POLLIN | POLLOUT | POLLRDHUP };
	struct sockaddr_vm peer;
	socklen_t size = sizeof(peer);

	if (poll(&p, 1, 0) < 0)
		return fd_errno(d, f, -errno, "does not tell its state");
	if (listens && p.revents & POLLIN && !d->request->skip_in_flight)
		return fd_error(d, f, -ENOTSUP, "is a vsock socket with connections not accepted yet; try again, or use --skip-in-flight to drop them");
	if (listens)
		return 0;
	if (getpeername(f->own_fd, (struct sockaddr *)&peer, &size) == 0 || !(p.revents & POLLOUT) || p.revents & (POLLERR | POLLHUP | POLLRDHUP))
		return fd_error(d, f, -ENOTSUP, "is a vsock connection, or was one, whose other end can't be told of a new one; close it first");
	return option_of(f->own_fd, SO_TYPE) == SOCK_DGRAM ? sock_refuse_waiting(d, f) : 0;
}

static int follow(struct kernel *k, uint64_t *at, const char *type, const char *member, size_t size)
{
	int offset = kernel_offset(k, type, member);
	uint64_t value = 0;
	int r = offset < 0 ? offset : kernel_read(k, *at + (uint64_t)offset, &value, size);

	*at = value;
	return r;
}

/* 0 where it is not to be known. */
static uint32_t backlog_of(int fd)
{
	struct kernel *k;
	uint64_t at, sock = 0, family = 0;
	int r = kernel_open(&k);

	if (r)
		return 0;
	r = kernel_file(k, fd, &at);
	if (!r)
		r = follow(k, &at, "file", "private_data", sizeof(at));
	if (!r)
		r = follow(k, &at, "socket", "sk", sizeof(at));
	sock = family = at;
	if (!r)
		r = follow(k, &family, "sock_common", "skc_family", 2); /* the first member of struct sock */
	if (!r)
		r = follow(k, &sock, "sock", "sk_max_ack_backlog", 4);
	kernel_close(k);
	return r || family != AF_VSOCK ? 0 : (uint32_t)sock;
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	VsockEntry e = VSOCK_ENTRY__INIT;
	SkOptsEntry options = SK_OPTS_ENTRY__INIT;
	struct sockaddr_vm own = {};
	socklen_t size = sizeof(own);
	struct pool pool = {};
	bool listens = option_of(f->own_fd, SO_ACCEPTCONN);
	int r = refuse(d, f, listens);

	if (r)
		return r;
	if (getsockname(f->own_fd, (struct sockaddr *)&own, &size) < 0)
		return fd_errno(d, f, -errno, "does not tell its name");
	e.id = f->id;
	e.flags = f->flags;
	e.type = option_of(f->own_fd, SO_TYPE);
	e.cid = own.svm_cid;
	e.port = own.svm_port;
	e.has_backlog = listens;
	e.backlog = listens ? backlog_of(f->own_fd) : 0;
	if (listens && !e.backlog)
		e.backlog = SOMAXCONN;
	e.fown = f->fown;
	e.opts = &options;
	r = sock_capture_options(d, f, &pool, &options);
	entry.vsock = &e;
	if (!r)
		r = file_entry_write(d, &entry, f, FD_TYPES__FERMATA_VSOCK);
	pool_free(&pool);
	return r;
}

/* ---- restore ---- */

static int build(struct restore *s, const VsockEntry *e, int fd)
{
	struct sockaddr_vm own = { .svm_family = AF_VSOCK, .svm_cid = e->cid, .svm_port = e->port };
	int r = 0;

	if (e->port != VMADDR_PORT_ANY && bind(fd, (struct sockaddr *)&own, sizeof(own)) < 0)
		r = error_errno(s->e, -errno, "cannot bind a vsock socket to port %u of %u%s", e->port, e->cid,
				errno == EADDRINUSE    ? " (another process has it; end that first)" :
				errno == EADDRNOTAVAIL ? " (this machine has another number)" :
							 "");
	if (!r)
		r = sock_set_options(s, fd, e->opts);
	if (!r && e->has_backlog && listen(fd, (int)e->backlog) < 0)
		r = error_errno(s->e, -errno, "cannot listen at port %u of a vsock socket", e->port);
	if (!r && fcntl(fd, F_SETFL, (int)e->flags & O_NONBLOCK) < 0)
		r = error_errno(s->e, -errno, "cannot set the flags of a socket");
	return r;
}

static int create(struct restore *s, struct file *f, int *ret_fd)
{
	const VsockEntry *e = f->entry->vsock;

	if (!e || (e->type != SOCK_STREAM && e->type != SOCK_SEQPACKET && e->type != SOCK_DGRAM) || (e->has_backlog && e->port == VMADDR_PORT_ANY))
		return error_set(s->e, -EBADMSG, "file %u is a vsock socket that can't be", f->id);
	int fd = socket(AF_VSOCK, (int)e->type | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return error_errno(s->e, -errno, "cannot make a vsock socket");
	int r = build(s, e, fd);
	if (r) {
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

const struct kind kind_vsock = {
	.name = "a vsock socket",
	.summary = "Sockets to the host or a guest of a virtual machine (vsock) that listen, are bound or fresh",
	.type = FD_TYPES__FERMATA_VSOCK,
	.recognise = recognise,
	.capture = capture,
	.create = create,
};
