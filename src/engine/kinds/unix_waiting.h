/*
 * Unix sockets: what was sent through connections that a listener has not accepted yet, and who made those whose client has gone. It is in a
 * socket that has no descriptor, which only accept(2) would give, and nothing would take it back: so it is looked at where the kernel keeps it
 * (engine/kernel.h).
 */
#pragma once

#include "base/pool.h"
#include "engine/kinds/kind.h"
#include "engine/kinds/sock.h"
#include "engine/kinds/unix_diag.h"

/* Looks at all of them; messages go into *packets, what is known of clients that have gone into e->gone. -ENOTSUP: the kernel does not let them be
 * looked at, or there are descriptors among the messages. */
int unix_waiting_read(int listener, const struct unix_diag *diag, const struct unix_diags *all, struct pool *pool, struct sock_packets *packets,
		      UnixSkEntry *e);

/* Of a unix stream: where messages with descriptors begin. -ENOTSUP where the kernel does not let them be looked at. */
int unix_borders_read(struct dump *d, int fd, struct sock_borders *ret);
