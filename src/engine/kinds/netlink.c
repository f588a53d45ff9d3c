/*
 * Netlink sockets: their port, the groups they listen to, their peer. See netlink(7).
 *
 * Refused: one with messages that were not read yet, which only the kernel can send; those that the kernel ties more to (netlink_ties.h); and those of
 * protocols where it does not tell whether it does.
 */
#include "engine/kinds/netlink_ties.h"
#include "engine/kinds/sock.h"
#include "engine/task/task.h"

#include <fcntl.h>
#include <linux/netlink.h>
#include <poll.h>

#define GROUP_WORDS 128 /* of 32 groups each */

static const uint32_t protocols[] = {
	NETLINK_ROUTE, NETLINK_USERSOCK, NETLINK_SOCK_DIAG, NETLINK_XFRM, NETLINK_SELINUX, NETLINK_FIB_LOOKUP, NETLINK_KOBJECT_UEVENT,
	NETLINK_GENERIC, NETLINK_CRYPTO, NETLINK_AUDIT, NETLINK_NETFILTER,
};

static bool is_known(uint32_t protocol)
{
	for (size_t i = 0; i < ARRAY_SIZE(protocols); i++)
		if (protocols[i] == protocol)
			return true;
	return false;
}

static uint32_t option_of(int fd, int name)
{
	uint32_t value = 0;
	socklen_t size = sizeof(value);

	getsockopt(fd, SOL_SOCKET, name, &value, &size);
	return value;
}

static bool recognise(const struct descriptor *f)
{
	return sock_is(f, AF_NETLINK);
}

/* ---- dump ---- */

static int refuse(struct dump *d, struct descriptor *f, uint32_t protocol, uint32_t port)
{
	struct pollfd p = { .fd = f->own_fd, .events = POLLIN };
	const char *what;

	if (!is_known(protocol))
		return fd_error(d, f, -ENOTSUP, "is a netlink socket of protocol %u, to which the kernel ties more than it tells; close it first", protocol);
	if (poll(&p, 1, 0) > 0 && p.revents & (POLLIN | POLLERR))
		return fd_error(d, f, -ENOTSUP, "is a netlink socket with messages that were not read yet; try again");
	int r = netlink_ties(d, protocol, port, &what);
	if (r > 0)
		return fd_error(d, f, -ENOTSUP, "is a netlink socket of protocol %u, %s; close it first", protocol, what);
	return r ? fd_errno(d, f, r, "is a netlink socket of protocol %u, of which the kernel does not say what it ties to it", protocol) : 0;
}

static void take_names(const struct descriptor *f, NetlinkSkEntry *e)
{
	struct sockaddr_nl own = {}, peer = {};
	socklen_t size = sizeof(own);

	if (getsockname(f->own_fd, (struct sockaddr *)&own, &size) == 0)
		e->portid = own.nl_pid;
	size = sizeof(peer);
	if (getpeername(f->own_fd, (struct sockaddr *)&peer, &size) < 0)
		return;
	e->dst_portid = peer.nl_pid;
	e->dst_group = peer.nl_groups;
	e->state = peer.nl_pid || peer.nl_groups;
}

static int capture(struct dump *d, struct descriptor *f)
{
	FileEntry entry = FILE_ENTRY__INIT;
	NetlinkSkEntry e = NETLINK_SK_ENTRY__INIT;
	SkOptsEntry options = SK_OPTS_ENTRY__INIT;
	uint32_t groups[GROUP_WORDS] = {};
	socklen_t size = sizeof(groups);
	struct pool pool = {};

	e.protocol = option_of(f->own_fd, SO_PROTOCOL);
	take_names(f, &e);
	int r = refuse(d, f, e.protocol, e.portid);
	if (r)
		return r;
	e.id = f->id;
	e.ino = (uint32_t)f->st.st_ino;
	e.has_type = 1;
	e.type = option_of(f->own_fd, SO_TYPE);
	e.flags = f->flags;
	e.fown = f->fown;
	e.opts = &options;
	if (getsockopt(f->own_fd, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, groups, &size) < 0 || size > sizeof(groups))
		return fd_errno(d, f, -ENOTSUP, "does not tell its groups");
	e.groups = groups;
	e.n_groups = size / sizeof(*groups);
	r = sock_capture_options(d, f, &pool, &options);
	entry.nlsk = &e;
	if (!r)
		r = file_entry_write(d, &entry, f, FD_TYPES__NETLINKSK);
	pool_free(&pool);
	return r;
}

/* ---- restore ---- */

static int join(struct restore *s, const NetlinkSkEntry *e, int fd)
{
	for (size_t i = 0; i < e->n_groups; i++)
		for (int bit = 0; bit < 32; bit++) {
			int group = (int)i * 32 + bit + 1;
			if (e->groups[i] & 1U << bit && setsockopt(fd, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof(group)) < 0)
				return error_errno(s->e, -errno, "cannot join group %d of netlink protocol %u", group, e->protocol);
		}
	return 0;
}

static int build(struct restore *s, const NetlinkSkEntry *e, int fd)
{
	struct sockaddr_nl own = { .nl_family = AF_NETLINK, .nl_pid = e->portid };
	struct sockaddr_nl peer = { .nl_family = AF_NETLINK, .nl_pid = e->dst_portid, .nl_groups = e->dst_group };

	if (e->portid && bind(fd, (struct sockaddr *)&own, sizeof(own)) < 0)
		return error_errno(s->e, -errno, "cannot bind a netlink socket to port %u%s", e->portid,
				   errno == EADDRINUSE ? " (another process has it; end that first)" : "");
	int r = sock_set_options(s, fd, e->opts);
	if (!r)
		r = join(s, e, fd);
	if (!r && e->state && connect(fd, (struct sockaddr *)&peer, sizeof(peer)) < 0)
		r = error_errno(s->e, -errno, "cannot connect a netlink socket to port %u", e->dst_portid);
	if (!r && fcntl(fd, F_SETFL, (int)e->flags & O_NONBLOCK) < 0)
		r = error_errno(s->e, -errno, "cannot set the flags of a socket");
	return r;
}

static int create(struct restore *s, struct file *f, int *ret_fd)
{
	const NetlinkSkEntry *e = f->entry->nlsk;

	if (!e || !is_known(e->protocol) || e->n_groups > GROUP_WORDS || (e->has_type && e->type != SOCK_RAW && e->type != SOCK_DGRAM))
		return error_set(s->e, -EBADMSG, "file %u is a netlink socket that can't be", f->id);
	int fd = socket(AF_NETLINK, (int)(e->has_type ? e->type : SOCK_RAW) | SOCK_CLOEXEC, (int)e->protocol);
	if (fd < 0)
		return error_errno(s->e, -errno, "cannot make a netlink socket of protocol %u", e->protocol);
	int r = build(s, e, fd);
	if (r) {
		close(fd);
		return r;
	}
	*ret_fd = fd;
	return 0;
}

const struct kind kind_netlink = {
	.name = "a netlink socket",
	.summary = "Netlink sockets with their port, groups and options, when all their messages were read",
	.type = FD_TYPES__NETLINKSK,
	.recognise = recognise,
	.capture = capture,
	.create = create,
};
