/* See tcp_waiting.h: the dump. What is found is compared with what sock_diag(7) tells of the same connections. */
#include "engine/kinds/tcp_waiting.h"

#include "engine/kernel_pages.h"
#include "engine/kinds/inet_diag.h"
#include "engine/kinds/tcp.h"
#include "engine/task/task.h"
#include "tcp_waiting.pb-c.h"

#include <fcntl.h>
#include <time.h>

#define TRIES 20
#define CONNECTIONS_MAX 65536U
#define BUFFERS_MAX 65536U
#define DATA_MAX (64U << 20)
#define FRAGS_MAX 64
#define BOOT_ID "/proc/sys/kernel/random/boot_id"

/* Where the parts are that the kernel keeps them in. */
struct layout {
	int private_data, sk, accept, first, next, child;
	int family, state, port, peer_port, local, peer, local6, peer6, queue;
	int rcv_nxt, snd_nxt, snd_una, copied, window, options, recent, mss;
	int skb_next, len, data_len, data, head, end, control, n_frags, frag_list, frags;
	int frag_page, frag_len, frag_offset;
};

/* One of them. */
struct found {
	uint64_t sock;
	struct connection c;
	uint8_t state;
	uint32_t rcv_nxt, snd_nxt, snd_una, copied, window, recent;
	uint16_t mss;
	char *data;
	size_t size;
};

struct reader {
	struct kernel *k;
	struct layout l;
	struct kernel_pages pages;
	uint64_t listener; /* its struct sock */
	VEC(struct found) list;
};

/* ---- layout ---- */

static int find_layout(const struct kernel *k, struct layout *l)
{
	const struct {
		int *to;
		const char *type, *member;
	} wanted[] = {
		{ &l->private_data, "file", "private_data" }, { &l->sk, "socket", "sk" }, { &l->accept, "inet_connection_sock", "icsk_accept_queue" },
		{ &l->first, "request_sock_queue", "rskq_accept_head" }, { &l->next, "request_sock", "dl_next" }, { &l->child, "request_sock", "sk" },
		{ &l->family, "sock_common", "skc_family" }, { &l->state, "sock_common", "skc_state" }, { &l->port, "sock_common", "skc_num" },
		{ &l->peer_port, "sock_common", "skc_dport" }, { &l->local, "sock_common", "skc_rcv_saddr" }, { &l->peer, "sock_common", "skc_daddr" },
		{ &l->local6, "sock_common", "skc_v6_rcv_saddr" }, { &l->peer6, "sock_common", "skc_v6_daddr" }, { &l->queue, "sock", "sk_receive_queue" },
		{ &l->rcv_nxt, "tcp_sock", "rcv_nxt" }, { &l->snd_nxt, "tcp_sock", "snd_nxt" }, { &l->snd_una, "tcp_sock", "snd_una" },
		{ &l->copied, "tcp_sock", "copied_seq" }, { &l->window, "tcp_sock", "snd_wnd" }, { &l->options, "tcp_sock", "rx_opt" },
		{ &l->recent, "tcp_options_received", "ts_recent" }, { &l->mss, "tcp_options_received", "mss_clamp" },
		{ &l->skb_next, "sk_buff", "next" }, { &l->len, "sk_buff", "len" }, { &l->data_len, "sk_buff", "data_len" }, { &l->data, "sk_buff", "data" },
		{ &l->head, "sk_buff", "head" }, { &l->end, "sk_buff", "end" }, { &l->control, "sk_buff", "cb" },
		{ &l->n_frags, "skb_shared_info", "nr_frags" }, { &l->frag_list, "skb_shared_info", "frag_list" }, { &l->frags, "skb_shared_info", "frags" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		if ((*wanted[i].to = kernel_offset(k, wanted[i].type, wanted[i].member)) < 0)
			return -ENOTSUP;
	/* A piece of a page: struct skb_frag, which was struct bio_vec from Linux 5.4 to 6.9. */
	const char *frag = kernel_offset(k, "skb_frag", "netmem") == 0 ? "skb_frag" : "bio_vec";
	l->frag_page = 0;
	l->frag_len = kernel_offset(k, frag, *frag == 's' ? "len" : "bv_len");
	l->frag_offset = kernel_offset(k, frag, *frag == 's' ? "offset" : "bv_offset");
	return l->frag_len != 8 || l->frag_offset != 12 || kernel_offset(k, "sock", "__sk_common") || kernel_offset(k, "tcp_skb_cb", "seq") ? -ENOTSUP : 0;
}

static int take(struct reader *r, uint64_t at, int offset, void *to, size_t size)
{
	return kernel_read(r->k, at + (uint64_t)offset, to, size);
}

static int open_reader(struct reader *r, int listener)
{
	int e = kernel_open(&r->k);

	if (!e)
		e = find_layout(r->k, &r->l);
	if (!e)
		e = kernel_pages_find(r->k, &r->pages);
	if (!e)
		e = kernel_file(r->k, listener, &r->listener);
	if (!e)
		e = take(r, r->listener, r->l.private_data, &r->listener, 8);
	return e ? e : take(r, r->listener, r->l.sk, &r->listener, 8);
}

static void close_reader(struct reader *r)
{
	VEC_FOREACH(&r->list, x)
		free(x->data);
	VEC_FREE(&r->list);
	kernel_close(r->k);
}

/* ---- who waits ---- */

static int take_names(struct reader *r, struct found *x)
{
	static const unsigned char mapped[12] = { [10] = 0xff, [11] = 0xff };
	const struct layout *l = &r->l;
	uint16_t family = 0, port = 0;
	unsigned char own[16], peer[16];
	int e = take(r, x->sock, l->family, &family, 2);

	if (!e)
		e = take(r, x->sock, l->port, &x->c.local_port, 2);
	if (!e)
		e = take(r, x->sock, l->peer_port, &port, 2);
	x->c.peer_port = ntohs(port);
	if (!e)
		e = family == AF_INET || family == AF_INET6 ? take(r, x->sock, family == AF_INET ? l->local : l->local6, own, family == AF_INET ? 4 : 16) : -ENOTSUP;
	if (!e)
		e = take(r, x->sock, family == AF_INET ? l->peer : l->peer6, peer, family == AF_INET ? 4 : 16);
	if (e)
		return e;
	bool four = family == AF_INET6 && !memcmp(own, mapped, sizeof(mapped));
	x->c.family = four ? AF_INET : family;
	memcpy(x->c.local, own + (four ? 12 : 0), x->c.family == AF_INET ? 4 : 16);
	memcpy(x->c.peer, peer + (four ? 12 : 0), x->c.family == AF_INET ? 4 : 16);
	return 0;
}

static int list_all(struct reader *r)
{
	uint64_t request;
	int e = take(r, r->listener, r->l.accept + r->l.first, &request, 8);

	while (!e && request) {
		struct found *x = r->list.count < CONNECTIONS_MAX ? VEC_PUSH(&r->list) : NULL;
		if (!x)
			return -ENOMEM;
		*x = (struct found){};
		e = take(r, request, r->l.child, &x->sock, 8);
		if (!e)
			e = x->sock ? take_names(r, x) : -ENOTSUP;
		if (!e)
			e = take(r, request, r->l.next, &request, 8);
	}
	return e;
}

/* ---- what it has received ---- */

static int take_piece(struct reader *r, uint64_t shared, size_t i, size_t *skip, char *to, size_t *size)
{
	unsigned char frag[16];
	uint64_t page;
	uint32_t length, offset;
	int e = take(r, shared, r->l.frags + (int)(i * sizeof(frag)), frag, sizeof(frag));

	if (e)
		return e;
	memcpy(&page, frag, sizeof(page));
	memcpy(&length, frag + 8, sizeof(length));
	memcpy(&offset, frag + 12, sizeof(offset));
	size_t over = MIN(*skip, (size_t)length), n = MIN(length - over, *size);
	*skip -= over;
	*size -= n;
	/* An odd one is of a device's memory. */
	return !n ? 0 : page & 1 ? -ENOTSUP : kernel_pages_read(r->k, &r->pages, page, offset + over, to, n);
}

/* `size` bytes of a packet's, behind the first `skip`. */
static int take_bytes(struct reader *r, uint64_t skb, size_t skip, char *to, size_t size)
{
	uint64_t data = 0, head = 0, list = 0;
	uint32_t len = 0, apart = 0, end = 0;
	uint8_t n_frags = 0;
	int e = take(r, skb, r->l.len, &len, 4);

	if (!e)
		e = take(r, skb, r->l.data_len, &apart, 4);
	if (!e)
		e = take(r, skb, r->l.data, &data, 8);
	if (!e)
		e = take(r, skb, r->l.head, &head, 8);
	if (!e)
		e = take(r, skb, r->l.end, &end, 4);
	uint64_t shared = head + end;
	if (!e)
		e = take(r, shared, r->l.n_frags, &n_frags, 1);
	if (!e)
		e = take(r, shared, r->l.frag_list, &list, 8);
	if (e || apart > len || list || n_frags > FRAGS_MAX)
		return e ? e : -ENOTSUP;
	size_t linear = len - apart, over = MIN(skip, linear), n = MIN(linear - over, size), done = 0;
	skip -= over;
	for (size_t part; !e && done < n; done += part) {
		part = MIN(n - done, (size_t)PAGE_SIZE);
		e = kernel_read(r->k, data + over + done, to + done, part);
	}
	for (size_t i = 0; !e && i < n_frags && done < size; i++) {
		size_t left = size - done;
		e = take_piece(r, shared, i, &skip, to + done, &left);
		done = size - left;
	}
	return e ? e : done == size ? 0 : -EAGAIN;
}

static int take_data(struct reader *r, struct found *x)
{
	const uint64_t queue = x->sock + (uint64_t)r->l.queue;
	uint64_t skb;
	size_t done = 0;
	int e = take(r, queue, 0, &skb, 8);

	for (unsigned n = 0; !e && skb != queue && done < x->size; n++) {
		uint32_t seq = 0, len = 0;
		e = n < BUFFERS_MAX ? take(r, skb, r->l.control, &seq, 4) : -ENOTSUP;
		if (!e)
			e = take(r, skb, r->l.len, &len, 4);
		/* A packet may begin with what another has brought. */
		uint32_t skip = x->copied + (uint32_t)done - seq;
		if (!e && skip < len) {
			size_t part = MIN((size_t)(len - skip), x->size - done);
			e = take_bytes(r, skb, skip, x->data + done, part);
			done += part;
		} else if (!e && skip > len) {
			e = -EAGAIN;
		}
		if (!e)
			e = take(r, skb, r->l.skb_next, &skb, 8);
	}
	return e ? e : done == x->size ? 0 : -EAGAIN;
}

static int take_numbers(struct reader *r, struct found *x)
{
	const struct layout *l = &r->l;
	const struct {
		int offset;
		void *to;
		size_t size;
	} wanted[] = {
		{ l->state, &x->state, 1 }, { l->rcv_nxt, &x->rcv_nxt, 4 }, { l->snd_nxt, &x->snd_nxt, 4 }, { l->snd_una, &x->snd_una, 4 },
		{ l->copied, &x->copied, 4 }, { l->window, &x->window, 4 }, { l->options + l->recent, &x->recent, 4 }, { l->options + l->mss, &x->mss, 2 },
	};
	int e = 0;

	for (size_t i = 0; !e && i < ARRAY_SIZE(wanted); i++)
		e = take(r, x->sock, wanted[i].offset, wanted[i].to, wanted[i].size);
	return e;
}

/* Until nothing has changed meanwhile: a packet that had passed when the lock came may still arrive. */
static int look_at(struct reader *r, struct found *x)
{
	struct timespec pause = { 0, 1000000 };

	for (int i = 0; i < TRIES; i++) {
		struct found after = { .sock = x->sock };
		int e = take_numbers(r, x);
		if (e)
			return e;
		if ((x->state != STATE_ESTABLISHED && x->state != STATE_CLOSE_WAIT) || x->snd_nxt != x->snd_una)
			return -ENOTSUP;
		x->size = x->rcv_nxt - x->copied - (x->state == STATE_CLOSE_WAIT);
		free(x->data);
		x->data = x->size <= DATA_MAX ? malloc(x->size + 1) : NULL;
		e = x->data ? take_data(r, x) : -ENOMEM;
		if (!e)
			e = take_numbers(r, &after);
		if (!e && after.rcv_nxt == x->rcv_nxt && after.copied == x->copied && after.state == x->state)
			return 0;
		if (e && e != -EAGAIN)
			return e;
		nanosleep(&pause, NULL);
	}
	return -EAGAIN;
}

/* ---- the image ---- */

static bool is_link_local(const struct connection *c)
{
	return c->family == AF_INET6 && c->peer[0] == 0xfe && (c->peer[1] & 0xc0) == 0x80;
}

static int write_one(struct image_file *file, const struct found *x, const struct inet_diag *diag, char *boot)
{
	TcpWaitingEntry e = TCP_WAITING_ENTRY__INIT;
	size_t size = x->c.family == AF_INET ? 4 : 16;

	e.family = (uint32_t)x->c.family;
	e.local = (ProtobufCBinaryData){ size, (uint8_t *)x->c.local };
	e.peer = (ProtobufCBinaryData){ size, (uint8_t *)x->c.peer };
	e.local_port = x->c.local_port;
	e.peer_port = x->c.peer_port;
	e.ended = x->state == STATE_CLOSE_WAIT;
	e.received = x->copied;
	e.sent = x->snd_nxt;
	e.length = (uint32_t)x->size;
	e.options = diag->options & TCP_WAITING_OPTIONS;
	e.snd_wscale = diag->snd_wscale;
	e.rcv_wscale = diag->rcv_wscale;
	e.mss = x->mss;
	e.window = x->window;
	e.timestamp = x->recent;
	e.boot = boot;
	int r = image_write_message(file, &e.base);
	return r ? r : image_write_bytes(file, x->data, x->size);
}

static int write_all(struct dump *d, struct descriptor *f, struct reader *r)
{
	struct inet_diags all = {};
	struct image_file *file = NULL;
	_cleanup_free_ char *boot = NULL;
	char name[40];
	int e = inet_diag_read(IPPROTO_TCP, &all);

	snprintf(name, sizeof(name), "tcp-waiting-%x.img", (uint32_t)f->st.st_ino);
	if (!e)
		e = read_file_at(AT_FDCWD, BOOT_ID, 256, &boot, NULL);
	if (!e)
		e = image_create(d->dir, name, IMAGE_MAGIC_TCP_WAITING, &file);
	if (boot)
		boot[strcspn(boot, "\n")] = '\0';
	VEC_FOREACH(&r->list, x) {
		const struct inet_diag *diag = e ? NULL : inet_diag_find_connection(&all, &x->c);
		if (!e)
			e = !diag || diag->state != x->state || diag->unread != x->rcv_nxt - x->copied ? -EAGAIN : diag->secured || diag->upper ? -ENOTSUP : 0;
		if (!e)
			e = write_one(file, x, diag, boot);
	}
	int closed = file ? image_close(file) : 0;
	inet_diag_free(&all);
	return e ? e : closed;
}

static int hold_back(struct dump *d, const struct reader *r, struct network_lock *lock)
{
	VEC(struct connection) list = {};

	VEC_FOREACH(&r->list, x) {
		struct connection *c = VEC_PUSH(&list);
		if (!c) {
			VEC_FREE(&list);
			return error_set(d->e, -ENOMEM, "out of memory");
		}
		*c = x->c;
	}
	int e = lock ? network_lock_add(lock, list.data, list.count, d->e) : 0;
	VEC_FREE(&list);
	return e;
}

static int read_all(struct reader *r)
{
	int e = 0;

	for (size_t i = 0; !e && i < r->list.count; i++)
		e = is_link_local(&r->list.data[i].c) ? -ENOTSUP : look_at(r, &r->list.data[i]);
	return e;
}

int tcp_waiting_capture(struct dump *d, struct descriptor *f, const SkOptsEntry *options, struct network_lock *lock, unsigned int n)
{
	struct reader r = {};
	int e = options->so_reuseport || options->so_bound_dev ? -ENOTSUP : open_reader(&r, f->own_fd), held = 0;

	if (!e)
		e = list_all(&r);
	if (!e && !d->obstacles)
		held = hold_back(d, &r, lock);
	if (!e && !held)
		e = read_all(&r);
	if (!e && !held && !d->obstacles)
		e = write_all(d, f, &r);
	close_reader(&r);
	if (held || !e)
		return held;
	return fd_error(d, f, e == -ENOMEM ? e : -ENOTSUP, "has %u connections not accepted yet; try again, or use --skip-in-flight to drop them: they can't be saved "
			"(%s; it takes BTF, BPF and CAP_BPF, a socket without SO_REUSEPORT or a device of its own, and connections that live)", n, strerror(-e));
}
