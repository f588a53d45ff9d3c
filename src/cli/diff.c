/* What two checkpoints differ in, file by file, by their manifests. */
#include "cli/remote.h"

#include "base/log.h"
#include "image/image.h"

#include <limits.h>

/* {name: {size, xxh128}} of a checkpoint's manifest. */
static json_t *read_manifest(const char *dir, struct error *e)
{
	char path[PATH_MAX];
	json_error_t where;

	snprintf(path, sizeof(path), "%s/" IMAGE_MANIFEST, dir);
	json_t *document = json_load_file(path, 0, &where), *files = json_object();
	const json_t *list = json_object_get(document, "files");
	if (!json_is_array(list))
		error_set(e, -EBADMSG, "cannot compare %s: %s", dir, document ? "its manifest has no list of files" : where.text);
	for (size_t i = 0; i < json_array_size(list); i++) {
		json_t *one = json_array_get(list, i);
		const char *name = json_string_value(json_object_get(one, "name"));
		if (name)
			json_object_set(files, name, one);
	}
	if (json_is_array(list)) {
		json_decref(document);
		return files;
	}
	json_decref(document);
	json_decref(files);
	return NULL;
}

static void put_difference(struct table *t, json_t *list, const char *name, const char *what, json_int_t before, json_int_t after)
{
	table_put(t, "%s", name);
	table_put(t, "%s", what);
	table_put(t, "%lld", (long long)before);
	table_put(t, "%lld", (long long)after);
	json_array_append_new(list, json_pack("{s:s, s:s, s:I, s:I}", "file", name, "difference", what, "size_before", before, "size_after", after));
}

static void compare(json_t *a, json_t *b, struct table *t, json_t *list)
{
	const char *name;
	json_t *one;

	json_object_foreach(a, name, one) {
		const json_t *other = json_object_get(b, name);
		const char *x = json_string_value(json_object_get(one, "xxh128")), *y = json_string_value(json_object_get(other, "xxh128"));
		json_int_t before = json_integer_value(json_object_get(one, "size")), after = json_integer_value(json_object_get(other, "size"));
		if (!other)
			put_difference(t, list, name, "gone", before, 0);
		else if (before != after || !x || !y || strcmp(x, y))
			put_difference(t, list, name, "changed", before, after);
	}
	json_object_foreach(b, name, one)
		if (!json_object_get(a, name))
			put_difference(t, list, name, "new", 0, json_integer_value(json_object_get(one, "size")));
}

/* As diff(1): 0 they are the same, 1 they differ, 2 trouble. */
int verb_diff(struct command_line *c)
{
	static const char *const heads[] = { "FILE", "DIFFERENCE", "BEFORE", "AFTER" };
	struct error e = {};
	json_t *a = read_manifest(c->words[0], &e), *b = a ? read_manifest(c->words[1], &e) : NULL, *list = json_array();

	if (!a || !b) {
		json_decref(a);
		json_decref(list);
		cli_report(c, &e);
		return 2;
	}
	struct table *t = table_new(heads, ARRAY_SIZE(heads));
	compare(a, b, t, list);
	size_t found = json_array_size(list);
	if (c->json)
		remote_print(json_incref(list));
	else if (found)
		table_print(t);
	else
		puts("No differences.");
	json_decref(list);
	json_decref(a);
	json_decref(b);
	return found ? 1 : 0;
}
