/* libFuzzer: any command line, NUL between words. It is parsed or refused with a sentence. */
#include "../conmon.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct options opt;
	char *copy = malloc(size + 1), *argv[2048] = { "conmon" };
	char error[256] = "";
	int argc = 1;

	memcpy(copy, data, size);
	copy[size] = '\0';
	for (size_t at = 0; at <= size && argc < 2047; at += strlen(copy + at) + 1)
		argv[argc++] = copy + at;
	memset(&opt, 0, sizeof(opt));
	int r = cli_parse(&opt, argc, argv, error, sizeof(error));
	if ((r == 0) != (error[0] == '\0') || opt.pool_used > ARGS_TOTAL)
		abort();
	size_t listed = opt.exit_args.count + opt.runtime_args.count + opt.runtime_opts.count +
			opt.log_paths.count + opt.log_labels.count + opt.log_allow_dirs.count;
	if (listed != opt.pool_used)
		abort();
	free(copy);
	return 0;
}
