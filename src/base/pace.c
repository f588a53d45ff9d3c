/* See pace.h. */
#include "base/pace.h"

#include <linux/capability.h>
#include <sys/resource.h>
#include <sys/syscall.h>

#define GENTLE 10 /* a tenth of what a thread with nice 0 gets, where both want all */
#define HIGHEST (-20)

static bool may_raise(void)
{
	struct __user_cap_header_struct head = { .version = _LINUX_CAPABILITY_VERSION_3 };
	struct __user_cap_data_struct sets[_LINUX_CAPABILITY_U32S_3] = {};

	return syscall(SYS_capget, &head, sets) == 0 && sets[0].effective & 1u << CAP_SYS_NICE;
}

void pacer_begin(struct pacer *p)
{
	struct sched_param param = {};

	*p = (struct pacer){ .policy = sched_getscheduler(0), .nice = getpriority(PRIO_PROCESS, 0) };
	p->may = p->policy >= 0 && p->policy != SCHED_DEADLINE && sched_getparam(0, &param) == 0 && may_raise();
	p->priority = param.sched_priority;
}

void pacer_set(const struct pacer *p, pid_t tid, enum pace pace)
{
	struct sched_param first = { .sched_priority = 1 }, usual = { .sched_priority = p->priority };
	/* Whoever runs before or behind all others already goes on so. */
	const bool ordinary = (p->policy & ~SCHED_RESET_ON_FORK) == SCHED_OTHER;

	if (!p->may)
		return;
	/* Children shall not have it. */
	if (pace == PACE_URGENT && (p->policy == SCHED_FIFO || p->policy == SCHED_RR || !sched_setscheduler(tid, SCHED_FIFO | SCHED_RESET_ON_FORK, &first)))
		return;
	sched_setscheduler(tid, p->policy, &usual);
	setpriority(PRIO_PROCESS, (id_t)tid, pace == PACE_URGENT ? HIGHEST : pace == PACE_GENTLE && ordinary ? MAX(p->nice, GENTLE) : p->nice);
}
