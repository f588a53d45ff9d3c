/*
 * Mount namespaces: what the tree's has is written to mountpoints-N.img, with the content of file systems in memory that nobody else has
 * (tmpfs-dev-N.tar.gz.img), and made again in a new one before any task is born.
 *
 * Where a mount comes from at restore (enum mount_from): a file system that the dumper's own namespace has mounted too is theirs and ours, and is
 * taken from there by the path that it had there; so is what the user names (--external). What only the tree has is mounted anew, filled, and bound
 * to wherever else it was. All else is refused at the dump, by name.
 *
 * Descriptors of the new mounts are held, so files are opened in the very mount that they were open in, also below one that covers it.
 */
#pragma once

#include "base/error.h"
#include "base/pool.h"
#include "proc/mountinfo.h"

struct batch;
struct dump;
struct restore;
struct request;
struct descriptor;
struct stat;

#define MOUNTS_MAX 100000U /* fs.mount-max */
#define MOUNT_NONE UINT32_MAX

enum mount_from {
	MOUNT_NEW,    /* its file system is mounted again */
	MOUNT_BIND,   /* from another mount of the tree's, which is planned */
	MOUNT_HOST,   /* from where it is in the namespace of the one who restores */
	MOUNT_NAMED,  /* the user says from where (--external) */
	MOUNT_DEVICE, /* of a block device that the user names */
};

/* A file system that the tree alone has, and how it comes back. */
enum fs_way {
	FS_AGAIN,   /* it holds nothing of its own, or the kernel has but one of it */
	FS_EMPTY,   /* the same, once it is known to be empty */
	FS_CONTENT, /* its files are saved */
	FS_LAYERS,  /* overlay: of directories that stand in its options */
	FS_TYPED,   /* the user has said that this will do (--enable-fs) */
	FS_DEVICE,  /* on a block device */
	FS_REFUSED,
};
struct fs_type {
	const char *name;
	uint32_t code; /* enum fstype of mnt.proto */
	enum fs_way way;
	const char *why; /* of one that is refused */
};
/* Never NULL. */
const struct fs_type *fs_find_type(const char *name);
/* The name of one by its number in an image; NULL. */
const char *fs_name_of(uint32_t code);
extern const struct fs_type fs_typed; /* FS_TYPED */

/* --enable-fs */
bool mounts_enabled(const struct request *r, const char *fstype);

struct mount {
	uint32_t id, parent_id, dev;
	const char *root, *point, *source, *fstype, *options;
	uint32_t flags, sb_flags; /* MS_* of mount(2), of both without those of propagation */
	uint32_t shared, master;  /* peer groups, numbered as the kernel had; 0: none */
	bool shared_outside, master_outside; /* others than the tree are in it: the mount that it comes from is */
	bool unbindable;
	enum mount_from from;
	const char *key;			 /* MOUNT_NAMED, MOUNT_DEVICE */
	const char *host_point, *host_root; /* MOUNT_HOST: where the same file system is mounted, and which part of it */
	const struct fs_type *type;
	/* of the plan: indices of `list` */
	uint32_t parent, bind_from;
	/* while it is made */
	int fd;		  /* its root, or -1 */
	uint32_t made_id; /* in the new namespace */
};

/* Who gets its propagation from whom: MOVE_MOUNT_SET_GROUP from `from` (MOUNT_NONE: from nobody; its own index: from where it was
 * taken), then it follows that group only (`slave`), then it gets a group of its own (`share`). */
struct mount_step {
	uint32_t mount, from;
	bool slave, share;
};

struct mounts {
	VEC(struct mount) list;
	struct pool pool;
	uint32_t root; /* index */
	VEC(uint32_t) attach; /* all but the root, in an order in which each finds its place */
	VEC(struct mount_step) steps;
	uint32_t *by_id; /* indices, sorted */
};

/* ---- mnt_plan.c: pure ---- */

/* Checks that they are a tree, finds where bound ones come from, the order and the propagation. The list must be complete; refuses what can't be
 * made, by name, which a dump does not write and an image may hold. */
int mounts_plan(struct mounts *m, struct error *e);
struct mount *mounts_find(const struct mounts *m, uint32_t id);
void mounts_free(struct mounts *m);
/* "/a/b" lies at or below "/a"; gives the rest, "/b" or "". NULL: it does not. */
const char *mount_below(const char *path, const char *top);
/* Flags of the words that mountinfo has for a mount or a file system; what is none of them goes to `ret_rest`, if that is there. */
int mount_parse_flags(struct pool *pool, const char *words, uint32_t *ret_flags, const char **ret_rest);
/* Whether what was made is what was asked for; the text says what is not. `made`: what mountinfo says of the new namespace; made_id of each is set. */
int mounts_compare(const struct mounts *m, const struct proc_mounts *made, struct error *e);

/* ---- dump ---- */

/* Of the tree's namespace; the tree stands still. Sets d->mounts and d->root_fd; a tree in our own namespace leaves both. */
int mounts_capture(struct dump *d);
void mounts_release(struct dump *d);
/* The mount that an open file is in, as the image knows it; or -1. */
int64_t mounts_of(const struct dump *d, const struct descriptor *f);
/* Whether the name of a file that another mount covers can be found at restore all the same. */
bool mounts_reach(const struct dump *d, const struct descriptor *f);
/* The mount of a devpts that only the tree has, to which a pseudo-terminal belongs: by one of its ends. 0: it is ours. */
uint32_t mounts_devpts_of(const struct dump *d, const struct descriptor *f);
/* A file of the file system `dev` (as in fdinfo) in the tree's namespace, or -1. */
int mounts_open_of(const struct dump *d, uint32_t dev);

/* ---- restore ---- */

/* The image, checked and planned. */
int mounts_load(struct restore *s, uint32_t id);
/* Makes the namespace. Sets s->root_fd, s->mnt_ns and s->proc_fd; the coordinator stays in its own. */
int mounts_make(struct restore *s, uint32_t id);
/* The root of the tree enters it; those born by it are in it. */
void mounts_plan_enter(struct restore *s, struct batch *b);
/* A file by the mount that it was in, or where that is not known by its name: as path_open. */
int mounts_open(struct restore *s, int64_t mount, const char *name, int flags);
/* The root for names that are not in the tree's namespace, as path_open has it. */
int mounts_outside(const struct restore *s);
/* The root of a mount, which stays its; or -1. */
int mounts_root_of(const struct restore *s, uint32_t mount);
void mounts_forget(struct restore *s);

/* mnt_make.c: what mounts_make does in the new namespace, in a process apart. */
struct mounts_job {
	struct restore *s;
	struct mounts *mounts;
	int proc;	/* our own /proc */
	int root, ns; /* results */
	struct reach *reach; /* of each that comes from the host */
};
int mounts_build(void *job);

/* ---- mnt_tree.c, mnt_untree.c: the content of a file system as an archive ---- */

struct image_file;
/* Writes what lies in the directory `fd`, without what is mounted on it, as a tar file in gzip's format. */
int tree_pack(int fd, struct image_file *to, struct error *e);
/* The other way: into an empty file system. Never leaves it. `fd` stays the caller's. */
int tree_unpack(int fd, struct image_file *from, struct error *e);
