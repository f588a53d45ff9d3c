/* Netlink sockets: bound, in groups, connected, of several protocols, with options; what is asked is answered, what happens is heard. */
#include "live.h"
#include <linux/audit.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netlink.h>
#include <linux/rtnetlink.h>
#include <poll.h>
#include <stdint.h>
#include <sys/socket.h>

static struct sockaddr_nl name_of(int fd)
{
	struct sockaddr_nl at = {};
	socklen_t size = sizeof at;
	CHECK(getsockname(fd, (struct sockaddr *)&at, &size) == 0);
	return at;
}

static int bound(int protocol, unsigned groups, unsigned port)
{
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
	struct sockaddr_nl at = {.nl_family = AF_NETLINK, .nl_groups = groups, .nl_pid = port};
	CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0);
	return fd;
}

static int value_of(int fd, int name)
{
	int value = -1;
	socklen_t size = sizeof value;
	CHECK(getsockopt(fd, SOL_NETLINK, name, &value, &size) == 0);
	return value;
}

/* The answer to a question after device 1. */
static void ask(int fd)
{
	struct { struct nlmsghdr h; struct ifinfomsg m; } q = {.h = {.nlmsg_len = sizeof q, .nlmsg_type = RTM_GETLINK, .nlmsg_flags = NLM_F_REQUEST, .nlmsg_seq = 5}, .m.ifi_index = 1};
	char got[16384];
	CHECK(send(fd, &q, sizeof q, 0) == sizeof q);
	CHECK(poll(&(struct pollfd){.fd = fd, .events = POLLIN}, 1, 5000) == 1 && recv(fd, got, sizeof got, 0) > (ssize_t)sizeof(struct nlmsghdr));
	CHECK(((struct nlmsghdr *)got)->nlmsg_seq == 5 && ((struct nlmsghdr *)got)->nlmsg_type == RTM_NEWLINK);
}

/* Of netfilter and the audit daemon, where the kernel has them; -1: it has not. */
static int asks(int protocol, int type, int extra)
{
	struct { struct nlmsghdr h; struct nfgenmsg m; } q = {.h = {.nlmsg_len = NLMSG_LENGTH(extra), .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST, .nlmsg_seq = 6}};
	int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
	char got[8192];
	if (fd >= 0 && send(fd, &q, q.h.nlmsg_len, 0) > 0 && recv(fd, got, sizeof got, 0) > 0 && ((struct nlmsghdr *)got)->nlmsg_type != NLMSG_ERROR)
		return fd;
	close(fd);
	return -1;
}

static void answers(int fd, int type, int extra)
{
	struct { struct nlmsghdr h; struct nfgenmsg m; } q = {.h = {.nlmsg_len = NLMSG_LENGTH(extra), .nlmsg_type = type, .nlmsg_flags = NLM_F_REQUEST, .nlmsg_seq = 7}};
	char got[8192];
	if (fd >= 0)
		CHECK(send(fd, &q, q.h.nlmsg_len, 0) > 0 && recv(fd, got, sizeof got, 0) > 0 && ((struct nlmsghdr *)got)->nlmsg_seq == 7);
}

#define GENERATION (NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETGEN)

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int route = bound(NETLINK_ROUTE, RTMGRP_LINK | RTMGRP_NOTIFY, 0), events = bound(NETLINK_KOBJECT_UEVENT, 0, 0), high = 33, one = 1;
	int listener = bound(NETLINK_USERSOCK, 0, (unsigned)getpid() + 5000000), sender = bound(NETLINK_USERSOCK, 0, 0);
	int fresh = socket(AF_NETLINK, SOCK_DGRAM, NETLINK_ROUTE), group = 7;
	int audit = asks(NETLINK_AUDIT, AUDIT_GET, 0), netfilter = asks(NETLINK_NETFILTER, GENERATION, sizeof(struct nfgenmsg));
	struct sockaddr_nl to = name_of(listener), peer;
	CHECK(fresh >= 0 && connect(sender, (struct sockaddr *)&to, sizeof to) == 0);
	CHECK(setsockopt(route, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &high, sizeof high) == 0);
	CHECK(setsockopt(listener, SOL_NETLINK, NETLINK_ADD_MEMBERSHIP, &group, sizeof group) == 0);
	CHECK(setsockopt(route, SOL_NETLINK, NETLINK_EXT_ACK, &one, sizeof one) == 0 && setsockopt(route, SOL_NETLINK, NETLINK_PKTINFO, &one, sizeof one) == 0);
	struct sockaddr_nl before[4] = {name_of(route), name_of(events), name_of(listener), name_of(sender)};
	wait_go();
	struct sockaddr_nl after[4] = {name_of(route), name_of(events), name_of(listener), name_of(sender)};
	uint32_t groups[8] = {};
	socklen_t size = sizeof groups;
	CHECK(memcmp(before, after, sizeof before) == 0);
	CHECK(getsockopt(route, SOL_NETLINK, NETLINK_LIST_MEMBERSHIPS, groups, &size) == 0 && groups[0] == (RTMGRP_LINK | RTMGRP_NOTIFY) && groups[1] == 1);
	CHECK(value_of(route, NETLINK_EXT_ACK) == 1 && value_of(route, NETLINK_PKTINFO) == 1 && value_of(sender, NETLINK_EXT_ACK) == 0);
	ask(route);
	ask(fresh);
	answers(audit, AUDIT_GET, 0);
	answers(netfilter, GENERATION, sizeof(struct nfgenmsg));
	char got[8];
	struct msghdr m = {.msg_name = &peer, .msg_namelen = sizeof peer, .msg_iov = &(struct iovec){got, sizeof got}, .msg_iovlen = 1};
	CHECK(send(sender, "hello", 5, 0) == 5 && recvmsg(listener, &m, 0) == 5 && peer.nl_pid == before[3].nl_pid);
	to = (struct sockaddr_nl){.nl_family = AF_NETLINK, .nl_groups = 1U << (group - 1)};
	sendto(sender, "all", 3, 0, (struct sockaddr *)&to, sizeof to); /* also to the kernel, which does not listen */
	CHECK(recv(listener, got, sizeof got, 0) == 3 && memcmp(got, "all", 3) == 0);
	return finish();
}
