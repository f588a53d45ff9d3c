/*
 * A network namespace, taken apart into images and made again: what the parts of that (net_*.c) share. The calling thread is in the namespace that is
 * saved, or made, but for moments.
 */
#pragma once

#include "base/pool.h"
#include "engine/dump.h"
#include "engine/ns/net_link.h"
#include "engine/restore.h"

/* iproute2's marks of what `ip addr save`, `ip route save` and `ip rule save` write. */
#define NET_MAGIC_ADDRESSES 0x47361222u
#define NET_MAGIC_ROUTES 0x45311224u
#define NET_MAGIC_RULES 0x71706986u
#define NET_MAGIC_NEIGHBOURS 0x46524d4eu /* ours, as the next */
#define NET_MAGIC_TRACKING 0x46524d54u

struct net_dump {
	struct dump *d;
	uint32_t id; /* of the images */
	int inside, outside; /* namespaces: the tree's, and the one that we are of */
	struct pool pool; /* of the messages */
	VEC(NetDeviceEntry *) devices;
};

struct net_restore {
	struct restore *s;
	uint32_t id;
	int inside, outside;
	VEC(NetDeviceEntry *) devices;
	NetnsEntry *entry;
	struct nft *hold;
};

struct net_name {
	char text[48];
};
struct net_name net_image_name(const char *kind, uint32_t id); /* "KIND-ID.img" */

/* Makes a namespace the calling thread's. */
int net_enter(int fd, struct error *e);

/* net_devices.c, net_devices_make.c: netdev-ID.img */
int net_devices_capture(struct net_dump *n);
int net_devices_load(struct net_restore *n);
int net_devices_make(struct net_restore *n);	/* all that is below addresses; those that are to be up are */
int net_devices_finish(struct net_restore *n);	/* behind the addresses: what would have brought more of them; compares with what was saved */
/* The entry with this index; NULL: none. */
const NetDeviceEntry *net_device_find(const struct net_restore *n, int index);
/* It comes with a descriptor of the tree, which sets it up itself (kinds/tun.c). */
bool net_device_is_descriptors(const struct restore *s, const NetDeviceEntry *e);

/* net_config.c: addresses, routes, rules, neighbours */
int net_config_capture(struct net_dump *n);
int net_config_make(struct net_restore *n);

/* net_settings.c: /proc/sys/net */
int net_settings_capture(struct net_dump *n, NetnsEntry *e);
int net_settings_prepare(struct net_restore *n); /* before there are devices */
/* Before addresses; behind them, what net_settings_prepare has changed; and of devices that come with descriptors, when these are there. */
enum net_settings { NET_SETTINGS_FIRST, NET_SETTINGS_LAST, NET_SETTINGS_DESCRIPTORS };
int net_settings_make(struct net_restore *n, const NetnsEntry *e, enum net_settings which);

/* net_rules.c: nftables-ID.img */
int net_rules_capture(struct net_dump *n);
int net_rules_make(struct net_restore *n);
bool net_rules_are_tables(const char *text); /* what it is to be read as, and no other command of nft(8) */

/* net_tracking.c: conntrack-ID.img */
int net_tracking_capture(struct net_dump *n);
int net_tracking_make(struct net_restore *n);

/* net_hold.c: nothing comes in or goes out while the namespace is made, or whoever has a connection to it would be told that there is none. */
struct nft;
int net_hold(struct net_restore *n); /* until nft_free of n->hold, or the end of the process */

/* net_refuse.c: what a namespace may have and that is not saved */
int net_refuse(struct net_dump *n);
