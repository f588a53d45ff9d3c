/* fermata store: what is done to a store as a whole (image/store/store.h), here or by the daemon. Both give the same document, of which all is printed. */
#include "cli/remote.h"
#include "engine/watch.h"
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

static long long number(const json_t *document, const char *key)
{
	return json_integer_value(json_object_get(document, key));
}

static const char *text(const json_t *document, const char *key)
{
	const char *value = json_string_value(json_object_get(document, key));

	return value ? value : "";
}

/* ---- by the daemon ---- */

static int choose(struct command_line *c, bool *ret_remote, struct error *e)
{
	_cleanup_free_ struct settings *s = malloc(sizeof(*s));
	int r = s ? remote_settings(c, s, e) : error_set(e, -ENOMEM, "out of memory");

	*ret_remote = !r && !c->events && remote_wanted_for_path(c, s);
	return r;
}

/* The store, and its key where one was given: paths as the daemon has to know them. */
static json_t *store_body(const struct command_line *c)
{
	json_t *body = json_pack("{s:o}", "store", remote_absolute(c->words[0]));

	if (given_find(c->given, "store-key"))
		json_object_set_new(body, "key", remote_absolute(c->request.packing.key));
	return body;
}

/* Runs `here`, or has the daemon do the same; NULL: an error, which was reported. */
static json_t *get(struct command_line *c, const char *path, json_t *(*here)(struct command_line *c, struct error *e))
{
	json_t *document = NULL;
	struct error e = {};
	bool remote;

	if (choose(c, &remote, &e) == 0) {
		if (remote)
			return remote_work(c, path, store_body(c));
		progress_begin(c);
		document = here(c, &e);
		progress_end(c);
	}
	if (!document)
		cli_report(c, &e);
	return document;
}

int cli_print_document(const struct command_line *c, json_t *document)
{
	int r = document ? json_dumpf(document, stdout, c->events ? JSON_COMPACT : JSON_INDENT(1)) : -1;

	puts("");
	json_decref(document);
	return r ? 1 : 0;
}

static bool wants_document(const struct command_line *c)
{
	return c->json || c->events;
}

/* ---- ls ---- */

static json_t *list_here(struct command_line *c, struct error *e)
{
	store_checkpoints list = {};

	if (store_list(c->words[0], cli_store_key(c), &list, e)) {
		VEC_FREE(&list);
		return NULL;
	}
	json_t *all = json_array();
	for (size_t i = 0; i < list.count; i++) {
		const struct store_checkpoint *k = &list.data[i];
		json_array_append_new(all, json_pack("{s:s, s:I, s:s, s:I, s:I}", "name", k->name, "created", (json_int_t)k->created, "compression",
						     packing_name(k->kind), "bytes", (json_int_t)k->size, "added", (json_int_t)k->added));
	}
	VEC_FREE(&list);
	return json_pack("{s:s, s:o}", "store", c->words[0], "checkpoints", all);
}

int verb_store_ls(struct command_line *c)
{
	json_t *document = get(c, "/v1/store/ls", list_here), *one;
	size_t i;

	if (!document || wants_document(c))
		return document ? cli_print_document(c, document) : 1;
	json_array_foreach(json_object_get(document, "checkpoints"), i, one) {
		time_t created = (time_t)number(one, "created");
		char when[64] = "?";
		struct tm tm;
		if (localtime_r(&created, &tm))
			strftime(when, sizeof(when), "%Y-%m-%d %H:%M:%S", &tm);
		printf("%-40s %s %14lld bytes, %lld added\n", text(one, "name"), when, number(one, "bytes"), number(one, "added"));
	}
	json_decref(document);
	return 0;
}

/* ---- stats ---- */

static json_t *stats_here(struct command_line *c, struct error *e)
{
	struct store_stats s = {};

	if (store_stats(c->words[0], cli_store_key(c), &s, e))
		return NULL;
	const uint64_t disk = s.stored + s.recipes + s.index;
	return json_pack("{s:s, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:I, s:f}", "store", c->words[0], "checkpoints", (json_int_t)s.checkpoints, "packs",
			 (json_int_t)s.packs, "chunks", (json_int_t)s.chunks, "bytes", (json_int_t)s.size, "stored", (json_int_t)s.stored, "recipes",
			 (json_int_t)s.recipes, "index", (json_int_t)s.index, "unused", (json_int_t)s.unused, "ratio",
			 disk ? (double)s.size / (double)disk : 0);
}

int verb_store_stats(struct command_line *c)
{
	json_t *s = get(c, "/v1/store/stats", stats_here);

	if (!s || wants_document(c))
		return s ? cli_print_document(c, s) : 1;
	printf("%lld checkpoints of %lld bytes; on disk %lld bytes, %.1f times less\n", number(s, "checkpoints"), number(s, "bytes"),
	       number(s, "stored") + number(s, "recipes") + number(s, "index"), json_number_value(json_object_get(s, "ratio")));
	printf("%lld chunks in %lld packs: %lld bytes; checkpoints %lld, index %lld\n", number(s, "chunks"), number(s, "packs"), number(s, "stored"),
	       number(s, "recipes"), number(s, "index"));
	printf("about %lld bytes are needed by no checkpoint\n", number(s, "unused"));
	json_decref(s);
	return 0;
}

/* ---- verify ---- */

static void note_damage(void *data, const char *what, const char *checkpoint)
{
	json_array_append_new(data, json_pack("{s:s, s:s?}", "what", what, "checkpoint", checkpoint));
}

static json_t *verify_here(struct command_line *c, struct error *e)
{
	struct meter meter = {};
	json_t *found = json_array();
	struct store_report report = { .found = note_damage, .data = found, .meter = &meter };
	struct watch watch;

	watch_begin(&watch, &c->request, STAGE_VERIFY, meter_count, &meter);
	int r = store_verify(c->words[0], cli_store_key(c), &report, e);
	watch_end(&watch);
	if (r) {
		json_decref(found);
		return NULL;
	}
	return json_pack("{s:s, s:I, s:I, s:I, s:o}", "store", c->words[0], "chunks", (json_int_t)report.chunks, "bytes", (json_int_t)report.bytes, "damaged",
			 (json_int_t)report.damaged, "found", found);
}

int verb_store_verify(struct command_line *c)
{
	json_t *report = get(c, "/v1/store/verify", verify_here), *one;
	const int status = !report || number(report, "damaged");
	size_t i;

	if (!report || wants_document(c))
		return report && cli_print_document(c, report) ? 1 : status;
	json_array_foreach(json_object_get(report, "found"), i, one) {
		if (*text(one, "checkpoint"))
			printf("%s: %s\n", text(one, "checkpoint"), text(one, "what"));
		else
			printf("%s; no checkpoint needs it\n", text(one, "what"));
	}
	if (!status)
		printf("%s is whole: %lld chunks, %lld bytes\n", c->words[0], number(report, "chunks"), number(report, "bytes"));
	else
		printf("%lld damaged of %lld chunks; dumps will store them anew\n", number(report, "damaged"), number(report, "chunks"));
	json_decref(report);
	return status;
}

/* ---- prune ---- */

static json_t *prune_here(struct command_line *c, struct error *e)
{
	struct meter meter = {};
	struct store_pruned p = { .meter = &meter };
	struct watch watch;

	watch_begin(&watch, &c->request, STAGE_WRITE, meter_count, &meter);
	int r = store_prune(c->words[0], cli_store_key(c), &p, e);
	watch_end(&watch);
	return r ? NULL : json_pack("{s:s, s:I, s:I, s:I, s:I}", "store", c->words[0], "packs", (json_int_t)p.packs, "rewritten", (json_int_t)p.rewritten,
				    "chunks", (json_int_t)p.chunks, "bytes", (json_int_t)p.bytes);
}

int verb_store_prune(struct command_line *c)
{
	json_t *p = get(c, "/v1/store/prune", prune_here);

	if (!p || wants_document(c))
		return p ? cli_print_document(c, p) : 1;
	printf("Removed %lld packs, of which %lld were written anew without what nobody needs: %lld chunks, %lld bytes less\n", number(p, "packs"),
	       number(p, "rewritten"), number(p, "chunks"), number(p, "bytes"));
	json_decref(p);
	return 0;
}

/* ---- rm ---- */

static int remove_one(struct command_line *c, const char *path)
{
	struct error e = {};
	bool remote;

	if (choose(c, &remote, &e) || (!remote && store_remove(path, cli_store_key(c), &e)))
		return cli_report(c, &e);
	if (!remote)
		return 0;
	json_t *body = json_pack("{s:o}", "checkpoint", remote_absolute(path));
	if (given_find(c->given, "store-key"))
		json_object_set_new(body, "key", remote_absolute(c->request.packing.key));
	json_t *answer = remote_call(c, "POST", "/v1/store/rm", body);
	json_decref(answer);
	return answer ? 0 : 1;
}

int verb_store_rm(struct command_line *c)
{
	int status = 0;

	for (size_t i = 0; c->words[i]; i++)
		status |= remove_one(c, c->words[i]);
	if (!status && c->json)
		return cli_print_document(c, json_pack("{s:b}", "removed", 1));
	return status;
}
