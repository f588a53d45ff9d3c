/*
 * POSIX shared memory by its name: files of /dev/shm that the tree has mapped (shm_open(3), sem_open(3)). They are memory, not files: they change
 * with the processes and go with the machine. So their content is saved with the checkpoint, and put back at restore, unless somebody outside has
 * the file open then, whose memory it is as well.
 */
#pragma once

#include "engine/kinds/kind.h"
#include "regfile.pb-c.h"

/* Those whose content was saved. */
struct shmfiles {
	VEC(struct shmfile {
		dev_t dev;
		ino_t ino;
	}) seen;
};

/* Of a description whose name is gone: gives it another that the file has in /dev/shm, as one has that sem_open(3) made, under a name that was only for a
 * moment. False: there is none. */
bool shmfile_find_name(struct dump *d, struct descriptor *f);
/* Of a description that has its name still: where it is such a mapping, saves the content, once for each file, and notes that in `reg`. */
int shmfile_capture(struct dump *d, struct shmfiles *files, struct descriptor *f, RegFileEntry *reg);

/* Before `reg`, the first file of /dev/shm, is opened: makes those that are missing, and fills all that the checkpoint has the content of. */
int shmfile_prepare(struct restore *s, const RegFileEntry *reg);
/* Takes away what was made, should the restore have failed. */
void shmfile_release(struct restore *s);
