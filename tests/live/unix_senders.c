/* Datagrams that wait, of several senders: some that have gone, with a name whose file is still there or is not, an abstract one, none; and
 * some that are there and are answered. */
#include "unix.h"

static char large[100000], got[200000];

static void send_to(int from, const char *name, const char *text)
{
	struct sockaddr_un address;
	socklen_t length = unix_name(&address, name);
	CHECK(sendto(from, text, strlen(text), 0, (struct sockaddr *)&address, length) == (ssize_t)strlen(text));
}

static void expect_from(int fd, const char *text, const char *sender, const char *answer)
{
	struct sockaddr_un address, wanted;
	socklen_t length = sizeof address, wanted_length = *sender ? unix_name(&wanted, sender) : 0;
	char got[64];
	ssize_t n = recvfrom(fd, got, sizeof got, MSG_DONTWAIT, (struct sockaddr *)&address, &length);
	CHECK(n == (ssize_t)strlen(text) && memcmp(got, text, n) == 0);
	if (*sender) CHECK(length == wanted_length && memcmp(&address, &wanted, length) == 0);
	else CHECK(length == 0 || (length == sizeof(sa_family_t) && address.sun_family == AF_UNIX));
	if (answer) CHECK(sendto(fd, answer, strlen(answer), 0, (struct sockaddr *)&address, length) == (ssize_t)strlen(answer));
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	char gone_name[64], two_name[64];
	snprintf(gone_name, sizeof gone_name, "@live-gone-%d", getpid());
	snprintf(two_name, sizeof two_name, "@live-two-%d", getpid());
	int server = unix_bound(SOCK_DGRAM, "server"), left = unix_bound(SOCK_DGRAM, "left"), gone = unix_bound(SOCK_DGRAM, "gone");
	int abstract = unix_bound(SOCK_DGRAM, gone_name), unnamed = socket(AF_UNIX, SOCK_DGRAM, 0);
	int one = unix_bound(SOCK_DGRAM, "one"), two = unix_bound(SOCK_DGRAM, two_name);
	send_to(left, "server", "of one that left its file");
	send_to(one, "server", "of one");
	send_to(gone, "server", "of one that took it along");
	send_to(abstract, "server", "of an abstract one");
	send_to(two, "server", "of two");
	send_to(unnamed, "server", "of nobody");
	send_to(one, "server", "of one again");
	memset(large, 'x', sizeof large - 1);
	send_to(two, "server", large);
	send_to(two, "server", "");
	CHECK(close(left) == 0 && close(gone) == 0 && unlink("gone") == 0 && close(abstract) == 0 && close(unnamed) == 0);
	wait_go();
	expect_from(server, "of one that left its file", "left", NULL);
	expect_from(server, "of one", "one", "answer one");
	expect_from(server, "of one that took it along", "gone", NULL);
	expect_from(server, "of an abstract one", gone_name, NULL);
	expect_from(server, "of two", two_name, "answer two");
	expect_from(server, "of nobody", "", NULL);
	expect_from(server, "of one again", "one", NULL);
	CHECK(recv(server, got, sizeof got, MSG_DONTWAIT) == sizeof large - 1 && memcmp(got, large, sizeof large - 1) == 0);
	expect_from(server, "", two_name, NULL);
	expect_nothing(server);
	expect_from(one, "answer one", "server", NULL);
	expect_from(two, "answer two", "server", NULL);
	CHECK(access("gone", F_OK) == -1 && access("left", F_OK) == 0);
	return finish();
}
