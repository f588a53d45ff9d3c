/*
 * writer READY MEMORY_MIB MIB_PER_SECOND [PERMILLE]: a program that keeps writing, for the figures of live dumps and of what changes between dumps.
 *
 * One thread writes a number into page after page, scattered, at that rate; another looks at the clock and keeps the longest time in which it did not
 * run. Once all memory is written READY appears. SIGUSR1: READY gets "longest_pause_ns written_pages elapsed_ns" since the signal before, and both begin anew.
 * SIGUSR2: so many of a thousand pages, scattered, get another content; then READY gets "wrote".
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define PAGE 4096UL
#define STEP_NS 1000000L

static volatile sig_atomic_t asked, told;
static uint64_t written, pause_ns, pages, per_step;
static char *memory;

static void on_ask(int sig)
{
	asked = 1;
}

static void on_tell(int sig)
{
	told = 1;
}

static uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000000000 + (uint64_t)t.tv_nsec;
}

/* A millisecond's pages, then the rest of it asleep; what was missed is made up for, as far as a second goes. */
static void *write_on(void *arg)
{
	uint64_t next = now_ns(), at = 0, n = 1;

	for (;; n++) {
		for (uint64_t i = 0; i < per_step; i++) {
			at = (at + 7919) % pages;
			*(volatile uint64_t *)(memory + at * PAGE) = n;
		}
		__atomic_fetch_add(&written, per_step, __ATOMIC_RELAXED);
		next += STEP_NS;
		uint64_t now = now_ns();
		if (now > next + 1000000000)
			next = now;
		if (now < next)
			nanosleep(&(struct timespec){ 0, (long)(next - now) }, NULL);
	}
	return arg;
}

static void *watch(void *arg)
{
	uint64_t last = now_ns();

	for (;;) {
		nanosleep(&(struct timespec){ 0, 100000 }, NULL);
		uint64_t now = now_ns();
		if (now - last > __atomic_load_n(&pause_ns, __ATOMIC_RELAXED))
			__atomic_store_n(&pause_ns, now - last, __ATOMIC_RELAXED);
		last = now;
	}
	return arg;
}

/* Never twice the same. */
static void change(uint64_t count)
{
	static uint64_t at, n = 1ULL << 63;

	for (uint64_t i = 0; i < count; i++) {
		at = (at + 104729) % pages;
		for (uint64_t *word = (uint64_t *)(memory + at * PAGE), *end = word + PAGE / 8; word < end; word++)
			*word = n++ * 0xbf58476d1ce4e5b9ULL;
	}
}

static void say(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		_exit(3);
	close(fd);
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_ask }, tell = { .sa_handler = on_tell };
	pthread_t thread;
	sigset_t set, none;
	uint64_t since = now_ns();
	char text[100];

	if (argc < 4)
		return 2;
	pages = strtoul(argv[2], NULL, 10) << 8;
	per_step = (strtoul(argv[3], NULL, 10) << 8) / 1000;
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!pages || memory == MAP_FAILED)
		return 1;
	madvise(memory, pages * PAGE, MADV_NOHUGEPAGE);
	for (uint64_t i = 0; i < pages * PAGE / 8; i++)
		((uint64_t *)memory)[i] = (i + 1) * 0x9e3779b97f4a7c15ULL;
	sigemptyset(&none);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &tell, NULL);
	if (pthread_create(&thread, NULL, write_on, NULL) || pthread_create(&thread, NULL, watch, NULL))
		return 1;
	say(argv[1], "ready\n");
	for (;;) {
		while (!asked && !told)
			sigsuspend(&none);
		if (told) {
			told = 0;
			change(argc > 4 ? pages * strtoul(argv[4], NULL, 10) / 1000 : 0);
			say(argv[1], "wrote\n");
			continue;
		}
		asked = 0;
		uint64_t now = now_ns();
		snprintf(text, sizeof(text), "%llu %llu %llu\n", (unsigned long long)__atomic_exchange_n(&pause_ns, 0, __ATOMIC_RELAXED),
			 (unsigned long long)__atomic_exchange_n(&written, 0, __ATOMIC_RELAXED), (unsigned long long)(now - since));
		since = now;
		say(argv[1], text);
	}
}
