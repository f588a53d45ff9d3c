/*
 * Network devices of a namespace, into netdev-ID.img: of each its message of rtnetlink(7) beside the fields that others read, and of what it has
 * outside of the namespace (the other end of a veth, what a macvlan stands on) its name here, and how it is set up.
 *
 * Refused by name: hardware, kinds that are not known, XDP programs, devices whose other side is in a third namespace.
 */
#include "engine/ns/net.h"

#include "engine/kinds/external.h"
#include "engine/kinds/netdev.h"
#include "engine/kinds/netlink_ask.h"

#include <linux/if_bridge.h>
#include <linux/if_link.h>
#include <linux/if_tun.h>
#include <linux/net_namespace.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

/* Devices that come with a namespace where their module is loaded. */
static const char *const automatic[] = { "tunl0", "gre0", "gretap0", "erspan0", "sit0", "ip6tnl0", "ip6gre0", "ip_vti0", "ip6_vti0" };

static bool is_automatic(const struct net_link *l)
{
	for (size_t i = 0; i < ARRAY_SIZE(automatic); i++)
		if (!strcmp(l->name, automatic[i]))
			return true;
	return false;
}

#define REFUSED (-ENOTSUP)
#define refuse(n, l, format, ...) error_set((n)->d->e, REFUSED, "its network device %s " format, (l)->name, ##__VA_ARGS__)

static int take_nsid(const struct nlmsghdr *h, void *data)
{
	const struct nlattr *a = net_message_find(h, sizeof(struct rtgenmsg), NETNSA_NSID);

	if (a && mnl_attr_get_payload_len(a) >= sizeof(int32_t))
		memcpy(data, mnl_attr_get_payload(a), sizeof(int32_t));
	return MNL_CB_STOP;
}

/* The number that the namespace of the calling thread has for another one; -1: none. */
static int32_t nsid_of(int fd)
{
	char buffer[128] = {};
	struct nlmsghdr *h = mnl_nlmsg_put_header(buffer);
	int32_t id = -1;

	h->nlmsg_type = RTM_GETNSID;
	h->nlmsg_flags = NLM_F_REQUEST;
	mnl_nlmsg_put_extra_header(h, sizeof(struct rtgenmsg));
	mnl_attr_put_u32(h, NETNSA_FD, (uint32_t)fd);
	return netlink_ask(NETLINK_ROUTE, h, take_nsid, &id) ? -1 : id;
}

/* ---- what is outside ---- */

/* The device with this number out there, and how it is set up. */
static int look_outside(struct net_dump *n, const struct net_link *l, NetDeviceEntry *e)
{
	char name[IF_NAMESIZE];
	int r = net_enter(n->outside, n->d->e);

	if (r)
		return r;
	if (if_indextoname(l->below, name)) {
		e->outside = pool_copy(&n->pool, name, strlen(name) + 1);
		if (e->type == ND_TYPE__VETH && e->outside) {
			TunLinkEntry *none = pool_take(&n->pool, sizeof(*none));
			e->outside_device = pool_take(&n->pool, sizeof(*e->outside_device));
			if (none && e->outside_device) {
				tun_link_entry__init(none);
				tun_device_entry__init(e->outside_device);
				e->outside_device->tun = none;
				r = netdev_capture(name, &n->pool, e->outside_device, n->d->e);
			}
		}
		if (!r && (!e->outside || (e->type == ND_TYPE__VETH && (!e->outside_device || !e->outside_device->tun))))
			r = error_set(n->d->e, -ENOMEM, "out of memory");
	}
	int back = net_enter(n->inside, n->d->e);
	return r ? r : back;
}

static int find_outside(struct net_dump *n, const struct net_link *l, const struct net_kind *kind, NetDeviceEntry *e)
{
	const struct request *request = n->d->request;

	if (external_named(request, kind->name, l->name))
		return 0;
	if (l->nsid < 0 || l->nsid != nsid_of(n->outside))
		return refuse(n, l, "belongs to one in another network namespace than that of who dumps; name it with --external %s[%s], for the dump and for the restore",
			      kind->name, l->name);
	int r = look_outside(n, l, e);
	return r ? r : e->outside ? 0 : refuse(n, l, "has its other side outside, which is gone");
}

/* ---- one device ---- */

static bool bridge_filters(const struct net_link *l)
{
	const struct nlattr *a;

	if (l->data)
		mnl_attr_for_each_nested(a, l->data)
			if (mnl_attr_get_type(a) == IFLA_BR_VLAN_FILTERING && mnl_attr_get_payload_len(a) && *(const uint8_t *)mnl_attr_get_payload(a))
				return true;
	return false;
}

static bool comes_with_descriptor(const struct dump *d, int index)
{
	VEC_FOREACH(&d->tuns, x)
		if ((int)*x == index)
			return true;
	return false;
}

static bool has_xdp(const struct nlmsghdr *h)
{
	const struct nlattr *xdp = net_message_find(h, NET_LINK_HEADER, IFLA_XDP), *a;

	if (xdp)
		mnl_attr_for_each_nested(a, xdp)
			if (mnl_attr_get_type(a) == IFLA_XDP_ATTACHED && mnl_attr_get_payload_len(a) && *(const uint8_t *)mnl_attr_get_payload(a))
				return true;
	return false;
}

/* Fields that crit and others show. */
static void fill_published(struct net_dump *n, const struct net_link *l, NetDeviceEntry *e)
{
	const struct nlattr *address = net_message_find(l->h, NET_LINK_HEADER, IFLA_ADDRESS), *a;

	e->ifindex = (uint32_t)l->index;
	e->mtu = l->mtu;
	e->flags = l->flags;
	e->name = pool_copy(&n->pool, l->name, strlen(l->name) + 1);
	if (address) {
		e->has_address = 1;
		e->address = (ProtobufCBinaryData){ mnl_attr_get_payload_len(address), pool_copy(&n->pool, mnl_attr_get_payload(address), mnl_attr_get_payload_len(address)) };
	}
	e->has_master = l->master != 0;
	e->master = l->master;
	if (e->type == ND_TYPE__VETH) {
		e->has_peer_ifindex = 1;
		e->peer_ifindex = l->below;
		e->has_peer_nsid = l->has_nsid && l->nsid >= 0;
		e->peer_nsid = (uint32_t)l->nsid;
	}
	if (e->type == ND_TYPE__MACVLAN && l->data && (e->macvlan = pool_take(&n->pool, sizeof(*e->macvlan)))) {
		macvlan_link_entry__init(e->macvlan);
		mnl_attr_for_each_nested(a, l->data) {
			if (mnl_attr_get_type(a) == IFLA_MACVLAN_MODE && mnl_attr_get_payload_len(a) >= 4)
				e->macvlan->mode = mnl_attr_get_u32(a);
			if (mnl_attr_get_type(a) == IFLA_MACVLAN_FLAGS && mnl_attr_get_payload_len(a) >= 2) {
				e->macvlan->has_flags = 1;
				e->macvlan->flags = mnl_attr_get_u16(a);
			}
		}
	}
}

static int capture_device(struct net_dump *n, const struct net_link *l, const struct net_kind *kind)
{
	NetDeviceEntry *e = pool_take(&n->pool, sizeof(*e)), **slot = e ? VEC_PUSH(&n->devices) : NULL;
	struct nlmsghdr *kept = net_link_trim(&n->pool, l->h);

	if (!slot || !kept)
		return error_set(n->d->e, -ENOMEM, "out of memory");
	net_device_entry__init(e);
	*slot = e;
	e->type = kind ? kind->type : ND_TYPE__LOOPBACK;
	fill_published(n, l, e);
	e->has_link = 1;
	e->link = (ProtobufCBinaryData){ kept->nlmsg_len - MNL_NLMSG_HDRLEN, mnl_nlmsg_get_payload(kept) };
	if (!e->name)
		return error_set(n->d->e, -ENOMEM, "out of memory");
	return kind && l->has_nsid && (kind->below || kind->type == ND_TYPE__VETH) ? find_outside(n, l, kind, e) : 0;
}

static int examine_device(struct net_dump *n, const struct nlmsghdr *h)
{
	struct net_link l;

	if (!net_link_parse(h, &l))
		return error_set(n->d->e, -EBADMSG, "the kernel describes a network device of its in a way that is not understood");
	const struct net_kind *kind = net_kind_find(l.kind);
	if (l.flags & IFF_LOOPBACK)
		return capture_device(n, &l, NULL);
	if (!l.kind[0])
		return refuse(n, &l, "is hardware, which is not saved; take it out of the namespace first, or keep the namespace outside (--external net[INODE]:NAME)");
	if (!kind)
		return refuse(n, &l, "is of the kind %.32s, which is not saved; remove it first, or keep the namespace outside (--external net[INODE]:NAME)", l.kind);
	if (is_automatic(&l))
		return l.flags & IFF_UP ? refuse(n, &l, "came with the namespace, is up, and is not saved; set it down first") : 0;
	if (has_xdp(h))
		return refuse(n, &l, "has an XDP program, which is not saved; detach it first");
	if (kind->type == ND_TYPE__TUN && !comes_with_descriptor(n->d, l.index))
		return refuse(n, &l, "is a TUN or TAP device that no process of the tree has open, which is not saved; keep the namespace outside (--external net[INODE]:NAME)");
	if (kind->type == ND_TYPE__BRIDGE && bridge_filters(&l))
		return refuse(n, &l, "is a bridge that filters VLANs, which is not saved; set vlan_filtering 0 first");
	return capture_device(n, &l, kind);
}

int net_devices_capture(struct net_dump *n)
{
	const struct net_name name = net_image_name("netdev", n->id);
	struct net_messages links = {};
	struct image_file *file;
	int r = net_links_ask(&links);

	r = r ? error_errno(n->d->e, r, "cannot list its network devices") : 0;
	NET_MESSAGES_FOREACH(&links, h)
		r = r ? r : examine_device(n, h);
	net_messages_free(&links);
	if (r)
		return r;
	r = image_create(n->d->dir, name.text, IMAGE_MAGIC_NETDEV, &file);
	if (!r) {
		VEC_FOREACH(&n->devices, e)
			r = r ? r : image_write_message(file, &(*e)->base);
		int closed = image_close(file);
		r = r ? r : closed;
	}
	return r ? error_errno(n->d->e, r, "cannot write %s", name.text) : 0;
}
