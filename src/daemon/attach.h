/* The daemon's part of an attachment: bytes are passed between the client's connection and the job's supervisor, by a thread, until one ends. */
#pragma once

#include "daemon/daemon.h"

struct MHD_UpgradeResponseHandle;
/* Takes `supervisor`. `extra`: what the client sent behind its request already. */
void attach_begin(struct daemon *d, struct MHD_UpgradeResponseHandle *handle, int client, int supervisor, const char *extra, size_t size);
