/*
 * The addon: a table of functions, arguments from JavaScript, results and errors back to it. No state but per
 * environment, so worker threads may load it too.
 */
#define _GNU_SOURCE
#include <malloc.h>
#include <string.h>
#include <uv.h>

#include "addon.h"

static const struct function functions[] = {
	{ "spawn", "sSSsISiii", 'N', ANYWHERE, sys_spawn },
	{ "openLauncher", "S", 'n', ONLY_ASYNC, sys_open_launcher },
	{ "closeLauncher", "i", 'v', ANYWHERE, sys_close_launcher },
	{ "pidfdOpen", "i", 'n', ANYWHERE, sys_pidfd_open },
	{ "pidfdSignal", "ii", 'v', ANYWHERE, sys_pidfd_signal },
	{ "pidfdReap", "i", 'N', ANYWHERE, sys_pidfd_reap },
	{ "endedChildren", "", 'N', ANYWHERE, sys_ended_children },
	{ "setSubreaper", "", 'v', ANYWHERE, sys_set_subreaper },
	{ "favourThread", "i", 'v', ONLY_SYNC, sys_favour_thread },
	{ "pinNamespaces", "SSsSS", 'v', ONLY_ASYNC, sys_pin_namespaces },
	{ "connectInNetns", "ssi", 'n', ONLY_ASYNC, sys_connect_in_netns },
	{ "connectOutcome", "i", 'v', ANYWHERE, sys_connect_outcome },
	{ "countFds", "I", 'N', ANYWHERE, sys_count_fds },
	{ "userNamespace", "II", 'n', ANYWHERE, sys_user_namespace },
	{ "refuseCall", "i", 'y', ONLY_SYNC, sys_refuse_call },
	{ "forgetUdp", "SI", 'n', ONLY_ASYNC, sys_forget_udp },

	{ "mountFs", "sssiS", 'v', ANYWHERE, sys_mount_fs },
	{ "mountOverlay", "SsssiSii", 'v', ONLY_ASYNC, sys_mount_overlay },
	{ "mountBind", "ssiiiii", 'v', ANYWHERE, sys_mount_bind },
	{ "unmount", "si", 'n', ANYWHERE, sys_unmount },

	{ "pipe", "", 'N', ANYWHERE, sys_pipe },
	{ "socketPair", "i", 'N', ANYWHERE, sys_socket_pair },
	{ "connectUnix", "sii", 'n', ANYWHERE, sys_connect_unix },
	{ "listenUnix", "sii", 'n', ANYWHERE, sys_listen_unix },
	{ "acceptUnix", "i", 'n', ANYWHERE, sys_accept_unix },
	{ "receiveFd", "i", 'n', ANYWHERE, sys_receive_fd },
	{ "read", "ibii", 'n', ONLY_SYNC, sys_read },
	{ "write", "ibii", 'n', ONLY_SYNC, sys_write },
	{ "shutdownWrite", "i", 'v', ANYWHERE, sys_shutdown_write },
	{ "setWindowSize", "iii", 'v', ANYWHERE, sys_set_window_size },
	{ "lock", "i", 'v', ANYWHERE, sys_lock },
	{ "sendDatagram", "bb", 'v', ANYWHERE, sys_send_datagram },
	{ "inotify", "si", 'n', ANYWHERE, sys_inotify },
	{ "close", "i", 'v', ANYWHERE, sys_close },
	{ "readFiles", "Si", 'f', ANYWHERE, sys_read_files },
	{ "readKernelFiles", "SSSi", 'f', ONLY_ASYNC, sys_read_kernel_files },
	{ "openKernelFiles", "SSS", 'N', ONLY_ASYNC, sys_open_kernel_files },
	{ "readOpenFiles", "Ii", 'f', ANYWHERE, sys_read_open_files },
	{ "closeAll", "I", 'v', ANYWHERE, sys_close_all },
	{ "fdPath", "i", 'y', ANYWHERE, sys_fd_path },
	{ "syncFs", "s", 'v', ANYWHERE, sys_sync_fs },
	{ "spreadDirectories", "s", 'n', ANYWHERE, sys_spread_directories },
	{ "statFs", "s", 'N', ANYWHERE, sys_stat_fs },

	{ "openRoot", "s", 'n', ANYWHERE, sys_open_root },
	{ "openAt", "isiii", 'n', ANYWHERE, sys_open_at },
	{ "readFileAt", "isii", 'y', ANYWHERE, sys_read_file_at },
	{ "statAt", "isi", 'N', ANYWHERE, sys_stat_at },
	{ "readLinkAt", "isi", 'y', ANYWHERE, sys_read_link_at },
	{ "makeDirsAt", "isiiii", 'v', ANYWHERE, sys_make_dirs_at },
	{ "writeEntry", "isiiiiiiibIB", 'v', ANYWHERE, sys_write_entry },
	{ "beginFile", "isi", 'n', ANYWHERE, sys_begin_file },
	{ "finishEntry", "iiiiiiB", 'v', ANYWHERE, sys_finish_entry },
	{ "linkAt", "issi", 'v', ANYWHERE, sys_link_at },
	{ "symlinkAt", "issi", 'v', ANYWHERE, sys_symlink_at },
	{ "mknodAt", "isiiii", 'v', ANYWHERE, sys_mknod_at },
	{ "renameAt", "issii", 'v', ANYWHERE, sys_rename_at },
	{ "unlinkAt", "isi", 'n', ANYWHERE, sys_unlink_at },
	{ "chownAt", "isiii", 'v', ANYWHERE, sys_chown_at },
	{ "chmodAt", "isii", 'v', ANYWHERE, sys_chmod_at },
	{ "utimesAt", "isiii", 'v', ANYWHERE, sys_utimes_at },
	{ "setXattrAt", "issbi", 'v', ANYWHERE, sys_set_xattr_at },
	{ "getXattrAt", "issi", 'y', ANYWHERE, sys_get_xattr_at },
	{ "listXattrAt", "isi", 'y', ANYWHERE, sys_list_xattr_at },
	{ "removeXattrAt", "issi", 'v', ANYWHERE, sys_remove_xattr_at },

	{ "listAt", "isi", 'y', ANYWHERE, sys_list_at },
	{ "removeTreeAt", "isi", 'n', ANYWHERE, sys_remove_tree_at },
	{ "copyTree", "isisii", 'v', ANYWHERE, sys_copy_tree },
	{ "treeUsage", "s", 'N', ANYWHERE, sys_tree_usage },
	{ "probe", "si", 'p', ANYWHERE, sys_probe },
	{ "devices", "s", 'p', ANYWHERE, sys_devices },
};

/* Where spawn's launcher is among its arguments. */
#define SPAWN_LAUNCHER_ARG 8

/* --- results
 *
 * In a worker that is being terminated every N-API call fails, and leaves its out-parameter alone: hence NULL
 * everywhere, which N-API refuses.
 */

static napi_value error_value(napi_env env, int err, const char *failed, const char *detail)
{
	char text[512];
	napi_value message = NULL, error = NULL, number = NULL, name = NULL;
	snprintf(text, sizeof text, "%s: %s%s%s", failed, strerror(err), detail[0] != '\0' ? ": " : "", detail);
	napi_create_string_utf8(env, text, NAPI_AUTO_LENGTH, &message);
	napi_create_error(env, NULL, message, &error);
	napi_create_int32(env, err, &number);
	napi_set_named_property(env, error, "errno", number);
	napi_create_string_utf8(env, failed, NAPI_AUTO_LENGTH, &name);
	napi_set_named_property(env, error, "syscall", name);
	return error;
}

void throw_errno(napi_env env, int err, const char *failed, const char *detail)
{
	napi_throw(env, error_value(env, err, failed, detail));
}

static napi_value numbers_value(napi_env env, const struct call *c)
{
	napi_value buffer = NULL, array = NULL;
	void *data = NULL;
	size_t size = c->numbers_count * sizeof *c->numbers;
	napi_create_arraybuffer(env, size, &data, &buffer);
	if (size > 0 && data != NULL)
		memcpy(data, c->numbers, size);
	napi_create_typedarray(env, napi_bigint64_array, c->numbers_count, buffer, 0, &array);
	return array;
}

/*
 * Lengths of files, which fit: an element of such an array is a number that costs nothing, and that of a
 * BigInt64Array is an object.
 */
static napi_value lengths_value(napi_env env, const struct call *c)
{
	napi_value buffer = NULL, array = NULL;
	void *data = NULL;
	napi_create_arraybuffer(env, c->numbers_count * sizeof(int32_t), &data, &buffer);
	for (size_t i = 0; data != NULL && i < c->numbers_count; i++)
		((int32_t *)data)[i] = (int32_t)c->numbers[i];
	napi_create_typedarray(env, napi_int32_array, c->numbers_count, buffer, 0, &array);
	return array;
}

static napi_value bytes_value(napi_env env, const struct call *c)
{
	napi_value buffer = NULL;
	napi_create_buffer_copy(env, c->bytes_count, c->bytes != NULL ? c->bytes : "", NULL, &buffer);
	return buffer;
}

static napi_value result_value(napi_env env, const struct call *c)
{
	napi_value value = NULL;
	if (c->absent || c->function->result == 'v') {
		napi_get_undefined(env, &value);
		return value;
	}
	switch (c->function->result) {
	case 'n':
		napi_create_int64(env, c->number, &value);
		return value;
	case 'N':
		return numbers_value(env, c);
	case 'y':
		return bytes_value(env, c);
	default:
		napi_create_array_with_length(env, 2, &value);
		napi_set_element(env, value, 0, c->function->result == 'f' ? lengths_value(env, c) : numbers_value(env, c));
		napi_set_element(env, value, 1, bytes_value(env, c));
		return value;
	}
}

static const char *call_failed(const struct call *c)
{
	return c->failed != NULL ? c->failed : c->function->name;
}

/* --- synchronous calls */

static napi_value run_sync(napi_env env, napi_callback_info info)
{
	struct call c;
	void *function = NULL;
	napi_value value = NULL;
	napi_get_cb_info(env, info, NULL, NULL, NULL, &function);
	call_init(&c, function);
	int r = args_from(env, info, &c, false);
	if (r == 0)
		r = c.function->run(&c);
	if (r < 0)
		throw_errno(env, -r, call_failed(&c), c.detail);
	else
		value = result_value(env, &c);
	call_free(&c);
	return value;
}

/* --- asynchronous calls
 *
 * The hub carries finished calls back to the environment that made them. It outlives the environment when a
 * call is still stuck in the kernel then; such a call's result is dropped.
 */
struct hub {
	pthread_mutex_t lock;
	struct pending *finished;
	uv_async_t *wake; /* NULL once the environment is gone */
	unsigned refs;
};

struct environment {
	napi_env env;
	struct hub *hub;
	uv_async_t wake;
	struct watches *watches;
	napi_ref resource;
	napi_async_context context;
	unsigned pending;
	unsigned closing;
	napi_async_cleanup_hook_handle cleanup;
};

struct pending {
	struct job job;
	struct pending *next;
	struct hub *hub;
	napi_deferred deferred;
	struct call call;
};

/* Called with the lock held; unlocks. */
static void hub_unref(struct hub *hub)
{
	bool last = --hub->refs == 0;
	pthread_mutex_unlock(&hub->lock);
	if (last) {
		pthread_mutex_destroy(&hub->lock);
		free(hub);
	}
}

static void pending_free(struct pending *p)
{
	call_free(&p->call);
	free(p);
}

static void pending_run(struct job *job)
{
	struct pending *p = (struct pending *)job;
	struct hub *hub = p->hub;
	p->call.error = -p->call.function->run(&p->call);
	pthread_mutex_lock(&hub->lock);
	if (hub->wake == NULL) {
		pending_free(p);
	} else {
		p->next = hub->finished;
		hub->finished = p;
		uv_async_send(hub->wake);
	}
	hub_unref(hub);
}

static void pending_settle(napi_env env, struct pending *p)
{
	napi_handle_scope scope;
	napi_open_handle_scope(env, &scope);
	struct call *c = &p->call;
	if (c->error != 0)
		napi_reject_deferred(env, p->deferred, error_value(env, c->error, call_failed(c), c->detail));
	else
		napi_resolve_deferred(env, p->deferred, result_value(env, c));
	napi_close_handle_scope(env, scope);
}

static struct pending *in_order_of_completion(struct pending *list)
{
	struct pending *ordered = NULL;
	while (list != NULL) {
		struct pending *next = list->next;
		list->next = ordered;
		ordered = list;
		list = next;
	}
	return ordered;
}

static void on_wake(uv_async_t *wake)
{
	struct environment *e = wake->data;
	pthread_mutex_lock(&e->hub->lock);
	struct pending *list = in_order_of_completion(e->hub->finished);
	e->hub->finished = NULL;
	pthread_mutex_unlock(&e->hub->lock);

	napi_handle_scope scope;
	napi_callback_scope callback = NULL;
	napi_value resource = NULL;
	napi_open_handle_scope(e->env, &scope);
	napi_get_reference_value(e->env, e->resource, &resource);
	napi_open_callback_scope(e->env, resource, e->context, &callback);
	for (struct pending *next; list != NULL; list = next) {
		next = list->next;
		pending_settle(e->env, list);
		pending_free(list);
		if (--e->pending == 0)
			uv_unref((uv_handle_t *)&e->wake);
	}
	if (callback != NULL)
		napi_close_callback_scope(e->env, callback); /* Promise reactions run here. */
	napi_close_handle_scope(e->env, scope);
}

static int pending_submit(struct environment *e, struct pending *p)
{
	bool by_launcher = p->call.function->run == sys_spawn && p->call.arg[SPAWN_LAUNCHER_ARG].i != 0;
	p->job.run = pending_run;
	p->hub = e->hub;
	pthread_mutex_lock(&e->hub->lock);
	e->hub->refs++;
	pthread_mutex_unlock(&e->hub->lock);
	int r = by_launcher ? launcher_submit(p->call.arg[SPAWN_LAUNCHER_ARG].i, &p->job) : jobs_submit(&p->job);
	if (r < 0) {
		pthread_mutex_lock(&e->hub->lock);
		hub_unref(e->hub);
		return call_fail(&p->call, by_launcher ? "launcher" : "pthread_create", -r);
	}
	if (e->pending++ == 0)
		uv_ref((uv_handle_t *)&e->wake);
	return 0;
}

static napi_value run_async(napi_env env, napi_callback_info info)
{
	void *function = NULL;
	struct environment *e = NULL;
	napi_value promise = NULL;
	napi_get_cb_info(env, info, NULL, NULL, NULL, &function);
	napi_get_instance_data(env, (void **)&e);
	struct pending *p = malloc(sizeof *p);
	if (p == NULL) {
		throw_errno(env, ENOMEM, "malloc", "");
		return NULL;
	}
	call_init(&p->call, function);
	p->next = NULL;
	napi_create_promise(env, &p->deferred, &promise);
	int r = args_from(env, info, &p->call, true);
	if (r == 0)
		r = pending_submit(e, p);
	if (r < 0) {
		p->call.error = -r;
		pending_settle(env, p);
		pending_free(p);
	}
	return promise;
}

/* --- life of an environment */

static void environment_free(struct environment *e)
{
	napi_remove_async_cleanup_hook(e->cleanup);
	free(e);
}

static void on_closed(struct environment *e)
{
	if (--e->closing == 0)
		environment_free(e);
}

static void on_wake_closed(uv_handle_t *handle)
{
	on_closed(handle->data);
}

static void on_watches_closed(void *e)
{
	on_closed(e);
}

static void environment_close(napi_async_cleanup_hook_handle handle, void *data)
{
	struct environment *e = data;
	(void)handle;
	e->closing = 2;
	struct hub *hub = e->hub;
	pthread_mutex_lock(&hub->lock);
	hub->wake = NULL;
	struct pending *left = hub->finished;
	hub->finished = NULL;
	hub_unref(hub);
	for (struct pending *next; left != NULL; left = next) {
		next = left->next;
		pending_free(left);
	}
	uv_close((uv_handle_t *)&e->wake, on_wake_closed);
	watches_close(e->watches, on_watches_closed, e);
}

static struct environment *environment_new(napi_env env)
{
	uv_loop_t *loop = NULL;
	napi_value resource, name;
	struct environment *e = calloc(1, sizeof *e);
	struct hub *hub = calloc(1, sizeof *hub);
	if (e == NULL || hub == NULL || napi_get_uv_event_loop(env, &loop) != napi_ok)
		goto fail;
	e->watches = watches_new(env, loop);
	if (e->watches == NULL || uv_async_init(loop, &e->wake, on_wake) != 0)
		goto fail;
	e->env = env;
	e->hub = hub;
	e->wake.data = e;
	uv_unref((uv_handle_t *)&e->wake);
	pthread_mutex_init(&hub->lock, NULL);
	hub->wake = &e->wake;
	hub->refs = 1;
	napi_create_object(env, &resource);
	napi_create_reference(env, resource, 1, &e->resource);
	napi_create_string_utf8(env, "berth", NAPI_AUTO_LENGTH, &name);
	napi_async_init(env, resource, name, &e->context);
	napi_add_async_cleanup_hook(env, environment_close, e, &e->cleanup);
	return e;
fail:
	free(e);
	free(hub);
	return NULL;
}

static void define(napi_env env, napi_value exports, const char *name, napi_callback run, void *data)
{
	napi_value function;
	napi_create_function(env, name, NAPI_AUTO_LENGTH, run, data, &function);
	napi_set_named_property(env, exports, name, function);
}

/*
 * glibc's defaults are for speed: up to 16 heaps on two processors, each of which keeps what it ever had; and
 * once a large buffer was freed, the next ones come from these heaps too and are kept. For a daemon that
 * pulls an image now and then that is 20 MB for nothing.
 */
static void keep_memory_small(void)
{
	mallopt(M_ARENA_MAX, 2);
	mallopt(M_MMAP_THRESHOLD, 128 * 1024);
	mallopt(M_TRIM_THRESHOLD, 256 * 1024);
}

NAPI_MODULE_INIT()
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	pthread_once(&once, keep_memory_small);
	struct environment *e = environment_new(env);
	if (e == NULL) {
		throw_errno(env, ENOMEM, "load addon", "");
		return NULL;
	}
	napi_set_instance_data(env, e, NULL, NULL);
	for (size_t i = 0; i < sizeof functions / sizeof *functions; i++) {
		char name[64];
		void *data = (void *)(uintptr_t)&functions[i];
		if (functions[i].place != ONLY_SYNC)
			define(env, exports, functions[i].name, run_async, data);
		snprintf(name, sizeof name, "%sSync", functions[i].name);
		if (functions[i].place != ONLY_ASYNC)
			define(env, exports, name, run_sync, data);
	}
	define(env, exports, "watch", watch_open, e->watches);
	define(env, exports, "arm", watch_arm, e->watches);
	define(env, exports, "unwatch", watch_close, e->watches);
	return exports;
}
