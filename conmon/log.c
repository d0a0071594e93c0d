/*
 * The container's log in the format the kubelet reads, one line per newline:
 *
 *     2026-11-22T07:15:00.123456789+00:00 stdout F a whole line
 *     2026-11-22T07:15:00.123456789+00:00 stdout P a piece with no newline yet
 *
 * Times are UTC, so that lines sort and no hour occurs twice; the offset is a number because
 * podman does not read `Z`. Every write(2) ends at the end of a line, so a reopen or a rotation
 * never cuts one. A write that fails never stops the container: the lines are dropped and counted.
 *
 * A piece is held for TAIL_MS: if the stream ends meanwhile it was the last line and is written as
 * one, which is what log readers wait for; else it is a prompt, and goes out as a piece. A stream
 * that ends later ends its last line with an empty F.
 */
#include "conmon.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

/* --- writing ---------------------------------------------------------------------------------- */

static void drop(struct log *log, size_t bytes, int error)
{
	if (log->error != error)
		note(LEVEL_WARN, "cannot write the log: %s; dropping lines until it works again", strerror(error));
	log->error = error;
	log->dropped += (int64_t)bytes;
}

static void recovered(struct log *log)
{
	if (log->error)
		note(LEVEL_WARN, "the log can be written again; %lld bytes were dropped so far",
		     (long long)log->dropped);
	log->error = 0;
}

/* A full disk may have taken half a line. Takes it back, so that the next line begins at the left. */
static void cut_torn_line(struct log *log, const char *buf, size_t written)
{
	const char *newline = written ? memrchr(buf, '\n', written) : NULL;
	size_t torn = newline ? written - (size_t)(newline + 1 - buf) : written;
	struct stat st;

	if (torn == 0)
		return;
	if (fstat(log->fd, &st) == 0 && st.st_size >= (off_t)torn &&
	    ftruncate(log->fd, st.st_size - (off_t)torn) == 0)
		return;
	(void)!write(log->fd, "\n", 1);
}

static void flush(struct log *log)
{
	size_t done = 0, len = log->out_len;

	log->out_len = 0;
	while (done < len) {
		ssize_t n = write(log->fd, log->out + done, len - done);

		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0) {
			int error = n < 0 ? errno : EIO;
			cut_torn_line(log, log->out, done);
			drop(log, len - done, error);
			return;
		}
		done += (size_t)n;
	}
	if (len > 0)
		recovered(log);
}

/* Days since 1970 to a date of the proleptic Gregorian calendar, after Hinnant's civil_from_days. */
static void civil_date(int64_t days, int *ret_year, unsigned *ret_month, unsigned *ret_day)
{
	int64_t shifted = days + 719468; /* from 1 March of the year 0 */
	int64_t era = (shifted >= 0 ? shifted : shifted - 146096) / 146097;
	unsigned day_of_era = (unsigned)(shifted - era * 146097);
	unsigned year_of_era =
		(day_of_era - day_of_era / 1460 + day_of_era / 36524 - day_of_era / 146096) / 365;
	unsigned day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
	unsigned month = (5 * day_of_year + 2) / 153;

	*ret_day = day_of_year - (153 * month + 2) / 5 + 1;
	*ret_month = month < 10 ? month + 3 : month - 9;
	*ret_year = (int)(year_of_era + era * 400) + (*ret_month <= 2);
}

/* "2026-11-22T07:15:00.123456789+00:00 "; all but the nanoseconds is kept for the rest of the second. */
static size_t make_stamp(struct log *log)
{
	enum { NANOS_AT = 20, STAMP_LEN = 36 };
	struct timespec now;

	(void)clock_gettime(CLOCK_REALTIME, &now);
	if (now.tv_sec != log->stamp_second) {
		int64_t days = now.tv_sec / 86400, second = now.tv_sec % 86400;
		unsigned month, day;
		int year;

		civil_date(days, &year, &month, &day);
		(void)snprintf(log->stamp, sizeof(log->stamp), "%04d-%02u-%02uT%02d:%02d:%02d.000000000+00:00 ",
			       year, month, day, (int)(second / 3600), (int)(second / 60 % 60), (int)(second % 60));
		log->stamp_second = now.tv_sec;
	}
	long nanos = now.tv_nsec;
	for (int i = NANOS_AT + 8; i >= NANOS_AT; i--) {
		log->stamp[i] = (char)('0' + nanos % 10);
		nanos /= 10;
	}
	return STAMP_LEN;
}

static void put(struct log *log, const char *text, size_t len)
{
	memcpy(log->out + log->out_len, text, len);
	log->out_len += len;
}

/* Returns false when there is to be no more log. */
static bool make_room(struct log *log, size_t line)
{
	const struct options *opt = log->opt;

	if (opt->log_global_size_max > 0 && log->total_bytes >= opt->log_global_size_max)
		return false;
	if (opt->log_size_max > 0 && log->file_bytes > 0 &&
	    log->file_bytes + (int64_t)line > opt->log_size_max) {
		flush(log);
		int r = log_next_file(log);
		if (r < 0)
			note(LEVEL_WARN, "cannot start a new log file: %s, going on in the old one", strerror(-r));
		log->file_bytes = r < 0 ? 0 : log->file_bytes;
	}
	if (log->out_len + line > sizeof(log->out))
		flush(log);
	return true;
}

/* Formats one line; false when there is to be no more log. */
static bool put_line(struct log *log, enum stream stream, char tag, const char *text, size_t len)
{
	const char mark[2] = { tag, ' ' };
	size_t stamp = make_stamp(log);
	size_t line = stamp + 9 + len + 1;

	if (!make_room(log, line))
		return false;
	put(log, log->stamp, stamp);
	put(log, stream == STREAM_STDERR ? "stderr " : "stdout ", 7);
	put(log, mark, 2);
	put(log, text, len);
	put(log, "\n", 1);
	log->file_bytes += (int64_t)line;
	log->total_bytes += (int64_t)line;
	return true;
}

static struct tail *tail_of(struct log *log, enum stream stream)
{
	return &log->tails[stream == STREAM_STDERR];
}

/* What is held is no last line. */
static bool put_tail(struct log *log, enum stream stream)
{
	struct tail *tail = tail_of(log, stream);
	bool more = tail->len == 0 || put_line(log, stream, 'P', tail->text, tail->len);

	tail->open = tail->open || tail->len > 0;
	tail->len = 0;
	return more;
}

/*
 * Appends buf, at most STDIO_MAX bytes from one read(). What cannot be written is dropped and
 * counted in log->dropped. Returns whether anything is held: then call log_release() in TAIL_MS.
 */
bool log_append(struct log *log, enum stream stream, const char *buf, size_t len)
{
	struct tail *tail = tail_of(log, stream);
	bool more = log->fd >= 0 && len > 0 && put_tail(log, stream);

	while (more && len > 0) {
		const char *newline = memchr(buf, '\n', len);
		size_t content = newline ? (size_t)(newline - buf) : len;

		if (!newline) {
			memcpy(tail->text, buf, len);
			tail->len = len;
			break;
		}
		more = put_line(log, stream, 'F', buf, content);
		tail->open = false;
		buf += content + 1;
		len -= content + 1;
	}
	if (log->fd >= 0)
		flush(log);
	return log->tails[0].len > 0 || log->tails[1].len > 0;
}

/* Nothing came behind what is held: it is a piece, and somebody may be waiting to see it. */
void log_release(struct log *log)
{
	(void)put_tail(log, STREAM_STDOUT);
	(void)put_tail(log, STREAM_STDERR);
	flush(log);
}

/* The stream has ended, and with it its last line. */
void log_end(struct log *log, enum stream stream)
{
	struct tail *tail = tail_of(log, stream);

	if (tail->len > 0 || tail->open)
		(void)put_line(log, stream, 'F', tail->text, tail->len);
	tail->len = 0;
	tail->open = false;
	flush(log);
}

/* The log is on the disk when this returns; and says, once more, what is not in it. */
void log_sync(struct log *log)
{
	if (log->dropped > 0)
		note(LEVEL_WARN, "%lld bytes of log were dropped", (long long)log->dropped);
	if (log->fd >= 0 && !log->opt->no_sync_log && fsync(log->fd) < 0 && errno != EINVAL)
		note(LEVEL_WARN, "cannot sync the log: %s, ignoring", strerror(errno));
}
