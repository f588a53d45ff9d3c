/* Packet sockets on the loopback device: of all protocols and of one, raw and cooked, with a filter, memberships, a fanout group. */
#include "live.h"
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <sys/socket.h>

#define PROTOCOL 0x88b5 /* for experiments */

static int bound(int type, int protocol)
{
	int fd = socket(AF_PACKET, type, 0);
	struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(protocol), .sll_ifindex = 1};
	CHECK(fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof at) == 0);
	return fd;
}

static int value_of(int fd, int name)
{
	int value = -1;
	socklen_t size = sizeof value;
	CHECK(getsockopt(fd, SOL_PACKET, name, &value, &size) == 0);
	return value;
}

static void send_one(int fd, const char *text, int protocol)
{
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(protocol), .sll_ifindex = 1, .sll_halen = 6};
	CHECK(sendto(fd, text, strlen(text), 0, (struct sockaddr *)&to, sizeof to) == (ssize_t)strlen(text));
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	struct sock_filter first[] = {BPF_STMT(BPF_LD | BPF_B | BPF_ABS, 0), BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, 'y', 0, 1), BPF_STMT(BPF_RET | BPF_K, 100), BPF_STMT(BPF_RET | BPF_K, 0)};
	struct sock_fprog filter = {4, first};
	struct packet_mreq request = {.mr_ifindex = 1, .mr_type = PACKET_MR_MULTICAST, .mr_alen = 6, .mr_address = {1, 0, 0x5e, 1, 2, 3}};
	int one = 1, cooked = bound(SOCK_DGRAM, PROTOCOL), raw = bound(SOCK_RAW, PROTOCOL + 1), fan[2], fanout = getpid() & 0xffff;
	int fresh = socket(AF_PACKET, SOCK_DGRAM, 0);
	CHECK(setsockopt(cooked, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) == 0 && setsockopt(cooked, SOL_PACKET, PACKET_AUXDATA, &one, sizeof one) == 0);
	CHECK(setsockopt(raw, SOL_PACKET, PACKET_ADD_MEMBERSHIP, &request, sizeof request) == 0 && setsockopt(raw, SOL_PACKET, PACKET_IGNORE_OUTGOING, &one, sizeof one) == 0);
	for (int i = 0; i < 2; i++) {
		fan[i] = bound(SOCK_DGRAM, PROTOCOL + 2);
		CHECK(setsockopt(fan[i], SOL_PACKET, PACKET_FANOUT, &(int){fanout | PACKET_FANOUT_LB << 16}, sizeof(int)) == 0);
	}
	wait_go();
	char got[64];
	struct sockaddr_ll at = {};
	socklen_t size = sizeof at;
	CHECK(getsockname(raw, (struct sockaddr *)&at, &size) == 0 && at.sll_ifindex == 1 && at.sll_protocol == htons(PROTOCOL + 1));
	CHECK(value_of(cooked, PACKET_AUXDATA) == 1 && value_of(raw, PACKET_AUXDATA) == 0 && value_of(raw, PACKET_IGNORE_OUTGOING) == 1);
	CHECK(value_of(fan[0], PACKET_FANOUT) == (fanout | PACKET_FANOUT_LB << 16) && value_of(fan[1], PACKET_FANOUT) == value_of(fan[0], PACKET_FANOUT));
	CHECK(setsockopt(raw, SOL_PACKET, PACKET_DROP_MEMBERSHIP, &request, sizeof request) == 0);
	send_one(fresh, "no", PROTOCOL);
	send_one(fresh, "yes", PROTOCOL);
	CHECK(poll(&(struct pollfd){.fd = cooked, .events = POLLIN}, 1, 5000) == 1 && recv(cooked, got, sizeof got, 0) == 3 && got[0] == 'y');
	for (int i = 0; i < 8; i++) send_one(fresh, "fan", PROTOCOL + 2);
	for (int i = 0; i < 2; i++) CHECK(poll(&(struct pollfd){.fd = fan[i], .events = POLLIN}, 1, 5000) == 1);
	return finish();
}
