/* See nft.h. */
#include "engine/nft.h"

#include <dirent.h>
#include <dlfcn.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <nftables/libnftables.h>
#include <sys/socket.h>

struct library {
	void *handle;
	struct nft_ctx *(*ctx_new)(uint32_t flags);
	void (*ctx_free)(struct nft_ctx *ctx);
	int (*run)(struct nft_ctx *nft, const char *buffer);
	int (*buffer_output)(struct nft_ctx *ctx);
	int (*buffer_error)(struct nft_ctx *ctx);
	const char *(*output)(struct nft_ctx *ctx);
	const char *(*error)(struct nft_ctx *ctx);
	void (*output_flags)(struct nft_ctx *ctx, unsigned int flags);
};

struct nft {
	struct library lib;
	struct nft_ctx *ctx;
};

static int load(struct library *lib, struct error *e)
{
	const struct {
		const char *name;
		void *to;
	} functions[] = {
		{ "nft_ctx_new", &lib->ctx_new }, { "nft_ctx_free", &lib->ctx_free }, { "nft_run_cmd_from_buffer", &lib->run },
		{ "nft_ctx_buffer_output", &lib->buffer_output }, { "nft_ctx_buffer_error", &lib->buffer_error },
		{ "nft_ctx_get_output_buffer", &lib->output }, { "nft_ctx_get_error_buffer", &lib->error },
		{ "nft_ctx_output_set_flags", &lib->output_flags },
	};

	lib->handle = dlopen("libnftables.so.1", RTLD_NOW | RTLD_LOCAL);
	if (!lib->handle)
		return error_set(e, -ENOSYS, "there is no libnftables here; install it (libnftables1)");
	for (size_t i = 0; i < ARRAY_SIZE(functions); i++) {
		void *found = dlsym(lib->handle, functions[i].name);
		if (!found)
			return error_set(e, -ENOSYS, "libnftables here has no %s; install a newer one (libnftables1)", functions[i].name);
		memcpy(functions[i].to, &found, sizeof(found));
	}
	return 0;
}

static bool is_netfilter(int fd)
{
	int domain = 0, protocol = 0;
	socklen_t size = sizeof(int);

	return getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &size) == 0 && domain == AF_NETLINK &&
	       getsockopt(fd, SOL_SOCKET, SO_PROTOCOL, &protocol, &size) == 0 && protocol == NETLINK_NETFILTER;
}

/* A table may be as long there as the library's socket is, which it opens without close-on-exec: a script must not inherit it. */
static void close_on_exec(void)
{
	DIR *dir = opendir("/proc/self/fd");
	const struct dirent *entry;

	while (dir && (entry = readdir(dir))) {
		int fd = atoi(entry->d_name);
		if (entry->d_name[0] != '.' && fd != dirfd(dir) && is_netfilter(fd))
			fcntl(fd, F_SETFD, FD_CLOEXEC);
	}
	if (dir)
		closedir(dir);
}

int nft_new(struct nft **ret, struct error *e)
{
	struct nft *n = calloc(1, sizeof(*n));
	int r = n ? load(&n->lib, e) : error_set(e, -ENOMEM, "out of memory");

	if (!r) {
		n->ctx = n->lib.ctx_new(NFT_CTX_DEFAULT);
		r = n->ctx && !n->lib.buffer_output(n->ctx) && !n->lib.buffer_error(n->ctx) ? 0 : error_set(e, -ENOMEM, "out of memory");
		close_on_exec();
	}
	if (r)
		nft_free(TAKE_PTR(n));
	*ret = n;
	return r;
}

int nft_run(struct nft *n, const char *text)
{
	return n->lib.run(n->ctx, text) ? -EIO : 0;
}

const char *nft_output(const struct nft *n)
{
	return n->lib.output(n->ctx);
}

const char *nft_complaint(const struct nft *n, int *ret_size)
{
	const char *text = n->lib.error(n->ctx), *error = strstr(text, "Error: ");

	text = error ? error + strlen("Error: ") : text;
	*ret_size = (int)strcspn(text, "\n");
	return text;
}

void nft_numeric(struct nft *n)
{
	n->lib.output_flags(n->ctx, NFT_CTX_OUTPUT_NUMERIC_ALL);
}

void nft_free(struct nft *n)
{
	if (!n)
		return;
	if (n->ctx)
		n->lib.ctx_free(n->ctx);
	if (n->lib.handle)
		dlclose(n->lib.handle);
	free(n);
}
