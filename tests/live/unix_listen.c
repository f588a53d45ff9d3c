/* Listening unix sockets by path and by abstract name, with their backlog; bound ones that do not listen yet; one whose
 * path has been deleted. */
#include "unix.h"
#include <sys/stat.h>

static void serve(int listener, int type, const char *name)
{
	int client = unix_connected(type, name), server;
	CHECK(client >= 0 && (server = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0);
	say(client, "question");
	expect(server, "question");
	say(server, "answer");
	expect(client, "answer");
	CHECK(close(client) == 0 && close(server) == 0);
}

/* How many clients fit before one is turned away. */
static int room(const char *name)
{
	int count = 0, fds[64];
	while (count < 64 && (fds[count] = unix_connected(SOCK_STREAM | SOCK_NONBLOCK, name)) >= 0) count++;
	CHECK(errno == EAGAIN);
	for (int i = 0; i < count; i++) close(fds[i]);
	return count;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char name[64], hidden[64];
	struct stat before, after;
	snprintf(name, sizeof name, "@live-%d", getpid());
	snprintf(hidden, sizeof hidden, "@live-hidden-%d", getpid());
	int path = unix_listening(SOCK_STREAM, "path", 5), abstract = unix_listening(SOCK_SEQPACKET, name, 10);
	int small = unix_listening(SOCK_STREAM, hidden, 3), later = unix_bound(SOCK_STREAM, "later");
	int deleted = unix_listening(SOCK_STREAM, "deleted", 1), fresh = socket(AF_UNIX, SOCK_STREAM, 0);
	CHECK(chmod("path", 0660) == 0 && chown("path", 1000, 1001) == 0 && stat("path", &before) == 0);
	CHECK(unlink("deleted") == 0 && fresh >= 0);
	wait_go();
	CHECK(stat("path", &after) == 0 && S_ISSOCK(after.st_mode) && before.st_mode == after.st_mode);
	CHECK(after.st_uid == 1000 && after.st_gid == 1001);
	serve(path, SOCK_STREAM, "path");
	serve(abstract, SOCK_SEQPACKET, name);
	CHECK(room(hidden) == 4 && unix_is(small, own_name, hidden));
	CHECK(unix_is(path, own_name, "path") && unix_is(abstract, own_name, name));
	CHECK(unix_is(later, own_name, "later") && unix_connected(SOCK_STREAM, "later") == -1 && errno == ECONNREFUSED);
	CHECK(listen(later, 1) == 0);
	serve(later, SOCK_STREAM, "later");
	CHECK(unix_is(deleted, own_name, "deleted") && access("deleted", F_OK) == -1);
	CHECK(fcntl(deleted, F_SETFL, O_NONBLOCK) == 0 && accept(deleted, NULL, NULL) == -1 && errno == EAGAIN);
	CHECK(unix_is(fresh, own_name, ""));
	struct sockaddr_un address;
	CHECK(bind(fresh, (struct sockaddr *)&address, unix_name(&address, "fresh")) == 0);
	return finish();
}
