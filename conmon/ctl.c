/*
 * The FIFOs by which the caller controls us: `ctl` takes lines of three numbers, type, height and
 * width (1 resizes the terminal, 2 reopens the log), `winsz` takes height and width. Anybody with
 * the right to write may write anything, so lines are parsed strictly, and nonsense costs only the
 * line that it is in.
 */
#include "conmon.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <unistd.h>

enum { CTL_RESIZE = 1, CTL_REOPEN = 2 };

/*
 * count decimal numbers, 0 to 65535, blanks between; what comes after them and a blank is ignored, as upstream
 * does. Returns 0, or -EINVAL and writes nothing.
 */
int ctl_parse(const char *line, size_t len, unsigned *ret_numbers, size_t count)
{
	unsigned numbers[4];
	size_t i = 0;

	for (size_t n = 0; n < count; n++) {
		size_t start;
		unsigned value = 0;

		while (i < len && line[i] == ' ')
			i++;
		for (start = i; i < len && line[i] >= '0' && line[i] <= '9' && value <= UINT16_MAX; i++)
			value = value * 10 + (unsigned)(line[i] - '0');
		if (i == start || value > UINT16_MAX || (i < len && line[i] != ' '))
			return -EINVAL;
		numbers[n] = value;
	}
	memcpy(ret_numbers, numbers, count * sizeof(numbers[0]));
	return 0;
}

/* Cuts a stream into lines. One that is too long is skipped up to its newline; what follows counts again. */
void ctl_feed(struct line_reader *reader, const char *buf, size_t len,
	      void (*on_line)(void *context, const char *line, size_t len), void *context)
{
	while (len > 0) {
		const char *newline = memchr(buf, '\n', len);
		size_t part = newline ? (size_t)(newline - buf) : len;

		if (part > sizeof(reader->line) - reader->len) {
			reader->skip = true;
			reader->len = 0;
		}
		if (!reader->skip) {
			memcpy(reader->line + reader->len, buf, part);
			reader->len += part;
		}
		if (newline) {
			if (reader->skip)
				note(LEVEL_WARN, "ignoring a control line of more than %d bytes", CTL_LINE_MAX);
			else
				on_line(context, reader->line, reader->len);
			reader->len = 0;
			reader->skip = false;
			part++;
		}
		buf += part;
		len -= part;
	}
}

/* Gives the terminal the size last asked for; asking may come before there is a terminal. */
void ctl_resize(struct conmon *c)
{
	struct winsize size = { .ws_row = (unsigned short)c->rows, .ws_col = (unsigned short)c->columns };

	if (!c->opt.terminal || c->out.source.fd < 0 || (c->rows == 0 && c->columns == 0))
		return;
	if (ioctl(c->out.source.fd, TIOCSWINSZ, &size) < 0)
		note(LEVEL_WARN, "cannot resize the terminal: %s", strerror(errno));
}

static void resize(struct conmon *c, unsigned rows, unsigned columns)
{
	c->rows = rows;
	c->columns = columns;
	ctl_resize(c);
}

static void on_ctl_line(void *context, const char *line, size_t len)
{
	struct conmon *c = context;
	unsigned numbers[3];
	int r;

	if (ctl_parse(line, len, numbers, 3) < 0 || (numbers[0] != CTL_RESIZE && numbers[0] != CTL_REOPEN)) {
		note(LEVEL_WARN, "ignoring a control line that is not `type height width`");
		return;
	}
	if (numbers[0] == CTL_RESIZE) {
		resize(c, numbers[1], numbers[2]);
		return;
	}
	r = log_reopen(&c->log);
	if (r < 0)
		note(LEVEL_WARN, "cannot reopen the log: %s, going on in the old file", strerror(-r));
}

static void on_winsz_line(void *context, const char *line, size_t len)
{
	unsigned numbers[2];

	if (ctl_parse(line, len, numbers, 2) < 0)
		note(LEVEL_WARN, "ignoring a window size that is not `height width`");
	else
		resize(context, numbers[0], numbers[1]);
}

static void on_fifo(struct conmon *c, struct source *source, uint32_t events)
{
	bool ctl = source == &c->ctl;
	char buf[512];
	ssize_t n = read(source->fd, buf, sizeof(buf));

	(void)events;
	if (n > 0)
		ctl_feed(ctl ? &c->ctl_reader : &c->winsz_reader, buf, (size_t)n,
			 ctl ? on_ctl_line : on_winsz_line, c);
}

static int make_fifo(struct conmon *c, struct source *source, const char *name)
{
	struct stat st;

	if (unlinkat(c->bundle_fd, name, 0) < 0 && errno != ENOENT)
		return fail(c, errno, "cannot remove the old %s in %.300s", name, c->opt.bundle);
	if (mkfifoat(c->bundle_fd, name, 0660) < 0)
		return fail(c, errno, "cannot make the FIFO %s in %.300s", name, c->opt.bundle);
	/* Read and write: with a writer of our own it never hangs up between those of others. */
	source->fd = openat(c->bundle_fd, name, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);
	if (source->fd < 0 || fstat(source->fd, &st) < 0)
		return fail(c, errno, "cannot open the FIFO %s in %.300s", name, c->opt.bundle);
	if (!S_ISFIFO(st.st_mode))
		return fail(c, EINVAL, "%s in %.300s is no FIFO", name, c->opt.bundle);
	source->ready = on_fifo;
	return loop_add(c, source, EPOLLIN);
}

/* Makes both FIFOs in the bundle, if there is one. */
int ctl_open(struct conmon *c)
{
	int r;

	if (c->bundle_fd < 0)
		return 0;
	r = make_fifo(c, &c->ctl, "ctl");
	return r < 0 ? r : make_fifo(c, &c->winsz, "winsz");
}
