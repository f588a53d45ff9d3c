/* The queues of a pseudo-terminal. See tty.h, ioctl_tty(2) and Linux drivers/tty/n_tty.c. */
#include "engine/kinds/tty.h"

#include <fcntl.h>
#include <poll.h>
#include <sched.h>
#include <unistd.h>

#define READ_SIZE 65536
#define QUEUE_MAX (4UL << 20)
#define LINE_BUFFER 4095 /* N_TTY_BUF_SIZE - 1: what the line discipline takes by TIOCSTI */
#define PIECE 64UL
#define WORKER_TRIES 100000
#define PTY_SLAVE_MAJOR 136U
#define PTY_SLAVE_MAJORS 8U

bool tty_is_slave(uint32_t device, uint32_t *ret_index)
{
	uint32_t major = device >> 8 & 0xfff, minor = (device & 0xff) | (device >> 12 & 0xfff00);

	*ret_index = minor + (major - PTY_SLAVE_MAJOR) * 256;
	return major >= PTY_SLAVE_MAJOR && major < PTY_SLAVE_MAJOR + PTY_SLAVE_MAJORS;
}

int tty_open_peer(int master, int flags)
{
	/* With O_CLOEXEC among them F_GETFL and fdinfo would show that for every descriptor of it, for ever. */
	int fd = ioctl(master, TIOCGPTPEER, flags | O_NOCTTY);

	if (fd >= 0)
		fcntl(fd, F_SETFD, FD_CLOEXEC);
	return fd < 0 ? -errno : fd;
}

void tty_queues_free(struct tty_queues *q)
{
	free(q->output.data);
	free(q->input.data);
	VEC_FREE(&q->output.ends);
	VEC_FREE(&q->input.ends);
	*q = (struct tty_queues){};
}

static int reserve(struct tty_queue *q, size_t more)
{
	if (q->size + more > QUEUE_MAX)
		return -EFBIG;
	if (q->size + more > q->capacity) {
		char *data = realloc(q->data, q->size + more + READ_SIZE);
		if (!data)
			return -ENOMEM;
		q->data = data;
		q->capacity = q->size + more + READ_SIZE;
	}
	return 0;
}

/* Bytes that can be read. poll(2) has the kernel bring those that a worker still has to move. */
static int waiting(int fd)
{
	struct pollfd p = { .fd = fd, .events = POLLIN };
	int n = 0;

	poll(&p, 1, 0);
	return ioctl(fd, FIONREAD, &n) < 0 ? -errno : n;
}

/* Whether some line, be it an empty one, can be read. */
static bool has_line(int slave)
{
	struct pollfd p = { .fd = slave, .events = POLLIN };

	return poll(&p, 1, 0) == 1 && p.revents & POLLIN;
}

static int take_bytes(int fd, struct tty_queue *q)
{
	int n;

	while ((n = waiting(fd)) > 0) {
		int r = reserve(q, (size_t)n);
		ssize_t got = r ? r : read(fd, q->data + q->size, (size_t)n);
		if (r)
			return r;
		if (got <= 0)
			return got < 0 && errno != EAGAIN ? -errno : 0;
		q->size += (size_t)got;
	}
	return n;
}

static bool ends_line(const struct termios2 *t, char c)
{
	return c == '\n' || (c && ((unsigned char)c == t->c_cc[VEOL] || (unsigned char)c == t->c_cc[VEOL2]));
}

static int take_lines(int slave, const struct termios2 *t, struct tty_queue *q)
{
	while (has_line(slave)) {
		int r = reserve(q, READ_SIZE);
		ssize_t got = r ? r : read(slave, q->data + q->size, READ_SIZE);
		if (r)
			return r;
		if (got < 0)
			return errno == EAGAIN ? 0 : -errno;
		q->size += (size_t)got;
		if (got && ends_line(t, q->data[q->size - 1]))
			continue;
		uint32_t *end = VEC_PUSH(&q->ends);
		if (!end)
			return -ENOMEM;
		*end = (uint32_t)q->size;
	}
	return 0;
}

static bool by_lines(const struct termios2 *t)
{
	return t->c_lflag & ICANON && !(t->c_lflag & EXTPROC);
}

/* Settings under which characters go in as they are, and none is echoed or means something but an end of line. */
static struct termios2 quiet(const struct termios2 *t, unsigned char eof)
{
	struct termios2 q = *t;

	q.c_iflag &= (tcflag_t)~(ISTRIP | IUCLC | IGNCR | ICRNL | INLCR | PARMRK | IXON | IXANY);
	q.c_oflag &= (tcflag_t)~OPOST;
	q.c_lflag &= (tcflag_t)~(ISIG | ECHO | ECHOE | ECHOK | ECHONL | ECHOCTL | ECHOPRT | ECHOKE | XCASE);
	memset(q.c_cc, 0, sizeof(q.c_cc));
	q.c_cc[VEOL] = t->c_cc[VEOL];
	q.c_cc[VEOL2] = t->c_cc[VEOL2];
	q.c_cc[VEOF] = eof;
	q.c_cc[VMIN] = 1;
	return q;
}

/* A character that means nothing in the input, to stand for the end of a line. 0: there is none. */
static unsigned char unused_character(const struct tty_queue *q, const struct termios2 *t)
{
	bool used[256] = { [0] = true, ['\n'] = true };

	used[t->c_cc[VEOL]] = used[t->c_cc[VEOL2]] = true;
	for (size_t i = 0; i < q->size; i++)
		used[(unsigned char)q->data[i]] = true;
	for (int c = 4; c < 256; c++)
		if (!used[c])
			return (unsigned char)c;
	return 0;
}

static int set(int slave, const struct termios2 *t)
{
	return ioctl(slave, TCSETS2, t) < 0 ? -errno : 0;
}

/*
 * All of it; a terminal that takes nothing more gives -ENOBUFS. There is room for all once a worker of the kernel has moved
 * the first part from where it is written to where it is read; nothing tells when. Small pieces take up the least.
 */
static int write_all(int fd, const char *data, size_t size)
{
	int tries = WORKER_TRIES;

	for (size_t done = 0; done < size;) {
		ssize_t n = write(fd, data + done, MIN(size - done, PIECE));
		if (n < 0 && errno != EAGAIN)
			return -errno;
		if (n > 0)
			done += (size_t)n;
		else if (tries-- == 0)
			return -ENOBUFS;
		else
			sched_yield();
	}
	return 0;
}

static int insert(int slave, char c)
{
	return ioctl(slave, TIOCSTI, &c) < 0 ? -errno : 0;
}

/* As the line discipline takes it, at once; what it has no room for waits before it, as it had. */
static int put_input(int master, int slave, const struct tty_queue *q, unsigned char eof)
{
	size_t at = 0, end = 0;
	int r = 0;

	for (; !r && at < MIN(q->size, LINE_BUFFER); at++) {
		while (!r && end < q->ends.count && q->ends.data[end] == at) {
			r = insert(slave, (char)eof);
			end++;
		}
		if (!r)
			r = insert(slave, q->data[at]);
	}
	for (; !r && end < q->ends.count && q->ends.data[end] == at; end++)
		r = insert(slave, (char)eof);
	return r || at == q->size ? r : write_all(master, q->data + at, q->size - at);
}

static int put_quietly(int master, int slave, const struct tty_queues *q, const struct termios2 *t, int packets)
{
	unsigned char eof = unused_character(&q->input, t);
	struct termios2 silent = quiet(t, eof);
	int flags = fcntl(master, F_GETFL), r = 0, off = 0;

	if (q->input.ends.count && !eof)
		return -ENOTSUP;
	if (packets)
		ioctl(master, TIOCPKT, &off);
	if (fcntl(master, F_SETFL, flags | O_NONBLOCK) < 0)
		r = -errno;
	if (!r)
		r = set(slave, &silent);
	ioctl(slave, TCXONC, TCOON);
	if (!r)
		r = put_input(master, slave, &q->input, eof);
	if (!r)
		r = write_all(slave, q->output.data, q->output.size);
	int s = set(slave, t);
	if (!r)
		r = s;
	if (!r && q->stopped == TTY_STOPPED_BY_CHARACTER && t->c_iflag & IXON && t->c_cc[VSTOP])
		r = insert(slave, (char)t->c_cc[VSTOP]);
	else if (!r && q->stopped && ioctl(slave, TCXONC, TCOOFF) < 0)
		r = -errno;
	fcntl(master, F_SETFL, flags);
	if (packets)
		ioctl(master, TIOCPKT, &packets);
	return r;
}

int tty_put(int master, int slave, const struct tty_queues *q)
{
	struct termios2 t;
	int packets = 0;

	if (!q->output.size && !q->input.size && !q->input.ends.count && !q->stopped)
		return 0;
	if (ioctl(slave, TCGETS2, &t) < 0 || ioctl(master, TIOCGPKT, &packets) < 0)
		return -errno;
	return put_quietly(master, slave, q, &t, packets);
}

static bool can_write(int slave)
{
	struct pollfd p = { .fd = slave, .events = POLLOUT };

	return poll(&p, 1, 0) == 1 && p.revents & POLLOUT;
}

/* With nothing in its way. What a character stopped goes on when characters do that no more. */
static enum tty_stopped is_stopped(int slave, const struct termios2 *t)
{
	struct termios2 without = *t;

	if (slave < 0 || can_write(slave))
		return TTY_RUNS;
	without.c_iflag &= (tcflag_t)~IXON;
	if (set(slave, &without))
		return TTY_STOPPED_BY_CHARACTER;
	bool writes = can_write(slave);
	set(slave, t);
	return writes ? TTY_STOPPED_BY_CHARACTER : TTY_STOPPED_BY_TCFLOW;
}

/* Takes it all out, and says whether anything was touched. */
static int drain(int master, int slave, const struct termios2 *t, int packets, struct tty_queues *q, bool *ret_touched)
{
	struct termios2 raw = *t;
	int n = waiting(master), r = 0, off = 0;

	if (n > 0) {
		*ret_touched = true;
		if (packets)
			ioctl(master, TIOCPKT, &off);
		r = take_bytes(master, &q->output);
	}
	q->stopped = n < 0 ? TTY_RUNS : is_stopped(slave, t);
	*ret_touched |= q->stopped != TTY_RUNS;
	if (r || n < 0 || slave < 0)
		return r ? r : MIN(n, 0);
	if (!by_lines(t)) {
		*ret_touched |= waiting(slave) > 0;
		return take_bytes(slave, &q->input);
	}
	*ret_touched |= has_line(slave);
	r = take_lines(slave, t, &q->input);
	/* The start of a line shows only when there are no lines; changing that ends it, so that it must be put in again. */
	raw.c_lflag &= (tcflag_t)~ICANON;
	size_t before = q->input.size;
	if (!r)
		r = set(slave, &raw);
	if (!r)
		r = take_bytes(slave, &q->input);
	*ret_touched |= q->input.size > before;
	int s = set(slave, t);
	return r ? r : s;
}

int tty_take(int master, int slave, struct tty_queues *q)
{
	struct termios2 t;
	int packets = 0;
	bool touched = false;

	*q = (struct tty_queues){};
	if (ioctl(master, TCGETS2, &t) < 0 || ioctl(master, TIOCGPKT, &packets) < 0)
		return -errno;
	int r = drain(master, slave, &t, packets, q, &touched), s = 0;
	if (touched) {
		_cleanup_close_ int own = slave < 0 ? tty_open_peer(master, O_RDWR | O_NONBLOCK) : -1;
		s = own < 0 && slave < 0 ? own : put_quietly(master, slave < 0 ? own : slave, q, &t, packets);
	}
	return r ? r : s;
}
