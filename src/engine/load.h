/*
 * Reading the images of a checkpoint into struct restore: everything is read and checked for shape before anything is made.
 */
#pragma once

#include "engine/restore.h"

int restore_open(const char *path, struct image_dir **ret, struct error *e);
int restore_load(struct restore *s);
/* The same for those who only look: kinds that can't be restored have none in their files. */
int restore_read(struct restore *s);
void restore_unload(struct restore *s);
