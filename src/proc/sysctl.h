/*
 * Settings of the kernel below /proc/sys, of the caller's own namespaces. In containers /proc/sys is mounted read-only, or what is mounted over it hides some; then they are
 * reached through a /proc that is mounted for that moment and that nobody else sees (fsmount(2)).
 */
#pragma once

#include "base/base.h"

/* A /proc of our pid namespace, mounted nowhere: a directory, to be closed; or a negative errno. What is below net and sys/net is that of the thread that reads. */
int sysctl_proc(void);
/* `name`: "kernel/shm_next_id". 0 or a negative errno. */
int sysctl_write(const char *name, const char *text);
int sysctl_write_number(const char *name, uint64_t value);
/* Up to `room` numbers; how many there are, or a negative errno. */
int sysctl_read_numbers(const char *name, uint64_t *ret, size_t room);
