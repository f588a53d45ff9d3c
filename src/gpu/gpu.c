/* The caller's side of the helper. See gpu.h. */
#include "gpu/helper.h"

#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <sys/wait.h>
#include <time.h>

struct gpu {
	int sock;
	pid_t pid; /* 0: a resident one */
	const char *library;
	bool greeted;
	uint32_t next;
	struct helper_greeting greeting;
	VEC(struct gpu_call *) calls; /* under way or done, by id; emptied when none is under way */
	size_t waiting;
};

static const char *const op_names[GPU_OPS] = { "state", "restore thread", "lock", "checkpoint", "restore", "unlock", "forget" };
static const char *const state_names[] = { "running", "locked", "checkpointed", "failed", "checkpointing", "restoring" };

const char *gpu_op_name(enum gpu_op op)
{
	return op < GPU_OPS ? op_names[op] : "?";
}

const char *gpu_state_name(enum gpu_state s)
{
	return s < ARRAY_SIZE(state_names) ? state_names[s] : "in an unknown state";
}

bool gpu_present(void)
{
	const char *said = getenv("FERMATA_GPU");

	if (said && (!strcmp(said, "on") || !strcmp(said, "off")))
		return said[1] == 'n';
	return access("/proc/driver/nvidia/version", F_OK) == 0;
}

/* Only one of root's, or our own: it is told what to do with processes. */
static bool connect_resident(struct gpu *g, const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct ucred peer = {};
	socklen_t size = sizeof(peer);

	if (!path || strlen(path) >= sizeof(address.sun_path))
		return false;
	strcpy(address.sun_path, path);
	g->sock = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (g->sock < 0)
		return false;
	if (connect(g->sock, (const struct sockaddr *)&address, sizeof(address)) == 0 &&
	    getsockopt(g->sock, SOL_SOCKET, SO_PEERCRED, &peer, &size) == 0 && (peer.uid == 0 || peer.uid == geteuid()))
		return true;
	close(g->sock);
	return false;
}

static int start_own(struct gpu *g, struct error *e)
{
	int pair[2];

	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
		return error_errno(e, -errno, "cannot make a socket for the GPU helper");
	pid_t pid = fork();
	if (pid == 0)
		helper_main(pair[1], g->library);
	int r = pid < 0 ? error_errno(e, -errno, "cannot start the GPU helper") : 0;
	close(pair[1]);
	if (r) {
		close(pair[0]);
		return r;
	}
	g->sock = pair[0];
	g->pid = pid;
	return 0;
}

int gpu_open(const char *library, const char *resident, struct gpu **ret, struct error *e)
{
	struct gpu *g = calloc(1, sizeof(*g));

	if (!g)
		return error_set(e, -ENOMEM, "out of memory");
	g->library = library;
	int r = connect_resident(g, resident) ? 0 : start_own(g, e);
	if (r)
		free(g);
	else
		*ret = g;
	return r;
}

static int has_died(struct error *e)
{
	return error_set(e, -EPIPE, "the helper that calls the GPU's driver has died");
}

int gpu_ready(struct gpu *g, struct error *e)
{
	ssize_t n = sizeof(g->greeting);

	while (!g->greeted && (n = recv(g->sock, &g->greeting, sizeof(g->greeting), 0)) < 0 && errno == EINTR)
		;
	if (n != sizeof(g->greeting) && !g->pid) { /* a resident one that ends just now */
		close(g->sock);
		g->sock = -1;
		int r = start_own(g, e);
		return r ? r : gpu_ready(g, e);
	}
	if (n != sizeof(g->greeting))
		return has_died(e);
	g->greeted = true;
	return g->greeting.result ? error_set(e, g->greeting.result, "%s", g->greeting.text) : 0;
}

void gpu_leave(struct gpu *g)
{
	if (!g)
		return;
	close(g->sock);
	VEC_FREE(&g->calls);
	free(g);
}

void gpu_close(struct gpu *g)
{
	const pid_t pid = g ? g->pid : 0;
	ssize_t n = 1;

	if (g && !pid && shutdown(g->sock, SHUT_WR) == 0) /* until it closes its end */
		while (n > 0 || (n < 0 && errno == EINTR))
			n = recv(g->sock, &(struct helper_reply){}, sizeof(struct helper_reply), 0);
	gpu_leave(g);
	while (pid && waitpid(pid, NULL, __WALL) < 0 && errno == EINTR)
		;
}

static bool send_with(int sock, void *data, size_t size, const int *fds, size_t n_fds)
{
	struct iovec part = { data, size };
	union {
		struct cmsghdr head;
		char room[CMSG_SPACE(2 * sizeof(int))];
	} control = {};
	struct msghdr message = { .msg_iov = &part, .msg_iovlen = 1 };

	if (n_fds) {
		message.msg_control = &control;
		message.msg_controllen = CMSG_SPACE(n_fds * sizeof(int));
		struct cmsghdr *c = CMSG_FIRSTHDR(&message);
		*c = (struct cmsghdr){ .cmsg_level = SOL_SOCKET, .cmsg_type = SCM_RIGHTS, .cmsg_len = CMSG_LEN(n_fds * sizeof(int)) };
		memcpy(CMSG_DATA(c), fds, n_fds * sizeof(int));
	}
	return sendmsg(sock, &message, MSG_NOSIGNAL) == (ssize_t)size;
}

static int send_request(struct gpu *g, uint32_t id, uint32_t op, const struct gpu_call *call, struct error *e)
{
	const size_t size = sizeof(struct helper_request) + (call ? call->n_pairs : 0) * sizeof(struct gpu_pair);
	_cleanup_free_ struct helper_request *request = calloc(1, size);

	if (!request)
		return error_set(e, -ENOMEM, "out of memory");
	*request = (struct helper_request){ .id = id, .op = op };
	if (call) {
		request->pid = call->pid;
		request->timeout_ms = call->timeout_ms;
		request->n_pairs = (uint32_t)call->n_pairs;
		request->own = call->own;
		request->in_memory = call->in_memory;
		request->offset = call->offset;
		request->n_regions = (uint32_t)call->n_regions;
		memcpy(request->regions, call->regions, sizeof(request->regions));
		if (call->n_pairs)
			memcpy(request->pairs, call->pairs, call->n_pairs * sizeof(struct gpu_pair));
	}
	const bool moves = call && call->own && (op == GPU_CHECKPOINT || op == GPU_RESTORE);
	const int fds[] = { moves ? call->fd : -1, moves ? call->digests : -1 };
	return send_with(g->sock, request, size, fds, !moves ? 0 : call->digests < 0 ? 1 : 2) ? 0 : has_died(e);
}

int gpu_start(struct gpu *g, struct gpu_call *calls, size_t n, struct error *e)
{
	int r = gpu_ready(g, e);

	if (!g->waiting)
		g->calls.count = 0;
	for (size_t i = 0; !r && i < n; i++) {
		struct gpu_call **slot = VEC_PUSH(&g->calls);
		if (!slot)
			return error_set(e, -ENOMEM, "out of memory");
		*slot = &calls[i];
		calls[i].done = false;
		r = send_request(g, (uint32_t)g->calls.count - 1, calls[i].op, &calls[i], e);
		g->waiting += !r;
	}
	return r;
}

int gpu_fd(const struct gpu *g)
{
	return g->sock;
}

int gpu_collect(struct gpu *g, struct error *e)
{
	struct helper_reply reply;
	ssize_t n;

	while (g->waiting && (n = recv(g->sock, &reply, sizeof(reply), MSG_DONTWAIT)) != -1) {
		if (n != sizeof(reply) || reply.id >= g->calls.count || g->calls.data[reply.id]->done)
			return has_died(e);
		struct gpu_call *call = g->calls.data[reply.id];
		call->done = true;
		call->result = reply.result;
		call->value = reply.value;
		call->n_regions = MIN(reply.n_regions, GPU_DEVICES_MAX);
		memcpy(call->regions, reply.regions, sizeof(call->regions));
		snprintf(call->why, sizeof(call->why), "%.*s", (int)sizeof(reply.why) - 1, reply.why);
		g->waiting--;
	}
	return !g->waiting || errno == EAGAIN || errno == EINTR ? 0 : has_died(e);
}

bool gpu_has_died(const struct gpu *g)
{
	char one;

	return recv(g->sock, &one, sizeof(one), MSG_PEEK | MSG_DONTWAIT) == 0;
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

int gpu_run(struct gpu *g, struct gpu_call *calls, size_t n, int deadline_ms, struct error *e)
{
	const int64_t end = now_ms() + deadline_ms;
	int r = gpu_start(g, calls, n, e);

	while (!r && g->waiting) {
		struct pollfd poll_fd = { .fd = g->sock, .events = POLLIN };
		int64_t left = end - now_ms();
		if (left <= 0) {
			if (g->pid) {
				kill(g->pid, SIGKILL);
			} else { /* the same for us */
				send_request(g, 0, HELPER_ABANDON, NULL, e);
				shutdown(g->sock, SHUT_RDWR);
			}
			return error_set(e, -ETIMEDOUT, "the GPU's driver does not answer within %d s", deadline_ms / 1000);
		}
		if (poll(&poll_fd, 1, (int)left) > 0)
			r = gpu_collect(g, e);
	}
	return r;
}

int gpu_machine_read(struct gpu *g, struct gpu_machine **ret, struct error *e)
{
	struct {
		struct helper_reply reply;
		struct gpu_machine machine;
	} *m = malloc(sizeof(*m));
	ssize_t n = -1;
	int r = m ? gpu_ready(g, e) : error_set(e, -ENOMEM, "out of memory");

	if (!r)
		r = send_request(g, 0, HELPER_MACHINE, NULL, e);
	while (!r && (n = recv(g->sock, m, sizeof(*m), 0)) < 0 && errno == EINTR)
		;
	if (!r && n != (ssize_t)sizeof(*m))
		r = has_died(e);
	if (!r)
		*ret = malloc(sizeof(**ret));
	if (!r && !*ret)
		r = error_set(e, -ENOMEM, "out of memory");
	if (!r)
		memcpy(*ret, &m->machine, sizeof(**ret));
	free(m);
	return r;
}
