/* What other kinds that have a name in the file system take from regular files. */
#pragma once

#include "engine/kinds/kind.h"

/* Writes the entry of a named file, with its content should it have been deleted, under the id f->id. */
int regfile_capture(struct dump *d, struct descriptor *f);
/* Whether the user said that the file lies outside; it is then captured by name only, whatever it is. */
bool regfile_is_external(struct dump *d, const struct descriptor *f);
int regfile_capture_external(struct dump *d, struct descriptor *f);
/* Opens the file of an entry (a ghost is made first) with these flags, O_CLOEXEC added; O_NOCTTY: it may be a terminal, O_NONBLOCK: a FIFO.
 * What is not of the type that was saved is not opened. Negative errno with the text set. */
int regfile_open(struct restore *s, struct file *f, int flags);
