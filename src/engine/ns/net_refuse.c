/*
 * What a network namespace may have that is not saved, and would be lost in silence: traffic control, nexthop objects, IPsec, sets of ipset,
 * IPVS. Each is asked for, and refused by name.
 *
 * Not seen: BPF programs that are attached to the namespace itself (flow dissector, socket lookup).
 */
#include "engine/ns/net.h"

#include "engine/kinds/netlink_ask.h"
#include "proc/sysctl.h"

#include <fcntl.h>
#include <linux/netfilter/ipset/ip_set.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/nexthop.h>
#include <linux/pkt_sched.h>
#include <linux/rtnetlink.h>
#include <linux/xfrm.h>
#include <net/if.h>

static bool has_handle(const struct nlmsghdr *h, void *data)
{
	const struct tcmsg *m = mnl_nlmsg_get_payload(h);

	return m->tcm_handle != 0; /* those that a device comes with have none */
}

static int refuse_queueing(struct net_dump *n)
{
	const struct tcmsg any = {};
	struct net_messages m = {};
	int r = net_messages_ask(&m, RTM_GETQDISC, &any, sizeof(any), has_handle, NULL);
	const struct nlmsghdr *h = r ? NULL : net_messages_next(&m, NULL);

	if (r)
		r = error_errno(n->d->e, r, "cannot look for traffic control in its network namespace");
	if (h) {
		const struct nlattr *kind = net_message_find(h, sizeof(any), TCA_KIND);
		char name[IF_NAMESIZE] = "?";
		if_indextoname((unsigned int)((const struct tcmsg *)mnl_nlmsg_get_payload(h))->tcm_ifindex, name);
		r = error_set(n->d->e, -ENOTSUP, "its network device %s has a queueing discipline (%s), which is not saved; remove it first (tc qdisc del)", name,
			      kind ? mnl_attr_get_str(kind) : "?");
	}
	net_messages_free(&m);
	return r;
}

static int refuse_nexthops(struct net_dump *n)
{
	const struct nhmsg any = {};
	struct net_messages m = {};
	int r = net_messages_ask(&m, RTM_GETNEXTHOP, &any, sizeof(any), NULL, NULL);
	const bool there = !r && m.bytes.count;

	net_messages_free(&m);
	return there ? error_set(n->d->e, -ENOTSUP, "its network namespace has nexthop objects, which are not saved; write what they say into the routes themselves") : 0;
}

static int note(const struct nlmsghdr *h, void *data)
{
	*(bool *)data = true;
	return MNL_CB_OK;
}

/* Whether any is answered to a question of another netlink; one that the kernel does not know is answered with none. */
static bool has_any(int protocol, uint16_t type, size_t header, uint16_t attribute, uint8_t value)
{
	char buffer[256] = {};
	struct nlmsghdr *h = mnl_nlmsg_put_header(buffer);
	bool any = false;

	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	if (header)
		mnl_nlmsg_put_extra_header(h, header);
	if (attribute)
		mnl_attr_put_u8(h, attribute, value);
	return netlink_ask(protocol, h, note, &any) == 0 && any;
}

static bool has_virtual_servers(void)
{
	_cleanup_close_ int proc = sysctl_proc(), fd = proc < 0 ? -1 : openat(proc, "self/net/ip_vs", O_RDONLY | O_CLOEXEC);
	char text[4096] = "";
	int lines = 0;

	if (fd < 0 || read(fd, text, sizeof(text) - 1) <= 0)
		return false;
	for (const char *p = text; *p; p++)
		lines += *p == '\n';
	return lines > 3; /* its heading */
}

int net_refuse(struct net_dump *n)
{
	int r = refuse_queueing(n);

	if (!r)
		r = refuse_nexthops(n);
	if (!r && (has_any(NETLINK_XFRM, XFRM_MSG_GETSA, 0, 0, 0) || has_any(NETLINK_XFRM, XFRM_MSG_GETPOLICY, 0, 0, 0)))
		r = error_set(n->d->e, -ENOTSUP, "its network namespace has states or policies of IPsec, which are not saved; remove them first (ip xfrm)");
	if (!r && has_any(NETLINK_NETFILTER, NFNL_SUBSYS_IPSET << 8 | IPSET_CMD_LIST, sizeof(struct nfgenmsg), IPSET_ATTR_PROTOCOL, IPSET_PROTOCOL))
		r = error_set(n->d->e, -ENOTSUP, "its network namespace has sets of ipset, which are not saved; remove them first (ipset destroy), or use sets of nftables");
	if (!r && has_virtual_servers())
		r = error_set(n->d->e, -ENOTSUP, "its network namespace has virtual servers (IPVS), which are not saved; remove them first (ipvsadm -C)");
	return r;
}
