/*
 * What the benchmarks save: target READY MEMORY_MIB PROCESSES THREADS
 *
 * PROCESSES processes in all, the first with THREADS threads and MEMORY_MIB of memory, no page of which is like another.
 * When all stand still, READY is created. SIGUSR1 to the first: the memory is compared, READY gets "ok" or "bad".
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <unistd.h>

#define PAGE_WORDS (4096 / 8)
#define THREAD_STACK (64UL << 10)

static volatile sig_atomic_t asked;

static void on_ask(int sig)
{
	asked = 1;
}

static uint64_t word_of(size_t i)
{
	uint64_t x = (i + 1) * 0x9e3779b97f4a7c15ULL;

	return (x ^ (x >> 29)) * 0xbf58476d1ce4e5b9ULL;
}

static void say(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		_exit(3);
	close(fd);
}

static void *stand(void *arg)
{
	pthread_barrier_wait(arg);
	while (pause())
		;
	return arg;
}

static int make_threads(int count)
{
	static pthread_barrier_t all;
	pthread_attr_t attr;
	pthread_t thread;

	pthread_barrier_init(&all, NULL, (unsigned)count);
	pthread_attr_init(&attr);
	pthread_attr_setstacksize(&attr, THREAD_STACK);
	for (int i = 1; i < count; i++)
		if (pthread_create(&thread, &attr, stand, &all))
			return -1;
	pthread_barrier_wait(&all);
	return 0;
}

static int make_processes(int count)
{
	int ends[2];
	char byte;

	if (pipe2(ends, O_CLOEXEC) < 0)
		return -1;
	for (int i = 1; i < count; i++) {
		pid_t pid = fork();
		if (pid < 0)
			return -1;
		if (pid == 0) {
			prctl(PR_SET_PDEATHSIG, 0);
			close(ends[0]);
			close(ends[1]);
			for (;;)
				pause();
		}
	}
	close(ends[1]);
	/* The end of the pipe comes when the last child has closed it. */
	while (read(ends[0], &byte, 1) > 0)
		;
	close(ends[0]);
	return 0;
}

int main(int argc, char **argv)
{
	if (argc != 5)
		return 2;
	size_t words = strtoul(argv[2], NULL, 10) * (1UL << 20) / 8;
	uint64_t *memory = mmap(NULL, words * 8, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct sigaction action = { .sa_handler = on_ask };
	sigset_t set, before;

	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigprocmask(SIG_BLOCK, &set, &before);
	sigaction(SIGUSR1, &action, NULL);
	if (memory == MAP_FAILED || make_processes(atoi(argv[3])))
		return 1;
	for (size_t i = 0; i < words; i++)
		memory[i] = word_of(i);
	if (make_threads(atoi(argv[4])))
		return 1;
	say(argv[1], "ready\n");
	while (!asked)
		sigsuspend(&before);
	size_t bad = 0;
	for (size_t i = 0; i < words; i++)
		bad += memory[i] != word_of(i);
	say(argv[1], bad ? "bad\n" : "ok\n");
	for (;;)
		pause();
}
