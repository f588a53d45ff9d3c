/* What each request does. See rpc.h. */
#include "cli/rpc/rpc.h"

#include "base/log.h"
#include "engine/probe/probe.h"

#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>

#define LOG_FILE "criu.log" /* where the request names none */

struct session {
	int sk, log_fd;
	bool inherits;
	pid_t caller;
};

/* A request about a tree: its options, and what their values stand in. */
struct asked {
	struct session *session;
	struct command_line c;
	struct given_options given;
	struct option_list texts;
	char images[PATH_MAX], work[PATH_MAX];
	bool notifies;
};

/* ---- what is asked ---- */

/* The path of a directory that the caller has open; where it has none here, by the caller's descriptor, which stays open while it waits for us. */
static int directory_of(pid_t caller, int fd, char path[PATH_MAX])
{
	char link[64], real[PATH_MAX];
	struct stat there, here;

	snprintf(link, sizeof(link), "/proc/%d/fd/%d", caller, fd);
	if (stat(link, &there))
		return errno == ENOENT ? -EBADF : -errno;
	if (!S_ISDIR(there.st_mode))
		return -ENOTDIR;
	const bool named = realpath(link, real) && !stat(real, &here) && here.st_dev == there.st_dev && here.st_ino == there.st_ino;
	snprintf(path, PATH_MAX, "%s", named ? real : link);
	return 0;
}

static int find_directories(struct asked *a, const CriuOpts *o, struct error *e)
{
	int r;

	if (o->images_dir_fd >= 0) {
		r = directory_of(a->session->caller, o->images_dir_fd, a->images);
		if (r)
			return error_errno(e, r, "images_dir_fd: descriptor %d of process %d", o->images_dir_fd, a->session->caller);
	} else if (o->images_dir) {
		snprintf(a->images, sizeof(a->images), "%s", o->images_dir);
	} else {
		return error_set(e, -EINVAL, "the request needs images_dir_fd, a descriptor of the directory of images");
	}
	a->c.request.images_dir = a->images;
	if (o->work_dir_fd < 0)
		return 0;
	r = directory_of(a->session->caller, o->work_dir_fd, a->work);
	if (r)
		return error_errno(e, r, "work_dir_fd: descriptor %d of process %d", o->work_dir_fd, a->session->caller);
	a->c.work_dir = a->work;
	return 0;
}

/* The log of this request takes the place of the last one's. */
static void keep_log(struct asked *a)
{
	struct session *s = a->session;

	if (s->log_fd >= 0 && s->log_fd != a->c.log_fd)
		close(s->log_fd);
	s->log_fd = a->c.log_fd;
}

/* Before the options are looked at: callers show their users where the log is, whatever is wrong. */
static int open_log(struct asked *a, const CriuOpts *o, struct error *e)
{
	struct command_line *c = &a->c;

	c->log_file = o->log_file && strcmp(o->log_file, "-") ? o->log_file : LOG_FILE;
	c->verbosity = o->log_level;
	if (strchr(c->log_file, '/'))
		return error_set(e, -EINVAL, "log_file: %s is to be a name in the work directory", c->log_file);
	int r = cli_open_log(c, e);
	if (!r)
		keep_log(a);
	return r;
}

/* criu's order: the files that are always read, the request, the file that it names. */
static int read_options(struct asked *a, const CriuOpts *o, struct error *e)
{
	int r = config_read_all(a->c.program, true, NULL, &a->given, &a->texts, e);

	if (!r)
		r = rpc_options(o, &a->given, &a->texts, e);
	if (!r && o->config_file) /* runtimes name one whether it is there or not */
		r = config_read(a->c.program, o->config_file, true, &a->given, &a->texts, e);
	if (!r)
		r = options_store(a->c.program, a->c.verb, &a->given, &a->c, e);
	if (!r && strcmp(a->c.log_file, "-") == 0) /* of a configuration file */
		a->c.log_file = LOG_FILE;
	if (!r)
		r = cli_prepare(&a->c, e);
	if (!r)
		keep_log(a);
	return r;
}

static const struct verb *verb_named(const char *name)
{
	for (size_t i = 0; i < program_criu.n_verbs; i++)
		if (!strcmp(program_criu.verbs[i].name, name))
			return &program_criu.verbs[i];
	return NULL;
}

static int notify(void *data, const char *moment, pid_t pid, struct error *e)
{
	struct asked *a = data;
	CriuNotify what = CRIU_NOTIFY__INIT;
	CriuResp resp = CRIU_RESP__INIT;
	CriuReq *answer = NULL;
	int r = script_call(&a->c, moment, pid, e);

	if (r || !a->notifies)
		return r;
	what.script = (char *)moment;
	what.has_pid = pid > 0;
	what.pid = pid;
	resp.type = CRIU_REQ_TYPE__NOTIFY;
	resp.success = true;
	resp.notify = &what;
	r = rpc_send(a->session->sk, &resp);
	if (!r)
		r = rpc_receive(a->session->sk, &answer);
	if (r)
		return error_errno(e, r, "the caller was told of %s and does not answer", moment);
	if (answer->type != CRIU_REQ_TYPE__NOTIFY || !answer->notify_success)
		r = error_set(e, -ECANCELED, "the caller failed at %s", moment);
	criu_req__free_unpacked(answer, NULL);
	return r;
}

/* EBADRQC is what callers know a request by that can't be carried out as it is. */
static int refuse(struct error *e, int r)
{
	e->code = -EBADRQC;
	return r ? -EBADRQC : 0;
}

static int prepare(struct asked *a, const CriuOpts *o, const char *verb, struct error *e)
{
	struct command_line *c = &a->c;
	int r;

	cli_init(c, &program_criu);
	c->verb = verb_named(verb);
	if (!o)
		r = error_set(e, -EBADRQC, "the request has no options (opts)");
	else if (o->n_inherit_fd && !a->session->inherits)
		r = error_set(e, -EBADRQC, "inherit_fd: a service has no descriptors of its caller's; use criu swrk");
	else if (o->rst_sibling && !a->session->inherits)
		r = error_set(e, -EBADRQC, "rst_sibling: a service is no child of its caller; use criu swrk");
	else
		r = find_directories(a, o, e);
	if (!r)
		r = open_log(a, o, e);
	if (!r)
		r = read_options(a, o, e);
	if (r)
		return refuse(e, r);
	a->notifies = o->notify_scripts;
	if (a->notifies || c->scripts.count)
		c->request.hook = (struct request_hook){ notify, a };
	c->request.detach = true;
	c->request.parent_from_images = true;
	c->display_stats = false;
	return 0;
}

static void finish(struct asked *a)
{
	cli_free(&a->c);
	for (size_t i = 0; i < a->texts.count; i++)
		free((char *)a->texts.data[i]);
	VEC_FREE(&a->texts);
	VEC_FREE(&a->given);
}

/* ---- what is done ---- */

static int do_dump(struct asked *a, const CriuReq *req, CriuResp *resp, struct error *e)
{
	struct request *r = &a->c.request;

	if (!req->opts->has_pid || req->opts->pid <= 0)
		return error_set(e, -EBADRQC, "the request needs pid: a process that asks to be saved itself can't be, for the connection that it asks by");
	r->pid = req->opts->pid;
	if (req->type != CRIU_REQ_TYPE__DUMP)
		r->pre_dump = r->leave_running = r->track = true;
	return cli_dump_tree(&a->c, e);
}

static int do_restore(struct asked *a, const CriuReq *req, CriuResp *resp, struct error *e)
{
	static CriuRestoreResp restored = CRIU_RESTORE_RESP__INIT;
	int r = cli_restore_tree(&a->c, &restored.pid, e);

	resp->restore = r ? NULL : &restored;
	return r;
}

static int do_cpuinfo(struct asked *a, const CriuReq *req, CriuResp *resp, struct error *e)
{
	const char *dir = a->c.request.images_dir;

	return req->type == CRIU_REQ_TYPE__CPUINFO_DUMP ? cpuinfo_dump(dir, e) : cpuinfo_check(dir, e);
}

static int with_tree(struct session *s, const CriuReq *req, CriuResp *resp, const char *verb,
		     int (*run)(struct asked *a, const CriuReq *req, CriuResp *resp, struct error *e), struct error *e)
{
	struct asked *a = calloc(1, sizeof(*a));
	int r;

	if (!a)
		return error_set(e, -ENOMEM, "out of memory");
	a->session = s;
	r = prepare(a, req->opts, verb, e);
	if (!r)
		r = run(a, req, resp, e);
	if (r)
		log_error("%s", e->text);
	finish(a);
	free(a);
	return r;
}

static bool works(const char *probe)
{
	const struct probe *p = probe_find(probe);
	struct error e = {};

	return p && !probe_run(p, "/tmp", &e);
}

static int do_check(struct error *e)
{
	for (size_t i = 0; i < probes_count; i++) {
		int r = probes[i].required ? probe_run(&probes[i], "/tmp", e) : 0;
		if (r)
			return error_prefix(e, r, "%s (%s)", probes[i].name, probes[i].purpose);
	}
	return 0;
}

static int do_feature_check(const CriuReq *req, CriuResp *resp, struct error *e)
{
	static CriuFeatures found = CRIU_FEATURES__INIT;
	const CriuFeatures *f = req->features;

	if (!f)
		return error_set(e, -EBADRQC, "the request names no features");
	found.has_mem_track = f->has_mem_track && f->mem_track;
	found.mem_track = found.has_mem_track && works("mem_dirty_track");
	found.has_lazy_pages = f->has_lazy_pages && f->lazy_pages;
	found.lazy_pages = found.has_lazy_pages && works("uffd-noncoop");
	found.has_pidfd_store = f->has_pidfd_store && f->pidfd_store;
	found.pidfd_store = found.has_pidfd_store && works("pidfd_getfd");
	resp->features = &found;
	return 0;
}

static void tell_version(CriuResp *resp)
{
	static CriuVersion version = CRIU_VERSION__INIT;

	version.major_number = CRIU_VERSION_MAJOR;
	version.minor_number = CRIU_VERSION_MINOR;
	resp->version = &version;
}

static int do_wait(const CriuReq *req, CriuResp *resp, struct error *e)
{
	int status;

	if (!req->has_pid || waitpid((pid_t)req->pid, &status, 0) < 0)
		return error_errno(e, req->has_pid ? -errno : -EBADRQC, "cannot wait for process %u", req->pid);
	resp->has_status = true;
	resp->status = status;
	return 0;
}

/* *ret_more: another request may follow on this connection. */
static int handle(struct session *s, const CriuReq *req, CriuResp *resp, bool *ret_more, struct error *e)
{
	*ret_more = req->keep_open;
	switch (req->type) {
	case CRIU_REQ_TYPE__DUMP:
		*ret_more = false;
		return with_tree(s, req, resp, "dump", do_dump, e);
	case CRIU_REQ_TYPE__PRE_DUMP:
		*ret_more = true;
		return with_tree(s, req, resp, "pre-dump", do_dump, e);
	case CRIU_REQ_TYPE__SINGLE_PRE_DUMP:
		*ret_more = false;
		return with_tree(s, req, resp, "pre-dump", do_dump, e);
	case CRIU_REQ_TYPE__RESTORE:
		*ret_more = false;
		return with_tree(s, req, resp, "restore", do_restore, e);
	case CRIU_REQ_TYPE__CHECK:
		return do_check(e);
	case CRIU_REQ_TYPE__FEATURE_CHECK:
		return do_feature_check(req, resp, e);
	case CRIU_REQ_TYPE__VERSION:
		tell_version(resp);
		return 0;
	case CRIU_REQ_TYPE__WAIT_PID:
		return do_wait(req, resp, e);
	case CRIU_REQ_TYPE__PAGE_SERVER:
	case CRIU_REQ_TYPE__PAGE_SERVER_CHLD:
		return error_set(e, -ENOTSUP, "a page server is not there yet");
	case CRIU_REQ_TYPE__CPUINFO_DUMP:
	case CRIU_REQ_TYPE__CPUINFO_CHECK:
		return with_tree(s, req, resp, "cpuinfo", do_cpuinfo, e);
	default:
		*ret_more = false;
		return error_set(e, -EBADRQC, "there is no request of type %d", req->type);
	}
}

static int answer(struct session *s, const CriuReq *req, bool *ret_more)
{
	CriuDumpResp dumped = CRIU_DUMP_RESP__INIT;
	CriuResp resp = CRIU_RESP__INIT;
	struct error e = {};
	int r = handle(s, req, &resp, ret_more, &e), sent;

	/* As criu has it: what it does not know is answered without a type. */
	resp.type = protobuf_c_enum_descriptor_get_value(&criu_req_type__descriptor, req->type) ? req->type : CRIU_REQ_TYPE__EMPTY;
	resp.success = !r;
	if (r) {
		resp.has_cr_errno = true;
		resp.cr_errno = -r;
		resp.cr_errmsg = e.text;
	} else if (req->type == CRIU_REQ_TYPE__DUMP) {
		dumped.has_restored = true; /* said to the caller, who was not saved */
		resp.dump = &dumped;
	}
	sent = rpc_send(s->sk, &resp);
	return r ? r : sent;
}

int rpc_serve(int sk, bool inherits)
{
	struct session s = { .sk = sk, .log_fd = -1, .inherits = inherits };
	struct ucred caller;
	socklen_t size = sizeof(caller);
	bool more = true;
	int r = getsockopt(sk, SOL_SOCKET, SO_PEERCRED, &caller, &size) ? -errno : 0, status = r ? 1 : 0;

	s.caller = r ? 0 : caller.pid;
	while (!r && more) {
		CriuReq *req = NULL;
		more = false;
		r = rpc_receive(sk, &req);
		if (r)
			break;
		status = answer(&s, req, &more) ? 1 : 0;
		criu_req__free_unpacked(req, NULL);
	}
	/* The caller may just go away when it has what it wanted. */
	return r && r != -ENODATA ? 1 : status;
}
