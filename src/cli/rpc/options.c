/*
 * The options of a request. A field is the option of the same name, with its value as text, unless the table below says otherwise; protobuf-c's
 * description of the message tells which fields there are, so one that is added to rpc.proto needs nothing here.
 */
#include "cli/rpc/rpc.h"

#include <sched.h>
#include <stdarg.h>

/* A field that is no option of the same name. */
struct translation {
	const char *field, *option; /* NULL: it is none at all */
	/* For what has no text of its own: a value, to be freed, or NULL without one. */
	char *(*text)(const void *value);
	const char *refused; /* instead of an option: given, the request is refused with this */
};

static char *format(const char *text, ...) _printf_(1, 2);
static char *format(const char *text, ...)
{
	char *made = NULL;
	va_list list;

	va_start(list, text);
	if (vasprintf(&made, text, list) < 0)
		made = NULL;
	va_end(list);
	return made;
}

static char *veth_text(const void *value)
{
	const CriuVethPair *v = *(CriuVethPair *const *)value;

	return format("%s=%s", v->if_in, v->if_out);
}

static char *mount_text(const void *value)
{
	const ExtMountMap *m = *(ExtMountMap *const *)value;

	return format("%s:%s", m->key, m->val);
}

static char *cgroup_text(const void *value)
{
	const CgroupRoot *c = *(CgroupRoot *const *)value;

	return c->ctrl ? format("%s:%s", c->ctrl, c->path) : format("%s", c->path);
}

static char *inherit_text(const void *value)
{
	const InheritFd *i = *(InheritFd *const *)value;

	return format("fd[%d]:%s", i->fd, i->key);
}

static char *unix_text(const void *value)
{
	const UnixSk *u = *(UnixSk *const *)value;

	return format("unix[%u]", u->inode);
}

static char *join_text(const void *value)
{
	const JoinNamespace *j = *(JoinNamespace *const *)value;

	return j->extra_opt ? format("%s:%s,%s", j->ns, j->ns_file, j->extra_opt) : format("%s:%s", j->ns, j->ns_file);
}

static char *mode_text(const void *value)
{
	static const char *const words[] = { "ignore", "none", "props", "soft", "full", "strict", "soft" };
	const CriuCgMode mode = *(const CriuCgMode *)value;

	return format("%s", (unsigned)mode < ARRAY_SIZE(words) ? words[mode] : "unknown");
}

/* Both hold back the same packets; the command line would warn. */
static char *lock_text(const void *value)
{
	return format("%s", *(const CriuNetworkLockMethod *)value == CRIU_NETWORK_LOCK_METHOD__SKIP ? "skip" : "nftables");
}

static char *pre_dump_text(const void *value)
{
	return format("%s", *(const CriuPreDumpMode *)value == CRIU_PRE_DUMP_MODE__VM_READ ? "read" : "splice");
}

static char *empty_text(const void *value)
{
	const uint32_t mask = *(const uint32_t *)value;

	return mask == CLONE_NEWNET ? format("net") : format("0x%x", mask);
}

/* A mask: none, registers, and what is more. */
static char *capabilities_text(const void *value)
{
	const uint32_t mask = *(const uint32_t *)value;

	return format("%s", mask > 1 ? "all" : mask ? "fpu" : "none");
}

static char *auto_text(const void *value)
{
	return format("auto");
}

#define NO_OPTION(f) { .field = f }
#define RENAMED(f, o) { .field = f, .option = o }
#define WRITTEN(f, o, t) { .field = f, .option = o, .text = t }
#define REFUSED(f, why) { .field = f, .refused = why }

static const struct translation translations[] = {
	NO_OPTION("images_dir_fd"),
	NO_OPTION("images_dir"),
	NO_OPTION("work_dir_fd"),
	NO_OPTION("pid"),
	NO_OPTION("notify_scripts"),
	NO_OPTION("config_file"),
	NO_OPTION("log_to_stderr"),
	NO_OPTION("display_stats"),
	NO_OPTION("orphan_pts_master"), /* permits what needs no permission here */
	NO_OPTION("pidfd_store_sk"),	/* pids that were used again are known by their start times */
	RENAMED("log_level", "verbosity"),
	RENAMED("parent_img", "prev-images-dir"),
	RENAMED("rst_sibling", "restore-sibling"),
	RENAMED("tcp_skip_in_flight", "skip-in-flight"),
	RENAMED("ext_sharing", "enable-external-sharing"),
	RENAMED("ext_masters", "enable-external-masters"),
	RENAMED("irmap_scan_paths", "irmap-scan-path"),
	WRITTEN("veths", "veth-pair", veth_text),
	WRITTEN("ext_mnt", "ext-mount-map", mount_text),
	WRITTEN("auto_ext_mnt", "ext-mount-map", auto_text),
	WRITTEN("cg_root", "cgroup-root", cgroup_text),
	WRITTEN("inherit_fd", "inherit-fd", inherit_text),
	WRITTEN("unix_sk_ino", "external", unix_text),
	WRITTEN("join_ns", "join-ns", join_text),
	WRITTEN("manage_cgroups_mode", "manage-cgroups", mode_text),
	WRITTEN("network_lock", "network-lock", lock_text),
	WRITTEN("pre_dump_mode", "pre-dump-mode", pre_dump_text),
	WRITTEN("empty_ns", "empty-ns", empty_text),
	WRITTEN("cpu_cap", "cpu-cap", capabilities_text),
	REFUSED("ps", "pages to and from another machine (ps)"),
	REFUSED("exec_cmd", "a command to become (exec_cmd)"),
};

static const struct translation *find(const char *field)
{
	for (size_t i = 0; i < ARRAY_SIZE(translations); i++)
		if (!strcmp(translations[i].field, field))
			return &translations[i];
	return NULL;
}

/* Of a single value; NULL for one that is just on. */
static char *plain_text(const ProtobufCFieldDescriptor *f, const void *value)
{
	switch (f->type) {
	case PROTOBUF_C_TYPE_INT32:
		return format("%d", *(const int32_t *)value);
	case PROTOBUF_C_TYPE_UINT32:
		return format("%u", *(const uint32_t *)value);
	case PROTOBUF_C_TYPE_STRING:
		return format("%s", *(char *const *)value);
	default:
		return NULL;
	}
}

/* The option's name, in `texts`. */
static const char *name_of(const ProtobufCFieldDescriptor *f, const struct translation *t, struct option_list *texts)
{
	const char **slot = VEC_PUSH(texts);
	char *name = slot ? strdup(t ? t->option : f->name) : NULL;

	if (!name)
		return NULL;
	for (char *at = name; *at; at++)
		if (*at == '_')
			*at = '-';
	return *slot = name;
}

static int add(const ProtobufCFieldDescriptor *f, const void *value, struct given_options *given, struct option_list *texts, struct error *e)
{
	const struct translation *t = find(f->name);
	const char **slot;

	if (t && t->refused)
		return error_set(e, -ENOTSUP, "the request asks for what is not there yet: %s", t->refused);
	if (t && !t->option)
		return 0;
	const char *name = name_of(f, t, texts);
	char *text = t && t->text ? t->text(value) : plain_text(f, value);
	if (!name || (!text && f->type != PROTOBUF_C_TYPE_BOOL) || !(slot = VEC_PUSH(texts))) {
		free(text);
		return error_set(e, -ENOMEM, "out of memory");
	}
	*slot = text;
	return options_parse_line(&program_criu, name, text, "the request", given, e);
}

static const void *element(const ProtobufCFieldDescriptor *f, const void *list, size_t i)
{
	/* Messages and strings are pointers; nothing else is repeated in this message. */
	return (const char *)list + i * sizeof(void *);
}

static bool is_set(const ProtobufCFieldDescriptor *f, const char *base)
{
	const void *value = base + f->offset;

	if (f->type == PROTOBUF_C_TYPE_STRING || f->type == PROTOBUF_C_TYPE_MESSAGE)
		return *(void *const *)value && *(void *const *)value != f->default_value;
	if (!*(const protobuf_c_boolean *)(base + f->quantifier_offset))
		return false;
	return f->type != PROTOBUF_C_TYPE_BOOL || *(const protobuf_c_boolean *)value;
}

/* The manager's mode alone says what is managed where it is there, so the switch would say it twice. */
static bool is_said_by_another(const CriuOpts *opts, const ProtobufCFieldDescriptor *f)
{
	return opts->has_manage_cgroups_mode && !strcmp(f->name, "manage_cgroups");
}

int rpc_options(const CriuOpts *opts, struct given_options *given, struct option_list *texts, struct error *e)
{
	const ProtobufCMessageDescriptor *m = opts->base.descriptor;
	const char *base = (const char *)opts;
	int r = 0;

	for (unsigned i = 0; !r && i < m->n_fields; i++) {
		const ProtobufCFieldDescriptor *f = &m->fields[i];
		if (f->label == PROTOBUF_C_LABEL_REPEATED) {
			const size_t n = *(const size_t *)(base + f->quantifier_offset);
			for (size_t j = 0; !r && j < n; j++)
				r = add(f, element(f, *(void *const *)(base + f->offset), j), given, texts, e);
		} else if (is_set(f, base) && !is_said_by_another(opts, f)) {
			r = add(f, base + f->offset, given, texts, e);
		}
	}
	return r;
}
