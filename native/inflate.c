/*
 * Inflating: gzip and zstd data of a descriptor, on a thread of its own, some blocks ahead of whoever reads.
 *
 * The same as node:zlib's streams, by the same libraries, without a buffer of V8's per block and a trip through two event loops for each. The
 * libraries are Node's own: it exports zlib on purpose, zstd as it happens; where they are not to be found, node:zlib has to do.
 */
#define _GNU_SOURCE
#include <dlfcn.h>
#include <pthread.h>
#include <stdio.h>
#include <string.h>
#include <zlib.h>

#include "addon.h"

#define BLOCK_BYTES (256 * 1024)
#define INPUT_BYTES (128 * 1024)
#define BLOCKS 4
#define INFLATERS_MAX 16

enum { KIND_GZIP, KIND_ZSTD };

/* Node has no zstd.h to include; these have been so since zstd 1.4. */
struct zstd_out {
	void *data;
	size_t size, pos;
};
struct zstd_in {
	const void *data;
	size_t size, pos;
};
#define ZSTD_WINDOW_LOG_MAX 100
#define ZSTD_ERROR_WINDOW_TOO_LARGE 16
#define ZSTD_ERROR_MEMORY 64

static struct {
	int (*inflate_init)(z_streamp stream, int window_bits, const char *version, int size);
	int (*inflate)(z_streamp stream, int flush);
	int (*inflate_reset)(z_streamp stream);
	int (*inflate_end)(z_streamp stream);
	void *(*zstd_create)(void);
	size_t (*zstd_free)(void *context);
	size_t (*zstd_set)(void *context, int parameter, int value);
	size_t (*zstd_decompress)(void *context, struct zstd_out *out, struct zstd_in *in);
	int (*zstd_error_code)(size_t result);
	const char *(*zstd_error_name)(size_t result);
	bool has[2];
} lib;

struct inflater {
	struct job job;
	int64_t id;
	int fd, kind;
	z_stream gzip;
	void *zstd;
	bool between; /* no frame or member is open */
	char *input, *blocks;
	struct zstd_in in;
	bool in_ended;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	unsigned refs; /* the table, the thread, and each reader */
	bool closed, ended;
	unsigned filled, read; /* how many blocks so far */
	size_t lengths[BLOCKS];
	int64_t consumed, consumed_for[BLOCKS];
	int error;
	char detail[100];
};

static pthread_mutex_t table_lock = PTHREAD_MUTEX_INITIALIZER;
static struct inflater *table[INFLATERS_MAX];
static int64_t last_id;

static void find_libraries(void)
{
	struct {
		const char *name;
		void *slot;
		int kind;
	} wanted[] = {
		{ "inflateInit2_", &lib.inflate_init, KIND_GZIP },
		{ "inflate", &lib.inflate, KIND_GZIP },
		{ "inflateReset", &lib.inflate_reset, KIND_GZIP },
		{ "inflateEnd", &lib.inflate_end, KIND_GZIP },
		{ "ZSTD_createDCtx", &lib.zstd_create, KIND_ZSTD },
		{ "ZSTD_freeDCtx", &lib.zstd_free, KIND_ZSTD },
		{ "ZSTD_DCtx_setParameter", &lib.zstd_set, KIND_ZSTD },
		{ "ZSTD_decompressStream", &lib.zstd_decompress, KIND_ZSTD },
		{ "ZSTD_getErrorCode", &lib.zstd_error_code, KIND_ZSTD },
		{ "ZSTD_getErrorName", &lib.zstd_error_name, KIND_ZSTD },
	};
	lib.has[KIND_GZIP] = lib.has[KIND_ZSTD] = true;
	for (size_t i = 0; i < sizeof wanted / sizeof *wanted; i++) {
		void *found = dlsym(RTLD_DEFAULT, wanted[i].name);
		memcpy(wanted[i].slot, &found, sizeof found);
		if (found == NULL)
			lib.has[wanted[i].kind] = false;
	}
}

static int failed(struct inflater *f, int error, const char *detail)
{
	snprintf(f->detail, sizeof f->detail, "%s", detail);
	return -error;
}

/* More input, unless there is some. 0 or -errno; at the end of the file in_ended. */
static int fill_input(struct inflater *f)
{
	if (f->in.pos < f->in.size || f->in_ended)
		return 0;
	ssize_t n = read(f->fd, f->input, INPUT_BYTES);
	if (n < 0)
		return failed(f, errno, "read");
	f->in = (struct zstd_in){ f->input, (size_t)n, 0 };
	f->in_ended = n == 0;
	f->consumed += n;
	return 0;
}

/* One step of the library. Bytes made, or -errno. */
static int64_t step_gzip(struct inflater *f, char *out, size_t room)
{
	z_stream *z = &f->gzip;
	const char *in = f->in.data;
	if (f->between && f->in.pos < f->in.size) {
		/* Zeros behind a member are padding. */
		while (f->in.pos < f->in.size && in[f->in.pos] == '\0')
			f->in.pos++;
		if (f->in.pos == f->in.size)
			return 0;
		lib.inflate_reset(z);
		f->between = false;
	}
	z->next_in = (unsigned char *)f->input + f->in.pos;
	z->avail_in = (unsigned)(f->in.size - f->in.pos);
	z->next_out = (unsigned char *)out;
	z->avail_out = (unsigned)room;
	int r = f->between ? Z_BUF_ERROR : lib.inflate(z, Z_NO_FLUSH);
	f->in.pos = f->in.size - z->avail_in;
	if (r == Z_MEM_ERROR)
		return failed(f, ENOMEM, "inflate");
	if (r != Z_OK && r != Z_STREAM_END && r != Z_BUF_ERROR)
		return failed(f, EBADMSG, z->msg != NULL ? z->msg : "inflate");
	f->between = f->between || r == Z_STREAM_END;
	return (int64_t)(room - z->avail_out);
}

static int64_t step_zstd(struct inflater *f, char *out, size_t room)
{
	struct zstd_out into = { out, room, 0 };
	size_t before = f->in.pos;
	size_t r = lib.zstd_decompress(f->zstd, &into, &f->in);
	int code = lib.zstd_error_code(r);
	if (code == ZSTD_ERROR_WINDOW_TOO_LARGE)
		return failed(f, EFBIG, lib.zstd_error_name(r));
	if (code != 0)
		return failed(f, code == ZSTD_ERROR_MEMORY ? ENOMEM : EBADMSG, lib.zstd_error_name(r));
	/* Without input it says what it would like to have for the next frame. */
	if (f->in.pos > before || into.pos > 0)
		f->between = r == 0;
	return (int64_t)into.pos;
}

/* Fills a block as far as the data goes. Its length, or -errno. */
static int64_t fill_block(struct inflater *f, char *block)
{
	size_t have = 0;
	while (have < BLOCK_BYTES) {
		int r = fill_input(f);
		if (r < 0)
			return r;
		int64_t n = f->kind == KIND_GZIP ? step_gzip(f, block + have, BLOCK_BYTES - have) : step_zstd(f, block + have, BLOCK_BYTES - have);
		if (n < 0)
			return n;
		have += (size_t)n;
		if (n == 0 && f->in_ended)
			return f->between ? (int64_t)have : failed(f, EBADMSG, "cut short");
	}
	return (int64_t)have;
}

static void inflater_free(struct inflater *f)
{
	if (f->kind == KIND_GZIP)
		lib.inflate_end(&f->gzip);
	else
		lib.zstd_free(f->zstd);
	pthread_mutex_destroy(&f->lock);
	pthread_cond_destroy(&f->changed);
	close_fd(&f->fd);
	free(f->input);
	free(f->blocks);
	free(f);
}

/* Called with the lock held; unlocks. */
static void inflater_unref(struct inflater *f)
{
	bool last = --f->refs == 0;
	pthread_mutex_unlock(&f->lock);
	if (last)
		inflater_free(f);
}

static void inflater_run(struct job *job)
{
	struct inflater *f = (struct inflater *)job;
	pthread_mutex_lock(&f->lock);
	while (!f->closed && !f->ended) {
		if (f->filled - f->read == BLOCKS) {
			pthread_cond_wait(&f->changed, &f->lock);
			continue;
		}
		unsigned at = f->filled % BLOCKS;
		pthread_mutex_unlock(&f->lock);
		int64_t n = fill_block(f, f->blocks + (size_t)at * BLOCK_BYTES);
		pthread_mutex_lock(&f->lock);
		f->ended = n < BLOCK_BYTES;
		if (n < 0) {
			f->error = (int)-n;
		} else {
			f->lengths[at] = (size_t)n;
			f->consumed_for[at] = f->consumed;
			f->filled++;
		}
		pthread_cond_broadcast(&f->changed);
	}
	inflater_unref(f);
}

static int inflater_start(struct call *c, struct inflater *f, int window_log)
{
	f->fd = fcntl((int)c->arg[0].i, F_DUPFD_CLOEXEC, 0);
	if (f->fd < 0)
		return call_fail(c, "dup", errno);
	f->input = malloc(INPUT_BYTES);
	f->blocks = malloc((size_t)BLOCKS * BLOCK_BYTES);
	bool ready = f->input != NULL && f->blocks != NULL;
	if (f->kind == KIND_ZSTD)
		ready = ready && lib.zstd_error_code(lib.zstd_set(f->zstd, ZSTD_WINDOW_LOG_MAX, window_log)) == 0;
	return ready ? 0 : call_fail(c, "inflater", ENOMEM);
}

static struct inflater *inflater_new(int kind)
{
	struct inflater *f = calloc(1, sizeof *f);
	if (f == NULL)
		return NULL;
	f->kind = kind;
	f->fd = -1;
	/* 16: gzip and nothing else. */
	bool made = kind == KIND_GZIP ? lib.inflate_init(&f->gzip, 16 + MAX_WBITS, ZLIB_VERSION, sizeof f->gzip) == Z_OK : (f->zstd = lib.zstd_create()) != NULL;
	if (!made) {
		free(f);
		return NULL;
	}
	f->job.run = inflater_run;
	f->refs = 1;
	pthread_mutex_init(&f->lock, NULL);
	pthread_cond_init(&f->changed, NULL);
	return f;
}

static int inflater_register(struct inflater *f)
{
	int r = -EMFILE;
	pthread_mutex_lock(&table_lock);
	for (int i = 0; i < INFLATERS_MAX && r < 0; i++) {
		if (table[i] == NULL) {
			table[i] = f;
			f->id = ++last_id;
			r = 0;
		}
	}
	pthread_mutex_unlock(&table_lock);
	return r;
}

/* With a reference and its lock held; NULL if there is none of this id. `take` removes it from the table, whose reference comes along. */
static struct inflater *inflater_find(int64_t id, bool take)
{
	struct inflater *found = NULL;
	pthread_mutex_lock(&table_lock);
	for (int i = 0; i < INFLATERS_MAX; i++) {
		if (table[i] == NULL || table[i]->id != id)
			continue;
		found = table[i];
		pthread_mutex_lock(&found->lock);
		if (take)
			table[i] = NULL;
		else
			found->refs++;
	}
	pthread_mutex_unlock(&table_lock);
	return found;
}

int sys_open_inflater(struct call *c)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, find_libraries);
	int kind = c->arg[1].i == KIND_GZIP ? KIND_GZIP : KIND_ZSTD;
	c->absent = !lib.has[kind];
	if (c->absent)
		return 0;
	struct inflater *f = inflater_new(kind);
	if (f == NULL)
		return call_fail(c, "malloc", ENOMEM);
	int r = inflater_start(c, f, (int)c->arg[2].i);
	if (r == 0)
		r = inflater_register(f);
	if (r < 0) {
		inflater_free(f);
		return c->failed != NULL ? r : call_fail(c, "too many inflaters", -r);
	}
	c->number = f->id;
	f->refs++;
	r = jobs_submit(&f->job);
	if (r < 0) {
		pthread_mutex_lock(&f->lock);
		f->refs--;
		pthread_mutex_unlock(&f->lock);
		inflater_unref(inflater_find(c->number, true));
		return call_fail(c, "pthread_create", -r);
	}
	return 0;
}

int sys_read_inflater(struct call *c)
{
	const struct text *into = &c->arg[1].text;
	struct inflater *f = inflater_find(c->arg[0].i, false);
	if (f == NULL)
		return call_fail(c, "inflater", EBADF);
	while (!f->closed && f->read == f->filled && !f->ended)
		pthread_cond_wait(&f->changed, &f->lock);
	int r = 0;
	int64_t result[2] = { 0 };
	if (f->closed) {
		r = call_fail(c, "inflater", ECANCELED);
	} else if (f->read < f->filled) {
		unsigned at = f->read % BLOCKS;
		result[0] = (int64_t)f->lengths[at];
		result[1] = f->consumed_for[at];
		/* The thread leaves a block alone until it is counted as read. */
		if (f->lengths[at] > into->len)
			r = call_fail(c, "inflater", EINVAL);
		else
			memcpy((char *)(uintptr_t)into->data, f->blocks + (size_t)at * BLOCK_BYTES, f->lengths[at]);
		f->read++;
		pthread_cond_broadcast(&f->changed);
	} else if (f->error != 0) {
		snprintf(c->detail, sizeof c->detail, "%s", f->detail);
		r = call_fail(c, "inflate", f->error);
	} else {
		result[1] = f->consumed;
	}
	inflater_unref(f);
	return r < 0 ? r : call_numbers(c, result, 2);
}

int sys_close_inflater(struct call *c)
{
	struct inflater *f = inflater_find(c->arg[0].i, true);
	if (f == NULL)
		return 0;
	f->closed = true;
	pthread_cond_broadcast(&f->changed);
	inflater_unref(f);
	return 0;
}
