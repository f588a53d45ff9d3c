/* An image file: its records as the message types that the project reads under its magic. */
#include "fuzz.h"

#include "core.pb-c.h"
#include "fdinfo.pb-c.h"
#include "fs.pb-c.h"
#include "ghost_file.pb-c.h"
#include "image/image.h"
#include "inventory.pb-c.h"
#include "ipc_shm.pb-c.h"
#include "memfd.pb-c.h"
#include "mm.pb-c.h"
#include "pagemap.pb-c.h"
#include "pipe_data.pb-c.h"
#include "pstree.pb-c.h"
#include "remap_file_path.pb-c.h"
#include "seccomp.pb-c.h"
#include "sk_packet.pb-c.h"
#include "tty.pb-c.h"

#define BYTES_MAX 4096

static const struct row {
	uint32_t magic;
	const ProtobufCMessageDescriptor *first, *others;
	bool bytes; /* some follow each record */
} rows[] = {
	{ IMAGE_MAGIC_INVENTORY, &inventory_entry__descriptor, &inventory_entry__descriptor, false },
	{ IMAGE_MAGIC_PSTREE, &pstree_entry__descriptor, &pstree_entry__descriptor, false },
	{ IMAGE_MAGIC_CORE, &core_entry__descriptor, &core_entry__descriptor, false },
	{ IMAGE_MAGIC_IDS, &task_kobj_ids_entry__descriptor, &task_kobj_ids_entry__descriptor, false },
	{ IMAGE_MAGIC_MM, &mm_entry__descriptor, &mm_entry__descriptor, false },
	{ IMAGE_MAGIC_PAGEMAP, &pagemap_head__descriptor, &pagemap_entry__descriptor, false },
	{ IMAGE_MAGIC_FILES, &file_entry__descriptor, &file_entry__descriptor, false },
	{ IMAGE_MAGIC_FDINFO, &fdinfo_entry__descriptor, &fdinfo_entry__descriptor, false },
	{ IMAGE_MAGIC_FS, &fs_entry__descriptor, &fs_entry__descriptor, false },
	{ IMAGE_MAGIC_SECCOMP, &seccomp_entry__descriptor, &seccomp_entry__descriptor, false },
	{ IMAGE_MAGIC_REMAP_FPATH, &remap_file_path_entry__descriptor, &remap_file_path_entry__descriptor, false },
	{ IMAGE_MAGIC_GHOST_FILE, &ghost_file_entry__descriptor, &ghost_chunk_entry__descriptor, true },
	{ IMAGE_MAGIC_MEMFD, &memfd_inode_entry__descriptor, &memfd_inode_entry__descriptor, false },
	{ IMAGE_MAGIC_PIPES_DATA, &pipe_data_entry__descriptor, &pipe_data_entry__descriptor, true },
	{ IMAGE_MAGIC_FIFO_DATA, &pipe_data_entry__descriptor, &pipe_data_entry__descriptor, true },
	{ IMAGE_MAGIC_SK_QUEUES, &sk_packet_entry__descriptor, &sk_packet_entry__descriptor, true },
	{ IMAGE_MAGIC_TTY_INFO, &tty_info_entry__descriptor, &tty_info_entry__descriptor, false },
	{ IMAGE_MAGIC_IPCNS_SHM, &ipc_shm_entry__descriptor, &ipc_shm_entry__descriptor, false },
};

static const struct row *find_row(const uint8_t *data, size_t size)
{
	uint32_t words[2] = {};

	memcpy(words, data, MIN(size, sizeof(words)));
	for (size_t i = 0; i < ARRAY_SIZE(rows); i++)
		if (rows[i].magic == (words[0] == IMAGE_MAGIC_COMMON ? words[1] : words[0]))
			return &rows[i];
	return &rows[0];
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct row *row = find_row(data, size);
	struct image_dir *dir;
	struct image_file *file;
	ProtobufCMessage *m;
	bool first = true;
	char bytes[BYTES_MAX];

	fuzz_write(SANDBOX "/an.img", data, size);
	int before = fuzz_count_fds();
	if (image_dir_open(SANDBOX, &dir))
		abort();
	if (image_open(dir, "an.img", row->magic, &file) == 0) {
		while (image_read_message(file, first ? row->first : row->others, &m) == 1) {
			uint8_t *packed = malloc(protobuf_c_message_get_packed_size(m) + 1);
			protobuf_c_message_pack(m, packed);
			free(packed);
			protobuf_c_message_free_unpacked(m, NULL);
			if (row->bytes)
				image_read_some(file, bytes, 8);
			first = false;
		}
		image_read_some(file, bytes, sizeof(bytes));
		image_close(file);
	}
	image_dir_free(dir);
	fuzz_check_fds(before);
	return 0;
}
