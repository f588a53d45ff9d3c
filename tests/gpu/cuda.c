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

enum { INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_INITIALIZED = 3, INVALID_CONTEXT = 201, ILLEGAL_STATE = 401, NOT_FOUND = 500, NOT_READY = 600, NOT_SUPPORTED = 801 };
enum { RUNNING, LOCKED, CHECKPOINTED, FAILED, CHECKPOINTING, RESTORING };
enum { OP_STATE, OP_LOCK, OP_CHECKPOINT, OP_RESTORE, OP_UNLOCK, OP_COMPLETE };
static const char *const op_names[] = { "state", "lock", "checkpoint", "restore", "unlock", "complete" };

#define BLOCKS 64
#define BASE 0x7f0000000000ULL /* device addresses begin here, */
#define DEVICE_BITS 36	       /* and those of each device have so many */
#define DEVICE "/dev/loop-control" /* a character device that no checkpoint holds */

struct message {
	uint32_t op, timeout_ms;
	int32_t result, state;
	int32_t custom, n_map;
	struct {
		int32_t from, to;
	} map[4]; /* restore: numbers of devices */
	struct {
		int32_t device;
		uint64_t size;
	} parts[FAKE_DEVICES]; /* what a checkpointer is to map */
};

/* One process's view. */
static struct {
	bool started, launched, custom; /* custom: what was on the device is not in the process */
	int state, device_fd, device;
	struct {
		int fd, number; /* the number that it has in the machine */
		size_t used;
	} memory[FAKE_DEVICES];
	struct {
		uint64_t at;
		size_t size;
		char *kept; /* while checkpointed */
	} blocks[BLOCKS];
	size_t n_blocks;
	unsigned int under_way;
	pthread_mutex_t lock;
	pthread_cond_t change;
} gpu = { .device_fd = -1, .memory = { { -1, 0, 0 }, { -1, 1, 0 } }, .lock = PTHREAD_MUTEX_INITIALIZER, .change = PTHREAD_COND_INITIALIZER };

static const char *folder(void)
{
	const char *dir = getenv("FAKE_GPU_DIR");

	return dir ? dir : "/nonexistent";
}

/* How often has it failed so? Counted by the size of a file. */
static int failed_before(const char *op)
{
	char path[256];
	struct stat st = { .st_size = 0 };

	snprintf(path, sizeof(path), "%s/failed-%s", folder(), op);
	int fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);
	if (fd >= 0) {
		fstat(fd, &st);
		if (write(fd, "", 1) != 1)
			st.st_size = 0;
		close(fd);
	}
	return (int)st.st_size;
}

/* What the file `fail` says of this call. 0: nothing; -1: hang; -2: die; otherwise a CUresult. */
static int failure(const char *op, int pid)
{
	char path[256], call[32], how[32], line[128];
	int result = 0, times;

	snprintf(path, sizeof(path), "%s/fail", folder());
	FILE *f = fopen(path, "re");
	while (f && fgets(line, sizeof(line), f)) {
		int whose = pid, n = sscanf(line, "%31s %31s %d", call, how, &whose);
		if (n < 2 || strcmp(call, op) || whose != pid)
			continue;
		result = !strcmp(how, "hang") ? -1 : !strcmp(how, "die") ? -2 : atoi(how);
		if (strchr(how, '*') && sscanf(strchr(how, '*'), "*%d", &times) == 1 && failed_before(op) >= times)
			result = 0;
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

static int memory_of(uint64_t at)
{
	return (int)((at - BASE) >> DEVICE_BITS) & 1;
}

static int fd_of(uint64_t at)
{
	return gpu.memory[memory_of(at)].fd;
}

static off_t offset_of(uint64_t at)
{
	return (off_t)((at - BASE) & ((1ULL << DEVICE_BITS) - 1));
}

static bool holds(int i)
{
	return gpu.memory[i].used || i == gpu.device;
}

/* For NVML. */
static void tell_use(void)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/user-%d", folder(), (int)getpid());
	FILE *f = fopen(path, "we");
	for (int i = 0; f && i < FAKE_DEVICES; i++)
		if (holds(i))
			fprintf(f, "%d %zu\n", gpu.memory[i].number, gpu.memory[i].used);
	if (f)
		fclose(f);
}

/* Memory is found again only as long as it is open: that of a device goes with who has it. */
static int open_devices(void)
{
	char path[300];

	if (gpu.device_fd < 0)
		gpu.device_fd = open(getenv("FAKE_DEVICE") ? getenv("FAKE_DEVICE") : DEVICE, O_RDWR | O_CLOEXEC);
	for (int i = 0; i < FAKE_DEVICES; i++) {
		if (!holds(i) || gpu.memory[i].fd >= 0)
			continue;
		snprintf(path, sizeof(path), "%s/memory-%d-%d", folder(), gpu.memory[i].number, (int)getpid());
		gpu.memory[i].fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
		if (gpu.memory[i].fd < 0 || ftruncate(gpu.memory[i].fd, (off_t)gpu.memory[i].used) < 0)
			return NOT_INITIALIZED;
	}
	tell_use();
	return gpu.device_fd < 0 ? NOT_INITIALIZED : 0;
}

static void close_devices(void)
{
	char path[300];

	for (int i = 0; i < FAKE_DEVICES; i++) {
		if (gpu.memory[i].fd < 0)
			continue;
		snprintf(path, sizeof(path), "%s/memory-%d-%d", folder(), gpu.memory[i].number, (int)getpid());
		unlink(path);
		close(gpu.memory[i].fd);
		gpu.memory[i].fd = -1;
	}
	snprintf(path, sizeof(path), "%s/user-%d", folder(), (int)getpid());
	unlink(path);
	close(gpu.device_fd);
	gpu.device_fd = -1;
}

/* For programs that act at that moment. */
static void tell_lock(void)
{
	char path[300];

	snprintf(path, sizeof(path), "%s/locked-%d", folder(), (int)getpid());
	close(open(path, O_WRONLY | O_CREAT | O_CLOEXEC, 0600));
}

static int do_lock(uint32_t timeout_ms)
{
	struct timespec end;
	int r = 0;

	if (gpu.state != RUNNING)
		return ILLEGAL_STATE;
	gpu.state = LOCKED;
	tell_lock();
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

static void name_parts(struct message *m)
{
	for (int i = 0; i < FAKE_DEVICES; i++) {
		m->parts[i].device = gpu.memory[i].number;
		m->parts[i].size = gpu.memory[i].used;
	}
}

static int do_checkpoint(struct message *m)
{
	if (gpu.state != LOCKED)
		return ILLEGAL_STATE;
	gpu.custom = m->custom;
	if (gpu.custom) {
		name_parts(m);
		gpu.state = CHECKPOINTING;
		return 0;
	}
	for (size_t i = 0; i < gpu.n_blocks; i++) {
		size_t size = gpu.blocks[i].size;
		char *kept = mmap(NULL, size, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		if (kept == MAP_FAILED || pread(fd_of(gpu.blocks[i].at), kept, size, offset_of(gpu.blocks[i].at)) != (ssize_t)size)
			return OUT_OF_MEMORY;
		gpu.blocks[i].kept = kept;
	}
	close_devices();
	gpu.state = CHECKPOINTED;
	return 0;
}

/* Whoever maps it finds what was there before, not zeroes. */
static int fill_with_rubbish(void)
{
	char rubbish[4096];

	memset(rubbish, 0xa5, sizeof(rubbish));
	for (int i = 0; i < FAKE_DEVICES; i++)
		for (size_t at = 0; at < gpu.memory[i].used; at += sizeof(rubbish))
			if (pwrite(gpu.memory[i].fd, rubbish, sizeof(rubbish) < gpu.memory[i].used - at ? sizeof(rubbish) : gpu.memory[i].used - at, (off_t)at) < 0)
				return OUT_OF_MEMORY;
	return 0;
}

static int do_restore(struct message *m)
{
	if (gpu.state != CHECKPOINTED)
		return ILLEGAL_STATE;
	if (gpu.custom != m->custom)
		return INVALID_VALUE;
	for (int i = 0; i < FAKE_DEVICES; i++)
		for (int k = 0; k < m->n_map; k++)
			if (m->map[k].from == gpu.memory[i].number) {
				gpu.memory[i].number = m->map[k].to;
				break;
			}
	int r = open_devices();
	if (!r && gpu.custom) {
		r = fill_with_rubbish();
		name_parts(m);
		if (!r)
			gpu.state = RESTORING;
		return r;
	}
	for (size_t i = 0; !r && i < gpu.n_blocks; i++) {
		if (pwrite(fd_of(gpu.blocks[i].at), gpu.blocks[i].kept, gpu.blocks[i].size, offset_of(gpu.blocks[i].at)) != (ssize_t)gpu.blocks[i].size)
			return OUT_OF_MEMORY;
		munmap(gpu.blocks[i].kept, gpu.blocks[i].size);
		gpu.blocks[i].kept = NULL;
	}
	if (!r)
		gpu.state = LOCKED;
	return r;
}

static int do_complete(void)
{
	if (gpu.state == RESTORING) {
		gpu.state = LOCKED;
		return 0;
	}
	if (gpu.state != CHECKPOINTING)
		return ILLEGAL_STATE;
	close_devices();
	gpu.state = CHECKPOINTED;
	return 0;
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
		return do_checkpoint(m);
	case OP_RESTORE:
		return do_restore(m);
	case OP_COMPLETE:
		return do_complete();
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
	if (gpu.launched && gpu.device_fd >= 0)
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
	int r = open_devices();
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
	return gpu.launched ? 0 : start();
}

int cuMemAlloc_v2(uint64_t *ret, size_t size)
{
	int r = start();

	r = r ? r : enter();
	if (r)
		return r;
	const int i = gpu.device;
	if (gpu.n_blocks == BLOCKS || open_devices() || ftruncate(gpu.memory[i].fd, (off_t)(gpu.memory[i].used + size)) < 0)
		return leave(OUT_OF_MEMORY);
	*ret = BASE + ((uint64_t)i << DEVICE_BITS) + gpu.memory[i].used;
	gpu.blocks[gpu.n_blocks].at = *ret;
	gpu.blocks[gpu.n_blocks++].size = size;
	gpu.memory[i].used += size;
	tell_use();
	return leave(0);
}

int cuMemcpyHtoD_v2(uint64_t to, const void *from, size_t size)
{
	int r = enter();

	return r ? r : leave(pwrite(fd_of(to), from, size, offset_of(to)) == (ssize_t)size ? 0 : INVALID_VALUE);
}

int cuMemcpyDtoH_v2(void *to, uint64_t from, size_t size)
{
	int r = enter();

	return r ? r : leave(pread(fd_of(from), to, size, offset_of(from)) == (ssize_t)size ? 0 : INVALID_VALUE);
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
		off_t at = offset_of(l->at) + (off_t)i * 8;
		if (pread(fd_of(l->at), &value, 8, at) != 8)
			abort();
		value++;
		if (pwrite(fd_of(l->at), &value, 8, at) != 8)
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

/* ---- custom storage ---- */

static int first_device(void)
{
	return getenv("FAKE_GPU_FIRST") ? atoi(getenv("FAKE_GPU_FIRST")) : 0;
}

struct stream {
	void *context;
};
static char contexts[FAKE_DEVICES]; /* their addresses */
static bool retained[FAKE_DEVICES];
static struct stream streams[FAKE_DEVICES];
static __thread void *current;

struct region {
	uint64_t at;
	size_t size;
	void *stream;
};
struct storage {
	void *handle;
	struct region *regions;
	uint32_t n_regions;
	/* Ours: */
	int pid;
	struct region room[FAKE_DEVICES];
};

int cuDeviceGetCount(int *ret)
{
	*ret = FAKE_DEVICES;
	return 0;
}

int cuDeviceGet(int *ret, int number)
{
	*ret = number;
	return 0;
}

int cuDeviceGetUuid_v2(unsigned char ret[16], int device)
{
	static const unsigned char beginning[15] = { 0x01, 0x23, 0x45, 0x67, 0x89, 0xab, 0xcd, 0xef, 0x01, 0x23, 0x45, 0x67, 0x89, 0, 0 };

	memcpy(ret, beginning, sizeof(beginning));
	ret[15] = (unsigned char)(device + first_device());
	return 0;
}

int cuDevicePrimaryCtxRetain(void **ret, int device)
{
	*ret = &contexts[device];
	streams[device].context = *ret;
	retained[device] = true;
	return failure("retain", getpid());
}

int cuCtxSetCurrent(void *context)
{
	current = context;
	return 0;
}

int cuStreamGetCtx(void *stream, void **ret)
{
	*ret = ((struct stream *)stream)->context;
	return 0;
}

int cuStreamCreate(void **ret, unsigned int flags)
{
	(void)flags;
	struct stream *stream = malloc(sizeof(*stream));
	if (!stream || !current) {
		free(stream);
		return INVALID_CONTEXT;
	}
	stream->context = current;
	*ret = stream;
	return 0;
}

int cuStreamDestroy_v2(void *stream)
{
	free(stream);
	return 0;
}

int cuStreamSynchronize(void *stream)
{
	(void)stream;
	return 0;
}

int cuMemHostAlloc(void **ret, size_t size, unsigned int flags)
{
	(void)flags;
	int fail = failure("host", getpid());
	*ret = fail || !current ? NULL : aligned_alloc(4096, size);
	return fail ? fail : *ret ? 0 : OUT_OF_MEMORY;
}

int cuMemFreeHost(void *p)
{
	free(p);
	return 0;
}

static int copying(const void *stream)
{
	int fail = failure("copy", getpid());

	while (fail == -1)
		pause();
	if (fail == -2)
		raise(SIGKILL);
	/* A device address is good in its own context alone. */
	return fail ? fail : ((const struct stream *)stream)->context == current ? 0 : INVALID_CONTEXT;
}

int cuMemcpyDtoHAsync_v2(void *to, uint64_t from, size_t size, void *stream)
{
	int r = copying(stream);

	if (!r)
		memcpy(to, (void *)from, size);
	return r;
}

int cuMemcpyHtoDAsync_v2(uint64_t to, const void *from, size_t size, void *stream)
{
	int r = copying(stream);

	if (!r)
		memcpy((void *)to, from, size);
	return r;
}

int cuMemsetD8Async(uint64_t to, unsigned char value, size_t size, void *stream)
{
	int r = copying(stream);

	if (!r)
		memset((void *)to, value, size);
	return r;
}

/* What the process has on its devices, here. */
static int map_all(int pid, const struct message *m, struct storage **ret)
{
	struct storage *s = calloc(1, sizeof(*s));

	if (!s)
		return OUT_OF_MEMORY;
	s->handle = s;
	s->regions = s->room;
	s->pid = pid;
	for (int i = 0; i < FAKE_DEVICES; i++) {
		char path[300];
		int device = m->parts[i].device - first_device();
		if (!m->parts[i].size)
			continue;
		if (device < 0 || device >= FAKE_DEVICES || !retained[device])
			return INVALID_CONTEXT;
		snprintf(path, sizeof(path), "%s/memory-%d-%d", folder(), m->parts[i].device, pid);
		int fd = open(path, O_RDWR | O_CLOEXEC);
		void *at = mmap(NULL, m->parts[i].size, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		if (fd >= 0)
			close(fd);
		if (at == MAP_FAILED)
			return OUT_OF_MEMORY;
		s->room[s->n_regions++] = (struct region){ (uint64_t)at, m->parts[i].size, &streams[device] };
	}
	*ret = s;
	return 0;
}

int cuCheckpointOperationComplete(void *handle)
{
	struct storage *s = handle;
	struct message m = { .op = OP_COMPLETE };
	int r = ask(s->pid, &m);

	for (uint32_t i = 0; !r && i < s->n_regions; i++)
		munmap((void *)s->room[i].at, s->room[i].size);
	if (!r)
		free(s);
	return r;
}

struct checkpoint_args {
	struct storage **storage;
	uint64_t reserved[7];
};

int cuCheckpointProcessCheckpoint(int pid, const struct checkpoint_args *args)
{
	struct message m = { .op = OP_CHECKPOINT, .custom = args->storage != NULL };

	if (!is_zero(args->reserved, sizeof(args->reserved)))
		return INVALID_VALUE;
	int r = ask(pid, &m);
	return r || !args->storage ? r : map_all(pid, &m, args->storage);
}

struct restore_args {
	const unsigned char (*pairs)[32];
	uint32_t n_pairs, padding;
	struct storage **storage;
	uint64_t reserved[5];
};

/* The ids of the devices end in their numbers. */
int cuCheckpointProcessRestore(int pid, const struct restore_args *args)
{
	struct message m = { .op = OP_RESTORE, .custom = args->storage != NULL };

	if (args->padding || !is_zero(args->reserved, sizeof(args->reserved)) || args->n_pairs > 4)
		return INVALID_VALUE;
	for (uint32_t i = 0; i < args->n_pairs; i++) {
		m.map[m.n_map].from = args->pairs[i][15];
		m.map[m.n_map++].to = args->pairs[i][31];
	}
	int r = ask(pid, &m);
	return r || !args->storage ? r : map_all(pid, &m, args->storage);
}

int cuCheckpointProcessUnlock(int pid, const void *args)
{
	struct message m = { .op = OP_UNLOCK };

	return is_zero(args, 64) ? ask(pid, &m) : INVALID_VALUE;
}

/* FAKE_CUSTOM: a driver with custom storage. */
int cuGetProcAddress_v2(const char *name, void **ret, int version, uint64_t flags, int *status)
{
	static const struct {
		const char *name;
		void *at;
	} newer[] = {
		{ "cuCheckpointOperationComplete", cuCheckpointOperationComplete },
		{ "cuCheckpointProcessCheckpoint", cuCheckpointProcessCheckpoint },
		{ "cuCheckpointProcessRestore", cuCheckpointProcessRestore },
	};

	(void)flags;
	*ret = NULL;
	*status = 1;
	for (size_t i = 0; i < sizeof(newer) / sizeof(*newer); i++)
		if (getenv("FAKE_CUSTOM") && version >= 13040 && !strcmp(name, newer[i].name))
			*ret = newer[i].at;
	return *ret ? 0 : NOT_FOUND;
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
