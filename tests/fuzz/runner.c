/*
 * Runs a fuzz target over the files that stdin names, one a line, each with a deadline, and says "ok FILE" after each. Ends with 77
 * where there can be no sandbox, otherwise as the sanitizers end it.
 */
#include "fuzz.h"

#include "base/base.h"

#include <fcntl.h>

#define DEADLINE 10
#define INPUT_MAX (16u << 20)

int main(int argc, char **argv)
{
	_cleanup_free_ char *names = NULL;
	char *save = NULL;
	VEC(char *) texts = {};
	VEC(size_t) sizes = {};
	size_t at = 0;

	if (read_file_at(AT_FDCWD, "/dev/stdin", INPUT_MAX, &names, NULL))
		return 1;
	_cleanup_free_ char *list = strdup(names);
	/* The sandbox may hide them. */
	for (char *name = strtok_r(list, "\n", &save); name; name = strtok_r(NULL, "\n", &save)) {
		char **text = VEC_PUSH(&texts);
		size_t *size = VEC_PUSH(&sizes);
		if (!text || !size || read_file_at(AT_FDCWD, name, INPUT_MAX, text, size)) {
			fprintf(stderr, "cannot read %s\n", name);
			return 1;
		}
	}
	LLVMFuzzerInitialize(&argc, &argv);
	save = NULL;
	for (char *name = strtok_r(names, "\n", &save); name; name = strtok_r(NULL, "\n", &save), at++) {
		/* A copy of its very size, which shows what reads over the end. */
		uint8_t *copy = malloc(sizes.data[at]);
		if (!copy && sizes.data[at])
			return 1;
		memcpy(copy, texts.data[at], sizes.data[at]);
		alarm(DEADLINE);
		LLVMFuzzerTestOneInput(copy, sizes.data[at]);
		free(copy);
		free(texts.data[at]);
		printf("ok %s\n", name);
		fflush(stdout);
	}
	VEC_FREE(&texts);
	VEC_FREE(&sizes);
	return 0;
}
