/* The multicast groups that an internet socket has joined. */
#pragma once

#include "base/pool.h"
#include "engine/kinds/kind.h"

/* Into `e`, in the pool. */
int multicast_capture(struct dump *d, struct descriptor *f, struct pool *pool, InetSkEntry *e);
int multicast_join(struct restore *s, int fd, const InetSkEntry *e);
