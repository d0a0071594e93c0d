/*
 * Descriptors in the event loop: one uv_poll each, level-triggered, calling back into JavaScript.
 */
#define _GNU_SOURCE
#include <uv.h>

#include "addon.h"

struct watch {
	uv_poll_t poll;
	struct watches *owner;
	struct watch *next, **link;
	napi_ref callback;
	bool closed; /* by JavaScript or by the end of the environment */
};

struct watches {
	napi_env env;
	uv_loop_t *loop;
	napi_async_context context;
	napi_ref resource;
	struct watch *list;
	void (*done)(void *arg);
	void *done_arg;
	unsigned closing;
};

struct watches *watches_new(napi_env env, uv_loop_t *loop)
{
	napi_value resource, name;
	struct watches *w = calloc(1, sizeof *w);
	if (w == NULL)
		return NULL;
	w->env = env;
	w->loop = loop;
	napi_create_object(env, &resource);
	napi_create_reference(env, resource, 1, &w->resource);
	napi_create_string_utf8(env, "berth.watch", NAPI_AUTO_LENGTH, &name);
	napi_async_init(env, resource, name, &w->context);
	return w;
}

static void watches_maybe_done(struct watches *w)
{
	if (w->done == NULL || w->closing > 0)
		return;
	void (*done)(void *) = w->done;
	void *arg = w->done_arg;
	free(w);
	done(arg);
}

static void on_closed(uv_handle_t *handle)
{
	struct watch *watch = handle->data;
	struct watches *w = watch->owner;
	free(watch);
	w->closing--;
	watches_maybe_done(w);
}

/*
 * The JavaScript value may live on; it finds `closed`. The memory goes when both the loop and the collector
 * have let go.
 */
static void watch_stop(struct watch *watch)
{
	if (watch->closed)
		return;
	watch->closed = true;
	*watch->link = watch->next;
	if (watch->next != NULL)
		watch->next->link = watch->link;
	napi_delete_reference(watch->owner->env, watch->callback);
	watch->owner->closing++;
	uv_poll_stop(&watch->poll);
	uv_close((uv_handle_t *)&watch->poll, on_closed);
}

void watches_close(struct watches *w, void (*done)(void *arg), void *arg)
{
	w->done = done;
	w->done_arg = arg;
	while (w->list != NULL)
		watch_stop(w->list);
	watches_maybe_done(w);
}

static void on_event(uv_poll_t *poll, int status, int events)
{
	struct watch *watch = poll->data;
	struct watches *w = watch->owner;
	napi_env env = w->env;
	napi_handle_scope scope;
	napi_value resource = NULL, callback = NULL, argument = NULL;
	/* A hang-up is what a reader reads as the end, and what a writer's next write reports. */
	int ready = (events & UV_READABLE ? 1 : 0) | (events & UV_WRITABLE ? 2 : 0);
	napi_open_handle_scope(env, &scope);
	napi_get_reference_value(env, w->resource, &resource);
	napi_get_reference_value(env, watch->callback, &callback);
	napi_create_int32(env, status < 0 ? status : ready, &argument);
	if (napi_make_callback(env, w->context, resource, callback, 1, &argument, NULL) == napi_pending_exception) {
		napi_value exception = NULL;
		if (napi_get_and_clear_last_exception(env, &exception) == napi_ok && exception != NULL)
			napi_fatal_exception(env, exception);
	}
	napi_close_handle_scope(env, scope);
}

/* JavaScript holds a watch as a box with a pointer that watch_close empties. */
static void box_free(napi_env env, void *data, void *hint)
{
	(void)env;
	(void)hint;
	free(data);
}

static struct watch **box_of(napi_env env, napi_value value)
{
	void *box = NULL;
	if (napi_get_value_external(env, value, &box) != napi_ok)
		return NULL;
	return box;
}

napi_value watch_open(napi_env env, napi_callback_info info)
{
	size_t count = 2;
	napi_value args[2], value;
	void *data = NULL;
	int32_t fd = -1;
	napi_get_cb_info(env, info, &count, args, NULL, &data);
	struct watches *w = data;
	if (count < 2 || napi_get_value_int32(env, args[0], &fd) != napi_ok || fd < 0) {
		throw_errno(env, EBADF, "watch", "");
		return NULL;
	}
	struct watch *watch = calloc(1, sizeof *watch);
	struct watch **box = malloc(sizeof *box);
	if (watch == NULL || box == NULL) {
		free(watch);
		free(box);
		throw_errno(env, ENOMEM, "watch", "");
		return NULL;
	}
	int r = uv_poll_init(w->loop, &watch->poll, fd);
	if (r < 0) {
		free(watch);
		free(box);
		throw_errno(env, -r, "epoll", "");
		return NULL;
	}
	watch->poll.data = watch;
	watch->owner = w;
	watch->next = w->list;
	watch->link = &w->list;
	if (w->list != NULL)
		w->list->link = &watch->next;
	w->list = watch;
	napi_create_reference(env, args[1], 1, &watch->callback);
	*box = watch;
	napi_create_external(env, box, box_free, NULL, &value);
	return value;
}

napi_value watch_arm(napi_env env, napi_callback_info info)
{
	size_t count = 2;
	napi_value args[2];
	int32_t events = 0;
	napi_get_cb_info(env, info, &count, args, NULL, NULL);
	struct watch **box = count == 2 ? box_of(env, args[0]) : NULL;
	if (box == NULL || *box == NULL || napi_get_value_int32(env, args[1], &events) != napi_ok) {
		throw_errno(env, EBADF, "arm", "");
		return NULL;
	}
	int wanted = (events & 1 ? UV_READABLE : 0) | (events & 2 ? UV_WRITABLE : 0);
	int r = wanted == 0 ? uv_poll_stop(&(*box)->poll) : uv_poll_start(&(*box)->poll, wanted, on_event);
	if (r < 0)
		throw_errno(env, -r, "epoll", "");
	return NULL;
}

napi_value watch_close(napi_env env, napi_callback_info info)
{
	size_t count = 1;
	napi_value args[1];
	napi_get_cb_info(env, info, &count, args, NULL, NULL);
	struct watch **box = count == 1 ? box_of(env, args[0]) : NULL;
	if (box == NULL) {
		throw_errno(env, EBADF, "unwatch", "");
		return NULL;
	}
	if (*box != NULL) {
		watch_stop(*box);
		*box = NULL;
	}
	return NULL;
}
