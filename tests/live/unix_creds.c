/* Messages that wait with their sender's credentials, of the task itself and of a child with other ids. */
#include "unix.h"
#include "tree.h"

static int pair[2];

static int child(void *argument)
{
	CHECK(setresgid(2001, 0, 0) == 0 && setresuid(2000, 0, 0) == 0); /* the real ids are what is sent */
	say(pair[1], "from the child");
	tree_park();
	return 4;
}

static void expect_from(const char *text, pid_t pid, uid_t uid, gid_t gid)
{
	char control[256], got[64];
	struct ucred sender;
	struct iovec vector = {got, sizeof got};
	struct msghdr message = {.msg_iov = &vector, .msg_iovlen = 1,
		.msg_control = control, .msg_controllen = sizeof control};
	CHECK(recvmsg(pair[0], &message, MSG_DONTWAIT) == (ssize_t)strlen(text) && memcmp(got, text, strlen(text)) == 0);
	struct cmsghdr *header = CMSG_FIRSTHDR(&message);
	CHECK(header && header->cmsg_type == SCM_CREDENTIALS);
	memcpy(&sender, CMSG_DATA(header), sizeof sender);
	CHECK(sender.pid == pid && sender.uid == uid && sender.gid == gid);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	CHECK(socketpair(AF_UNIX, SOCK_DGRAM, 0, pair) == 0);
	CHECK(setsockopt(pair[0], SOL_SOCKET, SO_PASSCRED, &(int){1}, sizeof(int)) == 0);
	say(pair[1], "from the parent");
	pid_t pid = tree_start(child, NULL);
	wait_go();
	expect_from("from the parent", getpid(), 0, 0);
	expect_from("from the child", pid, 2000, 2001);
	say(pair[1], "again");
	expect_from("again", getpid(), 0, 0);
	CHECK(tree_finish(pid) == 4);
	return finish();
}
