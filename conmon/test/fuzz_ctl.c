/*
 * libFuzzer: what anybody may write into ctl, in pieces of any size. The first byte chooses the size.
 * Lines must be the same however they are cut, and a parsed number is within its bounds.
 */
#include "../conmon.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

struct sums { uint64_t whole, pieces, *now; };

static void on_line(void *context, const char *line, size_t len)
{
	struct sums *sums = context;
	unsigned numbers[3];

	if (len > CTL_LINE_MAX || memchr(line, '\n', len))
		abort();
	for (size_t i = 0; i < len; i++)
		*sums->now = *sums->now * 31 + (unsigned char)line[i];
	*sums->now = *sums->now * 31 + '\n';
	for (size_t count = 2; count <= 3; count++) {
		if (ctl_parse(line, len, numbers, count) < 0)
			continue;
		for (size_t i = 0; i < count; i++)
			if (numbers[i] > UINT16_MAX)
				abort();
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	struct line_reader whole = { .len = 0 }, cut = { .len = 0 };
	struct sums sums = { 0, 0, NULL };

	if (size < 1)
		return 0;
	note_open("fuzz", NULL, LEVEL_ERROR, false);
	size_t piece = (size_t)data[0] + 1;
	const char *text = (const char *)data + 1;
	size--;
	sums.now = &sums.whole;
	ctl_feed(&whole, text, size, on_line, &sums);
	sums.now = &sums.pieces;
	for (size_t at = 0; at < size; at += piece)
		ctl_feed(&cut, text + at, size - at < piece ? size - at : piece, on_line, &sums);
	if (sums.whole != sums.pieces || whole.len != cut.len || whole.skip != cut.skip)
		abort();
	return 0;
}

/* ctl.c needs these to link; parsing never gets there. */
int log_reopen(struct log *log)
{
	(void)log;
	return 0;
}

int loop_add(struct conmon *conmon, struct source *source, uint32_t events)
{
	(void)conmon, (void)source, (void)events;
	return 0;
}
