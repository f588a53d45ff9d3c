/* Propagation between mounts: groups of peers, also of a part of another's, followers, followers that others follow, one that is both; what is mounted
 * afterwards appears where it should, and nowhere else. */
#include "mounts.h"

static void place(const char *path) { CHECK(mkdir(path, 0755) == 0); }
static void group(const char *path, unsigned long flags) { CHECK(mount(NULL, path, NULL, flags, NULL) == 0); }
static void bind_to(const char *from, const char *to) { CHECK(mount(from, to, NULL, MS_BIND, NULL) == 0); }
static int is_there(const char *path) { return access(path, F_OK) == 0; }

int main(int argc, char **argv)
{
	static struct seen_mount before[MOUNTS_MANY];
	static const char *const places[] = { "a", "b", "part", "slave", "slave2", "second", "private", "both" };
	live_init(argc, argv);
	if (!mounts_begin()) return 0;
	for (size_t i = 0; i < sizeof places / sizeof *places; i++) place(places[i]);
	CHECK(mount("a", "a", "tmpfs", 0, "size=1m") == 0);
	place("a/sub");
	place("a/sub/in");
	place("a/x");
	bind_to("a", "private");
	group("private", MS_PRIVATE);
	group("a", MS_SHARED);
	bind_to("a", "b");
	bind_to("a/sub", "part");
	bind_to("a", "slave");
	group("slave", MS_SLAVE);
	bind_to("slave", "slave2");
	bind_to("a", "both");
	group("both", MS_SLAVE);
	group("both", MS_SHARED);
	bind_to("both", "second");
	group("second", MS_SLAVE);
	int n = mounts_read(before);
	wait_go();
	mounts_compare(before, n);
	CHECK(mount("new", "b/sub/in", "tmpfs", 0, "size=1m") == 0);
	put("b/sub/in/file", "x", 0600);
	CHECK(is_there("a/sub/in/file") && is_there("part/in/file") && is_there("slave/sub/in/file") && is_there("slave2/sub/in/file") && is_there("both/sub/in/file") &&
	      is_there("second/sub/in/file") && !is_there("private/sub/in/file"));
	CHECK(mount("other", "both/x", "tmpfs", 0, "size=1m") == 0);
	put("both/x/file", "x", 0600);
	CHECK(!is_there("a/x/file") && !is_there("slave/x/file") && is_there("second/x/file"));
	return finish();
}
