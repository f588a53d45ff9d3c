/*
 * check: what this machine has of what dump and restore need, by the engine's probes. `criu check` speaks as that program does: by
 * default only what is required, "Looks good." at the end, exit status 1 where anything that was asked for is missing.
 */
#include "cli/check.h"
#include "engine/probe/probe.h"
#include "image/store/store.h"

#include <jansson.h>

struct tally {
	size_t required, useful; /* missing ones */
};

static void count(struct tally *tally, const struct probe *p)
{
	if (p->required)
		tally->required++;
	else
		tally->useful++;
}

static int find_feature(const char *name, const struct probe **ret, struct error *e)
{
	*ret = probe_find(name);
	return *ret ? 0 : error_set(e, -EINVAL, "%s is no feature that can be checked; --feature list prints their names", name);
}

static bool wants_list(const struct command_line *c)
{
	for (size_t i = 0; i < c->features.count; i++)
		if (!strcmp(c->features.data[i], "list"))
			return true;
	return false;
}

/* ---- fermata ---- */

static void print_line(const struct probe *p, int r, const struct error *e)
{
	if (!r)
		printf("  ok       %-20s %s\n", p->name, p->purpose);
	else
		printf("  %s  %-20s %s: %s\n", p->required ? "MISSING" : "missing", p->name, p->purpose, e->text);
}

static json_t *make_json(const struct probe *p, int r, const struct error *e)
{
	return json_pack("{s:s, s:s, s:s, s:b, s:b, s:s*}", "name", p->name, "area", probe_areas[p->area], "purpose", p->purpose, "required", p->required, "works", r == 0,
			 "why", r ? e->text : NULL);
}

static void probe_one(const struct command_line *c, const struct probe *p, struct tally *tally, json_t *list)
{
	struct error e;
	const char *dir = c->dir && store_is_path(c->dir) ? c->dir + strlen(STORE_PREFIX) : c->dir;
	int r = probe_run(p, dir, &e);

	if (r)
		count(tally, p);
	if (list)
		json_array_append_new(list, make_json(p, r, &e));
	else
		print_line(p, r, &e);
}

static void probe_area(const struct command_line *c, size_t area, struct tally *tally, json_t *list)
{
	if (!list)
		printf("%s\n", probe_areas[area]);
	for (size_t i = 0; i < probes_count; i++)
		if (probes[i].area == area)
			probe_one(c, &probes[i], tally, list);
}

static void print_verdict(const struct tally *tally)
{
	if (tally->required)
		printf("This machine can't dump and restore processes: %zu of what is required is missing.\n", tally->required);
	else if (tally->useful)
		printf("This machine can dump and restore processes; %zu of what some of them need is missing.\n", tally->useful);
	else
		printf("This machine can dump and restore processes.\n");
}

static void print_runtime(void *data, const struct finding *f)
{
	if (!f->there)
		printf("  -        %-20s not installed\n", f->name);
	else
		printf("  %-7s  %-20s %s: %s\n", f->why[0] ? "missing" : "ok", f->name, f->version, f->why[0] ? f->why : f->what);
}

static void list_runtime(void *data, const struct finding *f)
{
	json_t *one = json_pack("{s:s, s:b}", "name", f->name, "installed", (int)f->there);

	if (f->there) {
		json_object_set_new(one, "path", json_string(f->path));
		json_object_set_new(one, "version", json_string(f->version));
		json_object_set_new(one, "works", json_boolean(!f->why[0]));
		json_object_set_new(one, f->why[0] ? "why" : "what", json_string(f->why[0] ? f->why : f->what));
	}
	json_array_append_new(data, one);
}

static int print_json(json_t *list, json_t *gpus, json_t *runtimes, const struct tally *tally)
{
	json_t *root = json_pack("{s:b, s:o, s:o*, s:o*}", "works", tally->required == 0, "features", list, "gpus", gpus, "runtimes", runtimes);
	int r = root ? json_dumpf(root, stdout, JSON_INDENT(1)) : -1;

	json_decref(root);
	puts("");
	return r;
}

int verb_check(struct command_line *c)
{
	const struct probe *p;
	struct tally tally = {};
	struct error e = {};

	if (wants_list(c)) {
		for (size_t i = 0; i < probes_count; i++)
			printf("%-20s %s%s\n", probes[i].name, probes[i].purpose, probes[i].required ? " (required)" : "");
		return 0;
	}
	for (size_t i = 0; i < c->features.count; i++)
		if (find_feature(c->features.data[i], &p, &e))
			return cli_report(c, &e);
	json_t *list = c->json ? json_array() : NULL;
	for (size_t i = 0; i < c->features.count; i++)
		probe_one(c, probe_find(c->features.data[i]), &tally, list);
	json_t *gpus = c->json && !c->features.count ? json_array() : NULL;
	for (size_t area = 0; area < PROBE_AREAS && !c->features.count; area++) {
		probe_area(c, area, &tally, list);
		if (area == PROBE_GPU)
			tally.useful += check_gpus(gpus ? list_runtime : print_runtime, gpus);
	}
	json_t *runtimes = c->json && !c->features.count ? json_array() : NULL;
	if (!c->json && !c->features.count)
		puts("runtimes");
	if (!c->features.count)
		tally.useful += check_runtimes(runtimes ? list_runtime : print_runtime, runtimes);
	if (c->json && print_json(list, gpus, runtimes, &tally))
		return 1;
	if (c->features.count)
		return tally.required || tally.useful;
	if (!c->json)
		print_verdict(&tally);
	return tally.required ? 2 : c->strict && tally.useful;
}

/* ---- criu ---- */

static void complain(const struct probe *p, const struct error *e)
{
	fprintf(stderr, "%s: %s (%s): %s\n", p->required ? "Error" : "Warn ", p->name, p->purpose, e->text);
}

static int check_named(const struct command_line *c)
{
	const struct probe *p;
	struct error e = {};
	int status = 0;

	for (size_t i = 0; i < c->features.count; i++) {
		if (find_feature(c->features.data[i], &p, &e))
			return cli_report(c, &e);
		if (probe_run(p, c->request.images_dir, &e)) {
			complain(p, &e);
			status = 1;
		} else {
			printf("%s is supported\n", p->name);
		}
	}
	return status;
}

int criu_check(struct command_line *c)
{
	bool all = c->check_all || c->check_extra || c->check_experimental;
	struct tally tally = {};
	struct error e;

	if (wants_list(c)) {
		for (size_t i = 0; i < probes_count; i++)
			printf("%s%s", probes[i].name, i + 1 < probes_count ? " " : "\n");
		return 0;
	}
	if (c->features.count)
		return check_named(c);
	for (size_t i = 0; i < probes_count; i++)
		if ((all || probes[i].required) && probe_run(&probes[i], c->request.images_dir, &e)) {
			count(&tally, &probes[i]);
			complain(&probes[i], &e);
		}
	puts(tally.required ? "Does not look good." : tally.useful ? "Looks good but some kernel features are missing\n"
								   "which, depending on your process tree, may cause\n"
								   "dump or restore failure." :
							     "Looks good.");
	return tally.required || tally.useful;
}
