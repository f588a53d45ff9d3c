/*
 * See netdev.h. Left out: what comes by itself when a device is set up (its local routes, and those to its own addresses), traffic control, the
 * values below /proc/sys/net, and routes that go by several devices.
 */
#include "engine/kinds/netdev.h"

#include "base/log.h"
#include "base/pool.h"
#include "engine/kinds/netlink_ask.h"

#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

#define KEPT_FLAGS (IFF_UP | IFF_NOARP | IFF_MULTICAST | IFF_ALLMULTI | IFF_PROMISC | IFF_DYNAMIC)
#define REQUEST_SIZE 4096
#define MESSAGES_MAX 65536

struct view {
	int index;
	struct pool *pool;
	TunDeviceEntry *entry;
	VEC(ProtobufCBinaryData) found; /* messages as they are */
	bool failed;
};

/* ---- dump ---- */

static bool copy(struct pool *pool, const void *data, size_t size, ProtobufCBinaryData *ret)
{
	*ret = (ProtobufCBinaryData){ size, pool_copy(pool, data, size) };
	return ret->data;
}

static int take_link(const struct nlmsghdr *h, void *data)
{
	const struct ifinfomsg *m = mnl_nlmsg_get_payload(h);
	struct view *v = data;
	TunDeviceEntry *e = v->entry;
	const struct nlattr *a;
	char master[IF_NAMESIZE];

	if (h->nlmsg_type != RTM_NEWLINK || m->ifi_index != v->index)
		return MNL_CB_OK;
	e->flags = m->ifi_flags & KEPT_FLAGS;
	mnl_attr_for_each(a, h, sizeof(*m)) {
		size_t size = mnl_attr_get_payload_len(a);
		switch (mnl_attr_get_type(a)) {
		case IFLA_MTU:
			e->mtu = mnl_attr_get_u32(a);
			break;
		case IFLA_TXQLEN:
			e->tx_queue_len = mnl_attr_get_u32(a);
			break;
		case IFLA_ADDRESS:
			e->has_address = size > 0;
			v->failed |= size && !copy(v->pool, mnl_attr_get_payload(a), size, &e->address);
			break;
		case IFLA_MASTER:
			if (if_indextoname(mnl_attr_get_u32(a), master))
				e->master = pool_copy(v->pool, master, strlen(master) + 1);
			break;
		}
	}
	return MNL_CB_STOP;
}

static int keep(struct view *v, const struct nlmsghdr *h)
{
	ProtobufCBinaryData *slot = VEC_PUSH(&v->found);

	v->failed |= !slot || !copy(v->pool, mnl_nlmsg_get_payload(h), mnl_nlmsg_get_payload_len(h), slot);
	return v->failed ? MNL_CB_STOP : MNL_CB_OK;
}

static int take_address(const struct nlmsghdr *h, void *data)
{
	const struct ifaddrmsg *m = mnl_nlmsg_get_payload(h);
	struct view *v = data;

	return h->nlmsg_type == RTM_NEWADDR && (int)m->ifa_index == v->index ? keep(v, h) : MNL_CB_OK;
}

static int take_route(const struct nlmsghdr *h, void *data)
{
	const struct rtmsg *m = mnl_nlmsg_get_payload(h);
	struct view *v = data;
	const struct nlattr *a;
	int out = 0;

	if (h->nlmsg_type != RTM_NEWROUTE || m->rtm_protocol == RTPROT_KERNEL || m->rtm_type != RTN_UNICAST || m->rtm_flags & RTM_F_CLONED)
		return MNL_CB_OK;
	mnl_attr_for_each(a, h, sizeof(*m))
		if (mnl_attr_get_type(a) == RTA_OIF)
			out = (int)mnl_attr_get_u32(a);
	return out == v->index ? keep(v, h) : MNL_CB_OK;
}

static int dump(struct view *v, uint16_t type, mnl_cb_t take)
{
	char buffer[256];
	struct nlmsghdr *h = mnl_nlmsg_put_header(buffer);

	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | (type == RTM_GETLINK ? 0 : NLM_F_DUMP);
	if (type == RTM_GETLINK)
		((struct ifinfomsg *)mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg)))->ifi_index = v->index;
	else
		mnl_nlmsg_put_extra_header(h, MAX(sizeof(struct ifaddrmsg), sizeof(struct rtmsg)));
	int r = netlink_ask(NETLINK_ROUTE, h, take, v);
	return r ? r : v->failed ? -ENOMEM : 0;
}

/* Moves what was found to the pool. */
static int settle(struct view *v, size_t *ret_count, ProtobufCBinaryData **ret)
{
	*ret_count = v->found.count;
	*ret = pool_copy(v->pool, v->found.data, v->found.count * sizeof(**ret));
	VEC_FREE(&v->found);
	return *ret || !*ret_count ? 0 : -ENOMEM;
}

int netdev_capture(const char *name, struct pool *pool, TunDeviceEntry *ret, struct error *e)
{
	struct view v = { .index = (int)if_nametoindex(name), .pool = pool, .entry = ret };
	int r = v.index ? dump(&v, RTM_GETLINK, take_link) : -errno;

	if (!r)
		r = dump(&v, RTM_GETADDR, take_address);
	if (!r)
		r = settle(&v, &ret->n_addresses, &ret->addresses);
	if (!r)
		r = dump(&v, RTM_GETROUTE, take_route);
	if (!r)
		r = settle(&v, &ret->n_routes, &ret->routes);
	VEC_FREE(&v.found);
	return r ? error_errno(e, r, "cannot learn how network device %s is set up", name) : 0;
}

/* ---- restore ---- */

static const uint16_t address_attributes[] = { IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_BROADCAST, IFA_ANYCAST, IFA_CACHEINFO, IFA_FLAGS, IFA_RT_PRIORITY };
static const uint16_t route_attributes[] = { RTA_DST, RTA_SRC, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS, RTA_TABLE, RTA_PREF, RTA_VIA };

static bool is_among(const uint16_t *known, size_t count, uint16_t type)
{
	for (size_t i = 0; i < count; i++)
		if (known[i] == type)
			return true;
	return false;
}

/* Behind the family's own header: those attributes that are known. False: it is damaged. */
static bool put_attributes(struct nlmsghdr *h, const ProtobufCBinaryData *saved, size_t header, const uint16_t *known, size_t count)
{
	const struct nlattr *a;
	size_t left = saved->len - MNL_ALIGN(header);

	for (a = (const void *)(saved->data + MNL_ALIGN(header)); left && mnl_attr_ok(a, (int)left); a = mnl_attr_next(a)) {
		size_t size = MNL_ALIGN(a->nla_len);
		left -= MIN(left, size);
		if (is_among(known, count, mnl_attr_get_type(a)) &&
		    !mnl_attr_put_check(h, REQUEST_SIZE, a->nla_type, mnl_attr_get_payload_len(a), mnl_attr_get_payload(a)))
			return false;
	}
	return !left;
}

static struct nlmsghdr *begin(char *buffer, uint16_t type, uint16_t flags)
{
	struct nlmsghdr *h = mnl_nlmsg_put_header(buffer);

	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
	return h;
}

static int damaged(const char *name, struct error *e)
{
	return error_set(e, -EBADMSG, "what the checkpoint says of network device %s is damaged", name);
}

static int add_address(const char *name, int index, const ProtobufCBinaryData *saved, struct error *e)
{
	char buffer[REQUEST_SIZE] = {};
	struct nlmsghdr *h = begin(buffer, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE);
	struct ifaddrmsg *m = mnl_nlmsg_put_extra_header(h, sizeof(*m));

	if (saved->len < sizeof(*m) || saved->len > REQUEST_SIZE / 2)
		return damaged(name, e);
	memcpy(m, saved->data, sizeof(*m));
	m->ifa_index = (uint32_t)index;
	if (!put_attributes(h, saved, sizeof(*m), address_attributes, ARRAY_SIZE(address_attributes)))
		return damaged(name, e);
	int r = netlink_ask(NETLINK_ROUTE, h, NULL, NULL);
	return r ? error_errno(e, r, "cannot give network device %s its address again", name) : 0;
}

static int add_route(const char *name, int index, const ProtobufCBinaryData *saved, struct error *e)
{
	char buffer[REQUEST_SIZE] = {};
	struct nlmsghdr *h = begin(buffer, RTM_NEWROUTE, NLM_F_CREATE);
	struct rtmsg *m = mnl_nlmsg_put_extra_header(h, sizeof(*m));

	if (saved->len < sizeof(*m) || saved->len > REQUEST_SIZE / 2)
		return damaged(name, e);
	memcpy(m, saved->data, sizeof(*m));
	m->rtm_flags &= RTNH_F_ONLINK;
	if (!put_attributes(h, saved, sizeof(*m), route_attributes, ARRAY_SIZE(route_attributes)) ||
	    !mnl_attr_put_u32_check(h, REQUEST_SIZE, RTA_OIF, (uint32_t)index))
		return damaged(name, e);
	int r = netlink_ask(NETLINK_ROUTE, h, NULL, NULL);
	/* Those of another kind than the kernel's may come by themselves too, by router advertisements. */
	return r && r != -EEXIST ? error_errno(e, r, "cannot make a route by way of network device %s again", name) : 0;
}

/* `up`: flags alone, once the rest is there. */
static int set_link(const char *name, int index, const TunDeviceEntry *entry, bool up, struct error *e)
{
	char buffer[REQUEST_SIZE] = {};
	struct nlmsghdr *h = begin(buffer, RTM_NEWLINK, 0);
	struct ifinfomsg *m = mnl_nlmsg_put_extra_header(h, sizeof(*m));
	unsigned int master = entry->master ? if_nametoindex(entry->master) : 0;

	m->ifi_index = index;
	m->ifi_flags = up ? entry->flags & KEPT_FLAGS : 0;
	m->ifi_change = up ? KEPT_FLAGS : 0;
	if (!up && entry->master && !master)
		return error_set(e, -ENODEV, "network device %s was a port of %s, which is not there; make that first", name, entry->master);
	if (!up) {
		mnl_attr_put_u32(h, IFLA_MTU, entry->mtu);
		mnl_attr_put_u32(h, IFLA_TXQLEN, entry->tx_queue_len);
		if (entry->has_address && (entry->address.len > 32 || !mnl_attr_put_check(h, REQUEST_SIZE, IFLA_ADDRESS, entry->address.len, entry->address.data)))
			return damaged(name, e);
		if (master)
			mnl_attr_put_u32(h, IFLA_MASTER, master);
	}
	int r = netlink_ask(NETLINK_ROUTE, h, NULL, NULL);
	return r ? error_errno(e, r, "cannot set up network device %s", name) : 0;
}

int netdev_set_up(const char *name, const TunDeviceEntry *entry, struct error *e)
{
	const int index = (int)if_nametoindex(name);

	if (!index)
		return error_errno(e, -errno, "network device %s is not there", name);
	if (entry->n_addresses > MESSAGES_MAX || entry->n_routes > MESSAGES_MAX)
		return damaged(name, e);
	int r = set_link(name, index, entry, false, e);
	if (!r)
		r = set_link(name, index, entry, true, e);
	for (size_t i = 0; !r && i < entry->n_addresses; i++)
		r = add_address(name, index, &entry->addresses[i], e);
	for (size_t i = 0; !r && i < entry->n_routes; i++)
		r = add_route(name, index, &entry->routes[i], e);
	return r;
}
