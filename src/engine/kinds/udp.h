/* Datagrams that wait in sockets of UDP and UDP-Lite. */
#pragma once

#include "engine/kinds/kind.h"

int udp_capture_queue(struct dump *d, struct descriptor *f);
/* Reads and checks those of the images. */
int udp_load(struct restore *s);
/* Puts them into a socket that is not bound yet, and is not when it returns. */
int udp_fill(struct restore *s, const struct file *f, int fd);
void udp_release(struct restore *s);
