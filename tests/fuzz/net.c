/* Images of a network namespace: the first byte says which. Messages of rtnetlink(7) are taken apart and put together again, as for the kernel; of rules only whether they are such. */
#include "fuzz.h"

#include "engine/ns/net.h"

#include <linux/fib_rules.h>
#include <linux/if_addr.h>
#include <linux/neighbour.h>
#include <linux/rtnetlink.h>

static const struct {
	uint32_t magic;
	uint16_t type;
	size_t header;
} kinds[] = {
	{ NET_MAGIC_ADDRESSES, RTM_NEWADDR, sizeof(struct ifaddrmsg) },
	{ NET_MAGIC_ROUTES, RTM_NEWROUTE, sizeof(struct rtmsg) },
	{ NET_MAGIC_RULES, RTM_NEWRULE, sizeof(struct fib_rule_hdr) },
	{ NET_MAGIC_NEIGHBOURS, RTM_NEWNEIGH, sizeof(struct ndmsg) },
	{ 0, RTM_NEWLINK, sizeof(struct ifinfomsg) },
};

static void look_at_link(const struct nlmsghdr *h)
{
	struct pool pool = {};
	struct net_link link;

	if (net_link_parse(h, &link)) {
		const struct net_kind *kind = net_kind_find(link.kind);
		const struct nlattr *a;
		if (kind && link.data)
			mnl_attr_for_each_nested(a, link.data)
				net_link_is_settable(kind, mnl_attr_get_type(a));
		net_link_trim(&pool, h);
	}
	pool_free(&pool);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const uint16_t known[] = { 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 18, 26 };
	const size_t kind = size ? data[0] % (ARRAY_SIZE(kinds) + 1) : 0;
	struct net_messages m = {};

	if (!size)
		return 0;
	if (kind == ARRAY_SIZE(kinds)) {
		char *text = strndup((const char *)data + 1, size - 1);
		net_rules_are_tables(text);
		free(text);
		return 0;
	}
	if (!net_messages_parse(data + 1, size - 1, kinds[kind].magic, kinds[kind].type, kinds[kind].header, &m)) {
		char *buffer = malloc(NET_MESSAGE_MAX);
		NET_MESSAGES_FOREACH(&m, h) {
			struct nlmsghdr *to = net_message_begin(buffer, h, h->nlmsg_type, 0, kinds[kind].header);
			if (net_message_copy(to, h, kinds[kind].header, known, ARRAY_SIZE(known)) && to->nlmsg_len > NET_MESSAGE_MAX)
				abort();
			net_message_u32(h, kinds[kind].header, 3);
			if (!kinds[kind].magic)
				look_at_link(h);
		}
		free(buffer);
	}
	net_messages_free(&m);
	return 0;
}
