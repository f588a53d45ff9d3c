/*
 * Calls with a timeout that the first stop of a live dump interrupted. The kernel goes on with them by restart_syscall(2), and no longer tells which
 * they were when the tree is stopped again; so that is kept. One that was interrupted before, by an earlier dump say, is known by what it sleeps in:
 * where there is such a one the tree of any other dump goes on for a moment, too.
 */
#include "engine/memory/live_task.h"

#include <asm/unistd.h>
#include <fcntl.h>
#include <time.h>

#define ERESTART_RESTARTBLOCK 516
#define CLOCKS_MAX 16
#define ASLEEP_NS 3000000 /* until all that were stopped sleep again */
#define LOOKS 10	  /* a call that has ended meanwhile is not waited for any longer */

static bool is_interrupted(const struct user_regs_struct *regs)
{
	return (long long)regs->rax == -ERESTART_RESTARTBLOCK && (long long)regs->orig_rax >= 0;
}

/* Noted by an earlier stop, which has seen what it was. */
static bool is_noted(const struct dump *d, pid_t tid, const struct user_regs_struct *regs)
{
	VEC_FOREACH(&d->calls, c)
		if (regs->orig_rax == __NR_restart_syscall && c->tid == tid && c->rip == regs->rip && c->rsp == regs->rsp && c->rdi == regs->rdi)
			return true;
	return false;
}

int live_note_calls(struct dump *d, struct task *t)
{
	for (size_t i = 0; i < t->threads.count; i++) {
		const struct user_regs_struct *regs = &t->threads.data[i]->tracee.regs;
		if (!is_interrupted(regs) || is_noted(d, t->threads.data[i]->tid, regs))
			continue;
		struct live_call *c = VEC_PUSH(&d->calls);
		if (!c)
			return error_set(d->e, -ENOMEM, "out of memory");
		*c = (struct live_call){ .pid = t->pid, .tid = t->threads.data[i]->tid, .rip = regs->rip, .rsp = regs->rsp, .rdi = regs->rdi,
					 .nr = (long)regs->orig_rax };
	}
	return 0;
}

/* The kernel's function that a sleeping thread is in, as it is called in Linux 5.14 to 6.18. */
static long call_of(const char *function, uint64_t rdi)
{
	if (!strcmp(function, "0")) /* it does not sleep now */
		return __NR_restart_syscall;
	if (strstr(function, "poll"))
		return __NR_poll;
	if (strstr(function, "futex"))
		return __NR_futex;
	/* No other call goes on so; this one's function is not always told. */
	return rdi < CLOCKS_MAX ? __NR_clock_nanosleep : __NR_nanosleep;
}

/* Whether one of them does not sleep yet, on a busy machine. */
static bool name_some(struct dump *d)
{
	bool left = false;

	VEC_FOREACH(&d->calls, c) {
		char path[64];
		_cleanup_free_ char *text = NULL;
		snprintf(path, sizeof(path), "/proc/%d/task/%d/wchan", c->pid, c->tid);
		if (c->nr != __NR_restart_syscall || read_file_at(AT_FDCWD, path, 256, &text, NULL))
			continue;
		c->nr = call_of(text, c->rdi);
		left |= c->nr == __NR_restart_syscall;
	}
	return left;
}

void live_name_calls(struct dump *d)
{
	for (int looks = 0; name_some(d) && looks < LOOKS; looks++)
		nanosleep(&(struct timespec){ 0, ASLEEP_NS }, NULL);
}

void live_give_calls(struct dump *d)
{
	for (size_t i = 0; d->calls.count && i < d->tasks.count; i++)
		for (size_t k = 0; k < d->tasks.data[i]->threads.count; k++) {
			struct thread *th = d->tasks.data[i]->threads.data[k];
			struct user_regs_struct *regs = &th->tracee.regs;
			if (!is_interrupted(regs) || regs->orig_rax != __NR_restart_syscall)
				continue;
			VEC_FOREACH(&d->calls, c)
				if (c->tid == th->tid && c->rip == regs->rip && c->rsp == regs->rsp && c->rdi == regs->rdi)
					regs->orig_rax = (unsigned long long)c->nr;
		}
}

bool live_has_unknown_calls(const struct dump *d)
{
	for (size_t i = 0; i < d->tasks.count; i++)
		for (size_t k = 0; k < d->tasks.data[i]->threads.count; k++) {
			const struct user_regs_struct *regs = &d->tasks.data[i]->threads.data[k]->tracee.regs;
			if (is_interrupted(regs) && regs->orig_rax == __NR_restart_syscall)
				return true;
		}
	return false;
}

int live_look_at_calls(struct dump *d)
{
	int r = 0;

	for (size_t i = 0; !r && i < d->tasks.count; i++)
		r = live_note_calls(d, d->tasks.data[i]);
	tree_thaw(d);
	if (r)
		return r;
	nanosleep(&(struct timespec){ 0, ASLEEP_NS }, NULL);
	live_name_calls(d);
	return 0;
}
