/*
 * The daemon as a whole: opens what it needs, answers HTTP on its socket, ends when told. libmicrohttpd gives each connection a thread, so
 * a request that takes long holds up nobody else; headers, bodies and connections have limits, and what is beyond them is an error to that
 * client.
 *
 * Who calls is known by SO_PEERCRED. With TCP, who has a certificate of our authority is taken for root: give it to nobody else.
 */
#include "daemon/api.h"
#include "daemon/attach.h"
#include "daemon/fields.h"
#include "daemon/gpu.h"
#include "daemon/helper.h"
#include "daemon/notify.h"
#include "base/log.h"

#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <grp.h>
#include <libgen.h>
#include <linux/close_range.h>
#include <limits.h>
#include <microhttpd.h>
#include <netdb.h>
#include <signal.h>
#include <sys/eventfd.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <time.h>

#define BODY_MAX (8u << 20)
#define HEADERS_MAX (64u << 10)
#define IDLE_S 60u

/* ---- requests ---- */

struct incoming {
	char *data;
	size_t count, capacity;
	bool too_large;
};

/* libmicrohttpd asks the peer for a certificate, and leaves it to us whether it is good. */
static int require_certificate(struct MHD_Connection *connection, struct error *e)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_GNUTLS_SESSION);
	unsigned status = 0;

	if (!info || gnutls_certificate_verify_peers2(info->tls_session, &status) || status)
		return error_set(e, -EPERM, "a certificate of the daemon's authority is needed (tls.ca)");
	return 0;
}

static int find_caller(struct MHD_Connection *connection, struct caller *ret, struct error *e)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct ucred who;
	socklen_t size = sizeof(who);
	struct sockaddr_storage address;
	socklen_t address_size = sizeof(address);

	*ret = (struct caller){};
	if (!info || getsockname(info->connect_fd, (struct sockaddr *)&address, &address_size) < 0)
		return error_set(e, -EPERM, "the connection tells nothing of who calls");
	if (address.ss_family != AF_UNIX)
		return require_certificate(connection, e);
	if (getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &who, &size) < 0)
		return error_errno(e, -errno, "the connection does not tell who calls");
	ret->uid = who.uid;
	ret->gid = who.gid;
	size = sizeof(ret->groups);
	if (getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERGROUPS, ret->groups, &size) == 0)
		ret->n_groups = size / sizeof(ret->groups[0]);
	return 0;
}

static enum MHD_Result send_json(struct MHD_Connection *connection, unsigned status, json_t *document)
{
	char *text = json_dumps(document, JSON_COMPACT);
	struct MHD_Response *response = MHD_create_response_from_buffer(text ? strlen(text) : 0, text, MHD_RESPMEM_MUST_FREE);

	json_decref(document);
	MHD_add_response_header(response, "Content-Type", "application/json");
	enum MHD_Result r = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return r;
}

static enum MHD_Result send_error(struct daemon *d, struct MHD_Connection *connection, unsigned status, const struct error *e)
{
	json_t *document = json_pack("{s:s, s:i}", "error", e->text, "code", e->code);

	d->counters.refused++;
	/* A path in it may be no UTF-8. */
	if (!document)
		document = json_pack("{s:s, s:i}", "error", strerror(-e->code), "code", e->code);
	return send_json(connection, status, document);
}

/* Events, each as soon as it is there: this waits, in the connection's own thread. */
struct listener {
	struct events *events;
	struct events_reader reader;
	char *line;
	size_t sent;
};

static ssize_t read_events(void *data, uint64_t position, char *to, size_t size)
{
	struct listener *l = data;

	if (!l->line) {
		l->line = events_next(l->events, &l->reader);
		l->sent = 0;
	}
	if (!l->line)
		return MHD_CONTENT_READER_END_OF_STREAM;
	size_t n = MIN(size, strlen(l->line + l->sent));
	memcpy(to, l->line + l->sent, n);
	l->sent += n;
	if (!l->line[l->sent]) {
		free(l->line);
		l->line = NULL;
	}
	return (ssize_t)n;
}

static void free_events(void *data)
{
	struct listener *l = data;

	free(l->line);
	events_release(l->events);
	free(l);
}

struct joining {
	struct daemon *daemon;
	int supervisor;
};

static void upgraded(void *data, struct MHD_Connection *connection, void *request, const char *extra, size_t size, MHD_socket client,
		     struct MHD_UpgradeResponseHandle *handle)
{
	struct joining *j = data;

	attach_begin(j->daemon, handle, client, TAKE_FD(j->supervisor), extra, size);
	free(j);
}

static struct MHD_Response *make_response(struct call *c, unsigned *status)
{
	struct MHD_Response *response = NULL;
	struct stat st;

	if (c->events) {
		struct listener *l = calloc(1, sizeof(*l));
		if (!l)
			return NULL;
		l->events = TAKE_PTR(c->events);
		response = MHD_create_response_from_callback(MHD_SIZE_UNKNOWN, 8192, read_events, l, free_events);
		MHD_add_response_header(response, "Content-Type", "application/x-ndjson");
	} else if (c->attach >= 0) {
		struct joining *j = malloc(sizeof(*j));
		if (!j)
			return NULL;
		*j = (struct joining){ c->daemon, TAKE_FD(c->attach) };
		response = MHD_create_response_for_upgrade(upgraded, j);
		MHD_add_response_header(response, "Upgrade", "fermata-frames");
		*status = MHD_HTTP_SWITCHING_PROTOCOLS;
	} else if (c->file >= 0 && fstat(c->file, &st) == 0) {
		response = MHD_create_response_from_fd((uint64_t)st.st_size, TAKE_FD(c->file));
	} else if (c->text) {
		response = MHD_create_response_from_buffer(strlen(c->text), c->text, MHD_RESPMEM_MUST_FREE);
		MHD_add_response_header(response, "Content-Type", c->text_type);
	}
	return response;
}

static enum MHD_Result send_answer(struct MHD_Connection *connection, struct call *c)
{
	unsigned status = MHD_HTTP_OK;
	enum MHD_Result r;

	if (c->answer)
		return send_json(connection, status, c->answer);
	struct MHD_Response *response = make_response(c, &status);
	if (!response)
		return MHD_NO;
	r = MHD_queue_response(connection, status, response);
	MHD_destroy_response(response);
	return r;
}

static const char *find_query(void *connection, const char *name)
{
	return MHD_lookup_connection_value(connection, MHD_GET_ARGUMENT_KIND, name);
}

static bool wants_upgrade(struct MHD_Connection *connection)
{
	const char *header = MHD_lookup_connection_value(connection, MHD_HEADER_KIND, "Upgrade");

	return header && !strcmp(header, "fermata-frames");
}

static int read_body(const struct incoming *in, json_t **ret, struct error *e)
{
	json_error_t where;

	if (in->too_large)
		return error_set(e, -E2BIG, "the request is larger than %u bytes", BODY_MAX);
	*ret = in->count ? json_loadb(in->data, in->count, JSON_REJECT_DUPLICATES, &where) : json_object();
	if (!*ret)
		return error_set(e, -EINVAL, "the request is no JSON: line %d: %s", where.line, where.text);
	return json_is_object(*ret) ? 0 : error_set(e, -EINVAL, "the request is no JSON object");
}

struct queried {
	const char *fields;
	struct error *e;
	int result;
};

static enum MHD_Result check_query(void *data, enum MHD_ValueKind kind, const char *name, const char *value)
{
	struct queried *q = data;

	q->result = field_check_query(name, value, q->fields, q->e);
	return q->result ? MHD_NO : MHD_YES;
}

static int check_options(struct call *c, const char *fields, struct error *e)
{
	char verb[sizeof(((struct field *)0)->type)];
	struct field f;
	int r = 0;

	while (!r && field_next(&fields, &f))
		if (field_verb(&f, verb))
			r = options_check(c->daemon, &c->caller, verb, json_object_get(c->body, f.name), e);
	return r;
}

/* All that is asked for must be something that there is. */
static int check_fields(struct MHD_Connection *connection, const struct route *route, struct call *c, struct error *e)
{
	struct queried q = { .fields = route->query, .e = e };
	int r = fields_check(c->body, route->body, e);

	if (!r)
		r = check_options(c, route->body, e);

	if (!r)
		MHD_get_connection_values(connection, MHD_GET_ARGUMENT_KIND, check_query, &q);
	return r ? r : q.result;
}

static enum MHD_Result answer(struct daemon *d, struct MHD_Connection *connection, const char *url, const char *method,
			      const struct incoming *in)
{
	struct call c = { .daemon = d, .file = -1, .attach = -1, .query = find_query, .connection = connection };
	struct error e = {};
	bool known;

	d->counters.requests++;
	int r = find_caller(connection, &c.caller, &e);
	const struct route *route = r ? NULL : route_find(method, url, &c, &known);
	if (r)
		return send_error(d, connection, 403, &e);
	if (!route) {
		error_set(&e, known ? -EINVAL : -ENOENT, known ? "%s %.200s is not offered; see /v1/openapi.json" : "there is no %s %.200s; see /v1/openapi.json",
			  method, url);
		return send_error(d, connection, known ? 405 : 404, &e);
	}
	r = read_body(in, &c.body, &e);
	if (!r)
		r = check_fields(connection, route, &c, &e);
	if (!r && !strcmp(route->answers, "attach") && !wants_upgrade(connection))
		r = error_set(&e, -EINVAL, "attaching needs the header Upgrade: fermata-frames");
	if (!r)
		r = route->handle(&c, &e);
	log_debug("%s %s by uid %u: %s", method, url, c.caller.uid, r ? e.text : "done");
	json_decref(c.body);
	return r ? send_error(d, connection, http_status(r), &e) : send_answer(connection, &c);
}

static enum MHD_Result handle(void *data, struct MHD_Connection *connection, const char *url, const char *method, const char *version,
			      const char *upload, size_t *upload_size, void **request)
{
	struct incoming *in = *request;

	if (!in) {
		*request = calloc(1, sizeof(*in));
		return *request ? MHD_YES : MHD_NO;
	}
	if (!*upload_size)
		return answer(data, connection, url, method, in);
	if (in->count + *upload_size > BODY_MAX)
		in->too_large = true;
	else if (vec_reserve((void **)&in->data, &in->capacity, in->count + *upload_size, 1)) {
		memcpy(in->data + in->count, upload, *upload_size);
		in->count += *upload_size;
	} else
		return MHD_NO;
	*upload_size = 0;
	return MHD_YES;
}

static void completed(void *data, struct MHD_Connection *connection, void **request, enum MHD_RequestTerminationCode how)
{
	struct incoming *in = *request;

	if (in)
		free(in->data);
	free(in);
	*request = NULL;
}

/* ---- connections ---- */

static bool visitor_enter(struct daemon *d, uid_t uid)
{
	const unsigned most = (unsigned)MAX(settings_number(&d->settings, SETTING_CONNECTIONS) / 2, 1L);
	struct visitor *v = NULL;

	pthread_mutex_lock(&d->lock);
	for (size_t i = 0; i < d->visitors.count && !v; i++)
		v = d->visitors.data[i].uid == uid ? &d->visitors.data[i] : NULL;
	if (!v && (v = VEC_PUSH(&d->visitors)))
		*v = (struct visitor){ .uid = uid };
	const bool enters = v && v->connections < most;
	if (enters)
		v->connections++;
	pthread_mutex_unlock(&d->lock);
	return enters;
}

static void visitor_leave(struct daemon *d, uid_t uid)
{
	pthread_mutex_lock(&d->lock);
	for (size_t i = 0; i < d->visitors.count; i++)
		if (d->visitors.data[i].uid == uid && --d->visitors.data[i].connections == 0) {
			d->visitors.data[i] = d->visitors.data[--d->visitors.count];
			break;
		}
	pthread_mutex_unlock(&d->lock);
}

/* No user but root may have more than half of all connections: the others shall find the daemon. What is above is cut off, and `counted` says who was not. */
static void connected(void *data, struct MHD_Connection *connection, void **counted, enum MHD_ConnectionNotificationCode what)
{
	const union MHD_ConnectionInfo *info = MHD_get_connection_info(connection, MHD_CONNECTION_INFO_CONNECTION_FD);
	struct ucred who;
	socklen_t size = sizeof(who);

	if (what == MHD_CONNECTION_NOTIFY_CLOSED && *counted) {
		visitor_leave(data, (uid_t)((uintptr_t)*counted - 1));
	} else if (what == MHD_CONNECTION_NOTIFY_STARTED && info && getsockopt(info->connect_fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0 &&
		   who.uid && who.uid != (uid_t)-1) {
		*counted = visitor_enter(data, who.uid) ? (void *)((uintptr_t)who.uid + 1) : NULL;
		if (!*counted)
			shutdown(info->connect_fd, SHUT_RDWR);
	}
}

/* ---- the socket ---- */

/* One that nobody listens on any more is removed. */
static int bind_unix(const char *path, int fd, struct error *e)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	if (snprintf(address.sun_path, sizeof(address.sun_path), "%s", path) >= (int)sizeof(address.sun_path))
		return error_set(e, -ENAMETOOLONG, "the address %s is too long for a socket; choose a shorter one", path);
	if (bind(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return 0;
	if (errno != EADDRINUSE)
		return error_errno(e, -errno, "cannot make the socket %s", path);
	_cleanup_close_ int probe = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (connect(probe, (struct sockaddr *)&address, sizeof(address)) == 0)
		return error_set(e, -EADDRINUSE, "a daemon answers on %s already", path);
	if (unlink(path) < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return error_errno(e, -errno, "cannot make the socket %s", path);
	return 0;
}

static int listen_unix(const struct settings *s, struct error *e)
{
	const char *path = settings_text(s, SETTING_ADDRESS), *group = settings_text(s, SETTING_GROUP);
	_cleanup_close_ int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	struct group *entry = *group ? getgrnam(group) : NULL;

	if (fd < 0)
		return error_errno(e, -errno, "cannot make a socket");
	if (*group && !entry)
		return error_set(e, -EINVAL, "there is no group %s", group);
	mode_t before = umask(0177);
	int r = bind_unix(path, fd, e);
	umask(before);
	if (r)
		return r;
	if (entry && (chown(path, (uid_t)-1, entry->gr_gid) < 0 || chmod(path, 0660) < 0))
		return error_errno(e, -errno, "cannot give the socket %s to group %s", path, group);
	if (listen(fd, SOMAXCONN) < 0)
		return error_errno(e, -errno, "cannot listen on %s", path);
	return TAKE_FD(fd);
}

static int listen_tcp(const struct settings *s, struct error *e)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE }, *found;
	char host[512];
	int one = 1;

	snprintf(host, sizeof(host), "%s", settings_text(s, SETTING_ADDRESS));
	char *port = strrchr(host, ':'), *name = host;
	if (!port || host[0] == '/')
		return error_set(e, -EINVAL, "with protocol tcp the address is HOST:PORT, not %s", host);
	*port++ = '\0';
	if (*name == '[' && name[strlen(name) - 1] == ']') {
		name[strlen(name) - 1] = '\0';
		name++;
	}
	if (getaddrinfo(name, port, &hints, &found))
		return error_set(e, -EINVAL, "there is no address %s:%s", name, port);
	_cleanup_close_ int fd = socket(found->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
	setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
	int r = fd < 0 || bind(fd, found->ai_addr, found->ai_addrlen) < 0 || listen(fd, SOMAXCONN) < 0 ? -errno : 0;
	freeaddrinfo(found);
	return r ? error_errno(e, r, "cannot listen on %s:%s", name, port) : TAKE_FD(fd);
}

/* ---- start and end ---- */

static int read_pem(const struct settings *s, enum setting which, const char *name, char **ret, struct error *e)
{
	const char *path = settings_text(s, which);

	if (!*path)
		return error_set(e, -EINVAL, "protocol tcp needs %s: a daemon that everyone can reach asks for certificates", name);
	int r = read_file_at(AT_FDCWD, path, 1 << 20, ret, NULL);
	return r ? error_errno(e, r, "cannot read %s %s", name, path) : 0;
}

static int start_http(struct daemon *d, int listener, bool tcp, struct MHD_Daemon **ret, struct error *e)
{
	unsigned flags = MHD_USE_THREAD_PER_CONNECTION | MHD_USE_INTERNAL_POLLING_THREAD | MHD_USE_POLL | MHD_ALLOW_UPGRADE;
	_cleanup_free_ char *cert = NULL, *key = NULL, *ca = NULL;
	struct MHD_OptionItem tls[4] = {};
	int r = 0;

	if (tcp) {
		r = read_pem(&d->settings, SETTING_TLS_CERT, "tls.cert", &cert, e);
		r = r ? r : read_pem(&d->settings, SETTING_TLS_KEY, "tls.key", &key, e);
		r = r ? r : read_pem(&d->settings, SETTING_TLS_CA, "tls.ca", &ca, e);
		flags |= MHD_USE_TLS;
		tls[0] = (struct MHD_OptionItem){ MHD_OPTION_HTTPS_MEM_CERT, 0, cert };
		tls[1] = (struct MHD_OptionItem){ MHD_OPTION_HTTPS_MEM_KEY, 0, key };
		tls[2] = (struct MHD_OptionItem){ MHD_OPTION_HTTPS_MEM_TRUST, 0, ca };
		tls[3] = (struct MHD_OptionItem){ MHD_OPTION_END, 0, NULL };
	} else {
		tls[0] = (struct MHD_OptionItem){ MHD_OPTION_END, 0, NULL };
	}
	if (r)
		return r;
	*ret = MHD_start_daemon(flags, 0, NULL, NULL, handle, d, MHD_OPTION_LISTEN_SOCKET, listener, MHD_OPTION_NOTIFY_CONNECTION, connected, d, MHD_OPTION_NOTIFY_COMPLETED, completed, NULL,
				MHD_OPTION_CONNECTION_MEMORY_LIMIT, (size_t)HEADERS_MAX, MHD_OPTION_CONNECTION_LIMIT,
				(unsigned)settings_number(&d->settings, SETTING_CONNECTIONS), MHD_OPTION_CONNECTION_TIMEOUT, IDLE_S,
				MHD_OPTION_THREAD_STACK_SIZE, (size_t)1 << 20, MHD_OPTION_ARRAY, tls, MHD_OPTION_END);
	return *ret ? 0 : error_set(e, -EIO, "cannot start the HTTP server%s", tcp ? "; see the certificates" : "");
}

static int make_folder(const char *path, struct error *e)
{
	return mkdir(path, 0700) < 0 && errno != EEXIST ? error_errno(e, -errno, "cannot make the folder %s", path) : 0;
}

/* One daemon a database: the lock goes with the process. */
static int lock_state(struct daemon *d, struct error *e)
{
	char path[STORE_PATH_MAX + 20];

	snprintf(path, sizeof(path), "%s/lock", d->state_dir);
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	if (fd < 0)
		return error_errno(e, -errno, "cannot make %s", path);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		close(fd);
		return error_set(e, -EADDRINUSE, "a daemon uses the database in %s already", d->state_dir);
	}
	return 0;
}

static int open_state(struct daemon *d, struct error *e)
{
	char copy[STORE_PATH_MAX];
	const char *db = settings_text(&d->settings, SETTING_DB_PATH);
	pthread_mutexattr_t recursive;

	pthread_mutex_init(&d->lock, NULL);
	pthread_cond_init(&d->less_busy, NULL);
	pthread_mutexattr_init(&recursive);
	pthread_mutexattr_settype(&recursive, PTHREAD_MUTEX_RECURSIVE);
	pthread_mutex_init(&d->jobs_lock, &recursive);
	d->started_ns = now_ns();
	d->wake = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (db[0] != '/')
		return error_set(e, -EINVAL, "db.path is %s; it must begin with a /", db);
	snprintf(copy, sizeof(copy), "%s", db);
	snprintf(d->state_dir, sizeof(d->state_dir), "%s", dirname(copy));
	snprintf(d->jobs_dir, sizeof(d->jobs_dir), "%.900s/jobs", d->state_dir);
	snprintf(d->private_dir, sizeof(d->private_dir), "%.900s/checkpoints", d->state_dir);
	int r = make_folder(d->state_dir, e);
	if (!r)
		r = make_folder(d->jobs_dir, e);
	if (!r)
		r = make_folder(d->private_dir, e);
	if (!r)
		r = lock_state(d, e);
	if (!r)
		r = store_open(db, &d->store, e);
	return r ? r : jobs_recover(d, e);
}

static void raise_limits(void)
{
	struct rlimit limit;

	if (getrlimit(RLIMIT_NOFILE, &limit) == 0) {
		limit.rlim_cur = limit.rlim_max;
		setrlimit(RLIMIT_NOFILE, &limit);
	}
}

/* A socket that was handed over has a name of its own. */
static void tell_place(const struct daemon *d, int listener, bool activated)
{
	struct sockaddr_un own = {};
	socklen_t size = sizeof(own) - 1;
	bool named = activated && getsockname(listener, (struct sockaddr *)&own, &size) == 0 && own.sun_family == AF_UNIX && own.sun_path[0];

	log_info("fermata " FERMATA_VERSION " listens on %s%s", named ? own.sun_path : activated ? "" : settings_text(&d->settings, SETTING_ADDRESS),
		 activated ? named ? ", which was handed over" : "a socket that was handed over" : "");
}

static int serve(struct daemon *d, int listener, bool tcp, bool activated, struct error *e)
{
	struct MHD_Daemon *http = NULL;
	sigset_t ends;
	int signal;

	/* In every thread that comes; the helpers' masks are emptied when they start. */
	sigemptyset(&ends);
	sigaddset(&ends, SIGTERM);
	sigaddset(&ends, SIGINT);
	pthread_sigmask(SIG_BLOCK, &ends, NULL);
	operations_begin(d);
	gpu_keeper_begin(d);
	int r = start_http(d, listener, tcp, &http, e);
	if (!r)
		r = schedule_start(d, e);
	if (r)
		return r;
	notify_tell("READY=1");
	tell_place(d, listener, activated);
	sigwait(&ends, &signal);
	notify_tell("STOPPING=1");
	log_info("told to end by signal %d; jobs run on", signal);
	if (!tcp && !activated)
		unlink(settings_text(&d->settings, SETTING_ADDRESS));
	schedule_stop(d);
	/* Connections are cut rather than waited for: an attached client may stay for days. */
	return 0;
}

/* Of a build that looks for leaks: nobody else does, since connections are cut and threads end with the process. */
void __lsan_do_leak_check(void) __attribute__((weak));

int daemon_run(const struct settings *settings, const struct vocabulary *vocabulary)
{
	struct daemon *d = calloc(1, sizeof(*d));
	bool tcp = !strcmp(settings_text(settings, SETTING_PROTOCOL), "tcp");
	int listener = notify_take_socket();
	bool activated = listener >= 0;
	struct error e = {};

	if (!d)
		return 1;
	d->settings = *settings;
	d->vocabulary = vocabulary;
	/* For the helpers, whatever they do with a checkpoint. */
	if (*settings_text(settings, SETTING_CHECKPOINT_STORE_KEY))
		setenv("FERMATA_CHECKPOINT_STORE_KEY", settings_text(settings, SETTING_CHECKPOINT_STORE_KEY), 1);
	signal(SIGPIPE, SIG_IGN);
	/* Whatever who started us left open is no business of our helpers. */
	close_range(3, ~0u, CLOSE_RANGE_CLOEXEC);
	raise_limits();
	int r = open_state(d, &e);
	if (!r && !activated)
		r = listener = tcp ? listen_tcp(settings, &e) : listen_unix(settings, &e);
	if (r >= 0)
		r = serve(d, listener, tcp, activated, &e);
	if (r >= 0) {
		store_end(d->store);
		fflush(NULL);
		if (__lsan_do_leak_check)
			__lsan_do_leak_check();
		_exit(0);
	}
	error_prefix(&e, r, "cannot start the daemon");
	log_error("%s", e.text);
	store_close(d->store);
	free(d);
	return 1;
}
