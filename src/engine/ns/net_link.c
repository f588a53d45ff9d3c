/* See net_link.h. */
#include "engine/ns/net_link.h"

#include "base/pool.h"

#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

_Static_assert(sizeof(struct ifinfomsg) == NET_LINK_HEADER, "struct ifinfomsg has another size");

#define BIT(n) (1ULL << (n))
#define BITS(from, to) ((BIT((to) - (from) + 1) - 1) << (from))

/* Of a bridge the others are timers and what it has learned, and that it filters VLANs, which is refused. Its group address is another for those alone that have set it. */
#define BRIDGE_SETTABLE \
	(BITS(IFLA_BR_FORWARD_DELAY, IFLA_BR_PRIORITY) | BITS(IFLA_BR_VLAN_PROTOCOL, IFLA_BR_GROUP_FWD_MASK) | BITS(IFLA_BR_MCAST_ROUTER, IFLA_BR_MCAST_QUERIER) | BITS(IFLA_BR_MCAST_HASH_MAX, IFLA_BR_VLAN_DEFAULT_PVID) | \
	 BITS(IFLA_BR_VLAN_STATS_ENABLED, IFLA_BR_MULTI_BOOLOPT))

static const struct net_kind known[] = {
	{ "veth", ND_TYPE__VETH, false, BIT(63) },
	{ "bridge", ND_TYPE__BRIDGE, false, BRIDGE_SETTABLE },
	{ "tun", ND_TYPE__TUN, false, BIT(63) },
	{ "macvlan", ND_TYPE__MACVLAN, true, BIT(IFLA_MACVLAN_MODE) | BIT(IFLA_MACVLAN_FLAGS) | BIT(IFLA_MACVLAN_BC_QUEUE_LEN) },
	{ "ipvlan", ND_TYPE__FERMATA_LINK, true, 0 },
	{ "vlan", ND_TYPE__FERMATA_LINK, true, 0 },
	{ "dummy", ND_TYPE__FERMATA_LINK, false, 0 },
	{ "ifb", ND_TYPE__FERMATA_LINK, false, 0 },
	{ "vxlan", ND_TYPE__FERMATA_LINK, false, 0 },
	{ "ipip", ND_TYPE__FERMATA_LINK, false, 0 },
	{ "sit", ND_TYPE__SIT, false, 0 },
	{ "gre", ND_TYPE__FERMATA_LINK, false, 0 },
	{ "gretap", ND_TYPE__FERMATA_LINK, false, 0 },
	{ "ip6tnl", ND_TYPE__FERMATA_LINK, false, 0 },
	{ "ip6gre", ND_TYPE__FERMATA_LINK, false, 0 },
	{ "ip6gretap", ND_TYPE__FERMATA_LINK, false, 0 },
	{ "vrf", ND_TYPE__FERMATA_LINK, false, 0 },
};

const struct net_kind *net_kind_find(const char *name)
{
	for (size_t i = 0; i < ARRAY_SIZE(known); i++)
		if (!strcmp(known[i].name, name))
			return &known[i];
	return NULL;
}

bool net_link_is_settable(const struct net_kind *kind, uint16_t attribute)
{
	return !kind->settable || (attribute < 63 && kind->settable & BIT(attribute));
}

/* A text that ends within its attribute; or NULL. */
static const char *text_of(const struct nlattr *a)
{
	return mnl_attr_validate(a, MNL_TYPE_NUL_STRING) < 0 ? NULL : mnl_attr_get_str(a);
}

static bool take_info(const struct nlattr *info, struct net_link *l)
{
	const struct nlattr *a;

	if (!net_attribute_is_nest(info))
		return false;
	mnl_attr_for_each_nested(a, info) {
		switch (mnl_attr_get_type(a)) {
		case IFLA_INFO_KIND: l->kind = text_of(a); break;
		case IFLA_INFO_SLAVE_KIND: l->slave_kind = text_of(a); break;
		case IFLA_INFO_DATA: l->data = a; break;
		case IFLA_INFO_SLAVE_DATA: l->slave_data = a; break;
		}
	}
	return l->kind && l->slave_kind && (!l->data || net_attribute_is_nest(l->data)) && (!l->slave_data || net_attribute_is_nest(l->slave_data));
}

bool net_link_parse(const struct nlmsghdr *h, struct net_link *ret)
{
	const struct ifinfomsg *m = mnl_nlmsg_get_payload(h);
	const struct nlattr *name = net_message_find(h, sizeof(*m), IFLA_IFNAME), *info = net_message_find(h, sizeof(*m), IFLA_LINKINFO),
			    *nsid = net_message_find(h, sizeof(*m), IFLA_LINK_NETNSID);

	*ret = (struct net_link){ .h = h, .index = m->ifi_index, .flags = m->ifi_flags, .kind = "", .slave_kind = "" };
	ret->mtu = net_message_u32(h, sizeof(*m), IFLA_MTU);
	ret->below = net_message_u32(h, sizeof(*m), IFLA_LINK);
	ret->master = net_message_u32(h, sizeof(*m), IFLA_MASTER);
	ret->has_nsid = nsid != NULL;
	ret->nsid = (int32_t)net_message_u32(h, sizeof(*m), IFLA_LINK_NETNSID);
	ret->name = name ? text_of(name) : NULL;
	return ret->name && ret->name[0] && strlen(ret->name) < IF_NAMESIZE && ret->index > 0 && (!info || take_info(info, ret));
}

int net_links_ask(struct net_messages *ret)
{
	const struct ifinfomsg header = {};

	return net_messages_ask(ret, RTM_GETLINK, &header, sizeof(header), NULL, NULL);
}

static const uint16_t kept[] = { IFLA_IFNAME, IFLA_ADDRESS, IFLA_BROADCAST, IFLA_MTU, IFLA_LINK, IFLA_MASTER, IFLA_TXQLEN, IFLA_LINKINFO, IFLA_LINK_NETNSID, IFLA_IFALIAS,
				 IFLA_GROUP, IFLA_NUM_TX_QUEUES, IFLA_NUM_RX_QUEUES, IFLA_GSO_MAX_SIZE, IFLA_GSO_MAX_SEGS, IFLA_AF_SPEC, IFLA_PROP_LIST };

struct nlmsghdr *net_link_trim(struct pool *pool, const struct nlmsghdr *h)
{
	_cleanup_free_ char *buffer = calloc(1, NET_MESSAGE_MAX);
	struct nlmsghdr *to = buffer ? net_message_begin(buffer, h, RTM_NEWLINK, 0, sizeof(struct ifinfomsg)) : NULL;

	if (!to || !net_message_copy(to, h, sizeof(struct ifinfomsg), kept, ARRAY_SIZE(kept)))
		return NULL;
	return pool_copy(pool, to, MNL_ALIGN(to->nlmsg_len));
}
