/* libfermata: the public API, include/fermata/fermata.h, over engine/engine.h. Nothing but translation. */
#include "fermata/fermata.h"

#include "base/log.h"
#include "engine/engine.h"
#include "engine/kinds/external.h"

#include <limits.h>

#define FLAGS_KNOWN ((FERMATA_GPU_STAGED << 1) - 1)

_Static_assert(sizeof(((struct fermata_error *)0)->text) == sizeof(((struct error *)0)->text), "a text must fit");

struct call {
	struct fermata_options options;
	struct request request;
	struct external_list externals;
	VEC(struct request_gpu_pair) gpu_map;
	struct error e;
};

__attribute__((constructor)) static void begin_quiet(void)
{
	log_setup(LOG_LEVEL_QUIET, -1);
}

const char *fermata_version(void)
{
	return FERMATA_VERSION;
}

void fermata_log(int level, int fd)
{
	log_setup(level, fd);
}

static int call_hook(void *data, const char *moment, pid_t pid, struct error *e)
{
	const struct call *c = data;
	int r = c->options.hook(c->options.hook_data, moment, pid);

	return r < 0 ? error_errno(e, r, "the caller's hook ended it at %s", moment) : 0;
}

static void tell(void *data, const struct request_progress *p)
{
	const struct call *c = data;
	struct fermata_progress progress = { .size = sizeof(progress), .stage = p->stage, .seconds = (double)p->elapsed_ns / 1e9, .done = p->done,
					     .total = p->total };

	c->options.progress(c->options.progress_data, &progress);
}

static int take_externals(struct call *c)
{
	int r = 0;

	c->request.externals = &c->externals;
	for (const char *const *x = c->options.external; !r && x && *x; x++)
		r = external_add(&c->externals, *x, &c->e);
	for (const char *const *x = c->options.inherit; !r && x && *x; x++)
		r = external_add_given(&c->externals, *x, &c->e);
	return r;
}

static int take_gpu(struct call *c)
{
	static const char *const words[] = { [GPU_AUTO] = "auto", [GPU_ALWAYS] = "on", [GPU_NEVER] = "off" };
	const char *word = c->options.gpu ? c->options.gpu : words[GPU_AUTO];
	size_t use = 0;

	while (use < ARRAY_SIZE(words) && strcmp(words[use], word))
		use++;
	if (use == ARRAY_SIZE(words))
		return error_set(&c->e, -EINVAL, "gpu is auto, on or off, not %s", word);
	c->request.gpu = (enum request_gpu)use;
	c->request.gpu_timeout_ms = c->options.gpu_timeout_s > UINT32_MAX / 1000 ? UINT32_MAX : c->options.gpu_timeout_s * 1000;
	for (const char *const *x = c->options.gpu_map; x && *x; x++) {
		const char *equals = strchr(*x, '=');
		if (!equals || equals == *x || !equals[1])
			return error_set(&c->e, -EINVAL, "a GPU is mapped by OLD-UUID=NEW-UUID, not %s", *x);
		char *from = strndup(*x, (size_t)(equals - *x));
		struct request_gpu_pair *pair = from ? VEC_PUSH(&c->gpu_map) : NULL;
		if (!pair) {
			free(from);
			return error_set(&c->e, -ENOMEM, "out of memory");
		}
		*pair = (struct request_gpu_pair){ from, equals + 1 };
	}
	c->request.gpu_map = c->gpu_map.data;
	c->request.n_gpu_map = c->gpu_map.count;
	return 0;
}

/* What it leaves in `c`, also after a failure, finish() releases. */
static int begin(struct call *c, const char *dir, const struct fermata_options *options)
{
	*c = (struct call){};
	if (options && options->size < sizeof(options->size) + sizeof(options->flags))
		return error_set(&c->e, -EINVAL, "struct fermata_options lacks its size; begin with FERMATA_OPTIONS_INIT");
	if (options)
		memcpy(&c->options, options, MIN(options->size, sizeof(c->options)));
	for (size_t i = sizeof(c->options); options && i < options->size; i++)
		if (((const char *)options)[i])
			return error_set(&c->e, -EINVAL, "struct fermata_options asks for what this version (" FERMATA_VERSION ") does not know");
	const uint64_t flags = c->options.flags;
	if (flags & ~FLAGS_KNOWN)
		return error_set(&c->e, -EINVAL, "flags %#llx are not known to this version (" FERMATA_VERSION ")",
				 (unsigned long long)(flags & ~FLAGS_KNOWN));
	c->request = (struct request){
		.images_dir = dir,
		.leave_running = flags & FERMATA_LEAVE_RUNNING,
		.leave_stopped = flags & FERMATA_LEAVE_STOPPED,
		.shell_job = flags & FERMATA_SHELL_JOB,
		.file_locks = flags & FERMATA_FILE_LOCKS,
		.link_remap = flags & FERMATA_LINK_REMAP,
		.host_ipc = flags & FERMATA_HOST_IPC,
		.skip_in_flight = flags & FERMATA_SKIP_IN_FLIGHT,
		.tcp_established = flags & FERMATA_TCP_ESTABLISHED,
		.tcp_close = flags & FERMATA_TCP_CLOSE,
		.network_lock = flags & FERMATA_NETWORK_LOCK_SKIP ? NETWORK_LOCK_SKIP : NETWORK_LOCK_NFTABLES,
		.skip_verify = flags & FERMATA_SKIP_VERIFY,
		.live = flags & FERMATA_LIVE,
		.no_live = flags & FERMATA_NO_LIVE,
		.lazy = flags & FERMATA_LAZY ? LAZY_ALL : LAZY_NOT,
		.skip_file_rwx_check = flags & FERMATA_SKIP_FILE_MODES,
		.ext_unix_sk = flags & FERMATA_EXT_UNIX_SK,
		.sibling = flags & FERMATA_SIBLING,
		.gpu_force = flags & FERMATA_GPU_FORCE,
		.gpu_staged = flags & FERMATA_GPU_STAGED,
		.track = flags & FERMATA_TRACK_MEM,
		.portable = flags & FERMATA_PORTABLE,
		.parent = c->options.parent,
		.packing.key = c->options.store_key,
		.timeout_s = (int)MIN(c->options.timeout_s, (unsigned)INT_MAX),
		.ghost_limit = c->options.ghost_limit,
		.file_validation = c->options.file_validation,
	};
	int r = take_gpu(c);
	if (r)
		return r;
	c->request.packing.streams = c->options.streams;
	if (c->options.streams == 1 || c->options.streams > PACKING_STREAMS_MAX)
		return error_set(&c->e, -EINVAL, "there can be 2 to %d streams, or 0 for one file", PACKING_STREAMS_MAX);
	if (c->options.compression) {
		r = packing_parse(c->options.compression, &c->request.packing, &c->e);
		if (r)
			return r;
	}
	if (c->options.progress)
		c->request.progress = (struct request_watcher){ tell, c };
	if (c->options.hook)
		c->request.hook = (struct request_hook){ call_hook, c };
	return take_externals(c);
}

static int report(const struct error *e, int r, struct fermata_error *ret)
{
	if (!ret)
		return r;
	*ret = (struct fermata_error){ .code = r };
	if (r)
		memcpy(ret->text, e->text, sizeof(ret->text));
	return r;
}

static int finish(struct call *c, int r, struct fermata_error *ret)
{
	VEC_FOREACH(&c->gpu_map, pair)
		free((char *)pair->from);
	VEC_FREE(&c->gpu_map);
	external_free(&c->externals);
	return report(&c->e, r, ret);
}

int fermata_dump(pid_t pid, const char *dir, const struct fermata_options *options, struct fermata_error *error)
{
	struct call c;
	int r = begin(&c, dir, options);

	c.request.pid = pid;
	if (!r && (pid <= 0 || !dir))
		r = error_set(&c.e, -EINVAL, "a dump needs a process and a directory");
	if (!r)
		r = engine_dump(&c.request, &c.e);
	return finish(&c, r, error);
}

int fermata_restore(const char *dir, const struct fermata_options *options, pid_t *ret_pid, struct fermata_error *error)
{
	struct call c;
	pid_t pid = 0;
	int r = begin(&c, dir, options);

	if (!r && !dir)
		r = error_set(&c.e, -EINVAL, "a restore needs a directory");
	if (!r)
		r = engine_restore(&c.request, &pid, &c.e);
	if (!r && ret_pid)
		*ret_pid = pid;
	return finish(&c, r, error);
}

int fermata_check(pid_t pid, const struct fermata_options *options, fermata_found found, void *data, size_t *ret_count,
		  struct fermata_error *error)
{
	struct call c;
	struct obstacles obstacles = {};
	int r = begin(&c, NULL, options);

	c.request.pid = pid;
	if (!r && pid <= 0)
		r = error_set(&c.e, -EINVAL, "a check needs a process");
	if (!r)
		r = engine_check(&c.request, &obstacles, &c.e);
	for (size_t i = 0; found && i < obstacles.count; i++) {
		struct fermata_error one;
		report(&obstacles.data[i], obstacles.data[i].code, &one);
		found(data, &one);
	}
	if (ret_count)
		*ret_count = obstacles.count;
	free(obstacles.data);
	return finish(&c, r, error);
}
