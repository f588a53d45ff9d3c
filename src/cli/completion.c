/*
 * Shell completion, made from a program's tables (options.h): after a verb what it may go on with, names of jobs and ids of checkpoints where it takes
 * them, options once a dash is typed, and an option's values. What is neither is a file. Behind `--` all is another program's.
 */
#include "cli/options.h"

/* What a shell calls the parts of the same function. In this order: head, the options with a value joined by `join`, loop, a line `value` for each
 * option whose values are known, those that have files, all others (which offer nothing), `verbs`, for each beginning of a verb one of `pattern` and `exact` with words and options,
 * tail. %1$s is the program. */
struct shell {
	const char *name, *join, *head, *loop, *value, *files, *others, *verbs, *pattern, *exact, *body, *tail;
};

static const struct shell shells[] = {
	{ .name = "bash",
	  .join = "|",
	  .head = "_%1$s() {\n\tlocal word=${COMP_WORDS[COMP_CWORD]} before=${COMP_WORDS[COMP_CWORD-1]} verb= words= options= i\n"
		  "\tfor ((i = 1; i < COMP_CWORD; i++)); do\n\t\tcase ${COMP_WORDS[i]} in\n\t\t--) return ;;\n\t\t",
	  .loop = ") ((i++)) ;;\n\t\t-*) ;;\n\t\t*) verb=\"$verb${COMP_WORDS[i]} \" ;;\n\t\tesac\n\tdone\n\tcase $before in\n",
	  .value = "\t--%s) COMPREPLY=($(compgen -W '%s' -- \"$word\")); return ;;\n",
	  .files = "|=) return ;;\n",
	  .others = ") return ;;\n",
	  .verbs = "\tesac\n\tcase $verb in\n",
	  .pattern = "\t'%s '*)",
	  .exact = "\t'%s')",
	  .body = " words=%s%s%s options='%s' ;;\n",
	  .tail = "\tesac\n\t[[ $word == -* ]] && words=$options\n\tCOMPREPLY=($(compgen -W \"$words\" -- \"$word\"))\n}\n"
		  "complete -o default -F _%1$s %1$s\n" },
	{ .name = "zsh",
	  .join = "|",
	  .head = "#compdef %1$s\n_%1$s() {\n\tlocal word=$words[CURRENT] before=$words[CURRENT-1] verb= list= options= i\n"
		  "\tfor ((i = 2; i < CURRENT; i++)); do\n\t\tcase $words[i] in\n\t\t--) _files; return ;;\n\t\t",
	  .loop = ") ((i++)) ;;\n\t\t-*) ;;\n\t\t*) verb=\"$verb$words[i] \" ;;\n\t\tesac\n\tdone\n\tcase $before in\n",
	  .value = "\t--%s) list='%s'; compadd -- ${=list}; return ;;\n",
	  .files = "|=) _files; return ;;\n",
	  .others = ") return ;;\n",
	  .verbs = "\tesac\n\tcase $verb in\n",
	  .pattern = "\t'%s '*)",
	  .exact = "\t'%s')",
	  .body = " list=%s%s%s options='%s' ;;\n",
	  .tail = "\tesac\n\t[[ $word == -* ]] && list=$options\n\tcompadd -- ${=list}\n\t[[ -n $list ]] || _files\n}\ncompdef _%1$s %1$s\n"
		  "[[ $funcstack[1] == _%1$s ]] && _%1$s \"$@\"\n" },
	{ .name = "fish",
	  .join = " ",
	  .head = "function __%1$s_words\n\tset -l verb ''\n\tset -l value ''\n\tset -l list ''\n\tset -l options ''\n\tset -l word (commandline -ct)\n"
		  "\tfor token in (commandline -opc)[2..-1]\n\t\tif test -n \"$value\"\n\t\t\tset value ''\n\t\t\tcontinue\n\t\tend\n\t\tswitch $token\n"
		  "\t\tcase --\n\t\t\t__fish_complete_path $word\n\t\t\treturn\n\t\tcase ",
	  .loop = "\n\t\t\tset value $token\n\t\tcase '-*'\n\t\tcase '*'\n\t\t\tset verb \"$verb$token \"\n\t\tend\n\tend\n\tswitch \"$value\"\n\tcase ''\n",
	  .value = "\tcase --%s\n\t\tstring split ' ' -- '%s'\n\t\treturn\n",
	  .files = "\n\t\t__fish_complete_path $word\n\t\treturn\n\tcase '*'\n\t\treturn\n",
	  .verbs = "\tend\n\tswitch $verb\n",
	  .pattern = "\tcase '%s *'\n",
	  .exact = "\tcase '%s'\n",
	  .body = "\t\tset list %s%s%s\n\t\tset options '%s'\n",
	  .tail = "\tend\n\tif string match -q -- '-*' $word\n\t\tset list (string split ' ' -- $options)\n\tend\n\tif test -n \"$list\"\n"
		  "\t\tprintf '%%s\\n' $list\n\telse\n\t\t__fish_complete_path $word\n\tend\nend\ncomplete -c %1$s -f -a '(__%1$s_words)'\n" },
};

/* ---- lists of words, in memory ---- */

struct text {
	char *data;
	size_t size;
	FILE *file;
};

static bool text_begin(struct text *t)
{
	t->file = open_memstream(&t->data, &t->size);
	return t->file;
}

static const char *text_end(struct text *t)
{
	fclose(t->file);
	return t->data;
}

/* The next words after the words of `prefix` that a verb can go on with. */
static void put_next_words(FILE *f, const struct program *p, const char *prefix)
{
	size_t length = strlen(prefix);
	const char *last = "";

	for (size_t i = 0; i < p->n_verbs; i++) {
		const char *name = p->verbs[i].name, *word = name + length + (length > 0);
		if (strncmp(name, prefix, length) || (length && name[length] != ' '))
			continue;
		size_t size = strcspn(word, " ");
		if (strlen(last) >= size && !strncmp(last, word, size) && (!last[size] || last[size] == ' '))
			continue;
		fprintf(f, "%s%.*s", *last ? " " : "", (int)size, word);
		last = word;
	}
}

static void put_options(FILE *f, const struct program *p, const struct verb *v)
{
	const char *between = "";

	for (size_t i = 0; i < p->n_rows; i++)
		if (option_belongs(p, v, &p->rows[i]) && !p->rows[i].missing) {
			fprintf(f, "%s--%s", between, p->rows[i].name);
			between = " ";
		}
}

/* ---- what a verb takes ---- */

/* A command that prints what may stand in the place of an argument, or NULL. */
static const char *list_of(const char *argument)
{
	if (strstr(argument, "JOB"))
		return "%s job list 2>/dev/null | sed \"1d;s/ .*//\"";
	if (!strncmp(argument, "ID", 2))
		return "%s checkpoints 2>/dev/null | sed \"1d;s/ .*//\"";
	return strstr(argument, "PID") ? "ps -e -o pid=" : NULL;
}

static void put_case(FILE *f, const struct program *p, const struct shell *s, const struct verb *v, const char *beginning)
{
	const bool fish = !strcmp(s->name, "fish");
	struct text words = {}, options = {};
	const char *list = v ? list_of(v->arguments) : NULL;

	if (!text_begin(&words) || !text_begin(&options))
		return;
	put_next_words(words.file, p, beginning);
	if (v && strchr(v->arguments, '|') && !list) /* bash|zsh|fish */
		for (const char *at = v->arguments; *at; at++)
			fputc(*at == '|' ? ' ' : *at, words.file);
	if (!strcmp(beginning, "help"))
		put_next_words(words.file, p, "");
	if (list)
		fprintf(words.file, list, p->name);
	if (v || !*beginning)
		put_options(options.file, p, v);
	text_end(&words);
	text_end(&options);
	/* A list of words in quotes, which fish splits, or what a command prints. */
	const char *open = list ? fish ? "(" : "$(" : fish ? "(string split ' ' -- '" : "'", *close = list ? ")" : fish ? "')" : "'";
	fprintf(f, s->body, open, words.data, close, options.data);
	free(words.data);
	free(options.data);
}

static size_t count_words(const char *name)
{
	size_t n = 1;

	for (; *name; name++)
		n += *name == ' ';
	return n;
}

/* The first `words` words of the name are where another verb's begin too; told once. */
static void put_beginning(FILE *f, const struct program *p, const struct shell *s, size_t at, size_t words)
{
	char beginning[64], exact[66];
	size_t length = 0;

	for (size_t n = 0; n < words; n++) {
		length += n > 0;
		length += strcspn(p->verbs[at].name + length, " ");
	}
	snprintf(beginning, sizeof(beginning), "%.*s", (int)length, p->verbs[at].name);
	for (size_t i = 0; i < p->n_verbs; i++) {
		const char *name = p->verbs[i].name;
		if (!strncmp(name, beginning, length) && ((i < at && name[length] == ' ') || !name[length]))
			return;
	}
	snprintf(exact, sizeof(exact), "%s ", beginning);
	fprintf(f, s->exact, exact);
	put_case(f, p, s, NULL, beginning);
}

static void put_verbs(FILE *f, const struct program *p, const struct shell *s)
{
	/* Longer names first: `check process` before `check`. */
	for (size_t words = 3; words >= 1; words--)
		for (size_t i = 0; i < p->n_verbs; i++) {
			const struct verb *v = &p->verbs[i];
			if (count_words(v->name) > words)
				put_beginning(f, p, s, i, words);
			if (count_words(v->name) != words)
				continue;
			fprintf(f, s->pattern, v->name);
			put_case(f, p, s, v, v->name);
		}
	fprintf(f, s->exact, "");
	put_case(f, p, s, NULL, "");
}

/* ---- values of options ---- */

static const char *values_of(const struct option_row *row)
{
	return row->values ? row->values : row->missing ? NULL : row->accepted;
}

static bool has_files(const struct option_row *row)
{
	static const char *const arguments[] = { "FILE", "DIR", "CHECKPOINT", "STORE", "PATH" };

	for (size_t i = 0; i < ARRAY_SIZE(arguments) && row->argument; i++)
		if (!strcmp(row->argument, arguments[i]))
			return true;
	return false;
}

/* A letter stands for options of several verbs; only one that always has a value takes the next word with it. */
static bool letter_takes_value(const struct program *p, char letter)
{
	bool all = letter;

	for (size_t i = 0; i < p->n_rows; i++)
		all &= p->rows[i].letter != letter || option_takes_value(&p->rows[i]);
	return all;
}

/* Those with a value; `files`: only where it is a file. Gives how many. */
static size_t put_with_value(FILE *f, const struct program *p, const struct shell *s, bool files)
{
	size_t n = 0;

	for (size_t i = 0; i < p->n_rows; i++) {
		const struct option_row *row = &p->rows[i];
		if (!option_takes_value(row) || (files && !has_files(row)))
			continue;
		fprintf(f, "%s--%s", n++ ? s->join : "", row->name);
		if (letter_takes_value(p, row->letter))
			fprintf(f, "%s-%c", s->join, row->letter);
	}
	return n;
}

static void put_completion(FILE *f, const struct program *p, const struct shell *s)
{
	const bool fish = !strcmp(s->name, "fish");

	fprintf(f, s->head, p->name);
	put_with_value(f, p, s, false);
	fputs(s->loop, f);
	for (size_t i = 0; i < p->n_rows; i++)
		if (option_takes_value(&p->rows[i]) && values_of(&p->rows[i]))
			fprintf(f, s->value, p->rows[i].name, values_of(&p->rows[i]));
	fputs(fish ? "\tcase " : "\t", f);
	put_with_value(f, p, s, true);
	fputs(s->files, f);
	if (s->others) {
		fputs("\t", f);
		put_with_value(f, p, s, false);
		fputs(s->others, f);
	}
	fputs(s->verbs, f);
	put_verbs(f, p, s);
	fprintf(f, s->tail, p->name);
}

bool help_completion(FILE *f, const struct program *p, const char *shell)
{
	for (size_t i = 0; i < ARRAY_SIZE(shells); i++)
		if (!strcmp(shells[i].name, shell)) {
			put_completion(f, p, &shells[i]);
			return true;
		}
	return false;
}
