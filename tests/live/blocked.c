/* Threads asleep in calls that wait for a descriptor or for a child: each goes on and gets what then comes. */
#include "gate.h"
#include "tree.h"
#include "unix.h"
#include <sys/eventfd.h>
#include <sys/inotify.h>
#include <sys/select.h>
#include <sys/signalfd.h>
#include <sys/stat.h>

enum { WAIT, FULL, ACCEPT, RECEIVE, SEND, COUNTER, SIGNAL, WATCH, SELECT, COUNT };
static pid_t tids[COUNT], child;
static int full[2], listener, pair[2], stuffed[2], counter, signals, watch, chosen[2], done;
static char much[1 << 16];

static void *body(void *argument)
{
	long number = (long)argument;
	char got[512];
	fd_set set;
	eventfd_t value;
	FD_ZERO(&set);
	FD_SET(chosen[0], &set);
	thread_here(&tids[number]);
	switch (number) {
	case WAIT: CHECK(tree_reap(child) == 33); break;
	case FULL: CHECK(write(full[1], "late", 4) == 4); break;
	case ACCEPT: CHECK(accept(listener, NULL, NULL) >= 0); break;
	case RECEIVE: CHECK(recv(pair[0], got, sizeof got, 0) == 5); break;
	case SEND: CHECK(send(stuffed[0], "late", 4, 0) == 4); break;
	case COUNTER: CHECK(eventfd_read(counter, &value) == 0 && value == 3); break;
	case SIGNAL: CHECK(read(signals, got, sizeof got) == sizeof(struct signalfd_siginfo)); break;
	case WATCH: CHECK(read(watch, got, sizeof got) > 0 && ((struct inotify_event *)got)->mask == IN_CREATE); break;
	case SELECT: CHECK(select(chosen[0] + 1, &set, NULL, NULL, NULL) == 1 && FD_ISSET(chosen[0], &set)); break;
	}
	__atomic_add_fetch(&done, 1, __ATOMIC_SEQ_CST);
	return NULL;
}

static int waits(void *argument)
{
	tree_park();
	return 33;
}

static void make(void)
{
	sigset_t set;
	sigemptyset(&set);
	sigaddset(&set, SIGHUP);
	CHECK(sigprocmask(SIG_BLOCK, &set, NULL) == 0 && (signals = signalfd(-1, &set, 0)) >= 0);
	child = tree_start(waits, NULL);
	CHECK(pipe(full) == 0 && fcntl(full[1], F_SETPIPE_SZ, 4096) == 4096 && write(full[1], much, 4096) == 4096);
	listener = unix_listening(SOCK_STREAM, "path", 1);
	CHECK(socketpair(AF_UNIX, SOCK_STREAM, 0, pair) == 0 && socketpair(AF_UNIX, SOCK_STREAM, 0, stuffed) == 0);
	while (send(stuffed[0], much, sizeof much, MSG_DONTWAIT) > 0) continue;
	CHECK((counter = eventfd(0, 0)) >= 0 && (watch = inotify_init1(0)) >= 0 && pipe(chosen) == 0);
	CHECK(mkdir("dir", 0755) == 0 && inotify_add_watch(watch, "dir", IN_CREATE) > 0);
}

static void release(void)
{
	CHECK(kill(child, SIGUSR1) == 0 && read(full[0], much, 4096) == 4096 && unix_connected(SOCK_STREAM, "path") >= 0);
	say(pair[1], "hello");
	while (recv(stuffed[1], much, sizeof much, MSG_DONTWAIT) > 0) continue;
	CHECK(eventfd_write(counter, 3) == 0 && kill(getpid(), SIGHUP) == 0);
	CHECK(close(open("dir/made", O_WRONLY | O_CREAT, 0600)) == 0 && write(chosen[1], "x", 1) == 1);
}

int main(int argc, char **argv)
{
	static const long calls[COUNT] = {SYS_wait4, SYS_write, SYS_accept, SYS_recvfrom, SYS_sendto, SYS_read, SYS_read,
		SYS_read, SYS_pselect6};
	live_init(argc, argv);
	tree_init();
	pthread_t threads[COUNT];
	make();
	for (long i = 0; i < COUNT; i++) CHECK(pthread_create(&threads[i], NULL, body, (void *)i) == 0);
	for (int i = 0; i < COUNT; i++) await_call(&tids[i], calls[i]);
	wait_go();
	CHECK(__atomic_load_n(&done, __ATOMIC_SEQ_CST) == 0);
	release();
	for (int i = 0; i < COUNT; i++) CHECK(pthread_join(threads[i], NULL) == 0);
	return finish();
}
