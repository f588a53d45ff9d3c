/* query process: what /proc says of processes, as a table; with --tree those below them too, with --inspect descriptors and memory. */
#include "cli/remote.h"

#include "daemon/identity.h"
#include "proc/freezer.h"
#include "proc/proc.h"

#include <fcntl.h>
#include <limits.h>

static json_t *describe(pid_t pid, bool inspect, struct error *e)
{
	struct proc_stat stat;
	struct proc_status status;
	char path[64], *text = NULL;
	size_t size = 0;
	int r = proc_read_stat(pid, &stat);

	if (!r)
		r = proc_read_status(pid, &status);
	if (r) {
		error_set(e, -ESRCH, "there is no process %d", pid);
		return NULL;
	}
	snprintf(path, sizeof(path), "/proc/%d/cmdline", pid);
	if (read_file_at(AT_FDCWD, path, 1 << 20, &text, &size) == 0)
		for (size_t i = 0; i + 1 < size; i++)
			text[i] = text[i] >= ' ' && text[i] < 0x7f ? text[i] : ' ';
	json_t *one = json_pack("{s:i, s:i, s:s, s:I, s:I, s:s}", "pid", (int)pid, "parent", (int)stat.ppid, "status", freezer_holds(pid) ? "frozen" : proc_state_word(stat.state), "uid",
				(json_int_t)status.uid[1], "gid", (json_int_t)status.gid[1], "command", size ? text : stat.comm);
	free(text);
	if (one && inspect) {
		struct proc_fds fds = {};
		struct proc_maps maps = {};
		uint64_t mapped = 0;
		proc_list_fds(pid, &fds);
		if (proc_read_maps(pid, &maps) == 0)
			for (size_t i = 0; i < maps.count; i++)
				mapped += maps.data[i].end - maps.data[i].start;
		json_object_set_new(one, "threads", json_integer((json_int_t)stat.num_threads));
		json_object_set_new(one, "session", json_integer(stat.session));
		json_object_set_new(one, "descriptors", json_integer((json_int_t)fds.count));
		json_object_set_new(one, "areas", json_integer((json_int_t)maps.count));
		json_object_set_new(one, "mapped_bytes", json_integer((json_int_t)mapped));
		proc_maps_finish(&maps);
		free(fds.data);
	}
	return one;
}

static int add_process(json_t *list, const struct command_line *c, pid_t pid, struct error *e)
{
	struct tree t = {};
	int r = c->tree ? tree_list(pid, &t) : 0;

	for (size_t i = 0; !r && i < (c->tree ? t.count : 1); i++) {
		json_t *one = describe(c->tree ? t.data[i] : pid, c->all, e);
		if (one)
			json_array_append_new(list, one);
		else if (!i)
			r = e->code;
	}
	VEC_FREE(&t);
	return r;
}

int verb_query(struct command_line *c)
{
	static const char *const heads[] = { "PID", "STATUS", "UID", "GID", "COMMAND" };
	static const char *const more[] = { "PID", "STATUS", "UID", "GID", "THREADS", "DESCRIPTORS", "AREAS", "COMMAND" };
	static const char *const keys[] = { "pid", "status", "uid", "gid", "threads", "descriptors", "areas", "command" };
	json_t *list = json_array();
	struct error e = {};
	int r = 0;

	for (size_t i = 0; !r && c->words[i]; i++) {
		pid_t pid;
		r = cli_parse_pid(c->words[i], &pid, &e);
		if (!r)
			r = add_process(list, c, pid, &e);
	}
	if (!r && c->json)
		return remote_print(list);
	struct table *t = r ? NULL : c->all ? table_new(more, ARRAY_SIZE(more)) : table_new(heads, ARRAY_SIZE(heads));
	for (size_t i = 0; !r && i < json_array_size(list); i++)
		for (size_t k = 0; k < ARRAY_SIZE(keys); k++) {
			const json_t *value = json_object_get(json_array_get(list, i), keys[k]);
			if (value && json_is_integer(value))
				table_put(t, "%lld", (long long)json_integer_value(value));
			else if (value)
				table_put(t, "%s", json_string_value(value));
		}
	if (t)
		table_print(t);
	json_decref(list);
	return r ? cli_report(c, &e) : 0;
}
