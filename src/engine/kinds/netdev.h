/* How a network device is set up: its settings, addresses and routes, as rtnetlink(7) has them. */
#pragma once

#include "base/base.h"
#include "base/error.h"
#include "tun.pb-c.h"

struct pool;

/* Fills all but `tun`; what it points to is the pool's. 0, or -errno with the text set. The network namespace is the caller's. */
int netdev_capture(const char *name, struct pool *pool, TunDeviceEntry *ret, struct error *e);
/* Gives a new device all of it. What an image says is taken apart: of each message only what is known here is sent on. */
int netdev_set_up(const char *name, const TunDeviceEntry *entry, struct error *e);
