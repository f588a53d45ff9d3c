/* Unix sockets connected through a listener, by path and by abstract name: queues, names, credentials and groups of the peer; the
 * listener is still there, or closed and its path deleted. */
#include "unix.h"
#include <grp.h>

enum { KINDS = 3 };
static const int types[KINDS] = {SOCK_STREAM, SOCK_SEQPACKET, SOCK_STREAM};
static char names[KINDS][64];
static int listeners[KINDS], clients[KINDS], servers[KINDS];

static void make(int i)
{
	listeners[i] = unix_listening(types[i], names[i], 5);
	CHECK((clients[i] = unix_connected(types[i], names[i])) >= 0);
	CHECK((servers[i] = accept(listeners[i], NULL, NULL)) >= 0);
	say(clients[i], "to the server");
	say(servers[i], "to the client");
	if (i == 2) CHECK(close(listeners[i]) == 0 && unlink(names[i]) == 0);
}

static int peer_is_self(int fd)
{
	struct ucred peer;
	socklen_t length = sizeof peer;
	CHECK(getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &length) == 0);
	gid_t groups[8];
	socklen_t size = sizeof groups;
	/* As they were when it connected. */
	CHECK(getsockopt(fd, SOL_SOCKET, SO_PEERGROUPS, groups, &size) == 0 && size == 3 * sizeof *groups && groups[0] == 7 && groups[2] == 70000);
	return peer.pid == getpid() && peer.uid == getuid() && peer.gid == getgid();
}

static void check(int i)
{
	CHECK(unix_is(clients[i], peer_name, names[i]) && unix_is(clients[i], own_name, ""));
	CHECK(unix_is(servers[i], own_name, names[i]) && unix_is(servers[i], peer_name, ""));
	CHECK(peer_is_self(clients[i]) && peer_is_self(servers[i]));
	expect(servers[i], "to the server");
	expect(clients[i], "to the client");
	expect_nothing(clients[i]);
	say(clients[i], "again");
	expect(servers[i], "again");
	if (i == 2) return;
	int another = unix_connected(types[i], names[i]), accepted = accept(listeners[i], NULL, NULL);
	CHECK(another >= 0 && accepted >= 0 && close(another) == 0);
	expect_end(accepted);
	CHECK(close(clients[i]) == 0);
	expect_end(servers[i]);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	strcpy(names[0], "path");
	snprintf(names[1], sizeof names[1], "@live-%d", getpid());
	strcpy(names[2], "gone");
	CHECK(setgroups(3, (gid_t[]){7, 9, 70000}) == 0);
	for (int i = 0; i < KINDS; i++) make(i);
	CHECK(setgroups(1, (gid_t[]){8}) == 0);
	wait_go();
	for (int i = 0; i < KINDS; i++) check(i);
	return finish();
}
