/* What two checkpoints differ in, file by file, by their manifests. */
#include "cli/remote.h"

#include "base/log.h"
#include "base/meter.h"
#include "engine/load.h"
#include "engine/watch.h"
#include "image/image.h"

#define MANIFEST_MAX (64UL << 20)

/* Of an archive that was packed by others all in front of it is read. */
static json_t *load_manifest(const char *path, const char *key, struct meter *meter, struct error *e)
{
	struct image_dir *dir = NULL;
	struct image_raw *raw = NULL;
	json_error_t where = {};
	json_t *document = NULL;
	int r = restore_open(path, key, &dir, e);

	if (r)
		return NULL;
	image_dir_set_meter(dir, meter);
	r = image_raw_open(dir, IMAGE_MANIFEST, &raw);
	size_t size = r ? 0 : (size_t)MIN(image_raw_size(raw), MANIFEST_MAX);
	_cleanup_free_ char *text = r ? NULL : malloc(size + 1);
	if (!r)
		r = text ? image_raw_read(raw, NULL, text, size, 0) : -ENOMEM;
	if (r == -ENOENT)
		error_set(e, r, "it has no " IMAGE_MANIFEST ", and so no checksums");
	else if (r)
		error_errno(e, r, "its " IMAGE_MANIFEST " can't be read");
	else if (!(document = json_loadb(text, size, 0, &where)))
		error_set(e, -EBADMSG, "its " IMAGE_MANIFEST " is damaged: %s", where.text);
	image_raw_close(raw);
	image_dir_free(dir);
	return document;
}

/* {name: {size, xxh128}} of a checkpoint's manifest. */
static json_t *read_manifest(const char *path, const char *key, struct meter *meter, struct error *e)
{
	json_t *document = load_manifest(path, key, meter, e), *files = json_object();
	const json_t *list = json_object_get(document, "files");

	if (document && !json_is_array(list))
		error_set(e, -EBADMSG, "its " IMAGE_MANIFEST " has no list of files");
	if (!json_is_array(list))
		error_prefix(e, -EBADMSG, "cannot compare %s", path);
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

static int read_both(struct command_line *c, json_t *ret[2], struct error *e)
{
	struct meter meter = {};
	struct watch watch;

	progress_begin(c);
	watch_begin(&watch, &c->request, STAGE_OPEN, meter_count, &meter);
	ret[0] = read_manifest(c->words[0], cli_store_key(c), &meter, e);
	ret[1] = ret[0] ? read_manifest(c->words[1], c->request.packing.key, &meter, e) : NULL;
	watch_end(&watch);
	progress_end(c);
	if (ret[1])
		return 0;
	json_decref(ret[0]);
	return -EBADMSG;
}

/* As diff(1): 0 they are the same, 1 they differ, 2 trouble. */
int verb_diff(struct command_line *c)
{
	static const char *const heads[] = { "FILE", "DIFFERENCE", "BEFORE", "AFTER" };
	struct error e = {};
	json_t *both[2], *list;

	if (read_both(c, both, &e)) {
		cli_report(c, &e);
		return 2;
	}
	struct table *t = table_new(heads, ARRAY_SIZE(heads));
	list = json_array();
	compare(both[0], both[1], t, list);
	size_t found = json_array_size(list);
	if (c->json)
		cli_print_document(c, json_incref(list));
	else if (found)
		table_print(t);
	else
		puts("No differences.");
	json_decref(list);
	json_decref(both[0]);
	json_decref(both[1]);
	return found ? 1 : 0;
}
