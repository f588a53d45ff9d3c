/* A configuration file of options, its options stored. The first byte selects the program. */
#include "fuzz.h"

#include "cli/cli.h"

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct command_line c = {};
	struct given_options given = {};
	struct option_list texts = {};
	struct error e = {};
	const struct program *p = size && data[0] & 1 ? &program_criu : &program_fermata;

	fuzz_write(SANDBOX "/config", data + (size > 0), size - (size > 0));
	int r = config_read(p, SANDBOX "/config", false, &given, &texts, &e);
	for (size_t i = 0; !r && i < p->n_verbs; i++)
		options_store(p, &p->verbs[i], &given, &c, &e);
	VEC_FREE(&given);
	for (size_t i = 0; i < texts.count; i++)
		free((char *)texts.data[i]);
	VEC_FREE(&texts);
	VEC_FREE(&c.scripts);
	VEC_FREE(&c.features);
	VEC_FREE(&c.external);
	VEC_FREE(&c.inherit);
	return 0;
}
