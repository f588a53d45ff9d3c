/* Threads in calls with a timeout: none gives up too early, none waits for ever, none says that something came. */
#include "gate.h"
#include <poll.h>
#include <sys/epoll.h>
#include <sys/select.h>
#include <sys/socket.h>
#include <sys/time.h>

enum { COUNT = 7 };
#define LENGTH 0.4
static pid_t tids[COUNT];
static double took[COUNT];
static int quiet[2], pair[2], epoll, word;

static struct timespec rest(double end)
{
	double left = end - seconds_now(CLOCK_MONOTONIC);
	if (left < 0) left = 0;
	return (struct timespec){(time_t)left, (long)((left - (time_t)left) * 1e9)};
}

/* One wait until end: 0 when the time is over. */
static long once(long number, double end)
{
	struct timespec left = rest(end);
	struct timeval limit = {left.tv_sec, left.tv_nsec / 1000};
	struct pollfd polled = {.fd = quiet[0], .events = POLLIN};
	struct epoll_event event;
	fd_set set;
	sigset_t none;
	char byte;
	FD_ZERO(&set);
	FD_SET(quiet[0], &set);
	sigemptyset(&none);
	sigaddset(&none, SIGRTMIN + 9);
	int milliseconds = left.tv_sec * 1000 + (left.tv_nsec + 999999) / 1000000;
	switch (number) {
	case 0: return poll(&polled, 1, milliseconds);
	case 1: return ppoll(&polled, 1, &left, NULL);
	case 2: return select(quiet[0] + 1, &set, NULL, NULL, &limit);
	case 3: return epoll_wait(epoll, &event, 1, milliseconds);
	case 4: return syscall(SYS_futex, &word, FUTEX_WAIT, 0, &left, NULL, 0) < 0 && errno == ETIMEDOUT ? 0 : -1;
	case 5: return sigtimedwait(&none, NULL, &left) < 0 && errno == EAGAIN ? 0 : -1;
	default:
		if (!limit.tv_sec && !limit.tv_usec) return 0; /* which would be no limit */
		CHECK(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &limit, sizeof limit) == 0);
		return recv(pair[0], &byte, 1, 0) < 0 && errno == EAGAIN ? 0 : -1;
	}
}

static void *body(void *argument)
{
	long number = (long)argument, result;
	double start = seconds_now(CLOCK_MONOTONIC), end = start + LENGTH;
	thread_here(&tids[number]);
	while ((result = once(number, end)) != 0) CHECK(result == -1 && errno == EINTR);
	took[number] = seconds_now(CLOCK_MONOTONIC) - start;
	return NULL;
}

static void await_sleep(int number)
{
	char path[64], text[256] = "";
	for (int i = 0; i < 5000; i++) {
		snprintf(path, sizeof path, "/proc/self/task/%d/stat", __atomic_load_n(&tids[number], __ATOMIC_ACQUIRE));
		if (slurp(path, text, sizeof text - 1) > 0 && strrchr(text, ')')[2] == 'S') return;
		usleep(1000);
	}
	CHECK(0);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	pthread_t threads[COUNT];
	struct epoll_event event = {.events = EPOLLIN};
	CHECK(pipe(quiet) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && (epoll = epoll_create1(0)) >= 0);
	CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, quiet[0], &event) == 0);
	for (long i = 0; i < COUNT; i++) CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
	for (int i = 0; i < COUNT; i++) await_sleep(i);
	wait_go();
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	for (int i = 0; i < COUNT; i++) CHECK(took[i] > LENGTH - 0.001 && took[i] < 30);
	return finish();
}
