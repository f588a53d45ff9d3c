/* What inotify(7) and fanotify(7) watch: a file that the kernel names by a handle. */
#pragma once

#include "engine/kinds/kind.h"

#define WATCHED_HANDLE_MAX 128

struct watched {
	FhEntry handle; /* with the path, where there is one */
	uint64_t words[WATCHED_HANDLE_MAX / 8];
	char path[4096];
	uint32_t file; /* of one that was deleted: its id; or 0 */
};

/* `text`: what fdinfo says from "fhandle-bytes:" on. */
int watched_capture(struct dump *d, struct descriptor *f, const char *text, uint32_t dev, uint64_t ino, struct watched *ret);
/* As an O_PATH descriptor; a negative errno with the text set. `file`: the id, or 0. */
int watched_open(struct restore *s, const FhEntry *handle, uint32_t file, uint32_t dev, uint64_t ino);
/* A directory on the file system with that device number: where it is mounted. -1: nowhere. */
int watched_open_mount(uint32_t dev);
/* Spaces and the like stand as "\040" in mountinfo. */
void watched_unescape(char *text);
