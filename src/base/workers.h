/*
 * Worker threads and the jobs that wait for them. One thread submits; a job may submit more. Signals are blocked in the workers.
 */
#pragma once

#include "base/base.h"

struct workers;

/* As many threads as there are processors for the caller, up to WORKERS_MAX. They start with the first job. */
#define WORKERS_MAX 16
struct workers *workers_new(void);
/* Runs `fn` some time; by the caller, now, when there is no memory for more. */
void workers_submit(struct workers *w, void (*fn)(void *), void *argument);
/* Until every job that was submitted has ended. */
void workers_wait(struct workers *w);
/* Waits, ends the threads. NULL is fine. */
void workers_free(struct workers *w);
