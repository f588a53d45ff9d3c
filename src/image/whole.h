/* pread(2) and pwrite(2) of all that is asked for. */
#pragma once

#include "base/base.h"

/* -EBADMSG: the file ends before. */
int read_whole(int fd, void *to, size_t size, uint64_t at);
int write_whole(int fd, const void *data, size_t size, uint64_t at);
