/*
 * See network_lock.h. The chains stand at the hooks of local traffic only, behind address translation, so they see addresses as the socket has them.
 */
#include "engine/network_lock.h"

#include "base/log.h"
#include "engine/kinds/inet_diag.h"
#include "engine/nft.h"

#include <arpa/inet.h>
#include <time.h>

#define KEPT "fermata-kept-"
#define YOUNG_S 60 /* kept locks that are younger are left alone */
#define LOST_S 86400 /* and those of a checkpoint that is gone, which may have been moved, for so long */
#define COMMENT_MAX 120

struct network_lock {
	struct nft *nft;
	char name[64];
	VEC(struct connection) list;
};

/* The first line of what the library has to say. */
static int refused(struct network_lock *l, struct error *e)
{
	int size;
	const char *text = nft_complaint(l->nft, &size);

	if (memmem(text, (size_t)size, "Operation not permitted", strlen("Operation not permitted")))
		return error_set(e, -EPERM, "the network can't be held back without CAP_NET_ADMIN; --network-lock skip does without");
	return error_set(e, -ENOTSUP, "the network can't be held back: nftables says: %.*s; a kernel with CONFIG_NF_TABLES_INET is needed (Linux 5.12), or --network-lock skip",
			 size, text);
}

/* ---- rules ---- */

static void put_table(FILE *f, const char *name, const char *inside)
{
	fprintf(f, "create table inet %s { %s; }\n", name, inside);
	fprintf(f, "add set inet %s four { type ipv4_addr . inet_service . ipv4_addr . inet_service; }\n", name);
	fprintf(f, "add set inet %s six { type ipv6_addr . inet_service . ipv6_addr . inet_service; }\n", name);
	fprintf(f, "add chain inet %s in { type filter hook input priority -350; policy accept; }\n", name);
	fprintf(f, "add chain inet %s out { type filter hook output priority -350; policy accept; }\n", name);
	for (int six = 0; six < 2; six++) {
		const char *ip = six ? "ip6" : "ip", *set = six ? "six" : "four";
		fprintf(f, "add rule inet %s in meta mark != %#x %s saddr . tcp sport . %s daddr . tcp dport @%s drop\n", name, NETWORK_LOCK_MARK, ip, ip, set);
		fprintf(f, "add rule inet %s out meta mark != %#x %s daddr . tcp dport . %s saddr . tcp sport @%s drop\n", name, NETWORK_LOCK_MARK, ip, ip, set);
	}
}

static void put_elements(FILE *f, const char *name, const struct connection *list, size_t n)
{
	for (size_t i = 0; i < n; i++) {
		char local[INET6_ADDRSTRLEN] = "", peer[INET6_ADDRSTRLEN] = "";
		inet_ntop(list[i].family, list[i].local, local, sizeof(local));
		inet_ntop(list[i].family, list[i].peer, peer, sizeof(peer));
		fprintf(f, "add element inet %s %s { %s . %u . %s . %u }\n", name, list[i].family == AF_INET ? "four" : "six", peer, list[i].peer_port,
			local, list[i].local_port);
	}
}

/* Begins and ends a text of commands; NULL and -ENOMEM where memory is short. */
static int end_text(FILE *f)
{
	bool bad = !f || ferror(f);

	return (f && fclose(f)) || bad ? -ENOMEM : 0;
}

static int make_table(struct network_lock *l, struct error *e)
{
	_cleanup_free_ char *text = NULL;
	struct timespec now;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	clock_gettime(CLOCK_MONOTONIC, &now);
	snprintf(l->name, sizeof(l->name), "fermata-%d-%lld%09ld", getpid(), (long long)now.tv_sec, now.tv_nsec);
	if (f)
		put_table(f, l->name, "flags owner");
	if (end_text(f))
		return error_set(e, -ENOMEM, "out of memory");
	return nft_run(l->nft, text) ? refused(l, e) : 0;
}

int network_lock_new(struct network_lock **ret, struct error *e)
{
	struct network_lock *l = calloc(1, sizeof(*l));
	struct error why = {};
	int r = l ? nft_new(&l->nft, &why) : error_set(e, -ENOMEM, "out of memory");

	if (why.code)
		r = error_set(e, -ENOTSUP, "the network can't be held back: %s, or use --network-lock skip", why.text);
	if (!r)
		r = make_table(l, e);
	if (r)
		network_lock_free(TAKE_PTR(l));
	*ret = l;
	return r;
}

int network_lock_add(struct network_lock *l, const struct connection *list, size_t n, struct error *e)
{
	_cleanup_free_ char *text = NULL;
	size_t size;
	FILE *f = open_memstream(&text, &size);

	if (f)
		put_elements(f, l->name, list, n);
	if (end_text(f))
		return error_set(e, -ENOMEM, "out of memory");
	if (n && nft_run(l->nft, text))
		return refused(l, e);
	for (size_t i = 0; i < n; i++) {
		struct connection *c = VEC_PUSH(&l->list);
		if (!c)
			return error_set(e, -ENOMEM, "out of memory");
		*c = list[i];
	}
	return 0;
}

static bool fits_comment(const char *text)
{
	for (const char *p = text; *p; p++)
		if (*p == '"' || *p == '\\' || (unsigned char)*p < ' ')
			return false;
	return strlen(text) < COMMENT_MAX - 16;
}

int network_lock_keep(struct network_lock *l, uint64_t id, const char *dir, struct error *e)
{
	_cleanup_free_ char *text = NULL, *path = realpath(dir, NULL);
	char name[64], inside[COMMENT_MAX + 16];
	size_t size;
	FILE *f = open_memstream(&text, &size);

	snprintf(name, sizeof(name), KEPT "%016llx", (unsigned long long)id);
	snprintf(inside, sizeof(inside), "comment \"%lld %s\"", (long long)time(NULL), path && fits_comment(path) ? path : "");
	if (f) {
		put_table(f, name, inside);
		put_elements(f, name, l->list.data, l->list.count);
	}
	if (end_text(f))
		return error_set(e, -ENOMEM, "out of memory");
	return nft_run(l->nft, text) ? refused(l, e) : 0;
}

static int remove_table(struct network_lock *l, const char *name)
{
	char text[128];

	snprintf(text, sizeof(text), "delete table inet %s", name);
	return nft_run(l->nft, text);
}

int network_lock_remove(struct network_lock *l, uint64_t id)
{
	char name[64], text[128];

	snprintf(name, sizeof(name), KEPT "%016llx", (unsigned long long)id);
	snprintf(text, sizeof(text), "list table inet %s", name);
	return nft_run(l->nft, text) ? 0 : remove_table(l, name);
}

void network_lock_free(struct network_lock *l)
{
	if (!l)
		return;
	nft_free(l->nft);
	VEC_FREE(&l->list);
	free(l);
}

/* ---- those that were left ---- */

/* An element of a set: "PEER . PORT . LOCAL . PORT". */
static bool take_element(const char *text, struct connection *c)
{
	char peer[INET6_ADDRSTRLEN], local[INET6_ADDRSTRLEN];
	unsigned int peer_port, local_port;

	if (sscanf(text, "%45[0-9a-f:.] . %u . %45[0-9a-f:.] . %u", peer, &peer_port, local, &local_port) != 4)
		return false;
	*c = (struct connection){ .family = strchr(peer, ':') ? AF_INET6 : AF_INET, .local_port = (uint16_t)local_port, .peer_port = (uint16_t)peer_port };
	return inet_pton(c->family, peer, c->peer) == 1 && inet_pton(c->family, local, c->local) == 1;
}

static bool is_alive(const struct inet_diags *sockets, const struct connection *c)
{
	VEC_FOREACH(&sockets->list, x)
		if (x->ino && !memcmp(&x->connection, c, sizeof(*c)))
			return true;
	return false;
}

/* Whether the table, as nft(8) lists it, holds back a connection that somebody here has. */
static bool holds_living(const char *table, const struct inet_diags *sockets)
{
	struct connection c;

	for (const char *p = table; *p; p += MAX(strcspn(p, " \t\n{,"), 1UL))
		if (take_element(p, &c) && is_alive(sockets, &c))
			return true;
	return false;
}

/* "TIME PATH" in the comment. */
static void read_comment(const char *table, long long *ret_age_s, char *ret_path, size_t size)
{
	const char *comment = strstr(table, "comment \"");
	long long when;
	int start = 0;

	*ret_age_s = 0;
	ret_path[0] = '\0';
	if (!comment || sscanf(comment + 9, "%lld %n", &when, &start) < 1)
		return;
	*ret_age_s = time(NULL) - when;
	const char *begin = comment + 9 + start;
	snprintf(ret_path, size, "%.*s", (int)strcspn(begin, "\"\n"), begin);
}

static bool is_lost(const char *dir)
{
	char path[COMMENT_MAX + 32];

	snprintf(path, sizeof(path), "%s/inventory.img", dir);
	return dir[0] && access(path, F_OK) < 0 && errno == ENOENT;
}

/* One that was just made is for connections that are about to end. */
static bool is_stale(struct network_lock *l, const char *name, const struct inet_diags *sockets)
{
	char text[128], dir[COMMENT_MAX];
	long long age_s;

	snprintf(text, sizeof(text), "list table inet %s", name);
	if (nft_run(l->nft, text))
		return false;
	const char *table = nft_output(l->nft);
	read_comment(table, &age_s, dir, sizeof(dir));
	if (age_s < YOUNG_S)
		return false;
	return (age_s >= LOST_S && is_lost(dir)) || holds_living(table, sockets);
}

/* Each name in the list of tables ("table inet NAME") is looked at, until there is none left. */
void network_lock_clean(struct network_lock *l)
{
	static const char word[] = "table inet " KEPT;
	struct inet_diags sockets = {};

	nft_numeric(l->nft);
	_cleanup_free_ char *tables = nft_run(l->nft, "list tables inet") ? NULL : strdup(nft_output(l->nft));
	char *p = tables ? strstr(tables, word) : NULL;
	if (p && inet_diag_read(IPPROTO_TCP, &sockets))
		p = NULL;
	for (; p; p = strstr(p, word)) {
		char name[64];
		p += strlen("table inet ");
		snprintf(name, sizeof(name), "%.*s", (int)strspn(p, "abcdefghijklmnopqrstuvwxyz0123456789-"), p);
		if (is_stale(l, name, &sockets) && !remove_table(l, name))
			log_warning("Removed the network lock %s, which nobody needs any more", name);
	}
	inet_diag_free(&sockets);
}
