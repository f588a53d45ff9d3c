/* A server and clients in tasks of their own, one of them an ordinary user: queues, peers, the end of a connection. */
#include "tree.h"
#include "unix.h"
#include <sys/stat.h>

static int client(void *argument)
{
	if (argument) CHECK(setresgid(2001, 2001, 0) == 0 && setresuid(2000, 2000, 0) == 0);
	int fd = unix_connected(SOCK_STREAM, "path");
	CHECK(fd >= 0);
	say(fd, argument ? "from a user" : "from root");
	CHECK(!argument || seteuid(0) == 0);
	tree_park();
	struct ucred peer;
	socklen_t length = sizeof peer;
	CHECK(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0 && peer.pid == getppid() && peer.uid == 0);
	CHECK(unix_is(fd, peer_name, "path"));
	expect(fd, "from the server");
	expect_nothing(fd);
	say(fd, "bye");
	return 1;
}

static void check(int fd, pid_t pid, uid_t uid, gid_t gid, const char *text)
{
	struct ucred peer;
	socklen_t length = sizeof peer;
	CHECK(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0);
	CHECK(peer.pid == pid && peer.uid == uid && peer.gid == gid);
	expect(fd, text);
	expect_nothing(fd);
	CHECK(tree_finish(pid) == 1);
	expect(fd, "bye");
	expect_end(fd);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	int listener = unix_listening(SOCK_STREAM, "path", 5), first, second;
	CHECK(chmod("path", 0666) == 0);
	pid_t root = tree_start(client, NULL);
	CHECK((first = accept(listener, NULL, NULL)) >= 0);
	pid_t user = tree_start(client, "");
	CHECK((second = accept(listener, NULL, NULL)) >= 0);
	say(first, "from the server");
	say(second, "from the server");
	wait_go();
	check(first, root, 0, 0, "from root");
	check(second, user, 2000, 2001, "from a user");
	int late = unix_connected(SOCK_STREAM, "path");
	CHECK(late >= 0 && accept(listener, NULL, NULL) >= 0);
	return finish();
}
