/* Helpers for tests of mount namespaces: what mountinfo says, so that it can be compared after numbers have changed. */
#ifndef MOUNTS_H
#define MOUNTS_H
#include "live.h"
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>

#define MOUNTS_TEXT (1 << 20)
#define MOUNTS_MANY 512

struct seen_mount {
	unsigned id, parent, shared, master;
	char root[256], point[256], options[128], fstype[32], source[128], super[256];
	int unbindable;
};

static inline int mounts_read(struct seen_mount *list)
{
	static char text[MOUNTS_TEXT];
	ssize_t size = slurp("/proc/self/mountinfo", text, sizeof text - 1);
	CHECK(size > 0);
	text[size] = 0;
	int n = 0;
	char *save = NULL;
	for (char *line = strtok_r(text, "\n", &save); line; line = strtok_r(NULL, "\n", &save)) {
		struct seen_mount *m = &list[n++];
		CHECK(n < MOUNTS_MANY);
		memset(m, 0, sizeof *m);
		CHECK(sscanf(line, "%u %u %*s %255s %255s %127s", &m->id, &m->parent, m->root, m->point, m->options) == 5);
		char *rest = strstr(line, " - "), *tag;
		CHECK(rest && sscanf(rest, " - %31s %127s %255s", m->fstype, m->source, m->super) == 3);
		*rest = 0;
		if ((tag = strstr(line, " shared:"))) m->shared = atoi(tag + 8);
		if ((tag = strstr(line, " master:"))) m->master = atoi(tag + 8);
		m->unbindable = strstr(line, " unbindable") != NULL;
	}
	return n;
}

static inline const struct seen_mount *mounts_by_id(const struct seen_mount *list, int n, unsigned id)
{
	for (int i = 0; i < n; i++)
		if (list[i].id == id) return &list[i];
	return NULL;
}

/* The same mount of the other list: by its place and what lies below it. */
static inline int mounts_same(const struct seen_mount *a, int n, const struct seen_mount *x, const struct seen_mount *b, int m, const struct seen_mount *y)
{
	const struct seen_mount *p = mounts_by_id(a, n, x->parent), *q = mounts_by_id(b, m, y->parent);
	if (strcmp(x->root, y->root) || strcmp(x->point, y->point) || strcmp(x->options, y->options) || strcmp(x->fstype, y->fstype) ||
	    strcmp(x->source, y->source) || strcmp(x->super, y->super) || x->unbindable != y->unbindable || !x->shared != !y->shared || !x->master != !y->master || !p != !q)
		return 0;
	return !p || mounts_same(a, n, p, b, m, q);
}

static inline void mounts_compare(const struct seen_mount *old, int n)
{
	static struct seen_mount now[MOUNTS_MANY];
	static int twin[MOUNTS_MANY];
	static char taken[MOUNTS_MANY];
	int m = mounts_read(now);
	if (m != n) { live_say("not ok: there are %d mounts, were %d", m, n); _exit(1); }
	memset(taken, 0, sizeof taken);
	for (int i = 0; i < n; i++) {
		for (twin[i] = 0; twin[i] < m; twin[i]++)
			if (!taken[twin[i]] && mounts_same(old, n, &old[i], now, m, &now[twin[i]])) break;
		if (twin[i] == m) { live_say("not ok: the mount at %s (%s, %s) is not as it was", old[i].point, old[i].fstype, old[i].options); _exit(1); }
		taken[twin[i]] = 1;
	}
	for (int i = 0; i < n; i++)
		for (int k = 0; k < n; k++) {
			const struct seen_mount *x = &now[twin[i]], *y = &now[twin[k]];
			if ((old[i].shared && (old[i].shared == old[k].shared) != (x->shared == y->shared)) ||
			    (old[i].master && (old[i].master == old[k].shared) != (x->master == y->shared))) {
				live_say("not ok: %s and %s do not share as they did", old[i].point, old[k].point);
				_exit(1);
			}
		}
}

/* In one of our own, of which nothing reaches the others; false: that can't be. */
static inline int mounts_begin(void)
{
	if (unshare(CLONE_NEWNS)) { live_say("skip: no mount namespace: %s", strerror(errno)); return 0; }
	CHECK(mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0);
	/* What others have mounted for a while would not be there any more at the restore. */
	static struct seen_mount list[MOUNTS_MANY];
	char here[4096];
	CHECK(getcwd(here, sizeof here));
	for (int i = mounts_read(list); i-- > 0;)
		if ((!strncmp(list[i].point, "/tmp/", 5) || !strncmp(list[i].point, "/run/", 5)) && strncmp(here, list[i].point, strlen(list[i].point)))
			umount2(list[i].point, MNT_DETACH);
	return 1;
}

static inline void put(const char *path, const char *text, mode_t mode)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	CHECK(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text) && fchmod(fd, mode) == 0 && close(fd) == 0);
}

static inline int holds(const char *path, const char *text)
{
	char buffer[4096];
	ssize_t n = slurp(path, buffer, sizeof buffer);
	return n == (ssize_t)strlen(text) && !memcmp(buffer, text, n);
}
#endif
