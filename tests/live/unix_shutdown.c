/* Unix sockets of which a direction is shut down, with data still queued, and one whose peer has been closed. */
#include "unix.h"

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int writes[2], reads[2], both[2], closed[2], reset[2];
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, writes) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, reads) == 0);
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, both) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, closed) == 0);
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, reset) == 0);
	say(writes[0], "before the end");
	CHECK(shutdown(writes[0], SHUT_WR) == 0 && shutdown(reads[0], SHUT_RD) == 0);
	say(both[1], "last");
	CHECK(shutdown(both[0], SHUT_RDWR) == 0);
	say(closed[1], "left behind");
	CHECK(close(closed[1]) == 0);
	say(reset[1], "datagram");
	CHECK(close(reset[1]) == 0);
	wait_go();
	expect(writes[1], "before the end");
	expect_end(writes[1]);
	CHECK(send(writes[0], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	say(writes[1], "other way");
	expect(writes[0], "other way");
	CHECK(send(reads[1], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	expect_end(reads[0]);
	say(reads[0], "still");
	expect(reads[1], "still");
	expect(both[0], "last");
	expect_end(both[0]);
	CHECK(send(both[0], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	CHECK(send(both[1], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	expect(closed[0], "left behind");
	expect_end(closed[0]);
	CHECK(send(closed[0], "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	expect(reset[0], "datagram");
	CHECK(send(reset[0], "x", 1, MSG_NOSIGNAL) == -1 && (errno == ECONNREFUSED || errno == ECONNRESET));
	return finish();
}
