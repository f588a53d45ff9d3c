/*
 * Network devices made again from netdev-ID.img: those that others stand on first, then masters and what may only be said of one that is there, then
 * up. At the end each is looked at once more, and must be what the image says.
 *
 * Of the messages in the image only what is named here is sent on.
 */
#include "engine/ns/net.h"

#include "base/log.h"
#include "engine/kinds/external.h"
#include "engine/kinds/netdev.h"
#include "engine/kinds/netlink_ask.h"

#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <net/if.h>
#include <time.h>

#define DEVICES_MAX 65536
#define LOOPBACK 1 /* its number in every namespace */
#define TAKEN_NS 20000000
#define TAKEN_TRIES 500 /* a namespace whose last process has ended takes its devices away a moment later */

static const uint16_t made_with[] = { IFLA_IFNAME, IFLA_ADDRESS, IFLA_BROADCAST, IFLA_MTU, IFLA_TXQLEN, IFLA_GROUP, IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES };
static const uint16_t port_settable[] = { IFLA_BRPORT_PRIORITY, IFLA_BRPORT_COST, IFLA_BRPORT_MODE, IFLA_BRPORT_GUARD, IFLA_BRPORT_PROTECT, IFLA_BRPORT_FAST_LEAVE,
					  IFLA_BRPORT_LEARNING, IFLA_BRPORT_UNICAST_FLOOD, IFLA_BRPORT_PROXYARP, IFLA_BRPORT_PROXYARP_WIFI, IFLA_BRPORT_MCAST_FLOOD,
					  IFLA_BRPORT_MCAST_TO_UCAST, IFLA_BRPORT_VLAN_TUNNEL, IFLA_BRPORT_BCAST_FLOOD, IFLA_BRPORT_GROUP_FWD_MASK, IFLA_BRPORT_NEIGH_SUPPRESS,
					  IFLA_BRPORT_ISOLATED, IFLA_BRPORT_LOCKED };

struct device {
	const NetDeviceEntry *e;
	const struct net_kind *kind; /* NULL: lo */
	struct net_link link;
	bool made, beside; /* beside: with a descriptor, or by itself */
};

struct devices {
	VEC(struct device) list;
	struct pool pool;
};

static int damaged(struct net_restore *n)
{
	return error_set(n->s->e, -EBADMSG, "netdev-%u.img is damaged", n->id);
}

/* ---- reading ---- */

int net_devices_load(struct net_restore *n)
{
	const struct net_name name = net_image_name("netdev", n->id);
	struct image_file *file;
	ProtobufCMessage *m;
	int r = image_open(n->s->dir, name.text, IMAGE_MAGIC_NETDEV, &file);

	if (r == -ENOENT)
		return 0;
	if (r)
		return error_errno(n->s->e, r, "cannot read %s", name.text);
	while ((r = image_read_message(file, &net_device_entry__descriptor, &m)) == 1) {
		NetDeviceEntry **slot = n->devices.count < DEVICES_MAX ? VEC_PUSH(&n->devices) : NULL;
		if (!slot) {
			protobuf_c_message_free_unpacked(m, NULL);
			r = -EBADMSG;
			break;
		}
		*slot = (NetDeviceEntry *)m;
	}
	image_close(file);
	return r ? damaged(n) : 0;
}

const NetDeviceEntry *net_device_find(const struct net_restore *n, int index)
{
	VEC_FOREACH(&n->devices, e)
		if ((int)(*e)->ifindex == index)
			return *e;
	return NULL;
}

bool net_device_is_descriptors(const struct restore *s, const NetDeviceEntry *e)
{
	if (e->type != ND_TYPE__TUN)
		return false;
	for (size_t i = 0; i < s->files.count; i++) {
		const TunfileEntry *t = s->files.data[i].entry->tunf;
		if (t && t->device && t->netdev && !strcmp(t->netdev, e->name))
			return true;
	}
	return false;
}

static bool is_published_only(const NetDeviceEntry *e)
{
	return !e->has_link;
}

/* The message in the image; or, where another wrote it, what its other fields say. */
static struct nlmsghdr *message_of(struct devices *all, const NetDeviceEntry *e)
{
	_cleanup_free_ char *buffer = calloc(1, NET_MESSAGE_MAX);
	struct nlmsghdr *h = buffer ? mnl_nlmsg_put_header(buffer) : NULL;
	struct ifinfomsg *m = h ? mnl_nlmsg_put_extra_header(h, sizeof(*m)) : NULL;

	if (!m || e->link.len > NET_MESSAGE_MAX - 256 || e->address.len > 32 || strlen(e->name) >= IF_NAMESIZE)
		return NULL;
	h->nlmsg_type = RTM_NEWLINK;
	if (!is_published_only(e)) {
		if (e->link.len < sizeof(*m))
			return NULL;
		memcpy(m, e->link.data, e->link.len);
		h->nlmsg_len = (uint32_t)(MNL_NLMSG_HDRLEN + e->link.len);
		return pool_copy(&all->pool, h, MNL_ALIGN(h->nlmsg_len));
	}
	m->ifi_index = (int)e->ifindex;
	m->ifi_flags = e->flags | (e->type == ND_TYPE__LOOPBACK ? IFF_LOOPBACK : 0);
	mnl_attr_put_strz(h, IFLA_IFNAME, e->name);
	mnl_attr_put_u32(h, IFLA_MTU, e->mtu);
	if (e->has_address)
		mnl_attr_put(h, IFLA_ADDRESS, e->address.len, e->address.data);
	if (e->has_master)
		mnl_attr_put_u32(h, IFLA_MASTER, e->master);
	if (e->has_peer_ifindex)
		mnl_attr_put_u32(h, IFLA_LINK, e->peer_ifindex);
	if (e->has_peer_nsid)
		mnl_attr_put_u32(h, IFLA_LINK_NETNSID, e->peer_nsid);
	struct nlattr *info = mnl_attr_nest_start(h, IFLA_LINKINFO);
	const char *kind = e->type == ND_TYPE__VETH ? "veth" : e->type == ND_TYPE__BRIDGE ? "bridge" : e->type == ND_TYPE__MACVLAN ? "macvlan" : e->type == ND_TYPE__TUN ? "tun" : NULL;
	if (kind)
		mnl_attr_put_strz(h, IFLA_INFO_KIND, kind);
	if (e->macvlan) {
		struct nlattr *data = mnl_attr_nest_start(h, IFLA_INFO_DATA);
		mnl_attr_put_u32(h, IFLA_MACVLAN_MODE, e->macvlan->mode);
		if (e->macvlan->has_flags)
			mnl_attr_put_u16(h, IFLA_MACVLAN_FLAGS, (uint16_t)e->macvlan->flags);
		mnl_attr_nest_end(h, data);
	}
	mnl_attr_nest_end(h, info);
	return pool_copy(&all->pool, h, MNL_ALIGN(h->nlmsg_len));
}

static int parse_device(struct net_restore *n, struct devices *all, const NetDeviceEntry *e)
{
	struct device *d = VEC_PUSH(&all->list);
	const struct nlmsghdr *h = d ? message_of(all, e) : NULL;
	struct net_messages whole = {};

	if (!h)
		return d ? damaged(n) : error_set(n->s->e, -ENOMEM, "out of memory");
	int r = net_messages_take(&whole, h, RTM_NEWLINK, sizeof(struct ifinfomsg));
	net_messages_free(&whole);
	if (r || !net_link_parse(h, &d->link) || d->link.index != (int)e->ifindex || strcmp(d->link.name, e->name))
		return damaged(n);
	d->e = e;
	if (d->link.index == LOOPBACK) {
		d->made = true;
		return 0;
	}
	d->kind = net_kind_find(d->link.kind);
	if (!d->kind)
		return error_set(n->s->e, -ENODEV, "network device %s is of a kind (%.32s) that is not restored", e->name, d->link.kind);
	d->made = d->beside = net_device_is_descriptors(n->s, e);
	return 0;
}

static struct device *find(struct devices *all, uint32_t index)
{
	VEC_FOREACH(&all->list, d)
		if (d->link.index == (int)index)
			return d;
	return NULL;
}

/* ---- making ---- */

static struct nlmsghdr *begin(char *buffer, int index, uint16_t flags)
{
	struct nlmsghdr *h = mnl_nlmsg_put_header(buffer);

	h->nlmsg_type = RTM_NEWLINK;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	((struct ifinfomsg *)mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg)))->ifi_index = index;
	return h;
}

/* What is off in a bridge is not to be switched off: the kernel may lack it altogether. */
static bool put_setting(struct nlmsghdr *h, const struct device *d, const struct nlattr *a)
{
	struct br_boolopt_multi options;

	if (d->kind->type != ND_TYPE__BRIDGE || mnl_attr_get_type(a) != IFLA_BR_MULTI_BOOLOPT || mnl_attr_get_payload_len(a) != sizeof(options))
		return mnl_attr_put_check(h, NET_MESSAGE_MAX, a->nla_type, mnl_attr_get_payload_len(a), mnl_attr_get_payload(a));
	memcpy(&options, mnl_attr_get_payload(a), sizeof(options));
	options.optmask = options.optval;
	return !options.optval || mnl_attr_put_check(h, NET_MESSAGE_MAX, a->nla_type, sizeof(options), &options);
}

static bool put_data(struct nlmsghdr *h, const struct device *d)
{
	const struct nlattr *a;
	bool room = true;

	if (!d->link.data)
		return true;
	struct nlattr *data = mnl_attr_nest_start_check(h, NET_MESSAGE_MAX, IFLA_INFO_DATA);
	if (!data)
		return false;
	mnl_attr_for_each_nested(a, d->link.data)
		if (net_link_is_settable(d->kind, mnl_attr_get_type(a)))
			room = room && put_setting(h, d, a);
	mnl_attr_nest_end(h, data);
	return room;
}

/* IN=OUT@BRIDGE: what a veth is to be called outside. */
struct outer {
	char name[IF_NAMESIZE], bridge[IF_NAMESIZE];
	bool named; /* by the user */
};

static int find_outer(struct net_restore *n, const struct device *d, struct outer *ret)
{
	const struct external *x = external_named(n->s->request, d->kind->name, d->e->name);
	const char *value = x ? x->value : NULL, *at = value ? strchr(value, '@') : NULL;
	const size_t size = value ? (at ? (size_t)(at - value) : strlen(value)) : 0;

	*ret = (struct outer){ .named = value != NULL };
	if (value) {
		if (!size || size >= IF_NAMESIZE || (at && (!at[1] || strlen(at + 1) >= IF_NAMESIZE)))
			return error_set(n->s->e, -EINVAL, "--external %s[%s]:%s: write the name of a network device outside, as veth0, and where it is to be a port, as veth0@br0", d->kind->name,
					 d->e->name, value);
		memcpy(ret->name, value, size);
		if (at)
			memcpy(ret->bridge, at + 1, strlen(at + 1));
	} else if (d->e->outside && strlen(d->e->outside) < IF_NAMESIZE) {
		memcpy(ret->name, d->e->outside, strlen(d->e->outside));
	}
	return 0;
}

/* The other end: of the tree, with what it is to have; or outside. */
static bool put_peer(struct net_restore *n, struct nlmsghdr *h, const struct device *peer, const struct outer *outer)
{
	struct nlattr *data = mnl_attr_nest_start(h, IFLA_INFO_DATA), *nest = mnl_attr_nest_start(h, VETH_INFO_PEER);
	struct ifinfomsg *m = mnl_nlmsg_get_payload_tail(h);

	memset(m, 0, sizeof(*m));
	h->nlmsg_len += MNL_ALIGN(sizeof(*m));
	bool room = true;
	if (peer) {
		m->ifi_index = peer->link.index;
		room = net_message_copy(h, peer->link.h, sizeof(*m), made_with, ARRAY_SIZE(made_with));
	} else {
		mnl_attr_put_u32(h, IFLA_NET_NS_FD, (uint32_t)n->outside);
		if (outer->name[0])
			mnl_attr_put_strz(h, IFLA_IFNAME, outer->name);
	}
	mnl_attr_nest_end(h, nest);
	mnl_attr_nest_end(h, data);
	return room && h->nlmsg_len <= NET_MESSAGE_MAX;
}

static int make_error(struct net_restore *n, const struct device *d, int r)
{
	return error_errno(n->s->e, r, "cannot make network device %s (%s) again", d->e->name, d->kind->name);
}

/* In the namespace of the calling thread. A name that is taken may be one that is about to go. */
static int send_new(const struct nlmsghdr *h)
{
	int r = -EEXIST;

	for (int tries = 0; r == -EEXIST && tries < TAKEN_TRIES; tries++) {
		struct timespec pause = { 0, TAKEN_NS };
		if (tries)
			nanosleep(&pause, NULL);
		r = netlink_ask(NETLINK_ROUTE, h, NULL, NULL);
	}
	return r;
}

static int make_veth(struct net_restore *n, struct devices *all, struct device *d, char *buffer)
{
	struct device *peer = d->link.has_nsid ? NULL : find(all, d->link.below);
	struct nlmsghdr *h = begin(buffer, d->link.index, NLM_F_CREATE | NLM_F_EXCL);
	struct outer outer;
	int r = find_outer(n, d, &outer);

	if (r)
		return r;
	if (!d->link.has_nsid && (!peer || peer == d || peer->kind != d->kind || peer->made))
		return damaged(n);
	bool room = net_message_copy(h, d->link.h, sizeof(struct ifinfomsg), made_with, ARRAY_SIZE(made_with));
	struct nlattr *info = mnl_attr_nest_start(h, IFLA_LINKINFO);
	mnl_attr_put_strz(h, IFLA_INFO_KIND, "veth");
	room = room && h->nlmsg_len < NET_MESSAGE_MAX / 2 && put_peer(n, h, peer, &outer);
	mnl_attr_nest_end(h, info);
	if (!room)
		return damaged(n);
	r = send_new(h);
	if (r == -EEXIST && !peer)
		return error_set(n->s->e, r, "there is a network device %s already; remove it, or name another for the outer end of %s: --external veth[%s]:NAME", outer.name, d->e->name,
				 d->e->name);
	if (r)
		return make_error(n, d, r);
	d->made = true;
	if (peer)
		peer->made = true;
	return 0;
}

/* One that stands on a device outside is made from there. */
static int make_above_outside(struct net_restore *n, struct device *d, struct nlmsghdr *h)
{
	struct outer outer;
	int r = find_outer(n, d, &outer);

	if (!r && !outer.name[0])
		r = error_set(n->s->e, -ENODEV, "network device %s (%s) stood on one outside; name it: --external %s[%s]:NAME", d->e->name, d->kind->name, d->kind->name, d->e->name);
	if (!r)
		r = net_enter(n->outside, n->s->e);
	if (r)
		return r;
	const unsigned int below = if_nametoindex(outer.name);
	mnl_attr_put_u32(h, IFLA_LINK, below);
	mnl_attr_put_u32(h, IFLA_NET_NS_FD, (uint32_t)n->inside);
	r = !below ? error_set(n->s->e, -ENODEV, "network device %s (%s) stood on %s, which is not here; make that first, or name another: --external %s[%s]:NAME", d->e->name, d->kind->name,
			       outer.name, d->kind->name, d->e->name) :
		     send_new(h);
	if (r && below)
		r = make_error(n, d, r);
	int back = net_enter(n->inside, n->s->e);
	return r ? r : back;
}

static int make_other(struct net_restore *n, struct device *d, char *buffer)
{
	struct nlmsghdr *h = begin(buffer, d->link.index, NLM_F_CREATE | NLM_F_EXCL);
	const bool outside = d->kind->below && (d->link.has_nsid || !d->link.below);
	bool room = net_message_copy(h, d->link.h, sizeof(struct ifinfomsg), made_with, ARRAY_SIZE(made_with));
	struct nlattr *info = mnl_attr_nest_start(h, IFLA_LINKINFO);

	mnl_attr_put_strz(h, IFLA_INFO_KIND, d->kind->name);
	room = room && put_data(h, d);
	mnl_attr_nest_end(h, info);
	if (!room || h->nlmsg_len > NET_MESSAGE_MAX - 256)
		return damaged(n);
	if (d->kind->below && !outside)
		mnl_attr_put_u32(h, IFLA_LINK, d->link.below);
	int r = outside ? make_above_outside(n, d, h) : send_new(h);
	d->made = !r;
	return r && !outside ? make_error(n, d, r) : r;
}

/* Until all are there: what stands on another comes behind it. */
static int make_all(struct net_restore *n, struct devices *all, char *buffer)
{
	bool more = true, left = false;
	int r = 0;

	while (!r && more) {
		more = left = false;
		VEC_FOREACH(&all->list, d) {
			const struct device *below = d->made || !d->kind->below || d->link.has_nsid ? NULL : find(all, d->link.below);
			if (r || d->made)
				continue;
			if (d->kind->type == ND_TYPE__TUN)
				return error_set(n->s->e, -ENODEV, "network device %s was held by a program outside of the tree, and can't be restored", d->e->name);
			left |= below && !below->made;
			if (below && !below->made)
				continue;
			more = true;
			r = d->kind->type == ND_TYPE__VETH ? make_veth(n, all, d, buffer) : make_other(n, d, buffer);
		}
	}
	return r ? r : left ? damaged(n) : 0;
}

/* ---- what may be said of one that is there ---- */

static bool put_port(struct nlmsghdr *h, const struct device *d)
{
	const struct nlattr *a;
	bool room = true;

	if (!d->link.slave_data || strcmp(d->link.slave_kind, "bridge"))
		return true;
	struct nlattr *info = mnl_attr_nest_start(h, IFLA_LINKINFO);
	mnl_attr_put_strz(h, IFLA_INFO_SLAVE_KIND, "bridge");
	struct nlattr *data = mnl_attr_nest_start(h, IFLA_INFO_SLAVE_DATA);
	mnl_attr_for_each_nested(a, d->link.slave_data)
		for (size_t i = 0; i < ARRAY_SIZE(port_settable); i++)
			if (port_settable[i] == mnl_attr_get_type(a))
				room = room && mnl_attr_put_check(h, NET_MESSAGE_MAX, a->nla_type, mnl_attr_get_payload_len(a), mnl_attr_get_payload(a));
	mnl_attr_nest_end(h, data);
	mnl_attr_nest_end(h, info);
	return room;
}

static int set(struct net_restore *n, const struct device *d, const struct nlmsghdr *h)
{
	int r = netlink_ask(NETLINK_ROUTE, h, NULL, NULL);

	return r ? error_errno(n->s->e, r, "cannot set up network device %s", d->e->name) : 0;
}

static int set_names(struct net_restore *n, const struct device *d, char *buffer)
{
	const struct nlattr *names = net_message_find(d->link.h, NET_LINK_HEADER, IFLA_PROP_LIST);
	struct nlmsghdr *h = begin(buffer, d->link.index, NLM_F_CREATE | NLM_F_APPEND | NLM_F_EXCL);

	if (!names)
		return 0;
	h->nlmsg_type = RTM_NEWLINKPROP;
	if (!mnl_attr_put_check(h, NET_MESSAGE_MAX, IFLA_PROP_LIST | NLA_F_NESTED, mnl_attr_get_payload_len(names), mnl_attr_get_payload(names)))
		return damaged(n);
	return set(n, d, h);
}

static int set_up(struct net_restore *n, const struct device *d, char *buffer)
{
	static const uint16_t lo_has[] = { IFLA_MTU, IFLA_TXQLEN, IFLA_GROUP, IFLA_IFALIAS }, others_have[] = { IFLA_IFALIAS };
	struct nlmsghdr *h = begin(buffer, d->link.index, 0);
	struct ifinfomsg *m = mnl_nlmsg_get_payload(h);
	bool room = d->kind ? net_message_copy(h, d->link.h, sizeof(*m), others_have, ARRAY_SIZE(others_have)) : net_message_copy(h, d->link.h, sizeof(*m), lo_has, ARRAY_SIZE(lo_has));
	int r = 0;

	room = room && (!d->link.master || mnl_attr_put_u32_check(h, NET_MESSAGE_MAX, IFLA_MASTER, d->link.master));
	if (!room)
		return damaged(n);
	if (d->link.master && !d->beside)
		r = set(n, d, h);
	h = begin(buffer, d->link.index, 0);
	m = mnl_nlmsg_get_payload(h);
	room = d->kind ? net_message_copy(h, d->link.h, sizeof(*m), others_have, ARRAY_SIZE(others_have)) : net_message_copy(h, d->link.h, sizeof(*m), lo_has, ARRAY_SIZE(lo_has));
	m->ifi_flags = d->link.flags & NET_LINK_FLAGS;
	m->ifi_change = NET_LINK_FLAGS;
	if (!room || !put_port(h, d))
		return damaged(n);
	if (!r)
		r = set(n, d, h);
	return r ? r : set_names(n, d, buffer);
}

/* The outer end of a veth: as the user wants it, or as it was. */
static int set_up_outer(struct net_restore *n, const struct device *d)
{
	struct outer outer;
	int r = find_outer(n, d, &outer);
	TunLinkEntry none = TUN_LINK_ENTRY__INIT;
	TunDeviceEntry wanted = TUN_DEVICE_ENTRY__INIT;

	if (r || !outer.name[0])
		return r;
	wanted.tun = &none;
	wanted.flags = IFF_UP | IFF_MULTICAST;
	wanted.mtu = d->link.mtu;
	wanted.tx_queue_len = 1000;
	wanted.master = outer.bridge[0] ? outer.bridge : NULL;
	if (!outer.named && !d->e->outside_device)
		return 0;
	r = net_enter(n->outside, n->s->e);
	if (!r) {
		r = netdev_set_up(outer.name, outer.named ? &wanted : d->e->outside_device, n->s->e);
		int back = net_enter(n->inside, n->s->e);
		r = r ? r : back;
	}
	return r;
}

static int parse_all(struct net_restore *n, struct devices *all)
{
	int r = 0;

	VEC_FOREACH(&n->devices, e)
		r = r ? r : parse_device(n, all, *e);
	VEC_FOREACH(&all->list, d)
		for (size_t i = 0; !r && i < all->list.count; i++)
			if (&all->list.data[i] != d && all->list.data[i].link.index == d->link.index)
				r = damaged(n);
	return r;
}

static void release(struct devices *all)
{
	VEC_FREE(&all->list);
	pool_free(&all->pool);
}

int net_devices_make(struct net_restore *n)
{
	_cleanup_free_ char *buffer = calloc(2, NET_MESSAGE_MAX);
	struct devices all = {};
	int r = buffer ? parse_all(n, &all) : error_set(n->s->e, -ENOMEM, "out of memory");

	if (!r)
		r = make_all(n, &all, buffer);
	VEC_FOREACH(&all.list, d)
		if (!r && d->kind && d->kind->type == ND_TYPE__VETH && d->link.has_nsid)
			r = set_up_outer(n, d);
	VEC_FOREACH(&all.list, d)
		if (!r && !d->beside)
			r = set_up(n, d, buffer);
	release(&all);
	return r;
}

/* ---- the end ---- */

/* How a device comes to its IPv6 addresses: said last, when it has them. */
static int set_generation(struct net_restore *n, const struct device *d, char *buffer)
{
	const struct nlattr *spec = net_message_find(d->link.h, NET_LINK_HEADER, IFLA_AF_SPEC), *family, *a;
	struct nlmsghdr *h = begin(buffer, d->link.index, 0);
	bool any = false;

	if (!spec)
		return 0;
	struct nlattr *outer = mnl_attr_nest_start(h, IFLA_AF_SPEC), *six = mnl_attr_nest_start(h, AF_INET6);
	mnl_attr_for_each_nested(family, spec) {
		if (mnl_attr_get_type(family) != AF_INET6)
			continue;
		mnl_attr_for_each_nested(a, family) {
			if (mnl_attr_get_type(a) == IFLA_INET6_ADDR_GEN_MODE && mnl_attr_get_payload_len(a) == 1) {
				mnl_attr_put_u8(h, IFLA_INET6_ADDR_GEN_MODE, mnl_attr_get_u8(a));
				any = true;
			}
		}
		break;
	}
	mnl_attr_nest_end(h, six);
	mnl_attr_nest_end(h, outer);
	return any ? set(n, d, h) : 0;
}

static bool same_attribute(const struct nlattr *nest, const struct nlattr *a)
{
	const struct nlattr *b;

	if (nest)
		mnl_attr_for_each_nested(b, nest)
			if (mnl_attr_get_type(a) == mnl_attr_get_type(b))
				return a->nla_len == b->nla_len && !memcmp(mnl_attr_get_payload(a), mnl_attr_get_payload(b), mnl_attr_get_payload_len(a));
	return false;
}

static int compare(struct net_restore *n, const struct device *d, const struct net_link *is)
{
	static const uint16_t compared[] = { IFLA_MTU, IFLA_ADDRESS, IFLA_TXQLEN, IFLA_MASTER };
	const struct nlattr *a;

	if (strcmp(d->link.name, is->name) || strcmp(d->link.kind, is->kind) || (d->link.flags ^ is->flags) & NET_LINK_FLAGS)
		return error_set(n->s->e, -EIO, "network device %s did not become what it was (kind %s, flags %#x in place of %#x)", d->e->name, is->kind, is->flags, d->link.flags);
	for (size_t i = 0; i < ARRAY_SIZE(compared); i++) {
		const struct nlattr *x = net_message_find(d->link.h, NET_LINK_HEADER, compared[i]), *y = net_message_find(is->h, NET_LINK_HEADER, compared[i]);
		if (x && (!y || x->nla_len != y->nla_len || memcmp(mnl_attr_get_payload(x), mnl_attr_get_payload(y), mnl_attr_get_payload_len(x))))
			return error_set(n->s->e, -EIO, "network device %s did not become what it was (attribute %u)", d->e->name, compared[i]);
	}
	if (d->link.data && d->kind)
		mnl_attr_for_each_nested(a, d->link.data)
			if (net_link_is_settable(d->kind, mnl_attr_get_type(a)) && !same_attribute(is->data, a))
				return error_set(n->s->e, -EIO, "network device %s did not become what it was (attribute %u of %s)", d->e->name, mnl_attr_get_type(a), d->kind->name);
	return 0;
}

int net_devices_finish(struct net_restore *n)
{
	_cleanup_free_ char *buffer = calloc(2, NET_MESSAGE_MAX);
	struct devices all = {};
	struct net_messages now = {};
	int r = buffer ? parse_all(n, &all) : error_set(n->s->e, -ENOMEM, "out of memory");

	VEC_FOREACH(&all.list, d)
		if (!r && d->kind && !d->beside)
			r = set_generation(n, d, buffer);
	if (!r && (r = net_links_ask(&now)))
		r = error_errno(n->s->e, r, "cannot list the devices of the new network namespace");
	VEC_FOREACH(&all.list, d) {
		bool there = d->beside;
		NET_MESSAGES_FOREACH(&now, h) {
			struct net_link is;
			if (r || d->beside || !net_link_parse(h, &is) || is.index != d->link.index)
				continue;
			there = true;
			r = compare(n, d, &is);
		}
		if (!r && !there)
			r = error_set(n->s->e, -EIO, "network device %s is not there", d->e->name);
	}
	net_messages_free(&now);
	release(&all);
	return r;
}
