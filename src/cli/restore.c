/* fermata restore process. */
#include "cli/cli.h"

int verb_restore_process(struct command_line *c)
{
	if (!c->path) {
		fprintf(stderr, "Error: fermata restore process needs the checkpoint: --path CHECKPOINT\n");
		return c->program->usage_status;
	}
	c->request.images_dir = c->path;
	return cli_restore(c, true);
}
