/*
 * The kernel's table of connections (conntrack), through netlink: no tool for it need be installed.
 */
#define _GNU_SOURCE
#include <arpa/inet.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/netfilter/nfnetlink_conntrack.h>
#include <linux/netlink.h>
#include <netinet/in.h>
#include <string.h>
#include <sys/socket.h>

#include "addon.h"

/* The kernel fills 32 KiB at most per message of a dump; requests of ours have some hundred bytes. */
#define ANSWER_BYTES (64 * 1024)
#define REQUEST_BYTES 512
/* NLA_HDRLEN and NLA_ALIGN without their signs. */
#define ATTR_HEADER sizeof(struct nlattr)
#define ATTR_ALIGN(len) (((size_t)(len) + 3) & ~(size_t)3)

struct flow_end {
	uint8_t address[16];
	uint8_t len; /* 4 or 16 */
	uint16_t port; /* network byte order */
};

struct request {
	struct nlmsghdr header;
	struct nfgenmsg family;
	char attributes[REQUEST_BYTES];
};

/* The attribute of this type among `len` bytes of them; NULL if there is none. */
static const struct nlattr *find(const void *from, size_t len, int type)
{
	const char *at = from;
	while (len >= ATTR_HEADER) {
		const struct nlattr *attr = (const void *)at;
		size_t whole = ATTR_ALIGN(attr->nla_len);
		if (attr->nla_len < ATTR_HEADER || attr->nla_len > len)
			return NULL;
		if ((attr->nla_type & NLA_TYPE_MASK) == type)
			return attr;
		if (whole >= len)
			return NULL;
		at += whole;
		len -= whole;
	}
	return NULL;
}

static const struct nlattr *find_in(const struct nlattr *outer, int type)
{
	return outer == NULL ? NULL : find((const char *)outer + ATTR_HEADER, (size_t)outer->nla_len - ATTR_HEADER, type);
}

static bool has_bytes(const struct nlattr *attr, const void *wanted, size_t len)
{
	return attr != NULL && attr->nla_len == ATTR_HEADER + len &&
	       memcmp((const char *)attr + ATTR_HEADER, wanted, len) == 0;
}

/* True if the flow's first packet was UDP to one of these. */
static bool leads_to(const struct nlattr *tuple, const struct flow_end *ends, size_t count)
{
	const uint8_t udp = IPPROTO_UDP;
	const struct nlattr *proto = find_in(tuple, CTA_TUPLE_PROTO);
	const struct nlattr *ip = find_in(tuple, CTA_TUPLE_IP);
	const struct nlattr *port = find_in(proto, CTA_PROTO_DST_PORT);
	if (!has_bytes(find_in(proto, CTA_PROTO_NUM), &udp, sizeof udp))
		return false;
	for (size_t i = 0; i < count; i++) {
		const struct nlattr *address = find_in(ip, ends[i].len == 4 ? CTA_IP_V4_DST : CTA_IP_V6_DST);
		if (has_bytes(port, &ends[i].port, sizeof ends[i].port) && has_bytes(address, ends[i].address, ends[i].len))
			return true;
	}
	return false;
}

static void request_begin(struct request *r, int message, int flags, uint8_t family)
{
	memset(r, 0, sizeof *r);
	r->header.nlmsg_len = NLMSG_LENGTH(sizeof r->family);
	r->header.nlmsg_type = (uint16_t)(NFNL_SUBSYS_CTNETLINK << 8 | message);
	r->header.nlmsg_flags = (uint16_t)(NLM_F_REQUEST | flags);
	r->family.nfgen_family = family;
	r->family.version = NFNETLINK_V0;
}

static void request_copy(struct request *r, const struct nlattr *attr)
{
	size_t used = r->header.nlmsg_len - NLMSG_LENGTH(sizeof r->family);
	uint32_t size = attr == NULL ? 0 : (uint32_t)ATTR_ALIGN(attr->nla_len);
	if (size == 0 || used + size > sizeof r->attributes)
		return;
	memcpy(r->attributes + used, attr, attr->nla_len);
	r->header.nlmsg_len += size;
}

static int request_send(int fd, const struct request *r)
{
	return send(fd, r, r->header.nlmsg_len, 0) < 0 ? -errno : 0;
}

/* Keeps a request for the deletion of exactly this flow. */
static int keep_deletion(struct buffer *deletions, const struct nfgenmsg *flow, const void *attributes, size_t len)
{
	struct request r;
	request_begin(&r, IPCTNL_MSG_CT_DELETE, NLM_F_ACK, flow->nfgen_family);
	request_copy(&r, find(attributes, len, CTA_TUPLE_ORIG));
	request_copy(&r, find(attributes, len, CTA_ID));
	request_copy(&r, find(attributes, len, CTA_ZONE));
	/*
	 * Whoever floods a port decides how many flows there are: no more of each than is sent, at the
	 * kernel's alignment.
	 */
	return buffer_add(deletions, &r, NLMSG_ALIGN(r.header.nlmsg_len));
}

/* One message of the dump. 1 at its end. */
static int on_message(const struct nlmsghdr *message, const struct flow_end *ends, size_t count,
		      struct buffer *deletions)
{
	if (message->nlmsg_type == NLMSG_DONE)
		return 1;
	if (message->nlmsg_type == NLMSG_ERROR)
		return message->nlmsg_len < NLMSG_LENGTH(sizeof(struct nlmsgerr))
			       ? -EPROTO
			       : ((const struct nlmsgerr *)NLMSG_DATA(message))->error;
	if (message->nlmsg_len < NLMSG_LENGTH(sizeof(struct nfgenmsg)))
		return -EPROTO;
	const char *attributes = (const char *)message + NLMSG_LENGTH(sizeof(struct nfgenmsg));
	size_t len = message->nlmsg_len - NLMSG_LENGTH(sizeof(struct nfgenmsg));
	if (!leads_to(find(attributes, len, CTA_TUPLE_ORIG), ends, count))
		return 0;
	return keep_deletion(deletions, NLMSG_DATA(message), attributes, len);
}

static int collect(int fd, const struct flow_end *ends, size_t count, struct buffer *deletions)
{
	struct request dump;
	request_begin(&dump, IPCTNL_MSG_CT_GET, NLM_F_DUMP, AF_UNSPEC);
	int r = request_send(fd, &dump);
	CLEAN_PTR char *answer = malloc(ANSWER_BYTES);
	if (answer == NULL)
		return -ENOMEM;
	while (r == 0) {
		ssize_t len = recv(fd, answer, ANSWER_BYTES, 0);
		if (len <= 0)
			return len < 0 ? -errno : -EPROTO;
		size_t left = (size_t)len;
		for (const struct nlmsghdr *at = (const void *)answer; r == 0 && NLMSG_OK(at, left); at = NLMSG_NEXT(at, left))
			r = on_message(at, ends, count, deletions);
	}
	return r < 0 ? r : 0;
}

/* 1 if the flow was there. */
static int delete_one(int fd, const struct request *deletion)
{
	union {
		struct nlmsghdr header;
		char bytes[NLMSG_SPACE(sizeof(struct nlmsgerr)) + sizeof(struct request)];
	} answer;
	int r = request_send(fd, deletion);
	if (r < 0)
		return r;
	ssize_t len = recv(fd, &answer, sizeof answer, 0);
	if (len < 0)
		return -errno;
	if ((size_t)len < NLMSG_LENGTH(sizeof(struct nlmsgerr)) || answer.header.nlmsg_type != NLMSG_ERROR)
		return -EPROTO;
	r = ((const struct nlmsgerr *)NLMSG_DATA(&answer.header))->error;
	return r == 0 ? 1 : r == -ENOENT ? 0 : r;
}

static int parse_ends(struct call *c, struct flow_end **ret)
{
	size_t count = c->arg[0].count;
	struct flow_end *ends = call_alloc(c, (count + 1) * sizeof *ends);
	if (ends == NULL)
		return call_fail(c, "malloc", ENOMEM);
	if (c->arg[1].count != count)
		return call_fail(c, "addresses and ports", EINVAL);
	for (size_t i = 0; i < count; i++) {
		const char *text = c->arg[0].list[i].data;
		int64_t port = c->arg[1].numbers[i];
		ends[i].len = strchr(text, ':') != NULL ? 16 : 4;
		ends[i].port = htons((uint16_t)port);
		if (port < 1 || port > 65535 || inet_pton(ends[i].len == 16 ? AF_INET6 : AF_INET, text, ends[i].address) != 1)
			return call_fail(c, "inet_pton", EINVAL);
	}
	*ret = ends;
	return 0;
}

int sys_forget_udp(struct call *c)
{
	struct flow_end *ends = NULL;
	CLEAN_BUFFER deletions = { 0 };
	int r = parse_ends(c, &ends);
	if (r < 0)
		return r;
	CLEAN_FD fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_NETFILTER);
	if (fd < 0)
		return call_fail(c, "socket", errno);
	r = collect(fd, ends, c->arg[0].count, &deletions);
	if (r < 0)
		return call_fail(c, "list flows", -r);
	for (size_t at = 0, len; at < deletions.len; at += NLMSG_ALIGN(len)) {
		len = ((const struct nlmsghdr *)(const void *)(deletions.data + at))->nlmsg_len;
		r = delete_one(fd, (const struct request *)(const void *)(deletions.data + at));
		if (r < 0)
			return call_fail(c, "delete flow", -r);
		c->number += r;
	}
	return 0;
}
