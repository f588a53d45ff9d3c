/* fermata store: what is done to a store as a whole. See image/store/store.h. */
#include "cli/remote.h"
#include "image/store/store.h"

#include <jansson.h>
#include <time.h>

const char *cli_store_key(struct command_line *c)
{
	_cleanup_free_ struct settings *s = c->request.packing.key ? NULL : malloc(sizeof(*s));
	struct error e;

	/* It stays until the program ends. */
	if (s && !remote_settings(c, s, &e) && *settings_text(s, SETTING_CHECKPOINT_STORE_KEY))
		c->request.packing.key = strdup(settings_text(s, SETTING_CHECKPOINT_STORE_KEY));
	return c->request.packing.key;
}

static int print_json(json_t *root)
{
	int r = root ? json_dumpf(root, stdout, JSON_INDENT(1)) : -1;

	puts("");
	json_decref(root);
	return r ? 1 : 0;
}

int verb_store_ls(struct command_line *c)
{
	store_checkpoints list = {};
	struct error e = {};
	int r = store_list(c->words[0], cli_store_key(c), &list, &e);
	json_t *all = json_array();

	for (size_t i = 0; !r && i < list.count; i++) {
		const struct store_checkpoint *k = &list.data[i];
		time_t created = (time_t)k->created;
		char when[64] = "?";
		struct tm tm;
		if (localtime_r(&created, &tm))
			strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
		if (c->json)
			json_array_append_new(all, json_pack("{s:s, s:I, s:s, s:I, s:I}", "name", k->name, "created", (json_int_t)k->created, "compression",
							     packing_name(k->kind), "bytes", (json_int_t)k->size, "added", (json_int_t)k->added));
		else
			printf("%-40s %s %14llu bytes, %llu added\n", k->name, when, (unsigned long long)k->size, (unsigned long long)k->added);
	}
	VEC_FREE(&list);
	if (!r && c->json)
		return print_json(json_pack("{s:s, s:o}", "store", c->words[0], "checkpoints", all));
	json_decref(all);
	return r ? cli_report(c, &e) : 0;
}

int verb_store_stats(struct command_line *c)
{
	struct store_stats s = {};
	struct error e = {};

	if (store_stats(c->words[0], cli_store_key(c), &s, &e))
		return cli_report(c, &e);
	const uint64_t disk = s.stored + s.recipes + s.index;
	const double ratio = disk ? (double)s.size / (double)disk : 0;
	if (c->json)
		return print_json(json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "store", c->words[0], "checkpoints",
					    (json_int_t)s.checkpoints, "packs", (json_int_t)s.packs, "chunks", (json_int_t)s.chunks, "bytes",
					    (json_int_t)s.size, "stored", (json_int_t)s.stored, "recipes", (json_int_t)s.recipes, "index",
					    (json_int_t)s.index, "unused", (json_int_t)s.unused, "ratio", ratio));
	printf("%llu checkpoints of %llu bytes; on disk %llu bytes, %.1f times less\n", (unsigned long long)s.checkpoints, (unsigned long long)s.size,
	       (unsigned long long)disk, ratio);
	printf("%llu chunks in %llu packs: %llu bytes; checkpoints %llu, index %llu\n", (unsigned long long)s.chunks, (unsigned long long)s.packs,
	       (unsigned long long)s.stored, (unsigned long long)s.recipes, (unsigned long long)s.index);
	printf("about %llu bytes are needed by no checkpoint\n", (unsigned long long)s.unused);
	return 0;
}

struct found {
	bool json;
	json_t *list;
};

static void note_damage(void *data, const char *what, const char *checkpoint)
{
	struct found *f = data;

	if (f->json)
		json_array_append_new(f->list, json_pack("{s:s, s:s?}", "what", what, "checkpoint", checkpoint));
	else if (checkpoint)
		printf("%s: %s\n", checkpoint, what);
	else
		printf("%s; no checkpoint needs it\n", what);
}

int verb_store_verify(struct command_line *c)
{
	struct found f = { c->json, json_array() };
	struct store_report report = { .found = note_damage, .data = &f };
	struct error e = {};
	int r = store_verify(c->words[0], cli_store_key(c), &report, &e);

	if (r) {
		json_decref(f.list);
		return cli_report(c, &e);
	}
	if (c->json) {
		print_json(json_pack("{s:s, s:I, s:I, s:I, s:o}", "store", c->words[0], "chunks", (json_int_t)report.chunks, "bytes",
				     (json_int_t)report.bytes, "damaged", (json_int_t)report.damaged, "found", f.list));
		return report.damaged ? 1 : 0;
	}
	json_decref(f.list);
	if (!report.damaged)
		printf("%s is whole: %llu chunks, %llu bytes\n", c->words[0], (unsigned long long)report.chunks, (unsigned long long)report.bytes);
	else
		printf("%llu damaged of %llu chunks; dumps will store them anew\n", (unsigned long long)report.damaged, (unsigned long long)report.chunks);
	return report.damaged ? 1 : 0;
}

int verb_store_prune(struct command_line *c)
{
	struct store_pruned p = {};
	struct error e = {};

	if (store_prune(c->words[0], cli_store_key(c), &p, &e))
		return cli_report(c, &e);
	if (c->json)
		return print_json(json_pack("{s:s, s:I, s:I, s:I, s:I}", "store", c->words[0], "packs", (json_int_t)p.packs, "rewritten",
					    (json_int_t)p.rewritten, "chunks", (json_int_t)p.chunks, "bytes", (json_int_t)p.bytes));
	printf("Removed %llu packs, of which %llu were written anew without what nobody needs: %llu chunks, %llu bytes less\n", (unsigned long long)p.packs,
	       (unsigned long long)p.rewritten, (unsigned long long)p.chunks, (unsigned long long)p.bytes);
	return 0;
}

int verb_store_rm(struct command_line *c)
{
	struct error e = {};
	int status = 0;

	for (size_t i = 0; c->words[i]; i++)
		if (store_remove(c->words[i], cli_store_key(c), &e))
			status = cli_report(c, &e);
	if (!status && c->json)
		return print_json(json_pack("{s:b}", "removed", 1));
	return status;
}
