/* See uring_files.h. The table is one of struct io_fixed_file, a word each, from Linux 5.15 to 6.12; then one of pointers to struct io_rsrc_node. */
#include "engine/kinds/uring_files.h"

#include "engine/kernel.h"
#include "engine/task/task.h"

#include <sys/syscall.h>

#define FLAGS 7ULL /* in the low bits of a word of the table */

struct uring_files {
	struct kernel *kernel;
	const struct proc_fds *fds;
	uint64_t table;
	int file_ptr; /* in a node that the table points to; -1: the table has the files themselves */
	uint64_t *addresses; /* of each of `fds`; 0: it could not be looked at */
};

/* The ring's own file leads to its context, and that to the table. */
static int find_table(struct uring_files *u, int ring)
{
	const struct kernel *k = u->kernel;
	const int context = kernel_offset(k, "file", "private_data"), table = kernel_offset(k, "io_ring_ctx", "file_table");
	const int nodes = kernel_offset(k, "io_file_table", "data.nodes"), files = nodes >= 0 ? nodes : kernel_offset(k, "io_file_table", "files");
	uint64_t at;

	u->file_ptr = nodes >= 0 ? kernel_offset(k, "io_rsrc_node", "file_ptr") : -1;
	const bool known = nodes >= 0 ? u->file_ptr >= 0 : kernel_offset(k, "io_fixed_file", "file_ptr") == 0;
	int r = context < 0 || table < 0 || files < 0 || !known ? -ENOTSUP : kernel_file(u->kernel, ring, &at);

	if (!r)
		r = kernel_read(u->kernel, at + (uint64_t)context, &at, sizeof(at));
	return r ? r : kernel_read(u->kernel, at + (uint64_t)table + (uint64_t)files, &u->table, sizeof(u->table));
}

static int find_addresses(struct uring_files *u, const struct task *table)
{
	u->addresses = calloc(u->fds->count + 1, sizeof(*u->addresses));
	if (!u->addresses)
		return -ENOMEM;
	for (size_t i = 0; i < u->fds->count; i++) {
		_cleanup_close_ int fd = (int)syscall(__NR_pidfd_getfd, table->pidfd, u->fds->data[i], 0);
		if (fd >= 0 && kernel_file(u->kernel, fd, &u->addresses[i]))
			u->addresses[i] = 0;
	}
	return 0;
}

int uring_files_open(struct descriptor *f, const struct task *table, const struct proc_fds *fds, struct uring_files **ret)
{
	struct uring_files *u = calloc(1, sizeof(*u));

	if (!u)
		return -ENOMEM;
	u->fds = fds;
	int r = kernel_open(&u->kernel);
	if (!r)
		r = find_table(u, f->own_fd);
	if (!r)
		r = find_addresses(u, table);
	if (r) {
		uring_files_close(u);
		return r;
	}
	*ret = u;
	return 0;
}

int uring_files_find(struct uring_files *u, uint32_t index, int32_t *ret)
{
	uint64_t word;
	int r = kernel_read(u->kernel, u->table + index * sizeof(word), &word, sizeof(word));

	*ret = -1;
	if (!r && u->file_ptr >= 0 && word)
		r = kernel_read(u->kernel, word + (uint64_t)u->file_ptr, &word, sizeof(word));
	word &= ~FLAGS;
	for (size_t i = 0; !r && word && i < u->fds->count && *ret < 0; i++)
		if (u->addresses[i] == word)
			*ret = u->fds->data[i];
	return r;
}

void uring_files_close(struct uring_files *u)
{
	if (!u)
		return;
	kernel_close(u->kernel);
	free(u->addresses);
	free(u);
}
