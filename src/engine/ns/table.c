/* The kinds of namespaces, in the order in which they are made. */
#include "engine/ns/ns.h"

extern const struct ns_kind ns_pid, ns_uts, ns_ipc, ns_net, ns_mnt, ns_cgroup;

const struct ns_kind *const ns_kinds[] = {
	&ns_pid,
	&ns_uts,
	&ns_ipc,
	&ns_net,
	&ns_mnt,
	&ns_cgroup,
};
const size_t ns_kinds_count = ARRAY_SIZE(ns_kinds);

_Static_assert(ARRAY_SIZE(ns_kinds) <= NS_KINDS_MAX, "struct restore has no room for them");

void **ns_state(struct restore *s, const struct ns_kind *kind)
{
	for (size_t i = 0; i < ns_kinds_count; i++)
		if (ns_kinds[i] == kind)
			return &s->ns.state[i];
	abort();
}
