/* fermata checkpoint delete, flatten: checkpoints that have pages in others. One is named by the daemon's id, or as a directory, for which none is needed. */
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

/* The id that a daemon knows a directory by, to have it removed there: what it has noted of it goes too. Empty: none does. */
static int find_id(struct command_line *c, char id[64], struct error *e)
{
	_cleanup_free_ struct settings *s = malloc(sizeof(*s));
	json_t *list = NULL, *one;
	char real[PATH_MAX];
	size_t i;

	id[0] = '\0';
	int r = s ? remote_settings(c, s, e) : error_set(e, -ENOMEM, "out of memory");
	if (r || !remote_wanted_for_path(c, s) || !realpath(c->words[0], real))
		return r;
	r = client_call(s, "GET", "/v1/checkpoints", NULL, &list, e);
	json_array_foreach(list, i, one)
		if (!strcmp(json_string_value(json_object_get(one, "path")), real))
			snprintf(id, 64, "%s", json_string_value(json_object_get(one, "id")));
	json_decref(list);
	return r;
}

int verb_delete_checkpoint(struct command_line *c)
{
	char id[64], *words[] = { id, NULL };
	struct error e = {};

	if (!is_path(c->words[0]))
		return verb_checkpoint_delete(c);
	if (find_id(c, id, &e))
		return cli_report(c, &e);
	if (id[0]) {
		c->words = words;
		return verb_checkpoint_delete(c);
	}
	if (remove_directory(c->words[0], &e))
		return cli_report(c, &e);
	if (c->json)
		return cli_print_document(c, json_pack("{s:s, s:s}", "deleted", c->words[0], "path", c->words[0]));
	printf("Deleted checkpoint %s\n", c->words[0]);
	return 0;
}

/* By the daemon where there is one, which knows who else is at work on it: NULL then, or after an error. */
static bool flatten_remote(struct command_line *c, json_t **ret, int *ret_status)
{
	_cleanup_free_ struct settings *s = malloc(sizeof(*s));
	const bool by_path = is_path(c->words[0]);
	struct error e = {};
	char path[200];

	*ret = NULL;
	*ret_status = 1;
	if (!s || remote_settings(c, s, &e)) {
		cli_report(c, &e);
		return true;
	}
	if (by_path && (c->events || !remote_wanted_for_path(c, s)))
		return false;
	if (!by_path && c->no_server) {
		error_set(&e, -EINVAL, "%s is an id, which only the daemon knows; without --no-server it is asked, or give the path", c->words[0]);
		cli_report(c, &e);
		return true;
	}
	if (by_path)
		*ret = remote_work(c, "/v1/checkpoints/flatten", json_pack("{s:o}", "path", remote_absolute(c->words[0])));
	else if (remote_path(c, path, sizeof(path), "/v1/checkpoints/%s/flatten", c->words[0]))
		*ret = remote_work(c, path, json_object());
	*ret_status = *ret ? 0 : 1;
	return true;
}

int verb_flatten_checkpoint(struct command_line *c)
{
	json_t *document;
	struct error e = {};
	int status;

	if (!flatten_remote(c, &document, &status)) {
		c->request.images_dir = c->words[0];
		progress_begin(c);
		int r = engine_flatten(&c->request, &e);
		progress_end(c);
		if (r < 0)
			return cli_report(c, &e);
		document = json_pack("{s:s, s:b}", "checkpoint", c->words[0], "flattened", !r);
		status = 0;
	}
	if (status || c->json || c->events)
		return status ? status : cli_print_document(c, document);
	printf(json_is_true(json_object_get(document, "flattened")) ? "%s needs no parent any more\n" : "%s needs no parent already\n",
	       json_string_value(json_object_get(document, "checkpoint")));
	json_decref(document);
	return 0;
}
