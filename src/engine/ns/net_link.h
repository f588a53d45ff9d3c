/*
 * Network devices of a namespace, as rtnetlink(7) shows them: what of a device is kept (struct ifinfomsg and attributes, in net_device_entry.link),
 * which kinds there are, and how one is made again.
 */
#pragma once

#include "engine/ns/net_messages.h"
#include "netdev.pb-c.h"

struct pool;

#define NET_LINK_HEADER 16 /* struct ifinfomsg */

/* A kind of device by the name that the kernel has for it. */
struct net_kind {
	const char *name;
	NdType type;
	bool below; /* it stands on another device (IFLA_LINK), which may be outside */
	uint64_t settable; /* attributes of its IFLA_INFO_DATA that may be set, as bits; 0: all */
};
const struct net_kind *net_kind_find(const char *name);

/* A message that was kept, taken apart. What it points to is the message's. */
struct net_link {
	const struct nlmsghdr *h;
	int index;
	unsigned int flags;
	const char *name, *kind, *slave_kind; /* kind: "" for hardware and lo */
	const struct nlattr *data, *slave_data; /* or NULL */
	uint32_t mtu, below, master;
	bool has_nsid;
	int32_t nsid; /* of the namespace where `below` is */
};
/* False: it is damaged. */
bool net_link_parse(const struct nlmsghdr *h, struct net_link *ret);

#define NET_LINK_FLAGS (IFF_UP | IFF_NOARP | IFF_MULTICAST | IFF_ALLMULTI | IFF_PROMISC | IFF_DYNAMIC)

/* Those of the namespace of the calling thread. */
int net_links_ask(struct net_messages *ret);
/* What of it is kept: as it goes into an image. NULL when memory is short. */
struct nlmsghdr *net_link_trim(struct pool *pool, const struct nlmsghdr *h);
/* Whether an attribute of IFLA_INFO_DATA is to be set. */
bool net_link_is_settable(const struct net_kind *kind, uint16_t attribute);
