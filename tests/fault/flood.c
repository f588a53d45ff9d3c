/*
 * flood READY WHAT MEBIBYTES: writes the number of the pass to each page in turn, faster than that can be copied. At any moment the pages are those of
 * this pass up to where it is, and behind that those of the pass before; so it can tell whether its memory is all of one moment. As WHAT says it writes
 *
 *	itself		by itself
 *	kernel		to one page in 32 by calls that make the kernel write: pread(2), process_vm_writev(2)
 *	zeros		by itself, but for each sixteenth page, which it only reads until it writes all of them, at SIGUSR1
 *	drops		by itself; and at SIGUSR1 the second half of its memory is emptied, and not used any more
 *	exits		by itself; and at SIGUSR1 it ends
 *
 * READY: "go" once the first pass is over; at each SIGUSR2 "ok", or "bad" and what is wrong.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/uio.h>
#include <unistd.h>

#define PAGE 4096UL
#define WORDS 512
#define NUMBERS 65536

static volatile sig_atomic_t asked, checked;
static volatile uint64_t *memory;
static volatile uint64_t pages, pass, at, skipped, filled; /* skipped: of so many pages one is not written, but once, up to `filled` */
static const char *ready;
static int numbers = -1;

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

static void check(void)
{
	char text[120] = "ok\n";

	for (uint64_t i = 0; i < pages; i++) {
		uint64_t want = skipped && i % skipped == 0 ? i < filled : i <= at ? pass : pass - 1;
		if (skipped && i % skipped == 0 && memory[i * WORDS] == want)
			continue;
		if (memory[i * WORDS] == want && memory[i * WORDS + 1 + want % (WORDS - 1)] == want)
			continue;
		snprintf(text, sizeof(text), "bad pass %llu at %llu: page %llu has %llu\n", (unsigned long long)pass, (unsigned long long)at,
			 (unsigned long long)i, (unsigned long long)memory[i * WORDS]);
		break;
	}
	say(text);
}

static void put(uint64_t word)
{
	uint64_t value = pass;
	struct iovec from = { &value, sizeof(value) }, to = { (void *)&memory[word], sizeof(value) };

	if (numbers < 0 || word / WORDS % 32)
		memory[word] = value;
	else if (word % 2 ? pread(numbers, (void *)&memory[word], sizeof(value), (off_t)(value * sizeof(value))) != sizeof(value)
			  : process_vm_writev(getpid(), &from, 1, &to, 1, 0) != sizeof(value))
		_exit(4);
}

/* A file that holds each number at its place. */
static void make_numbers(void)
{
	static uint64_t all[NUMBERS];
	char path[] = "numbers-XXXXXX";

	for (uint64_t i = 0; i < NUMBERS; i++)
		all[i] = i;
	numbers = mkstemp(path);
	if (numbers < 0 || write(numbers, all, sizeof(all)) != sizeof(all))
		_exit(5);
}

static void change(char what)
{
	asked = 0;
	if (what == 'e')
		_exit(0);
	for (filled = 0; what == 'z' && filled < pages;) {
		memory[filled * WORDS] = filled % skipped ? memory[filled * WORDS] : 1;
		filled++;
	}
	if (what != 'd')
		return;
	pages /= 2;
	madvise((void *)(memory + pages * WORDS), pages * PAGE, MADV_DONTNEED);
	if (at >= pages)
		at = pages - 1;
}

int main(int argc, char **argv)
{
	if (argc < 4)
		return 2;
	ready = argv[1];
	pages = strtoul(argv[3], NULL, 10) << 8;
	memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (!pages || memory == MAP_FAILED)
		return 1;
	madvise((void *)memory, pages * PAGE, MADV_NOHUGEPAGE);
	signal(SIGUSR1, on_signal);
	signal(SIGUSR2, on_signal);
	if (argv[2][0] == 'k')
		make_numbers();
	if (argv[2][0] == 'z')
		skipped = 16;
	for (pass = 1;; pass++) {
		for (at = 0; at < pages; at++) {
			if (skipped && at % skipped == 0) {
				(void)memory[at * WORDS];
			} else {
				put(at * WORDS + 1 + pass % (WORDS - 1));
				put(at * WORDS);
			}
			if (asked)
				change(argv[2][0]);
			if (checked) {
				checked = 0;
				check();
			}
		}
		if (pass == 1)
			say("go\n");
	}
}
