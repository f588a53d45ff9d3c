/* UTS namespaces: uts_namespaces(7), the names of the host and of its NIS domain. utsns-N.img. */
#include "engine/ns/ns.h"
#include "utsns.pb-c.h"

#include <sched.h>
#include <sys/utsname.h>

extern const struct ns_kind ns_uts;

static int uts_collect(struct dump *d, uint32_t id)
{
	UtsnsEntry entry = UTSNS_ENTRY__INIT;
	struct utsname names;
	char file[32];

	if (uname(&names) < 0)
		return error_errno(d->e, -errno, "cannot get the names of its host");
	entry.nodename = names.nodename;
	entry.domainname = names.domainname;
	snprintf(file, sizeof(file), "utsns-%u.img", id);
	return dump_write_one(d, file, IMAGE_MAGIC_UTSNS, &entry.base);
}

static int uts_load(struct restore *s, uint32_t id)
{
	char file[32];

	snprintf(file, sizeof(file), "utsns-%u.img", id);
	return restore_read_one(s, file, IMAGE_MAGIC_UTSNS, &utsns_entry__descriptor, ns_state(s, &ns_uts));
}

static int uts_fill(struct restore *s, uint32_t id)
{
	const UtsnsEntry *e = *ns_state(s, &ns_uts);

	if (sethostname(e->nodename, strlen(e->nodename)) < 0 || setdomainname(e->domainname, strlen(e->domainname)) < 0)
		return error_errno(s->e, -errno, "cannot name the host of its UTS namespace %s", e->nodename);
	return 0;
}

static void uts_release(struct restore *s)
{
	UtsnsEntry *e = TAKE_PTR(*ns_state(s, &ns_uts));

	if (e)
		utsns_entry__free_unpacked(e, NULL);
}

const struct ns_kind ns_uts = {
	.name = "uts",
	.flag = CLONE_NEWUTS,
	.summary = "The names of the host and of its NIS domain",
	.has_id = offsetof(TaskKobjIdsEntry, has_uts_ns_id),
	.id = offsetof(TaskKobjIdsEntry, uts_ns_id),
	.collect = uts_collect,
	.load = uts_load,
	.fill = uts_fill,
	.release = uts_release,
};
