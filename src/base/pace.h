/*
 * How soon a thread gets a processor: as the caller had it, behind what others have to do, or before all of them. The last needs CAP_SYS_NICE, and so
 * does the way back from the second; without it all stays as it is.
 */
#pragma once

#include "base/base.h"

#include <sched.h>
#include <sys/types.h>

enum pace { PACE_USUAL, PACE_GENTLE, PACE_URGENT };

struct pacer {
	int policy, priority, nice; /* usual */
	bool may;
};

/* How the calling thread runs now is its usual pace. */
void pacer_begin(struct pacer *p);
void pacer_set(const struct pacer *p, pid_t tid, enum pace pace);
