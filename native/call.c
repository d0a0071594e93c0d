/*
 * One call of the addon: its memory, its results, and its arguments from JavaScript.
 */
#define _GNU_SOURCE
#include <stdio.h>
#include <string.h>

#include "addon.h"

/* --- memory and results of a call */

void call_init(struct call *c, const struct function *function)
{
	memset(c, 0, offsetof(struct call, inline_space));
	c->function = function;
	c->inline_at = c->inline_space;
	c->inline_left = sizeof c->inline_space;
}

void call_free(struct call *c)
{
	for (struct block *b = c->blocks, *next; b != NULL; b = next) {
		next = b->next;
		free(b);
	}
	free(c->numbers);
	free(c->bytes);
}

void *call_alloc(struct call *c, size_t size)
{
	size = (size + 15) & ~(size_t)15;
	if (size <= c->inline_left) {
		void *p = c->inline_at;
		c->inline_at += size;
		c->inline_left -= size;
		return p;
	}
	struct block *b = malloc(16 + size);
	if (b == NULL)
		return NULL;
	b->next = c->blocks;
	c->blocks = b;
	return (char *)b + 16;
}

int call_fail(struct call *c, const char *failed, int err)
{
	c->failed = failed;
	return -err;
}

int call_numbers(struct call *c, const int64_t *numbers, size_t count)
{
	c->numbers = malloc(count * sizeof *numbers + 1);
	if (c->numbers == NULL)
		return call_fail(c, "malloc", ENOMEM);
	if (count > 0)
		memcpy(c->numbers, numbers, count * sizeof *numbers);
	c->numbers_count = count;
	return 0;
}

int call_bytes(struct call *c, const void *bytes, size_t count)
{
	c->bytes = malloc(count + 1);
	if (c->bytes == NULL)
		return call_fail(c, "malloc", ENOMEM);
	if (count > 0)
		memcpy(c->bytes, bytes, count);
	c->bytes_count = count;
	return 0;
}

int buffer_add(struct buffer *b, const void *data, size_t len)
{
	if (b->room - b->len < len) {
		size_t room = (b->room + len) * 2;
		char *grown = realloc(b->data, room);
		if (grown == NULL)
			return -ENOMEM;
		b->data = grown;
		b->room = room;
	}
	memcpy(b->data + b->len, data, len);
	b->len += len;
	return 0;
}

/* --- arguments */

/*
 * Strings are copied, in UTF-8 and NUL-terminated; bytes are borrowed unless `copy` (they move when
 * JavaScript runs on).
 */
static int text_from(napi_env env, struct call *c, napi_value value, bool bytes_allowed, bool copy, struct text *ret)
{
	napi_valuetype type = napi_undefined;
	napi_typeof(env, value, &type);
	if (type == napi_string) {
		size_t len = 0;
		if (c->inline_left > 16) {
			napi_get_value_string_utf8(env, value, c->inline_at, c->inline_left, &len);
			/* A cut string fills the space up to a whole character: then there may be more of it. */
			if (len + 5 <= c->inline_left) {
				ret->data = call_alloc(c, len + 1);
				ret->len = len;
				return 0;
			}
		}
		napi_get_value_string_utf8(env, value, NULL, 0, &len);
		char *data = call_alloc(c, len + 1);
		if (data == NULL)
			return -ENOMEM;
		napi_get_value_string_utf8(env, value, data, len + 1, &len);
		*ret = (struct text){ data, len };
		return 0;
	}
	bool is_array = false;
	void *data = NULL;
	size_t len = 0;
	napi_is_typedarray(env, value, &is_array);
	if (!is_array || napi_get_typedarray_info(env, value, NULL, &len, &data, NULL, NULL) != napi_ok)
		return -EINVAL;
	if (bytes_allowed && !copy) {
		*ret = (struct text){ data, len };
		return 0;
	}
	char *copied = call_alloc(c, len + 1);
	if (copied == NULL)
		return -ENOMEM;
	if (len > 0)
		memcpy(copied, data, len);
	copied[len] = '\0';
	*ret = (struct text){ copied, len };
	return 0;
}

static int name_from(napi_env env, struct call *c, napi_value value, struct text *ret)
{
	int r = text_from(env, c, value, false, true, ret);
	if (r == 0 && memchr(ret->data, '\0', ret->len) != NULL)
		r = -EINVAL;
	return r;
}

static int list_from(napi_env env, struct call *c, napi_value value, char letter, struct arg *ret)
{
	uint32_t count = 0;
	if (napi_get_array_length(env, value, &count) != napi_ok)
		return -EINVAL;
	struct text *list = call_alloc(c, (count + 1) * sizeof *list);
	if (list == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		napi_value each = NULL;
		napi_get_element(env, value, i, &each);
		int r = letter == 'S' ? name_from(env, c, each, &list[i]) : text_from(env, c, each, false, true, &list[i]);
		if (r < 0)
			return r;
	}
	ret->list = list;
	ret->count = count;
	return 0;
}

/* A typed array is read in place: an element of an ordinary one takes two calls into the engine. */
static int numbers_from_typed(napi_env env, struct call *c, napi_value value, struct arg *ret)
{
	napi_typedarray_type type = napi_int8_array;
	size_t count = 0;
	void *data = NULL;
	if (napi_get_typedarray_info(env, value, &type, &count, &data, NULL, NULL) != napi_ok || type != napi_int32_array)
		return -EINVAL;
	int64_t *numbers = call_alloc(c, (count + 1) * sizeof *numbers);
	if (numbers == NULL)
		return -ENOMEM;
	for (size_t i = 0; i < count; i++)
		numbers[i] = ((const int32_t *)data)[i];
	ret->numbers = numbers;
	ret->count = count;
	return 0;
}

static int numbers_from(napi_env env, struct call *c, napi_value value, struct arg *ret)
{
	uint32_t count = 0;
	bool typed = false;
	if (napi_is_typedarray(env, value, &typed) == napi_ok && typed)
		return numbers_from_typed(env, c, value, ret);
	if (napi_get_array_length(env, value, &count) != napi_ok)
		return -EINVAL;
	int64_t *numbers = call_alloc(c, (count + 1) * sizeof *numbers);
	if (numbers == NULL)
		return -ENOMEM;
	for (uint32_t i = 0; i < count; i++) {
		napi_value each = NULL;
		napi_get_element(env, value, i, &each);
		if (napi_get_value_int64(env, each, &numbers[i]) != napi_ok)
			return -EINVAL;
	}
	ret->numbers = numbers;
	ret->count = count;
	return 0;
}

static int arg_from(napi_env env, struct call *c, char letter, napi_value value, bool copy, struct arg *ret)
{
	switch (letter) {
	case 'i':
		return napi_get_value_int64(env, value, &ret->i) == napi_ok ? 0 : -EINVAL;
	case 's':
		return name_from(env, c, value, &ret->text);
	case 'b':
		return text_from(env, c, value, true, copy, &ret->text);
	case 'I':
		return numbers_from(env, c, value, ret);
	default:
		return list_from(env, c, value, letter, ret);
	}
}

int args_from(napi_env env, napi_callback_info info, struct call *c, bool copy)
{
	napi_value values[ARGS_MAX];
	size_t count = ARGS_MAX;
	napi_get_cb_info(env, info, &count, values, NULL, NULL);
	size_t wanted = strlen(c->function->args);
	if (count != wanted)
		return call_fail(c, "wrong number of arguments", EINVAL);
	for (size_t i = 0; i < wanted; i++) {
		int r = arg_from(env, c, c->function->args[i], values[i], copy, &c->arg[i]);
		if (r < 0) {
			snprintf(c->detail, sizeof c->detail, "argument %zu", i + 1);
			return call_fail(c, c->function->name, -r);
		}
	}
	return 0;
}
