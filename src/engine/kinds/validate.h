/* Whether a file is still the one that was saved: its size, its mode, and of programs and libraries the build id. */
#pragma once

#include "engine/kinds/kind.h"

#define BUILD_ID_WORDS 16

/* The build id of an ELF file as the images have it, from its mapping or, of what can be run, from the file: how many words; 0: there is none,
 * or it is not asked for (--file-validation filesize). */
size_t validate_read_build_id(struct dump *d, const struct descriptor *f, uint32_t id[BUILD_ID_WORDS]);
/* The same of an open file, in any case. */
size_t validate_file_build_id(int fd, uint32_t id[BUILD_ID_WORDS]);
/* Compares the open file with its entry. */
int validate_unchanged(struct restore *s, const RegFileEntry *reg, int fd);
