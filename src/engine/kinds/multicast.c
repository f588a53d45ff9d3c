/*
 * See multicast.h. /proc/net/igmp and igmp6 tell which groups a device is in, but not for whom; of each of them a socket is asked
 * for its source filter (RFC 3678, MCAST_MSFILTER), which it has only for a group that it has joined.
 *
 * Left out: the device chosen for sending with IP_MULTICAST_IF by its number alone, which the kernel does not tell (that by an
 * address is kept), and anycast addresses joined with IPV6_JOIN_ANYCAST.
 */
#include "engine/kinds/multicast.h"

#include "engine/task/task.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <net/if.h>
#include <netinet/in.h>

#define SOURCES_MAX 4096
#define TABLE_MAX (16UL << 20)

/* A group that a device is in. */
struct membership {
	unsigned int device;
	unsigned char group[16];
};
struct memberships {
	struct membership *data;
	size_t count, capacity;
};

static size_t address_size(const InetSkEntry *e)
{
	return e->family == AF_INET ? 4 : 16;
}

static int level_of(const InetSkEntry *e)
{
	return e->family == AF_INET ? IPPROTO_IP : IPPROTO_IPV6;
}

static void set_address(const InetSkEntry *e, struct sockaddr_storage *to, const void *address)
{
	memset(to, 0, sizeof(*to));
	to->ss_family = (sa_family_t)e->family;
	if (e->family == AF_INET)
		memcpy(&((struct sockaddr_in *)to)->sin_addr, address, 4);
	else
		memcpy(&((struct sockaddr_in6 *)to)->sin6_addr, address, 16);
}

static const void *address_of(const struct sockaddr_storage *a)
{
	return a->ss_family == AF_INET ? (const void *)&((const struct sockaddr_in *)a)->sin_addr :
					 (const void *)&((const struct sockaddr_in6 *)a)->sin6_addr;
}

/* ---- dump ---- */

/* Lines of "INDEX DEVICE ...", each followed by indented ones with a group. */
static int parse_four(const char *text, struct memberships *ret)
{
	unsigned int device = 0, group;

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (*line != '\t' && *line != ' ') {
			if (sscanf(line, "%u", &device) != 1)
				device = 0;
			continue;
		}
		if (!device || sscanf(line, " %8x", &group) != 1)
			continue;
		struct membership *m = VEC_PUSH(ret);
		if (!m)
			return -ENOMEM;
		*m = (struct membership){ .device = device };
		memcpy(m->group, &group, 4); /* the kernel prints the address as the number that it is in memory */
	}
	return 0;
}

static int parse_six(const char *text, struct memberships *ret)
{
	unsigned int device;
	char hex[33];

	for (const char *line = text; line; line = strchr(line, '\n')) {
		line += *line == '\n';
		if (sscanf(line, "%u %*s %32[0-9a-f]", &device, hex) != 2 || strlen(hex) != 32)
			continue;
		struct membership *m = VEC_PUSH(ret);
		if (!m)
			return -ENOMEM;
		m->device = device;
		for (size_t i = 0; i < 16; i++) {
			unsigned int byte = 0;
			sscanf(hex + 2 * i, "%2x", &byte);
			m->group[i] = (unsigned char)byte;
		}
	}
	return 0;
}

static int add_entry(const InetSkEntry *e, const struct membership *m, const struct group_filter *filter, struct pool *pool, MulticastEntry **ret)
{
	MulticastEntry *entry = *ret = pool_take(pool, sizeof(*entry));
	char device[IF_NAMESIZE];

	if (!entry)
		return -ENOMEM;
	if (!if_indextoname(m->device, device))
		return -errno;
	multicast_entry__init(entry);
	entry->device = pool_copy(pool, device, strlen(device) + 1);
	entry->group.len = address_size(e);
	entry->group.data = pool_copy(pool, m->group, entry->group.len);
	entry->mode = filter->gf_fmode;
	entry->sources = pool_take(pool, (filter->gf_numsrc + 1) * sizeof(*entry->sources));
	if (!entry->device || !entry->group.data || !entry->sources)
		return -ENOMEM;
	for (uint32_t i = 0; i < filter->gf_numsrc; i++) {
		ProtobufCBinaryData *source = &entry->sources[entry->n_sources++];
		source->len = address_size(e);
		source->data = pool_copy(pool, address_of(&filter->gf_slist[i]), source->len);
		if (!source->data)
			return -ENOMEM;
	}
	return 0;
}

/* 1: the socket has joined the group. */
static int ask(const struct descriptor *f, const InetSkEntry *e, const struct membership *m, struct pool *pool, MulticastEntry **ret)
{
	socklen_t size = GROUP_FILTER_SIZE(SOURCES_MAX);
	_cleanup_free_ struct group_filter *filter = calloc(1, size);

	if (!filter)
		return -ENOMEM;
	filter->gf_interface = m->device;
	filter->gf_numsrc = SOURCES_MAX;
	set_address(e, &filter->gf_group, m->group);
	if (getsockopt(f->own_fd, level_of(e), MCAST_MSFILTER, filter, &size) < 0)
		return errno == EADDRNOTAVAIL ? 0 : -errno;
	if (filter->gf_numsrc > SOURCES_MAX)
		return -E2BIG;
	int r = add_entry(e, m, filter, pool, ret);
	return r ? r : 1;
}

int multicast_capture(struct dump *d, struct descriptor *f, struct pool *pool, InetSkEntry *e)
{
	_cleanup_free_ char *text = NULL;
	struct memberships list = {};
	char path[64];

	snprintf(path, sizeof(path), "/proc/%d/net/%s", f->task->proc, e->family == AF_INET ? "igmp" : "igmp6");
	int r = read_file_at(AT_FDCWD, path, TABLE_MAX, &text, NULL);
	if (r == -ENOENT) /* a kernel without */
		return 0;
	if (!r)
		r = e->family == AF_INET ? parse_four(text, &list) : parse_six(text, &list);
	e->multicast = r ? NULL : pool_take(pool, (list.count + 1) * sizeof(*e->multicast));
	if (!r && !e->multicast)
		r = -ENOMEM;
	for (size_t i = 0; !r && i < list.count; i++) {
		r = ask(f, e, &list.data[i], pool, &e->multicast[e->n_multicast]);
		e->n_multicast += r > 0;
		r = MIN(r, 0);
	}
	VEC_FREE(&list);
	return r ? fd_errno(d, f, r, "does not tell which multicast groups it has joined") : 0;
}

/* ---- restore ---- */

static int join(int fd, const InetSkEntry *e, const MulticastEntry *m, unsigned int device)
{
	struct group_req join = { .gr_interface = device };
	socklen_t size = GROUP_FILTER_SIZE(m->n_sources);
	_cleanup_free_ struct group_filter *filter = calloc(1, size);

	if (!filter)
		return -ENOMEM;
	set_address(e, &join.gr_group, m->group.data);
	if (setsockopt(fd, level_of(e), MCAST_JOIN_GROUP, &join, sizeof(join)) < 0)
		return -errno;
	if (m->mode == MCAST_EXCLUDE && !m->n_sources)
		return 0;
	filter->gf_interface = device;
	filter->gf_group = join.gr_group;
	filter->gf_fmode = m->mode;
	filter->gf_numsrc = (uint32_t)m->n_sources;
	for (size_t i = 0; i < m->n_sources; i++) {
		if (m->sources[i].len != address_size(e))
			return -EBADMSG;
		set_address(e, &filter->gf_slist[i], m->sources[i].data);
	}
	return setsockopt(fd, level_of(e), MCAST_MSFILTER, filter, size) < 0 ? -errno : 0;
}

int multicast_join(struct restore *s, int fd, const InetSkEntry *e)
{
	char text[INET6_ADDRSTRLEN] = "";

	for (size_t i = 0; i < e->n_multicast; i++) {
		const MulticastEntry *m = e->multicast[i];
		if (m->group.len != address_size(e) || m->n_sources > SOURCES_MAX)
			return error_set(s->e, -EBADMSG, "a multicast group of a socket is damaged");
		inet_ntop((int)e->family, m->group.data, text, sizeof(text));
		unsigned int device = if_nametoindex(m->device);
		if (!device)
			return error_set(s->e, -ENODEV, "cannot join the multicast group %s: this machine has no network device %s; make one", text, m->device);
		int r = join(fd, e, m, device);
		if (r)
			return error_errno(s->e, r, "cannot join the multicast group %s on %s", text, m->device);
	}
	return 0;
}
