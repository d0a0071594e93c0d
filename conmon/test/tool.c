/*
 * What the suite needs and Node cannot do: SEQPACKET and datagram sockets, and a source of lines
 * that keeps a rate. Received messages go to stdout as a 4-byte little-endian length and the bytes.
 *
 *   tool attach PATH       an empty message when connected; then stdin to packets, end of stdin
 *                          half-closes, and packets received to stdout
 *   tool deaf PATH         attaches, never reads, until stdin ends
 *   tool slow PATH MS      attaches, and takes a packet every MS
 *   tool fill PATH         makes the pipe PATH a large one and writes to it for ever
 *   tool leave PATH N      attaches, sends N bytes, and leaves
 *   tool cycles PATH N     attaches and detaches N times
 *   tool dgram PATH        binds PATH; datagrams to stdout until stdin ends
 *   tool send PATH         stdin as one datagram
 *   tool lines MB SECONDS  numbered lines of 100 bytes, MB per second
 *   tool eat BYTES         touches that much memory
 *   tool changes DIR FILE  says ready, then each time that FILE is made in DIR or written to, as CRI-O looks for it
 */
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/inotify.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <time.h>
#include <unistd.h>

static char buf[256 * 1024];

static int die(const char *what)
{
	fprintf(stderr, "tool: %s: %s\n", what, strerror(errno));
	return 1;
}

static struct sockaddr_un address_of(const char *path)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", path);
	return address;
}

static int attach(const char *path)
{
	struct sockaddr_un address = address_of(path);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET, 0);

	if (fd >= 0 && connect(fd, (struct sockaddr *)&address, sizeof(address)) == 0)
		return fd;
	if (fd >= 0)
		close(fd);
	return -1;
}

static int put(ssize_t n)
{
	uint32_t len = (uint32_t)n;

	return fwrite(&len, sizeof(len), 1, stdout) == 1 && fwrite(buf, 1, len, stdout) == len && fflush(stdout) == 0;
}

/* Copies from fd to stdout and, with `both`, from stdin to fd, until fd ends (or stdin, without `both`). */
static int relay(int fd, int both)
{
	struct pollfd fds[] = { { .fd = fd, .events = POLLIN }, { .fd = 0, .events = POLLIN } };

	for (;;) {
		if (poll(fds, 2, -1) < 0)
			return die("poll");
		if (fds[0].revents) {
			ssize_t n = recv(fd, buf, sizeof(buf), 0);
			if (n < 0 || (n == 0 && both))
				return 0;
			if (!put(n))
				return 0;
		}
		if (fds[1].revents) {
			ssize_t n = read(0, buf, 32768);
			if (n > 0 && both && send(fd, buf, (size_t)n, MSG_NOSIGNAL) < 0)
				fds[1].fd = -1;
			if (n <= 0 && !both)
				return 0;
			if (n <= 0) {
				shutdown(fd, SHUT_WR);
				fds[1].fd = -1;
			}
		}
	}
}

static int dgram(const char *path)
{
	struct sockaddr_un address = address_of(path);
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);

	if (fd < 0 || bind(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
		return die(path);
	buf[0] = 'r';
	put(1);
	return relay(fd, 0);
}

static int send_stdin(const char *path)
{
	struct sockaddr_un address = address_of(path);
	int fd = socket(AF_UNIX, SOCK_DGRAM, 0);
	size_t len = fread(buf, 1, sizeof(buf), stdin);

	return sendto(fd, buf, len, 0, (struct sockaddr *)&address, sizeof(address)) < 0 ? die(path) : 0;
}

static int slow(const char *path, int ms)
{
	int fd = attach(path);

	if (fd < 0)
		return die(path);
	for (ssize_t n = 0; n >= 0 && put(n); n = recv(fd, buf, sizeof(buf), 0))
		poll(NULL, 0, ms);
	return 0;
}

static int fill(const char *path)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);

	if (fd < 0 || fcntl(fd, F_SETPIPE_SZ, 1 << 20) < 0)
		return die(path);
	memset(buf, 'x', sizeof(buf));
	while (write(fd, buf, 65536) > 0)
		;
	return 0;
}

static int cycles(const char *path, int count)
{
	for (int i = 0; i < count; i++) {
		int fd;
		/* The backlog is ten; being refused is part of the game. */
		while ((fd = attach(path)) < 0)
			if (errno != EAGAIN && errno != ECONNREFUSED)
				return die(path);
			else
				poll(NULL, 0, 1);
		close(fd);
	}
	return 0;
}

static int leave(const char *path, size_t len)
{
	int fd = attach(path);

	if (fd < 0)
		return die(path);
	for (size_t done = 0; done < len;) {
		ssize_t n = send(fd, buf, len - done < 32768 ? len - done : 32768, MSG_NOSIGNAL);
		if (n < 0)
			return die("send");
		done += (size_t)n;
	}
	return 0;
}

static int lines(double rate_mb, double seconds)
{
	struct timespec start, now;
	uint64_t line = 0;

	clock_gettime(CLOCK_MONOTONIC, &start);
	for (;;) {
		size_t len = 0;
		clock_gettime(CLOCK_MONOTONIC, &now);
		double passed = (double)(now.tv_sec - start.tv_sec) + (double)(now.tv_nsec - start.tv_nsec) / 1e9;
		if (passed >= seconds)
			return 0;
		if ((double)line * 100 > passed * rate_mb * 1e6) {
			poll(NULL, 0, 1);
			continue;
		}
		for (int i = 0; i < 600; i++)
			len += (size_t)snprintf(buf + len, sizeof(buf) - len, "%012llu %086d\n", (unsigned long long)line++, 0);
		for (size_t done = 0; done < len;) {
			ssize_t n = write(1, buf + done, len - done);
			if (n <= 0)
				return 1;
			done += (size_t)n;
		}
	}
}

static int eat(size_t bytes)
{
	char *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (p == MAP_FAILED)
		return die("mmap");
	for (size_t i = 0; i < bytes; i += 4096)
		p[i] = 1;
	return 0;
}

static int changes(const char *dir, const char *name)
{
	int fd = inotify_init1(IN_CLOEXEC);
	ssize_t n;

	if (fd < 0 || inotify_add_watch(fd, dir, IN_CREATE | IN_MOVED_TO | IN_MODIFY) < 0)
		return die(dir);
	puts("ready");
	fflush(stdout);
	while ((n = read(fd, buf, sizeof(buf))) > 0) {
		for (char *at = buf; at < buf + n;) {
			struct inotify_event event;

			memcpy(&event, at, sizeof(event));
			if (event.len > 0 && strcmp(at + sizeof(event), name) == 0)
				puts(event.mask & IN_MODIFY ? "written" : "made");
			at += sizeof(event) + event.len;
		}
		fflush(stdout);
	}
	return die("read");
}

int main(int argc, char *argv[])
{
	const char *verb = argc > 2 ? argv[1] : "";
	int fd;

	if (strcmp(verb, "dgram") == 0)
		return dgram(argv[2]);
	if (strcmp(verb, "send") == 0)
		return send_stdin(argv[2]);
	if (strcmp(verb, "cycles") == 0 && argc > 3)
		return cycles(argv[2], atoi(argv[3]));
	if (strcmp(verb, "fill") == 0)
		return fill(argv[2]);
	if (strcmp(verb, "slow") == 0 && argc > 3)
		return slow(argv[2], atoi(argv[3]));
	if (strcmp(verb, "leave") == 0 && argc > 3)
		return leave(argv[2], (size_t)atoll(argv[3]));
	if (strcmp(verb, "lines") == 0 && argc > 3)
		return lines(atof(argv[2]), atof(argv[3]));
	if (strcmp(verb, "changes") == 0 && argc > 3)
		return changes(argv[2], argv[3]);
	if (strcmp(verb, "eat") == 0)
		return eat((size_t)atoll(argv[2]));
	if (strcmp(verb, "attach") != 0 && strcmp(verb, "deaf") != 0)
		return die("usage: see the source");
	fd = attach(argv[2]);
	if (fd < 0)
		return die(argv[2]);
	if (strcmp(verb, "attach") == 0)
		return put(0) ? relay(fd, 1) : 1;
	while (read(0, buf, sizeof(buf)) > 0)
		;
	return 0;
}
