/* The action of every signal: handler, flags and mask as the kernel has them, also those that libc keeps. */
#include "live.h"
#include <stdint.h>
#include <sys/syscall.h>

struct action { uint64_t handler, flags, restorer, mask; };
static volatile sig_atomic_t seen[65];
static void on_one(int sig) { seen[sig]++; }
static void on_two(int sig, siginfo_t *info, void *context) { seen[sig] += info->si_signo == sig ? 100 : 0; }

static int usable(int sig) { return sig != SIGKILL && sig != SIGSTOP && sig != SIGUSR1; }

static void set(int sig, const struct action *template)
{
	static const uint64_t flags[] = {0, SA_RESTART, SA_NODEFER, SA_ONSTACK, SA_NOCLDSTOP, SA_RESTART | SA_NODEFER,
		SA_NOCLDSTOP | SA_NOCLDWAIT};
	struct action action = *template;
	action.flags |= flags[sig % 7];
	action.mask = 0x0101010101010101ULL << sig % 8 | 1ULL << (sig - 1);
	action.handler = sig % 2 ? (uintptr_t)on_one : (uintptr_t)on_two;
	if (sig % 2 == 0) action.flags |= SA_SIGINFO;
	if (sig % 11 == 5) action.flags |= SA_RESETHAND;
	if (sig % 9 == 4) action.handler = (uintptr_t)SIG_IGN;
	if (sig % 9 == 7) action.handler = (uintptr_t)SIG_DFL;
	CHECK(syscall(SYS_rt_sigaction, sig, &action, NULL, 8) == 0);
}

static void get(int sig, struct action *to)
{
	memset(to, 0, sizeof *to);
	CHECK(syscall(SYS_rt_sigaction, sig, NULL, to, 8) == 0);
}

int main(int argc, char **argv)
{
	live_init(argc, argv);
	static struct action before[65], after;
	struct action template;
	get(SIGUSR1, &template);
	for (int sig = 1; sig <= 64; sig++)
		if (usable(sig)) set(sig, &template);
	for (int sig = 1; sig <= 64; sig++) get(sig, &before[sig]);
	wait_go();
	for (int sig = 1; sig <= 64; sig++) {
		get(sig, &after);
		if (memcmp(&before[sig], &after, sizeof after)) {
			live_say("not ok: the action of signal %d differs", sig);
			return 1;
		}
	}
	for (int sig = 1; sig <= 64; sig++) {
		if (!usable(sig) || before[sig].handler == (uintptr_t)SIG_DFL) continue;
		CHECK(syscall(SYS_tgkill, getpid(), gettid(), sig) == 0);
		int ignored = before[sig].handler == (uintptr_t)SIG_IGN;
		CHECK(seen[sig] == (ignored ? 0 : before[sig].flags & SA_SIGINFO ? 100 : 1));
		get(sig, &after);
		int reset = !ignored && before[sig].flags & SA_RESETHAND;
		CHECK(after.handler == (reset ? (uintptr_t)SIG_DFL : before[sig].handler));
	}
	return finish();
}
