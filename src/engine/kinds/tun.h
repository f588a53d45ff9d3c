/* Devices of TUN and TAP. */
#pragma once

#include "engine/restore.h"

/* Before any other file is made: the devices that programs had made, with their addresses, which sockets may have. */
int tun_prepare(struct restore *s);
