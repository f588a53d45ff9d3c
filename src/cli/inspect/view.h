/*
 * A checkpoint as one wants to see it, read by the engine's own decoder: what text.c and json.c print. Nothing is read from
 * images by anyone but view.c.
 */
#pragma once

#include "base/meter.h"
#include "engine/restore.h"
#include "memfd.pb-c.h"

/* Bytes of memory: mapped, in this checkpoint, with the parent process, in an earlier checkpoint. */
struct view_memory {
	uint64_t mapped, stored, with_parent, earlier;
};

struct view_image {
	char name[64];
	uint64_t size;
};

/* What is in a pipe, by the id that its ends refer to. */
struct view_pipe {
	uint32_t id, bytes;
};

struct view {
	struct request request; /* images_dir, skip_verify, progress */
	struct meter meter;	/* of what is verified */
	struct restore images;
	VEC(struct view_image) files; /* the largest first */
	VEC(MemfdInodeEntry *) memfds;
	VEC(struct view_pipe) pipes;
	struct view_memory *memory; /* of each task */
	struct view_memory total;
	uint64_t shared;	/* bytes of shared memory in this checkpoint */
	uint64_t size, threads, areas, descriptors;
};

/* view_finish in any case. */
int view_read(struct view *v, struct error *e);
void view_finish(struct view *v);
bool view_has_manifest(const struct view *v);

const char *task_state_name(const struct rtask *t);
const char *task_name(const struct rtask *t);
const char *thread_name(const struct rthread *th);
/* The path of a file of the images, or NULL. */
const char *view_path(struct view *v, uint32_t id);
struct view_memory area_memory(const struct rtask *t, const VmaEntry *area);

/* describe.c: words for what is not a number. */
struct file_words {
	const char *kind;
	char what[4400]; /* path, addresses, peer … */
	bool has_position;
	uint64_t position;
};
void describe_file(struct view *v, const struct file *f, struct file_words *ret);
struct area_words {
	char access[5]; /* as /proc/PID/maps has it */
	char what[4200];
	uint64_t offset;
};
void describe_area(struct view *v, const VmaEntry *area, struct area_words *ret);

void view_print(struct view *v, bool detailed);
struct json_t *view_json(struct view *v); /* a new reference */
