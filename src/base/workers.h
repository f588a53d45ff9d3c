/*
 * Worker threads and the jobs that wait for them. One thread submits; a job may submit more. Signals are blocked in the workers.
 */
#pragma once

#include "base/pace.h"

struct workers;

/* A thread less than there are processors for the caller, up to WORKERS_MAX. */
#define WORKERS_MAX 16
struct workers *workers_new(void);
/*
 * Runs `fn` some time; by the caller, now, when there is no memory for more. Waking a thread costs more than a small job: nobody is
 * woken until several of them wait, or someone waits for them, who then does what is left himself.
 */
void workers_submit(struct workers *w, void (*fn)(void *), void *argument);
/* The same for a job that is worth a thread of its own. */
void workers_submit_large(struct workers *w, void (*fn)(void *), void *argument);
/* Until every job that was submitted has ended. */
void workers_wait(struct workers *w);
/* How soon who first called this and the workers get a processor, those too that are started later. By any of them. */
void workers_pace(struct workers *w, enum pace pace);
/* Waits, ends the threads. NULL is fine. */
void workers_free(struct workers *w);
