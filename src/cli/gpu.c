/* The options about GPUs: from words to the request. */
#include "cli/cli.h"

#include <string.h>

static int parse_use(const char *word, enum request_gpu *ret)
{
	static const char *const words[] = { [GPU_AUTO] = "auto", [GPU_ALWAYS] = "on", [GPU_NEVER] = "off" };

	for (size_t i = 0; i < ARRAY_SIZE(words); i++)
		if (!strcmp(word, words[i])) {
			*ret = (enum request_gpu)i;
			return 0;
		}
	return -EINVAL;
}

int cli_gpu_options(struct command_line *c, struct error *e)
{
	const size_t n = c->gpu_map.count;

	if (c->gpu && parse_use(c->gpu, &c->request.gpu))
		return error_set(e, -EINVAL, "--gpu takes auto, on or off, not %s", c->gpu);
	c->request.gpu_helper = getenv("FERMATA_GPU_SOCKET"); /* the daemon gives it to those that work for it */
	c->request.gpu_timeout_ms = (uint32_t)c->gpu_timeout_s * 1000;
	c->request.gpu_deadline_ms = (uint32_t)c->gpu_deadline_s * 1000;
	if (!n)
		return 0;
	struct request_gpu_pair *pairs = calloc(n, sizeof(*pairs)); /* until cli_free */
	if (!pairs)
		return error_set(e, -ENOMEM, "out of memory");
	c->request.gpu_map = pairs;
	c->request.n_gpu_map = n;
	for (size_t i = 0; i < n; i++) {
		char *from = strdup(c->gpu_map.data[i]), *to = from ? strchr(from, '=') : NULL;
		pairs[i].from = from;
		if (!to || to == from || !to[1])
			return error_set(e, -EINVAL, "--gpu-map takes OLD-UUID=NEW-UUID, not %s", c->gpu_map.data[i]);
		*to = 0;
		pairs[i].to = to + 1;
	}
	return 0;
}

void cli_gpu_free(struct command_line *c)
{
	for (size_t i = 0; i < c->request.n_gpu_map; i++)
		free((char *)c->request.gpu_map[i].from);
	free((struct request_gpu_pair *)c->request.gpu_map);
	c->request.gpu_map = NULL;
	c->request.n_gpu_map = 0;
}
