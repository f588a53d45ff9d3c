/* See netlink_ties.h. Sources: linux/audit.h, linux/netfilter/nf_tables.h, net/netfilter/nfnetlink_queue.c and nfnetlink_log.c (their files in /proc). */
#include "engine/kinds/netlink_ties.h"

#include "engine/kinds/netlink_ask.h"

#include <linux/audit.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>

#ifndef NFTA_TABLE_OWNER
#define NFTA_TABLE_OWNER 7
#endif

/* One request, all zero: of any family, version 0. */
static int ask(int protocol, uint16_t type, uint16_t flags, size_t extra, mnl_cb_t take, void *data)
{
	char buffer[MNL_ALIGN(sizeof(struct nlmsghdr)) + 64];
	struct nlmsghdr *h = mnl_nlmsg_put_header(buffer);

	h->nlmsg_type = type;
	h->nlmsg_flags = NLM_F_REQUEST | flags;
	mnl_nlmsg_put_extra_header(h, extra);
	return netlink_ask(protocol, h, take, data);
}

/* ---- the audit daemon ---- */

static int take_status(const struct nlmsghdr *h, void *data)
{
	const struct audit_status *status = mnl_nlmsg_get_payload(h);

	if (h->nlmsg_type != AUDIT_GET || mnl_nlmsg_get_payload_len(h) < offsetof(struct audit_status, rate_limit))
		return MNL_CB_OK;
	*(pid_t *)data = (pid_t)status->pid;
	return MNL_CB_STOP;
}

static int audit_ties(const struct dump *d, const char **what)
{
	pid_t daemon = 0;
	int r = ask(NETLINK_AUDIT, AUDIT_GET, 0, 0, take_status, &daemon);

	*what = "which the kernel sends its audit records to";
	for (size_t i = 0; !r && daemon && i < d->tasks.count; i++)
		if (d->tasks.data[i]->pid == daemon)
			return 1;
	return r;
}

/* ---- netfilter ---- */

/* Lines that begin with the number of a queue or group and the port of the socket that has it. */
static int is_listed(const char *path, uint32_t port)
{
	_cleanup_fclose_ FILE *file = fopen(path, "re");
	unsigned int number, owner;
	char line[256];

	if (!file)
		return errno == ENOENT ? 0 : -errno; /* the module is not there */
	while (fgets(line, sizeof(line), file))
		if (sscanf(line, "%u %u", &number, &owner) == 2 && owner == port)
			return 1;
	return 0;
}

struct owned {
	uint32_t port;
	bool found;
};

static int take_attribute(const struct nlattr *a, void *data)
{
	struct owned *x = data;

	if (mnl_attr_get_type(a) == NFTA_TABLE_OWNER && mnl_attr_validate(a, MNL_TYPE_U32) >= 0 && be32toh(mnl_attr_get_u32(a)) == x->port)
		x->found = true;
	return MNL_CB_OK;
}

static int take_table(const struct nlmsghdr *h, void *data)
{
	return mnl_attr_parse(h, sizeof(struct nfgenmsg), take_attribute, data);
}

static int netfilter_ties(uint32_t port, const char **what)
{
	struct owned owned = { .port = port };

	*what = "which has a queue of netfilter";
	int r = is_listed("/proc/self/net/netfilter/nfnetlink_queue", port);
	if (!r)
		r = is_listed("/proc/self/net/netfilter/nfnetlink_log", port);
	if (r)
		return r;
	*what = "which owns tables of nftables that would go with it";
	r = ask(NETLINK_NETFILTER, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE, NLM_F_DUMP, sizeof(struct nfgenmsg), take_table, &owned);
	return r == -EOPNOTSUPP || r == -EINVAL ? 0 : r ? r : owned.found; /* no nftables in this kernel */
}

int netlink_ties(const struct dump *d, uint32_t protocol, uint32_t port, const char **what)
{
	if (protocol == NETLINK_AUDIT)
		return audit_ties(d, what);
	return protocol == NETLINK_NETFILTER && port ? netfilter_ties(port, what) : 0;
}
