/* fermata features: the kinds of descriptors that can be saved, from the engine's own table. */
#include "cli/cli.h"
#include "engine/kinds/kind.h"

#include <jansson.h>

static int print_json(void)
{
	json_t *list = json_array();

	for (size_t i = 0; i < kinds_count; i++)
		json_array_append_new(list, json_pack("{s:s, s:s}", "name", kinds[i]->name, "summary", kinds[i]->summary));
	json_t *root = json_pack("{s:o}", "kinds", list);
	int r = root ? json_dumpf(root, stdout, JSON_INDENT(1)) : -1;
	json_decref(root);
	puts("");
	return r ? 1 : 0;
}

int verb_features(struct command_line *c)
{
	if (c->json)
		return print_json();
	for (size_t i = 0; i < kinds_count; i++)
		printf("%-24s  %s\n", kinds[i]->name, kinds[i]->summary);
	return 0;
}
