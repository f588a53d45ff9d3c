/* fermata checkpoint delete, flatten: checkpoints that have pages in others. One is named by the daemon's id, or as a directory, which needs no daemon. */
#include "base/folder.h"
#include "cli/remote.h"

#include <jansson.h>
#include <limits.h>
#include <sys/stat.h>

static bool is_path(const char *word)
{
	struct stat st;

	return strchr(word, '/') || (stat(word, &st) == 0 && S_ISDIR(st.st_mode));
}

static int remove_directory(const char *path, struct error *e)
{
	char other[PATH_MAX], name[PATH_MAX + 20];
	struct stat st;

	snprintf(name, sizeof(name), "%s/inventory.img", path);
	if (stat(path, &st) < 0)
		return error_errno(e, -errno, "cannot remove the checkpoint %s", path);
	if (!S_ISDIR(st.st_mode) || access(name, F_OK))
		return error_set(e, -EINVAL, "%s is no directory with a checkpoint; remove an archive as any file", path);
	int r = folder_find_referrer(path, "parent", NULL, other);
	if (r == 1)
		return error_set(e, -EBUSY, "the checkpoint %s is the parent of %s, which has pages in it; fermata checkpoint flatten %s first, or remove that one",
				 path, other, other);
	r = r ? r : folder_remove(path);
	return r ? error_errno(e, r, "cannot remove the checkpoint %s", path) : 0;
}

int verb_delete_checkpoint(struct command_line *c)
{
	struct error e = {};

	if (!is_path(c->words[0]))
		return verb_checkpoint_delete(c);
	if (remove_directory(c->words[0], &e))
		return cli_report(c, &e);
	printf("Deleted checkpoint %s\n", c->words[0]);
	return 0;
}

int verb_flatten_checkpoint(struct command_line *c)
{
	char path[200], where[PATH_MAX];
	struct error e = {};

	snprintf(where, sizeof(where), "%s", c->words[0]);
	if (!is_path(where)) {
		json_t *found = remote_path(c, path, sizeof(path), "/v1/checkpoints/%s", c->words[0]) ? remote_call(c, "GET", path, NULL) : NULL;
		const char *text = json_string_value(json_object_get(found, "path"));
		snprintf(where, sizeof(where), "%s", text ? text : "");
		json_decref(found);
		if (!where[0])
			return 1;
	}
	int r = engine_flatten(where, &e);
	if (r < 0)
		return cli_report(c, &e);
	printf(r ? "%s needs no parent already\n" : "%s needs no parent any more\n", where);
	return 0;
}
