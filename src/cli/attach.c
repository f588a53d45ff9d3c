/*
 * The terminal of a job, attached to ours. Ctrl-C leaves it, and so does a window that is closed; the job runs on. Without a terminal of ours the bytes
 * go through as they are, and the end of our input is the end of its.
 */
#include "cli/remote.h"

#include "daemon/frames.h"

#include <poll.h>
#include <signal.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <termios.h>

#define DETACH 3 /* Ctrl-C */

static void window_frame(struct frame_buffer *out)
{
	struct winsize size;

	if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) < 0)
		return;
	unsigned char data[4] = { (unsigned char)size.ws_row, (unsigned char)(size.ws_row >> 8), (unsigned char)size.ws_col,
				  (unsigned char)(size.ws_col >> 8) };
	frame_put(out, FRAME_WINDOW, data, sizeof(data));
}

struct attached {
	struct client_connection connection;
	struct frame_buffer in, out;
	bool terminal, input_open, left, ended;
	int code;
};

static void show(const unsigned char *data, size_t size)
{
	while (size) {
		ssize_t n = write(STDOUT_FILENO, data, size);
		if (n < 0 && errno != EINTR)
			return;
		data += MAX(n, 0);
		size -= (size_t)MAX(n, 0);
	}
}

static int take_frames(struct attached *a)
{
	const unsigned char *data;
	enum frame_type type;
	size_t size;
	int n;

	while ((n = frame_next(&a->in, &type, &data, &size)) == 1) {
		if (type == FRAME_OUTPUT)
			show(data, size);
		if (type == FRAME_EXIT && size) {
			a->ended = true;
			a->code = data[0];
		}
		frame_drop(&a->in, FRAME_HEAD + size);
	}
	return n;
}

static void take_input(struct attached *a)
{
	unsigned char data[4096];
	ssize_t n = read(STDIN_FILENO, data, sizeof(data));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	/* A terminal's end is that of its window, not of what was typed. */
	if (n <= 0 && a->terminal) {
		a->left = true;
		return;
	}
	if (n <= 0) {
		frame_put(&a->out, FRAME_END, NULL, 0);
		a->input_open = false;
		return;
	}
	unsigned char *leave = a->terminal ? memchr(data, DETACH, (size_t)n) : NULL;
	size_t size = leave ? (size_t)(leave - data) : (size_t)n;
	if (size)
		frame_put(&a->out, FRAME_INPUT, data, size);
	a->left = leave != NULL;
}

static void take_signal(struct attached *a, int signals)
{
	struct signalfd_siginfo info;

	while (read(signals, &info, sizeof(info)) == sizeof(info)) {
		if (info.ssi_signo == SIGWINCH)
			window_frame(&a->out);
		else
			a->left = true;
	}
}

/* Until the job has ended or we leave it. 0, or what went wrong. */
static int pass_bytes(struct attached *a, int signals)
{
	int r = 0, n;

	while (!a->ended && !a->left) {
		struct pollfd polls[3] = {
			{ .fd = a->connection.fd, .events = (short)(POLLIN | (a->out.count ? POLLOUT : 0)) },
			{ .fd = a->input_open && a->out.count < FRAME_MAX ? STDIN_FILENO : -1, .events = POLLIN },
			{ .fd = signals, .events = POLLIN },
		};
		if (poll(polls, 3, -1) < 0 && errno != EINTR)
			return -errno;
		if (polls[2].revents)
			take_signal(a, signals);
		if (polls[1].revents)
			take_input(a);
		if (polls[0].revents & (POLLIN | POLLHUP | POLLERR)) {
			r = frame_receive(&a->in, a->connection.fd);
			n = take_frames(a);
			if (n < 0 || (r && r != -EAGAIN))
				return a->ended ? 0 : n < 0 ? n : -EPIPE;
		}
		r = frame_send(&a->out, a->connection.fd);
		if (r && r != -EAGAIN && !a->ended)
			return r;
	}
	return 0;
}

static int signals_begin(sigset_t *before)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGWINCH);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	sigaddset(&set, SIGHUP);
	sigprocmask(SIG_BLOCK, &set, before);
	return signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
}

int attach_to(struct command_line *c, const char *path, const char *job)
{
	struct attached *a = calloc(1, sizeof(*a));
	_cleanup_free_ struct settings *s = malloc(sizeof(*s));
	struct termios settings, raw;
	struct error e = {};
	sigset_t before;

	fflush(stdout);
	int r = a && s ? remote_settings(c, s, &e) : error_set(&e, -ENOMEM, "out of memory");
	if (!r)
		r = client_upgrade(s, path, &a->connection, &e);
	if (r) {
		free(a);
		return cli_report(c, &e);
	}
	a->input_open = true;
	a->terminal = isatty(STDIN_FILENO) && tcgetattr(STDIN_FILENO, &settings) == 0;
	int signals = signals_begin(&before);
	if (a->terminal) {
		raw = settings;
		cfmakeraw(&raw);
		tcsetattr(STDIN_FILENO, TCSANOW, &raw);
		window_frame(&a->out);
	}
	/* What came behind the head of the answer. */
	struct client_connection *k = &a->connection;
	if (k->end > k->start && vec_reserve((void **)&a->in.data, &a->in.capacity, k->end - k->start, 1)) {
		memcpy(a->in.data, k->buffer + k->start, k->end - k->start);
		a->in.count = k->end - k->start;
	}
	r = take_frames(a) < 0 ? -EBADMSG : pass_bytes(a, signals);
	if (a->terminal)
		tcsetattr(STDIN_FILENO, TCSANOW, &settings);
	sigprocmask(SIG_SETMASK, &before, NULL);
	if (a->left)
		fprintf(stderr, "%sDetached; job %s runs on\n", a->terminal ? "\r\n" : "", job);
	int status = a->ended ? a->code : 0;
	if (r && !a->ended && !a->left) {
		error_set(&e, r, "the connection to the daemon is lost; job %s runs on, attach again with fermata job attach %s", job, job);
		status = cli_report(c, &e);
	}
	close(signals);
	client_close(k);
	VEC_FREE(&a->in);
	VEC_FREE(&a->out);
	free(a);
	return status;
}

int verb_job_attach(struct command_line *c)
{
	char path[200];

	return remote_path(c, path, sizeof(path), "/v1/jobs/%s/attach", c->words[0]) ? attach_to(c, path, c->words[0]) : 1;
}

int verb_attach_process(struct command_line *c)
{
	char path[200];

	return remote_path(c, path, sizeof(path), "/v1/processes/%s/attach", c->words[0]) ? attach_to(c, path, c->words[0]) : 1;
}

void terminal_into(const struct command_line *c, json_t *body)
{
	struct winsize size;

	json_object_set_new(body, "raw", json_boolean(c->attach && !isatty(STDIN_FILENO)));
	if (ioctl(STDIN_FILENO, TIOCGWINSZ, &size) == 0) {
		json_object_set_new(body, "rows", json_integer(size.ws_row));
		json_object_set_new(body, "columns", json_integer(size.ws_col));
	}
}
