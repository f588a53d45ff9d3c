/*
 * A tree that is hard to dump at any moment and notices what is done to it: threads in tight loops and in system calls, each with
 * a counter, each checking what it can see of itself.
 *
 *	fault_target STATE [small]
 *
 * STATE is a file of struct slot, one a worker, mapped shared: the runner looks at the counters there, and at the first complaint
 * of each worker. Everything is allocated before the first worker starts, so that the maps stay the same from then on.
 */
#include <errno.h>
#include <fcntl.h>
#include <linux/futex.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define SLOTS 32
#define MEMORY_SIZE (1UL << 20)
#define STACK_SIZE (64UL << 10)

struct slot {
	char name[16];
	volatile uint64_t counter;
	volatile uint32_t wrong;
	uint32_t pid;
	char text[96];
};

static struct slot *slots;
static int used;

static void complain(struct slot *s, const char *format, ...)
{
	va_list args;

	if (s->wrong)
		return;
	va_start(args, format);
	vsnprintf(s->text, sizeof(s->text), format, args);
	va_end(args);
	s->wrong = 1;
}

static double now(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (double)t.tv_sec + (double)t.tv_nsec / 1e9;
}

/* ---- workers ---- */

static void work_sleep(struct slot *s)
{
	struct timespec t = { 0, 3000000 };

	for (;; s->counter++) {
		double start = now();
		if (nanosleep(&t, NULL))
			complain(s, "nanosleep: %s", strerror(errno));
		else if (now() - start < 0.003)
			complain(s, "slept %g s only", now() - start);
	}
}

/* Every general and vector register that a loop can keep to itself: set, spun over, compared. */
static void work_registers(struct slot *s)
{
	bool avx = __builtin_cpu_supports("avx");
	uint64_t in[8], out[8], general[4];

	for (uint64_t round = 1;; round++, s->counter++) {
		for (int i = 0; i < 8; i++)
			in[i] = round * 0x9e3779b97f4a7c15ULL + (uint64_t)i;
		memset(out, 0, sizeof(out));
		if (avx)
			asm volatile("vmovdqu (%[in]), %%ymm5\n\tvmovdqu 32(%[in]), %%ymm13\n\t"
				     "mov %[in], %%r12\n\tmov $77, %%r13\n\tmov %%rsp, %%r14\n\tfld1\n\tmov $20000, %%ecx\n"
				     "1:\tinc %%r13\n\tdec %%ecx\n\tjnz 1b\n\t"
				     "fistpll 24(%[general])\n\t"
				     "vmovdqu %%ymm5, (%[out])\n\tvmovdqu %%ymm13, 32(%[out])\n\t"
				     "sub %%rsp, %%r14\n\tmov %%r12, (%[general])\n\tmov %%r13, 8(%[general])\n\t"
				     "mov %%r14, 16(%[general])\n\tvzeroupper"
				     :
				     : [in] "r"(in), [out] "r"(out), [general] "r"(general)
				     : "rcx", "r12", "r13", "r14", "xmm5", "xmm13", "memory", "cc");
		else
			asm volatile("movdqu (%[in]), %%xmm5\n\tmovdqu 16(%[in]), %%xmm13\n\t"
				     "movdqu 32(%[in]), %%xmm6\n\tmovdqu 48(%[in]), %%xmm14\n\t"
				     "mov %[in], %%r12\n\tmov $77, %%r13\n\tmov %%rsp, %%r14\n\tfld1\n\tmov $20000, %%ecx\n"
				     "1:\tinc %%r13\n\tdec %%ecx\n\tjnz 1b\n\t"
				     "fistpll 24(%[general])\n\t"
				     "movdqu %%xmm5, (%[out])\n\tmovdqu %%xmm13, 16(%[out])\n\t"
				     "movdqu %%xmm6, 32(%[out])\n\tmovdqu %%xmm14, 48(%[out])\n\t"
				     "sub %%rsp, %%r14\n\tmov %%r12, (%[general])\n\tmov %%r13, 8(%[general])\n\t"
				     "mov %%r14, 16(%[general])"
				     :
				     : [in] "r"(in), [out] "r"(out), [general] "r"(general)
				     : "rcx", "r12", "r13", "r14", "xmm5", "xmm6", "xmm13", "xmm14", "memory", "cc");
		if (memcmp(in, out, sizeof(in)))
			complain(s, "a vector register changed in round %lu", (unsigned long)round);
		if (general[0] != (uint64_t)in || general[1] != 20077 || general[2] || general[3] != 1)
			complain(s, "a register changed in round %lu: %lx %lu %lx %lu", (unsigned long)round, (unsigned long)general[0],
				 (unsigned long)general[1], (unsigned long)general[2], (unsigned long)general[3]);
	}
}

static uint64_t *memory;

static uint64_t checksum(void)
{
	uint64_t sum = 0;

	for (size_t i = 0; i < MEMORY_SIZE / 8; i++)
		sum = (sum << 7 | sum >> 57) ^ memory[i];
	return sum;
}

static void fill_memory(void)
{
	uint64_t state = (uint64_t)getpid() * 0x9e3779b97f4a7c15ULL + 1;

	for (size_t i = 0; i < MEMORY_SIZE / 8; i++)
		memory[i] = state = state * 6364136223846793005ULL + 1442695040888963407ULL;
}

static void work_memory(struct slot *s)
{
	uint64_t before = checksum();

	for (;; s->counter++)
		if (checksum() != before)
			complain(s, "memory changed");
}

/* Two threads hand a word to each other. */
static uint32_t turn;

static void hand_over(struct slot *s, uint32_t mine)
{
	struct timespec long_time = { 1000, 0 };

	for (;; s->counter++) {
		while (__atomic_load_n(&turn, __ATOMIC_SEQ_CST) != mine)
			if (syscall(SYS_futex, &turn, FUTEX_WAIT, !mine, mine ? &long_time : NULL, NULL, 0) < 0 && errno != EAGAIN)
				complain(s, "futex: %s", strerror(errno));
		__atomic_store_n(&turn, !mine, __ATOMIC_SEQ_CST);
		if (syscall(SYS_futex, &turn, FUTEX_WAKE, 1, NULL, NULL, 0) < 0)
			complain(s, "futex wake: %s", strerror(errno));
		if (!(s->counter % 64))
			poll(NULL, 0, 1);
	}
}

static void work_futex_0(struct slot *s)
{
	hand_over(s, 0);
}

static void work_futex_1(struct slot *s)
{
	hand_over(s, 1);
}

/* Numbers go through a pipe one by one, between threads and between processes. */
static int pipe_within[2], pipe_between[2];

static void write_numbers(struct slot *s, int fd)
{
	for (uint64_t i = 0;; i++, s->counter++) {
		if (write(fd, &i, sizeof(i)) != sizeof(i))
			complain(s, "write: %s", strerror(errno));
		if (!(i % 16) && poll(NULL, 0, 1))
			complain(s, "poll: %s", strerror(errno));
	}
}

static void read_numbers(struct slot *s, int fd)
{
	for (uint64_t i = 0, got = 0;; i++, s->counter++) {
		ssize_t n = read(fd, &got, sizeof(got));
		if (n != sizeof(got))
			complain(s, "read: %zd %s", n, strerror(errno));
		else if (got != i)
			complain(s, "%lu came, not %lu", (unsigned long)got, (unsigned long)i);
	}
}

static void work_write_within(struct slot *s)
{
	write_numbers(s, pipe_within[1]);
}

static void work_read_within(struct slot *s)
{
	read_numbers(s, pipe_within[0]);
}

static void work_write_between(struct slot *s)
{
	write_numbers(s, pipe_between[1]);
}

static void work_read_between(struct slot *s)
{
	read_numbers(s, pipe_between[0]);
}

static int file;

static void work_file(struct slot *s)
{
	for (uint64_t i = 0, got;; i++, s->counter++) {
		if (pwrite(file, &i, sizeof(i), (off_t)(i % 512) * 8) != sizeof(i) ||
		    pread(file, &got, sizeof(got), (off_t)(i % 512) * 8) != sizeof(got) || got != i)
			complain(s, "the file does not hold what was written: %s", strerror(errno));
		if (lseek(file, 0, SEEK_CUR) != 4096)
			complain(s, "the file's position changed");
		usleep(200);
	}
}

static volatile sig_atomic_t alarms;

static void on_alarm(int sig)
{
	alarms++;
}

/* Signals come while it computes and while it sleeps; others stay blocked and pending. */
static void work_signals(struct slot *s)
{
	struct itimerval often = { { 0, 2000 }, { 0, 2000 } };
	sigset_t pending;

	setitimer(ITIMER_REAL, &often, NULL);
	for (;;) {
		sig_atomic_t before = alarms;
		double start = now();
		while (alarms == before && now() - start < 20)
			if (alarms % 2)
				pause();
		if (alarms == before)
			complain(s, "the timer stopped");
		sigpending(&pending);
		if (!sigismember(&pending, SIGUSR2) || !sigismember(&pending, SIGRTMIN + 3))
			complain(s, "a pending signal is lost");
		s->counter++;
	}
}

/* ---- the tree ---- */

struct job {
	struct slot *slot;
	void (*work)(struct slot *s);
};

static void *run_job(void *arg)
{
	struct job *j = arg;
	sigset_t own;

	sigemptyset(&own);
	sigaddset(&own, SIGUSR2);
	sigaddset(&own, SIGRTMIN + (int)(j->slot - slots) % 20);
	pthread_sigmask(SIG_SETMASK, &own, NULL);
	j->slot->pid = (uint32_t)getpid();
	j->work(j->slot);
	return NULL;
}

static struct job jobs[SLOTS];

static struct job *add_job(const char *name, void (*work)(struct slot *s))
{
	struct job *j = &jobs[used];

	if (used == SLOTS)
		abort();
	j->slot = &slots[used++];
	j->work = work;
	snprintf(j->slot->name, sizeof(j->slot->name), "%s", name);
	return j;
}

static void start(const char *name, void (*work)(struct slot *s))
{
	static char stacks[SLOTS][STACK_SIZE] __attribute__((aligned(4096)));
	struct job *j = add_job(name, work);
	pthread_attr_t attributes;
	pthread_t thread;

	pthread_attr_init(&attributes);
	pthread_attr_setstack(&attributes, stacks[j->slot - slots], STACK_SIZE);
	if (pthread_create(&thread, &attributes, run_job, j))
		abort();
}

static pid_t start_process(const char *name, void (*work)(struct slot *s), void (*more)(void))
{
	pid_t pid = fork();

	if (pid == 0) {
		fill_memory();
		if (more)
			more();
		run_job(add_job(name, work));
	}
	used += more ? 4 : 1; /* the child's */
	return pid;
}

static void start_reader_threads(void)
{
	start("b.registers", work_registers);
	start("b.memory", work_memory);
	start("b.sleep", work_sleep);
}

static void queue_signals(void)
{
	struct sigaction action = { .sa_handler = on_alarm };
	union sigval value = { .sival_int = 5 };
	sigset_t blocked;

	sigemptyset(&blocked);
	sigaddset(&blocked, SIGUSR2);
	sigaddset(&blocked, SIGRTMIN + 3);
	sigprocmask(SIG_SETMASK, &blocked, NULL);
	sigaction(SIGALRM, &action, NULL);
	raise(SIGUSR2);
	sigqueue(getpid(), SIGRTMIN + 3, value);
}

/* By the agent: what a switch of prctl(2) is set to only the thread itself can tell. The threads that it makes have it too. In others a dump finds all
 * in the kernel's memory, where that can be read. */
static void be_asked(void)
{
	prctl(PR_MCE_KILL, PR_MCE_KILL_SET, PR_MCE_KILL_EARLY, 0, 0);
}

static void run_signals(struct slot *s)
{
	be_asked();
	queue_signals();
	work_signals(s);
}

int main(int argc, char **argv)
{
	bool small = argc > 2 && !strcmp(argv[2], "small");
	char path[4096];

	if (argc < 2)
		return 2;
	int fd = open(argv[1], O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	snprintf(path, sizeof(path), "%s.data", argv[1]);
	file = open(path, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (fd < 0 || file < 0 || ftruncate(fd, sizeof(struct slot) * SLOTS) || ftruncate(file, 8192) || lseek(file, 4096, SEEK_SET) < 0 ||
	    pipe2(pipe_within, O_CLOEXEC) || pipe2(pipe_between, O_CLOEXEC))
		return 1;
	slots = mmap(NULL, sizeof(struct slot) * SLOTS, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
	memory = mmap(NULL, MEMORY_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (slots == MAP_FAILED || memory == MAP_FAILED)
		return 1;
	fill_memory();
	start_process("b.read", work_read_between, small ? NULL : start_reader_threads);
	if (!small) {
		start_process("c.signals", run_signals, NULL);
		start_process("d.memory", work_memory, NULL);
	}
	be_asked();
	start("a.write", work_write_between);
	start("a.sleep", work_sleep);
	if (!small) {
		start("a.registers", work_registers);
		start("a.futex0", work_futex_0);
		start("a.futex1", work_futex_1);
		start("a.writes", work_write_within);
		start("a.reads", work_read_within);
	}
	run_job(add_job("a.file", work_file));
	return 0;
}
