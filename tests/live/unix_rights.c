/* Descriptors on their way in a unix socket: a file at its position that nobody else holds, and a pipe's end. */
#include "unix.h"
#include "data.h"

static void send_fd(int to, int fd, const char *text)
{
	char control[CMSG_SPACE(sizeof fd)] = "";
	struct iovec vector = {(char *)text, strlen(text)};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof control};
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	header->cmsg_level = SOL_SOCKET;
	header->cmsg_type = SCM_RIGHTS;
	header->cmsg_len = CMSG_LEN(sizeof fd);
	memcpy(CMSG_DATA(header), &fd, sizeof fd);
	CHECK(sendmsg(to, &message, 0) == (ssize_t)strlen(text) && close(fd) == 0);
}

static int receive_fd(int from, const char *text)
{
	char control[256], got[64];
	int fd;
	struct iovec vector = {got, sizeof got};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof control};
	CHECK(recvmsg(from, &message, MSG_DONTWAIT) == (ssize_t)strlen(text) && memcmp(got, text, strlen(text)) == 0);
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	CHECK(header && header->cmsg_type == SCM_RIGHTS && header->cmsg_len == CMSG_LEN(sizeof fd));
	memcpy(&fd, CMSG_DATA(header), sizeof fd);
	return fd;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int pair[2], end[2], file = data_file("data", 1000, 1);
	char got[16];
	CHECK(socketpair(AF_UNIX, SOCK_SEQPACKET, 0, pair) == 0 && pipe(end) == 0 && lseek(file, 123, SEEK_SET) == 123);
	send_fd(pair[0], file, "a file");
	say(pair[0], "in between");
	send_fd(pair[0], end[0], "a pipe");
	CHECK(write(end[1], "content", 7) == 7);
	wait_go();
	file = receive_fd(pair[1], "a file");
	CHECK(lseek(file, 0, SEEK_CUR) == 123 && (fcntl(file, F_GETFL) & O_ACCMODE) == O_RDWR);
	expect(pair[1], "in between");
	end[0] = receive_fd(pair[1], "a pipe");
	CHECK(read(end[0], got, sizeof got) == 7 && memcmp(got, "content", 7) == 0);
	CHECK(write(end[1], "x", 1) == 1 && read(end[0], got, 1) == 1);
	expect_nothing(pair[1]);
	return finish();
}
