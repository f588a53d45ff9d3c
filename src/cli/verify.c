/* fermata verify: every byte of a checkpoint against its checksums, and that all can be read, as a restore does before anything runs. */
#include "cli/cli.h"
#include "cli/inspect/view.h"

#include <jansson.h>

static int print_json(const struct command_line *c, const struct view *v)
{
	json_t *root = json_pack("{s:s, s:s, s:I, s:I}", "checkpoint", c->words[0], "compression", image_packing_name(v->images.dir), "files",
				 (json_int_t)v->files.count, "bytes", (json_int_t)v->size);

	return cli_print_document(c, root);
}

int verb_verify(struct command_line *c)
{
	struct view v = { .request = { .images_dir = c->words[0], .packing.key = cli_store_key(c) } };
	struct error e = {};
	int status = 0;

	progress_begin(c);
	v.request.progress = c->request.progress;
	int r = view_read(&v, &e);
	progress_end(c);
	if (!r && !view_has_manifest(&v))
		r = error_set(&e, -ENOENT, "it has no " IMAGE_MANIFEST ", and so no checksums; fermata inspect reads it without");
	if (r) {
		error_prefix(&e, r, "cannot verify %s", c->words[0]);
		status = cli_report(c, &e);
	} else if (c->json) {
		status = print_json(c, &v);
	} else {
		printf("%s is whole: %zu files, %llu bytes\n", c->words[0], v.files.count, (unsigned long long)v.size);
	}
	view_finish(&v);
	return status;
}
