/* fermata inspect: what a checkpoint holds, for people and, with --json, for programs. */
#include "cli/cli.h"
#include "base/log.h"
#include "cli/inspect/view.h"

int verb_inspect(struct command_line *c)
{
	struct view v = { .request = { .images_dir = c->words[0], .packing.key = cli_store_key(c), .skip_verify = c->request.skip_verify } };
	struct error e = {};
	int status = 0;

	progress_begin(c);
	v.request.progress = c->request.progress;
	int r = view_read(&v, &e);
	progress_end(c);

	if (r) {
		error_prefix(&e, r, "cannot inspect %s", c->words[0]);
		status = cli_report(c, &e);
	} else if (c->json) {
		status = cli_print_document(c, view_json(&v));
	} else {
		view_print(&v, c->verbosity > LOG_LEVEL_WARNING);
	}
	view_finish(&v);
	return status;
}
