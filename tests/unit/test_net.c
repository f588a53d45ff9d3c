/* Images of network namespaces: messages of rtnetlink(7) as images hold them, whole and damaged; devices taken apart; what rules may be. */
#include "engine/ns/net.h"

#include <linux/if_addr.h>
#include <linux/if_link.h>
#include <linux/rtnetlink.h>
#include <net/if.h>

static int failures;

static void check(const char *name, bool good)
{
	printf(good ? "ok %s\n" : "not ok %s: see tests/unit/test_net.c\n", name);
	failures += !good;
}

/* Two addresses behind a magic; its size. */
static size_t make_image(char *to)
{
	const uint32_t magic = NET_MAGIC_ADDRESSES;
	size_t size = sizeof(magic);

	memcpy(to, &magic, sizeof(magic));
	for (uint32_t i = 1; i <= 2; i++) {
		char buffer[256] = {};
		struct nlmsghdr *h = mnl_nlmsg_put_header(buffer);
		h->nlmsg_type = RTM_NEWADDR;
		((struct ifaddrmsg *)mnl_nlmsg_put_extra_header(h, sizeof(struct ifaddrmsg)))->ifa_index = i;
		mnl_attr_put_u32(h, IFA_LOCAL, 0x0100007f);
		mnl_attr_put_strz(h, IFA_LABEL, "lo:1");
		memcpy(to + size, h, h->nlmsg_len);
		size += h->nlmsg_len;
	}
	return size;
}

static int parse(const char *image, size_t size, struct net_messages *m)
{
	net_messages_free(m);
	return net_messages_parse(image, size, NET_MAGIC_ADDRESSES, RTM_NEWADDR, sizeof(struct ifaddrmsg), m);
}

static void test_messages(void)
{
	char image[1024], spoilt[1024];
	const size_t size = make_image(image);
	struct net_messages m = {};
	unsigned int count = 0;
	bool whole = parse(image, size, &m) == 0, refused = true;

	NET_MESSAGES_FOREACH(&m, h)
		whole = whole && ((const struct ifaddrmsg *)mnl_nlmsg_get_payload(h))->ifa_index == ++count && net_message_u32(h, sizeof(struct ifaddrmsg), IFA_LOCAL) == 0x0100007f &&
			!net_message_find(h, sizeof(struct ifaddrmsg), IFA_BROADCAST);
	check("net_messages_whole", whole && count == 2);
	for (size_t cut = 1; cut < size; cut++)
		refused = refused && (cut == sizeof(uint32_t) || cut == sizeof(uint32_t) + (size - sizeof(uint32_t)) / 2 || parse(image, cut, &m) == -EBADMSG) && (parse(image, cut, &m) == 0 || !m.bytes.count);
	check("net_messages_cut", refused);
	/* Whatever a byte is, nobody goes astray: what is taken can be gone through. */
	for (size_t i = 0; i < size; i++)
		for (int value = 0; value < 256; value++) {
			memcpy(spoilt, image, size);
			spoilt[i] = (char)value;
			size_t seen = 0;
			if (parse(spoilt, size, &m) == 0)
				NET_MESSAGES_FOREACH(&m, h)
					seen += MNL_ALIGN(h->nlmsg_len);
			refused = refused && seen == m.bytes.count;
		}
	check("net_messages_spoilt", refused);
	net_messages_free(&m);
}

static void test_copy(void)
{
	static const uint16_t known[] = { IFA_LOCAL };
	static char buffer[NET_MESSAGE_MAX];
	char image[1024];
	struct net_messages m = {};

	parse(image, make_image(image), &m);
	const struct nlmsghdr *h = net_messages_next(&m, NULL);
	struct nlmsghdr *to = net_message_begin(buffer, h, RTM_DELADDR, NLM_F_CREATE, sizeof(struct ifaddrmsg));
	check("net_message_copy", net_message_copy(to, h, sizeof(struct ifaddrmsg), known, 1) && net_message_find(to, sizeof(struct ifaddrmsg), IFA_LOCAL) &&
					  !net_message_find(to, sizeof(struct ifaddrmsg), IFA_LABEL) && to->nlmsg_type == RTM_DELADDR && to->nlmsg_flags & NLM_F_ACK);
	to->nlmsg_len = NET_MESSAGE_MAX - 4;
	check("net_message_copy_full", !net_message_copy(to, h, sizeof(struct ifaddrmsg), known, 1));
	net_messages_free(&m);
}

static struct nlmsghdr *make_link(char *buffer, const char *name, const char *kind)
{
	struct nlmsghdr *h = mnl_nlmsg_put_header(buffer);

	h->nlmsg_type = RTM_NEWLINK;
	((struct ifinfomsg *)mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg)))->ifi_index = 7;
	mnl_attr_put_strz(h, IFLA_IFNAME, name);
	mnl_attr_put_u32(h, IFLA_MTU, 1400);
	mnl_attr_put_u32(h, IFLA_LINK, 3);
	mnl_attr_put_u32(h, IFLA_LINK_NETNSID, 2);
	mnl_attr_put_u32(h, IFLA_PROMISCUITY, 1);
	struct nlattr *info = mnl_attr_nest_start(h, IFLA_LINKINFO);
	mnl_attr_put_strz(h, IFLA_INFO_KIND, kind);
	struct nlattr *data = mnl_attr_nest_start(h, IFLA_INFO_DATA);
	mnl_attr_put_u32(h, IFLA_MACVLAN_MODE, 4);
	mnl_attr_nest_end(h, data);
	mnl_attr_nest_end(h, info);
	return h;
}

static void test_link(void)
{
	char buffer[1024] = {};
	struct nlmsghdr *h = make_link(buffer, "mv0", "macvlan");
	struct pool pool = {};
	struct net_link l;

	bool good = net_link_parse(h, &l) && l.index == 7 && !strcmp(l.name, "mv0") && !strcmp(l.kind, "macvlan") && l.mtu == 1400 && l.below == 3 && l.has_nsid && l.nsid == 2 && l.data;
	check("net_link_parse", good);
	const struct net_kind *kind = net_kind_find(l.kind);
	check("net_kind", kind && kind->below && net_link_is_settable(kind, IFLA_MACVLAN_MODE) && !net_link_is_settable(kind, IFLA_MACVLAN_MACADDR_COUNT) && !net_kind_find("wireguard"));
	struct nlmsghdr *kept = net_link_trim(&pool, h);
	check("net_link_trim", kept && net_link_parse(kept, &l) && !strcmp(l.kind, "macvlan") && net_message_find(kept, NET_LINK_HEADER, IFLA_MTU) &&
				       !net_message_find(kept, NET_LINK_HEADER, IFLA_PROMISCUITY));
	pool_free(&pool);
	check("net_link_name", !net_link_parse(make_link(buffer, "a name that is longer", "veth"), &l) && !net_link_parse(make_link(buffer, "", "veth"), &l));
	h = make_link(buffer, "mv0", "macvlan");
	((struct ifinfomsg *)mnl_nlmsg_get_payload(h))->ifi_index = 0;
	check("net_link_number", !net_link_parse(h, &l));
}

static void test_rules(void)
{
	static const char *const good[] = { "", "table inet t {\n\tchain c {\n\t\ttcp dport 22 accept comment \"include \"\n\t}\n}\ntable ip u {\n}\n", "# Warning: \" table is managed\ntable ip x { }\n",
					    "table ip x { chain include_more { } }\n" };
	static const char *const bad[] = { "include \"/etc/passwd\"\n", "table ip x {\n\tinclude \"/etc/passwd\"\n}\n", "monitor\n", "table ip x { }; monitor\n", "table ip x { } list ruleset\n",
					   "\"table\" ip x\n", "table ip x {\n", "table ip x { comment \"open\n", "flush ruleset\n", "$x\n", "table ip x { } }\n" };
	bool right = true;

	for (size_t i = 0; i < ARRAY_SIZE(good); i++)
		right = right && net_rules_are_tables(good[i]);
	check("net_rules_tables", right);
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++)
		right = right && !net_rules_are_tables(bad[i]);
	check("net_rules_others", right);
}

int main(void)
{
	test_messages();
	test_copy();
	test_link();
	test_rules();
	return failures != 0;
}
