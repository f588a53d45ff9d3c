/* 200 threads, each asleep in one of five system calls. */
#include "gate.h"
#include <poll.h>
#include <sys/epoll.h>

enum { COUNT = 200 };
enum { FUTEX, SLEEP, READ, POLL, EPOLL, KINDS };
static int gate, stop, finished, slow[2], quick[2], epoll;
static pid_t tids[COUNT];
static __thread long own;

static void *body(void *argument)
{
	long number = own = (long)argument;
	struct pollfd poll = {.fd = quick[0], .events = POLLIN};
	struct epoll_event event;
	struct timespec nap = {0, 20000000};
	char byte;
	long result;
	thread_here(&tids[number]);
	switch (number % KINDS) {
	case FUTEX:
		gate_wait(&gate);
		break;
	case SLEEP:
		while (!__atomic_load_n(&stop, __ATOMIC_ACQUIRE)) syscall(SYS_nanosleep, &nap, NULL);
		break;
	case READ:
		CHECK(syscall(SYS_read, slow[0], &byte, 1) == 1 && byte == 'r');
		break;
	case POLL:
		CHECK(syscall(SYS_ppoll, &poll, 1, NULL, NULL, 0) == 1 && poll.revents == POLLIN);
		break;
	case EPOLL: /* EINTR without a handler is what the kernel gives after a stop, signal(7) */
		while ((result = syscall(SYS_epoll_pwait, epoll, &event, 1, -1, NULL, 0)) < 0) CHECK(errno == EINTR);
		CHECK(result == 1 && event.data.u64 == 77);
		break;
	}
	CHECK(own == number && gettid() == tids[number]);
	__atomic_add_fetch(&finished, 1, __ATOMIC_SEQ_CST);
	return (void *)(number * 3);
}

int main(int argc, char **argv)
{
	static const long calls[KINDS] = {SYS_futex, SYS_nanosleep, SYS_read, SYS_ppoll, SYS_epoll_pwait};
	live_init(argc, argv);
	pthread_t threads[COUNT];
	pthread_attr_t attributes;
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = 77};
	CHECK(pipe(slow) == 0 && pipe(quick) == 0 && (epoll = epoll_create1(0)) >= 0);
	CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, quick[0], &event) == 0);
	CHECK(pthread_attr_init(&attributes) == 0 && pthread_attr_setstacksize(&attributes, 65536) == 0);
	for (long i = 0; i < COUNT; i++) CHECK(pthread_create(&threads[i], &attributes, body, (void *)i) == 0);
	for (int i = 0; i < COUNT; i++) await_call(&tids[i], calls[i % KINDS]);
	wait_go();
	CHECK(__atomic_load_n(&finished, __ATOMIC_SEQ_CST) == 0);
	for (int i = 0; i < COUNT / KINDS; i++) CHECK(write(slow[1], "r", 1) == 1);
	CHECK(write(quick[1], "q", 1) == 1);
	__atomic_store_n(&stop, 1, __ATOMIC_RELEASE);
	gate_open(&gate);
	for (long i = 0; i < COUNT; i++) {
		void *result;
		CHECK(pthread_join(threads[i], &result) == 0 && (long)result == i * 3);
	}
	CHECK(finished == COUNT);
	return finish();
}
