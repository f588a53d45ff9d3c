/*
 * A supervised job's terminal, its log, and who is attached: a loop around poll(2). What the job writes goes to the log and to everyone
 * attached; who does not take it holds the job up, as a terminal does.
 */
#include "daemon/supervisor.h"

#include "daemon/helper.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <termios.h>
#include <time.h>

#define CLIENTS_MAX 32
#define BACKLOG_MAX (256u << 10) /* that a client may be behind before the job waits */
#define KEPT_MAX (1u << 20)
#define FIRST_MS 10000 /* how long one that has ended waits for who wanted to attach */
#define REST_MS 800
#define LAST_MS 10000  /* and for those attached to take what is left */

static void set_window(struct supervisor *s, unsigned rows, unsigned columns)
{
	struct winsize size = { .ws_row = (unsigned short)rows, .ws_col = (unsigned short)columns };

	if (rows && columns)
		ioctl(s->master, TIOCSWINSZ, &size);
}

int supervisor_open_terminal(struct supervisor *s, struct error *e)
{
	struct termios t;
	int unlock = 0;

	s->master = posix_openpt(O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
	if (s->master < 0 || ioctl(s->master, TIOCSPTLCK, &unlock) < 0)
		return error_errno(e, -errno, "cannot make a terminal");
	s->slave = ioctl(s->master, TIOCGPTPEER, O_RDWR | O_NOCTTY | O_CLOEXEC);
	if (s->slave < 0 || tcgetattr(s->slave, &t) < 0)
		return error_errno(e, -errno, "cannot make a terminal");
	/* Whoever pipes something through it wants the bytes as they are; only the end is told by a character. */
	if (s->raw) {
		t.c_iflag = 0;
		t.c_oflag &= ~(tcflag_t)OPOST;
		t.c_lflag &= ~(tcflag_t)(ECHO | ISIG | IEXTEN);
		tcsetattr(s->slave, TCSANOW, &t);
	}
	set_window(s, (unsigned)json_integer_value(json_object_get(s->spec, "rows")), (unsigned)json_integer_value(json_object_get(s->spec, "columns")));
	uid_t uid = (uid_t)json_integer_value(json_object_get(s->spec, "uid"));
	if (uid && fchown(s->slave, uid, (gid_t)-1) < 0)
		return error_errno(e, -errno, "cannot give the terminal to its user");
	return 0;
}

int supervisor_listen(struct supervisor *s, struct error *e)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (s->master < 0)
		return 0;
	/* By way of the folder's descriptor: its path may be longer than an address can be. */
	snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/" SUPERVISOR_SOCKET, s->dir);
	unlinkat(s->dir, SUPERVISOR_SOCKET, 0);
	s->listener = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (s->listener < 0 || bind(s->listener, (struct sockaddr *)&address, sizeof(address)) < 0 || listen(s->listener, CLIENTS_MAX) < 0)
		return error_errno(e, -errno, "cannot make the job's socket");
	return 0;
}

static void accept_client(struct supervisor *s)
{
	int fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);

	if (fd < 0)
		return;
	struct client *c = s->clients.count < CLIENTS_MAX ? VEC_PUSH(&s->clients) : NULL;
	if (!c) {
		close(fd);
		return;
	}
	c->fd = fd;
	if (s->wait_for_first) {
		s->wait_for_first = false;
		c->out = s->kept;
		s->kept = (struct frame_buffer){};
	}
}

static void drop_client(struct supervisor *s, size_t i)
{
	struct client *c = &s->clients.data[i];

	close(c->fd);
	VEC_FREE(&c->in);
	VEC_FREE(&c->out);
	*c = s->clients.data[--s->clients.count];
}

static void write_all(int fd, const unsigned char *data, size_t size)
{
	struct timespec while_full = { 0, 2000000 };

	for (int tries = 0; size && tries < 1000;) {
		ssize_t n = write(fd, data, size);
		if (n < 0 && errno != EAGAIN && errno != EINTR)
			return;
		if (n < 0) {
			nanosleep(&while_full, NULL);
			tries++;
			continue;
		}
		data += n;
		size -= (size_t)n;
	}
}

static void write_end(struct supervisor *s)
{
	struct termios t;
	unsigned char twice[2];

	if (tcgetattr(s->slave, &t) < 0)
		return;
	/* The first gives the reader a line that is not finished, the second is the end. */
	twice[0] = twice[1] = t.c_cc[VEOF];
	write_all(s->master, twice, s->last_input && s->last_input != '\n' ? 2 : 1);
}

static void take_frame(struct supervisor *s, enum frame_type type, const unsigned char *data, size_t size)
{
	if (s->ended)
		return;
	if (type == FRAME_INPUT && size) {
		write_all(s->master, data, size);
		s->last_input = data[size - 1];
	} else if (type == FRAME_END) {
		write_end(s);
	} else if (type == FRAME_WINDOW && size == 4) {
		set_window(s, (unsigned)data[0] | (unsigned)data[1] << 8, (unsigned)data[2] | (unsigned)data[3] << 8);
	}
}

/* False: it has gone. */
static bool hear_client(struct supervisor *s, struct client *c)
{
	const unsigned char *data;
	enum frame_type type;
	size_t size;
	int r = frame_receive(&c->in, c->fd), n;

	while ((n = frame_next(&c->in, &type, &data, &size)) == 1) {
		take_frame(s, type, data, size);
		frame_drop(&c->in, FRAME_HEAD + size);
	}
	return n == 0 && (r == 0 || r == -EAGAIN);
}

/* What the job wrote, to everyone. False: nothing there now, or nobody has it open any more. */
static bool read_terminal(struct supervisor *s)
{
	unsigned char data[16384];
	ssize_t n = read(s->master, data, sizeof(data));

	if (n <= 0)
		return false;
	if (s->log >= 0 && write(s->log, data, (size_t)n) < 0)
		s->log = -1; /* a full disk ends the log, not the job */
	for (size_t i = 0; i < s->clients.count; i++)
		frame_put(&s->clients.data[i].out, FRAME_OUTPUT, data, (size_t)n);
	if (s->wait_for_first)
		frame_put(&s->kept, FRAME_OUTPUT, data, (size_t)n);
	return true;
}

static bool is_behind(const struct supervisor *s)
{
	for (size_t i = 0; i < s->clients.count; i++)
		if (s->clients.data[i].out.count > BACKLOG_MAX)
			return true;
	return s->wait_for_first && s->kept.count > KEPT_MAX;
}

static void serve_clients(struct supervisor *s, const struct pollfd *polls)
{
	/* Backwards: one that is dropped is replaced by the last. */
	for (size_t i = s->clients.count; i-- > 0;) {
		bool stays = true;
		if (polls[i].revents & (POLLIN | POLLHUP | POLLERR))
			stays = hear_client(s, &s->clients.data[i]);
		if (stays && s->clients.data[i].out.count) {
			int r = frame_send(&s->clients.data[i].out, s->clients.data[i].fd);
			stays = r == 0 || r == -EAGAIN;
		}
		if (!stays)
			drop_client(s, i);
	}
}

static void one_round(struct supervisor *s, int timeout_ms)
{
	struct pollfd polls[3 + CLIENTS_MAX];
	size_t clients = s->clients.count;

	polls[0] = (struct pollfd){ .fd = s->signals, .events = POLLIN };
	polls[1] = (struct pollfd){ .fd = s->listener, .events = POLLIN };
	polls[2] = (struct pollfd){ .fd = is_behind(s) || s->ended ? -1 : s->master, .events = POLLIN };
	for (size_t i = 0; i < clients; i++)
		polls[3 + i] = (struct pollfd){ .fd = s->clients.data[i].fd, .events = (short)(POLLIN | (s->clients.data[i].out.count ? POLLOUT : 0)) };
	if (poll(polls, 3 + clients, timeout_ms) < 0)
		return;
	if (polls[0].revents) {
		struct signalfd_siginfo info;
		while (read(s->signals, &info, sizeof(info)) > 0)
			;
		supervisor_reap(s);
	}
	if (polls[2].revents & POLLIN)
		read_terminal(s);
	serve_clients(s, polls + 3);
	if (polls[1].revents)
		accept_client(s);
}

static long long now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000LL + now.tv_nsec / 1000000;
}

static void stop_listening(struct supervisor *s)
{
	unlinkat(s->dir, SUPERVISOR_SOCKET, 0);
	if (s->listener >= 0)
		close(s->listener);
	s->listener = -1;
}

/*
 * What it has left behind: ended by itself within a moment mostly, and until it is waited for its session's number is taken. For the rest we stay: as long as
 * it descends from us it is known to be the job's.
 */
static void collect_rest(struct supervisor *s)
{
	struct timespec pause = { 0, 5000000 };
	int *const open[] = { &s->master, &s->slave, &s->log };

	for (long long until = now_ms() + REST_MS; now_ms() < until;) {
		if (waitpid(-1, NULL, WNOHANG) < 0)
			return;
		nanosleep(&pause, NULL);
	}
	s->rest = true;
	supervisor_write_state(s, "ended");
	while (s->clients.count)
		drop_client(s, 0);
	for (size_t i = 0; i < ARRAY_SIZE(open); i++)
		if (*open[i] >= 0)
			close(TAKE_FD(*open[i]));
	while (waitpid(-1, NULL, 0) >= 0 || errno == EINTR)
		;
}

/* It has ended: what is left in its terminal, and how it ended, to those who are attached or about to. */
static void tell_end(struct supervisor *s)
{
	unsigned char code[4] = { (unsigned char)s->code };

	while (s->master >= 0 && read_terminal(s))
		;
	s->told = supervisor_write_state(s, "ended");
	if (!s->wait_for_first)
		stop_listening(s);
	for (size_t i = 0; i < s->clients.count; i++)
		frame_put(&s->clients.data[i].out, FRAME_EXIT, code, sizeof(code));
	if (s->wait_for_first)
		frame_put(&s->kept, FRAME_EXIT, code, sizeof(code));
	long long until = now_ms() + (s->wait_for_first ? FIRST_MS : LAST_MS);
	for (;;) {
		bool waits = s->wait_for_first;
		for (size_t i = 0; i < s->clients.count; i++)
			waits |= s->clients.data[i].out.count > 0;
		if (!waits || now_ms() >= until)
			return;
		one_round(s, 100);
	}
}

/* How it ended is known to nobody else: on a full disk it waits for room. Where the job was deleted nobody asks. */
static void tell_at_last(struct supervisor *s)
{
	struct timespec pause = { 0, 500000000 };
	struct stat st;

	while (!s->told && fstat(s->dir, &st) == 0 && st.st_nlink) {
		nanosleep(&pause, NULL);
		supervisor_reap(s); /* who can't be restored while it has the ids */
		s->told = supervisor_write_state(s, "ended");
	}
}

void supervisor_serve(struct supervisor *s)
{
	/* The slave stays open: the terminal outlives the moments in which the job has none of it open. */
	supervisor_reap(s);
	while (!s->ended)
		one_round(s, -1);
	tell_end(s);
	stop_listening(s);
	tell_at_last(s);
	collect_rest(s);
}
