/* A process whose first thread has ended, with a child, descriptors, a name and the exit code that the first thread left; the
 * process ends when the last of its threads does. */
#include "data.h"
#include "gate.h"
#include "tree.h"
#include <sys/prctl.h>
#include <sys/file.h>

enum { THREADS = 3, LEFT = 9, LAST = 3 };
static pid_t pid, grandchild;
static pid_t tids[THREADS];
static int fd, ends[2], gate;

static void leader_text(const char *file, char *text, size_t size)
{
	char path[64];
	memset(text, 0, size);
	snprintf(path, sizeof path, "/proc/%d/task/%d/%s", pid, pid, file);
	CHECK(slurp(path, text, size - 1) > 0);
}

static int leader_is_gone(void)
{
	char text[512];
	leader_text("stat", text, sizeof text);
	return strrchr(text, ')')[2] == 'Z';
}

/* The last field of its stat. */
static int leader_status(void)
{
	char text[512];
	leader_text("stat", text, sizeof text);
	return atoi(strrchr(text, ' '));
}

static void check(void)
{
	char text[512], byte;
	CHECK(leader_status() == LEFT << 8);
	CHECK(getpid() == pid && leader_is_gone());
	leader_text("comm", text, sizeof text);
	CHECK(!strcmp(text, "the first\n"));
	CHECK(lseek(fd, 0, SEEK_CUR) == 100 && fcntl(ends[0], F_GETFL) == O_RDONLY);
	CHECK(write(ends[1], "x", 1) == 1 && read(ends[0], &byte, 1) == 1 && byte == 'x');
	int other = open("data", O_RDWR);
	CHECK(other >= 0 && flock(other, LOCK_EX | LOCK_NB) == -1 && errno == EWOULDBLOCK && close(other) == 0);
}

static void *body(void *argument)
{
	pid_t *own = argument, tid = gettid();
	thread_here(own);
	if (own == &tids[0]) {
		while (!leader_is_gone()) usleep(1000);
		await_call(&tids[1], SYS_futex);
		await_call(&tids[2], SYS_futex);
		check();
		tree_there();
		wait_signal();
		check();
		CHECK(tree_finish(grandchild) == 5);
		gate_open(&gate);
	} else {
		gate_wait(&gate);
	}
	CHECK(gettid() == tid && tid == *own);
	syscall(SYS_exit, LAST);
	return NULL;
}

static int deeper(void *argument)
{
	tree_park();
	return 5;
}

static int child(void *argument)
{
	pid = getpid();
	fd = data_file("data", 1000, 1);
	CHECK(lseek(fd, 100, SEEK_SET) == 100 && pipe(ends) == 0 && flock(fd, LOCK_EX) == 0);
	grandchild = tree_start(deeper, NULL);
	for (int i = 0; i < THREADS; i++) {
		pthread_t thread;
		CHECK(pthread_create(&thread, NULL, body, &tids[i]) == 0);
	}
	CHECK(prctl(PR_SET_NAME, "the first") == 0);
	syscall(SYS_exit, LEFT);
	return 0;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	pid_t other = tree_start(child, NULL);
	wait_go();
	/* Which of the two it is depends on the kernel. */
	int status = tree_finish(other);
	CHECK(status == LEFT || status == LAST);
	return finish();
}
