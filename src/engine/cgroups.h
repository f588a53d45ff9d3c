/*
 * Control groups, cgroups(7), of either version: in which of them the tasks of a tree are, the groups below that of its root, and their settings. cgroup.img. Only where the user asks for it
 * (--manage-cgroups): otherwise a restored tree is where who restores it is.
 *
 * Hierarchies are reached through mounts of our own that are nowhere to be seen, so nothing need be mounted, and those of a container are not in the way.
 * Left out: what a group has used, and groups of single threads.
 */
#pragma once

#include "engine/dump.h"
#include "engine/restore.h"

/* ---- dump ---- */

/* The tree stands still: gives each task its set (task->cg_set), writes cgroup.img. */
int cgroups_capture(struct dump *d);
/* A tree in a cgroup namespace of its own, whose groups are not saved: all must be in its root. */
int cgroups_check(struct dump *d);

/* ---- restore ---- */

int cgroups_load(struct restore *s);
/* Makes the groups and brings the caller into that of the tree's root, or the one that is the root of its cgroup namespace. */
int cgroups_enter(struct restore *s);
/* Brings each task into its own from there. They are there, and none runs. */
int cgroups_settle(struct restore *s);
void cgroups_release(struct restore *s);

/* ---- both ---- */

/* A mount of the hierarchy with these controllers, as /proc/PID/cgroup names it ("" version 2, "name=systemd", "cpu,cpuacct"). A descriptor or a negative errno. */
int cgroups_mount(const char *names);
/* Those settings of a group that are saved: the i-th of a hierarchy; NULL behind the last. */
const char *cgroups_setting(const char *names, size_t i);
