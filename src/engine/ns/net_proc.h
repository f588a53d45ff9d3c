/* Files below /proc of the network namespace of the calling thread, by a proc of our own: that of the tree may be hidden, or not to be written to. */
#pragma once

#include "base/base.h"

/* A directory, to be closed; or a negative errno. */
int net_proc_open(void);
