/* Names of sockets that do not lead to their file by themselves: relative ones of several directories, through "..", through a link,
 * renamed since, in a directory that was renamed since; and one whose file was deleted. */
#include "unix.h"
#include <sys/stat.h>

enum { PLAIN, UP, LINK, RENAMED, MOVED, DELETED, COUNT };
static const struct { const char *in, *bind, *then_from, *then_to, *file; } names[COUNT] = {
	[PLAIN] = {"sub", "plain", NULL, NULL, "sub/plain"},
	[UP] = {"sub", "../up", NULL, NULL, "up"},
	[LINK] = {".", "link/by_link", NULL, NULL, "sub/by_link"},
	[RENAMED] = {".", "old", "old", "new", "new"},
	[MOVED] = {"first", "deep/moved", "first", "second", "second/deep/moved"},
	[DELETED] = {".", "sub/deleted", "sub/deleted", NULL, NULL}};
static int sockets[COUNT];

static int try(const char *path)
{
	int fd = unix_connected(SOCK_STREAM, path);
	if (fd < 0) return 0;
	close(fd);
	return 1;
}

static void check(void)
{
	for (int i = 0; i < COUNT; i++) {
		struct stat st;
		CHECK(unix_is(sockets[i], own_name, names[i].bind));
		if (!names[i].file) continue;
		CHECK(stat(names[i].file, &st) == 0 && S_ISSOCK(st.st_mode) && (st.st_mode & 07777) == 0640u + i && st.st_uid == 1000u + i);
		int client = unix_connected(SOCK_STREAM, names[i].file), server = client < 0 ? -1 : accept(sockets[i], NULL, NULL);
		CHECK(client >= 0 && server >= 0);
		CHECK(unix_is(client, peer_name, names[i].bind));
		say(client, "hello");
		expect(server, "hello");
		CHECK(close(client) == 0 && close(server) == 0);
	}
	CHECK(!try("old") && !try("sub/deleted") && !try("first/deep/moved"));
	CHECK(access("sub/deleted", F_OK) == -1 && access("old", F_OK) == -1);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char top[4096];
	CHECK(getcwd(top, sizeof top) && mkdir("sub", 0755) == 0 && mkdir("first", 0755) == 0 && mkdir("first/deep", 0755) == 0 && symlink("sub", "link") == 0);
	for (int i = 0; i < COUNT; i++) {
		CHECK(chdir(names[i].in) == 0);
		sockets[i] = unix_listening(SOCK_STREAM, names[i].bind, 5);
		CHECK(chmod(names[i].bind, 0640 + i) == 0 && chown(names[i].bind, 1000 + i, 0) == 0 && chdir(top) == 0);
		if (names[i].then_to) CHECK(rename(names[i].then_from, names[i].then_to) == 0);
		else if (names[i].then_from) CHECK(unlink(names[i].then_from) == 0);
	}
	check();
	wait_go();
	check();
	return finish();
}
