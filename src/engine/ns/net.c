/*
 * Network namespaces: network_namespaces(7). netns-ID.img and what net.h lists beside it.
 *
 * One that the user says lies outside (--external net[INODE]:NAME, what container runtimes do) is not looked into, and given to the restore by
 * --inherit-fd fd[N]:NAME. With --empty-ns net its content is left out: who restores sets it up (at the moment "setup-namespaces").
 */
#include "engine/ns/net.h"

#include "engine/kinds/external.h"
#include "engine/nft.h"
#include "engine/ns/ns.h"

#include <fcntl.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <sys/ioctl.h>

extern const struct ns_kind ns_net;

struct net_name net_image_name(const char *kind, uint32_t id)
{
	struct net_name name;

	snprintf(name.text, sizeof(name.text), "%s-%u.img", kind, id);
	return name;
}

int net_enter(int fd, struct error *e)
{
	return setns(fd, CLONE_NEWNET) < 0 ? error_errno(e, -errno, "cannot enter a network namespace") : 0;
}

/* ---- dump ---- */

static int write_entry(struct net_dump *n, NetnsEntry *e)
{
	return dump_write_one(n->d, net_image_name("netns", n->id).text, IMAGE_MAGIC_NETNS, &e->base);
}

static int capture_content(struct net_dump *n, NetnsEntry *e)
{
	int r = net_refuse(n);

	if (!r)
		r = net_devices_capture(n);
	if (!r)
		r = net_config_capture(n);
	if (!r)
		r = net_rules_capture(n);
	if (!r)
		r = net_tracking_capture(n);
	if (!r)
		r = net_settings_capture(n, e);
	return r ? r : write_entry(n, e);
}

static int net_collect(struct dump *d, uint32_t id)
{
	struct net_dump n = { .d = d, .id = id, .inside = -1, .outside = ns_outside(d, &ns_net) };
	NetnsEntry e = NETNS_ENTRY__INIT;
	struct stat st;
	int r = 0;

	n.inside = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (n.inside < 0 || fstat(n.inside, &st) < 0)
		r = error_errno(d->e, -errno, "cannot look at its network namespace");
	const struct external *outside = r ? NULL : external_numbered(d->request, "net", st.st_ino);
	if (outside) {
		e.ext_key = (char *)(outside->value ? outside->value : outside->id);
		r = write_entry(&n, &e);
	} else if (!r && d->request->empty_net) {
		e.has_empty = e.empty = 1;
		r = write_entry(&n, &e);
	} else if (!r) {
		r = capture_content(&n, &e);
	}
	VEC_FREE(&n.devices);
	pool_free(&n.pool);
	if (n.inside >= 0)
		close(n.inside);
	return r;
}

/* ---- restore ---- */

static int take_given(struct restore *s, const char *key)
{
	int fd = external_given_path(s->request, key);

	if (fd < 0)
		return error_set(s->e, -ENOENT, "its network namespace was outside; give it with --inherit-fd 'fd[N]:%s'", key);
	if (ioctl(fd, NS_GET_NSTYPE) != CLONE_NEWNET)
		return error_set(s->e, -EINVAL, "descriptor %d, given for %s, is no network namespace", fd, key);
	return ns_give(s, &ns_net, fd);
}

static int net_load(struct restore *s, uint32_t id)
{
	struct net_restore *n = *ns_state(s, &ns_net) = calloc(1, sizeof(*n));

	if (!n)
		return error_set(s->e, -ENOMEM, "out of memory");
	*n = (struct net_restore){ .s = s, .id = id, .inside = -1 };
	int r = restore_read_one(s, net_image_name("netns", id).text, IMAGE_MAGIC_NETNS, &netns_entry__descriptor, &n->entry);
	if (!r && n->entry->ext_key)
		return take_given(s, n->entry->ext_key);
	if (!r && !n->entry->empty && !s->request->empty_net)
		r = net_devices_load(n);
	return r;
}

static int make_content(struct net_restore *n)
{
	int r = net_settings_prepare(n);

	if (!r)
		r = net_hold(n);
	if (!r)
		r = net_devices_make(n);
	if (!r)
		r = net_settings_make(n, n->entry, NET_SETTINGS_FIRST);
	if (!r)
		r = net_config_make(n);
	if (!r)
		r = net_rules_make(n);
	if (!r)
		r = net_tracking_make(n);
	if (!r)
		r = net_devices_finish(n);
	return r ? r : net_settings_make(n, n->entry, NET_SETTINGS_LAST);
}

static int net_fill(struct restore *s, uint32_t id)
{
	struct net_restore *n = *ns_state(s, &ns_net);

	if (n->entry->ext_key || n->entry->empty || s->request->empty_net)
		return 0;
	n->outside = ns_outside_of(s, &ns_net);
	n->inside = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
	if (n->inside < 0)
		return error_errno(s->e, -errno, "cannot look at the new network namespace");
	return make_content(n);
}

static int net_settle(struct restore *s, uint32_t id)
{
	struct net_restore *n = *ns_state(s, &ns_net);
	bool any = false;

	VEC_FOREACH(&n->devices, e)
		any |= net_device_is_descriptors(s, *e);
	int r = any ? net_settings_make(n, n->entry, NET_SETTINGS_DESCRIPTORS) : 0;
	nft_free(TAKE_PTR(n->hold));
	return r;
}

static void net_release(struct restore *s)
{
	struct net_restore *n = TAKE_PTR(*ns_state(s, &ns_net));

	if (!n)
		return;
	nft_free(n->hold);
	if (n->inside >= 0)
		close(n->inside);
	VEC_FOREACH(&n->devices, e)
		net_device_entry__free_unpacked(*e, NULL);
	VEC_FREE(&n->devices);
	if (n->entry)
		netns_entry__free_unpacked(n->entry, NULL);
	free(n);
}

const struct ns_kind ns_net = {
	.name = "net",
	.flag = CLONE_NEWNET,
	.summary = "Network devices (lo, veth with its other end inside or outside, bridges, macvlan and others that rtnetlink describes), their addresses, routes, rules, "
		   "neighbours that were set, rules of nftables and settings; or the namespace is kept outside (--external net[INODE]:NAME), or left empty (--empty-ns net)",
	.has_id = offsetof(TaskKobjIdsEntry, has_net_ns_id),
	.id = offsetof(TaskKobjIdsEntry, net_ns_id),
	.needs_outside = true,
	.collect = net_collect,
	.load = net_load,
	.fill = net_fill,
	.settle = net_settle,
	.release = net_release,
};
