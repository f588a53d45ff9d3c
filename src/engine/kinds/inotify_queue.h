/* Events of inotify(7) that were not read yet. */
#pragma once

#include "engine/kinds/kind.h"

/* Fills in what waits to be read from f->own_fd, which is left where it is; inotify_queue_free frees it. */
int inotify_queue_capture(struct dump *d, struct descriptor *f, InotifyFileEntry *e);
void inotify_queue_free(InotifyFileEntry *e);

/* Whether the events of the images are such that can be queued again. */
bool inotify_queue_can_be(const InotifyFileEntry *e);
/* Queues them in a new descriptor, which watches nothing as yet; negative errno. */
int inotify_queue_restore(int fd, const InotifyFileEntry *e);
/* The number that the next watch gets. CONFIG_CHECKPOINT_RESTORE, Linux 4.16; -ENOTTY without. */
int inotify_set_next(int fd, int wd);
