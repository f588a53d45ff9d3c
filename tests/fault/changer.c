/*
 * changer READY WHAT: memory that changes under a live dump. It has 96 MiB that it keeps writing, and, as WHAT says, at SIGUSR1
 *
 *	exits, execs	ends, or becomes itself as "still"
 *	grows		maps and fills 512 MiB more
 *	unmaps		unmaps half of it
 *	forks		makes children, which write what they have of it, until there are 20
 *	still		nothing more
 *
 * READY: "go" once it runs; "went" when it has done that; then at each SIGUSR2 "ok" or what is wrong with its memory.
 */
#include <fcntl.h>
#include <pthread.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define PAGE 4096UL
#define PAGES (96UL << 8)
#define MORE (512UL << 8)

static volatile sig_atomic_t asked, checked;
static size_t pages = PAGES;
static char *memory, *more;
static volatile uint64_t wrong;
static const char *ready;

static void on_signal(int sig)
{
	*(sig == SIGUSR1 ? &asked : &checked) = 1;
}

static void say(const char *text)
{
	int fd = open(ready, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0600);

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		_exit(3);
	close(fd);
}

/* Each page has the number of the round before, and gets the next. */
static void *write_on(void *arg)
{
	for (uint64_t n = 1;; n++) {
		for (size_t i = 0; i < PAGES / 2; i++) {
			volatile uint64_t *at = (uint64_t *)(memory + i * PAGE);
			wrong |= *at != n - 1;
			*at = n;
		}
		usleep(1000);
	}
	return arg;
}

static void grow(void)
{
	more = mmap(NULL, MORE * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (size_t i = 0; i < MORE; i++)
		*(size_t *)(more + i * PAGE) = i;
}

static void make_children(void)
{
	for (int k = 0; k < 20; k++) {
		if (fork() == 0)
			for (;;) {
				for (size_t i = PAGES / 2; i < PAGES; i += 17)
					memory[i * PAGE + 8] = (char)k;
				usleep(10000);
			}
		usleep(5000);
	}
}

static void go(const char *what, char **argv)
{
	if (!strcmp(what, "exits"))
		_exit(0);
	if (!strcmp(what, "execs"))
		execv("/proc/self/exe", (char *[]){ argv[0], argv[1], "still", NULL });
	if (!strcmp(what, "grows"))
		grow();
	if (!strcmp(what, "unmaps")) {
		munmap(memory + PAGES / 2 * PAGE, PAGES / 4 * PAGE);
		pages = PAGES / 2;
	}
	if (!strcmp(what, "forks"))
		make_children();
}

int main(int argc, char **argv)
{
	struct sigaction action = { .sa_handler = on_signal };
	pthread_t thread;
	sigset_t set, none;

	if (argc < 3)
		return 2;
	ready = argv[1];
	sigemptyset(&none);
	sigemptyset(&set);
	sigaddset(&set, SIGUSR1);
	sigaddset(&set, SIGUSR2);
	sigprocmask(SIG_BLOCK, &set, NULL);
	sigaction(SIGUSR1, &action, NULL);
	sigaction(SIGUSR2, &action, NULL);
	memory = mmap(NULL, PAGES * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	for (size_t i = PAGES / 2; i < PAGES; i++)
		*(size_t *)(memory + i * PAGE) = i;
	if (pthread_create(&thread, NULL, write_on, NULL))
		return 1;
	say(strcmp(argv[2], "still") ? "go\n" : "still\n");
	for (;;) {
		while (!asked && !checked)
			sigsuspend(&none);
		if (asked) {
			asked = 0;
			go(argv[2], argv);
			say("went\n");
		}
		if (checked) {
			checked = 0;
			int bad = wrong != 0;
			for (size_t i = PAGES / 2; i < pages; i++)
				bad |= *(size_t *)(memory + i * PAGE) != i ? 2 : 0;
			for (size_t i = 0; more && i < MORE; i++)
				bad |= *(size_t *)(more + i * PAGE) != i ? 4 : 0;
			say(bad ? "bad\n" : "ok\n");
		}
	}
}
