/* fermata features: what can and can't be saved, from the engine's own tables. */
#include "cli/cli.h"
#include "engine/ns/ns.h"
#include "engine/saved.h"
#include "engine/kinds/kind.h"

#include <jansson.h>

/* The names of the table of refusals, each once, with those of its remedies that differ. */
static void put_remedies(FILE *f, size_t first)
{
	const char *last = NULL, *between = "";

	for (size_t i = first; i < refusals_count && !strcmp(refusals[i].name, refusals[first].name); i++) {
		if (!refusals[i].remedy || (last && !strcmp(last, refusals[i].remedy)))
			continue;
		fprintf(f, "%s%s", between, refusals[i].remedy);
		between = "; ";
		last = refusals[i].remedy;
	}
}

static bool is_new(size_t i)
{
	return !i || strcmp(refusals[i].name, refusals[i - 1].name);
}

static bool seen_before(size_t i)
{
	for (size_t k = 0; k < i; k++)
		if (!strcmp(unknown_kind_at(k), unknown_kind_at(i)))
			return true;
	return false;
}

/* A test finds a name without a reason by this word. */
static const char *why(const char *name)
{
	const char *reason = reason_of(name);

	return reason ? reason : "NO REASON";
}

static const char *without_article(const char *name)
{
	return name + (!strncmp(name, "an ", 3) ? 3 : !strncmp(name, "a ", 2) ? 2 : 0);
}

static void put_unknown(FILE *f)
{
	const char *between = "";

	for (size_t i = 0; unknown_kind_at(i); i++)
		if (!seen_before(i)) {
			fprintf(f, "%s%s", between, without_article(unknown_kind_at(i)));
			between = ", ";
		}
}

static int print_json(void)
{
	json_t *kinds_list = json_array(), *state = json_array(), *namespaces = json_array(), *refused = json_array(), *unknown = json_array();

	for (size_t i = 0; i < kinds_count; i++)
		json_array_append_new(kinds_list, json_pack("{s:s, s:s}", "name", kinds[i]->name, "summary", kinds[i]->summary));
	for (size_t i = 0; i < features_count; i++)
		json_array_append_new(state, json_pack("{s:s, s:s}", "name", features[i].name, "summary", features[i].summary));
	for (size_t i = 0; i < ns_kinds_count; i++)
		json_array_append_new(namespaces, json_pack("{s:s, s:s}", "name", ns_kinds[i]->name, "summary", ns_kinds[i]->summary));
	for (size_t i = 0; i < refusals_count; i++)
		json_array_append_new(refused, json_pack("{s:s, s:s, s:s?, s:s}", "name", refusals[i].name, "message", refusals[i].text, "remedy",
							 refusals[i].remedy, "why", why(refusals[i].name)));
	for (size_t i = 0; unknown_kind_at(i); i++)
		if (!seen_before(i))
			json_array_append_new(unknown, json_string(unknown_kind_at(i)));
	json_t *root = json_pack("{s:o, s:o, s:o, s:o, s:o}", "kinds", kinds_list, "state", state, "namespaces", namespaces, "refused", refused, "refused_kinds", unknown);
	int r = root ? json_dumpf(root, stdout, JSON_INDENT(1)) : -1;
	json_decref(root);
	puts("");
	return r ? 1 : 0;
}

static void put_row(const char *name, const char *summary)
{
	printf("| %s | %s |\n", name, summary);
}

static int print_markdown(void)
{
	printf("| saved | |\n|---|---|\n");
	for (size_t i = 0; i < features_count; i++)
		put_row(features[i].name, features[i].summary);
	for (size_t i = 0; i < kinds_count; i++)
		put_row(kinds[i]->name, kinds[i]->summary);
	for (size_t i = 0; i < ns_kinds_count; i++)
		printf("| a %s namespace | %s |\n", ns_kinds[i]->name, ns_kinds[i]->summary);
	printf("\n| refused, by name | what helps | why |\n|---|---|---|\n");
	for (size_t i = 0; i < refusals_count; i++)
		if (is_new(i)) {
			printf("| %s | ", refusals[i].name);
			put_remedies(stdout, i);
			printf(" | %s |\n", why(refusals[i].name));
		}
	for (size_t i = 0; unknown_kind_at(i); i++)
		if (!seen_before(i))
			printf("| %s | close it first | %s |\n", without_article(unknown_kind_at(i)), why(unknown_kind_at(i)));
	return 0;
}

static void print_saved(void)
{
	printf("Saved:\n");
	for (size_t i = 0; i < features_count; i++)
		printf("  %-24s  %s\n", features[i].name, features[i].summary);
	for (size_t i = 0; i < kinds_count; i++)
		printf("  %-24s  %s\n", kinds[i]->name, kinds[i]->summary);
	for (size_t i = 0; i < ns_kinds_count; i++) {
		char name[40];
		snprintf(name, sizeof(name), "a %s namespace", ns_kinds[i]->name);
		printf("  %-24s  %s\n", name, ns_kinds[i]->summary);
	}
}

int verb_features(struct command_line *c)
{
	if (c->json)
		return print_json();
	if (c->markdown)
		return print_markdown();
	if (!c->only_refused)
		print_saved();
	printf("Refused, by name:\n");
	for (size_t i = 0; i < refusals_count; i++)
		if (is_new(i))
			printf("  %s\n", refusals[i].name);
	printf("  ");
	put_unknown(stdout);
	puts("");
	return 0;
}
