/* The two halves of kinds/unix.c. */
#pragma once

#include "engine/kinds/kind.h"

#ifndef SIOCUNIXFILE
#define SIOCUNIXFILE (SIOCPROTOPRIVATE + 0) /* linux/un.h, which sys/un.h does not go with */
#endif

/* tcp(7)'s numbers, which unix sockets use too. */
enum { UNIX_ESTABLISHED = 1, UNIX_CLOSE = 7, UNIX_LISTEN = 10 };

extern const struct kind kind_unix;

/* unix_restore.c */
int unix_create(struct restore *s, struct file *f, int *ret_fd);
int unix_fill(struct restore *s, struct file *f);
int unix_settle(struct restore *s, struct file *f);
void unix_release(struct restore *s, struct file *f);
