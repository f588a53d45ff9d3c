/* fermata check process: what is in the way of a dump, a line each, before anyone needs it. */
#include "cli/cli.h"

#include <jansson.h>

static int print_json(pid_t pid, const struct obstacles *found)
{
	json_t *list = json_array();

	for (size_t i = 0; i < found->count; i++)
		json_array_append_new(list, json_string(found->data[i].text));
	json_t *root = json_pack("{s:i, s:b, s:o}", "pid", (int)pid, "can_be_saved", found->count == 0, "obstacles", list);
	int r = root ? json_dumpf(root, stdout, JSON_INDENT(1)) : -1;
	json_decref(root);
	puts("");
	return r ? 1 : found->count != 0;
}

static int print(const struct command_line *c, const struct obstacles *found)
{
	if (c->json)
		return print_json(c->request.pid, found);
	for (size_t i = 0; i < found->count; i++)
		printf("%s\n", found->data[i].text);
	if (!found->count)
		printf("process %d can be saved\n", c->request.pid);
	return found->count != 0;
}

int verb_check_process(struct command_line *c)
{
	struct obstacles found = {};
	struct error e = {};
	int status = 1, r = cli_parse_pid(c->words[0], &c->request.pid, &e);

	if (!r)
		r = cli_require_root(&e);
	if (!r)
		r = cli_gpu_options(c, &e);
	if (r)
		error_prefix(&e, r, "cannot check process %s", c->words[0]);
	else
		r = engine_check(&c->request, &found, &e);
	if (!r || found.count)
		status = print(c, &found);
	if (r)
		status = cli_report(c, &e);
	VEC_FREE(&found);
	return status;
}
