/* TCP connections in the states of their end, with what is queued: each goes on to its end as if nothing had been. */
#include "tcp.h"

#define MUCH 300000
#define BUFFER 20000

struct end {
	struct pair p;
	size_t size[2]; /* that the client sent, that the server sent */
	int state[2];
};

enum { HALF, BOTH_WAYS, LAST, SIMULTANEOUS, ENDED, DEAF, CASES };

static struct end list[CASES * 3];

static void make(struct end *x, int what, enum family family)
{
	x->p = connect_pair(family, what == BOTH_WAYS || what == LAST || what == SIMULTANEOUS ? BUFFER : 0);
	int client = x->p.client, server = x->p.server;
	switch (what) {
	case HALF: /* the client has ended, both have something to read */
		x->size[0] = fill_up(client, 777, 1);
		x->size[1] = fill_up(server, 888, 2);
		CHECK(shutdown(client, SHUT_WR) == 0);
		wait_state(client, TCP_FIN_WAIT2);
		wait_state(server, TCP_CLOSE_WAIT);
		break;
	case BOTH_WAYS: /* its end stands behind what the server has no room for */
		x->size[0] = fill_up(client, MUCH, 1);
		CHECK(shutdown(client, SHUT_WR) == 0);
		wait_state(client, TCP_FIN_WAIT1);
		CHECK(state_of(server) == TCP_ESTABLISHED);
		break;
	case LAST: /* the same, of the one who ends second */
		CHECK(shutdown(client, SHUT_WR) == 0);
		wait_state(server, TCP_CLOSE_WAIT);
		x->size[1] = fill_up(server, MUCH, 2);
		CHECK(shutdown(server, SHUT_WR) == 0);
		wait_state(server, TCP_LAST_ACK);
		CHECK(state_of(client) == TCP_FIN_WAIT2);
		break;
	case SIMULTANEOUS: /* both end, and one has not heard of the other's end */
		x->size[0] = fill_up(client, MUCH, 1);
		CHECK(shutdown(client, SHUT_WR) == 0);
		wait_state(client, TCP_FIN_WAIT1);
		CHECK(shutdown(server, SHUT_WR) == 0);
		wait_state(client, TCP_CLOSING);
		wait_state(server, TCP_FIN_WAIT2);
		break;
	case ENDED: /* with something to read; the kernel keeps TIME-WAIT for itself */
		x->size[0] = fill_up(client, 555, 1);
		x->size[1] = fill_up(server, 666, 2);
		CHECK(shutdown(client, SHUT_WR) == 0);
		wait_state(server, TCP_CLOSE_WAIT);
		CHECK(shutdown(server, SHUT_WR) == 0);
		wait_state(server, TCP_CLOSE);
		wait_state(client, TCP_CLOSE);
		break;
	case DEAF: /* does not want to hear more */
		x->size[1] = fill_up(server, 99, 2);
		CHECK(shutdown(client, SHUT_RD) == 0);
		break;
	}
	x->state[0] = state_of(client);
	x->state[1] = state_of(server);
}

static void check(struct end *x, int what)
{
	int client = x->p.client, server = x->p.server;
	char c;
	if (state_of(client) != x->state[0] || state_of(server) != x->state[1])
		live_say("not ok: case %d: states %d and %d, not %d and %d", what, state_of(client), state_of(server), x->state[0], x->state[1]);
	CHECK(state_of(client) == x->state[0] && state_of(server) == x->state[1]);
	if (what == DEAF) {
		struct pollfd p = {.fd = client, .events = POLLIN | POLLRDHUP};
		CHECK(poll(&p, 1, 0) == 1 && p.revents & POLLRDHUP);
		drain(client, x->size[1], 2, 1);
		CHECK(fill_up(client, 10, 3) == 10);
		drain(server, 10, 3, 0);
		return;
	}
	int client_ended = 1, server_ended = what == LAST || what == SIMULTANEOUS || what == ENDED;
	drain(server, x->size[0], 1, client_ended);
	drain(client, x->size[1], 2, server_ended);
	CHECK(send(client, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
	if (!server_ended) { /* the other half goes on */
		CHECK(fill_up(server, 4000, 4) == 4000);
		drain(client, 4000, 4, 0);
		CHECK(close(server) == 0);
		CHECK(recv(client, &c, 1, 0) == 0);
	} else {
		CHECK(send(server, "x", 1, MSG_NOSIGNAL) == -1 && errno == EPIPE);
		wait_state(client, TCP_CLOSE);
		wait_state(server, TCP_CLOSE);
	}
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	int families = has_six() ? 3 : 1;
	for (int family = 0; family < families; family++)
		for (int what = 0; what < CASES; what++) make(&list[family * CASES + what], what, (enum family)family);
	wait_go();
	for (int family = 0; family < families; family++)
		for (int what = 0; what < CASES; what++) check(&list[family * CASES + what], what);
	return finish();
}
