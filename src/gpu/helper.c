/*
 * See helper.h. One thread reads requests and gives each a thread of its own: the driver's calls take seconds, and may hang. What was
 * done to each process stands in the ledger, so that it can be undone when the caller is gone.
 */
#include "gpu/helper.h"

#include "gpu/driver.h"

#include <fcntl.h>
#include <linux/close_range.h>
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
};

struct helper {
	int sock;
	struct driver driver;
	pthread_mutex_t lock;
	pthread_cond_t quiet;
	size_t running;
	VEC(struct entry) ledger;
};

struct job {
	struct helper *helper;
	struct helper_request *request;
};

/* Under the lock. */
static void note(struct helper *h, const struct gpu_call *call)
{
	struct entry *found = NULL;

	VEC_FOREACH(&h->ledger, entry)
		if (entry->pid == call->pid)
			found = entry;
	if (call->op == GPU_UNLOCK || call->op == GPU_FORGET) {
		if (found)
			*found = h->ledger.data[--h->ledger.count];
		return;
	}
	if (!found && !(found = VEC_PUSH(&h->ledger)))
		return;
	*found = (struct entry){ call->pid, call->op == GPU_CHECKPOINT ? GPU_CHECKPOINTED : GPU_LOCKED };
}

static void tell_machine(struct helper *h, uint32_t id)
{
	struct {
		struct helper_reply reply;
		struct gpu_machine machine;
	} *m = calloc(1, sizeof(*m));

	if (!m)
		return;
	m->reply.id = id;
	driver_machine(&h->driver, &m->machine);
	send(h->sock, m, sizeof(*m), MSG_NOSIGNAL);
	free(m);
}

static void *serve(void *argument)
{
	struct job *job = argument;
	struct helper *h = job->helper;
	struct helper_request *request = job->request;
	struct gpu_call call = { .op = request->op, .pid = request->pid, .timeout_ms = request->timeout_ms, .pairs = request->pairs,
				 .n_pairs = request->n_pairs };
	struct helper_reply reply = { .id = request->id };

	if (request->op == HELPER_MACHINE) {
		tell_machine(h, request->id);
	} else {
		driver_call(&h->driver, &call);
		reply.result = call.result;
		reply.value = call.value;
		memcpy(reply.why, call.why, sizeof(reply.why));
	}
	pthread_mutex_lock(&h->lock);
	if (!call.result && call.op >= GPU_LOCK && call.op < GPU_OPS)
		note(h, &call);
	h->running--;
	pthread_cond_broadcast(&h->quiet);
	pthread_mutex_unlock(&h->lock);
	if (request->op != HELPER_MACHINE)
		send(h->sock, &reply, sizeof(reply), MSG_NOSIGNAL);
	free(request);
	free(job);
	return NULL;
}

static void take(struct helper *h, struct helper_request *request)
{
	struct job *job = malloc(sizeof(*job));
	pthread_t thread;

	if (job)
		*job = (struct job){ h, request };
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
	free(request);
	free(job);
}

static struct helper_request *receive(int sock)
{
	const size_t room = sizeof(struct helper_request) + GPU_DEVICES_MAX * sizeof(struct gpu_pair);
	struct helper_request *request = calloc(1, room);
	ssize_t n = -1;

	do
		n = request ? recv(sock, request, room, 0) : -1;
	while (n < 0 && request && errno == EINTR);
	if (n >= (ssize_t)sizeof(*request) && (size_t)n == sizeof(*request) + request->n_pairs * sizeof(struct gpu_pair))
		return request;
	free(request);
	return NULL;
}

/* Nobody waits for these processes any more: they are to run as if nothing had been. */
static void put_back(struct helper *h)
{
	struct timespec end;

	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += CALLS_OVER_S;
	pthread_mutex_lock(&h->lock);
	while (h->running && pthread_cond_timedwait(&h->quiet, &h->lock, &end) == 0)
		;
	for (int unlock = 0; unlock < 2; unlock++) /* all come back before one runs */
		VEC_FOREACH(&h->ledger, entry) {
			struct gpu_call call = { .op = unlock ? GPU_UNLOCK : GPU_RESTORE, .pid = entry->pid };
			if (unlock || entry->state == GPU_CHECKPOINTED)
				driver_call(&h->driver, &call);
		}
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

_Noreturn void helper_main(int sock, const char *library)
{
	struct helper h = { .lock = PTHREAD_MUTEX_INITIALIZER, .quiet = PTHREAD_COND_INITIALIZER };
	struct helper_greeting greeting = {};
	struct helper_request *request;
	struct error e = {};

	leave_caller(&sock);
	h.sock = sock;
	greeting.result = driver_load(&h.driver, library, &e);
	snprintf(greeting.text, sizeof(greeting.text), "%s", e.text);
	send(sock, &greeting, sizeof(greeting), MSG_NOSIGNAL);
	if (greeting.result)
		_exit(1);
	while ((request = receive(sock)))
		take(&h, request);
	put_back(&h);
	_exit(0);
}
