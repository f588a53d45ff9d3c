/* TCP connections, both ends in the tree: IPv4, IPv6, IPv4 in IPv6; idle, with little and with much in both queues. */
#include "tcp.h"

#define MUCH 400000

static struct queued { struct pair p; size_t size[2]; } list[9];

static void check(struct queued *q, unsigned seed)
{
	check_same(&q->p);
	CHECK(state_of(q->p.client) == TCP_ESTABLISHED && state_of(q->p.server) == TCP_ESTABLISHED);
	drain(q->p.server, q->size[0], seed, 0);
	drain(q->p.client, q->size[1], seed + 1, 0);
	/* And on in both directions. */
	CHECK(fill_up(q->p.client, 1000, 7) == 1000 && fill_up(q->p.server, 3000, 8) == 3000);
	drain(q->p.server, 1000, 7, 0);
	drain(q->p.client, 3000, 8, 0);
	CHECK(close(q->p.client) == 0);
	drain(q->p.server, 0, 0, 1);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int count = has_six() ? 9 : 3;
	for (int i = 0; i < count; i++) {
		struct queued *q = &list[i];
		q->p = connect_pair((enum family)(i / 3), i % 3 == 2 ? 20000 : 0);
		size_t most = i % 3 == 0 ? 0 : i % 3 == 1 ? 1234 : MUCH;
		q->size[0] = fill_up(q->p.client, most, (unsigned)i);
		q->size[1] = fill_up(q->p.server, most, (unsigned)i + 1);
		CHECK(most != MUCH || (queued(q->p.client, SIOCOUTQ) > 0 && queued(q->p.server, SIOCINQ) > 0));
	}
	usleep(50000);
	for (int i = 0; i < count; i++) remember(&list[i].p);
	wait_go();
	for (int i = 0; i < count; i++) check(&list[i], (unsigned)i);
	return finish();
}
