/*
 * What is done to checkpoints and stores that are there: removed, flattened, verified, pruned. A checkpoint is its owner's; a store as a whole, which holds
 * what several have in common, is root's.
 */
#include "daemon/upkeep.h"

#include "base/store_path.h"
#include "daemon/fields.h"
#include "daemon/tools.h"

int call_get_checkpoint(struct call *c, struct checkpoint *ret, struct error *e)
{
	int r = store_get_checkpoint(c->daemon->store, c->words[0], ret, e);

	if (!r && c->caller.uid && ret->uid != (int64_t)c->caller.uid)
		r = error_set(e, -ENOENT, "there is no checkpoint %s of yours", c->words[0]);
	return r;
}

/* A checkpoint of the caller's, by where it lies. False: nobody here knows it. */
static bool find_by_path(struct call *c, const char *path, struct checkpoint *ret)
{
	struct checkpoint_list list = {};
	struct error e = {};
	bool found = false;

	if (store_list_checkpoints(c->daemon->store, NULL, &list, &e) == 0)
		for (size_t i = 0; i < list.count && !found; i++)
			if (!strcmp(list.data[i].path, path) && (!c->caller.uid || list.data[i].uid == (int64_t)c->caller.uid)) {
				*ret = list.data[i];
				found = true;
			}
	VEC_FREE(&list);
	return found;
}

/* ---- removed ---- */

static int remove_known(struct call *c, const struct checkpoint *k, struct error *e)
{
	char key[CHECKPOINT_KEY_MAX];
	int r;

	checkpoint_key(k, key);
	r = busy_begin(c->daemon, key, "is being deleted", e);
	if (r)
		return r;
	if (k->state == CHECKPOINT_PENDING && identity_alive(&k->worker))
		r = error_set(e, -EBUSY, "the checkpoint %s is being written", k->id);
	/* A dump of the job may be about to have it as its parent. */
	if (!r && k->jid[0])
		r = busy_begin(c->daemon, k->jid, "has a checkpoint removed", e);
	const bool held = !r && k->jid[0];
	if (!r)
		r = checkpoint_remove(c->daemon, k, e);
	if (held)
		busy_end(c->daemon, k->jid);
	busy_end(c->daemon, key);
	return r;
}

int call_delete_checkpoint(struct call *c, struct error *e)
{
	struct checkpoint k;
	int r = call_get_checkpoint(c, &k, e);

	if (!r)
		r = remove_known(c, &k, e);
	if (!r)
		c->answer = json_pack("{s:s, s:o}", "deleted", k.id, "path", any_text(k.path));
	return r;
}

/* ---- flattened ---- */

static void note_size(struct daemon *d, const char *id)
{
	struct checkpoint k;
	struct error ignored = {};

	if (store_get_checkpoint(d->store, id, &k, &ignored) || k.state != CHECKPOINT_WHOLE)
		return;
	k.size = (int64_t)checkpoint_size(k.path);
	store_put_checkpoint(d->store, &k, false, &ignored);
}

static int flatten(struct call *c, const struct checkpoint *k, struct error *e)
{
	char key[CHECKPOINT_KEY_MAX];

	if (k->state != CHECKPOINT_WHOLE)
		return error_set(e, -EBUSY, "the checkpoint %s is %s", k->id, k->state == CHECKPOINT_LEAVING ? "being removed" : "being written");
	checkpoint_key(k, key);
	const struct tool_work work = { .words = json_pack("[s, s, s, s]", "checkpoint", "flatten", k->path, "--no-server"), .keys = { key, k->jid },
					.what = "has a checkpoint flattened", .done = note_size, .id = k->id };
	return tool_begin(c->daemon, &work, &c->events, e);
}

int call_flatten_checkpoint(struct call *c, struct error *e)
{
	struct checkpoint k;
	int r = call_get_checkpoint(c, &k, e);

	return r ? r : flatten(c, &k, e);
}

int call_flatten_path(struct call *c, struct error *e)
{
	const char *path = field_text(c->body, "path");
	struct checkpoint k;

	if (!path || path[0] != '/')
		return error_set(e, -EINVAL, "the path of the checkpoint must begin with a /");
	if (find_by_path(c, path, &k))
		return flatten(c, &k, e);
	if (c->caller.uid)
		return error_set(e, -EPERM, "only root may name a checkpoint by its path; there is no such one of yours, fermata checkpoints shows them");
	const struct tool_work work = { .words = json_pack("[s, s, s, s]", "checkpoint", "flatten", path, "--no-server") };
	return tool_begin(c->daemon, &work, &c->events, e);
}

/* ---- verified ---- */

int call_verify_checkpoint(struct call *c, struct error *e)
{
	struct checkpoint k;
	int r = call_get_checkpoint(c, &k, e);

	return r ? r : call_answer_tool(c, json_pack("[s, s]", "verify", k.path), e);
}

/* ---- those that nobody here knows ---- */

static int add_path(const struct call *c, json_t *words, const char *name, bool needed, const char *format, struct error *e)
{
	const char *path = c->query(c->connection, name);

	if (!path && !needed)
		return 0;
	if (!path || !store_or_plain_is_absolute(path))
		return error_set(e, -EINVAL, "the parameter %s must be a path from / on%s", name, needed ? ", or store:/DIR/NAME" : "");
	if (!store_is_path(path) && access(path, F_OK) < 0)
		return error_set(e, -ENOENT, "there is no such directory or file: %s; give what a dump was written to", path);
	return json_array_append_new(words, json_sprintf(format, path)) ? error_set(e, -EINVAL, "the parameter %s is no UTF-8", name) : 0;
}

static int look_at_path(struct call *c, const char *verb, bool two, struct error *e)
{
	json_t *words = json_pack("[s]", verb);
	int r = c->caller.uid ? error_set(e, -EPERM, "only root may name a checkpoint by its path; fermata checkpoints shows the ids of yours") : 0;

	if (!r)
		r = add_path(c, words, "path", true, "%s", e);
	if (!r && two)
		r = add_path(c, words, "other", true, "%s", e);
	if (!r)
		r = add_path(c, words, "key", false, "--store-key=%s", e);
	if (!r)
		return call_answer_tool(c, words, e);
	json_decref(words);
	return r;
}

int call_inspect_path(struct call *c, struct error *e)
{
	return look_at_path(c, "inspect", false, e);
}

int call_verify_path(struct call *c, struct error *e)
{
	return look_at_path(c, "verify", false, e);
}

int call_diff_paths(struct call *c, struct error *e)
{
	return look_at_path(c, "diff", true, e);
}

/* ---- stores ---- */

static int need_root(const struct call *c, struct error *e)
{
	return c->caller.uid ? error_set(e, -EPERM, "a store as a whole is root's; fermata checkpoints shows those of yours, and job checkpoint delete removes one") : 0;
}

static int add_key(const struct call *c, json_t *words, struct error *e)
{
	const char *key = field_text(c->body, "key");

	if (key && key[0] != '/')
		return error_set(e, -EINVAL, "the path of the key must begin with a /");
	return key && json_array_append_new(words, json_sprintf("--store-key=%s", key)) ? error_set(e, -ENOMEM, "out of memory") : 0;
}

static int work_on_store(struct call *c, const char *verb, struct error *e)
{
	const char *dir = field_text(c->body, "store");
	int r = need_root(c, e);

	if (!r && (!dir || !store_or_plain_is_absolute(dir)))
		r = error_set(e, -EINVAL, "the store must be a path from / on, or store:/");
	if (r)
		return r;
	const struct tool_work work = { .words = json_pack("[s, s, s, s]", "store", verb, dir, "--no-server") };
	r = add_key(c, work.words, e);
	if (!r)
		return tool_begin(c->daemon, &work, &c->events, e);
	json_decref(work.words);
	return r;
}

int call_store_ls(struct call *c, struct error *e)
{
	return work_on_store(c, "ls", e);
}

int call_store_stats(struct call *c, struct error *e)
{
	return work_on_store(c, "stats", e);
}

int call_store_verify(struct call *c, struct error *e)
{
	return work_on_store(c, "verify", e);
}

int call_store_prune(struct call *c, struct error *e)
{
	return work_on_store(c, "prune", e);
}

/* One that is known goes as by its id; another, and what it needed alone is pruned some time. */
int call_store_rm(struct call *c, struct error *e)
{
	const char *path = field_text(c->body, "checkpoint");
	struct checkpoint k;
	int r = 0;

	if (!path || !store_is_path(path) || !store_or_plain_is_absolute(path))
		return error_set(e, -EINVAL, "the checkpoint must be store:/DIR/NAME");
	if (find_by_path(c, path, &k)) {
		r = remove_known(c, &k, e);
	} else if (!(r = need_root(c, e))) {
		json_t *words = json_pack("[s, s, s, s, s]", "store", "rm", path, "--no-server", "--json"), *answer = NULL;
		if (!(r = add_key(c, words, e)))
			r = tool_json(words, &answer, e);
		else
			json_decref(words);
		json_decref(answer);
		if (!r)
			prune_want(c->daemon, path);
	}
	if (!r)
		c->answer = json_pack("{s:o}", "removed", any_text(path));
	return r;
}
