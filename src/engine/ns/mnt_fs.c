/* The types of file systems that are known, and how one of each comes back that nobody but the tree has mounted; see mnt.h. */
#include "engine/ns/mnt.h"

#include "engine/request.h"
#include "mnt.pb-c.h"

static const struct fs_type types[] = {
	{ "proc", FSTYPE__PROC, FS_AGAIN, NULL },
	{ "sysfs", FSTYPE__SYSFS, FS_AGAIN, NULL },
	{ "devtmpfs", FSTYPE__DEVTMPFS, FS_AGAIN, NULL },
	{ "binfmt_misc", FSTYPE__BINFMT_MISC, FS_AGAIN, NULL },
	{ "tmpfs", FSTYPE__TMPFS, FS_CONTENT, NULL },
	{ "devpts", FSTYPE__DEVPTS, FS_AGAIN, NULL },
	{ "pstore", FSTYPE__PSTORE, FS_AGAIN, NULL },
	{ "securityfs", FSTYPE__SECURITYFS, FS_AGAIN, NULL },
	{ "fusectl", FSTYPE__FUSECTL, FS_AGAIN, NULL },
	{ "debugfs", FSTYPE__DEBUGFS, FS_AGAIN, NULL },
	{ "tracefs", FSTYPE__TRACEFS, FS_AGAIN, NULL },
	{ "configfs", FSTYPE__AUTO, FS_AGAIN, NULL },
	{ "efivarfs", FSTYPE__AUTO, FS_AGAIN, NULL },
	{ "cgroup", FSTYPE__CGROUP, FS_AGAIN, NULL },
	{ "cgroup2", FSTYPE__CGROUP2, FS_AGAIN, NULL },
	{ "mqueue", FSTYPE__MQUEUE, FS_AGAIN, NULL },
	{ "bpf", FSTYPE__AUTO, FS_EMPTY, NULL },
	{ "hugetlbfs", FSTYPE__AUTO, FS_EMPTY, NULL },
	{ "overlay", FSTYPE__OVERLAYFS, FS_LAYERS, NULL },
	{ "fuse", FSTYPE__FUSE, FS_REFUSED, "its files come from a program" },
	{ "autofs", FSTYPE__AUTOFS, FS_REFUSED, "a program mounts what is asked for there" },
	{ "nsfs", FSTYPE__UNSUPPORTED, FS_REFUSED, "it holds a namespace" },
};

const struct fs_type *fs_find_type(const char *name)
{
	static const struct fs_type other = { "", FSTYPE__UNSUPPORTED, FS_REFUSED, "only the tree has it mounted" };

	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (!strcmp(types[i].name, name))
			return &types[i];
	return &other;
}

const char *fs_name_of(uint32_t code)
{
	for (size_t i = 0; i < ARRAY_SIZE(types); i++)
		if (types[i].code == code && code != FSTYPE__AUTO && code != FSTYPE__UNSUPPORTED)
			return types[i].name;
	return NULL;
}

const struct fs_type fs_typed = { "", FSTYPE__AUTO, FS_TYPED, NULL };

bool mounts_enabled(const struct request *r, const char *fstype)
{
	for (size_t i = 0; i < r->n_enable_fs; i++)
		for (const char *at = r->enable_fs[i]; *at; at += strcspn(at, ","), at += *at == ',') {
			const size_t n = strcspn(at, ",");
			if ((n == 3 && !strncmp(at, "all", 3)) || (n == strlen(fstype) && !strncmp(at, fstype, n)))
				return true;
		}
	return false;
}
