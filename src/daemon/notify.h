/* systemd's protocols of a few lines each: a socket that was opened for us, and telling that we are ready. See sd_listen_fds(3), sd_notify(3). */
#pragma once

#include "base/base.h"

/* The first socket that was handed over, or -1. The variables are removed, so that no child takes them for its own. */
int notify_take_socket(void);
void notify_tell(const char *text);
