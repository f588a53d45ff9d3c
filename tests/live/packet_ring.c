/* Packet sockets with rings (TPACKET_V1, V2, V3): packets that wait in them stay, and the kernel goes on where it was: in the middle of a ring, at its
 * end, in a block that is half full, just handed over, or the program's (the ring waits). For sending: the next frame is the next one. */
#include "live.h"
#include <arpa/inet.h>
#include <linux/filter.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <poll.h>
#include <stdint.h>
#include <sys/mman.h>
#include <sys/socket.h>

#define PROTOCOL 0x88b6 /* for experiments */
#define FRAME 512
#define FRAMES 64
#define BLOCK 8192
#define BLOCKS 4
#define KEEP 60000 /* ms until a block is handed over that is not full */

struct ring {
	int fd, version, next, protocol;
	char *at, *tx;
	uint32_t sent, got, left; /* numbers of packets; left: in the block that is read */
	char *packet;
};

static int sender;

static struct ring ring_of(int version, int type, int protocol, int blocks, int timeout, int private, int tx)
{
	struct ring r = {.fd = socket(AF_PACKET, type, 0), .version = version, .protocol = protocol};
	struct tpacket_req3 request = {.tp_block_size = BLOCK, .tp_block_nr = blocks, .tp_frame_size = FRAME, .tp_frame_nr = blocks * BLOCK / FRAME};
	CHECK(r.fd >= 0 && setsockopt(r.fd, SOL_PACKET, PACKET_VERSION, &version, sizeof version) == 0);
	if (tx) CHECK(setsockopt(r.fd, SOL_PACKET, PACKET_TX_RING, &request, sizeof request) == 0);
	if (version == TPACKET_V3) request.tp_retire_blk_tov = timeout, request.tp_sizeof_priv = private, request.tp_feature_req_word = TP_FT_REQ_FILL_RXHASH;
	CHECK(setsockopt(r.fd, SOL_PACKET, PACKET_RX_RING, &request, sizeof request) == 0);
	r.at = mmap(NULL, (size_t)blocks * BLOCK * (1 + tx), PROT_READ | PROT_WRITE, MAP_SHARED, r.fd, 0);
	CHECK(r.at != MAP_FAILED);
	r.tx = r.at + (size_t)blocks * BLOCK;
	struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(protocol), .sll_ifindex = 1};
	CHECK(bind(r.fd, (struct sockaddr *)&at, sizeof at) == 0);
	return r;
}

static void send_to(struct ring *r, int count, int size)
{
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(r->protocol), .sll_ifindex = 1, .sll_halen = 6};
	char data[8000];
	for (int i = 0; i < count; i++) {
		memset(data, 'a' + r->sent % 26, size);
		memcpy(data, &r->sent, 4);
		r->sent++;
		CHECK(sendto(sender, data, size, 0, (struct sockaddr *)&to, sizeof to) == size);
	}
}

static void wait_in(struct ring *r)
{
	CHECK(poll(&(struct pollfd){.fd = r->fd, .events = POLLIN}, 1, 5000) == 1);
}

/* The number in the next packet, which must be whole. */
static void take_frame(struct ring *r, int blocks, int size)
{
	char *frame = r->at + r->next * FRAME, *data;
	uint32_t number, length;
	if (r->version == TPACKET_V1) {
		struct tpacket_hdr *h = (void *)frame;
		if (!(h->tp_status & TP_STATUS_USER)) wait_in(r);
		CHECK(h->tp_status & TP_STATUS_USER);
		data = frame + h->tp_net, length = h->tp_len - (h->tp_net - h->tp_mac);
	} else {
		struct tpacket2_hdr *h = (void *)frame;
		if (!(h->tp_status & TP_STATUS_USER)) wait_in(r);
		CHECK(h->tp_status & TP_STATUS_USER);
		data = frame + h->tp_net, length = h->tp_len - (h->tp_net - h->tp_mac);
	}
	memcpy(&number, data, 4);
	if (number != r->got) live_say("packet %u, not %u", number, r->got);
	CHECK(number == r->got && (int)length == size && data[4] == (char)('a' + number % 26) && data[size - 1] == data[4]);
	r->got++;
	memset(frame, 0, 4);
	r->next = (r->next + 1) % (blocks * BLOCK / FRAME);
}

static struct tpacket_block_desc *block_of(struct ring *r) { return (void *)(r->at + r->next * BLOCK); }

static void give_block(struct ring *r, int blocks)
{
	block_of(r)->hdr.bh1.block_status = TP_STATUS_KERNEL;
	r->next = (r->next + 1) % blocks;
	r->packet = NULL;
}

static void take_packet(struct ring *r, int blocks)
{
	struct tpacket_hdr_v1 *b = &block_of(r)->hdr.bh1;
	uint32_t number;
	if (!r->packet) {
		if (!(b->block_status & TP_STATUS_USER)) wait_in(r);
		CHECK(b->block_status & TP_STATUS_USER);
		r->left = b->num_pkts, r->packet = (char *)block_of(r) + b->offset_to_first_pkt;
		CHECK(r->left > 0 && b->blk_len <= BLOCK);
	}
	struct tpacket3_hdr *h = (void *)r->packet;
	memcpy(&number, r->packet + h->tp_net, 4);
	if (number != r->got) live_say("packet %u, not %u", number, r->got);
	CHECK(number == r->got && r->packet[h->tp_net + 4] == (char)('a' + number % 26) && r->packet[h->tp_net + h->tp_len - 1 - (h->tp_net - h->tp_mac)] == r->packet[h->tp_net + 4]);
	r->got++;
	CHECK((h->tp_next_offset == 0) == (r->left == 1));
	r->packet += h->tp_next_offset;
	if (!--r->left) give_block(r, blocks);
}

static void check_version(struct ring *r, int version)
{
	int is = -1;
	socklen_t size = sizeof is;
	CHECK(getsockopt(r->fd, SOL_PACKET, PACKET_VERSION, &is, &size) == 0 && is == version);
}

/* Two more through the ring for sending, where `frame` is the next. */
static void send_ring(struct ring *r, int frame, int count)
{
	struct sockaddr_ll to = {.sll_family = AF_PACKET, .sll_protocol = htons(r->protocol), .sll_ifindex = 1, .sll_halen = 6};
	for (int i = 0; i < count; i++) {
		char *f = r->tx + (frame + i) % FRAMES * FRAME, *data = f + (r->version == TPACKET_V2 ? TPACKET2_HDRLEN : TPACKET3_HDRLEN) - sizeof(struct sockaddr_ll);
		memset(data, 'a' + r->sent % 26, 100);
		memcpy(data, &r->sent, 4);
		r->sent++;
		if (r->version == TPACKET_V2) ((struct tpacket2_hdr *)f)->tp_len = 100, ((struct tpacket2_hdr *)f)->tp_status = TP_STATUS_SEND_REQUEST;
		else ((struct tpacket3_hdr *)f)->tp_len = 100, ((struct tpacket3_hdr *)f)->tp_next_offset = 0, ((struct tpacket3_hdr *)f)->tp_status = TP_STATUS_SEND_REQUEST;
	}
	CHECK(sendto(r->fd, NULL, 0, 0, (struct sockaddr *)&to, sizeof to) == count * 100);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	sender = socket(AF_PACKET, SOCK_DGRAM, 0);
	struct sock_filter all[] = {BPF_STMT(BPF_RET | BPF_K, 0x40000)};
	struct sock_fprog filter = {1, all};
	int base = PROTOCOL + getpid() % 500 * 12; /* others may run beside us */

	struct ring one = ring_of(TPACKET_V1, SOCK_DGRAM, base, BLOCKS, 0, 0, 0), two = ring_of(TPACKET_V2, SOCK_DGRAM, base + 1, BLOCKS, 0, 0, 1), full = ring_of(TPACKET_V2, SOCK_RAW, base + 2, 1, 0, 0, 0);
	struct ring three = ring_of(TPACKET_V3, SOCK_DGRAM, base + 3, BLOCKS, KEEP, 20, 1), fresh = ring_of(TPACKET_V3, SOCK_RAW, base + 4, BLOCKS, KEEP, 0, 0), waits = ring_of(TPACKET_V3, SOCK_RAW, base + 5, 2, KEEP, 0, 0);
	struct ring quick = ring_of(TPACKET_V3, SOCK_RAW, base + 6, BLOCKS, 4, 0, 0), empty = ring_of(TPACKET_V1, SOCK_RAW, base + 7, BLOCKS, 0, 0, 0);
	CHECK(setsockopt(one.fd, SOL_SOCKET, SO_ATTACH_FILTER, &filter, sizeof filter) == 0);

	send_to(&one, 40, 60), send_to(&one, 1, 100);
	for (int i = 0; i < 30; i++) take_frame(&one, BLOCKS, 60);
	for (int i = 0; i < FRAMES + 7; i++) send_to(&two, 1, 80), take_frame(&two, BLOCKS, 80); /* round once */
	send_ring(&two, 0, 5);
	for (int i = 0; i < 5; i++) take_frame(&two, BLOCKS, 100);
	send_ring(&two, 5, 2); /* waits */
	two.tx[30 * FRAME + 400] = 'x'; /* being prepared */
	send_to(&full, BLOCK / FRAME + 3, 100); /* three too many */
	full.sent -= 3;
	send_to(&three, 19, 3000); /* two to a block: nine and a half blocks, of which the program takes what it can */
	three.sent = 8;
	for (int i = 0; i < 4; i++) take_packet(&three, BLOCKS);
	send_to(&three, 3, 2000), send_to(&three, 3, 41); /* into the first again, which stays open */
	send_ring(&three, 0, 3);
	send_to(&waits, 12, 3000); /* of which four fit */
	waits.sent = 4;
	for (int i = 0; i < 6; i++) {
		send_to(&quick, 3, 500);
		for (int k = 0; k < 3; k++) take_packet(&quick, BLOCKS);
	}
	wait_go();

	check_version(&one, TPACKET_V1), check_version(&two, TPACKET_V2), check_version(&three, TPACKET_V3);
	for (int i = 0; i < 10; i++) take_frame(&one, BLOCKS, 60);
	take_frame(&one, BLOCKS, 100);
	for (int i = 0; i < 2 * FRAMES; i++) send_to(&one, 1, 60), take_frame(&one, BLOCKS, 60);
	for (int i = 0; i < 2; i++) take_frame(&two, BLOCKS, 100);
	CHECK(two.tx[30 * FRAME + 400] == 'x');
	send_ring(&two, 7, 3);
	for (int i = 0; i < 3; i++) take_frame(&two, BLOCKS, 100);
	for (int i = 0; i < BLOCK / FRAME; i++) take_frame(&full, 1, 100);
	for (int i = 0; i < 20; i++) send_to(&full, 1, 100), take_frame(&full, 1, 100);
	for (int i = 0; i < 4; i++) take_packet(&three, BLOCKS);
	send_ring(&three, 3, 3);
	send_to(&three, 4, 4000);
	while (three.got < three.sent - 1) take_packet(&three, BLOCKS);
	send_to(&fresh, 5, 3000);
	while (fresh.got < 4) take_packet(&fresh, BLOCKS);
	while (waits.got < 4) take_packet(&waits, 2);
	send_to(&waits, 3, 3000);
	while (waits.got < 6) take_packet(&waits, 2);
	for (int i = 0; i < 6; i++) {
		send_to(&quick, 3, 500);
		for (int k = 0; k < 3; k++) take_packet(&quick, BLOCKS);
	}
	for (int i = 0; i < 5; i++) send_to(&empty, 1, 60), take_frame(&empty, BLOCKS, 60);
	return finish();
}
