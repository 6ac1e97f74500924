//go:build cgo

#define _GNU_SOURCE
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "native.h"

typedef unsigned long rv;

/* Places in the function list. */
enum {
	f_GetSlotList = 4, f_Login = 18, f_GetAttributeValue = 24, f_FindObjects = 27, f_Sign = 43, f_GenerateRandom = 64,
};

/* Every function that the package calls, also through miekg. */
static const int used[] = {0, 1, 2, 4, 6, 8, 12, 13, 18, 19, 22, 24, 26, 27, 28, 42, 43, 58, 59, 64};

/* readable tells whether n bytes at p can be read: the kernel copies them, or says EFAULT. */
static int readable(const void *p, size_t n)
{
	int ends[2], ok;
	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) != 0)
		return 0;
	ok = write(ends[1], p, n) == (ssize_t)n;
	close(ends[0]);
	close(ends[1]);
	return ok;
}

static char *why(const char *format, const char *what)
{
	char *text = malloc(1024);
	if (text)
		snprintf(text, 1024, format, what);
	return text;
}

char *kr_load(const char *path, struct kr_list **list)
{
	void *handle = dlopen(path, RTLD_NOW | RTLD_LOCAL);
	rv (*get)(struct kr_list **);
	char text[64];
	struct kr_list *l = NULL;
	Dl_info info;
	rv r;
	size_t i;

	if (!handle)
		return why("%s", dlerror());
	get = (rv(*)(struct kr_list **))dlsym(handle, "C_GetFunctionList");
	if (!get)
		return why("it is a library, but no PKCS#11 module: it has no %s", "C_GetFunctionList");
	if ((r = get(&l)) != 0) {
		snprintf(text, sizeof text, "%#lx", r);
		return why("its C_GetFunctionList returns %s", text);
	}
	if (!l || (unsigned long)l % sizeof(void *) || !readable(l, sizeof *l))
		return why("its %s is garbage", "function list");
	if (l->major < 2 || l->major > 3) {
		snprintf(text, sizeof text, "%d.%d", l->major, l->minor);
		return why("it speaks Cryptoki %s, not 2.x or 3.x", text);
	}
	for (i = 0; i < sizeof used / sizeof *used; i++)
		if (!l->f[used[i]] || !dladdr(l->f[used[i]], &info)) {
			snprintf(text, sizeof text, "%d", used[i]);
			return why("entry %s of its function list is no function", text);
		}
	*list = l;
	return NULL;
}

rv kr_slots(struct kr_list *l, rv *out, rv *count)
{
	return ((rv(*)(unsigned char, rv *, rv *))l->f[f_GetSlotList])(1, out, count);
}

rv kr_login(struct kr_list *l, rv session, unsigned char *pin, rv n)
{
	return ((rv(*)(rv, rv, unsigned char *, rv))l->f[f_Login])(session, 1 /* CKU_USER */, pin, n);
}

rv kr_find(struct kr_list *l, rv session, rv *out, rv max, rv *count)
{
	return ((rv(*)(rv, rv *, rv, rv *))l->f[f_FindObjects])(session, out, max, count);
}

rv kr_sign(struct kr_list *l, rv session, unsigned char *in, rv n, unsigned char *out, rv *len)
{
	return ((rv(*)(rv, unsigned char *, rv, unsigned char *, rv *))l->f[f_Sign])(session, in, n, out, len);
}

rv kr_random(struct kr_list *l, rv session, unsigned char *out, rv n)
{
	return ((rv(*)(rv, unsigned char *, rv))l->f[f_GenerateRandom])(session, out, n);
}

rv kr_attributes(struct kr_list *l, rv session, rv object, rv *types, rv n, unsigned char *buf, rv room, rv *lens)
{
	struct { rv type; void *value; rv len; } a[kr_attribute_max]; /* CK_ATTRIBUTE */
	rv i, r;

	if (n > kr_attribute_max)
		return 7; /* CKR_ARGUMENTS_BAD */
	for (i = 0; i < n; i++) {
		a[i].type = types[i];
		a[i].value = buf + i * room;
		a[i].len = room;
	}
	r = ((rv(*)(rv, rv, void *, rv))l->f[f_GetAttributeValue])(session, object, a, n);
	for (i = 0; i < n; i++)
		lens[i] = a[i].len;
	return r;
}
