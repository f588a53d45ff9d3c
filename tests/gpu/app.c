/*
 * A program with state on a GPU. It adds to numbers there, over and over, and keeps its own count beside them: count and numbers must always agree.
 *
 *	app FILE [-d DEVICE] [-n PROCESSES] [-c CHILDREN] [-l MS] [-m MIB] [-b] [-i CHILDREN] [-j US] [-s]
 *
 * Each round it writes "PID ROUND" to FILE; a number that is wrong is said there as "PID wrong …". -n: more such processes, children of the first.
 * -c: children that use no GPU. -l: how long a launch takes. -m: so much more there, a third of it zeroes,
 * looked at piece by piece; -b: and the same on the other device. -i: children that have what the first
 * has open, once it uses its GPU. -j: a child that
 * begins to use one so long after the first was locked. -s: seccomp-less thread with a busy signal timer, which must not get into the driver's thread.
 */
#include "fake.h"

#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <time.h>
#include <unistd.h>

#define NUMBERS 4096

static uint64_t host[NUMBERS];
static volatile sig_atomic_t ticks;
static pid_t main_thread;

static void say(const char *path, const char *text)
{
	char line[128];
	int n = snprintf(line, sizeof(line), "%d %s\n", (int)getpid(), text), fd = open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, line, (size_t)n) != n)
		abort();
	close(fd);
}

#define PIECE (1UL << 20)

static struct {
	uint64_t at[2]; /* of each device */
	size_t pieces;
	int devices;
	uint64_t piece[PIECE / 8], own; /* the second: of this process */
} more;

static uint64_t number_in(int device, size_t piece, size_t i)
{
	return piece % 3 ? more.own * 1000003 + (uint64_t)device * 7919 + piece * 131 + i : 0;
}

static void fill_more(int device)
{
	more.own = (uint64_t)getpid();
	for (int k = 0; k < more.devices; k++) {
		if (fakeSetDevice(device ^ k) || cuMemAlloc_v2(&more.at[k], more.pieces * PIECE + 4096))
			exit(7);
		for (size_t p = 0; p < more.pieces; p++) {
			for (size_t i = 0; i < PIECE / 8; i++)
				more.piece[i] = number_in(k, p, i);
			if (cuMemcpyHtoD_v2(more.at[k] + p * PIECE, more.piece, PIECE))
				exit(8);
		}
	}
	fakeSetDevice(device);
}

/* False: what is there is something else. */
static int look_at_more(uint64_t round)
{
	for (int k = 0; k < more.devices; k++) {
		const size_t p = round % more.pieces;
		if (cuMemcpyDtoH_v2(more.piece, more.at[k] + p * PIECE, PIECE))
			exit(9);
		for (size_t i = 0; i < PIECE / 8; i++)
			if (more.piece[i] != number_in(k, p, i))
				return 0;
	}
	return 1;
}

static void tick(int sig)
{
	(void)sig;
	if ((pid_t)syscall(SYS_gettid) != main_thread)
		abort();
	ticks++;
}

static void *idle(void *argument)
{
	for (;;)
		pause();
	return argument;
}

static int heirs;

static _Noreturn void work(const char *path, int device, unsigned int ms)
{
	uint64_t at[2], round = 0;
	char text[64];

	if (cuInit(0) || fakeSetDevice(device) || cuMemAlloc_v2(&at[0], sizeof(host)) || cuMemAlloc_v2(&at[1], 1 << 20))
		exit(3);
	for (size_t i = 0; i < NUMBERS; i++)
		host[i] = i;
	if (cuMemcpyHtoD_v2(at[0], host, sizeof(host)))
		exit(4);
	if (more.pieces)
		fill_more(device);
	for (; heirs > 0 && getpid() == main_thread; heirs--)
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			idle(NULL);
		}
	for (;;) {
		struct timespec pause = { 0, 1000000 };
		if (fakeLaunch(at[0], 16, ms) || cuCtxSynchronize() || cuMemcpyDtoH_v2(host, at[0], sizeof(host)))
			exit(5);
		round++;
		for (size_t i = 0; i < NUMBERS; i++)
			if (host[i] != i + (i < 16 ? round : 0)) {
				snprintf(text, sizeof(text), "wrong: number %zu is %llu in round %llu", i, (unsigned long long)host[i], (unsigned long long)round);
				say(path, text);
				exit(6);
			}
		if (more.pieces && !look_at_more(round)) {
			say(path, "wrong: what else is there");
			exit(6);
		}
		snprintf(text, sizeof(text), "%llu", (unsigned long long)round);
		say(path, text);
		nanosleep(&pause, NULL);
	}
}

static _Noreturn void join_late(const char *path, unsigned int us)
{
	const struct timespec pause = { 0, 50000 };
	char locked[300];

	snprintf(locked, sizeof(locked), "%s/locked-%d", getenv("FAKE_GPU_DIR"), (int)getppid());
	while (access(locked, F_OK))
		nanosleep(&pause, NULL);
	usleep(us);
	work(path, 1, 1);
}

int main(int argc, char **argv)
{
	int option, device = 0, processes = 1, children = 0, signals = 0, late = -1;
	unsigned int ms = 1;
	pthread_t thread;

	while ((option = getopt(argc, argv, "bd:i:j:n:c:l:m:s")) >= 0)
		switch (option) {
		case 'd': device = atoi(optarg); break;
		case 'n': processes = atoi(optarg); break;
		case 'c': children = atoi(optarg); break;
		case 'l': ms = (unsigned int)atoi(optarg); break;
		case 'm': more.pieces = strtoul(optarg, NULL, 10); break;
		case 'i': heirs = atoi(optarg); break;
		case 'j': late = atoi(optarg); break;
		case 'b': more.devices = 2; break;
		case 's': signals = 1; break;
		default: return 2;
		}
	more.devices = more.devices ? more.devices : 1;
	if (optind >= argc)
		return 2;
	for (int i = 0; i < children; i++)
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			idle(NULL);
		}
	if (late >= 0 && fork() == 0) {
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		join_late(argv[optind], (unsigned int)late);
	}
	for (int i = 1; i < processes; i++)
		if (fork() == 0) {
			prctl(PR_SET_PDEATHSIG, SIGKILL);
			work(argv[optind], i % FAKE_DEVICES, ms);
		}
	main_thread = (pid_t)syscall(SYS_gettid);
	if (signals) {
		struct itimerval often = { { 0, 3000 }, { 0, 3000 } };
		signal(SIGALRM, tick);
		setitimer(ITIMER_REAL, &often, NULL);
	} else {
		pthread_create(&thread, NULL, idle, NULL);
	}
	work(argv[optind], device, ms);
}
