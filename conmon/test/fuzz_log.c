/*
 * libFuzzer: any output, in reads of any size, with any limit on the file. The log must consist of
 * whole CRI lines, and when nothing limits it, carry exactly what each stream wrote, and end its
 * last line.
 *
 * Input: one byte that chooses --log-size-max and rotation, then per read one byte of stream, one
 * byte of size and the bytes.
 */
#include "../conmon.h"

#include <fcntl.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

static char path[128], file[1 << 22], expected[2][1 << 20], found[2][1 << 20];
static size_t wrote[2], read_back[2];

static void remove_logs(void)
{
	char name[160];

	(void)unlink(path);
	for (int i = 1; i <= 3; i++) {
		(void)snprintf(name, sizeof(name), "%s.%d", path, i);
		(void)unlink(name);
	}
}

/* Aborts unless every line is `stamp stream F|P text`; collects the text of each stream. */
static void check_lines(size_t len)
{
	read_back[0] = read_back[1] = 0;
	for (char *line = file, *end = file + len; line < end;) {
		char *newline = memchr(line, '\n', (size_t)(end - line));
		if (!newline || newline - line < 45 || line[35] != ' ' || line[42] != ' ' || line[44] != ' ')
			abort();
		if (memcmp(line + 36, "stdout", 6) != 0 && memcmp(line + 36, "stderr", 6) != 0)
			abort();
		int which = line[39] == 'e';
		memcpy(found[which] + read_back[which], line + 45, (size_t)(newline - line) - 45);
		read_back[which] += (size_t)(newline - line) - 45;
		if (line[43] == 'F')
			found[which][read_back[which]++] = '\n';
		else if (line[43] != 'P')
			abort();
		line = newline + 1;
	}
}

/* As a reader has it: a last line that was not ended is. */
static void end_expected(int which)
{
	if (wrote[which] > 0 && expected[which][wrote[which] - 1] != '\n')
		expected[which][wrote[which]++] = '\n';
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static struct log log;
	static struct options opt;
	char error[256], config[160];
	struct arg arg = { config, NULL };
	int release;

	wrote[0] = wrote[1] = 0;
	if (size < 1 || size > 100000)
		return 0;
	note_open("fuzz", NULL, LEVEL_ERROR, false);
	if (!path[0])
		(void)snprintf(path, sizeof(path), "%s/conmon-fuzz-%d.log", getenv("TMPDIR") ? getenv("TMPDIR") : "/tmp", getpid());
	(void)snprintf(config, sizeof(config), "k8s-file:%s", path);
	memset(&log, 0, sizeof(log));
	memset(&opt, 0, sizeof(opt));
	opt.log_paths = (struct arg_list){ &arg, &arg, 1 };
	opt.log_size_max = data[0] % 4 == 0 ? -1 : data[0] * 16;
	opt.log_global_size_max = data[0] % 8 == 1 ? data[0] * 64 : -1;
	opt.log_rotate = data[0] % 4 == 2;
	opt.log_max_files = 3;
	opt.no_sync_log = true;
	if (log_open(&log, &opt, error, sizeof(error)) < 0)
		abort();
	for (size_t at = 1; at + 2 <= size;) {
		size_t len = (size_t)data[at + 1] * 33;
		len = len > STDIO_MAX ? STDIO_MAX : len;
		len = len > size - at - 2 ? size - at - 2 : len;
		if (data[at] == 0xff && log_reopen(&log) < 0)
			abort();
		int which = data[at] & 1;
		release = data[at] & 2;
		if (log_append(&log, which ? STREAM_STDERR : STREAM_STDOUT, (const char *)data + at + 2, len) && release)
			log_release(&log);
		memcpy(expected[which] + wrote[which], data + at + 2, len);
		wrote[which] += len;
		at += 2 + len;
	}
	log_end(&log, STREAM_STDOUT);
	log_end(&log, STREAM_STDERR);
	end_expected(0);
	end_expected(1);
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = read(fd, file, sizeof(file));
	(void)close(fd);
	if (n < 0 || log.dropped != 0)
		abort();
	check_lines((size_t)n);
	for (int i = 0; i < 2 && opt.log_size_max < 0 && opt.log_global_size_max < 0; i++)
		if (read_back[i] != wrote[i] || memcmp(found[i], expected[i], wrote[i]) != 0)
			abort();
	(void)close(log.fd);
	remove_logs();
	return 0;
}
