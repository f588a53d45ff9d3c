/*
 * See helper.h. One thread for each caller reads requests and gives each a thread of its own: the driver's calls take seconds, and may hang. What was
 * done to each process stands in the caller's ledger, so that it can be undone when the caller is gone.
 */
#include "gpu/helper.h"

#include "gpu/driver.h"

#include <fcntl.h>
#include <linux/close_range.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <time.h>

#define CALLS_OVER_S 60 /* how long calls under way are waited for when the caller is gone */

struct entry {
	pid_t pid;
	enum gpu_state state;
	/* Checkpointed with storage.h: where its device memory is. */
	bool own, in_memory;
	int fd;
	size_t n_regions;
	struct gpu_region *regions;
};

/* A caller. */
struct session {
	int sock;
	struct driver *driver;
	pthread_mutex_t lock;
	pthread_cond_t quiet;
	size_t running;
	bool abandoned; /* someone else sees to what was done for it */
	VEC(struct entry) ledger;
};

struct job {
	struct session *session;
	struct helper_request *request;
	int fds[2]; /* that came with it, or -1 */
};

static void release_entry(struct entry *entry)
{
	if (entry->own && entry->fd >= 0)
		close(entry->fd);
	free(entry->regions);
	*entry = (struct entry){ .pid = entry->pid, .fd = -1 };
}

/* What the call has put away. */
static void keep_memory(struct entry *entry, const struct gpu_call *call)
{
	entry->own = call->own;
	entry->in_memory = call->in_memory;
	entry->fd = call->own ? fcntl(call->fd, F_DUPFD_CLOEXEC, 3) : -1;
	entry->n_regions = call->n_regions;
	entry->regions = call->n_regions ? malloc(call->n_regions * sizeof(*entry->regions)) : NULL;
	if (entry->regions)
		memcpy(entry->regions, call->regions, call->n_regions * sizeof(*entry->regions));
}

/* Under the lock. */
static void note(struct session *h, const struct gpu_call *call)
{
	struct entry *found = NULL;

	if (h->abandoned)
		return;
	VEC_FOREACH(&h->ledger, entry)
		if (entry->pid == call->pid)
			found = entry;
	if (call->op == GPU_UNLOCK || call->op == GPU_FORGET) {
		if (found) {
			release_entry(found);
			*found = h->ledger.data[--h->ledger.count];
		}
		return;
	}
	if (found)
		release_entry(found);
	else if (!(found = VEC_PUSH(&h->ledger)))
		return;
	*found = (struct entry){ .pid = call->pid, .state = call->op == GPU_CHECKPOINT ? GPU_CHECKPOINTED : GPU_LOCKED, .fd = -1 };
	if (call->op == GPU_CHECKPOINT)
		keep_memory(found, call);
}

static void tell_machine(struct session *h, uint32_t id)
{
	struct {
		struct helper_reply reply;
		struct gpu_machine machine;
	} *m = calloc(1, sizeof(*m));

	if (!m)
		return;
	m->reply.id = id;
	driver_machine(h->driver, &m->machine);
	send(h->sock, m, sizeof(*m), MSG_NOSIGNAL);
	free(m);
}

static void close_both(const int fds[2])
{
	for (int i = 0; i < 2; i++)
		if (fds[i] >= 0)
			close(fds[i]);
}

static void *serve(void *argument)
{
	struct job *job = argument;
	struct session *h = job->session;
	struct helper_request *request = job->request;
	struct gpu_call call = { .op = request->op, .pid = request->pid, .timeout_ms = request->timeout_ms, .pairs = request->pairs,
				 .n_pairs = request->n_pairs, .own = request->own, .in_memory = request->in_memory, .fd = job->fds[0],
				 .digests = job->fds[1], .offset = request->offset, .n_regions = request->n_regions };
	struct helper_reply reply = { .id = request->id };

	memcpy(call.regions, request->regions, sizeof(call.regions));

	if (request->op == HELPER_MACHINE) {
		tell_machine(h, request->id);
	} else {
		driver_call(h->driver, &call);
		reply.result = call.result;
		reply.value = call.value;
		memcpy(reply.why, call.why, sizeof(reply.why));
		memcpy(reply.regions, call.regions, sizeof(reply.regions));
		reply.n_regions = (uint32_t)call.n_regions;
	}
	pthread_mutex_lock(&h->lock);
	if (!call.result && call.op >= GPU_LOCK && call.op < GPU_OPS)
		note(h, &call);
	h->running--;
	pthread_cond_broadcast(&h->quiet);
	pthread_mutex_unlock(&h->lock);
	if (request->op != HELPER_MACHINE)
		send(h->sock, &reply, sizeof(reply), MSG_NOSIGNAL);
	close_both(job->fds);
	free(request);
	free(job);
	return NULL;
}

static void take(struct session *h, struct helper_request *request, const int fds[2])
{
	struct job *job = malloc(sizeof(*job));
	pthread_t thread;

	if (job)
		*job = (struct job){ h, request, { fds[0], fds[1] } };
	pthread_mutex_lock(&h->lock);
	h->running++;
	pthread_mutex_unlock(&h->lock);
	if (job && pthread_create(&thread, NULL, serve, job) == 0) {
		pthread_detach(thread);
		return;
	}
	struct helper_reply reply = { .id = request->id, .result = -ENOMEM, .why = "out of memory" };
	pthread_mutex_lock(&h->lock);
	h->running--;
	pthread_mutex_unlock(&h->lock);
	send(h->sock, &reply, sizeof(reply), MSG_NOSIGNAL);
	close_both(fds);
	free(request);
	free(job);
}

/* Descriptors come with some: fds[…] -1 where not. */
static struct helper_request *receive(int sock, int fds[2])
{
	const size_t room = sizeof(struct helper_request) + GPU_DEVICES_MAX * sizeof(struct gpu_pair);
	struct helper_request *request = calloc(1, room);
	struct iovec part = { request, room };
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(2 * sizeof(int))];
	} control;
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control) };
	ssize_t n = -1;

	fds[0] = fds[1] = -1;
	do
		n = request ? recvmsg(sock, &message, MSG_CMSG_CLOEXEC) : -1;
	while (n < 0 && request && errno == EINTR);
	const struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&message) : NULL;
	if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len <= CMSG_LEN(2 * sizeof(int)))
		memcpy(fds, CMSG_DATA(c), c->cmsg_len - CMSG_LEN(0));
	if (n >= (ssize_t)sizeof(*request) && (size_t)n == sizeof(*request) + request->n_pairs * sizeof(struct gpu_pair) &&
	    request->n_regions <= GPU_DEVICES_MAX && (!request->own || request->op == GPU_LOCK || fds[0] >= 0))
		return request;
	close_both(fds);
	free(request);
	return NULL;
}

static void undo(struct session *h, struct entry *entry, enum gpu_op op)
{
	struct gpu_call call = { .op = op, .pid = entry->pid };

	if (op == GPU_RESTORE && entry->own) {
		call.own = true;
		call.in_memory = entry->in_memory;
		call.fd = entry->fd;
		call.digests = -1;
		call.n_regions = entry->regions ? entry->n_regions : 0;
		if (entry->regions)
			memcpy(call.regions, entry->regions, entry->n_regions * sizeof(*entry->regions));
	}
	driver_call(h->driver, &call);
}

/* Nobody waits for these processes any more: they are to run as if nothing had been. */
static void put_back(struct session *h)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += CALLS_OVER_S;
	pthread_mutex_lock(&h->lock);
	while (h->running && pthread_cond_timedwait(&h->quiet, &h->lock, &end) == 0)
		;
	for (int unlock = 0; unlock < 2 && !h->abandoned; unlock++) /* all come back before one runs */
		VEC_FOREACH(&h->ledger, entry)
			if (unlock || entry->state == GPU_CHECKPOINTED)
				undo(h, entry, unlock ? GPU_UNLOCK : GPU_RESTORE);
	VEC_FOREACH(&h->ledger, entry)
		release_entry(entry);
	h->ledger.count = 0;
	pthread_mutex_unlock(&h->lock);
}

static void leave_caller(int *sock)
{
	sigset_t none;
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	setsid();
	prctl(PR_SET_NAME, "fermata-gpu");
	for (int fd = 0; fd < 3 && null >= 0; fd++)
		dup2(null, fd);
	if (*sock != 3 && dup2(*sock, 3) == 3)
		*sock = 3;
	syscall(__NR_close_range, 4, ~0U, 0);
}

static void begin(struct session *h, int sock, struct driver *driver)
{
	*h = (struct session){ .sock = sock, .driver = driver, .lock = PTHREAD_MUTEX_INITIALIZER, .quiet = PTHREAD_COND_INITIALIZER };
}

static void greet(int sock, int result, const struct error *e)
{
	struct helper_greeting greeting = { .result = result };

	snprintf(greeting.text, sizeof(greeting.text), "%s", e->text);
	send(sock, &greeting, sizeof(greeting), MSG_NOSIGNAL);
}

static void attend(struct session *h)
{
	struct helper_request *request;
	int fds[2];

	while ((request = receive(h->sock, fds)))
		if (request->op == HELPER_ABANDON) {
			pthread_mutex_lock(&h->lock);
			h->abandoned = true;
			pthread_mutex_unlock(&h->lock);
			close_both(fds);
			free(request);
		} else {
			take(h, request, fds);
		}
	put_back(h);
}

_Noreturn void helper_main(int sock, const char *library)
{
	struct driver driver;
	struct session h;
	struct error e = {};

	leave_caller(&sock);
	begin(&h, sock, &driver);
	int r = driver_load(&driver, library, &e);
	greet(sock, r, &e);
	if (r)
		_exit(1);
	attend(&h);
	_exit(0);
}

/* ---- for many callers ---- */

static struct {
	struct driver driver;
	pthread_mutex_t lock;
	pthread_cond_t quiet;
	size_t sessions;
} resident = { .lock = PTHREAD_MUTEX_INITIALIZER, .quiet = PTHREAD_COND_INITIALIZER };

static void *serve_session(void *argument)
{
	struct session *h = argument;

	attend(h);
	close(h->sock); /* tells the caller that all is put back */
	pthread_mutex_lock(&h->lock);
	const bool hangs = h->running;
	pthread_mutex_unlock(&h->lock);
	pthread_mutex_lock(&resident.lock);
	resident.sessions--;
	pthread_cond_broadcast(&resident.quiet);
	pthread_mutex_unlock(&resident.lock);
	if (hangs) /* a call that has not come back needs it */
		return NULL;
	VEC_FREE(&h->ledger);
	free(h);
	return NULL;
}

static void admit(int sock, int loaded, const struct error *e)
{
	struct session *h = malloc(sizeof(*h));
	struct ucred peer = {};
	socklen_t size = sizeof(peer);
	pthread_t thread;
	bool allowed = getsockopt(sock, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && peer.uid == geteuid();

	if (!allowed || !h) {
		free(h);
		close(sock);
		return;
	}
	greet(sock, loaded, e);
	begin(h, sock, &resident.driver);
	pthread_mutex_lock(&resident.lock);
	resident.sessions++;
	pthread_mutex_unlock(&resident.lock);
	if (!loaded && pthread_create(&thread, NULL, serve_session, h) == 0) {
		pthread_detach(thread);
		return;
	}
	pthread_mutex_lock(&resident.lock);
	resident.sessions--;
	pthread_mutex_unlock(&resident.lock);
	close(sock);
	free(h);
}

int gpu_resident_main(int listener, int lifeline, const char *library)
{
	struct pollfd polls[2] = { { .fd = listener, .events = POLLIN }, { .fd = lifeline, .events = POLLIN } };
	struct error e = {};

	prctl(PR_SET_NAME, "fermata-gpud");
	int r = driver_load(&resident.driver, library, &e);
	fcntl(listener, F_SETFL, O_NONBLOCK);
	/* Whoever waits for a driver that can't be loaded is told so. */
	do {
		for (int sock; (sock = accept4(listener, NULL, NULL, SOCK_CLOEXEC)) >= 0;)
			admit(sock, r, &e);
	} while (!r && (poll(polls, 2, -1) > 0 || errno == EINTR) && !polls[1].revents);
	close(listener);
	pthread_mutex_lock(&resident.lock);
	while (resident.sessions)
		pthread_cond_wait(&resident.quiet, &resident.lock);
	pthread_mutex_unlock(&resident.lock);
	return r ? 1 : 0;
}
