/* Mounts: what mountinfo says, the plan by which they are made again, what is refused, and the comparison with what came out. */
#include "engine/ns/mnt.h"

#include <sys/mount.h>

static int failures;

static void check(const char *name, bool good)
{
	printf(good ? "ok %s\n" : "not ok %s: see tests/unit/test_mounts.c\n", name);
	failures += !good;
}

static const char sample[] = "27 1 254:0 / / rw,relatime - ext4 /dev/vda rw,discard\n"
			     "30 27 0:27 /a\\040b /odd\\134place\\011x ro,nosuid,noatime shared:7 master:3 propagate_from:2 - tmpfs odd\\040source rw,size=1k\n"
			     "31 27 0:28 / /x rw,nosymfollow unbindable - fuse.x  rw\n";

static void check_parser(void)
{
	struct proc_mounts m;
	bool good = !proc_parse_mounts(sample, &m) && m.list.count == 3;

	if (good) {
		const struct proc_mount *a = &m.list.data[1], *b = &m.list.data[2];
		good = a->id == 30 && a->parent == 27 && a->dev == 27 && !strcmp(a->root, "/a b") && !strcmp(a->point, "/odd\\place\tx") && a->shared == 7 && a->master == 3 &&
		       !strcmp(a->source, "odd source") && !strcmp(a->super, "rw,size=1k") && m.list.data[0].dev == 254U << 20 && b->unbindable && !b->source[0] && !strcmp(b->super, "rw");
	}
	check("mountinfo", good);
	proc_mounts_finish(&m);
	static const char *const bad[] = { "x\n", "1 2 0:1 / /\n", "1 2 0 / / rw - a b c\n", "1 2 0:1 / / rw a b c\n", "-1 2 0:1 / / rw - a b c\n", "1 2 0:99999999 / / rw - a b c\n",
					   "1 2 0:1 / / rw shared:x - a b c\n" };
	good = true;
	for (size_t i = 0; i < ARRAY_SIZE(bad); i++) {
		good &= proc_parse_mounts(bad[i], &m) == -EBADMSG;
		proc_mounts_finish(&m);
	}
	check("mountinfo-hostile", good);
	for (size_t n = 0; n < sizeof(sample); n++) {
		_cleanup_free_ char *part = strndup(sample, n);
		proc_parse_mounts(part, &m);
		proc_mounts_finish(&m);
	}
}

static void check_flags(void)
{
	struct pool pool = {};
	const char *rest = NULL;
	uint32_t flags = 0;

	check("flags", !mount_parse_flags(&pool, "ro,nosuid,size=4k,sync,mode=755", &flags, &rest) && flags == (MS_RDONLY | MS_NOSUID | MS_SYNCHRONOUS) &&
			       !strcmp(rest, "size=4k,mode=755"));
	pool_free(&pool);
	check("below", !strcmp(mount_below("/a/b", "/a"), "/b") && !mount_below("/ab", "/a") && !strcmp(mount_below("/a", "/"), "/a") && !strcmp(mount_below("/", "/"), "") &&
			       !strcmp(mount_below("/a", "/a"), ""));
}

/* "id parent dev root point [shared master]" of each, as a list to be planned. */
static struct mounts *make(const char *text)
{
	struct mounts *m = calloc(1, sizeof(*m));
	unsigned int id, parent, dev, shared, master;
	char root[64], point[64];

	for (const char *line = text; line; line = strchr(line, '\n') ? strchr(line, '\n') + 1 : NULL) {
		char copy[200];
		shared = master = 0;
		snprintf(copy, sizeof(copy), "%.*s", (int)strcspn(line, "\n"), line);
		if (sscanf(copy, "%u %u %u %63s %63s %u %u", &id, &parent, &dev, root, point, &shared, &master) < 5)
			break;
		struct mount *x = VEC_PUSH(&m->list);
		*x = (struct mount){ .id = id, .parent_id = parent, .dev = dev, .root = pool_copy(&m->pool, root, strlen(root) + 1), .point = pool_copy(&m->pool, point, strlen(point) + 1),
				     .source = "s", .fstype = "tmpfs", .options = "", .shared = shared, .master = master, .type = fs_find_type("tmpfs"), .fd = -1 };
	}
	return m;
}

static size_t place_of(const struct mounts *m, uint32_t id)
{
	size_t at = 0;

	while (at < m->attach.count && m->list.data[m->attach.data[at]].id != id)
		at++;
	return at;
}

static size_t step_of(const struct mounts *m, uint32_t id)
{
	size_t at = 0;

	while (at < m->steps.count && m->list.data[m->steps.data[at].mount].id != id)
		at++;
	return at;
}

static void check_order(void)
{
	struct error e = {};
	struct mounts *m = make("5 4 5 / /a/b/c\n1 0 1 / /\n2 1 2 / /a\n6 2 6 / /a/b/x\n3 2 3 / /a/b\n4 3 4 / /a/b\n");

	check("order", !mounts_plan(m, &e) && m->attach.count == 5 && place_of(m, 2) < place_of(m, 6) && place_of(m, 6) < place_of(m, 3) && place_of(m, 3) < place_of(m, 4) &&
			       place_of(m, 4) < place_of(m, 5) && m->list.data[m->root].id == 1 && mounts_find(m, 6) == &m->list.data[3] && !mounts_find(m, 7));
	mounts_free(m);
	m = make("1 0 1 / /\n2 1 2 /x /a\n3 1 2 / /b\n4 1 2 /x/y /c");
	check("bound", !mounts_plan(m, &e) && m->list.data[1].from == MOUNT_BIND && m->list.data[3].from == MOUNT_BIND && m->list.data[2].from == MOUNT_NEW &&
			       m->list.data[m->list.data[1].bind_from].id == 3);
	mounts_free(m);
}

static void check_groups(void)
{
	struct error e = {};
	/* 3 leads the group 7, that of which 2 is a part; 4 follows 7 and is followed by 5. */
	struct mounts *m = make("1 0 1 / /\n5 1 2 / /e 0 9\n2 1 2 /x /b 7\n3 1 2 / /c 7\n4 1 2 / /d 9 7\n");
	bool good = !mounts_plan(m, &e) && m->steps.count == 4;

	if (good) {
		const struct mount_step *leader = &m->steps.data[step_of(m, 3)], *part = &m->steps.data[step_of(m, 2)], *both = &m->steps.data[step_of(m, 4)],
					*last = &m->steps.data[step_of(m, 5)];
		good = leader < part && leader < both && both < last && leader->from == MOUNT_NONE && leader->share && !leader->slave && m->list.data[part->from].id == 3 && !part->share &&
		       m->list.data[both->from].id == 3 && both->slave && both->share && m->list.data[last->from].id == 4 && last->slave && !last->share;
	}
	check("groups", good);
	mounts_free(m);
	m = make("1 0 1 / /\n2 1 2 / /b 7\n");
	m->list.data[1].shared_outside = true;
	check("groups-outside", !mounts_plan(m, &e) && m->steps.count == 1 && m->steps.data[0].from == 1 && !m->steps.data[0].share);
	mounts_free(m);
}

static void check_hostile(void)
{
	static const struct {
		const char *name, *list;
		int result;
	} lists[] = {
		{ "none", "", -EBADMSG },
		{ "no-root", "1 0 1 / /a\n", -EBADMSG },
		{ "two-roots", "1 0 1 / /\n2 9 1 / /\n", -EBADMSG },
		{ "circle", "1 0 1 / /\n2 3 2 / /a\n3 2 3 / /a\n", -EBADMSG },
		{ "circle-at-root", "1 2 1 / /\n2 1 2 / /\n", -EBADMSG },
		{ "own-parent", "1 0 1 / /\n2 2 2 / /a\n", -EBADMSG },
		{ "same-number", "1 0 1 / /\n1 0 1 / /\n", -EBADMSG },
		{ "same-place", "1 0 1 / /\n2 1 2 / /a\n3 1 3 / /a\n", -EBADMSG },
		{ "beside-parent", "1 0 1 / /\n2 1 2 / /a\n3 2 3 / /b\n", -EBADMSG },
		{ "up", "1 0 1 / /\n2 1 2 / /a/../../etc\n", -EBADMSG },
		{ "up-root", "1 0 1 / /\n2 1 2 /../x /a\n", -EBADMSG },
		{ "relative", "1 0 1 / /\n2 1 2 / a\n", -EBADMSG },
		{ "group-of-itself", "1 0 1 / /\n2 1 2 / /a 7 7\n", -EBADMSG },
		{ "groups-circle", "1 0 1 / /\n2 1 2 / /a 7 8\n3 1 2 / /b 8 7\n", -EBADMSG },
		{ "group-of-another", "1 0 1 / /\n2 1 2 / /a 7\n3 1 3 / /b 7\n", -ENOTSUP },
		{ "group-of-none", "1 0 1 / /\n2 1 2 / /a 0 7\n", -ENOTSUP },
		{ "parts-without-whole", "1 0 1 / /\n2 1 2 /x /a\n", -ENOTSUP },
	};

	for (size_t i = 0; i < ARRAY_SIZE(lists); i++) {
		struct error e = {};
		struct mounts *m = make(lists[i].list);
		char name[64];
		snprintf(name, sizeof(name), "hostile-%s", lists[i].name);
		check(name, mounts_plan(m, &e) == lists[i].result && e.text[0]);
		mounts_free(m);
	}
}

/* A chain of so many, each on the one before, and as many that follow each other. */
static void check_many(void)
{
	struct mounts *m = calloc(1, sizeof(*m));
	struct error e = {};

	for (uint32_t i = 0; i < MOUNTS_MAX; i++)
		*(struct mount *)VEC_PUSH(&m->list) = (struct mount){ .id = i + 1, .parent_id = i, .dev = 1, .root = "/", .point = "/", .source = "", .fstype = "tmpfs", .options = "", .shared = i + 1,
								      .master = i + 2 <= MOUNTS_MAX ? i + 2 : 0, .type = fs_find_type("tmpfs"), .fd = -1 };
	check("many", !mounts_plan(m, &e) && m->steps.count == MOUNTS_MAX && m->attach.count == MOUNTS_MAX - 1);
	mounts_free(m);
}

static void check_comparison(void)
{
	struct error e = {};
	struct proc_mounts made = {};
	struct mounts *m = make("1 0 1 / /\n2 1 2 / /a 7\n3 1 2 / /b 7\n");
	static const char same[] = "11 9 0:9 / / rw - tmpfs s rw\n12 11 0:8 / /a rw shared:4 - tmpfs s rw\n13 11 0:8 / /b rw shared:4 - tmpfs s rw\n";
	static const struct {
		const char *from, *to;
	} changes[] = { { "/b rw", "/b ro" }, { "/b rw", "/c rw" }, { "13 11", "13 12" }, { "shared:4 - tmpfs s rw\n13", "shared:5 - tmpfs s rw\n13" }, { " shared:4 -", " -" },
			{ "0:8 / /b", "0:8 /x /b" }, { "tmpfs s", "proc s" }, { "13 11", "14 11" } };
	bool good = !mounts_plan(m, &e);

	for (uint32_t i = 0; i < 3; i++)
		m->list.data[i].made_id = 11 + i;
	good = good && !proc_parse_mounts(same, &made) && !mounts_compare(m, &made, &e);
	proc_mounts_finish(&made);
	check("comparison", good);
	for (size_t i = 0; i < ARRAY_SIZE(changes); i++) {
		char text[512], name[32];
		const char *at = strstr(same, changes[i].from);
		snprintf(text, sizeof(text), "%.*s%s%s", (int)(at - same), same, changes[i].to, at + strlen(changes[i].from));
		snprintf(name, sizeof(name), "comparison-%zu", i);
		check(name, !proc_parse_mounts(text, &made) && mounts_compare(m, &made, &e) == -ESTALE);
		proc_mounts_finish(&made);
	}
	mounts_free(m);
}

int main(void)
{
	check_parser();
	check_flags();
	check_order();
	check_groups();
	check_hostile();
	check_many();
	check_comparison();
	return failures != 0;
}
