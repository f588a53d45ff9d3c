/* See mnt_reach.h. */
#include "engine/ns/mnt_reach.h"

#include "proc/mountinfo.h"

#include <fcntl.h>
#include <sched.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>

#ifndef OPEN_TREE_CLONE
#define OPEN_TREE_CLONE 1
#define OPEN_TREE_CLOEXEC O_CLOEXEC
#endif
#define COVERS_MAX 1000 /* at one place, over each other */
#define TEXT_MAX (64UL << 20)

static bool is_it(const struct reach *r, const struct proc_mount *m)
{
	return !strcmp(r->point, m->point) && !strcmp(r->root, m->root) && !strcmp(r->fstype, m->fstype) && (!r->dev || r->dev == m->dev);
}

static bool has_id(int fd, uint32_t id)
{
	struct statx sx;

	return statx(fd, "", AT_EMPTY_PATH, STATX_MNT_ID, &sx) == 0 && sx.stx_mask & STATX_MNT_ID && sx.stx_mnt_id == id;
}

/* The mount on top at its place, if that is the one; 1: another covers it. */
static int clone_top(const struct reach *r, const struct proc_mounts *mounts, int *ret)
{
	_cleanup_close_ int top = open(r->point, O_PATH | O_NOFOLLOW | O_CLOEXEC);

	if (top < 0)
		return -errno;
	VEC_FOREACH(&mounts->list, m) {
		if (!is_it(r, m) || !has_id(top, m->id))
			continue;
		*ret = (int)syscall(__NR_open_tree, top, "", AT_EMPTY_PATH | OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
		return *ret < 0 ? -errno : 0;
	}
	return 1;
}

/* The number of a file system may be another one since: where there is none of that number, the place must do. */
static void forget_number(struct reach *r, const struct proc_mounts *mounts)
{
	VEC_FOREACH(&mounts->list, m)
		if (is_it(r, m))
			return;
	r->dev = 0;
}

static void uncover(struct reach *r, const struct proc_mounts *mounts)
{
	for (int i = 0; i < COVERS_MAX && clone_top(r, mounts, &r->fd) == 1; i++)
		if (!strcmp(r->point, "/") || umount2(r->point, MNT_DETACH | UMOUNT_NOFOLLOW) < 0)
			return;
}

int reach_mounts(int proc, struct reach *list, size_t n)
{
	_cleanup_free_ char *text = NULL;
	struct proc_mounts mounts = {};

	for (size_t i = 0; i < n; i++)
		list[i].fd = list[i].group = -1;
	if (unshare(CLONE_NEWNS) < 0)
		return -errno;
	int r = read_file_at(proc, "thread-self/mountinfo", TEXT_MAX, &text, NULL);
	if (!r)
		r = proc_parse_mounts(text, &mounts);
	for (size_t i = 0; !r && i < n; i++)
		forget_number(&list[i], &mounts);
	/* As long as mounts are in the groups of those that they are copies of, nothing is changed. */
	for (size_t i = 0; !r && i < n; i++)
		if (list[i].grouped)
			clone_top(&list[i], &mounts, &list[i].group);
	if (!r && mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) < 0)
		r = -errno;
	for (size_t i = 0; !r && i < n; i++)
		clone_top(&list[i], &mounts, &list[i].fd);
	for (size_t i = 0; !r && i < n; i++)
		if (list[i].fd < 0)
			uncover(&list[i], &mounts);
	proc_mounts_finish(&mounts);
	return r;
}
