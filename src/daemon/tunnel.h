/*
 * The client's side of TCP with mutual TLS. What gives a socket on which a daemon is spoken to as on its unix socket; a thread of this process
 * passes the bytes on, through TLS. Only the program that has GnuTLS holds this (cli/full.c).
 */
#pragma once

#include "daemon/settings.h"

/*
 * The daemon at `address` of the settings, whose certificate must be of the authority `tls.ca` and for the host's name, or for
 * `tls.name`; ours is `tls.cert`. The caller closes what it gives. -ECONNREFUSED, -EPERM …, with the text set.
 */
int tunnel_open(const struct settings *s, struct error *e);
