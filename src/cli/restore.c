/* fermata restore process. */
#include "cli/remote.h"

int verb_restore_process(struct command_line *c)
{
	_cleanup_free_ struct settings *s = malloc(sizeof(*s));
	struct error e = {};

	if (!c->path && !c->checkpoint) {
		fprintf(stderr, "Error: %s restore process needs the checkpoint: --path CHECKPOINT\n", c->program->name);
		return c->program->usage_status;
	}
	int r = s ? remote_settings(c, s, &e) : error_set(&e, -ENOMEM, "out of memory");
	if (r)
		return cli_report(c, &e);
	/* Only this side has the caller's terminal and descriptors to give. */
	bool here = c->inherit.count || (c->request.shell_job && !c->attach && !c->attachable);
	if (remote_wanted(c, s) && !here) {
		json_t *body = json_object();
		if (c->path)
			json_object_set_new(body, "path", remote_absolute(c->path));
		return remote_restore(c, "/v1/jobs/restore", body);
	}
	if (c->as || c->checkpoint || c->attachable) {
		error_set(&e, -EINVAL, "--as, --checkpoint and --attachable need the daemon; start it with fermata daemon start");
		return cli_report(c, &e);
	}
	remote_profiling(c, s);
	r = restore_redirect(c, &e);
	if (r)
		return cli_report(c, &e);
	c->request.images_dir = c->path;
	cli_store_key(c);
	return cli_restore(c, true);
}
