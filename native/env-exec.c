/*
 * env-exec: sets environment variables whose values no JSON string can hold, then executes a command in its place.
 *
 *   /dev/.berth-env KEY=%ff%fe… [KEY=…] -- command [argument…]
 *
 * In a value `%xx` is the byte with that hexadecimal number, everything else stands for itself. pkg/spec
 * mounts this program into containers that have such a variable, and writes it in front of their command; so
 * it runs with the container's own identity and confinement, and needs nothing of its root: static, no
 * locale, no allocation.
 *
 * The command is looked up in PATH as execvp(3) does. Exit codes as env(1) has them: 127 there is no such
 * program, 126 it cannot be executed, 125 wrong usage.
 */
#define _GNU_SOURCE
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { EXIT_USAGE = 125, EXIT_REFUSED = 126, EXIT_ABSENT = 127 };

static int digit(char c)
{
	if (c >= '0' && c <= '9')
		return c - '0';
	if (c >= 'a' && c <= 'f')
		return c - 'a' + 10;
	if (c >= 'A' && c <= 'F')
		return c - 'A' + 10;
	return -1;
}

/*
 * Replaces %xx by its byte in place, which is never longer. Returns -1 for anything that is no %xx of a byte
 * other than NUL.
 */
static int decode(char *text)
{
	char *out = text;
	for (const char *in = text; *in != '\0'; in++) {
		if (*in != '%') {
			*out++ = *in;
			continue;
		}
		int high = digit(in[1]);
		int low = high < 0 ? -1 : digit(in[2]);
		if (low < 0 || (high == 0 && low == 0))
			return -1;
		*out++ = (char)(high * 16 + low);
		in += 2;
	}
	*out = '\0';
	return 0;
}

int main(int argc, char **argv)
{
	int i = 1;
	for (; i < argc && strcmp(argv[i], "--") != 0; i++) {
		char *value = strchr(argv[i], '=');
		if (value == NULL || value == argv[i] || decode(value + 1) < 0 || putenv(argv[i]) != 0) {
			fprintf(stderr, "env-exec: not NAME=value with %%xx for bytes: argument %d\n", i);
			return EXIT_USAGE;
		}
	}
	if (i + 1 >= argc) {
		fputs("usage: env-exec [NAME=value]... -- command [argument]...\n", stderr);
		return EXIT_USAGE;
	}
	execvp(argv[i + 1], argv + i + 1);
	int why = errno;
	/* With a line that runtimes' errors look like, since this is where the user's own mistakes end up. */
	fprintf(stderr, "exec %s: %s\n", argv[i + 1], strerror(why));
	return why == ENOENT ? EXIT_ABSENT : EXIT_REFUSED;
}
