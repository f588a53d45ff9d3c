/* Deleted files that are saved with their content (ghost-file-N.img) and made again without a name. */
#pragma once

#include "engine/kinds/kind.h"

/* Writes ghost-file-ID.img; refuses what has more than --ghost-limit. */
int ghost_write(struct dump *d, struct descriptor *f, uint32_t id);
/* The file, made again when it is first asked for; it stays the restore's. `name`: what it was called. Negative errno with the text set. */
int ghost_fd(struct restore *s, uint32_t id, const char *name);
/* Closes those that are held: whoever needs one has it. */
void ghosts_release(struct restore *s);
