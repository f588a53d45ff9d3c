/*
 * Cgroup namespaces: cgroup_namespaces(7). What is their root is where who makes one is; the groups themselves are those of the machine (engine/cgroups.h). The coordinator does not
 * go into that of a tree, where it would not see what is above.
 */
#include "engine/cgroups.h"
#include "engine/ns/ns.h"

#include <sched.h>

static int cgroup_collect(struct dump *d, uint32_t id)
{
	return d->request->cgroups ? 0 : cgroups_check(d);
}

const struct ns_kind ns_cgroup = {
	.name = "cgroup",
	.flag = CLONE_NEWCGROUP,
	.summary = "Its root, with --manage-cgroups; otherwise where who restores it is",
	.has_id = offsetof(TaskKobjIdsEntry, has_cgroup_ns_id),
	.id = offsetof(TaskKobjIdsEntry, cgroup_ns_id),
	.collect = cgroup_collect,
};
