/* libcuda.so.1 of the tests. See fake.h. */
#include "fake.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, ILLEGAL_STATE = 401, NOT_READY = 600, NOT_SUPPORTED = 801 };
enum { RUNNING, LOCKED, CHECKPOINTED };
enum { OP_STATE, OP_LOCK, OP_CHECKPOINT, OP_RESTORE, OP_UNLOCK };
static const char *const op_names[] = { "state", "lock", "checkpoint", "restore", "unlock" };

#define BLOCKS 64
#define BASE 0x7f0000000000ULL /* device addresses begin here */
#define DEVICE "/dev/net/tun"  /* a character device that no checkpoint holds */

struct message {
	uint32_t op, timeout_ms;
	int32_t result, state;
	char device[48]; /* restore: the device to use from now on, or "" */
};

/* One process's view. */
static struct {
	bool started, launched;
	int state, device_fd, memory_fd, device;
	size_t used;
	struct {
		uint64_t at;
		size_t size;
		char *kept; /* while checkpointed */
	} blocks[BLOCKS];
	size_t n_blocks;
	unsigned int under_way;
	pthread_mutex_t lock;
	pthread_cond_t change;
} gpu = { .device_fd = -1, .memory_fd = -1, .lock = PTHREAD_MUTEX_INITIALIZER, .change = PTHREAD_COND_INITIALIZER };

static const char *folder(void)
{
	const char *dir = getenv("FAKE_GPU_DIR");

	return dir ? dir : "/nonexistent";
}

/* What the file `fail` says of this call. 0: nothing; -1: hang; -2: die; otherwise a CUresult. */
static int failure(const char *op, int pid)
{
	char path[256], call[32], how[32], line[128];
	int result = 0;

	snprintf(path, sizeof(path), "%s/fail", folder());
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		int whose = pid, n = sscanf(line, "%31s %31s %d", call, how, &whose);
		if (n >= 2 && !strcmp(call, op) && whose == pid)
			result = !strcmp(how, "hang") ? -1 : !strcmp(how, "die") ? -2 : atoi(how);
	}
	if (f)
		fclose(f);
	return result;
}

static void name_of(int pid, struct sockaddr_un *ret, socklen_t *ret_size)
{
	*ret = (struct sockaddr_un){ .sun_family = AF_UNIX };
	int n = snprintf(ret->sun_path + 1, sizeof(ret->sun_path) - 1, "fake-cuda-%d", pid);
	*ret_size = (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)n);
}

/* ---- the process that uses the device ---- */

static int open_device(int device)
{
	char path[300];

	gpu.device_fd = open(DEVICE, O_RDWR | O_CLOEXEC);
	snprintf(path, sizeof(path), "%s/memory-%d-%d", folder(), device, (int)getpid());
	gpu.memory_fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	/* Found again only as long as it is open: the memory of a device goes with who has it. */
	gpu.device = device;
	snprintf(path, sizeof(path), "%s/last-%d", folder(), (int)getpid());
	FILE *last = fopen(path, "we");
	if (last) {
		fprintf(last, "%d\n", device);
		fclose(last);
	}
	snprintf(path, sizeof(path), "%s/user-%d", folder(), (int)getpid());
	FILE *f = fopen(path, "we");
	if (f) {
		fprintf(f, "%d %zu\n", device, gpu.used);
		fclose(f);
	}
	return gpu.device_fd < 0 || gpu.memory_fd < 0 ? NOT_INITIALIZED : 0;
}

static void close_device(void)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/memory-%d-%d", folder(), gpu.device, (int)getpid());
	unlink(path);
	snprintf(path, sizeof(path), "%s/user-%d", folder(), (int)getpid());
	unlink(path);
	close(gpu.memory_fd);
	close(gpu.device_fd);
	gpu.memory_fd = gpu.device_fd = -1;
}

static int do_lock(uint32_t timeout_ms)
{
	struct timespec end;
	int r = 0;

	if (gpu.state != RUNNING)
		return ILLEGAL_STATE;
	gpu.state = LOCKED;
	clock_gettime(CLOCK_REALTIME, &end);
	end.tv_sec += timeout_ms / 1000;
	end.tv_nsec += timeout_ms % 1000 * 1000000L;
	end.tv_sec += end.tv_nsec / 1000000000;
	end.tv_nsec %= 1000000000;
	while (gpu.under_way && !r)
		r = timeout_ms ? pthread_cond_timedwait(&gpu.change, &gpu.lock, &end) : pthread_cond_wait(&gpu.change, &gpu.lock);
	if (!gpu.under_way)
		return 0;
	gpu.state = RUNNING;
	pthread_cond_broadcast(&gpu.change);
	return NOT_READY;
}

static int do_checkpoint(void)
{
	if (gpu.state != LOCKED)
		return ILLEGAL_STATE;
	for (size_t i = 0; i < gpu.n_blocks; i++) {
		size_t size = gpu.blocks[i].size;
		char *kept = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (kept == MAP_FAILED || pread(gpu.memory_fd, kept, size, (off_t)(gpu.blocks[i].at - BASE)) != (ssize_t)size)
			return OUT_OF_MEMORY;
		gpu.blocks[i].kept = kept;
	}
	close_device();
	gpu.state = CHECKPOINTED;
	return 0;
}

static int do_restore(const char *device)
{
	if (gpu.state != CHECKPOINTED)
		return ILLEGAL_STATE;
	int r = open_device(device[0] ? atoi(device) : gpu.device);
	for (size_t i = 0; !r && i < gpu.n_blocks; i++) {
		if (pwrite(gpu.memory_fd, gpu.blocks[i].kept, gpu.blocks[i].size, (off_t)(gpu.blocks[i].at - BASE)) != (ssize_t)gpu.blocks[i].size)
			return OUT_OF_MEMORY;
		munmap(gpu.blocks[i].kept, gpu.blocks[i].size);
		gpu.blocks[i].kept = NULL;
	}
	if (!r)
		gpu.state = LOCKED;
	return r;
}

static int perform(struct message *m)
{
	int fail = failure(op_names[m->op], getpid());

	while (fail == -1)
		pause();
	if (fail == -2)
		raise(SIGKILL);
	if (fail)
		return fail;
	switch (m->op) {
	case OP_LOCK:
		return do_lock(m->timeout_ms);
	case OP_CHECKPOINT:
		return do_checkpoint();
	case OP_RESTORE:
		return do_restore(m->device);
	case OP_UNLOCK:
		if (gpu.state != LOCKED)
			return ILLEGAL_STATE;
		gpu.state = RUNNING;
		pthread_cond_broadcast(&gpu.change);
		return 0;
	default:
		return 0;
	}
}

/* The thread that checkpoint and restore run on. */
static void *restore_thread(void *argument)
{
	int sock = (int)(intptr_t)argument;
	char path[300];

	snprintf(path, sizeof(path), "%s/thread-%d", folder(), (int)getpid());
	FILE *f = fopen(path, "we");
	if (f) {
		fprintf(f, "%d\n", (int)syscall(SYS_gettid));
		fclose(f);
	}
	pthread_mutex_lock(&gpu.lock);
	gpu.started = true;
	pthread_cond_broadcast(&gpu.change);
	pthread_mutex_unlock(&gpu.lock);
	for (;;) {
		struct sockaddr_un from;
		socklen_t size = sizeof(from);
		struct message m;
		if (recvfrom(sock, &m, sizeof(m), 0, (struct sockaddr *)&from, &size) != sizeof(m))
			continue;
		pthread_mutex_lock(&gpu.lock);
		m.result = perform(&m);
		m.state = gpu.state;
		pthread_mutex_unlock(&gpu.lock);
		sendto(sock, &m, sizeof(m), MSG_NOSIGNAL, (struct sockaddr *)&from, size);
	}
	return NULL;
}

/* Everything that touches the device: waits while it is locked. */
static int enter(void)
{
	pthread_mutex_lock(&gpu.lock);
	while (gpu.launched && gpu.state != RUNNING)
		pthread_cond_wait(&gpu.change, &gpu.lock);
	if (gpu.launched && gpu.memory_fd >= 0)
		return 0;
	pthread_mutex_unlock(&gpu.lock);
	return NOT_INITIALIZED;
}

static int leave(int r)
{
	pthread_mutex_unlock(&gpu.lock);
	return r;
}

/* A checkpointer has none of it: it is begun by the first call that wants a device. */
static int start(void)
{
	struct sockaddr_un name;
	socklen_t size;
	pthread_t thread;
	sigset_t all, before;

	if (gpu.launched)
		return 0;
	int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	name_of(getpid(), &name, &size);
	if (sock < 0 || bind(sock, (struct sockaddr *)&name, size) < 0)
		return NOT_INITIALIZED;
	int r = open_device(gpu.device);
	if (r)
		return r;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	r = pthread_create(&thread, NULL, restore_thread, (void *)(intptr_t)sock) ? NOT_INITIALIZED : 0;
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_mutex_lock(&gpu.lock);
	while (!r && !gpu.started)
		pthread_cond_wait(&gpu.change, &gpu.lock);
	gpu.launched = !r;
	pthread_mutex_unlock(&gpu.lock);
	return r;
}

int cuInit(unsigned int flags)
{
	(void)flags;
	int fail = failure("init", getpid());
	while (fail == -1)
		pause();
	return fail == -2 ? raise(SIGKILL) : fail;
}

int fakeSetDevice(int device)
{
	gpu.device = device;
	return start();
}

int cuMemAlloc_v2(uint64_t *ret, size_t size)
{
	int r = start();

	r = r ? r : enter();
	if (r)
		return r;
	if (gpu.n_blocks == BLOCKS || ftruncate(gpu.memory_fd, (off_t)(gpu.used + size)) < 0)
		return leave(OUT_OF_MEMORY);
	*ret = BASE + gpu.used;
	gpu.blocks[gpu.n_blocks].at = *ret;
	gpu.blocks[gpu.n_blocks++].size = size;
	gpu.used += size;
	char path[300];
	snprintf(path, sizeof(path), "%s/user-%d", folder(), (int)getpid());
	FILE *f = fopen(path, "we");
	if (f) {
		fprintf(f, "%d %zu\n", gpu.device, gpu.used);
		fclose(f);
	}
	return leave(0);
}

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t size)
{
	int r = enter();

	return r ? r : leave(pwrite(gpu.memory_fd, from, size, (off_t)(to - BASE)) == (ssize_t)size ? 0 : INVALID_VALUE);
}

int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t size)
{
	int r = enter();

	return r ? r : leave(pread(gpu.memory_fd, to, size, (off_t)(from - BASE)) == (ssize_t)size ? 0 : INVALID_VALUE);
}

struct launch {
	uint64_t at;
	size_t numbers;
	unsigned int ms;
};

static void *run_launch(void *argument)
{
	struct launch *l = argument;
	struct timespec pause = { l->ms / 1000, l->ms % 1000 * 1000000L };

	while (nanosleep(&pause, &pause) < 0)
		;
	pthread_mutex_lock(&gpu.lock);
	for (size_t i = 0; i < l->numbers; i++) {
		uint64_t value;
		off_t at = (off_t)(l->at - BASE + i * 8);
		if (pread(gpu.memory_fd, &value, 8, at) != 8)
			abort();
		value++;
		if (pwrite(gpu.memory_fd, &value, 8, at) != 8)
			abort();
	}
	gpu.under_way--;
	pthread_cond_broadcast(&gpu.change);
	pthread_mutex_unlock(&gpu.lock);
	free(l);
	return NULL;
}

int fakeLaunch(uint64_t at, size_t numbers, unsigned int ms)
{
	struct launch *l = malloc(sizeof(*l));
	sigset_t all, before;
	pthread_t thread;
	int r = enter();

	if (r) {
		free(l);
		return r;
	}
	*l = (struct launch){ at, numbers, ms };
	gpu.under_way++;
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	if (pthread_create(&thread, NULL, run_launch, l))
		abort();
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	pthread_detach(thread);
	return leave(0);
}

int cuCtxSynchronize(void)
{
	int r = enter();

	while (!r && gpu.under_way)
		pthread_cond_wait(&gpu.change, &gpu.lock);
	return r ? r : leave(0);
}

/* ---- the process that checkpoints ---- */

#ifndef WITHOUT_CHECKPOINTS
static bool has_ended(int pid)
{
	char path[40], state = 'Z';

	snprintf(path, sizeof(path), "/proc/%d/stat", pid);
	FILE *f = fopen(path, "re");
	if (f && fscanf(f, "%*d (%*[^)]) %c", &state) != 1)
		state = 'Z';
	if (f)
		fclose(f);
	return state == 'Z' || state == 'X';
}

static int ask(int pid, struct message *m)
{
	struct sockaddr_un name, own = { .sun_family = AF_UNIX };
	socklen_t size;
	int sock = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC, 0), r = 0;

	name_of(pid, &name, &size);
	bind(sock, (struct sockaddr *)&own, sizeof(sa_family_t));
	if (connect(sock, (struct sockaddr *)&name, size) < 0 || send(sock, m, sizeof(*m), MSG_NOSIGNAL) < 0)
		r = INVALID_VALUE;
	/* It hangs when the process does; one that has ended is noticed. */
	while (!r && recv(sock, m, sizeof(*m), MSG_DONTWAIT) != sizeof(*m)) {
		struct timespec pause = { 0, 2000000 };
		if (has_ended(pid))
			r = INVALID_VALUE;
		nanosleep(&pause, NULL);
	}
	close(sock);
	return r ? r : m->result;
}

int cuCheckpointProcessGetState(int pid, int *state)
{
	struct message m = { .op = OP_STATE };
	int r = ask(pid, &m);

	*state = m.state;
	return r;
}

int cuCheckpointProcessGetRestoreThreadId(int pid, int *tid)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/thread-%d", folder(), pid);
	FILE *f = fopen(path, "re");
	int r = f && fscanf(f, "%d", tid) == 1 ? 0 : INVALID_VALUE;
	if (f)
		fclose(f);
	return r;
}

struct lock_args {
	uint32_t timeout_ms, reserved0;
	uint64_t reserved[7];
};

int cuCheckpointProcessLock(int pid, const struct lock_args *args)
{
	struct message m = { .op = OP_LOCK, .timeout_ms = args->timeout_ms };

	return ask(pid, &m);
}

static bool is_zero(const void *p, size_t size)
{
	for (size_t i = 0; i < size; i++)
		if (((const char *)p)[i])
			return false;
	return true;
}

int cuCheckpointProcessCheckpoint(int pid, const void *args)
{
	struct message m = { .op = OP_CHECKPOINT };

	return is_zero(args, 64) ? ask(pid, &m) : INVALID_VALUE;
}

struct restore_args {
	const unsigned char (*pairs)[32];
	uint32_t n_pairs;
	char reserved[52];
};

/* The ids of the devices end in their numbers. */
int cuCheckpointProcessRestore(int pid, const struct restore_args *args)
{
	struct message m = { .op = OP_RESTORE };
	char path[300];
	int before = -1;

	snprintf(path, sizeof(path), "%s/last-%d", folder(), pid);
	for (uint32_t i = 0; i < args->n_pairs; i++) {
		FILE *f = fopen(path, "re");
		if (f && fscanf(f, "%d", &before) != 1)
			before = -1;
		if (f)
			fclose(f);
		if (before < 0 || args->pairs[i][15] == before)
			snprintf(m.device, sizeof(m.device), "%d", args->pairs[i][31]);
	}
	return ask(pid, &m);
}

int cuCheckpointProcessUnlock(int pid, const void *args)
{
	struct message m = { .op = OP_UNLOCK };

	return is_zero(args, 64) ? ask(pid, &m) : INVALID_VALUE;
}

#endif

int cuDriverGetVersion(int *version)
{
	*version = getenv("FAKE_CUDA_VERSION") ? atoi(getenv("FAKE_CUDA_VERSION")) : 13000;
	return 0;
}

int cuGetErrorName(int result, const char **ret)
{
	static char text[32];

	snprintf(text, sizeof(text), "FAKE_ERROR_%d", result);
	*ret = text;
	return 0;
}
