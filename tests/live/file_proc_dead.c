/* Open files of /proc: of a process and a thread that have ended, of living threads, own and another process's; duplicates; and a
 * current directory there. */
#include "gate.h"
#include "tree.h"
#include <sys/mman.h>

static pid_t worker;
static int gate, child_comm = -1;

static void *work(void *argument)
{
	CHECK(pthread_setname_np(pthread_self(), "worker") == 0);
	thread_here(&worker);
	gate_wait(&gate);
	return NULL;
}

static int opened(int flags, const char *format, ...)
{
	char path[64];
	va_list args;
	va_start(args, format);
	vsnprintf(path, sizeof path, format, args);
	va_end(args);
	int fd = open(path, flags | O_CLOEXEC);
	CHECK(fd >= 0);
	return fd;
}

static void expect(int fd, const char *text)
{
	char got[64] = "";
	CHECK(pread(fd, got, sizeof got - 1, 0) == (ssize_t)strlen(text) && !strcmp(got, text));
}

static void *end_at_once(void *argument)
{
	thread_here(argument);
	gate_wait(&gate);
	return NULL;
}

static int child(void *argument)
{
	pthread_t thread;
	CHECK(pthread_create(&thread, NULL, work, NULL) == 0);
	while (!__atomic_load_n(&worker, __ATOMIC_ACQUIRE)) usleep(1000);
	*(pid_t *)argument = worker;
	CHECK(chdir("/proc/self/task") == 0);
	tree_there();
	wait_signal();
	char where[64], name[64];
	snprintf(name, sizeof name, "/proc/%d/task", getpid());
	if (!getcwd(where, sizeof where) || strcmp(where, name)) return 2;
	gate_open(&gate);
	pthread_join(thread, NULL);
	return 3;
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	tree_init();
	pthread_t thread, ending;
	pid_t ended_thread = 0;
	char got[64];
	pid_t *other = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	CHECK(other != MAP_FAILED);
	pid_t dead = fork();
	if (dead == 0) {
		pause();
		_exit(0);
	}
	int status = opened(O_RDONLY, "/proc/%d/status", dead), dir = opened(O_RDONLY | O_DIRECTORY, "/proc/%d", dead);
	int stat_path = opened(O_PATH, "/proc/%d/stat", dead), task = opened(O_RDONLY, "/proc/%d/task/%d/comm", dead, dead);
	CHECK(pthread_create(&ending, NULL, end_at_once, &ended_thread) == 0);
	while (!__atomic_load_n(&ended_thread, __ATOMIC_ACQUIRE)) usleep(1000);
	int no_thread = opened(O_RDONLY, "/proc/self/task/%d/comm", ended_thread);
	CHECK(kill(dead, SIGKILL) == 0 && waitpid(dead, NULL, 0) == dead);
	gate_open(&gate);
	CHECK(pthread_join(ending, NULL) == 0);
	gate = 0;
	CHECK(pthread_create(&thread, NULL, work, NULL) == 0);
	while (!__atomic_load_n(&worker, __ATOMIC_ACQUIRE)) usleep(1000);
	int comm = opened(O_RDWR, "/proc/self/task/%d/comm", worker), copy = dup(comm);
	int position = opened(O_RDONLY, "/proc/self/comm"), position_copy = dup(position);
	CHECK(read(position, got, 3) == 3 && copy >= 0 && position_copy >= 0);
	pid_t mine = worker;
	worker = 0;
	pid_t pid = tree_start(child, other);
	child_comm = opened(O_RDONLY, "/proc/%d/task/%d/comm", pid, *other);
	wait_go();
	expect(comm, "worker\n");
	expect(child_comm, "worker\n");
	CHECK(write(copy, "changed", 7) == 7);
	expect(comm, "changed\n");
	CHECK(lseek(position_copy, 0, SEEK_CUR) == 3 && lseek(position, 1, SEEK_SET) == 1 && lseek(position_copy, 0, SEEK_CUR) == 1);
	CHECK(mine && fcntl(comm, F_GETFD) == FD_CLOEXEC && fcntl(copy, F_GETFD) == 0);
	CHECK(read(status, got, sizeof got) <= 0 && read(task, got, sizeof got) <= 0 && read(no_thread, got, sizeof got) <= 0);
	CHECK(faccessat(dir, "status", F_OK, 0) == -1 && fcntl(stat_path, F_GETFL) & O_PATH);
	CHECK(tree_finish(pid) == 3);
	gate_open(&gate);
	CHECK(pthread_join(thread, NULL) == 0);
	return finish();
}
