/* See apart.h. */
#include "base/apart.h"

#include <linux/capability.h>
#include <linux/sched.h>
#include <linux/securebits.h>
#include <sched.h>
#include <signal.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define STACK_SIZE (256UL << 10)

struct job {
	const struct apart_as *as;
	int (*fn)(void *);
	void *argument;
	int result;
};

/* Raw calls: the C library would carry the change to threads that are not of this process. */
static int appear_as(const struct apart_as *as)
{
	if (!as || !as->credentials)
		return 0;
	if (prctl(PR_SET_SECUREBITS, SECBIT_NO_SETUID_FIXUP) < 0 || syscall(__NR_setgroups, as->n_groups, as->groups) < 0 || syscall(__NR_setresgid, -1, as->egid, -1) < 0 ||
	    syscall(__NR_setresuid, -1, as->euid, -1) < 0)
		return -errno;
	return 0;
}

static void run(struct job *job)
{
	syscall(__NR_setsid);
	job->result = appear_as(job->as);
	if (!job->result)
		job->result = job->fn(job->argument);
}

/* The child never returns to the caller's frame; the parent sleeps until it has ended (CLONE_VFORK). */
static long spawn(struct clone_args *args, struct job *job)
{
	long r;

	asm volatile("syscall\n\t"
		     "test %%rax, %%rax\n\t"
		     "jnz 1f\n\t"
		     "xor %%ebp, %%ebp\n\t"
		     "mov %[job], %%rdi\n\t"
		     "call *%[run]\n\t"
		     "xor %%edi, %%edi\n\t"
		     "mov %[exit], %%eax\n\t"
		     "syscall\n\t"
		     "ud2\n"
		     "1:"
		     : "=a"(r)
		     : "a"((long)__NR_clone3), "D"(args), "S"(sizeof(*args)), [job] "r"(job), [run] "r"(run), [exit] "i"(__NR_exit_group)
		     : "rcx", "r11", "memory", "cc");
	return r;
}

int run_apart(const struct apart_as *as, int (*fn)(void *), void *argument)
{
	char *stack = mmap(NULL, STACK_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_STACK, -1, 0);
	struct job job = { as, fn, argument, -ECHILD };
	struct clone_args args = { .flags = CLONE_VM | CLONE_FILES | CLONE_VFORK, .exit_signal = SIGCHLD };
	sigset_t all, before;

	if (stack == MAP_FAILED)
		return -errno;
	args.stack = (uint64_t)stack;
	args.stack_size = STACK_SIZE;
	sigfillset(&all);
	sigprocmask(SIG_SETMASK, &all, &before);
	if (as && as->pid > 0) {
		args.set_tid = (uint64_t)&as->pid;
		args.set_tid_size = 1;
	}
	long child = spawn(&args, &job);
	if (child == -EEXIST && args.set_tid_size) {
		args.set_tid = args.set_tid_size = 0;
		child = spawn(&args, &job);
	}
	if (child > 0)
		waitpid((pid_t)child, NULL, __WALL);
	sigprocmask(SIG_SETMASK, &before, NULL);
	munmap(stack, STACK_SIZE);
	return child < 0 ? (int)child : job.result;
}
