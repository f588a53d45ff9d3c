/* From what was given to what a verb can begin with. See cli.h. */
#include "base/log.h"
#include "cli/cli.h"

#include <fcntl.h>
#include <limits.h>

#define LABEL_MAX 4096
#define CRIU_GHOST_LIMIT (1UL << 20) /* as that program's manual page has it */

void cli_init(struct command_line *c, const struct program *p)
{
	*c = (struct command_line){ .program = p, .verbosity = LOG_LEVEL_WARNING, .live = true, .log_fd = -1,
				    .request.ghost_limit = p == &program_criu ? CRIU_GHOST_LIMIT : 0 };
}

void cli_free(struct command_line *c)
{
	VEC_FREE(&c->scripts);
	VEC_FREE(&c->features);
	VEC_FREE(&c->external);
	VEC_FREE(&c->inherit);
	VEC_FREE(&c->veth_pairs);
	VEC_FREE(&c->joins);
	VEC_FREE(&c->cgroup_roots);
	VEC_FREE(&c->mount_map);
	VEC_FREE(&c->enable_fs);
	VEC_FREE(&c->skip_mounts);
	VEC_FREE(&c->gpu_map);
	external_free(&c->externals);
}

const char *cli_in_work_dir(const struct command_line *c, const char *path, char buffer[PATH_MAX])
{
	const char *dir = c->work_dir ? c->work_dir : c->request.images_dir;

	if (path[0] == '/' || !dir)
		return path;
	snprintf(buffer, PATH_MAX, "%s/%s", dir, path);
	return buffer;
}

static int choose_log(struct command_line *c, struct error *e)
{
	static const char *const levels[] = { "disabled", "error", "warning", "info", "debug" };
	size_t i = 0;

	if (c->log_format && strcmp(c->log_format, "text") && strcmp(c->log_format, "json"))
		return error_set(e, -EINVAL, "option --log-format: %s is no format; there are text and json", c->log_format);
	log_set_json(c->log_format && !strcmp(c->log_format, "json"));
	if (!c->log_level)
		return 0;
	while (i < ARRAY_SIZE(levels) && strcmp(c->log_level, levels[i]))
		i++;
	if (i == ARRAY_SIZE(levels))
		return error_set(e, -EINVAL, "option --log-level: %s is no level; there are disabled, error, warning, info and debug", c->log_level);
	c->verbosity = (int)i;
	return 0;
}

int cli_open_log(struct command_line *c, struct error *e)
{
	char buffer[PATH_MAX];
	int r = choose_log(c, e);

	if (r)
		return r;
	if (!c->log_file || !strcmp(c->log_file, "-")) {
		log_setup(c->verbosity, c->log_file ? STDOUT_FILENO : -1);
		c->log_file = NULL;
		return 0;
	}
	const char *path = cli_in_work_dir(c, c->log_file, buffer);
	c->log_fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	if (c->log_fd < 0)
		return error_errno(e, -errno, "cannot write the log file %s", path);
	log_setup(c->verbosity, c->log_fd);
	return 0;
}

/* Before the log or anything else is opened: a descriptor that is given must be the caller's. */
static int take_externals(struct command_line *c, struct error *e)
{
	char text[64];
	int r = 0;

	c->request.ext_unix_sk = c->ext_unix_sk != NULL;
	c->request.externals = &c->externals;
	c->request.pipes_outside = c->program->configured;
	for (size_t i = 0; !r && i < c->external.count; i++)
		r = external_add(&c->externals, c->external.data[i], e);
	for (size_t i = 0; !r && i < c->inherit.count; i++)
		r = external_add_given(&c->externals, c->inherit.data[i], e);
	if (r || !c->ext_unix_sk || !*c->ext_unix_sk)
		return r;
	snprintf(text, sizeof(text), "unix[%.40s]", c->ext_unix_sk);
	return external_add(&c->externals, text, e);
}

/* IN=OUT: the same as --external veth[IN]:OUT. */
static int add_veth(struct command_line *c, const char *pair, struct error *e)
{
	const char *equals = strchr(pair, '=');
	char text[128];

	if (!equals || equals == pair || !equals[1] || strlen(pair) > sizeof(text) / 2)
		return error_set(e, -EINVAL, "--veth-pair %s: write IN=OUT, or IN=OUT@BRIDGE", pair);
	snprintf(text, sizeof(text), "veth[%.*s]:%s", (int)(equals - pair), pair, equals + 1);
	return external_add(&c->externals, text, e);
}

static int set_cgroups(struct command_line *c, struct error *e)
{
	static const struct {
		const char *word;
		enum request_cgroups mode;
	} modes[] = { { "", CGROUPS_SOFT },	  { "soft", CGROUPS_SOFT }, { "full", CGROUPS_FULL }, { "strict", CGROUPS_STRICT },
		      { "props", CGROUPS_PROPS }, { "none", CGROUPS_NONE }, { "ignore", CGROUPS_NOT } };
	size_t i = 0;

	c->request.cgroup_roots = c->cgroup_roots.data;
	c->request.n_cgroup_roots = c->cgroup_roots.count;
	if (!c->manage_cgroups)
		return 0;
	while (i < ARRAY_SIZE(modes) && strcmp(modes[i].word, c->manage_cgroups))
		i++;
	if (i == ARRAY_SIZE(modes))
		return error_set(e, -EINVAL, "--manage-cgroups is soft, full, strict, props, none or ignore, not %s", c->manage_cgroups);
	c->request.cgroups = modes[i].mode;
	return 0;
}

/* KEY:VALUE, or "auto", which needs no word. */
static int add_mount(struct command_line *c, const char *pair, struct error *e)
{
	const char *colon = strchr(pair, ':');
	_cleanup_free_ char *text = NULL;

	if (!strcmp(pair, "auto"))
		return 0;
	if (!colon || colon == pair || !colon[1])
		return error_set(e, -EINVAL, "--ext-mount-map %s: write KEY:VALUE", pair);
	if (asprintf(&text, "mnt[%.*s]:%s", (int)(colon - pair), pair, colon + 1) < 0)
		return error_set(e, -ENOMEM, "out of memory");
	return external_add(&c->externals, text, e);
}

static int set_namespaces(struct command_line *c, struct error *e)
{
	int r = 0;

	for (size_t i = 0; !r && i < c->veth_pairs.count; i++)
		r = add_veth(c, c->veth_pairs.data[i], e);
	for (size_t i = 0; !r && i < c->mount_map.count; i++)
		r = add_mount(c, c->mount_map.data[i], e);
	c->request.skip_mounts = c->skip_mounts.data;
	c->request.n_skip_mounts = c->skip_mounts.count;
	c->request.enable_fs = c->enable_fs.data;
	c->request.n_enable_fs = c->enable_fs.count;
	c->request.joins = c->joins.data;
	c->request.n_joins = c->joins.count;
	c->request.empty_net = c->empty_ns != NULL;
	return r;
}

static int set_network_lock(struct command_line *c, struct error *e)
{
	const char *method = c->network_lock;

	if (method && !strcmp(method, "iptables"))
		fprintf(stderr, "Warning: --network-lock iptables: nftables is used, which holds back the same packets\n");
	else if (method && strcmp(method, "nftables") && strcmp(method, "skip"))
		return error_set(e, -EINVAL, "--network-lock is nftables or skip, not %s", method);
	c->request.network_lock = method && !strcmp(method, "skip") ? NETWORK_LOCK_SKIP : NETWORK_LOCK_NFTABLES;
	return 0;
}

/* A list of words, as criu has it; each may be taken back by a ^ in front of it. */
static int set_processor(struct command_line *c, struct error *e)
{
	static const char *const words[] = { "all", "cpu", "ins", "fpu", "none" };
	bool instructions = !c->cpu_cap || !*c->cpu_cap;

	for (const char *at = c->cpu_cap ? c->cpu_cap : "", *next; *at; at = next) {
		const bool without = *at == '^';
		const size_t length = strcspn(at += without, ",");
		size_t i = 0;
		while (i < ARRAY_SIZE(words) && (strlen(words[i]) != length || strncmp(words[i], at, length)))
			i++;
		if (i == ARRAY_SIZE(words))
			return error_set(e, -EINVAL, "option --cpu-cap: there is no %.*s; choose of: all, cpu, ins, fpu, none", (int)length, at);
		if (i < 3)
			instructions = !without;
		next = at + length + (at[length] == ',');
	}
	c->request.any_processor = !instructions;
	return 0;
}

/* The tree has the label that restore runs under. Where there is none to have, whatever is asked for is no loss. */
static int check_label(const struct command_line *c, struct error *e)
{
	_cleanup_free_ char *label = NULL;
	const char *asked = c->lsm_profile;

	if (!asked)
		return 0;
	if ((strncmp(asked, "apparmor:", 9) && strncmp(asked, "selinux:", 8)) || !strchr(asked, ':')[1])
		return error_set(e, -EINVAL, "--lsm-profile is apparmor:NAME or selinux:LABEL, not %s", asked);
	if (read_file_at(AT_FDCWD, "/proc/self/attr/current", LABEL_MAX, &label, NULL) == 0)
		return error_set(e, -ENOTSUP, "option --lsm-profile is not there yet: the tree gets the label that restore runs under; run it under %s with %s",
				 strchr(asked, ':') + 1, asked[0] == 'a' ? "aa-exec -p" : "runcon");
	log_warning("--lsm-profile %s does nothing: this kernel has no security module with labels", asked);
	return 0;
}

int cli_prepare(struct command_line *c, struct error *e)
{
	int r = take_externals(c, e);

	if (!r)
		r = set_namespaces(c, e);
	if (!r)
		r = set_cgroups(c, e);
	if (!r)
		r = set_network_lock(c, e);
	if (!r)
		r = set_processor(c, e);
	if (!r && c->verb->missing)
		return error_set(e, -ENOTSUP, "%s %s is not there yet: it needs %s", c->program->name, c->verb->name, c->verb->missing);
	if (!r)
		r = cli_open_log(c, e);
	return r ? r : check_label(c, e);
}
