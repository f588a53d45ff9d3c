/*
 * Entries of connection tracking (ctnetlink), into conntrack-ID.img, as messages: rules that let pass what belongs to a known connection go on to do so.
 * The windows of TCP begin anew with the next packet.
 *
 * Left out, with a warning: entries whose addresses are translated, which the kernel takes only together with how they came about; expectations.
 */
#include "engine/ns/net.h"

#include "base/log.h"
#include "engine/kinds/netlink_ask.h"
#include "proc/sysctl.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <linux/netfilter/nf_conntrack_common.h>
#include <linux/netfilter/nf_conntrack_tcp.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>

#define HEADER sizeof(struct nfgenmsg)
#define NEW (NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_NEW)

static const uint16_t known[] = { CTA_TUPLE_ORIG, CTA_TUPLE_REPLY, CTA_STATUS, CTA_TIMEOUT, CTA_MARK, CTA_ZONE, CTA_LABELS };

/* ---- dump ---- */

struct view {
	struct net_messages kept;
	size_t translated;
	bool failed;
};

static int take(const struct nlmsghdr *h, void *data)
{
	struct view *v = data;

	if (ntohl(net_message_u32(h, HEADER, CTA_STATUS)) & IPS_NAT_MASK)
		v->translated++;
	else
		v->failed |= !net_messages_add(&v->kept, h);
	return MNL_CB_OK;
}

/* Who only asks would load what tracks connections. */
static bool has_entries(void)
{
	_cleanup_close_ int proc = sysctl_proc(), fd = proc < 0 ? -1 : openat(proc, "sys/net/netfilter/nf_conntrack_count", O_RDONLY | O_CLOEXEC);
	char text[32] = "";

	return fd >= 0 && read(fd, text, sizeof(text) - 1) > 0 && atol(text) > 0;
}

int net_tracking_capture(struct net_dump *n)
{
	const struct net_name name = net_image_name("conntrack", n->id);
	char buffer[128] = {};
	struct nlmsghdr *h = mnl_nlmsg_put_header(buffer);
	struct view v = {};

	if (!has_entries())
		return 0;
	h->nlmsg_type = NFNL_SUBSYS_CTNETLINK << 8 | IPCTNL_MSG_CT_GET;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	mnl_nlmsg_put_extra_header(h, HEADER);
	int r = netlink_ask(NETLINK_NETFILTER, h, take, &v);
	if (r || v.failed)
		r = error_errno(n->d->e, r ? r : -ENOMEM, "cannot list what connection tracking has in its network namespace");
	if (!r)
		r = net_messages_write(n->d, name.text, NET_MAGIC_TRACKING, &v.kept);
	if (v.translated)
		log_warning("Connection tracking has %zu entries with translated addresses in the network namespace, which are not saved: they begin anew", v.translated);
	net_messages_free(&v.kept);
	return r;
}

/* ---- restore ---- */

/* Of flags only those count whose bit is in the mask, which is not told. */
static bool put_tcp(struct nlmsghdr *h, const struct nlattr *tcp)
{
	struct nlattr *nest = mnl_attr_nest_start_check(h, NET_MESSAGE_MAX, CTA_PROTOINFO_TCP);
	const struct nlattr *a;
	bool room = nest;

	if (room)
		mnl_attr_for_each_nested(a, tcp) {
			struct nf_ct_tcp_flags flags;
			const uint16_t type = mnl_attr_get_type(a);
			const bool is_flags = (type == CTA_PROTOINFO_TCP_FLAGS_ORIGINAL || type == CTA_PROTOINFO_TCP_FLAGS_REPLY) && mnl_attr_get_payload_len(a) == sizeof(flags);
			if (is_flags) {
				memcpy(&flags, mnl_attr_get_payload(a), sizeof(flags));
				flags.mask = 0xff;
			}
			room = room && mnl_attr_put_check(h, NET_MESSAGE_MAX, type, mnl_attr_get_payload_len(a), is_flags ? &flags : mnl_attr_get_payload(a));
		}
	if (nest)
		mnl_attr_nest_end(h, nest);
	return room;
}

static bool put_state(struct nlmsghdr *h, const struct nlmsghdr *saved)
{
	const struct nlattr *info = net_message_find(saved, HEADER, CTA_PROTOINFO), *a;
	bool room = true;

	if (!info || !net_attribute_is_nest(info))
		return !info;
	struct nlattr *nest = mnl_attr_nest_start_check(h, NET_MESSAGE_MAX, CTA_PROTOINFO);
	if (!nest)
		return false;
	mnl_attr_for_each_nested(a, info)
		if (mnl_attr_get_type(a) == CTA_PROTOINFO_TCP)
			room = room && net_attribute_is_nest(a) && put_tcp(h, a);
	mnl_attr_nest_end(h, nest);
	return room;
}

int net_tracking_make(struct net_restore *n)
{
	const struct net_name name = net_image_name("conntrack", n->id);
	_cleanup_free_ char *buffer = calloc(1, NET_MESSAGE_MAX);
	struct net_messages saved = {};
	size_t lost = 0;
	int r = buffer ? net_messages_read(n->s, name.text, NET_MAGIC_TRACKING, NEW, HEADER, &saved) : error_set(n->s->e, -ENOMEM, "out of memory"), why = 0;

	NET_MESSAGES_FOREACH(&saved, from) {
		struct nlmsghdr *h = net_message_begin(buffer, from, NEW, NLM_F_CREATE | NLM_F_EXCL, HEADER);
		if (!r && (!net_message_copy(h, from, HEADER, known, ARRAY_SIZE(known)) || !put_state(h, from)))
			r = error_set(n->s->e, -EBADMSG, "%s is damaged", name.text);
		int made = r ? 0 : netlink_ask(NETLINK_NETFILTER, h, NULL, NULL);
		if (made && made != -EEXIST) {
			lost++;
			why = made;
		}
	}
	if (lost)
		log_warning("Connection tracking does not take %zu entries of the network namespace again (%s): they begin anew", lost, strerror(-why));
	net_messages_free(&saved);
	return r;
}
