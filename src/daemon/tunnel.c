/* See tunnel.h. */
#include "daemon/tunnel.h"

#include <arpa/inet.h>
#include <fcntl.h>
#include <gnutls/gnutls.h>
#include <gnutls/x509.h>
#include <netdb.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <sys/socket.h>
#include <sys/time.h>

#define CONNECT_S 10
#define BUFFER 16384u

/* Bytes in one direction that were taken and not passed on yet. */
struct way {
	char data[BUFFER];
	size_t start, end;
	bool closed; /* no more will come */
};

struct tunnel {
	gnutls_certificate_credentials_t credentials;
	gnutls_session_t session;
	int peer, near; /* the daemon's connection; our end of the caller's */
	struct way up, down;
};

static void tunnel_free(struct tunnel *t)
{
	if (t->session)
		gnutls_deinit(t->session);
	if (t->credentials)
		gnutls_certificate_free_credentials(t->credentials);
	if (t->peer >= 0)
		close(t->peer);
	if (t->near >= 0)
		close(t->near);
	free(t);
}

/* ---- passing on ---- */

static bool waits(const struct way *w)
{
	return w->start < w->end;
}

/* Of the caller; false: it is not there any more. */
static bool take_near(struct tunnel *t)
{
	ssize_t n = recv(t->near, t->up.data, BUFFER, MSG_DONTWAIT);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	t->up.start = 0;
	t->up.end = (size_t)n;
	t->up.closed = !n;
	return true;
}

static bool give_near(struct tunnel *t)
{
	ssize_t n = send(t->near, t->down.data + t->down.start, t->down.end - t->down.start, MSG_DONTWAIT | MSG_NOSIGNAL);

	if (n < 0)
		return errno == EAGAIN || errno == EINTR;
	t->down.start += (size_t)n;
	return true;
}

static bool take_peer(struct tunnel *t)
{
	ssize_t n = gnutls_record_recv(t->session, t->down.data, BUFFER);

	if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
		return true;
	t->down.start = 0;
	t->down.end = (size_t)MAX(n, 0);
	/* One that ends without saying so cuts its answer off, which the caller finds out by HTTP. */
	t->down.closed = n <= 0;
	return true;
}

static bool give_peer(struct tunnel *t)
{
	ssize_t n = gnutls_record_send(t->session, t->up.data + t->up.start, t->up.end - t->up.start);

	if (n == GNUTLS_E_AGAIN || n == GNUTLS_E_INTERRUPTED)
		return true;
	if (n < 0)
		return false;
	t->up.start += (size_t)n;
	return true;
}

static void *pass_on(void *argument)
{
	struct tunnel *t = argument;
	bool good = true;

	while (good && !(t->up.closed && !waits(&t->up)) && !(t->down.closed && !waits(&t->down))) {
		struct pollfd polls[2] = { { .fd = t->near }, { .fd = t->peer } };
		polls[0].events = (short)((waits(&t->up) || t->up.closed ? 0 : POLLIN) | (waits(&t->down) ? POLLOUT : 0));
		polls[1].events = (short)((waits(&t->down) || t->down.closed ? 0 : POLLIN) | (waits(&t->up) ? POLLOUT : 0));
		bool pending = !waits(&t->down) && gnutls_record_check_pending(t->session);
		if (poll(polls, 2, pending ? 0 : -1) < 0 && errno != EINTR)
			break;
		if (!waits(&t->down) && (pending || polls[1].revents & (POLLIN | POLLHUP | POLLERR)))
			good = take_peer(t);
		if (good && waits(&t->down))
			good = give_near(t);
		if (good && !waits(&t->up) && polls[0].revents & (POLLIN | POLLHUP | POLLERR))
			good = take_near(t);
		if (good && waits(&t->up))
			good = give_peer(t);
	}
	gnutls_bye(t->session, GNUTLS_SHUT_WR);
	tunnel_free(t);
	return NULL;
}

static int start_thread(struct tunnel *t, struct error *e)
{
	sigset_t all, before;
	pthread_t thread;

	fcntl(t->peer, F_SETFL, O_NONBLOCK);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int r = pthread_create(&thread, NULL, pass_on, t);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (r)
		return error_errno(e, -r, "cannot start a thread");
	pthread_detach(thread);
	return 0;
}

/* ---- the connection ---- */

static int connect_to(const char *host, const char *port, struct error *e)
{
	struct addrinfo hints = { .ai_socktype = SOCK_STREAM }, *found;
	struct timeval limit = { .tv_sec = CONNECT_S };
	int r = getaddrinfo(host, port, &hints, &found), fd = -1;

	if (r)
		return error_set(e, -EINVAL, "there is no address %s:%s: %s", host, port, gai_strerror(r));
	r = -ECONNREFUSED;
	for (struct addrinfo *one = found; one && fd < 0; one = one->ai_next) {
		fd = socket(one->ai_family, SOCK_STREAM | SOCK_CLOEXEC, 0);
		setsockopt(fd, SOL_SOCKET, SO_SNDTIMEO, &limit, sizeof(limit));
		if (fd >= 0 && connect(fd, one->ai_addr, one->ai_addrlen) == 0)
			break;
		r = errno == EINPROGRESS ? -ETIMEDOUT : -errno;
		if (fd >= 0)
			close(fd);
		fd = -1;
	}
	freeaddrinfo(found);
	return fd >= 0 ? fd : error_errno(e, r, "no daemon answers on %s:%s", host, port);
}

static int read_files(struct tunnel *t, const struct settings *s, struct error *e)
{
	const char *ca = settings_text(s, SETTING_TLS_CA), *cert = settings_text(s, SETTING_TLS_CERT), *key = settings_text(s, SETTING_TLS_KEY);

	if (!*ca || !*cert || !*key)
		return error_set(e, -EINVAL, "a daemon on TCP is spoken to with certificates; give tls.cert, tls.key and tls.ca (--tls-cert, --tls-key, --tls-ca)");
	int r = gnutls_certificate_allocate_credentials(&t->credentials);
	if (r < 0)
		return error_set(e, -ENOMEM, "out of memory");
	r = gnutls_certificate_set_x509_trust_file(t->credentials, ca, GNUTLS_X509_FMT_PEM);
	if (r <= 0)
		return error_set(e, -EINVAL, "cannot use tls.ca %s: %s", ca, r ? gnutls_strerror(r) : "no certificate is in it");
	r = gnutls_certificate_set_x509_key_file(t->credentials, cert, key, GNUTLS_X509_FMT_PEM);
	return r < 0 ? error_set(e, -EINVAL, "cannot use tls.cert %s with tls.key %s: %s", cert, key, gnutls_strerror(r)) : 0;
}

/* Why the daemon's certificate was not taken. */
static int not_trusted(struct tunnel *t, const char *name, struct error *e)
{
	gnutls_datum_t why = {};

	gnutls_certificate_verification_status_print(gnutls_session_get_verify_cert_status(t->session), GNUTLS_CRT_X509, &why, 0);
	error_set(e, -EPERM, "the daemon's certificate is not to be trusted as %s: %s It must be signed by tls.ca, and for that name or tls.name", name,
		  why.data ? (char *)why.data : "");
	gnutls_free(why.data);
	return e->code;
}

static int shake_hands(struct tunnel *t, const char *name, struct error *e)
{
	struct in6_addr address;
	bool is_number = inet_pton(AF_INET, name, &address) == 1 || inet_pton(AF_INET6, name, &address) == 1;
	int r = gnutls_init(&t->session, GNUTLS_CLIENT);

	if (r >= 0)
		r = gnutls_set_default_priority(t->session);
	if (r >= 0)
		r = gnutls_credentials_set(t->session, GNUTLS_CRD_CERTIFICATE, t->credentials);
	if (r >= 0 && !is_number)
		r = gnutls_server_name_set(t->session, GNUTLS_NAME_DNS, name, strlen(name));
	if (r < 0)
		return error_set(e, -EIO, "cannot begin TLS: %s", gnutls_strerror(r));
	gnutls_session_set_verify_cert(t->session, name, 0);
	gnutls_transport_set_int(t->session, t->peer);
	gnutls_handshake_set_timeout(t->session, CONNECT_S * 1000);
	do
		r = gnutls_handshake(t->session);
	while (r < 0 && !gnutls_error_is_fatal(r));
	if (r == GNUTLS_E_CERTIFICATE_VERIFICATION_ERROR)
		return not_trusted(t, name, e);
	return r < 0 ? error_set(e, -EPROTO, "what answers there does not speak TLS as a daemon does: %s", gnutls_strerror(r)) : 0;
}

int tunnel_open(const struct settings *s, struct error *e)
{
	struct tunnel *t = calloc(1, sizeof(*t));
	const char *name = settings_text(s, SETTING_TLS_NAME);
	char host[512];
	int ends[2], r;

	snprintf(host, sizeof(host), "%s", settings_text(s, SETTING_ADDRESS));
	char *port = strrchr(host, ':'), *begin = host;
	if (!t || !port || host[0] == '/') {
		free(t);
		return t ? error_set(e, -EINVAL, "with protocol tcp the address is HOST:PORT, not %s", host) : error_set(e, -ENOMEM, "out of memory");
	}
	*port++ = '\0';
	if (*begin == '[' && begin[strlen(begin) - 1] == ']') {
		begin[strlen(begin) - 1] = '\0';
		begin++;
	}
	t->peer = t->near = -1;
	r = read_files(t, s, e);
	if (!r)
		r = t->peer = connect_to(begin, port, e);
	if (r >= 0)
		r = shake_hands(t, *name ? name : begin, e);
	if (r >= 0 && socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, ends) < 0)
		r = error_errno(e, -errno, "cannot make a socket");
	if (r >= 0) {
		t->near = ends[0];
		r = start_thread(t, e);
		if (r)
			close(ends[1]);
	}
	if (r < 0)
		tunnel_free(t);
	return r < 0 ? r : ends[1];
}
