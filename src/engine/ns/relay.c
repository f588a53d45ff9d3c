/* See relay.h. A message is a packet of a socket; only a hook's is answered. */
#include "engine/ns/relay.h"

#include "base/fork.h"
#include "base/log.h"

#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define LOOK_NS 100000000
#define KEEP_LOOKS 20 /* then what is left is let be */

enum message_type { MESSAGE_HOOK, MESSAGE_ANSWER, MESSAGE_PROGRESS, MESSAGE_BORN, MESSAGE_OBSTACLE, MESSAGE_RESULT, MESSAGE_END_TREE };

struct message {
	enum message_type type;
	int result;
	pid_t pid;
	char moment[40];
	struct request_progress progress; /* its words, as those of the profile, are constants of this program */
	struct profile profile;
	struct error error;
};

static int send_message(int socket, const struct message *m)
{
	ssize_t n;

	do
		n = send(socket, m, sizeof(*m), MSG_NOSIGNAL);
	while (n < 0 && errno == EINTR);
	return n == sizeof(*m) ? 0 : -EPIPE;
}

static int receive_message(int socket, struct message *ret)
{
	ssize_t n;

	do
		n = recv(socket, ret, sizeof(*ret), 0);
	while (n < 0 && errno == EINTR);
	return n == sizeof(*ret) ? 0 : -EPIPE;
}

/* ---- the process apart ---- */

static int relay_hook(void *data, const char *moment, pid_t pid, struct error *e)
{
	const struct relay *relay = data;
	struct message m = { .type = MESSAGE_HOOK, .pid = pid ? relay->pid : 0 };

	snprintf(m.moment, sizeof(m.moment), "%s", moment);
	int r = send_message(relay->socket, &m);
	if (!r)
		r = receive_message(relay->socket, &m);
	if (r)
		return error_set(e, r, "who asked for it has gone");
	if (m.result)
		*e = m.error;
	return m.result;
}

static void relay_progress(void *data, const struct request_progress *p)
{
	const struct relay *relay = data;
	struct message m = { .type = MESSAGE_PROGRESS, .progress = *p };

	send_message(relay->socket, &m);
}

void relay_born(struct relay *relay, pid_t pid)
{
	struct message m = { .type = MESSAGE_BORN, .pid = pid };

	relay->pid = pid;
	send_message(relay->socket, &m);
}

static void tell_result(const struct relay *relay, enum message_type type, int result, const struct error *e)
{
	struct message m = { .type = type, .result = result, .profile = relay->profile, .error = *e };

	send_message(relay->socket, &m);
}

_Noreturn void relay_end_tree(struct relay *relay, int result, const struct error *e)
{
	tell_result(relay, MESSAGE_END_TREE, result, e);
	for (;;)
		pause();
}

static _Noreturn void leave_to(pid_t child, pid_t parent, int end)
{
	const struct timespec look = { 0, LOOK_NS };
	sigset_t all;

	sigfillset(&all);
	for (int status;;) {
		if (waitpid(child, &status, WNOHANG | __WALL) > 0)
			_exit(0);
		if (getppid() != parent)
			kill(child, end);
		sigtimedwait(&all, NULL, &look);
	}
}

int relay_fork(uint64_t flags, pid_t pid, int end)
{
	const pid_t parent = getppid();
	sigset_t all, before;
	int deathsig = 0;

	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	prctl(PR_GET_PDEATHSIG, &deathsig);
	prctl(PR_SET_PDEATHSIG, SIGHUP);
	const pid_t child = fork_with(flags, pid);
	if (child > 0)
		leave_to(child, parent, end);
	prctl(PR_SET_PDEATHSIG, child ? deathsig : SIGKILL);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return child;
}

/* Reaps what comes to it, until the one that goes on has ended, and if that was told to end, what it leaves. */
static _Noreturn void keep(pid_t child)
{
	const struct timespec look = { 0, LOOK_NS };
	bool told = false;
	sigset_t all;

	sigfillset(&all);
	for (int looks = 0; looks < KEEP_LOOKS; looks += child == 0) {
		pid_t ended;
		int status;
		while ((ended = waitpid(-1, &status, WNOHANG | __WALL)) > 0)
			if (ended == child)
				child = 0;
		if (ended < 0 || (!child && !told))
			break;
		if (sigtimedwait(&all, NULL, &look) != SIGTERM)
			continue;
		told = true;
		if (child)
			kill(child, SIGKILL);
	}
	_exit(0);
}

int relay_fork_kept(void)
{
	sigset_t all, before;
	int r = relay_fork(0, 0, SIGTERM);

	if (r)
		return r;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	prctl(PR_SET_PDEATHSIG, 0);
	prctl(PR_SET_CHILD_SUBREAPER, 1);
	const pid_t child = fork_with(0, 0);
	if (child > 0)
		keep(child);
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	sigprocmask(SIG_SETMASK, &before, NULL);
	return child;
}

bool relay_is_alone(const struct relay *relay)
{
	char byte;

	return recv(relay->socket, &byte, 1, MSG_PEEK | MSG_DONTWAIT) == 0;
}

static _Noreturn void run_apart_from(const struct request *request, const struct relay_job *job, int socket)
{
	struct relay relay = { .request = *request, .socket = socket, .pid = request->pid };
	struct obstacles obstacles = {};
	struct error e = {};

	/* Not without the caller; a sibling of it finds the socket closed. */
	if (!request->sibling)
		prctl(PR_SET_PDEATHSIG, SIGKILL);
	relay.request.profile = &relay.profile;
	if (request->hook.call)
		relay.request.hook = (struct request_hook){ relay_hook, &relay };
	if (request->progress.call)
		relay.request.progress = (struct request_watcher){ relay_progress, &relay };
	int r = job->run(&relay, job->obstacles ? &obstacles : NULL, job->data, &e);
	for (size_t i = 0; i < obstacles.count; i++) {
		struct message m = { .type = MESSAGE_OBSTACLE, .error = obstacles.data[i] };
		send_message(socket, &m);
	}
	tell_result(&relay, MESSAGE_RESULT, r, &e);
	_exit(0);
}

/* ---- the caller ---- */

static int call_hook(const struct request *request, int socket, struct message *m)
{
	const struct request_hook *hook = &request->hook;
	struct message answer = { .type = MESSAGE_ANSWER };

	answer.result = hook->call ? hook->call(hook->data, m->moment, m->pid, &answer.error) : 0;
	return send_message(socket, &answer);
}

/* Until nothing of the namespace is left: its first process ends last. */
static void end_tree(int root)
{
	struct pollfd end = { .fd = root, .events = POLLIN };

	if (root < 0 || syscall(__NR_pidfd_send_signal, root, SIGKILL, NULL, 0) < 0)
		return;
	while (poll(&end, 1, -1) < 0 && errno == EINTR)
		;
}

/* Until it has told its result. */
static int serve(const struct request *request, const struct relay_job *job, int socket, pid_t *ret_pid, struct error *e)
{
	_cleanup_close_ int born = -1;

	for (;;) {
		struct message m;
		int r = receive_message(socket, &m);
		if (r)
			end_tree(born);
		if (r)
			return error_set(e, -ECHILD, "the process that did it in the other namespaces died");
		if (m.type == MESSAGE_HOOK)
			call_hook(request, socket, &m);
		else if (m.type == MESSAGE_PROGRESS && request->progress.call)
			request->progress.call(request->progress.data, &m.progress);
		if (m.type == MESSAGE_BORN) {
			*ret_pid = m.pid;
			born = (int)syscall(__NR_pidfd_open, m.pid, 0);
		}
		if (m.type == MESSAGE_OBSTACLE) {
			struct error *obstacle = VEC_PUSH(job->obstacles);
			if (!obstacle)
				return error_set(e, -ENOMEM, "out of memory");
			*obstacle = m.error;
		}
		if (m.type != MESSAGE_RESULT && m.type != MESSAGE_END_TREE)
			continue;
		if (request->profile)
			*request->profile = m.profile;
		if (m.type == MESSAGE_END_TREE)
			end_tree(born >= 0 ? born : job->root);
		*e = m.error;
		return m.result;
	}
}

int relay_run(const struct request *request, const struct relay_job *job, pid_t *ret_pid, struct error *e)
{
	int ends[2];

	if (ret_pid)
		*ret_pid = 0;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, ends) < 0)
		return error_errno(e, -errno, "cannot make a socket");
	pid_t child = fork_with(request->sibling ? CLONE_PARENT : 0, 0);
	if (child == 0) {
		close(ends[0]);
		run_apart_from(request, job, ends[1]);
	}
	close(ends[1]);
	int r = child < 0 ? error_errno(e, child, "cannot make a process") : serve(request, job, ends[0], ret_pid, e);
	close(ends[0]);
	while (child > 0 && !request->sibling && waitpid(child, NULL, __WALL) < 0 && errno == EINTR)
		;
	return r;
}
