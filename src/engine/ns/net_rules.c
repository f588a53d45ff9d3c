/*
 * Rules of nftables, as nft(8) lists them: nftables-ID.img. Those of iptables-nft are such. Tables of ours (network_lock.h) are left out.
 *
 * That the text means what the kernel has is tried at the dump: it is read into a namespace made for that, and listed there. What does not come back is
 * refused. Refused too: tables that belong to a program as long as it runs, and rules of the legacy iptables.
 */
#include "engine/ns/net.h"

#include "base/apart.h"
#include "engine/kinds/netlink_ask.h"
#include "engine/nft.h"
#include "proc/sysctl.h"

#include <ctype.h>
#include <fcntl.h>
#include <linux/if_link.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>

#define OURS "fermata-"
#define IMAGE_MAX (64UL << 20)
#define NAME_SIZE 256

/* ---- listing ---- */

static int take_table(const struct nlmsghdr *h, void *data)
{
	const struct nlattr *name = net_message_find(h, sizeof(struct nfgenmsg), NFTA_TABLE_NAME);

	if (!name || strncmp(mnl_attr_get_str(name), OURS, strlen(OURS)))
		*(bool *)data = true;
	return MNL_CB_OK;
}

/* The library takes longer to load than this takes. */
static bool has_tables(void)
{
	char buffer[128] = {};
	struct nlmsghdr *h = mnl_nlmsg_put_header(buffer);
	bool any = false;

	h->nlmsg_type = NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETTABLE;
	h->nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
	mnl_nlmsg_put_extra_header(h, sizeof(struct nfgenmsg));
	netlink_ask(NETLINK_NETFILTER, h, take_table, &any); /* a kernel without them has none */
	return any;
}

/* "table FAMILY NAME", a line each. */
static int list_tables(struct nft *nft, FILE *to)
{
	_cleanup_free_ char *tables = nft_run(nft, "list tables") ? NULL : strdup(nft_output(nft));
	char family[16], name[NAME_SIZE], command[NAME_SIZE + 64];
	int r = tables ? 0 : -EIO;

	for (const char *line = tables; !r && line && *line; line += strcspn(line, "\n"), line += *line == '\n') {
		if (sscanf(line, "table %15s %255[^\n]", family, name) != 2 || !strncmp(name, OURS, strlen(OURS)))
			continue;
		snprintf(command, sizeof(command), "list table %s %s", family, name);
		r = nft_run(nft, command);
		if (!r)
			fputs(nft_output(nft), to);
	}
	return r;
}

/* *ret: the text of all tables, the caller's; "" where there are none. */
static int list_all(char **ret, struct error *e)
{
	struct nft *nft;
	size_t size;
	FILE *to = open_memstream(ret, &size);
	int r = to ? nft_new(&nft, e) : error_set(e, -ENOMEM, "out of memory");

	if (!r) {
		nft_numeric(nft);
		r = list_tables(nft, to);
		int length;
		const char *why = r ? nft_complaint(nft, &length) : "";
		if (r)
			error_set(e, r, "nftables says: %.*s", length, why);
		nft_free(nft);
	}
	if (to && fclose(to) && !r)
		r = error_set(e, -ENOMEM, "out of memory");
	return r;
}

/* ---- trying ---- */

struct trial {
	struct net_dump *n;
	const char *text;
	char *again;
	struct error why;
};

/* A device of that name, for rules that name it; of any kind that this kernel has. */
static void make_device(const char *name)
{
	static const char *const kinds[] = { "dummy", "ifb", "bridge", "veth" };
	char buffer[256];

	for (size_t i = 0; i < ARRAY_SIZE(kinds); i++) {
		struct nlmsghdr *h = mnl_nlmsg_put_header(buffer);
		h->nlmsg_type = RTM_NEWLINK;
		h->nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | NLM_F_CREATE | NLM_F_EXCL;
		mnl_nlmsg_put_extra_header(h, sizeof(struct ifinfomsg));
		mnl_attr_put_strz(h, IFLA_IFNAME, name);
		struct nlattr *info = mnl_attr_nest_start(h, IFLA_LINKINFO);
		mnl_attr_put_strz(h, IFLA_INFO_KIND, kinds[i]);
		mnl_attr_nest_end(h, info);
		if (!netlink_ask(NETLINK_ROUTE, h, NULL, NULL))
			break;
	}
}

static int run_text(const char *text, struct error *e)
{
	struct nft *nft;
	int r = nft_new(&nft, e);

	if (r)
		return r;
	r = nft_run(nft, text);
	if (r) {
		int length;
		const char *why = nft_complaint(nft, &length);
		error_set(e, r, "nftables says: %.*s", length, why);
	}
	nft_free(nft);
	return r;
}

static int try_apart(void *argument)
{
	struct trial *t = argument;

	if (unshare(CLONE_NEWNET) < 0)
		return error_errno(&t->why, -errno, "cannot make a network namespace");
	VEC_FOREACH(&t->n->devices, e)
		make_device((*e)->name);
	int r = run_text(t->text, &t->why);
	return r ? r : list_all(&t->again, &t->why);
}

/* What goes by while it is read: of "expires 59m58s" the time. */
static const char *skip_time(const char *p)
{
	return strncmp(p, "expires ", 8) ? p : p + 8 + strspn(p + 8, "0123456789smhd");
}

/* The first line that differs; NULL: none does. */
static const char *difference(const char *a, const char *b)
{
	const char *line = a;

	for (; *a || *b; a++, b++) {
		a = skip_time(a);
		b = skip_time(b);
		if (*a != *b)
			return line;
		if (*a == '\n')
			line = a + 1;
	}
	return NULL;
}

static int try_text(struct net_dump *n, const char *text)
{
	struct trial t = { .n = n, .text = text };
	int r = run_apart(NULL, try_apart, &t);
	_cleanup_free_ char *again = t.again;
	const char *differs = r ? NULL : difference(text, again ? again : "");

	if (r)
		return error_set(n->d->e, -ENOTSUP, "rules of nftables of its network namespace can't be read again (%s); remove what it names first, or keep the namespace outside (--external net[INODE]:NAME)",
				 t.why.text);
	if (differs)
		return error_set(n->d->e, -ENOTSUP, "rules of nftables of its network namespace do not come back as they are (\"%.*s\"); remove that first, or keep the namespace outside (--external net[INODE]:NAME)",
				 (int)MIN(strcspn(differs + strspn(differs, " \t"), "\n"), 200UL), differs + strspn(differs, " \t"));
	return 0;
}

/* ---- dump ---- */

static int refuse_legacy(struct net_dump *n)
{
	static const char *const lists[] = { "self/net/ip_tables_names", "self/net/ip6_tables_names", "self/net/arp_tables_names" };
	_cleanup_close_ int proc = sysctl_proc();

	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		char name[64] = "";
		_cleanup_close_ int fd = proc < 0 ? -1 : openat(proc, lists[i], O_RDONLY | O_CLOEXEC);
		if (fd >= 0 && read(fd, name, sizeof(name) - 1) > 0)
			return error_set(n->d->e, -ENOTSUP, "its network namespace has the table %.*s of the legacy iptables, which is not saved; use iptables-nft, or keep the namespace outside (--external net[INODE]:NAME)",
					 (int)strcspn(name, "\n"), name);
	}
	return 0;
}

static int write_text(struct net_dump *n, const char *text)
{
	const struct net_name name = net_image_name("nftables", n->id);
	struct image_file *file;
	int r = image_create_raw(n->d->dir, name.text, &file);

	if (!r) {
		r = image_write_bytes(file, text, strlen(text));
		int closed = image_close(file);
		r = r ? r : closed;
	}
	return r ? error_errno(n->d->e, r, "cannot write %s", name.text) : 0;
}

int net_rules_capture(struct net_dump *n)
{
	_cleanup_free_ char *text = NULL;
	struct error why = {};
	int r = refuse_legacy(n);

	if (r)
		return r;
	if (!has_tables())
		return 0;
	r = list_all(&text, &why);
	if (r)
		return error_set(n->d->e, -ENOTSUP, "rules of nftables of its network namespace can't be read: %s", why.text);
	if (!text[0])
		return 0;
	if (strstr(text, "flags owner"))
		return error_set(n->d->e, -ENOTSUP, "a table of nftables of its network namespace belongs to the program that made it (flags owner), which is not saved; end that first");
	r = try_text(n, text);
	return r ? r : write_text(n, text);
}

/* ---- restore ---- */

/* nft(8) has commands that read files, or never end: in what it lists there are tables alone. */
bool net_rules_are_tables(const char *text)
{
	int depth = 0;
	bool first = true; /* of a line */

	for (const char *p = text; *p;) {
		size_t size = 1;
		if (*p == '#') {
			size = strcspn(p, "\n");
		} else if (*p == '"') {
			const char *end = strchr(p + 1, '"');
			if (!end || (first && !depth))
				return false;
			size = (size_t)(end - p) + 1;
			first = false;
		} else if (isalnum((unsigned char)*p) || *p == '_') {
			while (p[size] && (isalnum((unsigned char)p[size]) || strchr("_-./:", p[size])))
				size++;
			if ((size == 7 && !memcmp(p, "include", 7)) || (first && !depth && (size != 5 || memcmp(p, "table", 5))))
				return false;
			first = false;
		} else if (*p == '\n' || *p == ';') {
			first = true;
		} else if (*p == '{' || *p == '}') {
			depth += *p == '{' ? 1 : -1;
			first = *p == '}';
		} else if (!isspace((unsigned char)*p) && first && !depth) {
			return false;
		}
		p += size;
	}
	return !depth;
}

int net_rules_make(struct net_restore *n)
{
	const struct net_name name = net_image_name("nftables", n->id);
	_cleanup_free_ char *text = NULL;
	struct error why = {};
	struct image_raw *raw;
	int r = image_raw_open(n->s->dir, name.text, &raw);

	if (r == -ENOENT)
		return 0;
	if (r)
		return error_errno(n->s->e, r, "cannot read %s", name.text);
	const uint64_t size = image_raw_size(raw);
	text = size <= IMAGE_MAX ? calloc(1, size + 1) : NULL;
	r = text ? image_raw_read(raw, NULL, text, size, 0) : size <= IMAGE_MAX ? -ENOMEM : -EBADMSG;
	image_raw_close(raw);
	if (r)
		return error_errno(n->s->e, r, "cannot read %s", name.text);
	if (strlen(text) != size || !net_rules_are_tables(text))
		return error_set(n->s->e, -EBADMSG, "%s is damaged", name.text);
	r = run_text(text, &why);
	return r ? error_set(n->s->e, -EIO, "cannot make the rules of the network namespace again: %s", why.text) : 0;
}
