/*
 * Addresses, routes, rules and neighbours of a network namespace, in images that hold the messages of rtnetlink(7) as the kernel gave them:
 * ifaddr-ID.img, route-ID.img, route6-ID.img and rule-ID.img as `ip … save` writes them, and neighbour-ID.img, which is ours.
 *
 * What comes by itself with a device that is set up is not made again, but for addresses that the tree did not have: these are taken away. Left out:
 * neighbours that were learned, which are asked for again.
 */
#include "engine/ns/net.h"

#include "engine/kinds/netlink_ask.h"

#include <arpa/inet.h>
#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <time.h>

#ifndef IFA_PROTO
#define IFA_PROTO 11 /* Linux 5.18 */
#endif
#define USER_HZ 100
#define TENTATIVE_NS 1000000
#define TENTATIVE_TRIES 2000
#define ADDRESS_FLAGS (IFA_F_NODAD | IFA_F_HOMEADDRESS | IFA_F_MANAGETEMPADDR | IFA_F_NOPREFIXROUTE | IFA_F_MCAUTOJOIN) /* the others are its state */

/* ---- dump ---- */

static bool is_ip(const struct nlmsghdr *h, void *data)
{
	const int family = *(const unsigned char *)mnl_nlmsg_get_payload(h);

	return family == AF_INET || family == AF_INET6;
}

static bool is_kept_route(const struct nlmsghdr *h, void *family)
{
	const struct rtmsg *m = mnl_nlmsg_get_payload(h);

	return m->rtm_family == *(const int *)family && !(m->rtm_flags & RTM_F_CLONED);
}

/* Those that somebody has set: for good, or what is answered for others (proxy). */
static bool is_kept_neighbour(const struct nlmsghdr *h, void *data)
{
	const struct ndmsg *m = mnl_nlmsg_get_payload(h);

	return is_ip(h, data) && (m->ndm_state & NUD_PERMANENT || m->ndm_flags & NTF_PROXY);
}

/* Of a bridge: what was set for one of its ports; of a tunnel: where others are. */
static bool is_kept_forwarding(const struct nlmsghdr *h, void *data)
{
	const struct ndmsg *m = mnl_nlmsg_get_payload(h);
	const bool of_port = net_message_find(h, sizeof(*m), NDA_MASTER), elsewhere = net_message_find(h, sizeof(*m), NDA_DST);

	return m->ndm_family == AF_BRIDGE && m->ndm_state & (NUD_NOARP | NUD_PERMANENT) && (of_port || elsewhere) && !(m->ndm_flags & NTF_EXT_LEARNED);
}

static int capture(struct net_dump *n, const char *kind, uint32_t magic, uint16_t type, const void *header, size_t size,
		   bool (*wanted)(const struct nlmsghdr *h, void *data), void *data, struct net_messages *m)
{
	int r = net_messages_ask(m, type, header, size, wanted, data);

	return r ? error_errno(n->d->e, r, "cannot list the %ss of its network namespace", kind) : 0;
}

static int capture_one(struct net_dump *n, const char *kind, uint32_t magic, uint16_t type, const void *header, size_t size,
		       bool (*wanted)(const struct nlmsghdr *h, void *data), void *data)
{
	const struct net_name name = net_image_name(kind, n->id);
	struct net_messages m = {};
	int r = capture(n, kind, magic, type, header, size, wanted, data, &m);

	if (!r)
		r = net_messages_write(n->d, name.text, magic, &m);
	net_messages_free(&m);
	return r;
}

static int capture_neighbours(struct net_dump *n)
{
	const struct net_name name = net_image_name("neighbour", n->id);
	const struct ndmsg any = {}, proxies = { .ndm_flags = NTF_PROXY }, forwarding = { .ndm_family = AF_BRIDGE };
	struct net_messages m = {};
	int r = capture(n, "neighbour", NET_MAGIC_NEIGHBOURS, RTM_GETNEIGH, &any, sizeof(any), is_kept_neighbour, NULL, &m);

	if (!r)
		r = capture(n, "neighbour", NET_MAGIC_NEIGHBOURS, RTM_GETNEIGH, &proxies, sizeof(proxies), is_kept_neighbour, NULL, &m);
	if (!r)
		r = capture(n, "neighbour", NET_MAGIC_NEIGHBOURS, RTM_GETNEIGH, &forwarding, sizeof(forwarding), is_kept_forwarding, NULL, &m);
	if (!r)
		r = net_messages_write(n->d, name.text, NET_MAGIC_NEIGHBOURS, &m);
	net_messages_free(&m);
	return r;
}

int net_config_capture(struct net_dump *n)
{
	const struct ifaddrmsg addresses = {};
	int four = AF_INET, six = AF_INET6;
	const struct rtmsg routes = { .rtm_family = AF_INET }, routes6 = { .rtm_family = AF_INET6 };
	const struct fib_rule_hdr rules = {};
	int r = capture_one(n, "ifaddr", NET_MAGIC_ADDRESSES, RTM_GETADDR, &addresses, sizeof(addresses), is_ip, NULL);

	if (!r)
		r = capture_one(n, "route", NET_MAGIC_ROUTES, RTM_GETROUTE, &routes, sizeof(routes), is_kept_route, &four);
	if (!r)
		r = capture_one(n, "route6", NET_MAGIC_ROUTES, RTM_GETROUTE, &routes6, sizeof(routes6), is_kept_route, &six);
	if (!r)
		r = capture_one(n, "rule", NET_MAGIC_RULES, RTM_GETRULE, &rules, sizeof(rules), is_ip, NULL);
	return r ? r : capture_neighbours(n);
}

/* ---- restore ---- */

/* One way of an image of messages into the kernel. */
struct way {
	const char *kind; /* of the image */
	uint32_t magic;
	uint16_t type;
	size_t header;
	const uint16_t *known;
	size_t n_known;
};

static const uint16_t address_known[] = { IFA_ADDRESS, IFA_LOCAL, IFA_LABEL, IFA_BROADCAST, IFA_ANYCAST, IFA_CACHEINFO, IFA_RT_PRIORITY, IFA_PROTO };
static const uint16_t route_known[] = { RTA_DST, RTA_SRC, RTA_OIF, RTA_GATEWAY, RTA_PRIORITY, RTA_PREFSRC, RTA_METRICS, RTA_FLOW, RTA_TABLE, RTA_VIA, RTA_PREF,
					RTA_ENCAP_TYPE, RTA_ENCAP, RTA_TTL_PROPAGATE };
static const uint16_t rule_known[] = { FRA_DST, FRA_SRC, FRA_IIFNAME, FRA_GOTO, FRA_PRIORITY, FRA_FWMARK, FRA_FLOW, FRA_TUN_ID, FRA_SUPPRESS_IFGROUP,
				       FRA_SUPPRESS_PREFIXLEN, FRA_TABLE, FRA_FWMASK, FRA_OIFNAME, FRA_L3MDEV, FRA_UID_RANGE, FRA_PROTOCOL, FRA_IP_PROTO,
				       FRA_SPORT_RANGE, FRA_DPORT_RANGE };
static const uint16_t neighbour_known[] = { NDA_DST, NDA_LLADDR, NDA_VLAN, NDA_PORT, NDA_VNI, NDA_IFINDEX, NDA_PROTOCOL, NDA_SRC_VNI };

static const struct way ways[] = {
	{ "ifaddr", NET_MAGIC_ADDRESSES, RTM_NEWADDR, sizeof(struct ifaddrmsg), address_known, ARRAY_SIZE(address_known) },
	{ "route", NET_MAGIC_ROUTES, RTM_NEWROUTE, sizeof(struct rtmsg), route_known, ARRAY_SIZE(route_known) },
	{ "route6", NET_MAGIC_ROUTES, RTM_NEWROUTE, sizeof(struct rtmsg), route_known, ARRAY_SIZE(route_known) },
	{ "rule", NET_MAGIC_RULES, RTM_NEWRULE, sizeof(struct fib_rule_hdr), rule_known, ARRAY_SIZE(rule_known) },
	{ "neighbour", NET_MAGIC_NEIGHBOURS, RTM_NEWNEIGH, sizeof(struct ndmsg), neighbour_known, ARRAY_SIZE(neighbour_known) },
};
enum { ADDRESSES, ROUTES, ROUTES6, RULES, NEIGHBOURS };

static int load(struct net_restore *n, const struct way *way, struct net_messages *ret)
{
	const struct net_name name = net_image_name(way->kind, n->id);

	return net_messages_read(n->s, name.text, way->magic, way->type, way->header, ret);
}

static struct nlmsghdr *begin(const struct way *way, char *buffer, const struct nlmsghdr *from, uint16_t type, uint16_t flags)
{
	struct nlmsghdr *h = net_message_begin(buffer, from, type, flags, way->header);

	return net_message_copy(h, from, way->header, way->known, way->n_known) ? h : NULL;
}

static int tell(const struct nlmsghdr *h)
{
	return h ? netlink_ask(NETLINK_ROUTE, h, NULL, NULL) : -EBADMSG;
}

/* Whether the device is not here yet: it comes with a descriptor, which brings its addresses and routes. */
static bool comes_later(const struct net_restore *n, int index)
{
	const NetDeviceEntry *e = index ? net_device_find(n, index) : NULL;

	return e && net_device_is_descriptors(n->s, e);
}

struct address_text {
	char text[INET6_ADDRSTRLEN];
};
static struct address_text address_text(int family, const struct nlattr *a)
{
	struct address_text t = { "default" };

	if (a && mnl_attr_get_payload_len(a) >= (family == AF_INET ? 4 : 16))
		inet_ntop(family, mnl_attr_get_payload(a), t.text, sizeof(t.text));
	return t;
}

static uint32_t flags_of(const struct nlmsghdr *h)
{
	const struct ifaddrmsg *m = mnl_nlmsg_get_payload(h);

	return m->ifa_flags | net_message_u32(h, sizeof(*m), IFA_FLAGS);
}

static const struct nlattr *local_of(const struct nlmsghdr *h)
{
	const struct nlattr *local = net_message_find(h, sizeof(struct ifaddrmsg), IFA_LOCAL);

	return local ? local : net_message_find(h, sizeof(struct ifaddrmsg), IFA_ADDRESS);
}

static bool same_address(const struct nlmsghdr *x, const struct nlmsghdr *y)
{
	const struct ifaddrmsg *a = mnl_nlmsg_get_payload(x), *b = mnl_nlmsg_get_payload(y);
	const struct nlattr *p = local_of(x), *q = local_of(y);

	return a->ifa_family == b->ifa_family && a->ifa_prefixlen == b->ifa_prefixlen && a->ifa_index == b->ifa_index && p && q &&
	       p->nla_len == q->nla_len && !memcmp(mnl_attr_get_payload(p), mnl_attr_get_payload(q), mnl_attr_get_payload_len(p));
}

static const struct nlmsghdr *find_address(const struct net_messages *m, const struct nlmsghdr *h)
{
	NET_MESSAGES_FOREACH(m, x)
		if (same_address(x, h))
			return x;
	return NULL;
}

/* It came by itself, as the tree's did: to replace it would bring a route with it. */
static bool is_there(const struct net_messages *now, const struct nlmsghdr *saved)
{
	const struct nlmsghdr *x = find_address(now, saved);

	return x && (flags_of(x) & ADDRESS_FLAGS) == (flags_of(saved) & ADDRESS_FLAGS);
}

static int add_address(struct net_restore *n, char *buffer, const struct nlmsghdr *saved)
{
	const struct ifaddrmsg *m = mnl_nlmsg_get_payload(saved);
	struct nlmsghdr *h = begin(&ways[ADDRESSES], buffer, saved, RTM_NEWADDR, NLM_F_CREATE | NLM_F_REPLACE);

	if (comes_later(n, (int)m->ifa_index))
		return 0;
	if (h && !mnl_attr_put_u32_check(h, NET_MESSAGE_MAX, IFA_FLAGS, flags_of(saved) & ADDRESS_FLAGS))
		h = NULL;
	int r = tell(h);
	return r && r != -EEXIST ? error_errno(n->s->e, r, "cannot give the network namespace its address %s again", address_text(m->ifa_family, local_of(saved)).text) : 0;
}

/* What came by itself and is none of the tree's goes. */
static int make_addresses(struct net_restore *n, char *buffer)
{
	const struct ifaddrmsg any = {};
	struct net_messages saved = {}, now = {};
	int r = load(n, &ways[ADDRESSES], &saved);

	if (!r && (r = net_messages_ask(&now, RTM_GETADDR, &any, sizeof(any), is_ip, NULL)))
		r = error_errno(n->s->e, r, "cannot list the addresses of the new network namespace");
	NET_MESSAGES_FOREACH(&saved, h)
		if (!r && !is_there(&now, h))
			r = add_address(n, buffer, h);
	NET_MESSAGES_FOREACH(&now, h)
		if (!r && !find_address(&saved, h) && (r = tell(begin(&ways[ADDRESSES], buffer, h, RTM_DELADDR, 0))))
			r = error_errno(n->s->e, r, "cannot take an address from the new network namespace");
	net_messages_free(&now);
	net_messages_free(&saved);
	return r;
}

static bool is_tentative(const struct nlmsghdr *h, void *data)
{
	const struct ifaddrmsg *m = mnl_nlmsg_get_payload(h);

	return m->ifa_family == AF_INET6 && flags_of(h) & IFA_F_TENTATIVE;
}

/* Even where none is tried out the kernel takes one for good a moment later only; nobody could bind to it before. */
static int wait_for_addresses(struct net_restore *n)
{
	const struct ifaddrmsg any = { .ifa_family = AF_INET6 };
	bool tentative = true;
	int r = 0;

	for (int tries = 0; !r && tentative && tries < TENTATIVE_TRIES; tries++) {
		struct timespec pause = { 0, TENTATIVE_NS };
		struct net_messages now = {};
		if (tries)
			nanosleep(&pause, NULL);
		r = net_messages_ask(&now, RTM_GETADDR, &any, sizeof(any), is_tentative, NULL);
		tentative = now.bytes.count;
		net_messages_free(&now);
	}
	return r == -EAFNOSUPPORT || r == -EOPNOTSUPP ? 0 : r ? error_errno(n->s->e, r, "cannot list the addresses of the new network namespace") : 0;
}

/* ---- routes ---- */

/* The flags of each way are its state; the kernel refuses to be told. */
static bool put_multipath(struct nlmsghdr *h, const struct nlattr *saved)
{
	const size_t size = mnl_attr_get_payload_len(saved), at = h->nlmsg_len + MNL_ATTR_HDRLEN;

	if (!mnl_attr_put_check(h, NET_MESSAGE_MAX, RTA_MULTIPATH, size, mnl_attr_get_payload(saved)))
		return false;
	for (size_t done = 0; done + sizeof(struct rtnexthop) <= size;) {
		struct rtnexthop *x = (struct rtnexthop *)((char *)h + at + done);
		if (x->rtnh_len < sizeof(*x) || x->rtnh_len > size - done)
			return false;
		x->rtnh_flags &= RTNH_F_ONLINK;
		done += RTNH_ALIGN((size_t)x->rtnh_len);
	}
	return true;
}

static struct nlmsghdr *begin_route(char *buffer, const struct nlmsghdr *saved)
{
	struct nlmsghdr *h = begin(&ways[ROUTES], buffer, saved, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_APPEND);
	const struct nlattr *several = net_message_find(saved, sizeof(struct rtmsg), RTA_MULTIPATH), *cache = net_message_find(saved, sizeof(struct rtmsg), RTA_CACHEINFO);
	const struct rta_cacheinfo *c = cache && mnl_attr_get_payload_len(cache) >= sizeof(*c) ? mnl_attr_get_payload(cache) : NULL;

	if (!h || (several && !put_multipath(h, several)))
		return NULL;
	((struct rtmsg *)mnl_nlmsg_get_payload(h))->rtm_flags &= RTNH_F_ONLINK;
	if (c && c->rta_expires > 0 && !mnl_attr_put_u32_check(h, NET_MESSAGE_MAX, RTA_EXPIRES, (uint32_t)c->rta_expires / USER_HZ))
		return NULL;
	return h;
}

static bool is_by_itself(const struct net_restore *n, const struct nlmsghdr *h)
{
	const struct rtmsg *m = mnl_nlmsg_get_payload(h);

	return m->rtm_protocol == RTPROT_KERNEL || comes_later(n, (int)net_message_u32(h, sizeof(*m), RTA_OIF));
}

static int cannot_route(struct net_restore *n, const struct nlmsghdr *h, int r)
{
	const struct rtmsg *m = mnl_nlmsg_get_payload(h);

	return error_errno(n->s->e, r, "cannot make the route to %s/%d again in the network namespace", address_text(m->rtm_family, net_message_find(h, sizeof(*m), RTA_DST)).text,
			   m->rtm_dst_len);
}

/* A route may lead to the gateway of another: until nothing more comes of it. */
static int make_routes(struct net_restore *n, char *buffer, const struct way *way)
{
	struct net_messages saved = {};
	int r = load(n, way, &saved);
	VEC(const struct nlmsghdr *) left = {};

	NET_MESSAGES_FOREACH(&saved, h) {
		const struct nlmsghdr **slot = r || is_by_itself(n, h) ? NULL : VEC_PUSH(&left);
		if (slot)
			*slot = h;
	}
	for (size_t before = SIZE_MAX; !r && left.count && left.count < before;) {
		size_t kept = 0;
		int last = 0;
		before = left.count;
		for (size_t i = 0; i < before; i++) {
			int made = tell(begin_route(buffer, left.data[i]));
			last = made && made != -EEXIST ? made : last;
			if (made && made != -EEXIST)
				left.data[kept++] = left.data[i];
		}
		left.count = kept;
		if (kept == before)
			r = cannot_route(n, left.data[0], last);
	}
	VEC_FREE(&left);
	net_messages_free(&saved);
	return r;
}

/* ---- rules ---- */

static bool same_payload(const struct nlmsghdr *x, const struct nlmsghdr *y)
{
	return x->nlmsg_len == y->nlmsg_len && !memcmp(mnl_nlmsg_get_payload(x), mnl_nlmsg_get_payload(y), mnl_nlmsg_get_payload_len(x));
}

static bool has_same(const struct net_messages *m, const struct nlmsghdr *h)
{
	NET_MESSAGES_FOREACH(m, x)
		if (same_payload(x, h))
			return true;
	return false;
}

static int change_rule(struct net_restore *n, char *buffer, const struct nlmsghdr *saved, bool add)
{
	struct nlmsghdr *h = begin(&ways[RULES], buffer, saved, add ? RTM_NEWRULE : RTM_DELRULE, add ? NLM_F_CREATE | NLM_F_EXCL : 0);

	if (h)
		((struct fib_rule_hdr *)mnl_nlmsg_get_payload(h))->flags &= FIB_RULE_INVERT;
	int r = tell(h);
	return r ? error_errno(n->s->e, r, "cannot %s rule %u for routes in the network namespace", add ? "make" : "remove",
			       net_message_u32(saved, sizeof(struct fib_rule_hdr), FRA_PRIORITY)) :
		   0;
}

/* What a new namespace has and the tree has not is removed first. */
static int make_rules(struct net_restore *n, char *buffer)
{
	const struct fib_rule_hdr any = {};
	struct net_messages saved = {}, now = {};
	int r = load(n, &ways[RULES], &saved);

	if (!r && (r = net_messages_ask(&now, RTM_GETRULE, &any, sizeof(any), is_ip, NULL)))
		r = error_errno(n->s->e, r, "cannot list the rules of the new network namespace");
	NET_MESSAGES_FOREACH(&now, h)
		if (!r && !has_same(&saved, h))
			r = change_rule(n, buffer, h, false);
	NET_MESSAGES_FOREACH(&saved, h)
		if (!r && !has_same(&now, h))
			r = change_rule(n, buffer, h, true);
	net_messages_free(&now);
	net_messages_free(&saved);
	return r;
}

/* ---- neighbours ---- */

static int add_neighbour(struct net_restore *n, char *buffer, const struct nlmsghdr *saved)
{
	const struct ndmsg *m = mnl_nlmsg_get_payload(saved);
	const bool bridge = m->ndm_family == AF_BRIDGE;
	struct nlmsghdr *h = begin(&ways[NEIGHBOURS], buffer, saved, RTM_NEWNEIGH, NLM_F_CREATE | (!bridge ? NLM_F_REPLACE : m->ndm_flags & NTF_SELF ? NLM_F_APPEND : NLM_F_EXCL));
	const uint32_t master = bridge ? net_message_u32(saved, sizeof(*m), NDA_MASTER) : 0;

	if (comes_later(n, m->ndm_ifindex))
		return 0;
	if (h) {
		struct ndmsg *to = mnl_nlmsg_get_payload(h);
		to->ndm_flags &= NTF_SELF | NTF_MASTER | NTF_PROXY | NTF_ROUTER | NTF_STICKY;
		to->ndm_flags |= !master ? 0 : (int)master == m->ndm_ifindex ? NTF_SELF : NTF_MASTER;
	}
	int r = tell(h);
	return r && r != -EEXIST ? error_errno(n->s->e, r, "cannot make a neighbour of the network namespace again") : 0;
}

static int make_neighbours(struct net_restore *n, char *buffer)
{
	struct net_messages saved = {};
	int r = load(n, &ways[NEIGHBOURS], &saved);

	NET_MESSAGES_FOREACH(&saved, h)
		r = r ? r : add_neighbour(n, buffer, h);
	net_messages_free(&saved);
	return r;
}

int net_config_make(struct net_restore *n)
{
	_cleanup_free_ char *buffer = calloc(1, NET_MESSAGE_MAX);
	int r = buffer ? make_addresses(n, buffer) : error_set(n->s->e, -ENOMEM, "out of memory");

	if (!r)
		r = wait_for_addresses(n);
	if (!r)
		r = make_routes(n, buffer, &ways[ROUTES]);
	if (!r)
		r = make_routes(n, buffer, &ways[ROUTES6]);
	if (!r)
		r = make_rules(n, buffer);
	return r ? r : make_neighbours(n, buffer);
}
