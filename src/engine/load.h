/*
 * Reading the images of a checkpoint into struct restore: everything is read and checked for shape before anything is made.
 */
#pragma once

#include "engine/restore.h"

int restore_open(const char *path, const char *key, struct image_dir **ret, struct error *e);
/* Leaves the verification of large images under way, for restore_verified. */
int restore_load(struct restore *s);
/* Waits for it. `r`: what has become of the work meanwhile, given back unless there is damage, which is then told instead. */
int restore_verified(struct restore *s, int r);
/* The same as restore_load for those who only look: kinds that can't be restored have none in their files; all is verified. */
int restore_read(struct restore *s);
void restore_unload(struct restore *s);
