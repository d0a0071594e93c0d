/*
 * The journald driver, speaking the journal's native protocol: one datagram per entry, a field per
 * line, and fields that contain newlines as name, length, bytes. Lines are put together across
 * reads up to STDIO_MAX bytes, because an entry is a line to whoever reads the journal.
 */
#include "conmon.h"

#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define JOURNAL_SOCKET "/run/systemd/journal/socket"
enum { SHORT_ID = 12, STALLED_MS = 1000 };

static int add_field(struct conmon *c, const char *name, const char *value, size_t len)
{
	struct journal *j = &c->journal;
	size_t left = sizeof(j->fixed) - j->fixed_len;
	int n = snprintf(j->fixed + j->fixed_len, left, "%s=%.*s\n", name, (int)len, value);

	if (n < 0 || (size_t)n >= left)
		return fail(c, EINVAL, "tag, name and labels are more than %zu bytes together", sizeof(j->fixed));
	if (memchr(value, '\n', len))
		return fail(c, EINVAL, "%s contains a newline", name);
	j->fixed_len += (size_t)n;
	return 0;
}

static int add_labels(struct conmon *c)
{
	int r = 0;

	if (c->opt.log_labels.count > LABELS_MAX)
		return fail(c, EINVAL, "more than %d labels", LABELS_MAX);
	for (const struct arg *a = c->opt.log_labels.first; r == 0 && a; a = a->next) {
		char name[256];
		size_t len = strcspn(a->value, "=");

		if (len >= sizeof(name))
			return fail(c, EINVAL, "label '%.40s...' is too long", a->value);
		memcpy(name, a->value, len);
		name[len] = '\0';
		r = add_field(c, name, a->value + len + 1, strlen(a->value + len + 1));
	}
	return r;
}

/* Prepares what is the same in all entries and the socket. A journal that is absent now may come. */
int journal_open(struct conmon *c)
{
	const struct options *opt = &c->opt;
	const char *identifier = opt->log_tag ? opt->log_tag : opt->name;
	int r;

	c->journal.fd = -1;
	if (!c->log.journald)
		return 0;
	if (!opt->cuuid || strlen(opt->cuuid) <= SHORT_ID)
		return fail(c, EINVAL, "Container ID must be longer than 12 characters");
	r = add_field(c, "CONTAINER_ID_FULL", opt->cuuid, strlen(opt->cuuid));
	if (r == 0)
		r = add_field(c, "CONTAINER_ID", opt->cuuid, SHORT_ID);
	if (r == 0 && opt->log_tag)
		r = add_field(c, "CONTAINER_TAG", opt->log_tag, strlen(opt->log_tag));
	if (r == 0 && opt->name)
		r = add_field(c, "CONTAINER_NAME", opt->name, strlen(opt->name));
	if (r == 0)
		r = add_field(c, "SYSLOG_IDENTIFIER", identifier ? identifier : opt->cuuid,
			      identifier ? strlen(identifier) : SHORT_ID);
	if (r == 0)
		r = add_labels(c);
	if (r < 0)
		return r;
	c->journal.fd = socket(AF_UNIX, SOCK_DGRAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
	if (c->journal.fd < 0)
		return fail(c, errno, "cannot make the journal socket");
	return 0;
}

/*
 * A journal that is busy is waited for, a sick one is not: after one wait in vain entries are
 * dropped until it takes one again. The container never blocks on its log for longer than that.
 */
static void send_entry(struct conmon *c, struct iovec *iov, size_t count, size_t content)
{
	static const struct sockaddr_un address = { .sun_family = AF_UNIX, .sun_path = JOURNAL_SOCKET };
	struct journal *j = &c->journal;
	struct msghdr message = {
		.msg_name = (void *)(uintptr_t)&address, .msg_namelen = sizeof(address),
		.msg_iov = iov, .msg_iovlen = count,
	};
	struct pollfd ready = { .fd = j->fd, .events = POLLOUT };
	ssize_t n = sendmsg(j->fd, &message, MSG_NOSIGNAL);

	for (int waited = 0; n < 0 && errno == EAGAIN && !j->stalled && waited < STALLED_MS; waited += 10) {
		/*
		 * An unconnected datagram socket polls writable while the peer's queue is full, so poll()
		 * only paces.
		 */
		ready.events = 0;
		(void)poll(&ready, 1, 10);
		n = sendmsg(j->fd, &message, MSG_NOSIGNAL);
	}
	if (n >= 0) {
		if (j->stalled)
			note(LEVEL_WARN, "the journal takes entries again; %lld bytes were dropped", (long long)j->dropped);
		j->stalled = false;
		return;
	}
	if (!j->stalled)
		note(LEVEL_WARN, "cannot write to the journal: %s; dropping entries", strerror(errno));
	j->stalled = true;
	j->dropped += (int64_t)content;
}

/* `<N>` before a line sets its priority, as for systemd's services. */
static size_t take_priority(const char *text, size_t len, char *priority)
{
	if (len < 3 || text[0] != '<' || text[1] < '0' || text[1] > '7' || text[2] != '>')
		return 0;
	*priority = text[1];
	return 3;
}

static void send_line(struct conmon *c, enum stream stream, const char *text, size_t len, bool whole)
{
	char priority[] = "PRIORITY=6\n";
	char head[8 + sizeof(uint64_t)] = "MESSAGE\n";
	static const char partial[] = "CONTAINER_PARTIAL_MESSAGE=true\n";

	priority[9] = stream == STREAM_STDERR ? '3' : '6';
	size_t skip = take_priority(text, len, &priority[9]);
	text += skip;
	len -= skip;
	for (size_t i = 0; i < 8; i++)
		head[8 + i] = (char)((uint64_t)len >> (8 * i) & 0xff);
	struct iovec iov[] = {
		{ head, sizeof(head) },
		{ (void *)(uintptr_t)text, len },
		{ (void *)(uintptr_t)"\n", 1 },
		{ priority, sizeof(priority) - 1 },
		{ c->journal.fixed, c->journal.fixed_len },
		{ (void *)(uintptr_t)partial, sizeof(partial) - 1 },
	};
	send_entry(c, iov, whole || c->opt.no_partial_message ? 5 : 6, len);
}

/* Appends buf; a last line without its newline waits for the rest. */
void journal_append(struct conmon *c, enum stream stream, const char *buf, size_t len)
{
	char *held = c->journal.partial[stream == STREAM_STDERR].text;
	size_t *held_len = &c->journal.partial[stream == STREAM_STDERR].len;

	while (len > 0) {
		const char *newline = memchr(buf, '\n', len);
		size_t content = newline ? (size_t)(newline - buf) : len;

		if (newline && *held_len == 0) {
			send_line(c, stream, buf, content, true);
		} else {
			if (content > STDIO_MAX - *held_len)
				content = STDIO_MAX - *held_len;
			bool whole = newline && buf + content == newline;
			memcpy(held + *held_len, buf, content);
			*held_len += content;
			if (whole || *held_len == STDIO_MAX) {
				send_line(c, stream, held, *held_len, whole);
				*held_len = 0;
			}
			newline = whole ? newline : NULL;
		}
		content += newline ? 1 : 0;
		buf += content;
		len -= content;
	}
}

/* Sends what never got its newline. */
void journal_flush(struct conmon *c)
{
	for (size_t i = 0; i < 2; i++) {
		size_t len = c->journal.partial[i].len;

		c->journal.partial[i].len = 0;
		if (len > 0)
			send_line(c, i ? STREAM_STDERR : STREAM_STDOUT, c->journal.partial[i].text, len, false);
	}
}
