/*
 * The least that a dump or a restore has to do, as programs to compare with:
 *
 *	floor stop FILE MIB PID…            stop and let go every thread of the processes, write MIB of memory to FILE
 *	floor make FILE MIB PROCESSES THREADS   read MIB from FILE, make so many processes, and threads in this one
 *	floor write FILE MIB WORKERS        nothing but a copy of memory to FILE; prints its nanoseconds
 *	floor read FILE MIB WORKERS         and back, into fresh memory
 *	floor warm - MIB 1                  touch so much memory and free it: on a virtual machine, memory that nobody had for
 *	                                    some seconds has to be fetched from the host, whoever touches it
 */
#include <dirent.h>
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/ptrace.h>
#include <sys/uio.h>
#include <sys/user.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHUNK (1UL << 20)
#define TIDS_MAX 100000

struct slice {
	pthread_t thread;
	int fd, writing, failed;
	char *memory;
	size_t from, to;
};

static void *copy_slice(void *arg)
{
	struct slice *s = arg;

	for (size_t at = s->from; at < s->to;) {
		size_t size = s->to - at < CHUNK ? s->to - at : CHUNK;
		ssize_t n = s->writing ? pwrite(s->fd, s->memory + at, size, (off_t)at) : pread(s->fd, s->memory + at, size, (off_t)at);
		if (n <= 0) {
			s->failed = 1;
			break;
		}
		at += (size_t)n;
	}
	return NULL;
}

static char *memory_of(size_t size, int filled)
{
	char *memory = mmap(NULL, size ? size : 1, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (memory == MAP_FAILED)
		exit(1);
	for (size_t i = 0; filled && i < size; i += 8) /* no page is like another */
		*(uint64_t *)(memory + i) = i * 0x9e3779b97f4a7c15ULL;
	return memory;
}

/* Returns the nanoseconds that the copying alone took. */
static long long copy(const char *path, size_t size, int workers, int writing)
{
	int fd = open(path, writing ? O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC : O_RDONLY | O_CLOEXEC, 0600);
	char *memory = memory_of(size, writing);
	struct slice *slices = calloc((size_t)workers, sizeof(*slices));
	struct timespec start, end;
	int failed = 0;

	if (fd < 0 || !slices)
		exit(1);
	clock_gettime(CLOCK_MONOTONIC, &start);
	for (int i = 0; i < workers; i++) {
		size_t step = size / (size_t)workers;
		slices[i] = (struct slice){ .fd = fd, .writing = writing, .memory = memory, .from = step * (size_t)i };
		slices[i].to = i == workers - 1 ? size : slices[i].from + step;
		if (i && pthread_create(&slices[i].thread, NULL, copy_slice, &slices[i]))
			exit(1);
	}
	copy_slice(&slices[0]);
	for (int i = 1; i < workers; i++)
		pthread_join(slices[i].thread, NULL);
	clock_gettime(CLOCK_MONOTONIC, &end);
	for (int i = 0; i < workers; i++)
		failed |= slices[i].failed;
	if (failed)
		exit(1);
	free(slices);
	return (end.tv_sec - start.tv_sec) * 1000000000LL + (end.tv_nsec - start.tv_nsec);
}

static size_t list_threads(const char *pid, pid_t *tids, size_t count)
{
	char path[64];
	struct dirent *entry;

	snprintf(path, sizeof(path), "/proc/%s/task", pid);
	DIR *dir = opendir(path);
	if (!dir)
		exit(1);
	while ((entry = readdir(dir)))
		if (entry->d_name[0] != '.' && count < TIDS_MAX)
			tids[count++] = atoi(entry->d_name);
	closedir(dir);
	return count;
}

static void stop(int count, char **pids)
{
	static pid_t tids[TIDS_MAX];
	size_t n = 0;

	for (int i = 0; i < count; i++)
		n = list_threads(pids[i], tids, n);
	for (size_t i = 0; i < n; i++)
		if (ptrace(PTRACE_SEIZE, tids[i], 0, 0) < 0 || ptrace(PTRACE_INTERRUPT, tids[i], 0, 0) < 0)
			exit(1);
	for (size_t i = 0; i < n; i++) {
		struct user_regs_struct regs;
		waitpid(tids[i], NULL, __WALL);
		ptrace(PTRACE_GETREGS, tids[i], 0, &regs);
	}
	for (size_t i = 0; i < n; i++)
		ptrace(PTRACE_DETACH, tids[i], 0, 0);
}

static void *stand(void *arg)
{
	while (pause())
		;
	return arg;
}

static void make(int processes, int threads)
{
	pthread_attr_t attr;
	pthread_t thread;

	for (int i = 0; i < processes; i++)
		if (fork() == 0)
			_exit(0);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, 64UL << 10);
	for (int i = 1; i < threads; i++)
		if (pthread_create(&thread, &attr, stand, NULL))
			exit(1);
	while (wait(NULL) > 0)
		;
}

int main(int argc, char **argv)
{
	if (argc < 5)
		return 2;
	size_t size = strtoul(argv[3], NULL, 10) << 20;
	if (!strcmp(argv[1], "stop")) {
		copy(argv[2], size, 1, 1);
		stop(argc - 4, argv + 4);
	} else if (!strcmp(argv[1], "make") && argc == 6) {
		copy(argv[2], size, 1, 0);
		make(atoi(argv[4]), atoi(argv[5]));
	} else if (!strcmp(argv[1], "warm")) {
		memory_of(size, 1);
	} else if (!strcmp(argv[1], "write") || !strcmp(argv[1], "read")) {
		printf("%lld\n", copy(argv[2], size, atoi(argv[4]), argv[1][0] == 'w'));
	} else {
		return 2;
	}
	return 0;
}
