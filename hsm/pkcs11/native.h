/* What this package calls of a module itself, because miekg/pkcs11 would copy a secret (C_Login, C_Sign) or believe a
 * length or count of the module's (C_GetSlotList, C_FindObjects, C_GetAttributeValue). All other calls are miekg's.
 * Types: PKCS#11 2.40, section 3; CK_ULONG is unsigned long. */
#ifndef KEYRACK_NATIVE_H
#define KEYRACK_NATIVE_H

enum { kr_functions = 68, kr_attribute_max = 32 };

/* CK_FUNCTION_LIST, section 5.4: the version, and the functions in the order of pkcs11f.h. */
struct kr_list {
	unsigned char major, minor;
	void *f[kr_functions];
};

/* kr_load returns NULL and the module's functions, or why it is not one, to be freed. */
char *kr_load(const char *path, struct kr_list **list);

unsigned long kr_slots(struct kr_list *l, unsigned long *out, unsigned long *count);
unsigned long kr_login(struct kr_list *l, unsigned long session, unsigned char *pin, unsigned long n);
unsigned long kr_find(struct kr_list *l, unsigned long session, unsigned long *out, unsigned long max, unsigned long *count);
unsigned long kr_sign(struct kr_list *l, unsigned long session, unsigned char *in, unsigned long n, unsigned char *out, unsigned long *len);
unsigned long kr_random(struct kr_list *l, unsigned long session, unsigned char *out, unsigned long n);

/* kr_attributes reads n attributes, each into room bytes of buf; lens takes the lengths that the module tells. */
unsigned long kr_attributes(struct kr_list *l, unsigned long session, unsigned long object, unsigned long *types, unsigned long n,
	unsigned char *buf, unsigned long room, unsigned long *lens);

#endif
