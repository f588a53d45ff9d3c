/* Threads in calls that a stop ends with EINTR, signal(7): none shows it, each waits on and gets what then comes; a signal with a handler ends them. */
#include "gate.h"
#include "uring.h"
#include <linux/aio_abi.h>
#include <sys/epoll.h>
#include <sys/sem.h>
#include <sys/socket.h>

enum { EPOLL, EPOLL_MASK, EPOLL_SHORT, SEM, SEM_TIMED, SIGNAL, AIO, URING, RECEIVE, RECEIVE_MANY, HANDLED, COUNT };
static pid_t tids[COUNT];
static int pair[2], ends[2], epoll, other, sems, done;
static aio_context_t aio;
static struct uring ring;
static volatile sig_atomic_t handled;

static void on_signal(int sig) { handled = sig; }

static void *body(void *argument)
{
	long number = (long)argument;
	struct epoll_event event;
	struct sembuf op = {.sem_num = number == SEM, .sem_op = -1};
	struct io_event completion;
	sigset_t set, mask;
	siginfo_t info;
	double start = seconds_now(CLOCK_MONOTONIC);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	mask = set;
	sigaddset(&mask, SIGUSR1);
	thread_here(&tids[number]);
	switch (number) {
	case EPOLL: CHECK(epoll_wait(epoll, &event, 1, -1) == 1 && event.data.u64 == 33); break;
	case EPOLL_MASK: CHECK(syscall(SYS_epoll_pwait2, epoll, &event, 1, NULL, &mask, 8) == 1 && event.data.u64 == 33); break;
	case EPOLL_SHORT:
		CHECK(epoll_wait(other, &event, 1, 700) == 0);
		CHECK(seconds_now(CLOCK_MONOTONIC) - start > 0.699);
		break;
	case SEM: CHECK(syscall(SYS_semop, sems, &op, 1) == 0); break;
	case SEM_TIMED: CHECK(syscall(SYS_semtimedop, sems, &op, 1, NULL) == 0); break;
	case SIGNAL: CHECK(syscall(SYS_rt_sigtimedwait, &set, &info, NULL, 8) == SIGUSR2 && info.si_code == SI_TKILL); break;
	case AIO: CHECK(syscall(SYS_io_getevents, aio, 1, 1, &completion, NULL) == 1 && completion.data == 77); break;
	case URING: CHECK(syscall(SYS_io_uring_enter, ring.fd, 0, 1, IORING_ENTER_GETEVENTS, NULL, 0) == 0); break;
	case RECEIVE:
		CHECK(recv(pair[0], &event, 1, 0) == -1 && errno == EAGAIN && seconds_now(CLOCK_MONOTONIC) - start > 0.799);
		break;
	case RECEIVE_MANY:
		CHECK(recvmmsg(pair[0], &(struct mmsghdr){}, 1, 0, NULL) == -1 && errno == EAGAIN && seconds_now(CLOCK_MONOTONIC) - start > 0.799);
		break;
	case HANDLED: CHECK(epoll_wait(other, &event, 1, -1) == -1 && errno == EINTR && handled == SIGRTMIN + 3); break;
	}
	__atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static void make(void)
{
	struct epoll_event event = {.events = EPOLLIN, .data.u64 = 33};
	sigset_t set;
	struct sigaction action = {.sa_handler = on_signal, .sa_flags = SA_RESTART};
	sigemptyset(&set);
	sigaddset(&set, SIGUSR2);
	CHECK(pthread_sigmask(SIG_BLOCK, &set, NULL) == 0 && sigaction(SIGRTMIN + 3, &action, NULL) == 0);
	CHECK(pipe(ends) == 0 && (epoll = epoll_create1(0)) >= 0 && (other = epoll_create1(0)) >= 0);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0);
	CHECK(setsockopt(pair[0], SOL_SOCKET, SO_RCVTIMEO, &(struct timeval){.tv_usec = 800000}, sizeof(struct timeval)) == 0);
	CHECK(epoll_ctl(epoll, EPOLL_CTL_ADD, ends[0], &event) == 0);
	CHECK((sems = semget(IPC_PRIVATE, 2, 0600)) >= 0 && semctl(sems, 0, SETVAL, 0) == 0 && semctl(sems, 1, SETVAL, 0) == 0);
	CHECK(syscall(SYS_io_setup, 4, &aio) == 0 && uring_make(&ring, 4, 0, 0) == 0);
}

static void release(void)
{
	struct iocb block = {.aio_data = 77, .aio_lio_opcode = IOCB_CMD_PREAD, .aio_fildes = open("/proc/self/exe", O_RDONLY), .aio_nbytes = 4}, *list = &block;
	char bytes[4];
	block.aio_buf = (uintptr_t)bytes;
	CHECK(write(ends[1], "x", 1) == 1);
	CHECK(semop(sems, &(struct sembuf){.sem_num = 0, .sem_op = 1}, 1) == 0 && semop(sems, &(struct sembuf){.sem_num = 1, .sem_op = 1}, 1) == 0);
	CHECK(syscall(SYS_tgkill, getpid(), tids[SIGNAL], SIGUSR2) == 0 && syscall(SYS_tgkill, getpid(), tids[HANDLED], SIGRTMIN + 3) == 0);
	CHECK(syscall(SYS_io_submit, aio, 1, &list) == 1);
	uring_next(&ring, IORING_OP_NOP, 5);
	CHECK(uring_submit(&ring, 0) == 1);
}

int main(int argc, char **argv)
{
	static const long calls[COUNT] = {SYS_epoll_wait, SYS_epoll_pwait2, SYS_epoll_wait, SYS_semop, SYS_semtimedop, SYS_rt_sigtimedwait, SYS_io_getevents,
		SYS_io_uring_enter, SYS_recvfrom, SYS_recvmmsg, SYS_epoll_wait};
	live_init(argc, argv);
	pthread_t threads[COUNT];
	make();
	for (long i = 0; i < COUNT; i++) CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
	for (int i = 0; i < COUNT; i++) await_call(&tids[i], calls[i]);
	wait_go();
	release();
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	CHECK(semctl(sems, 0, IPC_RMID) == 0 && done == COUNT);
	return finish();
}
