/*
 * See uring_requests.h.
 *
 * A request is a struct io_kiocb. Those that wait for a file stand in a table by their user_data (cancel_table), timeouts in a list of their own, what has just
 * come true in lists of work that the thread has still to do; each leads to those that are linked behind it. The kernel keeps no copy of the entry that a request
 * came from, but of all that is needed to make it again: what the program gave stands in the request, read once when it was submitted.
 *
 * What is done, and waits for the stopped thread to be told, stands in the image as a completion.
 *
 * Left out: a multishot timeout begins its period anew; a poll that is ready at once tells so once more. Not to be had: what a worker of the kernel is doing
 * (IOSQE_ASYNC, files that can't be polled), what waits for others (IOSQE_IO_DRAIN), and operations that have happened in part.
 */
#include "engine/kinds/uring_requests.h"

#include "engine/kernel.h"
#include "engine/kinds/uring.h"
#include "engine/task/inside.h"
#include "engine/task/task.h"

#include <sys/epoll.h>
#include <sys/uio.h>

#define REQUEST_SIZE 256 /* no more of a struct io_kiocb is looked at */
#define COMMAND_SIZE 64	 /* the part that belongs to the operation */
#define FREE_MAX (1U << 20)
#define TABLE_MAX (1U << 16)
#define PAUSE_NS 2000000
#define WAIT_NS 500000000LL
#define ENTRY_FLAGS 0x7fULL /* IOSQE_*, in the low bits of a request's flags */
#define TIMER_QUEUED 1
#define ITER_UBUF 0
#define ITER_IOVEC 1
#define POLL_BEHAVIOUR (EPOLLONESHOT | EPOLLET)

#define refuse(d, f, format, ...) \
	fd_error(d, f, -ENOTSUP, "is an io_uring ring with " format ", which is not saved; try again when it is done", ##__VA_ARGS__)

struct layout {
	/* io_kiocb */
	int opcode, buf_index, flags, user_data, result, fd, ctx, tctx, hash_node, async_data, link, work_node, work_func;
	/* io_ring_ctx */
	int buckets, bits, timeouts, work, retry, free, allocated, tail, cq_timeouts;
	int bucket_size, cur_pos_bit, fail_bit, reissue_bit;
};

struct under_way {
	uint64_t at;
	bool linked; /* behind the one before it */
	bool waits;  /* for those before it, and has not begun */
	bool done;   /* only its completion is to be told */
	char bytes[REQUEST_SIZE];
};

struct finder {
	struct dump *d;
	struct descriptor *f;
	struct kernel *k;
	struct layout l;
	uint64_t ring; /* its io_ring_ctx */
	struct pool *pool;
	struct uring_symbols *symbols;
	bool polled; /* IORING_SETUP_SQPOLL */
	VEC(struct under_way) list;
};

static int find_layout(struct kernel *k, struct layout *l)
{
	const struct {
		int *to;
		const char *type, *member;
	} wanted[] = {
		{ &l->opcode, "io_kiocb", "opcode" }, { &l->buf_index, "io_kiocb", "buf_index" }, { &l->flags, "io_kiocb", "flags" },
		{ &l->user_data, "io_kiocb", "cqe.user_data" }, { &l->fd, "io_kiocb", "cqe.fd" }, { &l->result, "io_kiocb", "cqe.res" }, { &l->ctx, "io_kiocb", "ctx" },
		{ &l->tctx, "io_kiocb", "tctx" }, { &l->hash_node, "io_kiocb", "hash_node" }, { &l->async_data, "io_kiocb", "async_data" },
		{ &l->link, "io_kiocb", "link" }, { &l->work_node, "io_kiocb", "io_task_work.node" }, { &l->work_func, "io_kiocb", "io_task_work.func" },
		{ &l->buckets, "io_ring_ctx", "cancel_table.hbs" }, { &l->bits, "io_ring_ctx", "cancel_table.hash_bits" },
		{ &l->timeouts, "io_ring_ctx", "timeout_list" }, { &l->work, "io_ring_ctx", "work_llist" },
		{ &l->free, "io_ring_ctx", "submit_state.free_list.next" }, { &l->tail, "io_ring_ctx", "cached_cq_tail" },
		{ &l->cq_timeouts, "io_ring_ctx", "cq_timeouts" },
	};

	for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
		if ((*wanted[i].to = kernel_offset(k, wanted[i].type, wanted[i].member)) < 0)
			return -ENOSYS;
	for (size_t i = 0; i < ARRAY_SIZE(wanted) && !strcmp(wanted[i].type, "io_kiocb"); i++)
		if (*wanted[i].to > REQUEST_SIZE - 16)
			return -ENOSYS;
	l->retry = kernel_offset(k, "io_ring_ctx", "retry_llist");
	l->allocated = kernel_offset(k, "io_ring_ctx", "nr_req_allocated");
	l->cur_pos_bit = kernel_enumerator(k, "", "REQ_F_CUR_POS_BIT");
	l->fail_bit = kernel_enumerator(k, "", "REQ_F_FAIL_BIT");
	l->reissue_bit = kernel_enumerator(k, "", "REQ_F_REISSUE_BIT");
	/* A bucket is its list, and on Linux before 6.10 a lock in front of it; a second table is there then too. */
	l->bucket_size = 64;
	const bool old = kernel_offset(k, "io_ring_ctx", "cancel_table_locked.hbs") >= 0;
	return old || l->cur_pos_bit < 0 || l->fail_bit < 0 || l->reissue_bit < 0 || kernel_offset(k, "io_hash_bucket", "list") ? -ENOSYS : 0;
}

static int read_word(const struct finder *x, uint64_t at, uint64_t *ret)
{
	return kernel_read(x->k, at, ret, sizeof(*ret));
}

static uint64_t word_of(const struct under_way *r, int offset)
{
	uint64_t word;

	memcpy(&word, r->bytes + offset, sizeof(word));
	return word;
}

static uint32_t half_of(const struct under_way *r, int offset)
{
	uint32_t half;

	memcpy(&half, r->bytes + offset, sizeof(half));
	return half;
}

/* ---- which there are ---- */

static bool is_known(const struct finder *x, uint64_t at)
{
	VEC_FOREACH(&x->list, r)
		if (r->at == at)
			return true;
	return false;
}

/* With all that is linked behind it. -EAGAIN: it is no request of this ring any more. */
static int add(struct finder *x, uint64_t at, bool waits)
{
	bool linked = false;
	int r = 0;

	for (; !r && at && !is_known(x, at); linked = waits = true) {
		if (x->list.count >= URING_REQUESTS_MAX)
			return -E2BIG;
		struct under_way *q = VEC_PUSH(&x->list);
		if (!q)
			return -ENOMEM;
		*q = (struct under_way){ .at = at, .linked = linked, .waits = waits };
		r = kernel_read(x->k, at, q->bytes, REQUEST_SIZE);
		if (!r && word_of(q, x->l.ctx) != x->ring)
			r = -EAGAIN;
		at = word_of(q, x->l.link);
	}
	return r;
}

/* A list that ends with NULL, or with where it began; its links are so far inside requests. */
static int add_list(struct finder *x, uint64_t head, int inside)
{
	uint64_t at;
	int r = read_word(x, head, &at);

	for (uint32_t n = 0; !r && at && at != head; n++) {
		r = n > URING_REQUESTS_MAX ? -EAGAIN : add(x, at - (uint64_t)inside, false);
		if (!r)
			r = read_word(x, at, &at);
	}
	return r;
}

/* Functions of the kernel by which one sees what a thread has still to do for a request: some 20 ms. */
static void read_symbols(struct uring_symbols *ret)
{
	const struct {
		const char *name;
		uint64_t *to;
	} wanted[] = { { "io_req_rw_complete", &ret->rw_complete }, { "io_req_task_complete", &ret->complete }, { "io_req_task_submit", &ret->submit } };
	FILE *file = fopen("/proc/kallsyms", "re");
	char line[512], name[256];
	unsigned long long address;
	size_t found = 0;

	ret->read = true;
	while (file && found < ARRAY_SIZE(wanted) && fgets(line, sizeof(line), file)) {
		if (!strstr(line, " io_req_") || sscanf(line, "%llx %*c %255s", &address, name) != 2)
			continue;
		for (size_t i = 0; i < ARRAY_SIZE(wanted); i++)
			if (!strcmp(name, wanted[i].name)) {
				*wanted[i].to = address;
				found++;
			}
	}
	if (file)
		fclose(file);
}

static bool has_flag(const struct finder *x, const struct under_way *r, int bit)
{
	return word_of(r, x->l.flags) >> bit & 1;
}

/* One that is done, of which nobody was told yet. Not added, and so missed: of which more is to be done first, or is not known. */
static int add_done(struct finder *x, const struct under_way *q)
{
	const uint64_t next = word_of(q, x->l.link);
	const int caller_at = kernel_offset(x->k, "io_rw", "kiocb.dio_complete");
	uint8_t opcode = IORING_OP_NOP;
	int r = next ? kernel_read(x->k, next + (uint64_t)x->l.opcode, &opcode, sizeof(opcode)) : 0;

	if (r || has_flag(x, q, x->l.reissue_bit) || (next && (has_flag(x, q, x->l.fail_bit) || opcode == IORING_OP_LINK_TIMEOUT)))
		return r;
	/* A direct write whose file system has still to look at it. */
	if (word_of(q, x->l.work_func) == x->symbols->rw_complete && caller_at >= 0 && caller_at <= COMMAND_SIZE - 8 && word_of(q, caller_at))
		return 0;
	struct under_way *to = x->list.count < URING_REQUESTS_MAX ? VEC_PUSH(&x->list) : NULL;
	if (!to)
		return -ENOMEM;
	*to = *q;
	to->done = true;
	return next ? add(x, next, true) : 0;
}

/*
 * What a thread has still to do. A poll that was woken stands in its table as well; a timeout that is over, or something that is to be tried once more, has done
 * nothing yet; and what is done has its result. Others are not added: then there are more than were found.
 */
static int add_work(struct finder *x, uint64_t head)
{
	struct under_way q;
	uint64_t at;
	int r = read_word(x, head, &at);

	for (uint32_t n = 0; !r && at; n++) {
		q = (struct under_way){ .at = at - (uint64_t)x->l.work_node };
		r = n > URING_REQUESTS_MAX ? -EAGAIN : kernel_read(x->k, q.at, q.bytes, REQUEST_SIZE);
		if (r)
			return r;
		const uint64_t function = word_of(&q, x->l.work_func);
		if (!x->symbols->read && word_of(&q, x->l.ctx) == x->ring)
			read_symbols(x->symbols);
		if (word_of(&q, x->l.ctx) == x->ring && !is_known(x, q.at)) {
			if (q.bytes[x->l.opcode] == IORING_OP_TIMEOUT || (function && function == x->symbols->submit))
				r = add(x, q.at, false);
			else if (function && (function == x->symbols->rw_complete || function == x->symbols->complete))
				r = add_done(x, &q);
		}
		if (!r)
			r = read_word(x, at, &at);
	}
	return r;
}

static int add_table(struct finder *x)
{
	uint64_t buckets, bits = 0;
	int r = read_word(x, x->ring + (uint64_t)x->l.buckets, &buckets);

	if (!r)
		r = kernel_read(x->k, x->ring + (uint64_t)x->l.bits, &bits, 4);
	if (!r && bits > 16)
		return -ENOSYS;
	for (uint64_t i = 0; !r && i < 1ULL << bits; i++)
		r = add_list(x, buckets + i * (uint64_t)x->l.bucket_size, x->l.hash_node);
	return r;
}

/* What threads that use the ring have still to do for one of their rings. */
static int add_works(struct finder *x)
{
	const int list = kernel_offset(x->k, "io_ring_ctx", "tctx_list"), node = kernel_offset(x->k, "io_tctx_node", "ctx_node");
	const int task = kernel_offset(x->k, "io_tctx_node", "task"), own = kernel_offset(x->k, "task_struct", "io_uring");
	const int work = kernel_offset(x->k, "io_uring_task", "task_list");
	const uint64_t head = x->ring + (uint64_t)list;
	uint64_t at, thread;

	if (list < 0 || node < 0 || task < 0 || own < 0 || work < 0)
		return -ENOSYS;
	int r = read_word(x, head, &at);
	for (uint32_t n = 0; !r && at != head; n++) {
		r = n > URING_REQUESTS_MAX ? -EAGAIN : read_word(x, at - (uint64_t)node + (uint64_t)task, &thread);
		if (!r)
			r = read_word(x, thread + (uint64_t)own, &thread);
		if (!r && thread)
			r = add_work(x, thread + (uint64_t)work);
		if (!r)
			r = read_word(x, at, &at);
	}
	return r;
}

/* How many are under way, as the kernel counts: those that it has, less those that it keeps for the next. */
static int count_all(struct finder *x, const struct uring_counts *counts, uint32_t *ret)
{
	uint32_t allocated = 0, kept = 0;
	uint64_t at;

	*ret = counts->submitted - counts->completed;
	if (x->l.allocated < 0)
		return 0;
	int r = kernel_read(x->k, x->ring + (uint64_t)x->l.allocated, &allocated, sizeof(allocated));
	if (!r)
		r = read_word(x, x->ring + (uint64_t)x->l.free, &at);
	for (; !r && at && kept < FREE_MAX; kept++)
		r = read_word(x, at, &at);
	*ret = allocated - kept;
	return r;
}

static int find_all(struct finder *x)
{
	x->list.count = 0;
	int r = add_table(x);

	if (!r)
		r = add_list(x, x->ring + (uint64_t)x->l.timeouts, kernel_offset(x->k, "io_timeout", "list"));
	if (!r)
		r = add_work(x, x->ring + (uint64_t)x->l.work);
	if (!r && x->l.retry >= 0)
		r = add_work(x, x->ring + (uint64_t)x->l.retry);
	return r ? r : add_works(x);
}

/* ---- as entries ---- */

/* A member of the operation's own struct. 0 where it is not there: none that is asked for may be missing, find_members sees to that. */
static uint64_t command(const struct finder *x, const struct under_way *r, const char *type, const char *member)
{
	const int at = kernel_offset(x->k, type, member), size = kernel_size(x->k, type, member);
	uint64_t value = 0;

	if (at >= 0 && size > 0 && (size_t)size <= sizeof(value) && at + size <= COMMAND_SIZE)
		memcpy(&value, r->bytes + at, (size_t)size);
	return value;
}

static int data(const struct finder *x, const struct under_way *r, const char *type, const char *member, void *to, size_t size)
{
	const int at = kernel_offset(x->k, type, member);
	const uint64_t from = word_of(r, x->l.async_data);

	return at < 0 || !from ? -ENOSYS : kernel_read(x->k, from + (uint64_t)at, to, size);
}

static int describe_poll(const struct finder *x, const struct under_way *r, UringRequest *q, struct io_uring_sqe *e)
{
	const uint32_t events = (uint32_t)command(x, r, "io_poll", "events");

	e->poll32_events = events & ~(uint32_t)POLL_BEHAVIOUR;
	e->len = events & EPOLLONESHOT ? 0 : IORING_POLL_ADD_MULTI;
	return 0;
}

static clockid_t clock_of(uint32_t flags)
{
	return flags & IORING_TIMEOUT_REALTIME ? CLOCK_REALTIME : flags & IORING_TIMEOUT_BOOTTIME ? CLOCK_BOOTTIME : CLOCK_MONOTONIC;
}

/* With the time that is left; a moment by the calendar stays one. */
static int describe_timeout(const struct finder *x, const struct under_way *r, UringRequest *q, struct io_uring_sqe *e)
{
	struct timespec ts, now;
	uint32_t flags, completed, by_timeouts;
	uint64_t expires;
	uint8_t state;
	int s = data(x, r, "io_timeout_data", "ts", &ts, sizeof(ts));

	if (!s)
		s = data(x, r, "io_timeout_data", "flags", &flags, sizeof(flags));
	if (!s)
		s = data(x, r, "io_timeout_data", "timer.node.expires", &expires, sizeof(expires));
	if (!s)
		s = data(x, r, "io_timeout_data", "timer.state", &state, sizeof(state));
	if (!s)
		s = kernel_read(x->k, x->ring + (uint64_t)x->l.tail, &completed, sizeof(completed));
	if (!s)
		s = kernel_read(x->k, x->ring + (uint64_t)x->l.cq_timeouts, &by_timeouts, sizeof(by_timeouts));
	if (s)
		return s;
	const bool begun = state == TIMER_QUEUED || !r->waits, moment = flags & IORING_TIMEOUT_ABS && flags & IORING_TIMEOUT_REALTIME;
	const uint32_t off = (uint32_t)command(x, r, "io_timeout", "off");
	e->timeout_flags = flags;
	e->len = 1;
	if (flags & IORING_TIMEOUT_MULTISHOT)
		e->off = off ? command(x, r, "io_timeout", "repeats") : 0;
	else if (off && e->opcode == IORING_OP_TIMEOUT && !r->waits)
		e->off = MAX((int32_t)((uint32_t)command(x, r, "io_timeout", "target_seq") - (completed - by_timeouts)), 1);
	else
		e->off = off;
	if (begun && !moment && !(flags & IORING_TIMEOUT_MULTISHOT)) {
		clock_gettime(clock_of(flags), &now);
		const int64_t left = MAX((int64_t)expires - (now.tv_sec * 1000000000LL + now.tv_nsec), 0);
		ts = (struct timespec){ left / 1000000000, left % 1000000000 };
		e->timeout_flags &= ~(uint32_t)IORING_TIMEOUT_ABS;
	}
	q->time.len = sizeof(ts);
	q->time.data = pool_copy(x->pool, &ts, sizeof(ts));
	q->has_time = 1;
	return q->time.data ? 0 : -ENOMEM;
}

/* The kernel's copy of what is to be read or written: the program's may be gone. `iter`: where in the request's data it stands. */
static int take_vector(const struct finder *x, const struct under_way *r, const char *type, const char *iter, UringRequest *q)
{
	const int at = kernel_offset(x->k, type, iter);
	const int kind = kernel_offset(x->k, "iov_iter", "iter_type"), segments = kernel_offset(x->k, "iov_iter", "nr_segs");
	const int vector = kernel_offset(x->k, "iov_iter", "__iov"), count = kernel_offset(x->k, "iov_iter", "count"), done = kernel_offset(x->k, "iov_iter", "iov_offset");
	const uint64_t from = word_of(r, x->l.async_data);
	char bytes[64];
	uint64_t where, length, n, offset;

	if (at < 0 || kind < 0 || segments < 0 || vector < 0 || count < 0 || done < 0 || MAX(MAX(segments, vector), MAX(count, done)) > (int)sizeof(bytes) - 8)
		return -ENOSYS;
	int s = kernel_read(x->k, from + (uint64_t)at, bytes, sizeof(bytes));
	if (s)
		return s;
	memcpy(&where, bytes + vector, 8);
	memcpy(&length, bytes + count, 8);
	memcpy(&n, bytes + segments, 8);
	memcpy(&offset, bytes + done, 8);
	if (offset || (bytes[kind] != ITER_UBUF && bytes[kind] != ITER_IOVEC) || (bytes[kind] == ITER_IOVEC && n > URING_VECTOR_MAX))
		return -EBUSY;
	if (bytes[kind] == ITER_UBUF)
		n = 1;
	struct iovec *list = pool_take(x->pool, (n + 1) * sizeof(*list));
	if (!list)
		return -ENOMEM;
	list[0] = (struct iovec){ (void *)where, length };
	for (uint64_t i = 0; !s && bytes[kind] == ITER_IOVEC && i < n; i++)
		s = kernel_read(x->k, where + i * sizeof(*list), &list[i], sizeof(*list));
	q->vector = (ProtobufCBinaryData){ n * sizeof(*list), (uint8_t *)list };
	q->has_vector = 1;
	return s;
}

static int describe_rw(const struct finder *x, const struct under_way *r, UringRequest *q, struct io_uring_sqe *e)
{
	const bool vector = e->opcode == IORING_OP_READV || e->opcode == IORING_OP_WRITEV;
	uint64_t done = 0;

	e->addr = command(x, r, "io_rw", "addr");
	e->len = (uint32_t)command(x, r, "io_rw", "len");
	e->rw_flags = (int)command(x, r, "io_rw", "flags");
	e->off = word_of(r, x->l.flags) >> x->l.cur_pos_bit & 1 ? UINT64_MAX : command(x, r, "io_rw", "kiocb.ki_pos");
	e->ioprio = (uint16_t)command(x, r, "io_rw", "kiocb.ki_ioprio");
	memcpy(&e->buf_index, r->bytes + x->l.buf_index, 2);
	if (word_of(r, x->l.async_data) && (data(x, r, "io_async_rw", "bytes_done", &done, sizeof(done)) || done))
		return -EBUSY;
	return vector ? take_vector(x, r, "io_async_rw", "iter", q) : 0;
}

static int describe_message(const struct finder *x, const struct under_way *r, UringRequest *q, struct io_uring_sqe *e)
{
	const bool whole = e->opcode == IORING_OP_SENDMSG || e->opcode == IORING_OP_RECVMSG;
	int32_t name = 0;

	if (command(x, r, "io_sr_msg", "done_io"))
		return -EBUSY;
	e->addr = command(x, r, "io_sr_msg", "buf");
	e->len = (uint32_t)command(x, r, "io_sr_msg", "len");
	e->msg_flags = (uint32_t)command(x, r, "io_sr_msg", "msg_flags");
	e->ioprio = (uint16_t)command(x, r, "io_sr_msg", "flags");
	memcpy(&e->buf_index, r->bytes + x->l.buf_index, 2);
	/* sendto(2): the address is copied, and the program's is not remembered. */
	if (e->opcode == IORING_OP_SEND && word_of(r, x->l.async_data) && (data(x, r, "io_async_msghdr", "msg.msg_namelen", &name, sizeof(name)) || name))
		return -EBUSY;
	return whole && word_of(r, x->l.async_data) ? take_vector(x, r, "io_async_msghdr", "msg.msg_iter", q) : 0;
}

static int describe_accept(const struct finder *x, const struct under_way *r, UringRequest *q, struct io_uring_sqe *e)
{
	e->addr = command(x, r, "io_accept", "addr");
	e->addr2 = command(x, r, "io_accept", "addr_len");
	e->accept_flags = (uint32_t)command(x, r, "io_accept", "flags");
	e->ioprio = (uint16_t)command(x, r, "io_accept", "iou_flags");
	e->file_index = (uint32_t)command(x, r, "io_accept", "file_slot");
	return 0;
}

static int describe_epoll(const struct finder *x, const struct under_way *r, UringRequest *q, struct io_uring_sqe *e)
{
	e->addr = command(x, r, "io_epoll_wait", "events");
	e->len = (uint32_t)command(x, r, "io_epoll_wait", "maxevents");
	return 0;
}

static const struct {
	uint8_t opcode;
	bool no_file;
	const char *type;
	int (*describe)(const struct finder *x, const struct under_way *r, UringRequest *q, struct io_uring_sqe *e);
} operations[] = {
	{ IORING_OP_NOP, true, "io_kiocb", NULL },
	{ IORING_OP_POLL_ADD, false, "io_poll", describe_poll },
	{ IORING_OP_TIMEOUT, true, "io_timeout", describe_timeout },
	{ IORING_OP_LINK_TIMEOUT, true, "io_timeout", describe_timeout },
	{ IORING_OP_READ, false, "io_rw", describe_rw },
	{ IORING_OP_WRITE, false, "io_rw", describe_rw },
	{ IORING_OP_READ_FIXED, false, "io_rw", describe_rw },
	{ IORING_OP_WRITE_FIXED, false, "io_rw", describe_rw },
	{ IORING_OP_READV, false, "io_rw", describe_rw },
	{ IORING_OP_WRITEV, false, "io_rw", describe_rw },
	{ IORING_OP_RECV, false, "io_sr_msg", describe_message },
	{ IORING_OP_SEND, false, "io_sr_msg", describe_message },
	{ IORING_OP_RECVMSG, false, "io_sr_msg", describe_message },
	{ IORING_OP_SENDMSG, false, "io_sr_msg", describe_message },
	{ IORING_OP_ACCEPT, false, "io_accept", describe_accept },
	{ URING_OP_EPOLL_WAIT, false, "io_epoll_wait", describe_epoll },
};

bool uring_request_can_be(uint8_t opcode)
{
	for (size_t i = 0; i < ARRAY_SIZE(operations); i++)
		if (operations[i].opcode == opcode)
			return true;
	return false;
}

/* The thread that has submitted it; where the kernel's own does so, any of the process. */
static struct thread *find_thread(const struct finder *x, const struct under_way *r)
{
	uint64_t task = word_of(r, x->l.tctx), other;

	if (x->polled)
		return x->f->task->threads.data[0];
	if (inside_follow(x->d, &task, "io_uring_task", "task"))
		return NULL;
	for (size_t i = 0; i < x->d->tasks.count; i++)
		for (size_t k = 0; k < x->d->tasks.data[i]->threads.count; k++)
			if (!inside_task(x->d, x->d->tasks.data[i]->threads.data[k], &other) && other == task)
				return x->d->tasks.data[i]->threads.data[k];
	return NULL;
}

/* The place of a value in a table of pointers, the one it is said to be at first; -1. */
static int find_place(const struct finder *x, uint64_t table, uint32_t size, uint64_t value, int32_t first)
{
	uint64_t word;

	if (first >= 0 && (uint32_t)first < size && !read_word(x, table + (uint64_t)first * 8, &word) && word == value)
		return first;
	for (uint32_t i = 0; i < MIN(size, TABLE_MAX); i++)
		if (!read_word(x, table + (uint64_t)i * 8, &word) && word == value)
			return (int)i;
	return -1;
}

/*
 * The number that the request's file has, as descriptor of the thread or among the registered ones; -1: none any more. That which it was submitted with is
 * lost once something has woken it. One that has not begun has no file yet.
 */
static int find_file(const struct finder *x, const struct under_way *r, const struct thread *th, bool registered)
{
	const int32_t given = (int32_t)half_of(r, x->l.fd);
	const int registered_at = kernel_offset(x->k, "io_ring_ctx", "file_table.data.nodes"), count_at = kernel_offset(x->k, "io_ring_ctx", "file_table.data.nr");
	const int node_at = kernel_offset(x->k, "io_kiocb", "file_node"), size_at = kernel_offset(x->k, "fdtable", "max_fds");
	const uint64_t file = word_of(r, 0);
	uint64_t table;
	uint32_t size = 0;

	if (!file && r->waits)
		return given;
	if (registered) {
		if (registered_at < 0 || count_at < 0 || node_at < 0 || node_at > REQUEST_SIZE - 8 || read_word(x, x->ring + (uint64_t)registered_at, &table) ||
		    kernel_read(x->k, x->ring + (uint64_t)count_at, &size, sizeof(size)))
			return -1;
		return find_place(x, table, size, word_of(r, node_at), given);
	}
	if (size_at < 0 || inside_thread(x->d, th, "files", &table, sizeof(table)) || inside_follow(x->d, &table, "files_struct", "fdt") ||
	    kernel_read(x->k, table + (uint64_t)size_at, &size, sizeof(size)) || inside_follow(x->d, &table, "fdtable", "fd"))
		return -1;
	return find_place(x, table, size, file, given);
}

static int describe(const struct finder *x, const struct under_way *r, UringRequest *q)
{
	struct io_uring_sqe *e = pool_take(x->pool, sizeof(*e));
	const struct thread *th = find_thread(x, r);
	const uint8_t opcode = (uint8_t)r->bytes[x->l.opcode];
	const char *name = kernel_enumerator_name(x->k, "io_uring_op", opcode);
	size_t i = 0;

	if (!e)
		return error_set(x->d->e, -ENOMEM, "out of memory");
	while (i < ARRAY_SIZE(operations) && operations[i].opcode != opcode)
		i++;
	if (!name)
		name = "one that is not known";
	if (i == ARRAY_SIZE(operations) || kernel_offset(x->k, operations[i].type, "file") > 0)
		return refuse(x->d, x->f, "a request under way (%s) that can't be submitted again", name);
	if (!th)
		return refuse(x->d, x->f, "a request under way (%s) of a thread that is none of the tree's, or has ended", name);
	e->opcode = opcode;
	e->flags = (uint8_t)(word_of(r, x->l.flags) & ENTRY_FLAGS);
	e->user_data = word_of(r, x->l.user_data);
	e->fd = operations[i].no_file ? -1 : find_file(x, r, th, e->flags & IOSQE_FIXED_FILE);
	if (e->fd < 0 && !operations[i].no_file)
		return refuse(x->d, x->f, "a request under way (%s) on a file whose descriptor was closed", name);
	int s = operations[i].describe ? operations[i].describe(x, r, q, e) : 0;
	if (s == -EBUSY)
		return refuse(x->d, x->f, "a request under way (%s) that is half done", name);
	if (s)
		return fd_errno(x->d, x->f, s == -ENOMEM ? s : -ENOTSUP, "is an io_uring ring with a request under way (%s), of which the kernel's memory does not tell enough", name);
	q->tid = (uint32_t)th->tid;
	q->sqe = (ProtobufCBinaryData){ sizeof(*e), (uint8_t *)e };
	return 0;
}

static int64_t now_ns(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000000000LL + now.tv_nsec;
}

/* Lists change only by what comes from elsewhere (a timer that ends, say) and by the kernel's own threads, which are soon done with most things. */
static int find_consistent(struct finder *x, const struct uring_counts *counts)
{
	const struct timespec pause = { 0, PAUSE_NS };
	uint32_t count = 0;
	int r = -EAGAIN;

	for (const int64_t end = now_ns() + WAIT_NS; r == -EAGAIN && now_ns() < end;) {
		if (count)
			nanosleep(&pause, NULL);
		r = find_all(x);
		if (!r)
			r = count_all(x, counts, &count);
		if (!r && count != x->list.count)
			r = -EAGAIN;
	}
	if (r != -EAGAIN)
		return r;
	return refuse(x->d, x->f, "requests under way that are not to be seen (%u of %u): in a worker of the kernel, or waiting for others", count - (uint32_t)x->list.count, count);
}

/* A completion that nobody was told of, which the image has in its place. */
static int take_done(struct finder *x, const struct under_way *r, struct uring_done_list *done)
{
	if (word_of(r, x->l.flags) & IOSQE_CQE_SKIP_SUCCESS && (int32_t)half_of(r, x->l.result) >= 0)
		return 0;
	struct io_uring_cqe *to = VEC_PUSH(done);
	if (!to)
		return error_set(x->d->e, -ENOMEM, "out of memory");
	*to = (struct io_uring_cqe){ .user_data = word_of(r, x->l.user_data), .res = (int32_t)half_of(r, x->l.result) };
	return 0;
}

static int capture_all(struct finder *x, UringEntry *e, struct uring_done_list *done)
{
	int r = 0;

	e->requests = pool_take(x->pool, (x->list.count + 1) * sizeof(*e->requests));
	if (!e->requests)
		return error_set(x->d->e, -ENOMEM, "out of memory");
	for (size_t i = 0; !r && i < x->list.count; i++) {
		const struct under_way *u = &x->list.data[i];
		UringRequest *q = u->done ? NULL : pool_take(x->pool, sizeof(*q));
		if (u->done) {
			r = take_done(x, u, done);
			continue;
		}
		if (!q)
			return error_set(x->d->e, -ENOMEM, "out of memory");
		uring_request__init(q);
		r = describe(x, u, q);
		/* The last of each chain leads to nothing. */
		if (!r && (i + 1 == x->list.count || !x->list.data[i + 1].linked))
			((struct io_uring_sqe *)q->sqe.data)->flags &= (uint8_t)~(IOSQE_IO_LINK | IOSQE_IO_HARDLINK);
		e->requests[e->n_requests++] = q;
	}
	return r;
}

int uring_requests_capture(struct dump *d, struct descriptor *f, const struct uring_counts *counts, struct uring_symbols *symbols, UringEntry *e,
			   struct uring_done_list *done, struct pool *pool)
{
	struct finder x = { .symbols = symbols, .d = d, .f = f, .k = dump_kernel(d), .pool = pool, .polled = e->setup & IORING_SETUP_SQPOLL };
	int r = x.k ? find_layout(x.k, &x.l) : -ENOSYS;

	if (r || kernel_file(x.k, f->own_fd, &x.ring) || inside_follow(d, &x.ring, "file", "private_data"))
		return -ENOSYS;
	r = find_consistent(&x, counts);
	if (r == -EFAULT || r == -ENOMEM || r == -E2BIG || r == -ENOSYS)
		r = r == -ENOSYS ? r : fd_errno(d, f, r, "is an io_uring ring; cannot look at its requests");
	if (!r)
		r = capture_all(&x, e, done);
	VEC_FREE(&x.list);
	return r;
}
